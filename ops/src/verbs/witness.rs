//! `saola witness status`: the node that votes, keeps the sealed log, and serves nobody.

use saola_client::Client;
use saola_client::proto::{NodeStatus, Role, StatusResponse};
use serde_json::json;

use super::verdict::is_out;
use super::view::cluster_view;
use crate::exit::{Exit, Failure};
use crate::output::{Format, grouped, print_json, print_line, size};

/// Prints it; exit 0 if it does its part, else 5.
///
/// # Errors
/// No node that answers, or a cluster without a witness.
pub async fn status(client: &Client, format: Format) -> Result<Exit, Failure> {
    let status = cluster_view(client).await?;
    let is_witness = |node: &&NodeStatus| node.member.as_ref().is_some_and(|it| it.role() == Role::Witness);
    let Some(witness) = status.nodes.iter().find(is_witness) else {
        let next = "with two sites a witness at a third place lets one take over by itself: `saola cluster add --role witness`";
        return Err(Failure::new(Exit::Precondition, "this cluster has no witness", next));
    };
    let healthy = witness.reachable && !is_out(witness) && !released(&status);
    match format {
        Format::Table => print_line(screen(&status, witness))?,
        Format::Json => print_json(
            "witness",
            json!({
                "name": witness.member.as_ref().map(|it| &it.name), "site": witness.member.as_ref().map(|it| &it.site),
                "reachable": witness.reachable, "error": witness.error, "state": witness.state,
                "last_log_index": witness.last_log_index, "log_first_index": witness.log_first_index,
                "log_bytes": witness.log_bytes, "log_keep_bytes": witness.log_keep_bytes,
                "disk_free_bytes": witness.disk_free_bytes, "rss_bytes": witness.rss_bytes,
                "keys_open": witness.keys_open, "released": released(&status),
            }),
        )?,
    }
    Ok(if healthy { Exit::Done } else { Exit::Degraded })
}

fn released(status: &StatusResponse) -> bool {
    status.protection_status.as_ref().is_some_and(|stand| stand.witness_released)
}

/// As people read it.
fn screen(status: &StatusResponse, witness: &NodeStatus) -> String {
    let member = witness.member.clone().unwrap_or_default();
    if !witness.reachable {
        return format!(
            "witness    {} at {} does not answer: {}\nnext       start it, or replace it with `saola cluster replace {}`",
            member.name, member.site, witness.error, member.name
        );
    }
    let last = status.nodes.iter().map(|node| node.last_log_index).max().unwrap_or(0);
    let behind = last.saturating_sub(witness.last_log_index);
    let mut lines = vec![
        format!("witness    {} at {}: {}, {} entries behind", member.name, member.site, witness.state, grouped(behind)),
        format!(
            "log        entries {} to {}, {} of {}",
            grouped(witness.log_first_index),
            grouped(witness.last_log_index),
            size(witness.log_bytes),
            size(witness.log_keep_bytes)
        ),
        format!(
            "memory     {}; disk free {}; keys {}",
            size(witness.rss_bytes),
            size(witness.disk_free_bytes),
            witness.keys_open
        ),
    ];
    if released(status) {
        lines.push(
            "attention  it had no room and has forgotten entries that a data node lacks: losing the site that leads may lose \
             data; bring that node back or remove it (`saola status`)"
                .to_owned(),
        );
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use saola_client::proto::{Member, ProtectionStatus};

    use super::*;

    #[test]
    fn the_screen_shows_what_it_keeps_and_what_it_had_to_forget() {
        let member = Member { name: "witness".into(), site: "third".into(), ..Member::default() };
        let mut witness = NodeStatus {
            member: Some(member),
            reachable: true,
            state: "witness".into(),
            last_log_index: 1_200,
            log_first_index: 100,
            ..NodeStatus::default()
        };
        let leader = NodeStatus { last_log_index: 1_250, ..NodeStatus::default() };
        let mut status = StatusResponse { nodes: vec![leader, witness.clone()], ..StatusResponse::default() };
        let shown = screen(&status, &witness);
        assert!(shown.contains("witness, 50 entries behind") && shown.contains("entries 100 to 1,200"), "{shown}");
        assert!(!shown.contains("attention"), "{shown}");
        status.protection_status = Some(ProtectionStatus { witness_released: true, ..ProtectionStatus::default() });
        assert!(screen(&status, &witness).contains("attention  it had no room"));
        witness.reachable = false;
        assert!(screen(&status, &witness).contains("does not answer"));
    }
}

//! `saola scrub …`: check every copy of the records, see what is known of them, name a bad one.

use std::time::Duration;

use saola_client::Client;
use saola_client::proto::{CopyStatus, NodeStatus, StatusResponse};
use serde_json::{Value, json};

use super::cluster::{confirmed, find_node};
use super::view::cluster_view;
use crate::cli::ScrubVerb;
use crate::exit::{Exit, Failure, doing};
use crate::output::{Format, grouped, print_json, print_line, size, table};

/// How often progress is asked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Runs a verb on the copies.
///
/// # Errors
/// An unknown node, a refused confirmation, or a failed call.
pub async fn scrub(client: &Client, verb: ScrubVerb, format: Format) -> Result<Exit, Failure> {
    match verb {
        ScrubVerb::Start { node, wait } => start(client, &node, wait, format).await,
        ScrubVerb::Status => print_copies(&cluster_view(client).await?, format),
        ScrubVerb::Repair { node, confirm } => {
            let status = cluster_view(client).await?;
            let named = find_node(&status, &node)?;
            let what = format!("replace the records of node {}", named.name);
            confirmed(&status, &what, confirm).await?;
            client.repair_copy(named.node_id).await.map_err(doing(what))?;
            eprintln!("node {} replaces its records; `saola scrub status` shows how it goes", named.name);
            print_copies(&cluster_view(client).await?, format)
        }
    }
}

async fn start(client: &Client, nodes: &[String], wait: bool, format: Format) -> Result<Exit, Failure> {
    let before = cluster_view(client).await?;
    let named = nodes.iter().map(|node| find_node(&before, node).map(|member| member.node_id));
    let reply = client.start_scrub(named.collect::<Result<Vec<u64>, Failure>>()?).await;
    let reply = reply.map_err(doing("start a scrub".to_owned()))?;
    reply.errors.iter().for_each(|error| eprintln!("attention: {error}"));
    let mut status = cluster_view(client).await?;
    let under_way = |status: &StatusResponse| {
        let waited_for = |node: &&NodeStatus| reply.node_ids.contains(&id(node)) && node.reachable;
        status.nodes.iter().filter(waited_for).any(|node| passes(node) <= passes_of(&before, id(node)))
    };
    while wait && under_way(&status) {
        let running = status.nodes.iter().filter_map(|node| Some((name(node), node.copy.as_ref()?)));
        let running = running.filter(|(_, copy)| copy.scrub_running);
        let shown: Vec<String> = running.map(|(name, copy)| format!("{name} {}", progress(copy))).collect();
        eprintln!("{}", if shown.is_empty() { "waiting for the nodes".to_owned() } else { shown.join("   ") });
        tokio::time::sleep(LOOK_EVERY).await;
        status = cluster_view(client).await?;
    }
    let exit = print_copies(&status, format)?;
    Ok(if reply.errors.is_empty() || exit != Exit::Done { exit } else { Exit::Degraded })
}

fn id(node: &NodeStatus) -> u64 {
    node.member.as_ref().map_or(0, |member| member.node_id)
}

fn name(node: &NodeStatus) -> &str {
    node.member.as_ref().map_or("", |member| &member.name)
}

fn passes(node: &NodeStatus) -> u64 {
    node.copy.as_ref().map_or(0, |copy| copy.scrub_passes)
}

fn passes_of(status: &StatusResponse, node_id: u64) -> u64 {
    status.nodes.iter().find(|node| id(node) == node_id).map_or(0, passes)
}

fn progress(copy: &CopyStatus) -> String {
    let (read, total) = (copy.scrub_read_bytes, copy.scrub_total_bytes.max(1));
    let tenths = (10 * read / total).min(10) as usize;
    format!("[{:<10}] {} of about {}", "=".repeat(tenths), size(read), size(total))
}

/// What a copy is like, in one word or two.
fn state(copy: &CopyStatus) -> String {
    match copy {
        CopyStatus { repairing_from: from @ 1.., .. } => format!("repairs from node {from}"),
        CopyStatus { bad: true, .. } => "bad, not served".to_owned(),
        CopyStatus { quarantined_buckets: count @ 1.., .. } => format!("{count} of 4096 parts not served"),
        CopyStatus { alarm, .. } if !alarm.is_empty() => "damaged rows".to_owned(),
        _ => "sound".to_owned(),
    }
}

fn print_copies(status: &StatusResponse, format: Format) -> Result<Exit, Failure> {
    let copies: Vec<(&NodeStatus, &CopyStatus)> =
        status.nodes.iter().filter_map(|node| Some((node, node.copy.as_ref()?))).collect();
    let alarm = copies.iter().any(|(_, copy)| !copy.alarm.is_empty());
    match format {
        Format::Json => {
            let copy =
                |(node, copy): &(&NodeStatus, &CopyStatus)| json!({"node": name(node), "copy": copy_document(copy)});
            print_json("scrub", json!({"copies": copies.iter().map(copy).collect::<Vec<Value>>()}))?;
        }
        Format::Table => {
            let row = |(node, copy): &(&NodeStatus, &CopyStatus)| {
                let scrub = match (copy.scrub_running, copy.scrub_passes) {
                    (true, _) => progress(copy),
                    (false, 0) => "none since the start".to_owned(),
                    (false, _) => format!("{} rows, {}", grouped(copy.last_rows), size(copy.last_bytes)),
                };
                let counts = [copy.scrub_passes, copy.damaged_rows, copy.repairs].map(grouped);
                [vec![name(node).to_owned(), state(copy), scrub], counts.to_vec()].concat()
            };
            let heading = ["NODE", "COPY", "LAST SCRUB", "PASSES", "DAMAGED", "REPAIRS"];
            print_line(table(&heading, &[3, 4, 5], copies.iter().map(row).collect()))?;
            for (node, copy) in copies.iter().filter(|(_, copy)| !copy.alarm.is_empty()) {
                print_line(format!("attention   node {}: {}", name(node), copy.alarm))?;
            }
        }
    }
    Ok(if alarm { Exit::Verification } else { Exit::Done })
}

/// A copy as JSON.
pub fn copy_document(copy: &CopyStatus) -> Value {
    json!({
        "state": state(copy), "bad": copy.bad, "quarantined_buckets": copy.quarantined_buckets,
        "repairing_from": (copy.repairing_from != 0).then_some(copy.repairing_from), "alarm": copy.alarm,
        "scrub_running": copy.scrub_running, "scrub_read_bytes": copy.scrub_read_bytes,
        "scrub_total_bytes": copy.scrub_total_bytes, "scrub_passes": copy.scrub_passes,
        "damaged_rows": copy.damaged_rows, "repairs": copy.repairs,
        "last_rows": copy.last_rows, "last_bytes": copy.last_bytes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_described_by_what_matters_most() {
        let sound = CopyStatus::default();
        assert_eq!(state(&sound), "sound");
        let tie = CopyStatus { quarantined_buckets: 3, alarm: "copies differ".into(), ..sound.clone() };
        assert_eq!(state(&tie), "3 of 4096 parts not served");
        let bad = CopyStatus { bad: true, ..tie };
        assert_eq!(state(&bad), "bad, not served");
        assert_eq!(state(&CopyStatus { repairing_from: 2, ..bad }), "repairs from node 2");
        let half = CopyStatus { scrub_read_bytes: 512, scrub_total_bytes: 1024, ..sound };
        assert!(progress(&half).starts_with("[=====     ] "), "{}", progress(&half));
    }
}

//! `saola status`: one glance at who leads, how every node fares, and what the loss of a site would cost.

use std::io::IsTerminal;
use std::time::Duration;

use saola_client::Client;
use saola_client::proto::{Member, NodeStatus, Role, StatusResponse};
use serde_json::{Value, json};

use super::scrub::copy_document;
use super::verdict::{Verdict, is_protected, verdict, without_quorum};
use super::view::cluster_view;
use super::{failover, goal, links, protection};
use crate::exit::{Exit, Failure};
use crate::output::{Format, grouped, hex, print_json, print_line, size, table};
use crate::time;

const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Prints the cluster's status, once or again and again.
///
/// # Errors
/// No node that answers; while watching this is shown and tried again.
pub async fn status(client: &Client, watch: bool, format: Format) -> Result<Exit, Failure> {
    if !watch {
        let status = cluster_view(client).await?;
        let verdict = verdict(&status);
        print(&status, &verdict, drills(client, &status).await, format)?;
        return Ok(verdict.exit);
    }
    let mut again = tokio::time::interval(WATCH_EVERY);
    loop {
        again.tick().await;
        let result = cluster_view(client).await;
        if format == Format::Table && std::io::stdout().is_terminal() {
            // Clears the screen and goes to its top.
            print_line("\x1b[2J\x1b[H")?;
        }
        match result {
            Ok(status) => print(&status, &verdict(&status), drills(client, &status).await, format)?,
            Err(failure) => eprintln!("{failure}"),
        }
    }
}

/// What is to be said of drills, where there is a second site to rehearse the loss of the first with.
#[cfg(feature = "offline")]
async fn drills(client: &Client, status: &StatusResponse) -> Option<String> {
    let two_sites = status.sites.iter().filter(|site| site.data_nodes > 0).count() > 1;
    let asked = two_sites && without_quorum(status).is_none();
    if asked { crate::drill::archive::glance(client).await.map(|glance| glance.line()) } else { None }
}

#[cfg(not(feature = "offline"))]
async fn drills(_: &Client, _: &StatusResponse) -> Option<String> {
    None
}

fn print(status: &StatusResponse, verdict: &Verdict, drills: Option<String>, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => {
            let mut document = document(status, verdict);
            document["drills"] = json!(drills);
            print_json("status", document)
        }
        Format::Table => print_line(screen(status, verdict, drills.as_deref())),
    }
}

/// The status as people read it.
pub fn screen(status: &StatusResponse, verdict: &Verdict, drills: Option<&str>) -> String {
    let header = status.header.unwrap_or_default();
    let id: String = hex(&status.cluster_id).chars().take(8).collect();
    let mut lines = vec![
        format!(
            "cluster     {} ({id})  topology {}  epoch {}  {}",
            status.cluster_name,
            status.topology,
            header.epoch,
            verdict.word()
        ),
        format!("leader      {}, term {}", leader(status), status.term),
        format!(
            "data        {} records  {} versions  revision {}",
            grouped(status.records),
            grouped(status.versions),
            grouped(header.revision)
        ),
        format!("protection  {}", status.protection),
        format!("            {}", protection::figures(status)),
    ];
    for site in &status.sites {
        let nodes = match site.is_witness_site {
            true => "witness".to_owned(),
            false => format!("{} of {} data nodes current", site.data_nodes_current, site.data_nodes),
        };
        let protection = match is_protected(site) {
            true => "protected: losing it now loses no acknowledged write",
            false => &site.protection,
        };
        lines.push(format!("site        {}: {nodes}; {protection}", site.name));
    }
    lines.extend(links::line(status).map(|line| format!("links       {line}")));
    lines.extend(drills.map(|line| format!("drills      {line}")));
    lines.extend(verdict.notes.iter().map(|note| format!("attention   {note}")));
    lines.push(String::new());
    lines.push(nodes_table(status));
    lines.join("\n")
}

fn leader(status: &StatusResponse) -> String {
    let mut known = status.nodes.iter().filter_map(|node| Some((node, node.member.as_ref()?)));
    match known.find(|(_, member)| member.node_id == status.leader) {
        _ if without_quorum(status).is_some() => "none with a quorum".to_owned(),
        Some((node, member)) if node.reachable => format!("{} at {}", member.name, member.site),
        Some((_, member)) => format!("{} at {}, which does not answer", member.name, member.site),
        None => "none known".to_owned(),
    }
}

fn nodes_table(status: &StatusResponse) -> String {
    let heading = ["NODE", "SITE", "ROLE", "STATE", "APPLIED", "LAG", "DATA", "FREE", "RSS", "KEYS", "CERT", "VERSION"];
    let row = |node: &NodeStatus| {
        let member = node.member.clone().unwrap_or_default();
        let no_vote = if node.without_vote.is_empty() { "" } else { ", no vote" };
        let mut cells = vec![member.name.clone(), member.site.clone(), format!("{}{no_vote}", role(&member))];
        if node.reachable {
            cells.extend([
                if node.sealed { format!("{} sealed", node.state) } else { node.state.clone() },
                grouped(node.applied_index),
                grouped(lag(status, node)),
                size(node.data_bytes),
                size(node.disk_free_bytes),
                size(node.rss_bytes),
                keys(node, &member),
                u64::try_from(node.certificate_expires_in_s).map_or("expired".to_owned(), time::span),
                node.release.clone(),
            ]);
        } else {
            cells.push("no answer".to_owned());
        }
        cells.resize(heading.len(), "-".to_owned());
        cells
    };
    table(&heading, &[4, 5, 6, 7, 8], status.nodes.iter().map(row).collect())
}

fn keys(node: &NodeStatus, member: &Member) -> String {
    match member.role() {
        Role::Witness if node.keys_open == 0 => "none".to_owned(),
        _ => format!("{}/{}", node.keys_open, node.keys_total),
    }
}

/// Log entries that are committed and that this node has not applied yet.
pub fn lag(status: &StatusResponse, node: &NodeStatus) -> u64 {
    let committed = status.nodes.iter().map(|node| node.committed_index).max().unwrap_or(0);
    committed.saturating_sub(node.applied_index)
}

/// A member's role in one word.
pub fn role(member: &Member) -> &'static str {
    match member.role() {
        Role::Unspecified => "unknown",
        Role::Voter => "voter",
        Role::Learner => "learner",
        Role::Witness => "witness",
    }
}

/// A member as JSON.
pub fn member_document(member: &Member) -> Value {
    json!({
        "node_id": member.node_id, "name": member.name, "site": member.site, "role": role(member),
        "peer_address": member.peer_address, "client_address": member.client_address,
    })
}

fn document(status: &StatusResponse, verdict: &Verdict) -> Value {
    let header = status.header.unwrap_or_default();
    let node = |node: &NodeStatus| {
        json!({
            "member": member_document(&node.member.clone().unwrap_or_default()),
            "reachable": node.reachable, "error": node.error, "state": node.state,
            "sealed": node.sealed, "seal_reason": node.seal_reason,
            "last_log_index": node.last_log_index, "committed_index": node.committed_index,
            "applied_index": node.applied_index, "frontier_index": node.frontier_index,
            "lag": lag(status, node), "revision": node.revision,
            "disk_free_bytes": node.disk_free_bytes, "data_bytes": node.data_bytes, "rss_bytes": node.rss_bytes,
            "release": node.release, "uptime_s": node.uptime_s,
            "certificate_expires_in_s": node.certificate_expires_in_s,
            "keys_open": node.keys_open, "keys_total": node.keys_total,
            "writes_refused": node.writes_refused, "writes_refused_reason": node.writes_refused_reason,
            "log_syncs": node.log_syncs, "copy": node.copy.as_ref().map(copy_document),
            "log_syncs": node.log_syncs, "disk_hangs": node.disk_hangs, "log_kept": node.log_kept,
        })
    };
    let sites: Vec<Value> = status
        .sites
        .iter()
        .map(|site| {
            json!({
                "name": site.name, "data_nodes": site.data_nodes, "data_nodes_current": site.data_nodes_current,
                "is_witness_site": site.is_witness_site, "protected": is_protected(site), "protection": site.protection,
            })
        })
        .collect();
    json!({
        "health": verdict.word(), "notes": verdict.notes,
        "cluster_name": status.cluster_name, "cluster_id": hex(&status.cluster_id), "topology": status.topology,
        "epoch": header.epoch, "revision": header.revision, "answered_by": header.node,
        "leader": (status.leader != 0).then_some(status.leader), "term": status.term,
        "records": status.records, "versions": status.versions, "protection": protection::document(status),
        "links": links::document(status), "failover": status.failover.as_ref().map(failover::document),
        "goal": status.goal.as_ref().map(goal::document),
        "sites": sites, "nodes": status.nodes.iter().map(node).collect::<Vec<Value>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> StatusResponse {
        let member = |name: &str, role: Role| {
            Some(Member { node_id: 1, name: name.into(), site: "main".into(), role: role.into(), ..Member::default() })
        };
        let leader = NodeStatus {
            member: member("main-1", Role::Voter),
            reachable: true,
            state: "leader".into(),
            committed_index: 1_200,
            applied_index: 1_200,
            certificate_expires_in_s: 864_000 * 9,
            ..NodeStatus::default()
        };
        let witness = NodeStatus { member: member("witness", Role::Witness), applied_index: 1_150, ..leader.clone() };
        let gone = NodeStatus { member: member("dr-1", Role::Voter), error: "refused".into(), ..NodeStatus::default() };
        StatusResponse {
            cluster_name: "demo".into(),
            cluster_id: b"id".as_slice().into(),
            leader: 1,
            nodes: vec![leader, witness, gone],
            ..StatusResponse::default()
        }
    }

    #[test]
    fn the_screen_shows_leader_lag_and_silent_nodes() {
        let status = sample();
        let screen = screen(&status, &verdict(&status), None);
        assert!(screen.contains("leader      main-1 at main, term 0"), "{screen}");
        let line = |name: &str| screen.lines().find(|line| line.trim_start().starts_with(name)).unwrap().to_owned();
        assert!(line("witness").contains("1,150   50"), "{screen}");
        assert!(line("witness").contains("none"), "{screen}");
        assert!(line("dr-1").contains("no answer"), "{screen}");
        assert!(screen.contains("attention   node dr-1 does not answer: refused"), "{screen}");
    }

    #[test]
    fn a_leader_that_does_not_answer_is_not_shown_as_one_that_does() {
        let mut status = sample();
        status.nodes[0].reachable = false;
        status.nodes[2].reachable = true;
        let shown = screen(&status, &verdict(&status), None);
        assert!(shown.contains("leader      main-1 at main, which does not answer, term 0"), "{shown}");
        status.nodes[2].reachable = false;
        let shown = screen(&status, &verdict(&status), None);
        assert!(shown.contains("leader      none with a quorum, term 0"), "{shown}");
    }

    #[test]
    fn the_document_holds_health_and_every_node() {
        let status = sample();
        let document = document(&status, &verdict(&status));
        assert_eq!(document["health"], "DEGRADED");
        assert_eq!(document["nodes"].as_array().map(Vec::len), Some(3));
        assert_eq!(document["nodes"][1]["lag"], 50);
    }
}

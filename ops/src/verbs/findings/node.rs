//! What is wrong with one node, and what may be.

use saola_client::proto::{NodeStatus, StatusResponse};

use super::{Finding, LAG, keeps_records, member, warns};
use crate::output::size;
use crate::time;
use crate::verbs::status::lag;
use crate::verbs::verdict::is_out;

/// A certificate that ends sooner than this wants attention.
const CERTIFICATE_ENDS_SOON_S: i64 = 14 * 86_400;
/// Clocks further apart than this are wrong: the leader raises its own alarm there too.
const CLOCK_TOLERANCE_US: u64 = 1_000_000;

/// What is wrong with a node by its own word, or by its silence.
pub fn faults(node: &NodeStatus) -> Vec<Finding> {
    let name = member(node).name;
    if !node.reachable {
        let code = if keeps_records(node) { "NODE_SILENT" } else { "WITNESS_SILENT" };
        let what = format!("node {name} does not answer: {}", node.error);
        let mut found = vec![warns(code, what, "start it, or see its log")];
        if !node.log_kept.is_empty() {
            let next = "bring it back or replace it (`saola cluster replace`)";
            found.push(warns("LOG_KEPT", format!("node {name}: {}", node.log_kept), next));
        }
        return found;
    }
    let mut found = Vec::new();
    let out = match node.error.as_str() {
        _ if !is_out(node) => None,
        "" if node.state == "waiting" => Some(format!("node {name} waits to be made part of a cluster")),
        "" => Some(format!("node {name} is {}", node.state)),
        error => Some(format!("node {name} is {}: {error}", node.state)),
    };
    found.extend(out.map(|what| warns("NODE_OUT", what, "see its log")));
    if !node.without_vote.is_empty() {
        found.push(warns("NO_VOTE", format!("node {name} has no vote: {}", node.without_vote), "`saola why`"));
    }
    if node.sealed {
        let what = format!("node {name} is sealed: {}", node.seal_reason);
        found.push(warns("SEALED", what, "put the site's KEK in its place and restart the node"));
    }
    if let Some(copy) = node.copy.as_ref().filter(|copy| !copy.alarm.is_empty()) {
        let what = format!("records of node {name}: {}", copy.alarm);
        found.push(warns("COPY_DAMAGED", what, "see `saola scrub status`"));
    }
    if !node.disk_hangs.is_empty() {
        found.push(warns("DISK_HANGS", format!("node {name}: {}", node.disk_hangs), "look at that disk"));
    } else if node.writes_refused {
        let what = format!("node {name} refuses writes: {}", node.writes_refused_reason);
        found.push(warns("DISK_FULL", what, "make room there"));
    }
    let next = "put a new one in its place and restart the node, one node at a time";
    match u64::try_from(node.certificate_expires_in_s) {
        Err(_) => found.push(warns("CERTIFICATE_EXPIRED", format!("node {name}: its certificate has expired"), next)),
        Ok(left) if node.certificate_expires_in_s < CERTIFICATE_ENDS_SOON_S => {
            let what = format!("node {name}: its certificate ends in {}", time::span(left));
            found.push(warns("CERTIFICATE_ENDS", what, next));
        }
        Ok(_) => {}
    }
    found
}

/// What may turn out to be wrong with it once it is needed.
pub fn doubts(status: &StatusResponse, node: &NodeStatus) -> Vec<Finding> {
    let member = member(node);
    let name = &member.name;
    let mut found = Vec::new();
    if !node.reachable {
        return found;
    }
    if keeps_records(node) && !node.sealed && node.keys_open < node.keys_total {
        let what = format!("node {name} opens {} of {} data keys", node.keys_open, node.keys_total);
        found.push(warns("KEYS_CLOSED", what, "put the site's KEK in its place and restart the node"));
    }
    if !node.writes_refused && node.disk_free_bytes < 2 * node.disk_min_free_bytes {
        let (free, mark) = (size(node.disk_free_bytes), size(node.disk_min_free_bytes));
        let what = format!("node {name} has {free} free, and takes no writes below {mark}");
        found.push(warns("DISK_LOW", what, "make room there"));
    }
    let behind = lag(status, node);
    if behind > LAG {
        found.push(warns("BEHIND", format!("node {name} lacks {behind} entries"), "wait until it has caught up"));
    }
    let of_leader = |node: &&NodeStatus| super::member(node).node_id == status.leader && node.state == "leader";
    let leader = status.nodes.iter().find(of_leader);
    let link = leader.and_then(|leader| leader.links.iter().find(|link| link.node_id == member.node_id));
    let ahead_us = link.map_or(0, |link| link.clock_ahead_us);
    if ahead_us.unsigned_abs() > CLOCK_TOLERANCE_US {
        let side = if ahead_us > 0 { "ahead of" } else { "behind" };
        let span = time::span(ahead_us.unsigned_abs() / 1_000_000);
        let what = format!("the clock of node {name} is {span} {side} the leader's");
        found.push(warns("CLOCK_OFF", what, "set that machine's clock, or the leader's"));
    }
    if leader.is_some_and(|leader| leader.release != node.release) {
        let what = format!("node {name} runs release {}, the leader another one", node.release);
        found.push(warns("RELEASES_DIFFER", what, "finish the upgrade first"));
    }
    found
}

#[cfg(test)]
mod tests {
    use saola_client::proto::{LinkStatus, Member, Role};

    use super::*;

    #[test]
    fn every_doubt_about_a_node_has_its_code() {
        let node = |id: u64, state: &str| NodeStatus {
            member: Some(Member { node_id: id, name: format!("n{id}"), role: Role::Voter.into(), ..Member::default() }),
            reachable: true,
            state: state.into(),
            committed_index: 5_000,
            applied_index: 5_000,
            disk_free_bytes: 100,
            disk_min_free_bytes: 10,
            ..NodeStatus::default()
        };
        let codes = |change: fn(&mut NodeStatus, &mut LinkStatus)| {
            let (mut leader, mut other) = (node(1, "leader"), node(2, "follower"));
            let mut link = LinkStatus { node_id: 2, ..LinkStatus::default() };
            change(&mut other, &mut link);
            leader.links = vec![link];
            let status = StatusResponse { leader: 1, nodes: vec![leader, other], ..StatusResponse::default() };
            doubts(&status, &status.nodes[1]).iter().map(|finding| finding.code).collect::<Vec<_>>()
        };
        assert_eq!(codes(|_, _| {}), [""; 0]);
        assert_eq!(codes(|node, _| node.keys_total = 1), ["KEYS_CLOSED"]);
        assert_eq!(codes(|node, _| node.disk_free_bytes = 19), ["DISK_LOW"]);
        assert_eq!(codes(|node, _| node.applied_index = 3_999), ["BEHIND"]);
        assert_eq!(codes(|_, link| link.clock_ahead_us = -1_000_001), ["CLOCK_OFF"]);
        assert_eq!(codes(|node, _| node.release = "0.2.0".into()), ["RELEASES_DIFFER"]);
        assert_eq!(codes(|node, _| (node.reachable, node.keys_total) = (false, 1)), [""; 0], "its silence says enough");
    }
}

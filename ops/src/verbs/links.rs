//! How long the members take to answer the leader, and the timers that this suggests.

use saola_client::proto::{LinkStatus, NodeStatus, StatusResponse, Timers};
use serde_json::{Value, json};

/// Fewer heartbeats say nothing.
const ENOUGH: u64 = 100;

fn leader(status: &StatusResponse) -> Option<&NodeStatus> {
    status.nodes.iter().find(|node| node.state == "leader" && !node.links.is_empty())
}

/// Timers for the slowest link: an election ten times longer than 99 of 100 round trips (etcd's tuning guide), a heartbeat
/// that survives two of them.
fn suggested(slowest_us: u64) -> (String, Timers) {
    let slowest_ms = slowest_us.div_ceil(1000);
    let timers = |heartbeat_ms, election_min_ms, election_max_ms, degrade_ms| Timers {
        heartbeat_ms,
        election_min_ms,
        election_max_ms,
        degrade_ms,
    };
    match slowest_ms {
        0..=15 => ("preset = \"lan\"".to_owned(), timers(50, 150, 300, 800)),
        16..=50 => ("preset = \"wan\"".to_owned(), timers(100, 500, 1000, 2000)),
        _ => {
            let own = timers(2 * slowest_ms, 10 * slowest_ms, 20 * slowest_ms, 40 * slowest_ms);
            let figures = format!(
                "heartbeat_ms = {}, election_min_ms = {}, election_max_ms = {}, degrade_ms = {}",
                own.heartbeat_ms, own.election_min_ms, own.election_max_ms, own.degrade_ms
            );
            (figures, own)
        }
    }
}

struct Reading<'s> {
    links: Vec<(String, &'s LinkStatus)>,
    timers: Timers,
    slowest_us: u64,
}

fn reading(status: &StatusResponse) -> Option<Reading<'_>> {
    let leader = leader(status)?;
    let name = |id: u64| {
        let known = status.nodes.iter().filter_map(|node| node.member.as_ref()).find(|it| it.node_id == id);
        known.map_or_else(|| format!("node {id}"), |it| it.name.clone())
    };
    let links: Vec<_> = leader.links.iter().map(|link| (name(link.node_id), link)).collect();
    let slowest = links.iter().filter(|(_, link)| link.samples >= ENOUGH).map(|(_, link)| link.p99_us).max();
    Some(Reading { links, timers: leader.timers?, slowest_us: slowest.unwrap_or(0) })
}

/// One line for people; none where no leader tells.
pub fn line(status: &StatusResponse) -> Option<String> {
    let reading = reading(status)?;
    let ms = |us: u64| format!("{}.{}", us / 1000, us % 1000 / 100);
    let told: Vec<String> =
        reading.links.iter().map(|(name, link)| format!("{name} {}/{}", ms(link.p50_us), ms(link.p99_us))).collect();
    let heartbeat_ms = reading.timers.heartbeat_ms;
    Some(format!(
        "{} ms (p50/p99 of heartbeats every {heartbeat_ms} ms); timers suggested: {}",
        told.join(", "),
        suggested(reading.slowest_us).0
    ))
}

/// What wants attention: timers shorter than the links allow.
pub fn note(status: &StatusResponse) -> Option<String> {
    let reading = reading(status)?;
    let (figures, wanted) = suggested(reading.slowest_us);
    (reading.timers.election_min_ms < wanted.election_min_ms).then(|| {
        format!(
            "the timers are too short for the links (99 of 100 round trips take up to {} ms, elections begin after {} ms): \
             set {figures} under [timing] on all nodes",
            reading.slowest_us.div_ceil(1000),
            reading.timers.election_min_ms
        )
    })
}

/// The same as JSON.
pub fn document(status: &StatusResponse) -> Value {
    let Some(reading) = reading(status) else { return Value::Null };
    let link = |(name, link): &(String, &LinkStatus)| json!({ "node": name, "p50_us": link.p50_us, "p99_us": link.p99_us, "samples": link.samples });
    let timers = |timers: &Timers| {
        json!({
            "heartbeat_ms": timers.heartbeat_ms, "election_min_ms": timers.election_min_ms,
            "election_max_ms": timers.election_max_ms, "degrade_ms": timers.degrade_ms,
        })
    };
    json!({
        "links": reading.links.iter().map(link).collect::<Vec<Value>>(),
        "timers": timers(&reading.timers), "suggested": timers(&suggested(reading.slowest_us).1),
    })
}

#[cfg(test)]
mod tests {
    use saola_client::proto::Member;

    use super::*;

    fn with(p99_us: u64, timers: Timers) -> StatusResponse {
        let member = Some(Member { node_id: 2, name: "dr-1".into(), ..Member::default() });
        let links =
            vec![LinkStatus { node_id: 2, p50_us: p99_us / 2, p99_us, samples: ENOUGH, ..LinkStatus::default() }];
        let leader = NodeStatus { state: "leader".into(), links, timers: Some(timers), ..NodeStatus::default() };
        let nodes = vec![leader, NodeStatus { member, ..NodeStatus::default() }];
        StatusResponse { nodes, ..StatusResponse::default() }
    }

    const LAN: Timers = Timers { heartbeat_ms: 50, election_min_ms: 150, election_max_ms: 300, degrade_ms: 800 };

    #[test]
    fn timers_follow_the_slowest_link_and_short_ones_are_named() {
        let fast = with(2_300, LAN);
        let line = line(&fast).expect("a leader answers");
        assert_eq!(line, "dr-1 1.1/2.3 ms (p50/p99 of heartbeats every 50 ms); timers suggested: preset = \"lan\"");
        assert_eq!(note(&fast), None);
        let slow = note(&with(22_000, LAN)).expect("lan is too short");
        assert!(
            slow.contains("up to 22 ms, elections begin after 150 ms") && slow.contains("preset = \"wan\""),
            "{slow}"
        );
        assert_eq!(note(&with(22_000, suggested(22_000).1)), None);
        assert!(suggested(80_000).0.starts_with("heartbeat_ms = 160, election_min_ms = 800, election_max_ms = 1600"));
        assert_eq!(document(&fast)["suggested"]["heartbeat_ms"], 50);
    }

    #[test]
    fn a_few_heartbeats_suggest_nothing_new() {
        let mut young = with(90_000, LAN);
        young.nodes[0].links[0].samples = ENOUGH - 1;
        assert_eq!(note(&young), None);
        young.nodes[0].state = "follower".into();
        assert!(line(&young).is_none() && document(&young).is_null());
    }
}

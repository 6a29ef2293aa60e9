//! `saola why`: how the sites stand to each other, why, what happens by itself, and what an operator can do.

use saola_client::Client;
use saola_client::proto::{NodeStatus, ProtectionMode, ProtectionStatus, Role, StatusResponse};
use serde_json::json;

use super::protection::figures;
use super::verdict::{alarm, is_out, is_stalled};
use super::view::cluster_view;
use crate::exit::{Exit, Failure};
use crate::output::{Format, print_json, print_line};

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// The state, and for how long.
    pub state: String,
    /// What it is because of, one reason each.
    pub because: Vec<String>,
    /// What comes next without anyone doing anything.
    pub by_itself: String,
    /// What can be done.
    pub you_can: Vec<String>,
}

/// Prints the answer; exit 0 if the protection is what was asked for, 6 if writes wait, else 5.
///
/// # Errors
/// No node that answers.
pub async fn why(client: &Client, format: Format) -> Result<Exit, Failure> {
    let status = cluster_view(client).await?;
    let Some(stand) = &status.protection_status else {
        let next = "name a data node with --endpoint";
        return Err(Failure::new(Exit::Precondition, "the node that answers does not know the protection", next));
    };
    let why = answer(&status, stand);
    match format {
        Format::Json => print_json(
            "why",
            json!({
                "state": stand.state, "because": why.because, "by_itself": why.by_itself, "you_can": why.you_can,
            }),
        )?,
        Format::Table => {
            let mut lines = vec![format!("state      {}", why.state), format!("           {}", figures(&status))];
            lines.extend(why.because.iter().map(|reason| format!("because    {reason}")));
            lines.push(format!("by itself  {}", why.by_itself));
            lines.extend(why.you_can.iter().map(|act| format!("you can    {act}")));
            print_line(lines.join("\n"))?;
        }
    }
    Ok(match alarm(&status) {
        None => Exit::Done,
        Some(_) if is_stalled(&status) => Exit::Critical,
        Some(_) => Exit::Degraded,
    })
}

fn mode(stand: &ProtectionStatus) -> ProtectionMode {
    stand.rule.map_or(ProtectionMode::Unspecified, |rule| rule.mode())
}

fn is_by_choice(stand: &ProtectionStatus) -> bool {
    mode(stand) == ProtectionMode::MaximumPerformance
}

/// The data nodes outside the leader's site that do not do their part, each with the reason.
fn reasons(status: &StatusResponse) -> Vec<String> {
    let member = |node: &NodeStatus| node.member.clone().unwrap_or_default();
    let leader_site = status.nodes.iter().map(member).find(|it| it.node_id == status.leader).map(|it| it.site);
    let elsewhere = status.nodes.iter().filter(|node| Some(&member(node).site) != leader_site.as_ref());
    let reason = |node: &NodeStatus| {
        let name = member(node).name;
        match () {
            () if !node.reachable => Some(format!("{name} does not answer: {}", node.error)),
            () if is_out(node) => Some(format!("{name} is {}: {}", node.state, node.error)),
            () if !node.disk_hangs.is_empty() => Some(node.disk_hangs.clone()),
            () if node.writes_refused => Some(format!("{name}: {}", node.writes_refused_reason)),
            () => None,
        }
    };
    elsewhere.filter_map(reason).collect()
}

/// The whole answer.
pub fn answer(status: &StatusResponse, stand: &ProtectionStatus) -> Why {
    let rule = stand.rule.unwrap_or_default();
    let one_site = status.sites.iter().filter(|site| site.data_nodes > 0).count() < 2;
    let state = match stand.state.as_str() {
        "" => "unknown: no leader says".to_owned(),
        name => format!("{name} for {} s", stand.state_for_ms / 1000),
    };
    let mut because = reasons(status);
    let without_vote = status.nodes.iter().filter(|node| !node.without_vote.is_empty());
    because.extend(without_vote.map(|node| {
        let member = node.member.clone().unwrap_or_default();
        format!("{} has no vote: {}", member.name, node.without_vote)
    }));
    let start = || because_to_do(status);
    let lower = "go on without the other site for now: `saola protection set maximum-performance`".to_owned();
    let silent = match stand.waits_for_witness {
        true => format!(
            "no acknowledgement by the witness, which stands in for the other site, for {} ms",
            stand.witness_acknowledged_ago_ms
        ),
        false => format!(
            "no acknowledgement by {} data nodes of other sites for {} ms",
            rule.acks, stand.acknowledged_ago_ms
        ),
    };
    let (why, by_itself, you_can) = match stand.state.as_str() {
        _ if one_site => (
            Some("there is one site: nothing protects it".to_owned()),
            "nothing changes".to_owned(),
            vec!["add data nodes at another site: `saola cluster add`".to_owned()],
        ),
        "SYNCHRONIZED" => (None, "nothing has to change".to_owned(), Vec::new()),
        "WITNESS_LOST" => (None, "it is SYNCHRONIZED as soon as the witness answers".to_owned(), start()),
        "SUSPECT" | "STALLED" if !stand.has_quorum => (
            Some("no quorum of voters answers the leader".to_owned()),
            "writes go on as soon as a quorum answers, under this leader or another".to_owned(),
            start(),
        ),
        "SUSPECT" if mode(stand) == ProtectionMode::MaximumAvailability => (
            Some(silent),
            match stand.needs_witness && stand.gate_closed {
                true => format!("after {} ms without one writes wait for the witness alone", rule.degrade_ms),
                false => {
                    format!("after {} ms without one the gate is opened, and writes go on unprotected", rule.degrade_ms)
                }
            },
            start(),
        ),
        "SUSPECT" | "STALLED" => {
            let mut can = start();
            can.push(lower);
            (Some(silent), "writes go on as soon as the other site acknowledges".to_owned(), can)
        }
        "DEGRADING" => (
            Some(silent),
            "writes go on as soon as a quorum has the entry that says whom they wait for now".to_owned(),
            start(),
        ),
        "UNSYNCHRONIZED" if is_by_choice(stand) => (
            Some("maximum performance was asked for".to_owned()),
            "nothing changes".to_owned(),
            vec![
                "have acknowledgements wait for the other site: `saola protection set maximum-availability`".to_owned(),
            ],
        ),
        "UNSYNCHRONIZED" => (
            Some(match stand.waits_for_witness {
                true => "the other site did not acknowledge and was given up; acknowledgements wait for the witness"
                    .to_owned(),
                false => "the other site did not acknowledge and was given up".to_owned(),
            }),
            format!(
                "once {} data nodes of other sites have answered for {} s without a break (longer after more than three \
                 losses in an hour) they get what they lack",
                rule.acks,
                stand.return_after_ms / 1000
            ),
            start(),
        ),
        "RESYNCHRONIZING" if stand.gate_closed => (
            Some("the other site has not stored the entry yet that closed the gate".to_owned()),
            "it is SYNCHRONIZED as soon as it has".to_owned(),
            start(),
        ),
        "RESYNCHRONIZING" => (
            Some(match stand.missing_elsewhere {
                Some(missing) => format!("{} revisions are missing at the other site", missing.revisions),
                None => "the other site has not said what it has".to_owned(),
            }),
            format!("once it has had everything for {} s the gate closes", rule.parity_ms / 1000),
            start(),
        ),
        _ => (
            Some("no leader answers".to_owned()),
            "voters elect one as soon as a quorum of them is there".to_owned(),
            start(),
        ),
    };
    because.splice(0..0, why);
    Why { state, because, by_itself, you_can }
}

/// What each node that does not do its part needs.
fn because_to_do(status: &StatusResponse) -> Vec<String> {
    let away = |node: &&NodeStatus| !node.reachable || is_out(node);
    let name = |node: &NodeStatus| {
        let member = node.member.clone().unwrap_or_default();
        let witness = if member.role() == Role::Witness { " (the witness)" } else { "" };
        format!("bring back {}{witness} at {}", member.name, member.site)
    };
    status.nodes.iter().filter(away).map(name).collect()
}

#[cfg(test)]
mod tests {
    use saola_client::proto::{Member, Protection, SiteStatus};

    use super::*;

    fn sample(state: &str, mode: ProtectionMode) -> StatusResponse {
        let node = |node_id, name: &str, site: &str, reachable| NodeStatus {
            member: Some(Member { node_id, name: name.into(), site: site.into(), ..Member::default() }),
            reachable,
            error: if reachable { String::new() } else { "connection refused".into() },
            ..NodeStatus::default()
        };
        let site = |name: &str| SiteStatus { name: name.into(), data_nodes: 1, ..SiteStatus::default() };
        let times = Protection { degrade_ms: 800, return_ms: 30_000, parity_ms: 10_000, ..Protection::default() };
        let rule = Protection { mode: mode.into(), acks: 1, ..times };
        StatusResponse {
            leader: 1,
            nodes: vec![node(1, "main-1", "main", true), node(2, "dr-1", "dr", false)],
            sites: vec![site("main"), site("dr")],
            rule: Some(rule),
            protection_status: Some(ProtectionStatus {
                rule: Some(rule),
                state: state.into(),
                state_for_ms: 65_000,
                acknowledged_ago_ms: 66_000,
                losses_last_hour: 1,
                has_quorum: true,
                ..ProtectionStatus::default()
            }),
            ..StatusResponse::default()
        }
    }

    fn of(status: &StatusResponse) -> Why {
        answer(status, status.protection_status.as_ref().expect("the sample has one"))
    }

    #[test]
    fn every_state_has_a_reason_what_comes_next_and_what_can_be_done() {
        let auto = ProtectionMode::MaximumAvailability;
        for state in ["SUSPECT", "DEGRADING", "UNSYNCHRONIZED", "RESYNCHRONIZING", "STALLED", ""] {
            let why = of(&sample(state, auto));
            assert!(
                !why.because.is_empty() && !why.by_itself.is_empty() && !why.you_can.is_empty(),
                "{state}: {why:?}"
            );
            assert!(why.because.contains(&"dr-1 does not answer: connection refused".to_owned()), "{why:?}");
            assert!(why.you_can.contains(&"bring back dr-1 at dr".to_owned()), "{why:?}");
        }
        let why = of(&sample("UNSYNCHRONIZED", auto));
        assert_eq!(why.state, "UNSYNCHRONIZED for 65 s");
        assert_eq!(why.because[0], "the other site did not acknowledge and was given up");
        let stalled = of(&sample("STALLED", ProtectionMode::MaximumProtection));
        assert!(stalled.you_can.last().is_some_and(|act| act.contains("protection set maximum-performance")));
    }

    #[test]
    fn a_site_without_votes_is_named_and_whom_writes_wait_for_instead() {
        let mut status = sample("SUSPECT", ProtectionMode::MaximumAvailability);
        status.nodes[1].without_vote = "its site was lost".into();
        let stand = status.protection_status.as_mut().expect("the sample has one");
        (stand.waits_for_witness, stand.witness_acknowledged_ago_ms) = (true, 500);
        let why = of(&status);
        let silent = "no acknowledgement by the witness, which stands in for the other site, for 500 ms";
        assert_eq!(why.because[0], silent);
        assert!(why.because.contains(&"dr-1 has no vote: its site was lost".to_owned()), "{why:?}");
    }

    #[test]
    fn what_was_asked_for_needs_nothing() {
        let mut status = sample("SYNCHRONIZED", ProtectionMode::MaximumAvailability);
        status.nodes[1].reachable = true;
        assert_eq!(of(&status).because, Vec::<String>::new());
        let chosen = of(&sample("UNSYNCHRONIZED", ProtectionMode::MaximumPerformance));
        assert_eq!(chosen.because[0], "maximum performance was asked for");
        status.sites.pop();
        assert_eq!(of(&status).because, ["there is one site: nothing protects it"]);
    }
}

//! What stands against a switchover, a failover or a drill: decided from the cluster's status alone.
//!
//! Each finding has a code that does not change, what was found, and the next step. [`findings`] asks all of it.

use saola_client::proto::{Member, NodeStatus, ProtectionMode, Role, StatusResponse};

use super::cluster::Digests;
use super::explain::{losses, site_loss};
use super::status::lag;
use super::verdict::{TWO_EPOCHS_NEXT, alarm, is_out, two_epochs, without_quorum};
use super::{goal, links};

pub mod node;

/// A node that lacks more entries than are under way in any moment lags.
const LAG: u64 = 1_000;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question<'q> {
    /// May leadership go to this site now?
    Switchover(&'q str),
    /// Would the loss of the site that leads, or of any other, lose nothing and stop nothing?
    Failover,
    /// Is all of that so, to this site and back, with nothing else amiss?
    Drill(&'q str),
}

/// How much a finding counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Worth knowing, and worth mending.
    Warns,
    /// It would fail, or lose something, or stop something.
    Blocks,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Stable: scripts decide on it.
    pub code: &'static str,
    /// How much it counts.
    pub level: Level,
    /// What was found.
    pub what: String,
    /// The next step.
    pub next: String,
}

fn blocks(code: &'static str, what: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { code, level: Level::Blocks, what: what.into(), next: next.into() }
}

fn warns(code: &'static str, what: impl Into<String>, next: impl Into<String>) -> Finding {
    Finding { level: Level::Warns, ..blocks(code, what, next) }
}

/// All that stands against it, what blocks first. `copies`: what a comparison of the replicas said; none: it could not be
/// made. `approvers`: how many may approve a forced promotion; none: that is not known.
pub fn findings(
    status: &StatusResponse,
    question: Question<'_>,
    copies: Option<Digests>,
    approvers: Option<usize>,
) -> Vec<Finding> {
    let mut found = leadership(status);
    found.extend(two_epochs(status).map(|what| blocks("TWO_EPOCHS", what, TWO_EPOCHS_NEXT)));
    if found.is_empty() {
        found.extend(protection(status));
        match question {
            Question::Switchover(to) => found.extend(switchover(status, to)),
            Question::Failover => found.extend(failover(status)),
            Question::Drill(to) => {
                found.extend(switchover(status, to));
                found.extend(failover(status));
            }
        }
        found.extend(compared(copies));
        found.extend(approval(status, question, approvers));
    }
    found.extend(status.nodes.iter().flat_map(node::faults));
    found.extend(status.nodes.iter().flat_map(|node| node::doubts(status, node)));
    found.extend(
        links::note(status)
            .map(|note| warns("TIMERS_TOO_SHORT", note, "set the timers on all nodes and restart them one by one")),
    );
    found.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    found
}

/// What is amiss now, whatever is asked: neither what was chosen so, nor what ends in some days.
pub fn amiss(status: &StatusResponse) -> Vec<Finding> {
    let mut found = leadership(status);
    found.extend(two_epochs(status).map(|what| blocks("TWO_EPOCHS", what, TWO_EPOCHS_NEXT)));
    if found.is_empty() {
        found.extend(protection(status));
    }
    found.extend(status.nodes.iter().flat_map(node::faults));
    found.extend(status.nodes.iter().flat_map(|node| node::doubts(status, node)));
    found.retain(|finding| !matches!(finding.code, "CERTIFICATE_ENDS" | "GATE_OFF" | "GOAL_BROKEN"));
    found
}

/// Without a leader and its quorum nothing else can be told.
fn leadership(status: &StatusResponse) -> Vec<Finding> {
    match without_quorum(status) {
        Some(note) => vec![blocks("NO_QUORUM", note, "`saola why`")],
        None if status.leader == 0 => {
            vec![blocks("NO_LEADER", "no leader is known", "wait for the election; `saola status` shows it")]
        }
        None => Vec::new(),
    }
}

/// A sentence with the state in front, unless it begins with it.
fn named(state: &str, sentence: String) -> String {
    if sentence.starts_with(state) { sentence } else { format!("{state}: {sentence}") }
}

fn protection(status: &StatusResponse) -> Vec<Finding> {
    let mut found = Vec::new();
    let state = status.protection_status.as_ref().map_or("", |stand| stand.state.as_str());
    if let Some(alarm) = alarm(status) {
        let finding = match state {
            "WITNESS_LOST" => warns("WITNESS_LOST", alarm, "start the witness: `saola witness status`"),
            _ => blocks("NOT_SYNCHRONIZED", named(state, alarm), "`saola why` tells what comes next by itself"),
        };
        found.push(finding);
    }
    if status.rule.is_some_and(|rule| rule.mode() == ProtectionMode::MaximumPerformance) && data_sites(status).len() > 1
    {
        let what = "maximum performance: acknowledgements wait for no other site";
        found.push(warns("GATE_OFF", what, "`saola protection set maximum-availability`"));
    }
    if status.protection_status.as_ref().is_some_and(|stand| stand.witness_released) {
        let what = "the witness had to forget entries that a data node lacks";
        found.push(warns("WITNESS_FORGOT", what, "bring the data nodes up to date; `saola witness status`"));
    }
    found.extend(
        status.goal.as_ref().and_then(goal::broken).map(|what| {
            warns("GOAL_BROKEN", what, "add nodes (`saola cluster add`) or declare less (`saola goal set`)")
        }),
    );
    found
}

/// On the worst day somebody has to be able to approve, and nobody else.
fn approval(status: &StatusResponse, question: Question<'_>, approvers: Option<usize>) -> Option<Finding> {
    let asked = !matches!(question, Question::Switchover(_)) && data_sites(status).len() > 1;
    (asked && approvers == Some(0)).then(|| {
        let what = "nobody is named who may approve a forced promotion: any operator could carry one out alone";
        warns("NO_APPROVERS", what, "`saola approver keygen`, then `saola approver set`")
    })
}

fn compared(copies: Option<Digests>) -> Option<Finding> {
    match copies {
        Some(Digests::Equal) => None,
        Some(Digests::Different) => {
            Some(blocks("COPIES_DIFFER", "the data nodes do not hold the same records", "`saola cluster digest`"))
        }
        Some(Digests::Incomplete) => {
            Some(warns("COPIES_NOT_COMPARED", "not every data node could be compared", "`saola cluster digest`"))
        }
        None => Some(warns("COPIES_NOT_COMPARED", "the replicas could not be compared", "`saola cluster digest`")),
    }
}

fn member(node: &NodeStatus) -> Member {
    node.member.clone().unwrap_or_default()
}

fn keeps_records(node: &NodeStatus) -> bool {
    member(node).role() != Role::Witness
}

fn data_sites(status: &StatusResponse) -> Vec<&str> {
    status.sites.iter().filter(|site| site.data_nodes > 0).map(|site| site.name.as_str()).collect()
}

fn leads_from(status: &StatusResponse) -> String {
    let leader = status.nodes.iter().map(member).find(|member| member.node_id == status.leader);
    leader.map(|member| member.site).unwrap_or_default()
}

/// Voters of a site that can lead now, the one that has most first.
pub fn fit_voters<'s>(status: &'s StatusResponse, site: &str) -> Vec<&'s NodeStatus> {
    let there = |node: &&NodeStatus| member(node).site == site && member(node).role() == Role::Voter;
    let mut fit: Vec<_> = status.nodes.iter().filter(there).filter(|node| unfit(status, node).is_none()).collect();
    fit.sort_by_key(|node| std::cmp::Reverse(node.last_log_index));
    fit
}

/// Why a node could not lead now, if so.
fn unfit(status: &StatusResponse, node: &NodeStatus) -> Option<String> {
    match () {
        () if !node.reachable => Some("does not answer".into()),
        () if is_out(node) => Some(format!("is {}", node.state)),
        () if !node.without_vote.is_empty() => Some("has no vote".into()),
        () if node.sealed => Some("is sealed".into()),
        () if node.keys_open < node.keys_total => Some("does not open every data key".into()),
        () if node.copy.as_ref().is_some_and(|copy| copy.bad) => Some("repairs its copy of the records".into()),
        () if !node.disk_hangs.is_empty() => Some("has a disk that hangs".into()),
        () if node.writes_refused => Some("refuses writes".into()),
        () if node.certificate_expires_in_s < 0 => Some("has a certificate that has expired".into()),
        () if lag(status, node) > LAG => Some(format!("lacks {} entries", lag(status, node))),
        () => None,
    }
}

fn one_site() -> Finding {
    let next = "add nodes at a second site and a witness at a third";
    blocks("ONE_SITE", "records are kept at one site only", next)
}

fn switchover(status: &StatusResponse, to: &str) -> Vec<Finding> {
    let from = leads_from(status);
    if data_sites(status).len() < 2 {
        return vec![one_site()];
    }
    if !data_sites(status).contains(&to) {
        let sites = data_sites(status).join(", ");
        return vec![blocks("NO_SUCH_SITE", format!("no site {to} keeps records"), format!("name one of {sites}"))];
    }
    if from == to {
        return vec![warns(
            "LEADS_ALREADY",
            format!("site {to} leads already"),
            "nothing: a switchover changes nothing",
        )];
    }
    let voters: Vec<&NodeStatus> =
        (status.nodes.iter()).filter(|node| member(node).site == to && member(node).role() == Role::Voter).collect();
    let told: Vec<String> = (voters.iter())
        .filter_map(|node| unfit(status, node).map(|why| format!("{} {why}", member(node).name)))
        .collect();
    let mut found = Vec::new();
    match (voters.len(), voters.len() - told.len()) {
        (0, _) => {
            let what = format!("site {to} has no voter: its nodes are learners, which cannot lead");
            found.push(blocks("NO_VOTER_THERE", what, "add voters there (`saola cluster add --role voter`)"));
        }
        (_, 0) => {
            let what = format!("no voter of site {to} can lead: {}", told.join(", "));
            found.push(blocks("NOBODY_CAN_LEAD", what, "mend one of them first"));
        }
        (all, fit) if fit < all => {
            let what = format!("of {all} voters of site {to} {fit} can lead: {}", told.join(", "));
            found.push(warns("FEW_CAN_LEAD", what, "mend the others first, or the next loss moves leadership back"));
        }
        _ => {}
    }
    found.extend(gate_after(status, to));
    found
}

/// Once `to` leads, acknowledgements wait for the sites that did not.
fn gate_after(status: &StatusResponse, to: &str) -> Option<Finding> {
    let rule = status.rule?;
    let there = |node: &&NodeStatus| keeps_records(node) && member(node).site != to && node.reachable && !is_out(node);
    let answering = status.nodes.iter().filter(there).count();
    if answering >= rule.acks as usize || rule.mode() == ProtectionMode::MaximumPerformance {
        return None;
    }
    let what = format!(
        "with site {to} leading, {} data nodes of other sites must acknowledge, and {answering} answer",
        rule.acks
    );
    let next = "bring back data nodes of the other sites";
    Some(match rule.mode() {
        ProtectionMode::MaximumProtection => blocks("WRITES_WOULD_WAIT", what, next),
        _ => warns("WRITES_WOULD_WAIT", what, next),
    })
}

fn failover(status: &StatusResponse) -> Vec<Finding> {
    let mut found = Vec::new();
    let sites = data_sites(status);
    if sites.len() < 2 {
        return vec![one_site()];
    }
    for site in &sites {
        let case = site_loss(status, site);
        let what = |about: &str| format!("if site {site} were lost: {about}");
        if !case.goes_on {
            found.push(blocks("SITE_LOSS_STOPS", what(&case.happens), case.to_do.clone()));
        }
        // The leader knows what the others have; arithmetic alone must think of the worst.
        let known = (*site == leads_from(status)).then_some(status.rpo).flatten();
        let loses = match known {
            Some(loss) => loss.entries > 0,
            None => case.rpo != "0" && !case.rpo.starts_with("0:"),
        };
        if loses {
            found.push(blocks("SITE_LOSS_LOSES", what(&format!("it would lose {}", case.rpo)), "`saola why`"));
        }
        let left =
            || status.nodes.iter().filter(|node| keeps_records(node) && member(node).site != *site && node.reachable);
        if left().count() > 0 && left().all(|node| node.sealed || node.keys_open < node.keys_total) {
            let what = what("no node that is left opens every data key, so no client would be answered");
            found.push(blocks("KEYS_CLOSED_THERE", what, "put the site's KEK in its place: `saola status` names it"));
        }
    }
    if let Some(held) = status.failover.as_ref().map(|known| &known.held).filter(|held| !held.is_empty()) {
        found.push(blocks(
            "FAILOVER_HELD",
            format!("no site takes over by itself: {held}"),
            "`saola auto-failover set on`",
        ));
    }
    let nodes = status.nodes.iter().map(|node| member(node).name);
    let stops = |name: &String| {
        let lost = [format!("node {name}"), "the witness".to_owned()];
        let is_witness = status.nodes.iter().any(|node| member(node).name == *name && !keeps_records(node));
        let lost = if is_witness { &lost[1] } else { &lost[0] };
        losses(status).iter().any(|case| case.lost == *lost && !case.goes_on)
    };
    let alone: Vec<String> = nodes.filter(stops).collect();
    if !alone.is_empty() {
        let what = format!("the loss of {} alone would stop the cluster", alone.join(" or of "));
        found.push(warns("NODE_LOSS_STOPS", what, "bring back what is missing: `saola topology explain`"));
    }
    found
}

#[cfg(test)]
mod tests {
    use saola_client::proto::{FailoverStatus, Protection, ProtectionStatus, SiteStatus};

    use super::*;

    fn node(node_id: u64, name: &str, role: Role) -> NodeStatus {
        let site = name.split('-').next().unwrap_or_default().to_owned();
        NodeStatus {
            member: Some(Member { node_id, name: name.into(), site, role: role.into(), ..Member::default() }),
            reachable: true,
            state: if node_id == 1 { "leader" } else { "follower" }.into(),
            certificate_expires_in_s: 365 * 86_400,
            keys_open: 2,
            keys_total: if role == Role::Witness { 0 } else { 2 },
            ..NodeStatus::default()
        }
    }

    fn healthy() -> StatusResponse {
        let rule = Protection { mode: ProtectionMode::MaximumAvailability.into(), acks: 1, ..Protection::default() };
        let stand = ProtectionStatus {
            rule: Some(rule),
            state: "SYNCHRONIZED".into(),
            gate_closed: true,
            in_force: true,
            ..ProtectionStatus::default()
        };
        let site = |name: &str, data_nodes| SiteStatus { name: name.into(), data_nodes, ..SiteStatus::default() };
        StatusResponse {
            leader: 1,
            cluster_id: b"id".as_slice().into(),
            nodes: vec![
                node(1, "main-1", Role::Voter),
                node(2, "main-2", Role::Voter),
                node(3, "dr-1", Role::Voter),
                node(4, "dr-2", Role::Voter),
                node(5, "third", Role::Witness),
            ],
            sites: vec![site("main", 2), site("dr", 2), site("third", 0)],
            rule: Some(rule),
            protection_status: Some(stand),
            failover: Some(FailoverStatus::default()),
            ..StatusResponse::default()
        }
    }

    type Change = fn(&mut StatusResponse);

    fn codes(question: Question<'_>, change: Change) -> Vec<(&'static str, Level)> {
        let mut status = healthy();
        change(&mut status);
        let found = findings(&status, question, Some(Digests::Equal), Some(3));
        assert!(found.iter().all(|it| !it.next.is_empty() && !it.what.is_empty()), "{found:?}");
        found.iter().map(|it| (it.code, it.level)).collect()
    }

    const TO_DR: Question<'_> = Question::Switchover("dr");

    #[test]
    fn nothing_stands_against_anything_in_a_healthy_cluster() {
        for question in [TO_DR, Question::Failover, Question::Drill("dr")] {
            assert_eq!(codes(question, |_| {}), [], "{question:?}");
        }
    }

    #[test]
    fn a_switchover_needs_one_voter_there_that_can_lead() {
        let one: Change = |status| status.nodes[2].sealed = true;
        assert_eq!(codes(TO_DR, one), [("FEW_CAN_LEAD", Level::Warns), ("SEALED", Level::Warns)]);
        let none: Change = |status| (status.nodes[2].sealed, status.nodes[3].writes_refused) = (true, true);
        assert_eq!(codes(TO_DR, none)[0], ("NOBODY_CAN_LEAD", Level::Blocks));
        let learners: Change = |status| {
            for at in [2, 3] {
                let learner = status.nodes[at].member.as_mut().map(|member| member.role = Role::Learner.into());
                assert!(learner.is_some());
            }
        };
        assert_eq!(codes(TO_DR, learners)[0], ("NO_VOTER_THERE", Level::Blocks));
        assert_eq!(codes(Question::Switchover("moon"), |_| {})[0], ("NO_SUCH_SITE", Level::Blocks));
        assert_eq!(codes(Question::Switchover("main"), |_| {}), [("LEADS_ALREADY", Level::Warns)]);
    }

    #[test]
    fn a_switchover_leaves_writes_protected() {
        let behind: Change = |status| {
            let stand = status.protection_status.as_mut();
            let state = stand.map(|stand| stand.state = "UNSYNCHRONIZED".into());
            assert!(state.is_some());
        };
        assert_eq!(codes(TO_DR, behind), [("NOT_SYNCHRONIZED", Level::Blocks)]);
        let two_acks: Change = |status| {
            status.rule = status.rule.map(|rule| Protection { acks: 2, ..rule });
            status.nodes[1].reachable = false;
        };
        assert!(codes(TO_DR, two_acks).contains(&("WRITES_WOULD_WAIT", Level::Warns)));
        let held_up: Change = |status| {
            let mode = ProtectionMode::MaximumProtection.into();
            status.rule = status.rule.map(|rule| Protection { mode, acks: 2, ..rule });
            status.nodes[1].reachable = false;
        };
        assert!(codes(TO_DR, held_up).contains(&("WRITES_WOULD_WAIT", Level::Blocks)));
    }

    #[test]
    fn a_failover_needs_votes_keys_and_leave_to_go_on() {
        let no_witness: Change = |status| status.nodes[4].reachable = false;
        let found = codes(Question::Failover, no_witness);
        assert!(found.contains(&("SITE_LOSS_STOPS", Level::Blocks)), "{found:?}");
        assert!(found.contains(&("WITNESS_SILENT", Level::Warns)), "{found:?}");
        let sealed: Change = |status| (status.nodes[2].keys_open, status.nodes[3].sealed) = (1, true);
        assert!(codes(Question::Failover, sealed).contains(&("KEYS_CLOSED_THERE", Level::Blocks)));
        let held: Change = |status| {
            status.failover = Some(FailoverStatus { held: "it is observe-only".into(), ..FailoverStatus::default() });
        };
        assert!(codes(Question::Failover, held).contains(&("FAILOVER_HELD", Level::Blocks)));
        let two_left: Change = |status| (status.nodes[1].reachable, status.nodes[3].reachable) = (false, false);
        let found = codes(Question::Failover, two_left);
        assert!(found.contains(&("NODE_LOSS_STOPS", Level::Warns)), "{found:?}");
    }

    #[test]
    fn without_a_leader_nothing_else_is_asked_but_how_the_nodes_are() {
        let alone: Change = |status| (1..4).for_each(|at| status.nodes[at].reachable = false);
        let found = codes(Question::Drill("dr"), alone);
        assert_eq!(found[0], ("NO_QUORUM", Level::Blocks));
        assert!(found[1..].iter().all(|(code, _)| *code == "NODE_SILENT"), "{found:?}");
    }

    #[test]
    fn copies_that_differ_or_cannot_be_compared_are_told() {
        let found =
            |copies| findings(&healthy(), TO_DR, copies, None).iter().map(|it| (it.code, it.level)).collect::<Vec<_>>();
        assert_eq!(found(Some(Digests::Different)), [("COPIES_DIFFER", Level::Blocks)]);
        assert_eq!(found(Some(Digests::Incomplete)), [("COPIES_NOT_COMPARED", Level::Warns)]);
        assert_eq!(found(None), [("COPIES_NOT_COMPARED", Level::Warns)]);
    }
}

//! One word on the cluster, decided from its status alone.

use saola_client::proto::{Member, NodeStatus, ProtectionMode, Role, SiteStatus, StatusResponse};

use super::findings::node::faults;
use super::{goal, links};
use crate::exit::Exit;

/// How the cluster fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// `Done` (healthy), `Degraded`, `Critical` or `Sealed`.
    pub exit: Exit,
    /// What wants attention, most urgent first.
    pub notes: Vec<String>,
}

impl Verdict {
    /// The word on the screen.
    pub fn word(&self) -> &'static str {
        match self.exit {
            Exit::Done => "HEALTHY",
            Exit::Critical => "CRITICAL",
            Exit::Sealed => "SEALED",
            _ => "DEGRADED",
        }
    }
}

/// Decides how the cluster fares.
pub fn verdict(status: &StatusResponse) -> Verdict {
    let mut notes = Vec::new();
    let without_quorum = without_quorum(status);
    if status.cluster_id.is_empty() && status.nodes.iter().any(|node| node.state == "refused") {
        notes.push("the node that answers is kept out of its cluster: ask another node for the others".to_owned());
    } else if status.cluster_id.is_empty() {
        notes.push(
            "the node that answers is part of no cluster: `saola cluster init` makes one of fresh nodes".to_owned(),
        );
    } else if knows_itself_alone(status) {
        notes.push("the node that answers repairs its log: ask another node for the others".to_owned());
    } else if let Some(note) = &without_quorum {
        notes.push(note.clone());
    } else if status.leader == 0 {
        notes.push("no leader is known: writes and linearizable reads wait for an election".to_owned());
    }
    let keeps_records = |node: &&NodeStatus| node.member.as_ref().is_some_and(|member| member.role() != Role::Witness);
    let sealed: Vec<bool> =
        status.nodes.iter().filter(keeps_records).filter(|node| node.reachable).map(|node| node.sealed).collect();
    let all_sealed = !sealed.is_empty() && sealed.iter().all(|sealed| *sealed);
    let mut held_back: Vec<&str> =
        status.nodes.iter().filter_map(|node| node.failover.as_ref()).map(|it| &*it.held_back).collect();
    held_back.dedup();
    notes.extend(held_back.into_iter().filter(|why| !why.is_empty()).map(str::to_owned));
    for node in &status.nodes {
        notes.extend(faults(node).into_iter().map(|fault| format!("{}; {}", fault.what, fault.next)));
    }
    notes.extend(links::note(status));
    notes.extend(two_epochs(status).map(|what| format!("{what}; {TWO_EPOCHS_NEXT}")));
    notes.extend(promoted(status));
    // Without a quorum no site is protected, and the notes above say what to bring back.
    if without_quorum.is_none() {
        notes.extend(alarm(status));
        notes.extend(held(status));
        notes.extend(status.goal.as_ref().and_then(goal::broken));
        notes.extend(unprotected(status));
    }
    // Whoever is called at night should read this first.
    let held = status.nodes.iter().filter(|node| !node.trouble.is_empty());
    let held: Vec<String> = held.map(|node| format!("{}: {}", name(node), node.trouble)).collect();
    if !held.is_empty() {
        notes.insert(0, format!("A DRILL IS HELD ({}); `saola drill abort` breaks it off", held.join("; ")));
    }
    let exit = match () {
        () if status.leader == 0 || without_quorum.is_some() || is_stalled(status) => Exit::Critical,
        () if promoted(status).is_some() || two_epochs(status).is_some() => Exit::Critical,
        () if all_sealed => Exit::Sealed,
        () if !notes.is_empty() => Exit::Degraded,
        () => Exit::Done,
    };
    Verdict { exit, notes }
}

/// Whether losing this site loses nothing and stops nothing.
pub fn is_protected(site: &SiteStatus) -> bool {
    site.protection == "protected"
}

/// The sites whose loss would hurt, each with the reason. With one site there is nothing to protect it with, and that
/// is no fault.
pub fn unprotected(status: &StatusResponse) -> Vec<String> {
    if status.sites.iter().filter(|site| site.data_nodes > 0).count() < 2 {
        return Vec::new();
    }
    let open = status.sites.iter().filter(|site| !is_protected(site));
    open.map(|site| format!("site {}: {}", site.name, site.protection)).collect()
}

/// Writes wait and nothing ends that by itself.
pub(super) fn is_stalled(status: &StatusResponse) -> bool {
    status.protection_status.as_ref().is_some_and(|stand| stand.state == "STALLED")
}

/// Another promotion began an epoch of this one's number.
pub fn two_epochs(status: &StatusResponse) -> Option<String> {
    status.nodes.iter().map(|node| &node.twin_epoch).find(|twin| !twin.is_empty()).cloned()
}

/// What people do then.
pub const TWO_EPOCHS_NEXT: &str = "decide which one goes on; through a node of the other: `saola site fence SITE --why TEXT --endpoint NODE` for \
                                   each of its sites; then here: `saola dr reinstate SITE`";

/// A forced promotion has left one site, and nothing survives its loss yet.
fn promoted(status: &StatusResponse) -> Option<String> {
    status.protection.starts_with("PROMOTED_UNPROTECTED").then(|| status.protection.clone())
}

/// Nobody takes over by itself: the cluster does not go on without the site that leads.
fn held(status: &StatusResponse) -> Option<String> {
    let known = status.failover.as_ref().filter(|known| !known.held.is_empty())?;
    let two_sites = status.sites.iter().filter(|site| site.data_nodes > 0).count() > 1;
    two_sites.then(|| {
        format!(
            "P6 IS OFF: {}, so the loss of the site that leads stops the cluster until somebody decides (`saola \
             auto-failover set on` before that, `saola auto-failover override` after it)",
            known.held
        )
    })
}

/// What is to be said of the protection, unless it is what was asked for. One site has nothing to wait for.
pub(super) fn alarm(status: &StatusResponse) -> Option<String> {
    let stand = status.protection_status.as_ref()?;
    let as_asked = stand.rule?.mode() == ProtectionMode::MaximumPerformance || stand.state == "SYNCHRONIZED";
    let two_sites = status.sites.iter().filter(|site| site.data_nodes > 0).count() > 1;
    (two_sites && !as_asked && !stand.state.is_empty()).then(|| status.protection.clone())
}

/// Says so if too few voters take part; a leader that lost its followers goes on calling itself one.
pub(super) fn without_quorum(status: &StatusResponse) -> Option<String> {
    if knows_itself_alone(status) {
        return None;
    }
    let votes = |node: &&NodeStatus| {
        let votes = |member: &Member| matches!(member.role(), Role::Voter | Role::Witness);
        node.member.as_ref().is_some_and(votes) && node.without_vote.is_empty()
    };
    let (present, missing): (Vec<&NodeStatus>, Vec<&NodeStatus>) =
        status.nodes.iter().filter(votes).partition(|node| node.reachable && !is_out(node));
    let quorum = (present.len() + missing.len()) / 2 + 1;
    if present.len() >= quorum {
        return None;
    }
    let names: Vec<&str> = missing.iter().map(|node| name(node)).collect();
    Some(format!(
        "NO QUORUM: {} of {} voters take part and {quorum} are needed; writes and linearizable reads fail, stale reads \
         go on; bring back {} of {}",
        present.len(),
        present.len() + missing.len(),
        quorum - present.len(),
        names.join(", ")
    ))
}

/// Before its log is whole a node knows no other one.
fn knows_itself_alone(status: &StatusResponse) -> bool {
    matches!(&status.nodes[..], [only] if only.state == "repairing")
}

fn name(node: &NodeStatus) -> &str {
    node.member.as_ref().map_or("?", |member| member.name.as_str())
}

/// It answers, and takes no part in the cluster.
pub(super) fn is_out(node: &NodeStatus) -> bool {
    matches!(node.state.as_str(), "refused" | "stopped" | "waiting" | "asking" | "fenced" | "reinstating" | "repairing")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, role: Role) -> NodeStatus {
        NodeStatus {
            member: Some(Member { name: name.into(), role: role.into(), ..Member::default() }),
            reachable: true,
            state: "follower".into(),
            certificate_expires_in_s: 365 * 86_400,
            ..NodeStatus::default()
        }
    }

    fn site(name: &str, protection: &str) -> SiteStatus {
        SiteStatus { name: name.into(), data_nodes: 2, protection: protection.into(), ..SiteStatus::default() }
    }

    fn healthy() -> StatusResponse {
        StatusResponse {
            leader: 1,
            cluster_id: b"id".as_slice().into(),
            nodes: vec![node("main-1", Role::Voter), node("dr-1", Role::Voter), node("witness", Role::Witness)],
            sites: vec![site("main", "protected"), site("dr", "protected")],
            ..StatusResponse::default()
        }
    }

    #[test]
    fn a_cluster_without_fault_is_healthy() {
        assert_eq!(verdict(&healthy()), Verdict { exit: Exit::Done, notes: Vec::new() });
        let mut one_site = healthy();
        one_site.sites = vec![site("main", "ONE SITE")];
        assert_eq!(verdict(&one_site).exit, Exit::Done);
    }

    #[test]
    fn every_fault_is_named_and_makes_it_degraded() {
        type Fault = fn(&mut StatusResponse);
        let faults: [(Fault, &str); 7] = [
            (
                |status| {
                    status.nodes[1] =
                        NodeStatus { reachable: false, error: "refused".into(), ..node("dr-1", Role::Voter) }
                },
                "dr-1 does not answer",
            ),
            (|status| status.nodes[0].sealed = true, "main-1 is sealed"),
            (|status| status.nodes[0].writes_refused = true, "main-1 refuses writes"),
            (|status| status.nodes[0].disk_hangs = "the disk hangs".into(), "main-1: the disk hangs"),
            (|status| status.nodes[0].certificate_expires_in_s = 86_400, "certificate ends in 24 h"),
            (|status| status.nodes[0].certificate_expires_in_s = -1, "certificate has expired"),
            (|status| status.sites[1].protection = "dr-2 is behind".into(), "site dr: dr-2 is behind"),
        ];
        for (break_it, expected) in faults {
            let mut status = healthy();
            break_it(&mut status);
            let verdict = verdict(&status);
            assert_eq!((verdict.exit, verdict.word()), (Exit::Degraded, "DEGRADED"), "{expected}");
            assert!(verdict.notes.iter().any(|note| note.contains(expected)), "{:?}", verdict.notes);
        }
    }

    #[test]
    fn too_few_voters_are_critical_although_one_calls_itself_leader() {
        let mut status = healthy();
        status.nodes[1].reachable = false;
        status.nodes[2].state = "refused".into();
        let verdict = verdict(&status);
        assert_eq!((verdict.exit, verdict.word()), (Exit::Critical, "CRITICAL"));
        assert!(verdict.notes[0].starts_with("NO QUORUM: 1 of 3 voters take part and 2 are needed"), "{verdict:?}");
        assert!(verdict.notes[0].ends_with("bring back 1 of dr-1, witness"), "{verdict:?}");
    }

    #[test]
    fn a_learner_that_is_silent_takes_no_quorum_away() {
        let mut status = healthy();
        status.nodes.push(NodeStatus { reachable: false, ..node("dr-2", Role::Learner) });
        status.nodes.push(NodeStatus { reachable: false, ..node("dr-3", Role::Learner) });
        assert_eq!(verdict(&status).exit, Exit::Degraded);
    }

    #[test]
    fn a_node_without_cluster_says_so_and_how_to_make_one() {
        let mut status = healthy();
        status.cluster_id = bytes::Bytes::new();
        status.leader = 0;
        status.nodes.truncate(1);
        status.nodes[0].state = "waiting".into();
        let verdict = verdict(&status);
        assert_eq!(verdict.exit, Exit::Critical);
        assert!(verdict.notes[0].contains("saola cluster init"), "{verdict:?}");
        assert!(!verdict.notes.iter().any(|note| note.ends_with(": ")), "{verdict:?}");
        status.nodes[0].state = "refused".into();
        status.nodes[0].error = "put its own folder back".into();
        let verdict = super::verdict(&status);
        assert!(!verdict.notes.iter().any(|note| note.contains("cluster init")), "{verdict:?}");
        assert!(verdict.notes[1].contains("put its own folder back"), "{verdict:?}");
    }

    #[test]
    fn a_node_that_repairs_its_log_says_what_it_waits_for_whoever_is_asked() {
        let mut status = healthy();
        status.nodes[1].state = "repairing".into();
        status.nodes[1].error = "the damaged log waits for entries 7 to 9 from peers".into();
        let asked_elsewhere = verdict(&status);
        assert_eq!(asked_elsewhere.exit, Exit::Degraded);
        assert!(
            asked_elsewhere.notes[0].starts_with("node dr-1 is repairing: the damaged log waits"),
            "{asked_elsewhere:?}"
        );
        status.nodes = vec![status.nodes[1].clone()];
        (status.leader, status.sites) = (0, Vec::new());
        let asked_itself = verdict(&status);
        assert_eq!(asked_itself.exit, Exit::Critical);
        assert!(asked_itself.notes[0].ends_with("ask another node for the others"), "{asked_itself:?}");
        assert_eq!(asked_itself.notes[1], asked_elsewhere.notes[0]);
    }

    #[test]
    fn no_leader_is_critical_and_no_key_anywhere_is_sealed() {
        let mut status = healthy();
        status.nodes[0].sealed = true;
        status.nodes[1].sealed = true;
        assert_eq!(verdict(&status).exit, Exit::Sealed);
        status.leader = 0;
        assert_eq!(verdict(&status).exit, Exit::Critical);
    }
}

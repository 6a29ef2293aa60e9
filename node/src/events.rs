//! What an operator reads in the log as the node's place in the cluster changes: who leads, who belongs to it, whether
//! the node takes part. Decided from two looks at the replica, so that each change is one line with its next step.

use std::collections::BTreeMap;

use saola_raft::{Member, ReplicaStatus};

/// What is worth a line when it changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Seen {
    adopted: bool,
    leader: Option<u64>,
    term: u64,
    members: BTreeMap<u64, Member>,
    refused: Option<String>,
    alarm: Option<String>,
}

impl Seen {
    /// What `status` shows. `age_ms` is how old this node's state is at most; a leader that no quorum has confirmed for
    /// longer than `limit_ms` leads nobody.
    pub fn of(status: ReplicaStatus, age_ms: Option<u64>, limit_ms: u64) -> Seen {
        let deserted = status.state == "leader" && age_ms.is_some_and(|age| age > limit_ms);
        Seen {
            adopted: status.adopted,
            leader: status.leader.filter(|_| !deserted),
            term: status.term,
            members: status.members.into_iter().map(|member| (member.node_id, member)).collect(),
            refused: status.refused_by_peers,
            alarm: status.scrub.alarm,
        }
    }
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// As it should be.
    Info(String),
    /// Wants attention; says what to do.
    Warn(String),
}

impl Line {
    /// Writes it to the log.
    pub fn log(&self) {
        match self {
            Line::Info(text) => tracing::info!("{text}"),
            Line::Warn(text) => tracing::warn!("{text}"),
        }
    }
}

/// What a node says that is not part of a cluster, once at its start.
pub const WAITING: &str = "waiting to be made part of a cluster: run `saola cluster init` to make one of fresh nodes, or \
                           `saola cluster add` to let this node join one";

/// So many looks in a row must show a leader that was lost again, in its old term: one without a quorum comes and goes.
const STEADY_LOOKS: u32 = 4;

/// What the log has been told.
#[derive(Debug, Default)]
pub struct Events {
    told: Seen,
    last_leader: Option<(u64, u64)>,
    looks: u32,
}

impl Events {
    /// From what the node finds at its start; the leader that it then learns of is told.
    pub fn since(first: Seen) -> Events {
        Events { told: Seen { leader: None, ..first }, ..Events::default() }
    }

    /// The lines for what has changed since the last look.
    pub fn look(&mut self, mut now: Seen) -> Vec<Line> {
        let leader = now.leader.map(|leader| (leader, now.term));
        self.looks = if leader.is_some() { self.looks.saturating_add(1) } else { 0 };
        let back = self.told.leader.is_none() && leader.is_some() && leader == self.last_leader;
        if back && self.looks < STEADY_LOOKS {
            now.leader = None;
        }
        let lines = changes(&self.told, &now);
        self.last_leader = leader.or(self.last_leader);
        self.told = now;
        lines
    }
}

/// The lines for what has changed from `before` to `now`.
fn changes(before: &Seen, now: &Seen) -> Vec<Line> {
    let mut lines = Vec::new();
    match &now.refused {
        Some(reason) if before.refused != now.refused => {
            lines.push(Line::Warn(format!("this node takes no part in its cluster: {reason}")));
        }
        None if before.refused.is_some() => lines.push(Line::Info("this node takes part in its cluster again".into())),
        _ => {}
    }
    match &now.alarm {
        Some(what) if before.alarm != now.alarm => {
            lines.push(Line::Warn(format!("records of this node: {what}; `saola scrub status` shows the repair")));
        }
        None if before.alarm.is_some() => {
            lines.push(Line::Info("records of this node: all as they should be again".into()))
        }
        _ => {}
    }
    for (id, member) in &now.members {
        match before.members.get(id) {
            None => lines.push(Line::Info(format!("members: {} belongs to the cluster", described(member)))),
            Some(old) if described(old) != described(member) => {
                lines.push(Line::Info(format!("members: {}, was {}", described(member), described(old))));
            }
            Some(_) => {}
        }
    }
    for (_, member) in before.members.iter().filter(|(id, _)| !now.members.contains_key(id)) {
        lines.push(Line::Info(format!("members: {} does not belong to the cluster any more", described(member))));
    }
    if before.leader != now.leader && now.adopted {
        lines.push(match now.leader {
            Some(leader) => {
                let name = now.members.get(&leader).map_or_else(String::new, |member| format!(" ({})", member.name));
                Line::Info(format!("leader: node {leader}{name} leads in term {}", now.term))
            }
            None => Line::Warn(format!(
                "leader: none with a quorum, in term {}; writes and linearizable reads wait for an election; if it lasts, \
                 `saola status` names the nodes that are missing",
                now.term
            )),
        });
    }
    lines
}

fn described(member: &Member) -> String {
    let Member { node_id, name, site, peer_address, client_address, .. } = member;
    let role = member.role_value().as_str();
    format!("node {node_id} ({name}, {role} at {site}, peers {peer_address}, clients {client_address})")
}

#[cfg(test)]
mod tests {
    use saola_raft::Role;

    use super::*;

    fn seen(leader: Option<u64>, ids: &[u64]) -> Seen {
        let member = |id: u64| {
            let (name, address) = (format!("n{id}"), format!("h{id}:1"));
            let site = "main".to_owned();
            Member { node_id: id, name, site, role: Role::Voter as i32, peer_address: address, ..Member::default() }
        };
        let members = ids.iter().map(|id| (*id, member(*id))).collect();
        Seen { adopted: true, leader, term: 7, members, refused: None, alarm: None }
    }

    fn one(before: &Seen, now: &Seen) -> Line {
        let mut lines = changes(before, now);
        assert_eq!(lines.len(), 1, "{lines:?}");
        lines.remove(0)
    }

    #[test]
    fn nothing_new_is_no_line() {
        assert_eq!(changes(&seen(Some(1), &[1, 2]), &seen(Some(1), &[1, 2])), []);
        assert_eq!(changes(&Seen::default(), &Seen::default()), []);
    }

    #[test]
    fn a_change_of_leader_is_one_line_and_its_loss_says_what_to_do() {
        let now = one(&seen(Some(1), &[1, 2]), &seen(Some(2), &[1, 2]));
        assert_eq!(now, Line::Info("leader: node 2 (n2) leads in term 7".into()));
        let Line::Warn(lost) = one(&seen(Some(1), &[1, 2]), &seen(None, &[1, 2])) else { panic!("a warning") };
        assert!(lost.contains("none with a quorum") && lost.contains("`saola status`"), "{lost}");
    }

    #[test]
    fn a_leader_that_comes_and_goes_without_a_quorum_is_not_told_again_and_again() {
        let mut events = Events::since(seen(Some(1), &[1]));
        let lines = |events: &mut Events, leader| events.look(seen(leader, &[1])).len();
        assert_eq!(lines(&mut events, Some(1)), 1, "the leader, and no member that was there at the start");
        assert_eq!(lines(&mut events, None), 1);
        for leader in [Some(1), Some(1), None, Some(1), Some(1), Some(1)] {
            assert_eq!(lines(&mut events, leader), 0);
        }
        assert_eq!(lines(&mut events, Some(1)), 1, "it has stayed");
        assert_eq!(lines(&mut events, None), 1);
        assert_eq!(lines(&mut events, Some(2)), 1, "another one is told at once");
    }

    #[test]
    fn every_member_that_comes_goes_or_changes_is_one_line() {
        let Line::Info(came) = one(&seen(None, &[1]), &seen(None, &[1, 2])) else { panic!("no warning") };
        assert!(came.contains("node 2 (n2, voter at main") && came.contains("belongs to the cluster"), "{came}");
        let Line::Info(went) = one(&seen(None, &[1, 2]), &seen(None, &[1])) else { panic!("no warning") };
        assert!(went.contains("node 2") && went.contains("not belong to the cluster any more"), "{went}");
        let mut moved = seen(None, &[1]);
        moved.members.entry(1).and_modify(|member| member.peer_address = "elsewhere:1".into());
        let Line::Info(moved) = one(&seen(None, &[1]), &moved) else { panic!("no warning") };
        assert!(moved.contains("peers elsewhere:1") && moved.contains("was node 1"), "{moved}");
    }

    #[test]
    fn damaged_records_are_one_line_that_names_them_and_one_when_they_are_mended() {
        let damaged = Seen { alarm: Some("agency/r1 g2: its chain does not follow".into()), ..seen(None, &[1]) };
        let Line::Warn(alarm) = one(&seen(None, &[1]), &damaged) else { panic!("a warning") };
        assert!(alarm.contains("agency/r1 g2") && alarm.contains("saola scrub status"), "{alarm}");
        assert!(matches!(one(&damaged, &seen(None, &[1])), Line::Info(_)));
    }

    #[test]
    fn a_node_that_is_refused_says_why_and_when_it_is_over() {
        let refused = Seen { refused: Some("put its own folder back".into()), ..seen(None, &[1]) };
        let Line::Warn(why) = one(&seen(None, &[1]), &refused) else { panic!("a warning") };
        assert!(why.ends_with("put its own folder back"), "{why}");
        assert!(matches!(one(&refused, &seen(None, &[1])), Line::Info(_)));
    }
}

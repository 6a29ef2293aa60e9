//! The frontier: the log index up to which effects may be shown to anyone.
//!
//! A leader decides it: [`frontier`] is a pure function of what it has applied and what the other site's nodes have
//! flushed. All others hear it while the gate is on. [`FrontierCell`] keeps its highest value on one node; it never goes back, so a rule that
//! changes only stops it until the new rule has caught up.
//!
//! It is decided over *applied* entries, each under the rule that stands in the applied state: an entry that closes the
//! gate gates all behind it, one that opens it releases all before it.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use saola_storage::planted::{self, Bug};
use saola_storage::protection::{ProtectionState, WaitsFor};
use saola_storage::types::{LeaderId, LogId, NodeId};
use tokio::sync::watch;

use crate::member::{Member, Role};

/// Whether effects wait for the other site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// A commit is enough.
    Off,
    /// So many of these nodes, the data nodes of the other sites or the witness, must have flushed an entry.
    On {
        /// Who counts.
        members: Vec<NodeId>,
        /// How many of them.
        acks: usize,
    },
}

/// The data nodes of other sites than `own_site`.
pub fn elsewhere(own_site: &str, members: &[Member]) -> Vec<NodeId> {
    let counts = |it: &&Member| it.site != own_site || planted::is(Bug::OwnSiteCounts);
    let there = members.iter().filter(|it| it.role_value().is_data()).filter(counts);
    there.map(|it| it.node_id).collect()
}

/// The rule for a leader at `own_site`; `voters`: who votes, or is about to.
pub fn gate(protection: &ProtectionState, own_site: &str, members: &[Member], voters: &BTreeSet<NodeId>) -> Gate {
    match protection.waits_for {
        WaitsFor::Nobody => Gate::Off,
        WaitsFor::Witness => Gate::On { members: witness(members, voters).into_iter().collect(), acks: 1 },
        WaitsFor::OtherSite => Gate::On { members: elsewhere(own_site, members), acks: protection.rule.acks as usize },
    }
}

/// The witness, if there is one. One that is to take its place has no vote yet.
pub fn witness(members: &[Member], voters: &BTreeSet<NodeId>) -> Option<NodeId> {
    let votes = |it: &&Member| it.role_value() == Role::Witness && voters.contains(&it.node_id);
    members.iter().find(votes).map(|it| it.node_id)
}

/// First index that may not be shown yet, as a leader decides it: it has applied all below `applied_next`, and `flushed`
/// has the first index that each other node has not flushed. A node that is leaving does not count.
pub fn frontier(applied_next: u64, gate: &Gate, flushed: &BTreeMap<NodeId, u64>, leaving: Option<NodeId>) -> u64 {
    let Gate::On { members, acks } = gate else { return applied_next };
    if planted::is(Bug::GateIgnored) {
        return applied_next;
    }
    let counted = members.iter().filter(|id| Some(**id) != leaving);
    let mut nexts: Vec<u64> = counted.map(|id| flushed.get(id).copied().unwrap_or(0)).collect();
    nexts.sort_unstable_by(|a, b| b.cmp(a));
    let enough = acks.checked_sub(1).map_or(u64::MAX, |place| nexts.get(place).copied().unwrap_or(0));
    applied_next.min(enough)
}

/// What a node goes by.
#[derive(Debug)]
struct Known {
    /// Newest applied entry.
    applied: Option<LogId>,
    /// What this process found applied when it began: others know better whether that waits.
    began_at: u64,
    gate: Gate,
    /// A node that is about to leave the cluster: it counts no more.
    leaving: Option<NodeId>,
    /// Leadership term of this node that `flushed` was counted in.
    term: u64,
    flushed: BTreeMap<NodeId, u64>,
    /// What leaders have said.
    heard: u64,
}

impl Known {
    /// See [`frontier`]; `applied` is the newest applied entry, which this node has written as leader.
    fn frontier(&self, applied: LogId) -> u64 {
        let none = BTreeMap::new();
        let counted = if self.term == applied.leader.term { &self.flushed } else { &none };
        frontier(applied.index + 1, &self.gate, counted, self.leaving)
    }
}

/// What may be shown.
#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    /// First index that may not.
    next: u64,
    /// First entry of the leader that wrote the newest applied one, as far as this process has applied it.
    began: Option<LogId>,
}

impl Shown {
    fn covers(&self, leader: LeaderId) -> bool {
        self.began.is_some_and(|began| began.leader == leader && self.next > began.index)
    }
}

/// The highest frontier that this node may act on.
#[derive(Debug)]
pub(crate) struct FrontierCell {
    /// A witness decides nothing: it does not know the rule, and hands leadership over before anything is shown.
    decides_as: Option<NodeId>,
    shown: watch::Sender<Shown>,
    known: Mutex<Known>,
}

impl FrontierCell {
    /// `decides_as`: the node's own id, for one that keeps records.
    pub(crate) fn new(decides_as: Option<NodeId>) -> Self {
        let (applied, began_at, leaving, term, flushed, heard) = Default::default();
        let known = Known { applied, began_at, gate: Gate::Off, leaving, term, flushed, heard };
        Self { decides_as, shown: watch::Sender::default(), known: Mutex::new(known) }
    }

    /// Entries up to `last` have been applied, the first of its leader's among them at `first_of_leader`. `gate`: the
    /// rule from here on, if it may be another.
    pub(crate) fn applied(&self, last: LogId, first_of_leader: u64, gate: Option<Gate>) {
        let mut known = self.known.lock();
        if known.applied.is_none() {
            known.began_at = last.index + 1;
        }
        known.applied = Some(last);
        self.shown.send_if_modified(|shown| {
            let another = shown.began.is_none_or(|began| began.leader != last.leader);
            if another {
                shown.began = Some(LogId { index: first_of_leader, ..last });
            }
            another
        });
        if let Some(gate) = gate {
            known.gate = gate;
        }
        self.decide(&known);
    }

    /// A node has flushed all below `next`, as it told this leader of `term`.
    pub(crate) fn flushed(&self, node_id: NodeId, term: u64, next: u64) {
        let mut known = self.known.lock();
        if term < known.term {
            // A late answer to an earlier leadership.
            return;
        }
        if known.term != term {
            (known.term, known.flushed) = (term, BTreeMap::new());
        }
        let counted = known.flushed.entry(node_id).or_default();
        *counted = next.max(*counted);
        if known.gate != Gate::Off {
            self.decide(&known);
        }
    }

    /// A leader said that everything below `next` may be shown. What this node has not applied may not even be
    /// committed as far as it knows itself.
    pub(crate) fn heard(&self, next: u64) {
        let mut known = self.known.lock();
        if next > known.heard {
            known.heard = next;
            self.decide(&known);
        }
    }

    fn decide(&self, known: &Known) {
        let Some(applied) = known.applied else { return };
        let applied_next = applied.index + 1;
        let mut next = known.heard.min(applied_next);
        // With the gate off every node that knows so may go by its own log. With the gate on only a leader can count, and
        // only once an entry of its own term is applied: before, it knows nothing that its predecessors had not shown.
        let counts = self.decides_as == Some(applied.leader.node_id);
        if self.decides_as.is_some() && (known.gate == Gate::Off || counts) {
            next = next.max(known.frontier(applied));
        }
        self.shown.send_if_modified(|shown| {
            let higher = next > shown.next;
            shown.next = shown.next.max(next);
            higher
        });
    }

    /// First index that may not be shown yet.
    pub(crate) fn next(&self) -> u64 {
        self.shown.borrow().next
    }

    /// Entries that this process has applied and may not show yet.
    pub(crate) fn waiting(&self) -> u64 {
        let known = self.known.lock();
        let applied_next = known.applied.map_or(0, |applied| applied.index + 1);
        applied_next.saturating_sub(self.next().max(known.began_at))
    }

    /// Whether the first entry of this leadership may be shown, and with it all that former leaders acknowledged.
    pub(crate) fn is_covered(&self, leader: LeaderId) -> bool {
        self.shown.borrow().covers(leader)
    }

    /// From now on a node that is about to leave does not count for the gate; none: all count again.
    pub(crate) fn set_leaving(&self, node_id: Option<NodeId>) {
        let mut known = self.known.lock();
        known.leaving = node_id;
        self.decide(&known);
    }

    /// Whether the node that leaves is not needed: the others that count have all that has been shown.
    pub(crate) fn is_stored_without_leaving(&self) -> bool {
        let known = self.known.lock();
        match (&known.gate, known.leaving, known.applied) {
            (Gate::On { members, .. }, Some(leaving), Some(applied)) if members.contains(&leaving) => {
                known.frontier(applied) >= self.next()
            }
            _ => true,
        }
    }

    /// First index that `count` of these nodes have not flushed, as this leader of `term` has counted.
    pub(crate) fn flushed_by(&self, term: u64, nodes: &[NodeId], count: usize) -> u64 {
        let known = self.known.lock();
        if known.term != term {
            return 0;
        }
        let gate = Gate::On { members: nodes.to_vec(), acks: count };
        frontier(u64::MAX, &gate, &known.flushed, None)
    }

    /// Whether the gate is on.
    pub(crate) fn is_gated(&self) -> bool {
        self.known.lock().gate != Gate::Off
    }

    /// Resolves once the entry at `index` may be shown.
    pub(crate) async fn reached(&self, index: u64) {
        let mut changes = self.shown.subscribe();
        // The sender lives in `self`, which outlives this borrow, so waiting can only end with the condition.
        drop(changes.wait_for(|shown| shown.next > index).await);
    }

    /// Resolves once the first entry of this leadership may be shown, and with it all that former leaders acknowledged;
    /// answers the frontier then.
    pub(crate) async fn covers(&self, leader: LeaderId) -> u64 {
        let mut changes = self.shown.subscribe();
        // What it answers is a lock for reading. To look again while it is held would wait behind a writer that waits for it.
        drop(changes.wait_for(|shown| shown.covers(leader)).await);
        self.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: NodeId = 1;

    fn id(term: u64, node_id: NodeId, index: u64) -> LogId {
        LogId { leader: LeaderId { term, node_id }, index }
    }

    fn member(node_id: NodeId, site: &str, role: Role) -> Member {
        Member { node_id, site: site.into(), role: role as i32, ..Member::default() }
    }

    fn on(acks: usize) -> Gate {
        Gate::On { members: vec![3, 4], acks }
    }

    #[test]
    fn reads_that_wait_for_the_frontier_do_not_hold_up_what_moves_it() {
        let cell = std::sync::Arc::new(FrontierCell::new(Some(OWN)));
        cell.applied(id(2, OWN, 1_000_000), 1, Some(on(1)));
        let (moved, mover) = (std::sync::mpsc::channel(), cell.clone());
        let (reader, leader) = (cell, LeaderId { term: 2, node_id: OWN });
        let ended = moved.0.clone();
        std::thread::spawn(move || {
            (1..200_000).for_each(|next| mover.flushed(3, 2, next));
            // Nobody may be left to tell.
            let _told = ended.send(());
        });
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without I/O");
            while reader.next() < 199_999 {
                runtime.block_on(reader.covers(leader));
            }
            let _told = moved.0.send(());
        });
        for _ in 0..2 {
            moved.1.recv_timeout(std::time::Duration::from_secs(60)).expect("neither waits for the other");
        }
    }

    #[test]
    fn only_data_nodes_of_other_sites_count_for_the_gate() {
        let members = [
            member(1, "main", Role::Voter),
            member(2, "main", Role::Voter),
            member(3, "dr", Role::Voter),
            member(4, "dr", Role::Learner),
            member(5, "third", Role::Witness),
        ];
        let waits_for = |waits_for| ProtectionState { waits_for, ..ProtectionState::default() };
        let closed = waits_for(WaitsFor::OtherSite);
        let voters = BTreeSet::from([1, 2, 3, 5]);
        let gate = |state: &ProtectionState, site, members: &[Member]| gate(state, site, members, &voters);
        assert_eq!(gate(&closed, "main", &members), on(1));
        assert_eq!(gate(&closed, "dr", &members), Gate::On { members: vec![1, 2], acks: 1 });
        let witness = waits_for(WaitsFor::Witness);
        assert_eq!(gate(&witness, "main", &members), Gate::On { members: vec![5], acks: 1 });
        assert_eq!(gate(&witness, "main", &members[..4]), Gate::On { members: vec![], acks: 1 }, "nobody stands in");
        let mut two = members.to_vec();
        two.insert(0, member(9, "third", Role::Witness));
        assert_eq!(
            gate(&witness, "main", &two),
            Gate::On { members: vec![5], acks: 1 },
            "the other one has no vote yet"
        );
        assert_eq!(gate(&ProtectionState::default(), "main", &members), Gate::Off);
    }

    #[test]
    fn an_entry_is_shown_once_it_is_applied_and_enough_of_the_other_site_have_flushed_it() {
        let flushed = BTreeMap::from([(3, 8), (4, 5), (2, 99)]);
        assert_eq!(frontier(10, &Gate::Off, &flushed, None), 10);
        assert_eq!(frontier(10, &on(1), &flushed, None), 8);
        assert_eq!(frontier(10, &on(2), &flushed, None), 5);
        assert_eq!(frontier(4, &on(2), &flushed, None), 4, "what is flushed there and not applied here is not shown");
        assert_eq!(frontier(10, &on(3), &flushed, None), 0, "there are too few");
        assert_eq!(frontier(10, &on(1), &BTreeMap::new(), None), 0);
        assert_eq!(frontier(10, &on(1), &flushed, Some(3)), 5, "the one that leaves does not count");
    }

    #[test]
    fn the_frontier_never_goes_back_when_the_gate_closes_and_goes_on_when_it_has_caught_up() {
        let cell = FrontierCell::new(Some(OWN));
        cell.applied(id(2, OWN, 7), 7, Some(Gate::Off));
        assert_eq!((cell.next(), cell.waiting()), (8, 0));
        cell.flushed(3, 2, 5);
        cell.applied(id(2, OWN, 9), 9, Some(on(1)));
        assert_eq!((cell.next(), cell.waiting()), (8, 2));
        cell.flushed(3, 2, 9);
        assert_eq!(cell.next(), 9);
        cell.flushed(4, 2, 10);
        assert_eq!((cell.next(), cell.waiting()), (10, 0));
        cell.applied(id(2, OWN, 12), 10, None);
        assert_eq!(cell.next(), 10);
        cell.applied(id(2, OWN, 13), 10, Some(Gate::Off));
        assert_eq!(cell.next(), 14, "what opens the gate releases all before it");
    }

    #[test]
    fn a_new_leader_shows_nothing_before_an_entry_of_its_own_term_and_counts_afresh() {
        let cell = FrontierCell::new(Some(OWN));
        cell.applied(id(2, OWN, 5), 5, Some(on(1)));
        cell.flushed(3, 2, 6);
        assert_eq!(cell.next(), 6);
        cell.applied(id(3, 2, 8), 6, None);
        cell.flushed(3, 4, 9);
        assert_eq!(cell.next(), 6, "entries of another leader");
        cell.flushed(3, 5, 6);
        cell.applied(id(5, OWN, 9), 9, None);
        assert_eq!(cell.next(), 6, "what was counted in an older leadership does not count");
        assert!(!cell.is_covered(LeaderId { term: 5, node_id: OWN }));
        cell.flushed(3, 5, 10);
        assert_eq!(cell.next(), 10);
        assert!(cell.is_covered(LeaderId { term: 5, node_id: OWN }));
        cell.flushed(4, 4, 12);
        cell.applied(id(5, OWN, 10), 9, None);
        assert_eq!(cell.next(), 10);
        cell.flushed(3, 5, 11);
        assert_eq!(cell.next(), 11, "a late answer to an earlier leadership takes nothing away");
    }

    #[test]
    fn after_a_restart_only_what_is_applied_since_counts_as_waiting() {
        let cell = FrontierCell::new(Some(OWN));
        cell.applied(id(4, 2, 90_000), 90_000, Some(on(1)));
        assert_eq!((cell.next(), cell.waiting()), (0, 0));
        cell.applied(id(5, OWN, 90_002), 90_001, None);
        assert_eq!(cell.waiting(), 2);
    }

    #[test]
    fn a_node_that_leaves_counts_no_more_and_may_go_once_the_others_have_what_was_shown() {
        let cell = FrontierCell::new(Some(OWN));
        cell.applied(id(2, OWN, 9), 1, Some(on(1)));
        cell.flushed(3, 2, 8);
        cell.flushed(4, 2, 5);
        assert_eq!(cell.next(), 8);
        cell.set_leaving(Some(3));
        assert!(!cell.is_stored_without_leaving());
        cell.flushed(3, 2, 10);
        assert_eq!(cell.next(), 8, "it vouches for nothing any more");
        cell.flushed(4, 2, 8);
        assert!(cell.is_stored_without_leaving());
        cell.set_leaving(None);
        assert_eq!(cell.next(), 10, "it stays after all");
        cell.set_leaving(Some(2));
        assert!(cell.is_stored_without_leaving(), "it never counted");
    }

    #[test]
    fn a_follower_shows_what_it_heard_as_far_as_it_has_applied_it() {
        let cell = FrontierCell::new(Some(OWN));
        cell.heard(7);
        assert_eq!(cell.next(), 0);
        cell.applied(id(1, 2, 4), 0, Some(on(1)));
        assert_eq!(cell.next(), 5);
        cell.flushed(3, 1, 9);
        cell.applied(id(1, 2, 8), 0, None);
        assert_eq!(cell.next(), 7, "it counts nothing itself");
        cell.heard(3);
        assert_eq!(cell.next(), 7);
        cell.applied(id(1, 2, 9), 0, Some(Gate::Off));
        assert_eq!(cell.next(), 10, "a commit is enough again");
    }

    #[test]
    fn a_witness_that_leads_shows_nothing_that_it_has_not_heard() {
        let cell = FrontierCell::new(None);
        cell.heard(4);
        cell.applied(id(2, OWN, 7), 7, Some(Gate::Off));
        assert_eq!(cell.next(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_waits_until_the_first_entry_of_the_leadership_may_be_shown() {
        let cell = FrontierCell::new(Some(OWN));
        let leader = LeaderId { term: 5, node_id: OWN };
        cell.applied(id(4, 2, 8), 3, Some(on(1)));
        cell.heard(9);
        cell.applied(id(5, OWN, 9), 9, None);
        let covered = cell.covers(leader);
        tokio::pin!(covered);
        assert!(futures::poll!(&mut covered).is_pending());
        cell.flushed(4, 5, 10);
        assert_eq!(covered.await, 10);
    }
}

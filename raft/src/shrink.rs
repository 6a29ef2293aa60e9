//! Whose votes are taken for a while, and given back: pure decisions.
//!
//! After the loss of a site the rest is often a bare quorum: the next node that restarts stops the cluster. So the voters
//! of a site that stays away lose their votes, and the rest may lose a node again. The price is that the site that leads
//! may commit alone then: the witness must stand in for the other one before ([`crate::protection`]), and should the
//! site that leads be lost too, only people bring the other one back. Where the survival of a site is declared, that is
//! refused (design: `dr.md` §6.1, auto-shrink).

use std::collections::BTreeSet;

use saola_storage::goal::Goal;
use saola_storage::protection::{Mode, WaitsFor};
use saola_storage::types::NodeId;

use crate::goal::broken;
use crate::member::{Member, Role};

/// A member as the leader sees it.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub member: Member,
    pub votes: bool,
    /// Since it last answered this leader, or since that one leads.
    pub silent_ms: u64,
    /// It lacks little of the log.
    pub caught_up: bool,
}

/// What the leader sees of the votes.
#[derive(Clone, Debug)]
pub(crate) struct ShrinkView<'v> {
    pub own_site: &'v str,
    pub seats: Vec<Seat>,
    /// A change of the membership is under way.
    pub is_joint: bool,
    /// A quorum has confirmed this leader lately.
    pub has_quorum: bool,
    pub mode: Mode,
    pub goal: Option<Goal>,
    /// A site that is silent for so long loses its votes.
    pub shrink_ms: u64,
    /// A node that answered within so long is there.
    pub recent_ms: u64,
}

/// What is done about votes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    Take(BTreeSet<NodeId>),
    GiveBack(BTreeSet<NodeId>),
}

impl ShrinkView<'_> {
    /// The witness is to stand in for another site: without that one's votes this leader's site could commit alone, or is
    /// about to.
    pub(crate) fn needs_witness(&self) -> bool {
        let votes = |here: bool| {
            let counts = |it: &&Seat| it.votes && (!here || it.member.site == self.own_site);
            self.seats.iter().filter(counts).count()
        };
        let elsewhere = |it: &Seat| it.member.demoted && !it.votes && it.member.site != self.own_site;
        let alone = self.seats.iter().any(elsewhere) && votes(true) > votes(false) / 2;
        alone || !self.lost_votes().is_empty()
    }

    /// The next step. `has_all`: who is waited for and has all that is acknowledged.
    pub(crate) fn step(&self, has_all: WaitsFor) -> Step {
        if self.is_joint || !self.has_quorum {
            return Step::Nothing;
        }
        // Where nobody is waited for by choice there is nothing to wait for first.
        let may_return = has_all == WaitsFor::OtherSite || self.mode == Mode::MaximumPerformance;
        let back = self
            .seats
            .iter()
            .filter(|it| may_return && it.member.demoted && !it.votes && it.caught_up && it.silent_ms < self.recent_ms);
        let back: BTreeSet<NodeId> = back.map(|it| it.member.node_id).collect();
        if !back.is_empty() {
            return Step::GiveBack(back);
        }
        let lost = self.lost_votes();
        if has_all == WaitsFor::Witness && !lost.is_empty() { Step::Take(lost) } else { Step::Nothing }
    }

    /// Voters of sites that have been silent for long enough, if the rest is better off without their votes.
    fn lost_votes(&self) -> BTreeSet<NodeId> {
        let ids = |seats: &mut dyn Iterator<Item = &Seat>| seats.map(|it| it.member.node_id).collect::<BTreeSet<_>>();
        let voters = ids(&mut self.seats.iter().filter(|it| it.votes));
        let answers = |site: &str| self.seats.iter().any(|it| it.member.site == site && it.silent_ms < self.shrink_ms);
        let is_lost = |it: &&Seat| it.votes && it.member.site != self.own_site && !answers(&it.member.site);
        let lost = ids(&mut self.seats.iter().filter(is_lost));
        let left: BTreeSet<NodeId> = voters.difference(&lost).copied().collect();
        let bears_a_loss = left.len() > voters.len() / 2 + 1;
        // At a place of its own: with the site that leads it would be lost as well.
        let witness = |it: &Seat| {
            let Seat { member, .. } = it;
            member.role_value() == Role::Witness && member.site != self.own_site && left.contains(&member.node_id)
        };
        let members: Vec<Member> = self.seats.iter().map(|it| it.member.clone()).collect();
        let bears = |goal: Goal| broken(goal, &members, &left).is_none();
        let is_better = bears(Goal::Node) && self.goal.is_none_or(bears);
        let may =
            self.mode == Mode::MaximumAvailability && !bears_a_loss && self.seats.iter().any(witness) && is_better;
        if may { lost } else { BTreeSet::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG_MS: u64 = 600_000;

    /// `each` voters at main, where the leader is, and at dr, which has been silent for so long, and a witness.
    fn after(silent_ms: u64, each: u64) -> ShrinkView<'static> {
        let seat = |node_id: u64, site: &str, role: Role, silent_ms| Seat {
            member: Member { node_id, site: site.into(), role: role as i32, ..Member::default() },
            votes: true,
            silent_ms,
            caught_up: true,
        };
        let main = (1..=each).map(|id| seat(id, "main", Role::Voter, 0));
        let dr = (11..=10 + each).map(|id| seat(id, "dr", Role::Voter, silent_ms));
        let seats = main.chain(dr).chain([seat(21, "third", Role::Witness, 10)]).collect();
        ShrinkView {
            own_site: "main",
            seats,
            is_joint: false,
            has_quorum: true,
            mode: Mode::MaximumAvailability,
            goal: None,
            shrink_ms: LONG_MS,
            recent_ms: 300,
        }
    }

    const STANDS_IN: WaitsFor = WaitsFor::Witness;

    fn changed(mut view: ShrinkView<'static>, change: impl FnOnce(&mut ShrinkView<'static>)) -> ShrinkView<'static> {
        change(&mut view);
        view
    }

    #[test]
    fn a_site_that_stays_away_loses_its_votes_once_the_witness_stands_in_for_it() {
        for each in [2, 3] {
            let early = after(LONG_MS - 1, each);
            assert_eq!((early.needs_witness(), early.step(STANDS_IN)), (false, Step::Nothing));
            let lost = after(LONG_MS, each);
            assert_eq!((lost.needs_witness(), lost.step(WaitsFor::Nobody)), (true, Step::Nothing));
            assert_eq!(lost.step(STANDS_IN), Step::Take((11..=10 + each).collect()));
        }
    }

    #[test]
    fn nothing_is_taken_where_that_would_help_nobody_or_break_what_is_declared() {
        type Change = fn(&mut ShrinkView<'static>);
        let cases: [(&str, Change); 10] = [
            ("the survival of a site is declared", |view| view.goal = Some(Goal::Site)),
            ("a node of it answers", |view| view.seats[2].silent_ms = 5),
            ("a node of it answers that does not vote", |view| {
                view.seats[2].votes = false;
                view.seats[2].silent_ms = 5;
            }),
            ("the witness has no vote", |view| view.seats[4].votes = false),
            ("the witness is at the lost site", |view| {
                view.seats[4].member.site = "dr".into();
                view.seats[4].silent_ms = LONG_MS;
            }),
            ("the witness is where the leader is", |view| view.seats[4].member.site = "main".into()),
            ("too few are left to bear the loss of a node", |view| drop(view.seats.remove(1))),
            ("nobody is waited for by choice", |view| view.mode = Mode::MaximumPerformance),
            ("writes wait for it", |view| view.mode = Mode::MaximumProtection),
            ("it leads", |view| {
                view.own_site = "dr";
                view.seats[0].silent_ms = 5;
            }),
        ];
        for (case, change) in cases {
            let view = changed(after(LONG_MS, 2), change);
            assert_eq!((view.needs_witness(), view.step(STANDS_IN)), (false, Step::Nothing), "{case}");
        }
        let declared = changed(after(LONG_MS, 2), |view| view.goal = Some(Goal::Node));
        assert_eq!(declared.step(STANDS_IN), Step::Take(BTreeSet::from([11, 12])), "it bears the loss of a node then");
        for change in [(|view| view.is_joint = true) as Change, |view| view.has_quorum = false] {
            assert_eq!(changed(after(LONG_MS, 2), change).step(STANDS_IN), Step::Nothing);
        }
        // Four of five are there: one more may be lost as it is.
        let spare = changed(after(LONG_MS, 2), |view| {
            view.seats[3].member.site = "main".into();
            view.seats[3].silent_ms = 0;
        });
        assert_eq!(spare.step(STANDS_IN), Step::Nothing);
    }

    #[test]
    fn votes_are_given_back_to_those_that_are_there_and_have_everything_once_their_site_is_waited_for() {
        let taken = |change: fn(&mut ShrinkView<'static>)| {
            changed(after(10, 2), |view| {
                for seat in &mut view.seats[2..4] {
                    (seat.votes, seat.member.demoted) = (false, true);
                }
                change(view);
            })
        };
        let back = |change: fn(&mut ShrinkView<'static>)| taken(change).step(WaitsFor::OtherSite);
        assert_eq!(back(|_| ()), Step::GiveBack(BTreeSet::from([11, 12])));
        assert_eq!(back(|view| view.seats[2].caught_up = false), Step::GiveBack(BTreeSet::from([12])));
        assert_eq!(back(|view| view.seats[2].silent_ms = 300), Step::GiveBack(BTreeSet::from([12])));
        let open = taken(|_| ());
        assert_eq!((open.needs_witness(), open.step(STANDS_IN)), (true, Step::Nothing));
        let by_choice = taken(|view| view.mode = Mode::MaximumPerformance);
        assert_eq!(by_choice.step(WaitsFor::Nobody), Step::GiveBack(BTreeSet::from([11, 12])));
        let newcomers = taken(|view| view.seats.iter_mut().for_each(|it| it.member.demoted = false));
        assert_eq!((newcomers.needs_witness(), newcomers.step(WaitsFor::OtherSite)), (false, Step::Nothing));
    }

    #[test]
    fn the_witness_is_needed_only_as_long_as_the_site_that_leads_could_commit_alone() {
        let one_is_back = |own_site| {
            changed(after(10, 2), |view| {
                (view.seats[3].votes, view.seats[3].member.demoted) = (false, true);
                view.own_site = own_site;
            })
        };
        assert!(!one_is_back("main").needs_witness(), "two of four votes are not enough");
        assert!(!one_is_back("dr").needs_witness(), "it is at the leader's own site");
    }
}

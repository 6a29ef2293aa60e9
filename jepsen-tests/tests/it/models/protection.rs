//! The protection state machine ([`saola_raft::protection::Watch`]), in all orders in which the links to the other site and to
//! the witness can come and go within a few seconds, in steps of 100 ms. 2+2+w: the leader's own site is no quorum; the witness
//! makes one, and so does the other site. Or the other site has lost its votes: the leader's own site is a quorum, and the witness
//! stands in for the other one.

use saola_raft::protection::{Action, Limits, State, View, Watch};
use saola_storage::protection::{Mode, WaitsFor};
use stateright::{Checker, Model, Property};

const STEP_MS: u64 = 100;
/// Short, so that all states are met within the scope.
const LIMITS: Limits =
    Limits { degrade_ms: 400, return_ms: 300, parity_ms: 200, shrink_ms: 600_000, asks_ms: 100, witness_lost_ms: 500 };
/// With both links it is synchronized again within so many steps.
const RECOVERS_WITHIN: u64 = 60;
const EARLY: &str = "nobody is given up before the degrade time is over";

/// Who answers the leader during a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Links {
    other_site: bool,
    witness: bool,
}

/// The leader, and what is true of the cluster whatever the leader sees.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    now_ms: u64,
    watch: Watch,
    /// For whom acknowledgements wait, as applied.
    waits_for: WaitsFor,
    /// The other site has stored the entry that closed the gate.
    in_force: bool,
    /// Proposed, and not committed yet.
    proposed: Option<Action>,
    /// When what the other site acknowledged last had been asked for.
    acknowledged_ms: u64,
    witness_ms: u64,
    /// Since when there has been a quorum without a break.
    quorum_since_ms: Option<u64>,
    losses: u32,
    was_lost: bool,
    /// An acknowledged write is not at the other site.
    lacks: bool,
    /// Somebody was to be given up before the degrade time was over.
    gives_up_early: bool,
}

impl World {
    /// How long ago those who are waited for acknowledged.
    fn silent_ms(&self) -> Option<u64> {
        let newest_ms = match self.waits_for {
            WaitsFor::Nobody => return None,
            WaitsFor::Witness => self.witness_ms,
            WaitsFor::OtherSite => self.acknowledged_ms,
        };
        Some(self.now_ms - newest_ms)
    }

    fn view(&self, model: &Protected, links: Links) -> View {
        View {
            mode: model.mode,
            waits_for: self.waits_for,
            is_in_force: self.in_force,
            has_quorum: model.has_quorum(links),
            acks: 1,
            answering: usize::from(links.other_site),
            acknowledged_ms: self.now_ms - self.acknowledged_ms,
            asked_ms: self.quorum_since_ms.map_or(0, |since| self.now_ms - since),
            since_ack_ms: Some(self.now_ms - self.acknowledged_ms),
            witness_silent_ms: Some(self.now_ms - self.witness_ms),
            witness_acknowledged_ms: Some(self.now_ms - self.witness_ms),
            needs_witness: model.is_shrunk,
            losses: self.losses,
            was_lost: self.was_lost,
        }
    }

    /// One step: somebody writes, what was proposed is committed if it can be, and the leader looks.
    fn step(&self, model: &Protected, links: Links) -> World {
        let mut next = self.clone();
        next.now_ms += STEP_MS;
        let has_quorum = model.has_quorum(links);
        next.quorum_since_ms = has_quorum.then(|| self.quorum_since_ms.unwrap_or(next.now_ms));
        if links.witness {
            next.witness_ms = next.now_ms;
        }
        if links.other_site {
            // It has all that there is, the entry that closed the gate too.
            (next.acknowledged_ms, next.lacks) = (next.now_ms, false);
            next.in_force = next.waits_for == WaitsFor::OtherSite;
        }
        let is_acknowledged = has_quorum
            && match next.waits_for {
                WaitsFor::Nobody => true,
                WaitsFor::Witness => links.witness,
                WaitsFor::OtherSite => links.other_site,
            };
        next.lacks |= is_acknowledged && !links.other_site;
        if let Some(action) = next.proposed.take_if(|_| has_quorum) {
            next.commit(action, links);
        }
        let (watch, action) = next.watch.next(&next.view(model, links), model.limits, next.now_ms);
        next.watch = watch;
        let gives_up = matches!(action, Some(Action::Degrade | Action::WaitForWitness));
        next.gives_up_early |= gives_up && next.silent_ms().is_some_and(|silent_ms| silent_ms < LIMITS.degrade_ms);
        next.proposed = action.or(next.proposed);
        next
    }

    fn commit(&mut self, action: Action, links: Links) {
        match action {
            // Stands for the last look before it is proposed: whoever was waited for acknowledges again.
            Action::Degrade | Action::WaitForWitness if self.silent_ms().is_some_and(|ms| ms < LIMITS.degrade_ms) => {
                self.watch.not_taken();
            }
            Action::Degrade => {
                self.losses += u32::from(self.waits_for == WaitsFor::OtherSite);
                (self.waits_for, self.in_force, self.was_lost) = (WaitsFor::Nobody, false, true);
            }
            Action::Synchronize => {
                (self.waits_for, self.in_force) = (WaitsFor::OtherSite, links.other_site);
            }
            Action::WaitForWitness => (self.waits_for, self.in_force) = (WaitsFor::Witness, false),
        }
    }

    /// With all links up it is synchronized again, soon enough.
    fn recovers(&self, model: &Protected) -> bool {
        let all = Links { other_site: true, witness: true };
        let mut world = self.clone();
        (0..RECOVERS_WITHIN).any(|_| {
            world = world.step(model, all);
            world.watch.state == State::Synchronized
        })
    }
}

struct Protected {
    mode: Mode,
    /// The leader's own site is a quorum.
    is_shrunk: bool,
    /// What the leader goes by.
    limits: Limits,
    /// How far the scope goes.
    until_ms: u64,
}

impl Protected {
    fn has_quorum(&self, links: Links) -> bool {
        self.is_shrunk || links.other_site || links.witness
    }
}

impl Model for Protected {
    type State = World;
    type Action = Links;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            now_ms: 0,
            watch: Watch::default(),
            waits_for: WaitsFor::OtherSite,
            in_force: true,
            proposed: None,
            acknowledged_ms: 0,
            witness_ms: 0,
            quorum_since_ms: Some(0),
            losses: 0,
            was_lost: false,
            lacks: false,
            gives_up_early: false,
        }]
    }

    fn actions(&self, _: &World, actions: &mut Vec<Links>) {
        for other_site in [true, false] {
            actions.extend([true, false].map(|witness| Links { other_site, witness }));
        }
    }

    fn next_state(&self, world: &World, links: Links) -> Option<World> {
        Some(world.step(self, links))
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.now_ms <= self.until_ms
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::<Self>::always(
                "synchronized means that the other site has all that was acknowledged",
                |_, it| !(matches!(it.watch.state, State::Synchronized | State::WitnessLost) && it.lacks),
            ),
            Property::<Self>::always(EARLY, |_, it| !it.gives_up_early),
            Property::<Self>::always("with all links it is synchronized again", |model, it| it.recovers(model)),
            Property::<Self>::sometimes("suspect", |_, it| it.watch.state == State::Suspect),
            Property::<Self>::sometimes("witness lost", |_, it| it.watch.state == State::WitnessLost),
        ];
        if self.is_shrunk {
            properties
                .push(Property::<Self>::sometimes("the witness stands in", |_, it| it.waits_for == WaitsFor::Witness));
        } else {
            properties.push(Property::<Self>::sometimes("stalled", |_, it| it.watch.state == State::Stalled));
        }
        match self.mode {
            Mode::MaximumProtection => properties.push(Property::<Self>::always(
                "under maximum protection nothing is acknowledged that the other site lacks",
                |_, it| !it.lacks,
            )),
            _ => properties.extend([
                Property::<Self>::sometimes("degrading", |_, it| it.watch.state == State::Degrading),
                Property::<Self>::sometimes("unsynchronized", |_, it| it.watch.state == State::Unsynchronized),
                Property::<Self>::sometimes("resynchronizing", |_, it| it.watch.state == State::Resynchronizing),
                Property::<Self>::sometimes("lost twice", |_, it| it.losses > 1),
            ]),
        }
        properties
    }
}

fn check(model: Protected) {
    let Protected { mode, is_shrunk, until_ms, .. } = model;
    let checker = model.checker().threads(2).spawn_bfs().join();
    let states = checker.unique_state_count();
    println!("{mode:?}, own quorum {is_shrunk}: {states} states in {until_ms} ms of virtual time");
    checker.assert_properties();
}

const AVAILABLE: Protected =
    Protected { mode: Mode::MaximumAvailability, is_shrunk: false, limits: LIMITS, until_ms: 2_400 };

#[test]
fn maximum_availability_keeps_its_word_in_every_order_of_events() {
    check(AVAILABLE);
}

#[test]
fn the_witness_stands_in_for_a_site_without_votes_in_every_order_of_events() {
    check(Protected { is_shrunk: true, ..AVAILABLE });
}

#[test]
fn maximum_protection_acknowledges_nothing_alone_in_any_order_of_events() {
    check(Protected { mode: Mode::MaximumProtection, ..AVAILABLE });
}

#[test]
fn the_model_sees_a_leader_that_gives_up_too_early() {
    let hasty = Limits { degrade_ms: LIMITS.degrade_ms / 2, ..LIMITS };
    let checker = Protected { limits: hasty, until_ms: 1_000, ..AVAILABLE }.checker().threads(2).spawn_bfs().join();
    assert!(checker.discovery(EARLY).is_some());
}

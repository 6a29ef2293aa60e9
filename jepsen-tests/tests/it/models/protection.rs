//! The protection state machine ([`saola_raft::protection::Watch`]), in all orders in which the links to the other site and to
//! the witness can come and go within a few seconds, in steps of 100 ms. 2+2+w: the leader's own site is no quorum; the witness
//! makes one, and so does the other site.

use saola_raft::protection::{Action, Limits, State, View, Watch};
use saola_storage::protection::{Mode, WaitsFor};
use stateright::{Checker, Model, Property};

const STEP_MS: u64 = 100;
/// Short, so that all states are met within the scope.
const LIMITS: Limits =
    Limits { degrade_ms: 400, return_ms: 300, parity_ms: 200, shrink_ms: 600_000, asks_ms: 100, witness_lost_ms: 500 };
/// What comes of a proposal is seen after so many steps with both links at most.
const RECOVERS_WITHIN: u64 = 60;

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
    /// The gate was opened before the degrade time was over.
    opened_early: bool,
}

impl World {
    fn view(&self, mode: Mode, links: Links) -> View {
        View {
            mode,
            waits_for: self.waits_for,
            is_in_force: self.in_force,
            has_quorum: links.other_site || links.witness,
            acks: 1,
            answering: usize::from(links.other_site),
            acknowledged_ms: self.now_ms - self.acknowledged_ms,
            asked_ms: self.quorum_since_ms.map_or(0, |since| self.now_ms - since),
            since_ack_ms: Some(self.now_ms - self.acknowledged_ms),
            witness_silent_ms: Some(self.now_ms - self.witness_ms),
            witness_acknowledged_ms: Some(self.now_ms - self.witness_ms),
            needs_witness: false,
            losses: self.losses,
            was_lost: self.was_lost,
        }
    }

    /// One step: somebody writes, what was proposed is committed if it can be, and the leader looks.
    fn step(&self, mode: Mode, links: Links) -> World {
        let mut next = self.clone();
        next.now_ms += STEP_MS;
        let has_quorum = links.other_site || links.witness;
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
        let (watch, action) = next.watch.next(&next.view(mode, links), LIMITS, next.now_ms);
        next.watch = watch;
        next.proposed = action.or(next.proposed);
        next
    }

    fn commit(&mut self, action: Action, links: Links) {
        match action {
            // Whoever was waited for acknowledges again: it is not taken.
            Action::Degrade | Action::WaitForWitness if self.now_ms - self.acknowledged_ms < LIMITS.degrade_ms => {
                self.watch.not_taken();
            }
            Action::Degrade => {
                self.opened_early |= self.now_ms - self.acknowledged_ms < LIMITS.degrade_ms;
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
    fn recovers(&self, mode: Mode) -> bool {
        let all = Links { other_site: true, witness: true };
        let mut world = self.clone();
        (0..RECOVERS_WITHIN).any(|_| {
            world = world.step(mode, all);
            world.watch.state == State::Synchronized
        })
    }
}

struct Protected {
    mode: Mode,
    /// How far the scope goes.
    until_ms: u64,
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
            opened_early: false,
        }]
    }

    fn actions(&self, _: &World, actions: &mut Vec<Links>) {
        for other_site in [true, false] {
            actions.extend([true, false].map(|witness| Links { other_site, witness }));
        }
    }

    fn next_state(&self, world: &World, links: Links) -> Option<World> {
        Some(world.step(self.mode, links))
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
            Property::<Self>::always("the gate opens no earlier than after the degrade time", |_, it| !it.opened_early),
            Property::<Self>::always("with all links it is synchronized again", |model, it| it.recovers(model.mode)),
            Property::<Self>::sometimes("suspect", |_, it| it.watch.state == State::Suspect),
            Property::<Self>::sometimes("stalled", |_, it| it.watch.state == State::Stalled),
            Property::<Self>::sometimes("witness lost", |_, it| it.watch.state == State::WitnessLost),
        ];
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

fn check(mode: Mode, until_ms: u64) {
    let checker = Protected { mode, until_ms }.checker().threads(2).spawn_bfs().join();
    println!("{mode:?}: {} states in {} ms of virtual time", checker.unique_state_count(), until_ms);
    checker.assert_properties();
}

#[test]
fn maximum_availability_keeps_its_word_in_every_order_of_events() {
    check(Mode::MaximumAvailability, 2_400);
}

#[test]
fn maximum_protection_acknowledges_nothing_alone_in_any_order_of_events() {
    check(Mode::MaximumProtection, 2_400);
}

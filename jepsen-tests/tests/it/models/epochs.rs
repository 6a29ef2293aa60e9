//! A forced promotion and the return of whoever was left behind, with crashes and cuts between all steps, in every order, within a
//! small scope: one voter at main, two learners at the other site. Whether a node takes part again is decided by [`heard`].

use bytes::Bytes;
use prost::Message;
use saola_raft::asking::{Heard, heard};
use saola_raft::folder::NodeIdentity;
use saola_raft::wire::Standing;
use saola_raft::{Member, Role};
use saola_storage::promotion::{Plan, SignedPlan, epoch_id};
use stateright::{Checker, Model, Property};

/// Nodes: one at main, and two at the other site.
const NODES: usize = 3;
const MAIN: usize = 0;
const SITES: [&str; NODES] = ["main", "dr", "dr"];
/// A leader whose quorum was confirmed within this time has one, ms.
const QUORUM_MS: u64 = 300;

/// What a node's folder says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    /// It is in epoch 1.
    First,
    /// It has promised the plan, and waits for epoch 2.
    Promised,
    /// It was left behind, and knows it.
    Fenced,
    /// It has its new number, and nothing of epoch 2.
    Back,
    /// It has the log and the records of epoch 2.
    Second,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Node {
    stage: Stage,
    is_up: bool,
    /// It takes part, in the epoch that its folder says.
    runs: bool,
}

/// What is true, seen by nobody.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    nodes: [Node; NODES],
    /// The sites reach each other.
    linked: bool,
    /// Who survives by the plan, if there is one.
    survivors: Option<[bool; NODES]>,
    /// Main took no part from the plan on, until nobody was left to clear it: what was vouched for was so when it counted.
    vouched: bool,
    /// Members and voters of epoch 2, once it has begun.
    members: [bool; NODES],
    voters: [bool; NODES],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Event {
    Crashes(usize),
    Starts(usize),
    CutOrHealed,
    /// A node that does not take part asks the others.
    Asks(usize),
    /// Somebody of a later epoch shows a node its record.
    Meets(usize),
    /// People vouch that main takes no part, and have a plan made.
    Planned,
    Promises(usize),
    /// The base begins the epoch.
    Begins(usize),
    GivenUp,
    Renumbered(usize),
    Joins(usize),
    /// It gets the records of the epoch.
    Pulls(usize),
    GetsVote(usize),
}

#[derive(Clone, Copy)]
struct Scope {
    /// Nodes that come back and have nothing yet answer those who ask; they do.
    returners_answer: bool,
}

impl World {
    fn reaches(&self, one: usize, other: usize) -> bool {
        let linked = self.linked || SITES[one] == SITES[other];
        one != other && linked && self.nodes[one].is_up && self.nodes[other].is_up
    }

    fn has_begun(&self) -> bool {
        self.voters.contains(&true)
    }

    fn takes_part(&self, node: usize, stage: Stage) -> bool {
        self.nodes[node].runs && self.nodes[node].stage == stage
    }

    /// Main is the only voter of epoch 1.
    fn first_acknowledges(&self) -> bool {
        self.takes_part(MAIN, Stage::First)
    }

    fn second_acknowledges(&self) -> bool {
        let voters = self.voters.iter().filter(|votes| **votes).count();
        let running = (0..NODES).filter(|node| self.voters[*node] && self.takes_part(*node, Stage::Second)).count();
        // Main and the other site may be apart: then those of one site must be enough.
        let together = |site: &str| {
            let here = |node: &usize| SITES[*node] == site && self.voters[*node];
            (0..NODES).filter(here).filter(|node| self.takes_part(*node, Stage::Second)).count()
        };
        let most = if self.linked { running } else { together("main").max(together("dr")) };
        voters > 0 && most > voters / 2
    }

    /// Somebody who leads epoch 2 reaches the node.
    fn is_led(&self, node: usize) -> bool {
        let leads = |other: usize| self.takes_part(other, Stage::Second) && self.reaches(other, node);
        self.second_acknowledges() && (0..NODES).any(leads)
    }

    fn member(&self, node: usize) -> Member {
        let has_new_number = matches!(self.nodes[node].stage, Stage::Back | Stage::Second) && !self.is_survivor(node);
        let node_id = 1 + node as u64 + if has_new_number { 10 } else { 0 };
        Member {
            node_id,
            name: format!("n{node}"),
            site: SITES[node].into(),
            role: Role::Voter as i32,
            folder_id: vec![node_id as u8; 16].into(),
            ..Member::default()
        }
    }

    /// How epoch 2 begins.
    fn record(&self) -> Bytes {
        let survivors: Vec<Member> =
            (0..NODES).filter(|node| self.is_survivor(*node)).map(|it| self.member(it)).collect();
        let plan = Plan {
            format: 1,
            cluster_id: vec![1; 16].into(),
            epoch: 2,
            former_epoch: 1,
            base_node: survivors.first().map_or(0, |base| base.node_id),
            members: survivors,
            ..Plan::default()
        };
        SignedPlan { plan: plan.encode_to_vec().into(), approvals: Vec::new() }.to_bytes()
    }

    fn is_survivor(&self, node: usize) -> bool {
        self.survivors.is_some_and(|all| all[node])
    }

    fn epoch(&self, node: usize) -> u64 {
        if matches!(self.nodes[node].stage, Stage::Back | Stage::Second) { 2 } else { 1 }
    }

    fn standing(&self, node: usize) -> Standing {
        let Node { stage, runs, .. } = self.nodes[node];
        let led = match stage {
            Stage::First => self.first_acknowledges(),
            _ => self.second_acknowledges(),
        };
        Standing {
            member: Some(self.member(node)),
            epoch: self.epoch(node),
            record: if self.epoch(node) == 2 { self.record() } else { Bytes::new() },
            promised: if stage == Stage::Promised { self.record() } else { Bytes::new() },
            fenced: if stage == Stage::Fenced { "left behind".into() } else { String::new() },
            reinstating: stage == Stage::Back,
            runs,
            leader: u64::from(runs && led),
            quorum_age_ms: if led { 0 } else { u64::MAX },
            ..Standing::default()
        }
    }

    /// What a node that asks hears.
    fn hears(&self, node: usize, scope: Scope) -> Heard {
        let others = (0..NODES).filter(|other| *other != node);
        let others = others.filter(|other| self.epoch(node) == 1 || self.members[*other]);
        let answers: Vec<_> = others
            .map(|other| {
                let answers = scope.returners_answer || self.nodes[other].stage != Stage::Back;
                let answer = (answers && self.reaches(node, other)).then(|| self.standing(other));
                (self.member(other), answer.ok_or_else(|| "no answer".to_owned()))
            })
            .collect();
        let elsewhere = answers.iter().any(|(member, _)| member.site != SITES[node]);
        let own = NodeIdentity {
            cluster_id: [1; 16],
            epoch: self.epoch(node),
            plan: if self.epoch(node) == 2 { epoch_id(2, Some(&self.record())).plan } else { 0 },
            node_id: self.member(node).node_id,
            folder_id: [0; 16],
            role: Role::Voter,
            site: SITES[node].into(),
            name: format!("n{node}"),
            group_id: 0,
        };
        let known = if self.epoch(node) == 2 { self.record() } else { Bytes::new() };
        match heard(&own, &known, &answers, QUORUM_MS) {
            // A site that goes on alone asks its own nodes, and waits for none of them.
            Heard::Nobody(_) if !elsewhere => Heard::Clear,
            heard => heard,
        }
    }

    fn can(&self, event: Event, scope: Scope) -> bool {
        let stage = |node: usize| self.nodes[node].stage;
        match event {
            Event::Crashes(node) => self.nodes[node].is_up,
            Event::Starts(node) => !self.nodes[node].is_up,
            Event::CutOrHealed => true,
            Event::Asks(node) => {
                let waits = self.nodes[node].is_up && !self.nodes[node].runs;
                let may = match stage(node) {
                    // Learners of epoch 1 have no vote, and need not ask.
                    Stage::First => true,
                    Stage::Second => self.members[node],
                    _ => false,
                };
                waits && may && !matches!(self.hears(node, scope), Heard::Nobody(_))
            }
            Event::Meets(node) => {
                let shows = |other: usize| stage(other) == Stage::Second && self.reaches(other, node);
                matches!(stage(node), Stage::First | Stage::Promised) && (0..NODES).any(shows)
            }
            // People see that main does not answer, and say that it has no power.
            Event::Planned => {
                let has_dr = (1..NODES).any(|node| self.nodes[node].is_up && stage(node) == Stage::First);
                self.survivors.is_none() && has_dr && (!self.linked || !self.nodes[MAIN].is_up)
            }
            Event::Promises(node) => {
                self.is_survivor(node) && !self.has_begun() && self.nodes[node].is_up && stage(node) == Stage::First
            }
            Event::Begins(node) => {
                let all = (0..NODES).all(|it| !self.is_survivor(it) || stage(it) == Stage::Promised);
                self.is_survivor(node) && !self.has_begun() && all && self.nodes[node].is_up
            }
            Event::GivenUp => {
                let all_up = (0..NODES).all(|node| !self.is_survivor(node) || self.nodes[node].is_up);
                self.survivors.is_some() && !self.has_begun() && all_up
            }
            Event::Renumbered(node) => self.nodes[node].is_up && stage(node) == Stage::Fenced && self.is_led(node),
            Event::Joins(node) => stage(node) == Stage::Back && !self.members[node] && self.is_led(node),
            Event::Pulls(node) => stage(node) == Stage::Back && self.members[node] && self.is_led(node),
            Event::GetsVote(node) => self.takes_part(node, Stage::Second) && !self.voters[node] && self.is_led(node),
        }
    }

    fn next(&self, event: Event, scope: Scope) -> World {
        let mut next = self.clone();
        let mut becomes = |node: usize, stage: Stage| next.nodes[node] = Node { stage, is_up: true, runs: false };
        match event {
            Event::Crashes(node) => (next.nodes[node].is_up, next.nodes[node].runs) = (false, false),
            Event::Starts(node) => next.nodes[node].is_up = true,
            Event::CutOrHealed => next.linked = !next.linked,
            Event::Asks(node) => match self.hears(node, scope) {
                Heard::Record(_) => return self.next(Event::Meets(node), scope),
                _ => {
                    let is_there = |it: usize| SITES[it] == "dr" && self.nodes[it].stage == Stage::First;
                    let may_be_cleared = self.survivors.is_some() && (0..NODES).any(is_there);
                    next.nodes[node].runs = true;
                    next.vouched &= node != MAIN || self.epoch(node) == 2 || !may_be_cleared;
                }
            },
            Event::Meets(node) => becomes(node, if self.is_survivor(node) { Stage::Second } else { Stage::Fenced }),
            Event::Planned => {
                let here = |node: usize| {
                    SITES[node] == "dr" && self.nodes[node].is_up && self.nodes[node].stage == Stage::First
                };
                next.survivors = Some(std::array::from_fn(here));
                next.vouched = !self.first_acknowledges();
            }
            Event::Promises(node) => becomes(node, Stage::Promised),
            Event::Begins(node) => {
                becomes(node, Stage::Second);
                next.members = self.survivors.unwrap_or_default();
                next.voters = next.members;
            }
            Event::GivenUp => {
                for node in (0..NODES).filter(|node| self.nodes[*node].stage == Stage::Promised) {
                    next.nodes[node] = Node { stage: Stage::First, is_up: true, runs: false };
                }
                next.survivors = None;
            }
            Event::Renumbered(node) => becomes(node, Stage::Back),
            Event::Joins(node) => next.members[node] = true,
            Event::Pulls(node) => becomes(node, Stage::Second),
            Event::GetsVote(node) => next.voters[node] = true,
        }
        next
    }

    fn events() -> impl Iterator<Item = Event> {
        let of_nodes = [
            Event::Crashes,
            Event::Starts,
            Event::Asks,
            Event::Meets,
            Event::Promises,
            Event::Begins,
            Event::Renumbered,
            Event::Joins,
            Event::Pulls,
            Event::GetsVote,
        ];
        let of_nodes = of_nodes.into_iter().flat_map(|event| (0..NODES).map(event));
        of_nodes.chain([Event::CutOrHealed, Event::Planned, Event::GivenUp])
    }

    /// Everything works again and nobody touches it; a plan that was begun is carried out, and whoever was left behind let in.
    fn healed(&self, scope: Scope) -> World {
        let mut world = World { linked: true, ..self.clone() };
        world.nodes.iter_mut().for_each(|node| node.is_up = true);
        let helps =
            |event: &Event| !matches!(event, Event::Crashes(_) | Event::CutOrHealed | Event::Planned | Event::GivenUp);
        while let Some(event) = World::events().filter(helps).find(|event| world.can(*event, scope)) {
            world = world.next(event, scope);
        }
        world
    }

    /// All take part in one epoch.
    fn is_whole(&self) -> bool {
        let all = |stage| (0..NODES).all(|node| self.takes_part(node, stage));
        all(Stage::First) || all(Stage::Second) && self.voters == [true; NODES]
    }
}

impl Model for Scope {
    type State = World;
    type Action = Event;

    fn init_states(&self) -> Vec<World> {
        let node = Node { stage: Stage::First, is_up: true, runs: true };
        let none = [false; NODES];
        vec![World { nodes: [node; NODES], linked: true, survivors: None, vouched: true, members: none, voters: none }]
    }

    fn actions(&self, world: &World, events: &mut Vec<Event>) {
        events.extend(World::events().filter(|event| world.can(*event, *self)));
    }

    fn next_state(&self, world: &World, event: Event) -> Option<World> {
        Some(world.next(event, *self))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("one epoch acknowledges, if what was vouched for is so", |_, it| {
                !it.vouched || !it.first_acknowledges() || !it.second_acknowledges()
            }),
            Property::<Self>::always("once everything works, all take part again, and nobody is asked", |model, it| {
                it.healed(*model).is_whole()
            }),
            // What no protocol forbids, and people answer for: a node of the promoted site that the plan does not name.
            Property::<Self>::sometimes(
                "one that knows nothing of a promotion clears main, against what was vouched for",
                |_, it| !it.vouched && it.first_acknowledges() && it.second_acknowledges(),
            ),
            Property::<Self>::sometimes("main is back with a vote", |_, it| {
                it.voters[MAIN] && it.takes_part(MAIN, Stage::Second)
            }),
            Property::<Self>::sometimes("all that have the records wait, and somebody counts on them", |_, it| {
                let has = |node: &usize| it.nodes[*node].stage == Stage::Second;
                it.members != it.voters && (0..NODES).filter(has).all(|node| !it.nodes[node].runs)
            }),
        ]
    }
}

#[test]
fn one_epoch_counts_and_all_come_back_in_every_order_of_events() {
    let checker = Scope { returners_answer: true }.checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

/// If those who come back did not answer, all that have the records would wait for them, and they for those: the model must see it.
#[test]
fn the_model_sees_nodes_that_wait_for_each_other() {
    let checker = Scope { returners_answer: false }.checker().threads(2).spawn_bfs().join();
    assert!(checker.discovery("once everything works, all take part again, and nobody is asked").is_some());
}

//! The verdict of a forced promotion, in every order in which messages can reach the other site, writes come, and the main site
//! ends, within a small scope: 3+2l, in steps of 100 ms. What [`plan`] says is held against what was acknowledged.

use saola_raft::member::{MembershipRecord, Seat, VoterSet};
use saola_raft::promotion::{View, plan};
use saola_raft::wire::{GateSeen, Standing, WireLogId};
use saola_raft::{Member, Role};
use saola_storage::promotion::{Attested, Verdict};
use stateright::{Checker, Model, Property};

/// The clock of all nodes when the scope begins, microseconds.
const BEGAN_US: u64 = 2_000_000_000;
const STEP_MS: u64 = 100;
const DEGRADE_MS: u64 = 300;
const UNTIL_MS: u64 = 1_000;
/// Entries in the log of main at most.
const MOST: u64 = 4;
/// Data nodes of the other site.
const DR: [u64; 2] = [4, 5];

fn members() -> Vec<Member> {
    let member = |node_id: u64, site: &str, role| Member {
        node_id,
        name: format!("{site}-{node_id}"),
        site: site.into(),
        role: role as i32,
        folder_id: vec![node_id as u8; 16].into(),
        ..Member::default()
    };
    let main = (1..=3).map(|id| member(id, "main", Role::Voter));
    main.chain(DR.map(|id| member(id, "dr", Role::Learner))).collect()
}

/// What people say of a site that is out of reach.
fn vouched() -> Attested {
    Attested { fenced: "without power".into(), ..Attested::default() }
}

/// What is true, seen by nobody.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    now_ms: u64,
    /// When main ended.
    stopped_ms: Option<u64>,
    /// Entries in the log of main, which its own voters commit at once; an entry is a revision.
    log: u64,
    /// The newest one that was acknowledged.
    acknowledged: u64,
    /// The entry that opened the gate.
    opened_at: Option<u64>,
    /// What each node of the other site has flushed.
    flushed: [u64; 2],
    /// When what the other site acknowledged last had been sent.
    newest_ms: u64,
    /// What each of its nodes was told of that, by a later message.
    told_ms: [u64; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Event {
    /// A write or none, and which nodes of the other site the leader's message reaches.
    Step { writes: bool, reaches: [bool; 2] },
    /// Main ends.
    Ends,
    /// Time passes after that.
    Passes,
}

impl World {
    fn next(&self, event: Event) -> World {
        let mut next = self.clone();
        match event {
            Event::Ends => next.stopped_ms = Some(next.now_ms),
            Event::Passes => next.now_ms += STEP_MS,
            Event::Step { writes, reaches } => {
                next.now_ms += STEP_MS;
                next.log += u64::from(writes);
                for (node, _) in reaches.into_iter().enumerate().filter(|(_, reached)| *reached) {
                    (next.flushed[node], next.told_ms[node]) = (next.log, self.newest_ms);
                    next.newest_ms = next.now_ms;
                }
                if next.opened_at.is_none() && next.now_ms - next.newest_ms >= DEGRADE_MS {
                    next.log += 1;
                    next.opened_at = Some(next.log);
                }
                let stored = next.flushed.into_iter().max().unwrap_or(0);
                next.acknowledged = match next.opened_at {
                    None => next.acknowledged.max(stored),
                    Some(_) => next.log,
                };
            }
        }
        next
    }

    /// What each of these nodes says of itself.
    fn standings(&self, members: &[Member], survivors: &[usize]) -> Vec<Standing> {
        let seats = members.iter().map(|it| Seat { node_id: it.node_id, member: Some(it.clone()) }).collect();
        let configs = vec![VoterSet { node_ids: vec![1, 2, 3] }];
        let membership = MembershipRecord { configs: configs.clone(), seats };
        let at = |index| Some(WireLogId { term: 3, node_id: 1, index });
        let stand = |node: &usize| {
            let (flushed, told_ms) = (self.flushed[*node], self.told_ms[*node]);
            Standing {
                member: members.iter().find(|it| it.node_id == DR[*node]).cloned(),
                cluster_id: vec![9; 16].into(),
                epoch: 1,
                last: at(flushed),
                vote_term: 3,
                membership: Some(membership.clone()),
                membership_at: at(0),
                applied_voters: configs.clone(),
                revision: flushed,
                gate: Some(GateSeen {
                    is_closed: self.opened_at.is_none_or(|opened| opened > flushed),
                    is_maximum: false,
                    acks: 1,
                    degrade_ms: DEGRADE_MS,
                    is_newest: true,
                    acknowledged_age_ms: Some(self.now_ms - told_ms),
                }),
                ..Standing::default()
            }
        };
        survivors.iter().map(stand).collect()
    }

    /// What the plan says with these survivors, and how many acknowledged writes they lack.
    fn verdict(&self, members: &[Member], survivors: &[usize], attested: &Attested) -> (Verdict, u64, u64) {
        let standings = self.standings(members, survivors);
        let now_us = BEGAN_US + self.now_ms * 1_000;
        let view = View { epoch: 1, site: "dr", standings: &standings, attested, now_us, carried_out: &[] };
        let plan = plan(&view).expect("main is silent, and that is vouched for");
        let base = survivors.iter().map(|node| self.flushed[*node]).max().unwrap_or(0);
        (plan.verdict(), plan.lost_revisions, self.acknowledged.saturating_sub(base))
    }

    /// Whoever survives, and whatever people vouch for truly: what is said of the loss is so.
    fn is_told_truly(&self, members: &[Member]) -> bool {
        let stopped_us = self.stopped_ms.map(|ms| BEGAN_US + ms * 1_000);
        let counts = [None, Some(self.log)].map(|last_revision| last_revision.filter(|_| stopped_us.is_some()));
        [&[0, 1][..], &[0], &[1]].into_iter().all(|survivors| {
            counts.into_iter().all(|last_revision| {
                let attested = Attested { stopped_us, unchanged: true, last_revision, ..vouched() };
                match self.verdict(members, survivors, &attested) {
                    (Verdict::ProvenZero, _, lost) => lost == 0,
                    (Verdict::Bounded, most, lost) => lost <= most,
                    (Verdict::Unknown, ..) => true,
                }
            })
        })
    }

    fn is_proven(&self, members: &[Member]) -> bool {
        let stopped_us = self.stopped_ms.map(|ms| BEGAN_US + ms * 1_000);
        let attested = Attested { stopped_us, unchanged: true, ..vouched() };
        self.verdict(members, &[0, 1], &attested).0 == Verdict::ProvenZero
    }
}

struct Disaster {
    members: Vec<Member>,
}

impl Model for Disaster {
    type State = World;
    type Action = Event;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            now_ms: 0,
            stopped_ms: None,
            log: 0,
            acknowledged: 0,
            opened_at: None,
            flushed: [0; 2],
            newest_ms: 0,
            told_ms: [0; 2],
        }]
    }

    fn actions(&self, world: &World, events: &mut Vec<Event>) {
        if world.stopped_ms.is_some() {
            return events.push(Event::Passes);
        }
        events.push(Event::Ends);
        for reaches in [[false, false], [true, false], [false, true], [true, true]] {
            events.push(Event::Step { writes: false, reaches });
            if world.log < MOST {
                events.push(Event::Step { writes: true, reaches });
            }
        }
    }

    fn next_state(&self, world: &World, event: Event) -> Option<World> {
        Some(world.next(event))
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.now_ms <= UNTIL_MS
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::<Self>::always("what is said of the loss is so", |model, it| it.is_told_truly(&model.members)),
            Property::<Self>::sometimes("zero is proven although main had written", |model, it| {
                it.log > 0 && it.is_proven(&model.members)
            }),
            Property::<Self>::sometimes("acknowledged writes are lost", |model, it| {
                it.verdict(&model.members, &[0, 1], &vouched()).2 > 0
            }),
        ]
    }
}

#[test]
fn the_verdict_is_true_in_every_order_of_events() {
    let checker = Disaster { members: members() }.checker().threads(2).spawn_bfs().join();
    println!("{} states", checker.unique_state_count());
    checker.assert_properties();
}

/// An age that is told too young would prove what is not so: the model must see it.
#[test]
fn the_model_sees_a_verdict_that_is_not_true() {
    let members = members();
    let step = |world: World, writes, reaches| world.next(Event::Step { writes, reaches });
    let mut world = Disaster { members: members.clone() }.init_states().remove(0);
    world = step(world, true, [true, true]);
    for _ in 0..5 {
        world = step(world, true, [false, false]);
    }
    world = world.next(Event::Ends);
    assert!(world.acknowledged > 1 && world.is_told_truly(&members) && !world.is_proven(&members));
    world.told_ms = [world.now_ms; 2];
    assert!(!world.is_told_truly(&members));
}

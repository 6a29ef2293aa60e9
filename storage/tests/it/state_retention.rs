//! Promises about what policy removes, and what it leaves: one random log on both engines, against a naive model.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use saola_storage::chain::Link;
use saola_storage::command::{
    Collect, Collected, Command, CompactChanges, Decision, Op, Release, RetentionChange, RetentionLimits, SetRetention,
    TimeMark,
};
use saola_storage::error::StoreError;
use saola_storage::retention::Retention;
use saola_storage::store::{At, Store, StoredVersion, View};

use crate::state_support::*;

const IDS: [&[u8]; 5] = [b"a", b"a\0", b"ab", b"b", &[0xff]];

#[derive(Clone, Debug)]
enum Step {
    Put(usize),
    Delete(usize),
    TimeMark,
    Limits(u64, u64),
    Hold,
    Release,
    Collect { up_to: prop::sample::Index, ahead: u64, after: Option<usize>, max_records: u64 },
    Compact(u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let collect = (any::<prop::sample::Index>(), 0..3_u64, prop::option::weighted(0.3, 0..IDS.len()), 1..7_u64);
    prop_oneof![
        12 => (0..IDS.len()).prop_map(Step::Put),
        3 => (0..IDS.len()).prop_map(Step::Delete),
        1 => Just(Step::TimeMark),
        2 => (0..4_u64, 0..3_u64).prop_map(|(generations, age)| Step::Limits(generations, age)),
        1 => Just(Step::Hold),
        1 => Just(Step::Release),
        5 => collect.prop_map(|(up_to, ahead, after, max_records)| Step::Collect { up_to, ahead, after, max_records }),
        1 => (0..60_u64, 1..9_u64).prop_map(|(up_to, rows)| Step::Compact(up_to, rows)),
    ]
}

/// Entries with their stamps, and how many entries each apply call takes.
fn log() -> impl Strategy<Value = (Vec<(u64, Vec<Step>)>, Vec<usize>)> {
    (vec((0..6000_u64, vec(step(), 1..6)), 1..25), vec(1..6_usize, 25))
}

#[derive(Clone, Debug, PartialEq)]
struct Version {
    generation: u64,
    revision: u64,
    at: u64,
    live: bool,
}

#[derive(Default)]
struct Model {
    /// Every version that was ever written, and which of them are kept.
    records: BTreeMap<&'static [u8], Vec<(Version, bool)>>,
    policy: Retention,
    floor: u64,
    changes_floor: u64,
    revision: u64,
    clock: u64,
}

impl Model {
    fn write(&mut self, id: usize, stamp: u64, live: bool) {
        let versions = self.records.entry(IDS[id]).or_default();
        if !live && !versions.last().is_some_and(|(last, _)| last.live) {
            return;
        }
        self.revision += 1;
        self.clock = (self.clock + 1).max(stamp);
        let version = Version { generation: versions.len() as u64 + 1, revision: self.revision, at: self.clock, live };
        versions.push((version, true));
    }

    /// What is there to say of a collection: how many versions went, and the cursor. Where something went, nothing
    /// earlier can be read.
    fn collect(&mut self, up_to: u64, after: Option<usize>, max_records: u64) -> Collected {
        let collected = self.remove(up_to, after, max_records);
        if collected.removed > 0 {
            self.floor = self.floor.max(up_to.min(self.revision));
        }
        collected
    }

    fn remove(&mut self, up_to: u64, after: Option<usize>, max_records: u64) -> Collected {
        let up_to = up_to.min(self.revision);
        let policy = self.policy.clone();
        let mut collected = Collected { removed: 0, done: true, next_after: Bytes::new() };
        if policy.max_generations == 0 && policy.max_age_ms == 0 {
            return collected;
        }
        let from = after.map(|after| IDS[after]).unwrap_or_default();
        let behind = self.records.iter_mut().filter(|(id, versions)| **id > from && !versions.is_empty());
        for (place, (id, versions)) in behind.enumerate() {
            if place as u64 == max_records {
                collected.done = false;
                return collected;
            }
            collected.next_after = Bytes::from_static(id);
            let newest_generation = versions.len() as u64;
            let newest_below = versions.iter().rposition(|(version, _)| version.revision <= up_to);
            for place in 0..newest_below.unwrap_or(0) {
                let next_at = versions[place + 1].0.at;
                let (version, kept) = &mut versions[place];
                let too_many =
                    policy.max_generations > 0 && version.generation + policy.max_generations <= newest_generation;
                let too_old = policy.max_age_ms > 0 && self.clock >= next_at + policy.max_age_ms * 1000;
                if *kept && (too_many || too_old) {
                    *kept = false;
                    collected.removed += 1;
                }
            }
        }
        collected.next_after = Bytes::new();
        collected
    }

    fn check(&self, view: &View) {
        let collection = view.collection("agency").expect("the collection was created");
        assert_eq!((collection.collected_below, &collection.retention), (self.floor, &self.policy));
        let all = || self.records.values().flatten();
        let kept = all().filter(|(_, kept)| *kept).count() as u64;
        assert_eq!((view.counts().versions, view.counts().removed), (kept, all().count() as u64 - kept));
        for id in IDS {
            let none = Vec::new();
            let versions = self.records.get(id).unwrap_or(&none);
            let first = versions.iter().find(|(_, kept)| *kept).map(|(version, _)| version);
            for revision in 1..=self.revision {
                // Before the oldest kept version: only if that is the first one, nothing can have stood there.
                let gone = first.is_some_and(|first| first.generation > 1 && revision < first.revision);
                let expected = versions.iter().rev().find(|(version, _)| version.revision <= revision);
                match view.get(&collection, id, At::Revision(revision)) {
                    Err(StoreError::RecordGone { asked, oldest, .. }) => {
                        assert_eq!((gone, asked, Some(oldest)), (true, revision, first.map(|first| first.revision)));
                    }
                    found => {
                        assert!(!gone, "revision {revision} was collected");
                        assert_eq!(found.expect("a read").as_ref().map(version), expected.map(|(v, _)| v.clone()));
                    }
                }
            }
            let kept: Vec<&Version> = versions.iter().filter(|(_, kept)| *kept).map(|(version, _)| version).collect();
            let oldest = kept.first().map_or(0, |version| version.generation);
            for (expected, kept) in versions {
                match view.get(&collection, id, At::Generation(expected.generation)) {
                    Err(StoreError::GenerationGone { asked, oldest: named, .. }) => {
                        assert!(!kept && (asked, named) == (expected.generation, oldest));
                    }
                    found => assert_eq!(found.expect("a read").as_ref().map(version), Some(expected.clone())),
                }
            }
            let beyond = view.get(&collection, id, At::Generation(versions.len() as u64 + 1));
            assert_eq!(beyond.expect("a read"), None, "it never was");
            let history: Vec<StoredVersion> =
                view.history(&collection, id, u64::MAX, false).map(|version| version.expect("a version")).collect();
            assert_eq!(history.iter().map(version).collect::<Vec<_>>(), kept.into_iter().cloned().collect::<Vec<_>>());
            check_chain(&collection.incarnation, &history);
        }
        for revision in self.floor.max(1)..=self.revision {
            let expected: Vec<&[u8]> = (self.records.iter())
                .filter(|(_, versions)| {
                    versions.iter().rev().find(|(v, _)| v.revision <= revision).is_some_and(|(version, _)| version.live)
                })
                .map(|(id, _)| *id)
                .collect();
            let found = view.list(&collection, b"", None, revision, 100).expect("a list");
            assert_eq!(found.iter().map(|version| &version.id[..]).collect::<Vec<_>>(), expected);
        }
        if self.floor > 1 {
            let gone = view.list(&collection, b"", None, self.floor - 1, 100);
            assert!(matches!(gone, Err(StoreError::RevisionGone { .. })));
        }
        assert_eq!(view.oldest_change(), self.changes_floor + 1);
    }
}

fn version(found: &StoredVersion) -> Version {
    let live = found.op != saola_storage::store::VersionOp::Delete;
    Version { generation: found.generation, revision: found.revision, at: found.recorded_at_us, live }
}

/// Each version but the oldest kept one is linked to the one before.
fn check_chain(incarnation: &[u8; 16], versions: &[StoredVersion]) {
    for pair in versions.windows(2) {
        let version = &pair[1];
        let link = Link {
            incarnation,
            id: &version.id,
            generation: version.generation,
            revision: version.revision,
            recorded_at_us: version.recorded_at_us,
            op: version.op,
            content_type: &version.content_type,
            provenance: version.provenance.as_ref(),
            digest: &version.digest,
        };
        assert_eq!(version.chain, link.after(&pair[0].chain));
    }
}

fn change(change: RetentionChange) -> Command {
    command(Op::SetRetention(SetRetention { collection: "agency".into(), change: Some(change) }))
}

fn limits(max_generations: u64, max_age_ms: u64) -> Command {
    change(RetentionChange::Limits(RetentionLimits { max_generations, max_age_ms }))
}

fn collect(up_to_revision: u64, after_id: &[u8], max_records: u64) -> Command {
    command(Op::Collect(Collect {
        up_to_revision,
        collection: 1,
        incarnation: vec![1; 16].into(),
        after_id: Bytes::copy_from_slice(after_id),
        max_records,
    }))
}

fn compact(up_to_revision: u64, max_rows: u64) -> Command {
    command(Op::CompactChanges(CompactChanges { up_to_revision, max_rows }))
}

/// Runs the model over the steps; returns the commands, and what each collection answers.
fn commands(model: &mut Model, log: &[(u64, Vec<Step>)]) -> (Vec<(u64, Vec<Command>)>, Vec<Decision>) {
    let (mut entries, mut answers) = (Vec::new(), Vec::new());
    for (stamp, steps) in log {
        let mut commands = Vec::new();
        for step in steps {
            commands.push(match step {
                Step::Put(id) => {
                    model.write(*id, *stamp, true);
                    put("agency", 1, IDS[*id], b"value", None)
                }
                Step::Delete(id) => {
                    model.write(*id, *stamp, false);
                    delete("agency", IDS[*id], None)
                }
                Step::TimeMark => {
                    model.clock = model.clock.max(*stamp);
                    command(Op::TimeMark(TimeMark {}))
                }
                Step::Limits(max_generations, max_age_ms) => {
                    model.policy.max_generations = *max_generations;
                    model.policy.max_age_ms = *max_age_ms;
                    limits(*max_generations, *max_age_ms)
                }
                Step::Hold => {
                    model.policy.hold = "case 7".into();
                    change(RetentionChange::Hold("case 7".into()))
                }
                Step::Release => {
                    model.policy.hold.clear();
                    change(RetentionChange::Release(Release {}))
                }
                Step::Collect { up_to, ahead, after, max_records } => {
                    let up_to = up_to.index(model.revision as usize) as u64 + 1 + ahead;
                    answers.push(match model.policy.hold.is_empty() {
                        true => Decision::Collected(model.collect(up_to, *after, *max_records)),
                        false => Decision::OnHold(saola_storage::command::OnHold { reason: model.policy.hold.clone() }),
                    });
                    collect(up_to, after.map(|after| IDS[after]).unwrap_or_default(), *max_records)
                }
                Step::Compact(up_to, rows) => {
                    let last = (*up_to).min(model.revision).min(model.changes_floor + rows);
                    model.changes_floor = model.changes_floor.max(last);
                    compact(*up_to, *rows)
                }
            });
        }
        entries.push((*stamp, commands));
    }
    (entries, answers)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn both_engines_remove_what_the_model_removes_and_nothing_else((steps, calls) in log()) {
        let mut model = Model { revision: 1, changes_floor: 1, ..Model::default() };
        let (entries, expected) = commands(&mut model, &steps);
        let mut digests = Vec::new();
        for (home, calls) in homes().iter().zip([&[1][..], &calls]) {
            let store = started(home);
            let mut answers = Vec::new();
            let (mut index, mut rest, mut calls) = (1, &entries[..], calls.iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at((*calls.next().expect("a cycle")).min(rest.len()));
                let batch = now.iter().zip(index..).map(|((stamp, commands), at)| entry(at, *stamp, commands.clone()));
                let outcomes = store.apply(batch.collect()).expect("a log applies");
                let decisions = outcomes.into_iter().flatten().filter_map(|outcome| outcome.decision);
                answers.extend(decisions.filter(|d| matches!(d, Decision::Collected(_) | Decision::OnHold(_))));
                (index, rest) = (index + now.len() as u64, later);
            }
            // A hold that is set again answers that it is done, so all of these are about collections.
            prop_assert_eq!(&answers, &expected);
            model.check(&store.view());
            let view = store.view();
            let kept = view.kept_digest().expect("a digest");
            prop_assert_eq!(kept, view.recomputed_digest().expect("a digest"));
            store.flush().expect("a flush");
            drop((view, store));
            model.check(&open(home).view());
            digests.push(kept);
        }
        prop_assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

/// Collects up to a revision until it is done; returns how many versions each command removed.
fn pass(store: &Store, up_to: u64, max_records: u64) -> Vec<u64> {
    let (mut removed, mut after) = (Vec::new(), Bytes::new());
    loop {
        let Decision::Collected(collected) = decide(store, collect(up_to, &after, max_records)) else {
            panic!("it was collected");
        };
        removed.push(collected.removed);
        if collected.done {
            return removed;
        }
        after = collected.next_after;
    }
}

#[test]
fn one_command_looks_at_a_bounded_number_of_versions_and_the_pass_still_ends() {
    let home = memory_home();
    let store = started(&home);
    decide(&store, limits(1, 0));
    for _ in 0..50 {
        apply(&store, (0..100).map(|_| put("agency", 1, b"busy", b"value", None)).collect());
        apply(&store, vec![put("agency", 1, b"zebra", b"value", None)]);
    }
    let removed = pass(&store, u64::MAX, 100);
    assert_eq!(removed.iter().sum::<u64>(), 4999 + 49);
    assert!(removed.len() > 1 && removed.iter().all(|removed| *removed <= 4096), "{removed:?}");
    let view = store.view();
    assert_eq!(view.counts().versions, 2);
    assert_eq!(view.kept_digest().expect("a digest"), view.recomputed_digest().expect("a digest"));
}

#[test]
fn a_pass_in_small_steps_removes_what_one_command_would() {
    let build = |home: &TestHome| {
        let store = started(home);
        decide(&store, limits(2, 0));
        for number in 0..60_u8 {
            decide(&store, put("agency", 1, &[b'a' + number % 7], &[number], None));
        }
        store
    };
    let (one, other) = (memory_home(), memory_home());
    let (one, other) = (build(&one), build(&other));
    assert_eq!(pass(&one, 40, 1).iter().sum::<u64>(), pass(&other, 40, 100).iter().sum::<u64>());
    assert_eq!(one.view().recomputed_digest().expect("a digest"), other.view().recomputed_digest().expect("a digest"));
}

#[test]
fn a_hold_wins_over_a_collection_that_is_under_way_and_over_another_hold() {
    let home = memory_home();
    let store = started(&home);
    apply(&store, (0..9).map(|_| put("agency", 1, b"x", b"value", None)).collect());
    let commands = vec![limits(1, 0), change(RetentionChange::Hold("case 7".into())), collect(9, b"", 9)];
    let held = apply(&store, commands).pop().and_then(|outcome| outcome.decision);
    assert!(matches!(&held, Some(Decision::OnHold(hold)) if hold.reason == "case 7"), "{held:?}");
    assert_eq!((store.view().counts().versions, store.view().counts().removed), (9, 0));
    assert_eq!(store.view().collection("agency").map(|agency| agency.collected_below), Some(0));
    let other = decide(&store, change(RetentionChange::Hold("case 8".into())));
    assert!(matches!(&other, Decision::OnHold(hold) if hold.reason == "case 7"), "{other:?}");
    decide(&store, change(RetentionChange::Release(Release {})));
    assert_eq!(pass(&store, 9, 9), [7]);
}

#[test]
fn a_collection_that_keeps_all_stays_readable_at_every_revision() {
    let home = memory_home();
    let store = started(&home);
    apply(&store, (0..9).map(|_| put("agency", 1, b"x", b"value", None)).collect());
    assert_eq!(pass(&store, 9, 9), [0]);
    let view = store.view();
    let agency = view.collection("agency").expect("the collection was created");
    for revision in 2..=10 {
        let found = view.get(&agency, b"x", At::Revision(revision)).expect("a read").expect("a version");
        assert_eq!(found.revision, revision);
    }
    let foreign = Collect { incarnation: vec![9; 16].into(), collection: 1, ..Collect::default() };
    assert!(matches!(decide(&store, command(Op::Collect(foreign))), Decision::UnknownCollection(_)));
}

#[test]
fn the_change_window_leaves_every_version() {
    let home = memory_home();
    let store = started(&home);
    apply(&store, (0..9).map(|_| put("agency", 1, b"x", b"value", None)).collect());
    for (rows, floor) in [(3, 4), (9, 8), (9, 8)] {
        let compacted = decide(&store, compact(8, rows));
        assert!(matches!(compacted, Decision::ChangesCompacted(changes) if changes.floor == floor), "{compacted:?}");
    }
    let view = store.view();
    assert_eq!((view.oldest_change(), view.counts().versions), (9, 9));
    assert_eq!(view.kept_digest().expect("a digest"), view.recomputed_digest().expect("a digest"));
    for revision in 2..=10 {
        let at = view.revision_at_time(view.applied().clock_us + revision - 10).expect("a read");
        assert_eq!(at, revision, "the time index does not need the feed");
    }
}

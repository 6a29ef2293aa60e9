//! One random log, applied on both engines and to a model of a few lines.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use saola_storage::chain::Link;
use saola_storage::command::{
    Command, Conflict, Decision, Done, Expect, ExpectKind, NotFound, Op, Outcome, RequestId, Reseal, TimeMark,
    UnknownCollection, Written,
};
use saola_storage::store::{At, Store, StoredVersion, VersionOp, View};

use crate::state_support::*;

const IDS: [&[u8]; 7] = [b"a", b"a\0", b"a\0\0b", b"ab", b"b", &[0], &[0xff, 0xff]];
const COLLECTIONS: [(&str, u8); 2] = [("agency", 1), ("person", 2)];

#[derive(Clone, Debug)]
enum Step {
    Put {
        collection: usize,
        id: usize,
        value: Vec<u8>,
        expect: Option<Expect>,
        foreign_key: bool,
    },
    Delete {
        collection: usize,
        id: usize,
        expect: Option<Expect>,
    },
    /// Sends an earlier command again.
    Retry(prop::sample::Index),
    TimeMark,
    Digest,
}

fn condition() -> impl Strategy<Value = Option<Expect>> {
    prop_oneof![
        4 => Just(None),
        1 => Just(expect(ExpectKind::Any, 0)),
        2 => Just(expect(ExpectKind::Absent, 0)),
        3 => (0..5_u64).prop_map(|generation| expect(ExpectKind::Generation, generation)),
        1 => Just(Some(Expect { kind: 99, generation: 0 })),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    // The collection after the last one does not exist.
    let record = || (0..=COLLECTIONS.len(), 0..IDS.len(), condition());
    prop_oneof![
        8 => (record(), vec(any::<u8>(), 0..20), prop::bool::weighted(0.1)).prop_map(
            |((collection, id, expect), value, foreign_key)| Step::Put { collection, id, value, expect, foreign_key }
        ),
        4 => record().prop_map(|(collection, id, expect)| Step::Delete { collection, id, expect }),
        2 => any::<prop::sample::Index>().prop_map(Step::Retry),
        1 => Just(Step::TimeMark),
        1 => Just(Step::Digest),
    ]
}

/// Entries with their stamps, and how many entries each apply call takes.
fn log() -> impl Strategy<Value = (Vec<(u64, Vec<Step>)>, Vec<usize>)> {
    (vec((0..1000_u64, vec(step(), 1..4)), 1..40), vec(1..6_usize, 40))
}

#[derive(Clone, PartialEq)]
struct Version {
    generation: u64,
    revision: u64,
    at: u64,
    op: VersionOp,
    envelope: Bytes,
}

#[derive(Default)]
struct Model {
    records: BTreeMap<(usize, Vec<u8>), Vec<Version>>,
    revision: u64,
    clock: u64,
    outcomes: BTreeMap<(Bytes, u64), Outcome>,
}

impl Model {
    fn apply(&mut self, index: u64, stamp: u64, command: &Command) -> Option<Outcome> {
        let known = command.request.as_ref().map(|request| (request.client.clone(), request.sequence));
        if let Some(outcome) = known.as_ref().and_then(|known| self.outcomes.get(known)) {
            return Some(Outcome { replayed: true, ..outcome.clone() });
        }
        let decision = match command.op.as_ref().expect("every command does something") {
            Op::Put(put) => {
                let expect = put.expect.as_ref();
                self.write(&put.collection, &put.id, stamp, expect, VersionOp::Put, &put.envelope)
            }
            Op::Delete(delete) => {
                let expect = delete.expect.as_ref();
                self.write(&delete.collection, &delete.id, stamp, expect, VersionOp::Delete, &Bytes::new())
            }
            Op::TimeMark(_) => {
                self.clock = self.clock.max(stamp);
                Decision::Done(Done {})
            }
            _ => return None,
        };
        let outcome = Outcome {
            index,
            revision: self.revision,
            recorded_at_us: self.clock,
            replayed: false,
            decision: Some(decision),
        };
        if let Some(known) = known.filter(|_| !matches!(outcome.decision, Some(Decision::Reseal(_)))) {
            self.outcomes.insert(known, outcome.clone());
        }
        Some(outcome)
    }

    fn write(
        &mut self,
        name: &str,
        id: &[u8],
        stamp: u64,
        expect: Option<&Expect>,
        op: VersionOp,
        envelope: &Bytes,
    ) -> Decision {
        let Some(collection) = COLLECTIONS.iter().position(|(other, _)| *other == name) else {
            return Decision::UnknownCollection(UnknownCollection {});
        };
        let versions = self.records.entry((collection, id.to_vec())).or_default();
        let (generation, revision) = versions.last().map_or((0, 0), |last| (last.generation, last.revision));
        let live = versions.last().is_some_and(|last| last.op == VersionOp::Put);
        let holds = expect.is_none_or(|expect| match expect.kind {
            0 => true,
            1 => !live,
            2 => expect.generation == generation,
            _ => false,
        });
        if !holds {
            return Decision::Conflict(Conflict { live, generation, revision });
        }
        if op == VersionOp::Delete && !live {
            return Decision::NotFound(NotFound {});
        }
        if op == VersionOp::Put && envelope[2] != COLLECTIONS[collection].1 {
            return Decision::Reseal(Reseal {});
        }
        self.revision += 1;
        self.clock = stamp.max(self.clock + 1);
        let generation = generation + 1;
        let envelope = envelope.clone();
        versions.push(Version { generation, revision: self.revision, at: self.clock, op, envelope });
        Decision::Written(Written { generation })
    }

    fn at(&self, collection: usize, id: &[u8], revision: u64) -> Option<&Version> {
        let versions = self.records.get(&(collection, id.to_vec()))?;
        versions.iter().rev().find(|version| version.revision <= revision)
    }

    fn check(&self, view: &View) {
        assert_eq!(view.applied().revision, self.revision);
        assert_eq!(view.applied().clock_us, self.clock);
        let live = |versions: &Vec<Version>| versions.last().is_some_and(|last| last.op == VersionOp::Put);
        assert_eq!(view.counts().records, self.records.values().filter(|versions| live(versions)).count() as u64);
        assert_eq!(view.counts().versions, self.revision - 1);
        for (place, (name, _)) in COLLECTIONS.iter().enumerate() {
            let collection = view.collection(name).expect("the collection was created");
            for id in IDS {
                let none = Vec::new();
                let versions = self.records.get(&(place, id.to_vec())).unwrap_or(&none);
                for revision in 0..=self.revision + 1 {
                    let found = view.get(&collection, id, At::Revision(revision)).expect("a read");
                    same(found.as_ref(), self.at(place, id, revision));
                    let upto = versions.iter().filter(|version| version.revision <= revision);
                    let forwards: Vec<_> = view.history(&collection, id, revision, false).collect();
                    let backwards: Vec<_> = view.history(&collection, id, revision, true).collect();
                    assert_eq!((forwards.len(), backwards.len()), (upto.clone().count(), upto.clone().count()));
                    for (found, version) in forwards.into_iter().zip(upto.clone()) {
                        same(Some(&found.expect("a version")), Some(version));
                    }
                    for (found, version) in backwards.into_iter().zip(upto.rev()) {
                        same(Some(&found.expect("a version")), Some(version));
                    }
                }
                for version in versions {
                    let found = view.get(&collection, id, At::Generation(version.generation)).expect("a read");
                    same(found.as_ref(), Some(version));
                }
                check_chain(
                    &collection.incarnation,
                    view.history(&collection, id, u64::MAX, false).map(|v| v.expect("a version")),
                );
            }
            for revision in [1, self.revision / 2, self.revision] {
                self.check_list(view, place, name, revision);
            }
        }
        let times: Vec<(u64, u64)> =
            self.records.values().flatten().map(|version| (version.at, version.revision)).collect();
        for time in times.iter().flat_map(|(at, _)| [at.saturating_sub(1), *at, at + 1]) {
            let expected = times.iter().filter(|(at, _)| *at <= time).map(|(_, revision)| *revision).max().unwrap_or(1);
            assert_eq!(view.revision_at_time(time).expect("a read"), expected);
        }
    }

    fn check_list(&self, view: &View, place: usize, name: &str, revision: u64) {
        let collection = view.collection(name).expect("the collection was created");
        for prefix in [&b""[..], b"a", b"a\0", &[0xff]] {
            let expected: Vec<&[u8]> = self
                .records
                .keys()
                .filter(|(collection, id)| *collection == place && id.starts_with(prefix))
                .filter(|(_, id)| self.at(place, id, revision).is_some_and(|version| version.op == VersionOp::Put))
                .map(|(_, id)| &id[..])
                .collect();
            let mut found: Vec<Bytes> = Vec::new();
            loop {
                let page = view.list(&collection, prefix, found.last().map(|id| &id[..]), revision, 2).expect("a page");
                for version in &page {
                    same(Some(version), self.at(place, &version.id, revision));
                    found.push(version.id.clone());
                }
                if page.len() < 2 {
                    break;
                }
            }
            assert_eq!(found, expected);
        }
    }
}

fn same(found: Option<&StoredVersion>, expected: Option<&Version>) {
    let found = found.map(|version| Version {
        generation: version.generation,
        revision: version.revision,
        at: version.recorded_at_us,
        op: version.op,
        envelope: version.envelope.clone(),
    });
    assert!(found.as_ref() == expected, "a read differs from the model");
}

fn check_chain(incarnation: &[u8; 16], versions: impl Iterator<Item = StoredVersion>) {
    let mut previous = [0; 32];
    for version in versions {
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
        previous = link.after(&previous);
        assert_eq!(version.chain, previous);
    }
}

/// Turns steps into commands; all but marks and digests carry a request id.
fn commands(steps: &[(u64, Vec<Step>)]) -> Vec<(u64, Vec<Command>)> {
    let mut sent: Vec<Command> = Vec::new();
    let mut entries = Vec::new();
    for (stamp, steps) in steps {
        let mut commands = Vec::new();
        for step in steps {
            let name = |place: usize| COLLECTIONS.get(place).map_or("nowhere", |(name, _)| name);
            let op = match step {
                Step::Put { collection, id, value, expect, foreign_key } => {
                    let key = COLLECTIONS.get(*collection).map_or(1, |(_, key)| *key);
                    put(name(*collection), if *foreign_key { 3 - key } else { key }, IDS[*id], value, *expect)
                }
                Step::Delete { collection, id, expect } => delete(name(*collection), IDS[*id], *expect),
                Step::TimeMark => command(Op::TimeMark(TimeMark {})),
                Step::Digest => digest(),
                Step::Retry(_) if sent.is_empty() => continue,
                Step::Retry(which) => {
                    commands.push(which.get(&sent).clone());
                    continue;
                }
            };
            if matches!(op.op, Some(Op::TimeMark(_) | Op::TakeDigest(_))) {
                commands.push(op);
                continue;
            }
            let sequence = sent.len() as u64 + 1;
            let client = vec![(sequence % 3) as u8; 16].into();
            let request = Some(RequestId { client, since: 1, sequence, done_below: 0 });
            sent.push(Command { request, ..op });
            commands.extend(sent.last().cloned());
        }
        entries.push((*stamp, commands));
    }
    entries
}

fn run(store: &Store, entries: &[(u64, Vec<Command>)], calls: &[usize]) -> Vec<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    let mut index = store.applied().log_id.map_or(0, |last| last.index + 1);
    let mut rest = entries;
    for call in calls.iter().cycle() {
        if rest.is_empty() {
            return outcomes;
        }
        let (now, later) = rest.split_at((*call).min(rest.len()));
        let mut batch = Vec::new();
        for (stamp, commands) in now {
            batch.push(entry(index, *stamp, commands.clone()));
            index += 1;
        }
        outcomes.extend(store.apply(batch).expect("a log applies"));
        rest = later;
    }
    outcomes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn both_engines_do_what_the_model_does((steps, calls) in log()) {
        let entries = commands(&steps);
        let mut model = Model { revision: 1, ..Model::default() };
        let expected: Vec<Vec<Option<Outcome>>> = (1..)
            .zip(&entries)
            .map(|(index, (stamp, commands))| commands.iter().map(|c| model.apply(index, *stamp, c)).collect())
            .collect();
        let mut results = Vec::new();
        for home in homes() {
            let store = started(&home);
            let outcomes = run(&store, &entries, &calls);
            prop_assert_eq!(outcomes.len(), expected.len());
            for (found, expected) in outcomes.iter().flatten().zip(expected.iter().flatten()) {
                if let Some(expected) = expected {
                    prop_assert_eq!(found, expected);
                }
            }
            let view = store.view();
            model.check(&view);
            let kept = view.kept_digest().expect("a digest");
            prop_assert_eq!(kept, view.recomputed_digest().expect("a digest"));
            results.push((outcomes, kept));
        }
        for pair in results.windows(2) {
            prop_assert_eq!(&pair[0], &pair[1]);
        }
    }

    #[test]
    fn the_size_of_apply_calls_changes_nothing((steps, calls) in log()) {
        let entries = commands(&steps);
        let (one, other) = (memory_home(), memory_home());
        let (one, other) = (started(&one), started(&other));
        prop_assert_eq!(run(&one, &entries, &[1]), run(&other, &entries, &calls));
        prop_assert_eq!(one.view().kept_digest().expect("a digest"), other.view().kept_digest().expect("a digest"));
    }

    #[test]
    fn a_restart_anywhere_and_a_replay_lead_to_the_same_state(
        (steps, calls) in log(),
        flush_after in any::<prop::sample::Index>(),
    ) {
        let entries = commands(&steps);
        let straight = memory_home();
        let straight = started(&straight);
        let outcomes = run(&straight, &entries, &calls);

        let home = std::sync::Arc::new(saola_storage::engine::memory::MemoryHome::new());
        let open = || Store::open(home.clone(), saola_storage::store::Keeps::Records, Default::default());
        let store = open().expect("a store opens");
        apply(&store, vec![bootstrap(), create("agency", 1), create("person", 2)]);
        let flushed = flush_after.index(entries.len() + 1);
        run(&store, &entries[..flushed], &calls);
        store.flush().expect("a flush");
        run(&store, &entries[flushed..], &calls);
        drop(store);
        home.crash();

        let store = open().expect("a store opens after a crash");
        prop_assert_eq!(store.applied().log_id, Some(log_id(flushed as u64)));
        let again = run(&store, &entries[flushed..], &calls);
        prop_assert_eq!(&again[..], &outcomes[flushed..]);
        prop_assert_eq!(
            store.view().recomputed_digest().expect("a digest"),
            straight.view().kept_digest().expect("a digest")
        );
    }
}

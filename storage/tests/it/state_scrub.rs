//! Promises about damaged rows: the scrub finds and names them, and what is held back is not served.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use saola_storage::command::{Collect, Op, RetentionChange, RetentionLimits, SetRetention};
use saola_storage::digest::{BucketSet, bucket_of};
use saola_storage::engine::{Batch, KeyRange, Kind};
use saola_storage::error::StoreError;
use saola_storage::import::ImportError;
use saola_storage::keyspace::{heads, versions};
use saola_storage::quarantine::Held;
use saola_storage::scrub::{Scrub, ScrubReport};
use saola_storage::store::{ApplyEntry, At, Store};

use crate::state_support::*;

/// Runs a scrub to its end in small steps.
fn scrub(store: &Store) -> ScrubReport {
    let mut scrub: Scrub = store.scrub();
    loop {
        if let Some(report) = scrub.step(64) {
            return report;
        }
    }
}

/// A store with some history: records with one, two and three versions, deletions, clients.
fn filled(home: &TestHome) -> Store {
    let store = started(home);
    for round in 0..3_u64 {
        for record in round..6 {
            let id = format!("record-{record}");
            let put = put("agency", 1, id.as_bytes(), &[record as u8; 40], None);
            apply(&store, vec![by(record as u8 + 1, 1, round + 1, round + 1, put)]);
        }
    }
    apply(&store, vec![delete("agency", b"record-1", None), put("person", 2, b"a\0b", b"x", None)]);
    store
}

/// Writes behind the store's back, and has it take a new view.
fn tamper(home: &TestHome, store: &Store, batch: Batch) {
    home.home.open_current().expect("it is open").write(batch).expect("memory writes");
    apply(store, vec![]);
}

fn rows(home: &TestHome, kind: Kind) -> Vec<(Bytes, Bytes)> {
    let view = home.home.open_current().expect("it is open").view();
    view.scan(kind, KeyRange::all(), false).map(|row| row.expect("memory reads")).collect()
}

#[test]
fn scrub_of_a_sound_copy_finds_nothing_and_reads_every_row() {
    for home in homes() {
        let store = filled(&home);
        let report = scrub(&store);
        assert_eq!((report.damaged, &report.named[..], report.differing.len()), (0, &[][..], 0));
        assert!(!report.is_bad() && report.rows > 30 && report.bytes > 2_000, "{report:?}");
        assert_eq!(report.index, store.applied().log_id.unwrap().index);
    }
}

#[test]
fn scrub_finds_a_flipped_byte_in_any_row_of_any_kind() {
    let count = |kind| {
        rows(
            &{
                let home = memory_home();
                filled(&home);
                home
            },
            kind,
        )
        .len()
    };
    let mut tried = 0;
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Meta) {
        for place in 0..count(kind) {
            let home = memory_home();
            let store = filled(&home);
            let (key, value) = rows(&home, kind).swap_remove(place);
            let mut damaged = value.to_vec();
            let at = (place * 7 + 3) % damaged.len();
            damaged[at] ^= 0x40;
            let mut batch = Batch::default();
            batch.put(kind, key.clone(), damaged);
            tamper(&home, &store, batch);
            let report = scrub(&store);
            let bucket = bucket_of(kind, &key);
            assert!(report.differing.contains(bucket) && report.is_bad(), "{} {key:?} byte {at}", kind.name());
            tried += 1;
        }
    }
    assert!(tried > 30, "{tried} rows were tried");
}

#[test]
fn scrub_names_what_a_row_tells_of_itself() {
    let agency = 1;
    let version = |id: &[u8], generation| versions::key(agency, id, generation);
    let newer = |home: &TestHome, id: &[u8]| {
        // The version of another record, sound in itself.
        let view = home.home.open_current().unwrap().view();
        view.get(Kind::Versions, &version(id, 2)).unwrap().unwrap()
    };
    type Tamper<'t> = &'t dyn Fn(&TestHome, &mut Batch);
    let cases: [(Tamper<'_>, &str); 5] = [
        (
            &|home, batch| batch.put(Kind::Versions, version(b"record-4", 2), newer(home, b"record-5")),
            "agency/record-4 g2: its chain does not follow",
        ),
        (
            &|_, batch| batch.delete(Kind::Versions, version(b"record-4", 2)),
            "agency/record-4 g3: the version before it is missing",
        ),
        (
            &|_, batch| batch.delete(Kind::Versions, version(b"record-4", 3)),
            "agency/record-4: it names generation 3 as newest, its newest version is g2",
        ),
        (
            &|_, batch| batch.delete(Kind::Versions, version(b"record-0", 1)),
            "agency/record-0: the record has no version",
        ),
        (
            &|_, batch| batch.delete(Kind::Heads, heads::key(agency, b"record-5")),
            "agency/record-5: the record has versions and no head",
        ),
    ];
    for (change, expected) in cases {
        let home = memory_home();
        let store = filled(&home);
        let mut batch = Batch::default();
        change(&home, &mut batch);
        tamper(&home, &store, batch);
        let report = scrub(&store);
        assert!(report.is_bad());
        assert!(report.named.iter().any(|named| named.starts_with(expected)), "{expected}: {:?}", report.named);
    }
}

#[test]
fn a_read_of_a_damaged_version_is_refused_named_and_told() {
    let home = memory_home();
    let store = filled(&home);
    let (told, news) = std::sync::mpsc::channel();
    store.on_damage(Box::new(move || told.send(()).unwrap()));
    let key = versions::key(1, b"record-4", 3);
    let mut value = home.home.open_current().unwrap().view().get(Kind::Versions, &key).unwrap().unwrap().to_vec();
    let place = value.windows(8).position(|bytes| bytes == [4; 8]).expect("the value stands in its envelope");
    value[place] ^= 1;
    let mut batch = Batch::default();
    batch.put(Kind::Versions, key, value);
    tamper(&home, &store, batch);
    let view = store.view();
    let agency = view.collection("agency").unwrap();
    let read = view.get(&agency, b"record-4", At::Revision(view.applied().revision));
    assert!(matches!(read, Err(StoreError::Corrupt { .. })), "{read:?}");
    assert!(news.try_recv().is_ok());
    let damage = store.damage();
    assert_eq!((damage.reads, damage.rows), (1, vec!["agency/record-4 g3".to_owned()]));
    assert!(view.get(&agency, b"record-4", At::Generation(2)).unwrap().is_some(), "the others are sound");
    apply(&store, vec![put("agency", 1, b"record-4", b"next", None)]);
}

#[test]
fn what_is_held_back_is_not_served_and_a_restart_does_not_forget_it() {
    for home in homes() {
        let store = filled(&home);
        let before = store.view();
        let agency = before.collection("agency").unwrap();
        let mut export = store.export().unwrap();
        export.next_chunk().unwrap();
        let bucket = bucket_of(Kind::Heads, &heads::key(agency.number, b"record-2"));
        let held = Held { whole: false, buckets: BucketSet::from_iter([bucket]), why: "copies differ".into() };
        store.hold(Some(held.clone())).unwrap();
        let check = |store: &Store, view: &saola_storage::store::View| {
            let at = At::Revision(view.applied().revision);
            let quarantined = |read: Result<(), StoreError>| matches!(read, Err(StoreError::Quarantined { .. }));
            assert!(quarantined(view.get(&agency, b"record-2", at).map(drop)));
            assert!(view.get(&agency, b"record-3", at).unwrap().is_some());
            // A row that is missing shows in no range.
            assert!(quarantined(view.list(&agency, b"", None, view.applied().revision, 10).map(drop)));
            assert!(quarantined(view.history(&agency, b"record-3", u64::MAX, true).next().unwrap().map(drop)));
            assert!(quarantined(store.export().map(drop)));
        };
        check(&store, &before);
        assert!(export.next_chunk().is_err(), "an export that was under way goes on");
        apply(&store, vec![put("agency", 1, b"record-2", b"apply goes on", None)]);
        check(&store, &store.view());
        drop((export, before, store));
        let store = open(&home);
        assert_eq!(store.held().as_deref(), Some(&held));
        check(&store, &store.view());
        let whole = Held { whole: true, ..held };
        store.hold(Some(whole)).unwrap();
        assert!(store.view().get(&agency, b"record-3", At::Generation(1)).is_err());
        store.hold(None).unwrap();
        assert_eq!(store.view().list(&agency, b"", None, u64::MAX, 10).unwrap().len(), 5);
        drop(store);
        assert_eq!(open(&home).held(), None);
    }
}

#[test]
fn all_buckets_of_the_newest_digests_are_kept_until_a_restart() {
    let home = memory_home();
    let store = filled(&home);
    let mut indexes = Vec::new();
    for round in 0..6 {
        let outcomes = apply(&store, vec![put("agency", 1, b"more", &[round], None), digest()]);
        indexes.push(outcomes[1].index);
    }
    for (place, index) in indexes.iter().enumerate() {
        let buckets = store.buckets_at(*index);
        assert_eq!(buckets.is_some(), place >= 2, "digest {place}");
        assert!(buckets.is_none_or(|buckets| Some(buckets.total()) == store.digest_at(*index)));
    }
    assert_eq!(store.newest_digest(), indexes.last().copied());
    store.flush().unwrap();
    drop(store);
    let store = open(&home);
    assert_eq!(store.newest_digest(), indexes.last().copied());
    assert!(indexes.iter().all(|index| store.buckets_at(*index).is_none()));
}

/// What is applied in the tests of healing, by index.
fn history(upto: u64) -> Vec<ApplyEntry> {
    let one = |index: u64| match index {
        0 => entry(0, 0, vec![bootstrap(), create("agency", 1), create("person", 2)]),
        _ => {
            let id = format!("r{}", index % 50);
            let put = put("agency", 1, id.as_bytes(), &index.to_be_bytes(), None);
            entry(index, index, vec![by((index % 7) as u8, 1, index, index, put)])
        }
    };
    (0..=upto).map(one).collect()
}

/// A store after some entries, and its state as it was after the first `sent` of them.
fn state_of(home: &TestHome, sent: u64) -> Vec<Bytes> {
    let store = open(home);
    store.apply(history(sent)).expect("it applies");
    let mut export = store.export().expect("it is sound");
    std::iter::from_fn(|| export.next_chunk().expect("the engine reads")).collect()
}

#[test]
fn a_damaged_copy_is_replaced_at_the_index_that_it_has_applied() {
    for (home, source) in homes().into_iter().zip(homes()) {
        let chunks = state_of(&source, 20);
        let store = open(&home);
        store.apply(history(400)).unwrap();
        let sound = store.view().recomputed_digest().unwrap();
        let applied = store.applied();
        store.hold(Some(Held { whole: true, buckets: BucketSet::all(), why: "test".into() })).unwrap();
        let mut import = store.import().unwrap();
        for chunk in &chunks {
            import.write(chunk).unwrap();
        }
        let log = history(401);
        let mut reads = 0;
        let mut read_log = |from: u64, to: u64| {
            reads += 1;
            Ok(log[from as usize..=(to as usize).min(from as usize + 9)].to_vec())
        };
        assert_eq!(import.replace_damaged(&mut read_log).unwrap(), applied);
        assert!(reads >= 38, "{reads} reads");
        assert_eq!((store.applied(), store.held(), store.flushed()), (applied.clone(), None, applied.log_id));
        assert_eq!(store.view().recomputed_digest().unwrap(), sound);
        assert!(!scrub(&store).is_bad());
        // The next entry follows, and a restart finds the new database.
        store.apply(vec![log[401].clone()]).unwrap();
        store.flush().unwrap();
        drop(store);
        let store = open(&home);
        assert_eq!((store.applied().log_id.unwrap().index, store.held()), (401, None));
        assert!(!scrub(&store).is_bad());
    }
}

#[test]
fn a_state_that_the_own_log_does_not_lead_on_from_replaces_nothing() {
    let chunks = state_of(&memory_home(), 20);
    let attempt = |applied: u64, log: Vec<ApplyEntry>| {
        let home = memory_home();
        let store = open(&home);
        store.apply(history(applied)).unwrap();
        let before = (store.applied(), store.view().kept_digest().unwrap());
        let mut import = store.import().unwrap();
        chunks.iter().for_each(|chunk| import.write(chunk).unwrap());
        let refused = import.replace_damaged(&mut |from, to| {
            Ok(log.iter().filter(|entry| (from..=to).contains(&entry.log_id.index)).cloned().collect())
        });
        assert_eq!((store.applied(), store.view().kept_digest().unwrap()), before);
        refused.unwrap_err()
    };
    let newer = attempt(19, history(19));
    assert!(matches!(newer, StoreError::Import(ImportError::Newer { received: 20, applied: 19 })), "{newer}");
    let purged = attempt(30, history(30).split_off(22));
    assert!(matches!(purged, StoreError::Import(ImportError::LogGone { missing: 21, .. })), "{purged}");
    let mut gap = history(30);
    gap.remove(25);
    let gap = attempt(30, gap);
    assert!(matches!(gap, StoreError::Import(ImportError::LogGone { .. })), "{gap}");
    let mut foreign = history(30);
    for entry in &mut foreign {
        entry.log_id.leader.term = 9;
    }
    let foreign = attempt(30, foreign);
    assert!(matches!(foreign, StoreError::Import(ImportError::Inconsistent { .. })), "{foreign}");
}

#[cfg(feature = "rocksdb")]
#[test]
fn scrub_finds_flipped_bytes_in_a_file_of_rocksdb_and_reads_on_behind_them() {
    use std::sync::Arc;

    use saola_storage::engine::rocks::{RocksHome, RocksSettings};
    use saola_storage::store::{Keeps, StoreSettings};

    let folder = tempfile::tempdir().unwrap();
    let settings = RocksSettings { write_buffer_bytes: 1 << 20, block_cache_bytes: 1 << 20 };
    let home = || Arc::new(RocksHome::new(folder.path().join("db"), settings));
    let store = Store::open(home(), Keeps::Records, StoreSettings::default()).unwrap();
    apply(&store, vec![bootstrap(), create("agency", 1)]);
    for record in 0..400 {
        apply(&store, vec![put("agency", 1, format!("r{record:03}").as_bytes(), &[record as u8; 300], None)]);
    }
    store.flush().unwrap();
    let sound = scrub(&store);
    assert!(!sound.is_bad());
    drop(store);
    // The file with the versions is by far the largest: a byte in the middle of it is in a block of theirs.
    let files = std::fs::read_dir(folder.path().join("db/db-1")).unwrap().map(|entry| entry.unwrap().path());
    let tables = files.filter(|path| path.extension().is_some_and(|extension| extension == "sst"));
    let largest = tables.max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, bytes).unwrap();

    let store = Store::open(home(), Keeps::Records, StoreSettings::default()).unwrap();
    let report = scrub(&store);
    assert!(report.is_bad(), "{report:?}");
    assert_eq!((report.damaged, report.named.len()), (1, 1), "{:?}", report.named);
    assert!(report.named[0].starts_with("versions between agency/r"), "{:?}", report.named);
    let lost = sound.rows - report.rows;
    assert!((1..40).contains(&lost), "{lost} rows were not read: more than a block");
    let view = store.view();
    let agency = view.collection("agency").unwrap();
    let reads = (0..400).map(|record| view.get(&agency, format!("r{record:03}").as_bytes(), At::Generation(1)));
    let (sound, damaged): (Vec<_>, Vec<_>) = reads.partition(|read| read.as_ref().is_ok_and(Option::is_some));
    // Walking backwards, the engine looks one row ahead: it does not give the first one behind the gap either.
    assert_eq!((sound.len() as u64, damaged.len() as u64), (400 - lost + 1, lost - 1));
    assert!(damaged.iter().all(|read| matches!(read, Err(StoreError::Corrupt { .. }))));
    assert_eq!(store.damage().reads, lost - 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn kept_sums_are_those_of_the_rows_after_any_history(
        steps in vec((0..5_u8, 0..4_u8, any::<u8>(), any::<bool>()), 1..60),
        flush_at in 0..60_usize,
    ) {
        let mut digests = Vec::new();
        for home in homes() {
            let store = started(&home);
            for (place, (action, record, value, again)) in steps.iter().enumerate() {
                let id = [b'r', *record];
                let command = match action {
                    0 => delete("agency", &id, None),
                    1 => digest(),
                    2 => put("person", 2, &id, &[*value], None),
                    _ => put("agency", 1, &id, &[*value; 9], None),
                };
                let sequence = if *again { 1 } else { place as u64 + 1 };
                apply(&store, vec![by(*record, 1, sequence, 1, command)]);
                if place == flush_at {
                    store.flush().unwrap();
                }
            }
            let report = scrub(&store);
            prop_assert!(!report.is_bad() && report.damaged == 0, "{:?}", report);
            let index = apply(&store, vec![digest()])[0].index;
            digests.push((store.buckets_at(index).expect("it was just taken"), report.rows));
        }
        for pair in digests.windows(2) {
            prop_assert_eq!(pair[0].0.differing(&pair[1].0).len(), 0);
            prop_assert_eq!(pair[0].1, pair[1].1);
        }
    }
}

#[test]
fn a_version_whose_row_is_missing_is_not_answered_for_by_an_older_one() {
    let home = memory_home();
    let store = filled(&home);
    let mut batch = Batch::default();
    batch.delete(Kind::Versions, versions::key(1, b"record-4", 2));
    let collection = store.view().collection("agency").expect("the collection was created");
    let history = store.view().history(&collection, b"record-4", u64::MAX, false).collect::<Result<Vec<_>, _>>();
    let revisions: Vec<u64> = history.expect("memory reads").iter().map(|version| version.revision).collect();
    tamper(&home, &store, batch);
    let get = |revision| store.view().get(&collection, b"record-4", At::Revision(revision));
    assert!(get(revisions[2]).expect("it is there").is_some());
    for revision in revisions[0] - 1..revisions[2] {
        let error = get(revision).expect_err("what is behind the gap proves nothing");
        assert!(matches!(error, StoreError::Corrupt { kind: "versions", .. }), "{error}");
    }
}

#[test]
fn a_head_that_contradicts_its_newest_version_is_damage_and_no_older_version_stands_in_for_that() {
    let home = memory_home();
    let store = filled(&home);
    let key = heads::key(1, b"record-4");
    let view = home.home.open_current().expect("it is open").view();
    let head = heads::decode(&key, view.get(Kind::Heads, &key).expect("memory reads").expect("it is there"));
    let head = head.expect("a sound row");
    let wrong = heads::Head { revision: head.revision + 5, ..head.clone() };
    let mut batch = Batch::default();
    batch.put(Kind::Heads, key, wrong.encode_to_vec());
    let collection = store.view().collection("agency").expect("the collection was created");
    tamper(&home, &store, batch);
    let error =
        store.view().get(&collection, b"record-4", At::Revision(head.revision)).expect_err("it was newest then");
    assert!(matches!(error, StoreError::Corrupt { kind: "heads", .. }), "{error}");
}

#[test]
fn a_missing_version_is_damage_where_policy_cannot_have_removed_it() {
    let home = memory_home();
    let store = filled(&home);
    let mut batch = Batch::default();
    batch.delete(Kind::Versions, versions::key(1, b"record-4", 1));
    let collection = store.view().collection("agency").expect("the collection was created");
    let history = store.view().history(&collection, b"record-4", u64::MAX, false).collect::<Result<Vec<_>, _>>();
    let second = history.expect("memory reads")[1].revision;
    tamper(&home, &store, batch);
    let get = |at| store.view().get(&collection, b"record-4", at);
    for at in [At::Revision(second - 1), At::Revision(1), At::Generation(1)] {
        let error = get(at).expect_err("every version is kept here");
        assert!(matches!(error, StoreError::Corrupt { kind: "versions", .. }), "{at:?}: {error}");
    }
    assert!(get(At::Revision(second)).expect("it is there").is_some());
    assert_eq!(get(At::Generation(4)).expect("a read"), None, "it never was");
    let keep_one = RetentionChange::Limits(RetentionLimits { max_generations: 1, max_age_ms: 0 });
    apply(
        &store,
        vec![command(Op::SetRetention(SetRetention { collection: "agency".into(), change: Some(keep_one) }))],
    );
    let collect = Collect {
        up_to_revision: second - 1,
        collection: 1,
        incarnation: vec![1; 16].into(),
        after_id: Bytes::new(),
        max_records: 9,
    };
    apply(&store, vec![command(Op::Collect(collect))]);
    let error = get(At::Generation(1)).expect_err("nothing as late as its successor has been collected");
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}

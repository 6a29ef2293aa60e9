//! Promises about a copy that cannot be used: it is condemned, and only another node's state takes its place.

use bytes::Bytes;
use saola_storage::command::{Collect, Command, Decision, Op, RetentionChange, RetentionLimits, SetRetention};
use saola_storage::digest::{Item, StateDigest};
use saola_storage::engine::{Batch, Kind};
use saola_storage::error::StoreError;
use saola_storage::keyspace::{heads, versions};
use saola_storage::store::{Applied, ApplyEntry, ApplyPayload, At, Store};

use crate::state_support::*;

const MEMBERS: &[u8] = b"who is a member";

fn next(store: &Store) -> u64 {
    store.applied().log_id.map_or(0, |last| last.index + 1)
}

/// A flushed store with members, two generations of a record, and a policy that keeps one.
fn filled(home: &TestHome) -> Store {
    let store = started(home);
    let members = ApplyEntry { log_id: log_id(next(&store)), payload: ApplyPayload::Membership(MEMBERS.into()) };
    store.apply(vec![members]).expect("a log entry is applied");
    let keep_one = RetentionChange::Limits(RetentionLimits { max_generations: 1, max_age_ms: 0 });
    let keep_one = SetRetention { collection: "agency".into(), change: Some(keep_one) };
    apply(&store, vec![command(Op::SetRetention(keep_one))]);
    for value in [b"one", b"two"] {
        apply(&store, vec![by(1, 1, 1, 1, put("agency", 1, b"r", value, None))]);
        apply(&store, vec![put("agency", 1, b"r", value, None)]);
    }
    store.flush().expect("a flush");
    store
}

fn collect() -> Command {
    let (incarnation, after_id) = (vec![1; 16].into(), Bytes::new());
    let collect = Collect { up_to_revision: 99, collection: 1, incarnation, after_id, max_records: 9 };
    command(Op::Collect(collect))
}

/// What a row's first byte must not be: its format version.
fn rot(home: &TestHome, kind: Kind, key: &[u8]) {
    let engine = home.home.open_current().expect("the engine opens");
    let mut value = engine.view().get(kind, key).expect("it reads").expect("the row is there").to_vec();
    value[0] ^= 0x40;
    let mut batch = Batch::default();
    batch.put(kind, key.to_vec(), value);
    engine.write(batch).expect("a write");
    engine.flush().expect("a flush");
}

/// The state of a node that has applied the same log and is sound, as chunks.
fn sound_state() -> Vec<Bytes> {
    let mut export = filled(&memory_home()).export().expect("a sound copy is exported");
    std::iter::from_fn(|| export.next_chunk().expect("a chunk")).collect()
}

/// Nothing of it counts, but who the members are.
fn is_of_no_use(store: &Store, part: &str) {
    let why = store.ruined().expect("it cannot be used");
    assert!(why.contains(part), "{part:?} in: {why}");
    assert_eq!(store.applied().log_id, None);
    assert_eq!(store.applied().membership.expect("the members are known").1, MEMBERS);
    assert_eq!(store.held().map(|held| held.whole), Some(true));
    assert!(matches!(store.export(), Err(StoreError::Stopped { .. })));
    let applied = store.apply(vec![entry(0, 0, vec![])]);
    assert!(matches!(applied, Err(StoreError::Stopped { .. })), "{applied:?}");
    store.flush().expect("nothing is there that could not be flushed");
    store.hold(None).expect("it is held all the same");
    assert_eq!(store.held().map(|held| held.whole), Some(true));
}

/// Another node's state takes its place, for now and for later starts.
fn is_replaced(home: &TestHome, store: Store) {
    let mut import = store.import().expect("there is room");
    for chunk in sound_state() {
        import.write(&chunk).expect("a sound chunk");
    }
    import.finish().expect("it takes the place");
    goes_on(&store);
    drop(store);
    goes_on(&open(home));
}

fn goes_on(store: &Store) {
    assert_eq!((store.ruined(), store.held()), (None, None));
    apply(store, vec![put("agency", 1, b"r", b"three", None), collect()]);
    store.flush().expect("a flush");
    let view = store.view();
    assert_eq!(view.kept_digest().expect("a digest"), view.recomputed_digest().expect("a digest"));
}

/// Reads all of a copy again, and uses it.
fn look(store: &Store) -> Result<Applied, StoreError> {
    let mut look = store.look_again(None)?;
    while !look.step(100)? {}
    look.finish()
}

/// Applies what reads the head of the only record.
fn apply_meets_it(store: &Store) {
    let applied = store.apply(vec![entry(next(store), 0, vec![put("agency", 1, b"r", b"x", None)])]);
    assert!(matches!(applied, Err(StoreError::Ruined { .. })), "{applied:?}");
}

#[test]
fn an_apply_that_meets_a_damaged_row_condemns_the_copy_until_another_takes_its_place() {
    let cases = [
        (Kind::Heads, heads::key(1, b"r"), put("agency", 1, b"r", b"x", None), "agency/r"),
        (Kind::Heads, heads::key(1, b"r"), delete("agency", b"r", None), "agency/r"),
        (Kind::Versions, versions::key(1, b"r", 1), collect(), "agency/r g1"),
    ];
    for (kind, key, meets, name) in cases {
        for home in homes() {
            drop(filled(&home));
            rot(&home, kind, &key);
            let store = open(&home);
            let applied = store.apply(vec![entry(next(&store), 0, vec![meets.clone()])]);
            let Err(StoreError::Ruined { why }) = &applied else { panic!("{name}: {applied:?}") };
            assert!(why.contains(name), "{name:?} in: {why}");
            let view = store.view();
            let agency = view.collection("agency").expect("it was made");
            assert!(matches!(view.get(&agency, b"q", At::Revision(9)), Err(StoreError::Quarantined { .. })));
            assert!(matches!(store.export(), Err(StoreError::Stopped { .. })));
            drop((view, store));
            is_of_no_use(&open(&home), name);
            is_replaced(&home, open(&home));
        }
    }
}

#[test]
fn a_start_that_meets_a_damaged_row_gives_a_store_that_only_takes_another_state() {
    for home in homes() {
        drop(filled(&home));
        rot(&home, Kind::Meta, b"applied");
        is_of_no_use(&open(&home), "meta key 6170706c696564 cannot be read");
        is_replaced(&home, open(&home));
    }
}

#[test]
fn a_condemned_copy_is_used_again_only_if_all_of_it_reads_as_it_was_written() {
    for home in homes() {
        drop(filled(&home));
        let key = heads::key(1, b"r");
        let sound =
            home.home.open_current().expect("the engine opens").view().get(Kind::Heads, &key).expect("it reads");
        rot(&home, Kind::Heads, &key);
        let store = open(&home);
        let applied = store.applied();
        assert!(store.look_again(None).is_err(), "nothing is wrong yet");
        apply_meets_it(&store);
        drop(store);
        let store = open(&home);
        let refused = look(&store).expect_err("it is damaged").to_string();
        assert!(refused.contains("do not give the kept sums of 1 of 4096 buckets"), "{refused}");
        is_of_no_use(&store, "agency/r");
        drop(store);
        is_of_no_use(&open(&home), "agency/r");
        // The disk gives again what it has.
        let engine = home.home.open_condemned().expect("the engine opens");
        let mut batch = Batch::default();
        batch.put(Kind::Heads, key, sound.expect("the row is there"));
        engine.write(batch).expect("a write");
        engine.flush().expect("a flush");
        drop(engine);
        let store = open(&home);
        is_of_no_use(&store, "agency/r");
        let beyond = log_id(applied.log_id.expect("there is a log").index + 1);
        let early = store.look_again(Some(beyond)).err().expect("the log begins behind it").to_string();
        assert!(early.contains("they end before"), "{early}");
        assert_eq!(look(&store).expect("it is whole"), applied);
        goes_on(&store);
        drop(store);
        goes_on(&open(&home));
    }
}

#[test]
fn a_damaged_row_that_all_sums_cover_is_no_reason_to_use_the_copy_again() {
    let home = memory_home();
    drop(filled(&home));
    let key = heads::key(1, b"r");
    let engine = home.home.open_current().expect("the engine opens");
    let row = || engine.view().get(Kind::Heads, &key).expect("it reads").expect("the row is there");
    let sound = row();
    rot(&home, Kind::Heads, &key);
    // As if it had been written so: the sums are of what stands there.
    let mut sums = StateDigest::load(&*engine.view()).expect("it reads");
    sums.remove(Item::new(Kind::Heads, &key, &sound));
    sums.add(Item::new(Kind::Heads, &key, &row()));
    let mut batch = Batch::default();
    sums.write(&mut batch);
    engine.write(batch).expect("a write");
    engine.flush().expect("a flush");
    drop(engine);
    let store = open(&home);
    apply_meets_it(&store);
    drop(store);
    let refused = look(&open(&home)).expect_err("apply would meet it again").to_string();
    assert!(refused.contains("use the records again: 1 rows damaged: agency/r"), "{refused}");
}

#[test]
fn records_that_are_gone_are_missed_as_long_as_the_note_of_the_members_is_there() {
    let (lost, kept) = (memory_home(), memory_home());
    drop(filled(&kept));
    let note = kept.home.note().expect("it reads").expect("the flush wrote it");
    lost.home.keep_note(&note).expect("it is kept");
    is_of_no_use(&open(&lost), "there are none");
    is_replaced(&lost, open(&lost));
}

#[test]
fn a_failure_that_is_no_damage_condemns_nothing() {
    for home in homes() {
        let store = filled(&home);
        let index = next(&store);
        let unknown = store.apply(vec![entry(index, 0, vec![Command { request: None, op: None }])]);
        assert!(matches!(unknown, Err(StoreError::UnknownCommand { .. })));
        drop(store);
        let store = open(&home);
        assert_eq!((store.ruined(), next(&store)), (None, index));
        assert!(matches!(decide(&store, collect()), Decision::Collected(_)));
    }
}

#[cfg(feature = "rocksdb")]
mod files {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use saola_storage::engine::rocks::{RocksHome, RocksSettings};

    use super::*;

    fn rocks(folder: &Path) -> TestHome {
        let settings = RocksSettings { write_buffer_bytes: 1 << 20, block_cache_bytes: 1 << 20 };
        TestHome::of(Arc::new(RocksHome::new(folder.join("db"), settings).note_at(folder.join("members"))))
    }

    fn files(folder: &Path, begins: &str, ends: &str) -> Vec<PathBuf> {
        let database = folder.join("db/db-1");
        let paths = fs::read_dir(database).expect("it lists").map(|entry| entry.expect("an entry").path());
        let named = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).expect("plain names");
            name.starts_with(begins) && name.ends_with(ends)
        };
        let found: Vec<PathBuf> = paths.filter(named).collect();
        assert!(!found.is_empty(), "no {begins}…{ends}");
        found
    }

    fn garble(path: &Path) {
        let length = fs::metadata(path).expect("it is there").len();
        fs::write(path, vec![0x5a; length as usize]).expect("a write");
    }

    #[test]
    fn damaged_and_missing_files_at_a_start_are_no_end_of_the_node() {
        type Damage<'a> = (&'a str, &'a dyn Fn(&Path));
        let cases: [Damage<'_>; 7] = [
            ("Corruption", &|folder| files(folder, "", ".sst").iter().for_each(|path| garble(path))),
            ("No such file", &|folder| {
                files(folder, "", ".sst").iter().for_each(|path| fs::remove_file(path).expect("it goes"))
            }),
            ("Corruption", &|folder| garble(&files(folder, "MANIFEST", "")[0])),
            ("not the name of a database", &|folder| fs::write(folder.join("db/current"), "db").expect("a write")),
            ("`current` is missing", &|folder| fs::remove_file(folder.join("db/current")).expect("it goes")),
            ("there are none", &|folder| fs::remove_dir_all(folder.join("db")).expect("it goes")),
            ("CURRENT is missing", &|folder| fs::remove_file(folder.join("db/db-1/CURRENT")).expect("it goes")),
        ];
        for (part, damage) in cases {
            let folder = tempfile::tempdir().expect("a temporary folder");
            drop(filled(&rocks(folder.path())));
            damage(folder.path());
            is_of_no_use(&open(&rocks(folder.path())), part);
            let home = rocks(folder.path());
            if part != "there are none" {
                assert!(look(&open(&home)).is_err(), "{part}");
            }
            is_replaced(&home, open(&home));
        }
    }
}

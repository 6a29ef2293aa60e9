//! Promises about moving a whole state to another node.

use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use saola_storage::engine::memory::MemoryHome;
use saola_storage::engine::{Engine, EngineError, EngineHome};
use saola_storage::error::StoreError;
use saola_storage::import::ImportError;
use saola_storage::store::{ApplyEntry, ApplyPayload, At, Keeps, Store, StoreSettings};

use crate::state_support::*;

/// A store whose stream has several chunks.
fn filled(home: &TestHome) -> Store {
    let store = started(home);
    let membership = ApplyPayload::Membership(Bytes::from_static(b"five nodes"));
    store.apply(vec![ApplyEntry { log_id: log_id(1), payload: membership }]).expect("it applies");
    for number in 0..40_u8 {
        let value = vec![number; 20_000];
        apply(
            &store,
            vec![by(number % 4, 1, u64::from(number) + 1, 1, put("agency", 1, &[number % 30], &value, None))],
        );
    }
    apply(&store, vec![delete("agency", &[3], None), digest()]);
    store
}

fn chunks(store: &Store) -> Vec<Bytes> {
    let mut export = store.export().expect("an export begins");
    let mut chunks = Vec::new();
    while let Some(chunk) = export.next_chunk().expect("a chunk") {
        chunks.push(chunk);
    }
    chunks
}

fn install(store: &Store, chunks: &[Bytes]) -> Result<(), StoreError> {
    let mut import = store.import()?;
    for chunk in chunks {
        import.write(chunk)?;
    }
    import.finish().map(|_| ())
}

#[test]
fn a_state_moves_between_engines_unchanged() {
    for from in homes() {
        let sender = filled(&from);
        let sent = chunks(&sender);
        assert!(sent.len() > 5);
        for to in homes() {
            let receiver = started(&to);
            decide(&receiver, put("person", 2, b"old", b"v", None));
            let old = receiver.view();
            let version = receiver.keyring_version();
            install(&receiver, &sent).expect("a whole stream is installed");

            let (here, there) = (receiver.view(), sender.view());
            assert_eq!(here.applied(), there.applied());
            assert_eq!(receiver.applied(), sender.applied());
            assert_eq!(here.counts(), there.counts());
            let digest = there.kept_digest().expect("a digest");
            assert_eq!(here.kept_digest().expect("a digest"), digest);
            assert_eq!(here.recomputed_digest().expect("a digest"), digest);
            assert_eq!(receiver.digest_at(42), sender.digest_at(42));
            assert!(receiver.digest_at(42).is_some());
            assert_eq!(receiver.revision_at_index(42), Some(42));
            assert_eq!(receiver.flushed(), sender.applied().log_id);
            assert!(receiver.keyring_version() > version);

            let person = old.collection("person").expect("it was created");
            assert!(old.get(&person, b"old", At::Revision(2)).expect("the old view still reads").is_some());
            assert!(here.get(&person, b"old", At::Revision(99)).expect("a read").is_none());

            // The log goes on from there, and what was installed survives a restart.
            decide(&receiver, put("agency", 1, b"next", b"v", None));
            receiver.flush().expect("a flush");
            let applied = receiver.applied();
            drop((receiver, old, here));
            assert_eq!(open(&to).applied(), applied);
        }
    }
}

#[test]
fn an_export_shows_the_moment_it_began() {
    for home in homes() {
        let store = filled(&home);
        let before = store.view().kept_digest().expect("a digest");
        let mut export = store.export().expect("an export begins");
        let mut sent = vec![export.next_chunk().expect("a chunk").expect("the first one")];
        apply(&store, vec![put("agency", 1, b"later", b"v", None)]);
        store.flush().expect("a flush");
        while let Some(chunk) = export.next_chunk().expect("a chunk") {
            sent.push(chunk);
        }
        let to = memory_home();
        let receiver = open(&to);
        install(&receiver, &sent).expect("a whole stream is installed");
        assert_eq!(receiver.view().kept_digest().expect("a digest"), before);
        assert_eq!(&receiver.applied(), export.applied());
    }
}

#[test]
fn a_cut_stream_goes_on_at_any_chunk_with_the_same_bytes() {
    for home in homes() {
        let store = filled(&home);
        let mut export = store.export().expect("an export begins");
        let whole: Vec<Bytes> = std::iter::from_fn(|| export.next_chunk().expect("a chunk")).collect();
        apply(&store, vec![put("agency", 1, b"later", b"v", None)]);
        for cut in 0..whole.len() {
            assert!(export.resume_at(cut as u64), "chunk {cut} is not to be had again");
            let rest: Vec<Bytes> = std::iter::from_fn(|| export.next_chunk().expect("a chunk")).collect();
            assert!(rest == whole[cut..], "other bytes from chunk {cut} on");
        }
        assert!(!export.resume_at(0), "what was acknowledged is gone");
        assert!(!export.resume_at(whole.len() as u64 + 1), "there is no such chunk yet");
        assert!(export.resume_at(whole.len() as u64) && export.has_ended());
    }
}

#[test]
fn a_stream_with_a_missing_or_repeated_part_is_refused_and_the_old_state_stays() {
    let home = memory_home();
    let sent = chunks(&filled(&home));
    for to in homes() {
        let receiver = started(&to);
        decide(&receiver, put("person", 2, b"old", b"v", None));
        let (applied, digest) = (receiver.applied(), receiver.view().kept_digest().expect("a digest"));
        let without = |gap: usize| [&sent[..gap], &sent[gap + 1..]].concat();
        let twice = [&sent[..2], &sent[1..]].concat();
        let after_the_end = [&sent[..], &sent[sent.len() - 1..]].concat();
        for broken in [Vec::new(), without(0), without(2), without(sent.len() - 1), twice, after_the_end] {
            assert!(matches!(install(&receiver, &broken), Err(StoreError::Import(_))));
        }
        assert_eq!(receiver.applied(), applied);
        assert_eq!(receiver.view().kept_digest().expect("a digest"), digest);
        install(&receiver, &sent).expect("the whole stream is still welcome");
    }
}

#[test]
fn a_state_older_than_what_is_applied_is_not_installed() {
    let home = memory_home();
    let store = filled(&home);
    let older = chunks(&store);
    apply(&store, vec![put("agency", 1, b"later", b"v", None)]);
    let (applied, digest) = (store.applied(), store.view().kept_digest().expect("a digest"));
    let refused = install(&store, &older);
    assert!(matches!(refused, Err(StoreError::Import(ImportError::Older { .. }))), "{refused:?}");
    assert_eq!((store.applied(), store.view().kept_digest().expect("a digest")), (applied, digest));
    apply(&store, vec![put("agency", 1, b"and on", b"v", None)]);
    install(&store, &chunks(&store)).expect("what is here may come again");
}

#[test]
fn after_a_refused_chunk_an_import_is_over() {
    let (home, to) = (memory_home(), memory_home());
    let sent = chunks(&filled(&home));
    let receiver = open(&to);
    let mut import = receiver.import().expect("an import begins");
    import.write(&sent[0]).expect("the first chunk");
    assert!(import.write(&sent[1][..20]).is_err());
    assert!(import.write(&sent[1]).is_err());
    assert!(import.finish().is_err());
    assert_eq!(receiver.applied().log_id, None);
}

#[test]
fn a_witness_takes_a_place_in_the_log_from_a_data_node_and_gives_none_back() {
    let home = memory_home();
    let sender = filled(&home);
    for to in homes() {
        let open = || Store::open(Arc::clone(&to.home), Keeps::LogIdsOnly, StoreSettings::default());
        let witness = open().expect("a witness opens");
        install(&witness, &chunks(&sender)).expect("a whole stream is installed");
        assert_eq!(witness.applied().log_id, sender.applied().log_id);
        assert_eq!(witness.applied().membership, sender.applied().membership);
        assert_eq!(witness.view().collections(), []);
        assert!(witness.data_bytes() < 100_000);
        let back = memory_home();
        let back = started(&back);
        assert!(matches!(install(&back, &chunks(&witness)), Err(StoreError::Import(_))));
        assert_eq!(back.applied().log_id, Some(log_id(0)));
        let applied = witness.applied();
        drop(witness);
        assert_eq!(open().expect("a witness opens").applied(), applied);
    }
}

#[cfg(feature = "rocksdb")]
#[test]
fn old_databases_are_removed_once_nobody_reads_them() {
    use saola_storage::engine::rocks::{RocksHome, RocksSettings};
    let folder = tempfile::tempdir().expect("a temporary folder");
    let home = Arc::new(RocksHome::new(folder.path(), RocksSettings::LOG_IDS_ONLY));
    let databases = || {
        let mut names: Vec<_> = std::fs::read_dir(folder.path())
            .expect("the folder lists")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a plain name"))
            .filter(|name| name.starts_with("db-"))
            .collect();
        names.sort();
        names
    };
    let from = memory_home();
    let sent = chunks(&filled(&from));
    let store = Store::open(home.clone(), Keeps::Records, StoreSettings::default()).expect("a store opens");
    let old = store.view();
    install(&store, &sent).expect("a whole stream is installed");
    assert_eq!(databases(), ["db-1", "db-2"], "a view still reads the old one");
    drop(old);
    store.flush().expect("a flush");
    assert_eq!(databases(), ["db-2"]);
    drop(store.import().expect("an import begins"));
    drop(store);
    let store = Store::open(home, Keeps::Records, StoreSettings::default()).expect("a store opens");
    assert_eq!(databases(), ["db-2"], "an import that was given up leaves nothing");
    assert_eq!(store.applied().revision, 42);
}

#[cfg(feature = "rocksdb")]
#[test]
fn no_database_is_opened_or_removed_without_its_pointer() {
    use saola_storage::engine::rocks::{RocksHome, RocksSettings};
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = || {
        let home = RocksHome::new(folder.path(), RocksSettings::LOG_IDS_ONLY);
        Store::open(Arc::new(home), Keeps::Records, StoreSettings::default()).expect("a store opens")
    };
    drop(open());
    let pointer = folder.path().join("current");
    let is_of_no_use = |part: &str| {
        let store = open();
        assert!(store.ruined().is_some_and(|why| why.contains(part)), "{part}");
        store.discard_unfinished();
        drop(store);
    };
    std::fs::write(&pointer, "nonsense").expect("a write");
    is_of_no_use("not the name of a database");
    std::fs::remove_file(&pointer).expect("a removal");
    is_of_no_use("there are databases");
    assert!(folder.path().join("db-1").is_dir(), "which one counts nobody knows");
    std::fs::write(&pointer, "db-7\n").expect("a write");
    is_of_no_use("names db-7, which is missing");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_flipped_or_cut_chunk_is_refused(
        chunk in any::<prop::sample::Index>(),
        byte in any::<prop::sample::Index>(),
        bit in 0..8_u8,
        cut in any::<bool>(),
    ) {
        thread_local! {
            static SENT: Vec<Bytes> = chunks(&filled(&memory_home()));
        }
        let mut sent = SENT.with(Clone::clone);
        let chunk = &mut sent[chunk.index(SENT.with(Vec::len))];
        let mut bytes = chunk.to_vec();
        let byte = byte.index(bytes.len());
        if cut { bytes.truncate(byte) } else { bytes[byte] ^= 1 << bit }
        *chunk = bytes.into();
        let to = memory_home();
        let receiver = started(&to);
        prop_assert!(matches!(install(&receiver, &sent), Err(StoreError::Import(_))));
        prop_assert_eq!(receiver.applied().log_id, Some(log_id(0)));
    }

    #[test]
    fn arbitrary_bytes_are_no_chunk(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let to = memory_home();
        let receiver = open(&to);
        let mut import = receiver.import().expect("an import begins");
        prop_assert!(import.write(&bytes).is_err());
    }
}

/// A home whose disk fails when another engine is to become the current one.
struct NoSwitch(MemoryHome);

impl EngineHome for NoSwitch {
    fn open_current(&self) -> Result<Arc<dyn Engine>, EngineError> {
        self.0.open_current()
    }

    fn create_new(&self) -> Result<(u64, Arc<dyn Engine>), EngineError> {
        self.0.create_new()
    }

    fn switch_to(&self, _: u64) -> Result<(), EngineError> {
        Err(EngineError { what: "write db/current".into(), source: "the disk is gone".into(), damage: false })
    }

    fn discard_others(&self) -> Result<(), EngineError> {
        self.0.discard_others()
    }

    fn condemn(&self, why: &str) -> Result<(), EngineError> {
        self.0.condemn(why)
    }

    fn open_condemned(&self) -> Result<Arc<dyn Engine>, EngineError> {
        self.0.open_condemned()
    }

    fn absolve(&self) -> Result<(), EngineError> {
        self.0.absolve()
    }

    fn keep_note(&self, note: &[u8]) -> Result<(), EngineError> {
        self.0.keep_note(note)
    }

    fn note(&self) -> Result<Option<Bytes>, EngineError> {
        self.0.note()
    }
}

#[test]
fn a_store_that_could_not_switch_applies_nothing_more_for_a_start_might_find_either_state() {
    let sent = chunks(&filled(&memory_home()));
    let home = Arc::new(NoSwitch(MemoryHome::new()));
    let store = Store::open(home, Keeps::Records, StoreSettings::default()).expect("memory opens");
    let refused = install(&store, &sent).expect_err("the disk fails").to_string();
    assert!(refused.contains("write db/current"), "{refused}");
    let blank = ApplyEntry { log_id: log_id(1), payload: ApplyPayload::Blank };
    let stopped = store.apply(vec![blank]).expect_err("what it applied might not be there after a start");
    assert!(matches!(stopped, StoreError::Stopped { .. }), "{stopped}");
    assert_eq!(store.applied().log_id, None);
}

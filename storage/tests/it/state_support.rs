//! Builds logs and homes for the state machine's tests.

use std::sync::Arc;

use bytes::Bytes;
use saola_storage::command::{
    Bootstrap, Command, CommandBatch, CreateCollection, Decision, DeleteRecord, Expect, ExpectKind, Op, Outcome,
    PutRecord, RequestId, Site, TakeDigest, Wrap, WrappedDek,
};
use saola_storage::engine::EngineHome;
use saola_storage::engine::memory::MemoryHome;
use saola_storage::store::{ApplyEntry, ApplyPayload, Keeps, Store, StoreSettings};
use saola_storage::types::{LeaderId, LogId};

/// A home that is removed with its folder.
pub struct TestHome {
    pub home: Arc<dyn EngineHome>,
    _folder: Option<tempfile::TempDir>,
}

#[cfg(feature = "rocksdb")]
impl TestHome {
    /// One in a folder that the test keeps.
    pub fn of(home: Arc<dyn EngineHome>) -> TestHome {
        TestHome { home, _folder: None }
    }
}

pub fn memory_home() -> TestHome {
    TestHome { home: Arc::new(MemoryHome::new()), _folder: None }
}

#[cfg(feature = "rocksdb")]
pub fn rocks_home() -> TestHome {
    use saola_storage::engine::rocks::{RocksHome, RocksSettings};
    let folder = tempfile::tempdir().expect("a temporary folder");
    let settings = RocksSettings { write_buffer_bytes: 1 << 20, block_cache_bytes: 1 << 20 };
    let home = RocksHome::new(folder.path().join("db"), settings);
    TestHome { home: Arc::new(home), _folder: Some(folder) }
}

/// One home of each engine.
pub fn homes() -> Vec<TestHome> {
    vec![
        memory_home(),
        #[cfg(feature = "rocksdb")]
        rocks_home(),
    ]
}

pub fn open(home: &TestHome) -> Store {
    open_with(home, StoreSettings::default())
}

pub fn open_with(home: &TestHome, settings: StoreSettings) -> Store {
    Store::open(Arc::clone(&home.home), Keeps::Records, settings).expect("a store opens in its home")
}

pub fn log_id(index: u64) -> LogId {
    LogId { leader: LeaderId { term: 1, node_id: 1 }, index }
}

pub fn entry(index: u64, stamp_us: u64, commands: Vec<Command>) -> ApplyEntry {
    let payload = ApplyPayload::Commands(CommandBatch { stamp_us, commands });
    ApplyEntry { log_id: log_id(index), payload }
}

/// Applies one entry of commands behind what has been applied.
pub fn apply(store: &Store, commands: Vec<Command>) -> Vec<Outcome> {
    let index = store.applied().log_id.map_or(0, |last| last.index + 1);
    let mut outcomes = store.apply(vec![entry(index, 0, commands)]).expect("a log entry is applied");
    outcomes.pop().expect("one outcome list per entry")
}

/// Applies one command and returns what happened.
pub fn decide(store: &Store, command: Command) -> Decision {
    let outcome = apply(store, vec![command]).pop().expect("one outcome per command");
    outcome.decision.expect("every outcome says what happened")
}

pub fn kek(site: &str) -> Bytes {
    Bytes::from(vec![site.len() as u8; 32])
}

pub fn sites() -> Vec<Site> {
    let site = |name: &str, kek_public| Site { name: name.to_owned(), kek_public };
    vec![site("main", kek("main")), site("dr", kek("dr")), site("third", Bytes::new())]
}

pub fn wrap(site: &str) -> Wrap {
    let bytes = Bytes::from_static(b"sealed data key");
    Wrap { site: site.to_owned(), kek_public: kek(site), encapsulated: bytes.clone(), ciphertext: bytes }
}

pub fn dek(id: u8, incarnation: u8) -> WrappedDek {
    WrappedDek {
        id: vec![id; 16].into(),
        incarnation: vec![incarnation; 16].into(),
        wraps: vec![wrap("main"), wrap("dr")],
    }
}

pub fn command(op: Op) -> Command {
    Command { request: None, op: Some(op) }
}

pub fn bootstrap() -> Command {
    command(Op::Bootstrap(Bootstrap {
        store_uuid: vec![7; 16].into(),
        node_ids: vec![1],
        protection: None,
        failover: None,
        cluster_name: "test".to_owned(),
        sites: sites(),
        cluster_id: vec![8; 16].into(),
    }))
}

/// A collection whose incarnation and data key consist of one number.
pub fn create(name: &str, number: u8) -> Command {
    command(Op::CreateCollection(CreateCollection {
        name: name.to_owned(),
        incarnation: vec![number; 16].into(),
        max_value_bytes: 1 << 20,
        key_style: 1,
        owner: "registry".to_owned(),
        label: "test".to_owned(),
        dek: Some(dek(number, number)),
    }))
}

/// What an envelope under a data key looks like; its content is never opened here.
pub fn envelope(dek: u8, value: &[u8]) -> Bytes {
    let mut bytes = vec![1, 1];
    bytes.extend_from_slice(&[dek; 16]);
    bytes.extend_from_slice(&[0; 28]);
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(&[0; 16]);
    Bytes::from(bytes)
}

pub fn put(collection: &str, dek: u8, id: &[u8], value: &[u8], expect: Option<Expect>) -> Command {
    command(Op::Put(PutRecord {
        collection: collection.to_owned(),
        id: Bytes::copy_from_slice(id),
        envelope: envelope(dek, value),
        content_type: "application/json".to_owned(),
        expect,
        provenance: None,
        value_bytes: value.len() as u64,
    }))
}

pub fn delete(collection: &str, id: &[u8], expect: Option<Expect>) -> Command {
    let id = Bytes::copy_from_slice(id);
    command(Op::Delete(DeleteRecord { collection: collection.to_owned(), id, expect, provenance: None }))
}

pub fn expect(kind: ExpectKind, generation: u64) -> Option<Expect> {
    Some(Expect { kind: kind as i32, generation })
}

pub fn by(client: u8, since: u64, sequence: u64, done_below: u64, command: Command) -> Command {
    let client = vec![client; 16].into();
    Command { request: Some(RequestId { client, since, sequence, done_below }), ..command }
}

pub fn digest() -> Command {
    command(Op::TakeDigest(TakeDigest {}))
}

/// A store with the collections `agency` (key 1) and `person` (key 2).
pub fn started(home: &TestHome) -> Store {
    let store = open(home);
    apply(&store, vec![bootstrap(), create("agency", 1), create("person", 2)]);
    store
}

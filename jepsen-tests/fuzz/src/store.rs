//! Small stores in memory, and the commands that make them.

use std::sync::Arc;

use bytes::Bytes;
use saola_storage::command::{
    AddSite, Bootstrap, ClaimNodeId, Collect, Command, CommandBatch, CompactChanges, CreateCollection, DeleteRecord,
    Expect, ExpectKind, KeyStyle, Op, Provenance, PutRecord, RequestId, RetentionChange, RetentionLimits, SetRetention,
    Site, TakeDigest, TimeMark, WrappedDek,
};
use saola_storage::engine::memory::MemoryHome;
use saola_storage::kek::{KekPrivate, KekProvider};
use saola_storage::keyring::{wrap_dek, wrap_for_sites};
use saola_storage::seal::{Dek, DekId, SealContext, seal};
use saola_storage::store::{ApplyEntry, ApplyPayload, At, Keeps, Store, StoreSettings};
use saola_storage::types::{LeaderId, LogId};
use zeroize::Zeroizing;

pub(crate) const STORE: [u8; 16] = [0x11; 16];
pub(crate) const INCARNATION: [u8; 16] = [0x22; 16];
pub(crate) const SITE: &str = "main";
pub(crate) const COLLECTION: &str = "agency";
pub(crate) const CONTENT_TYPE: &str = "application/json";

pub(crate) fn kek() -> KekPrivate {
    KekPrivate::from_random(Zeroizing::new([7; 32]))
}

pub(crate) fn dek() -> Dek {
    Dek::new(DekId([0x33; 16]), Zeroizing::new([0x44; 32]))
}

pub(crate) fn site(name: &str) -> Site {
    Site { name: name.to_owned(), kek_public: Bytes::copy_from_slice(&kek().public().0) }
}

pub(crate) fn wrapped_dek() -> WrappedDek {
    let wrapped = wrap_for_sites(&dek(), &STORE, &INCARNATION, &[site(SITE)], || Zeroizing::new([9; 32]));
    wrapped.expect("a key is wrapped for a good public key")
}

pub(crate) fn envelope(id: &[u8], value: &[u8]) -> Bytes {
    let context =
        SealContext { store_uuid: &STORE, incarnation: &INCARNATION, record_id: id, content_type: CONTENT_TYPE };
    seal(&dek(), &context, value, &[5; 28]).expect("a short value is sealed")
}

fn call(sequence: u64, op: Op) -> Command {
    let client = Bytes::from_static(&[0x55; 16]);
    Command { request: Some(RequestId { client, since: 1, sequence, done_below: sequence }), op: Some(op) }
}

fn plain(op: Op) -> Command {
    Command { request: None, op: Some(op) }
}

pub(crate) fn put(sequence: u64, id: &'static [u8]) -> Command {
    let provenance = Provenance { source_system: "s".into(), actor: "a".into(), reason: "r".into() };
    call(
        sequence,
        Op::Put(PutRecord {
            collection: COLLECTION.into(),
            id: Bytes::from_static(id),
            envelope: envelope(id, b"{}"),
            content_type: CONTENT_TYPE.into(),
            expect: Some(Expect { kind: ExpectKind::Any as i32, generation: 0 }),
            provenance: Some(provenance),
            value_bytes: 2,
        }),
    )
}

/// The first commands of a cluster and its first collection.
pub(crate) fn beginning() -> Vec<Command> {
    let bootstrap = Bootstrap {
        store_uuid: Bytes::from_static(&STORE),
        cluster_name: "registry".into(),
        sites: vec![site(SITE)],
        cluster_id: Bytes::from_static(&[0x66; 16]),
        node_ids: vec![1, 2],
        protection: None,
        failover: None,
    };
    let create = CreateCollection {
        name: COLLECTION.into(),
        incarnation: Bytes::from_static(&INCARNATION),
        max_value_bytes: 1 << 20,
        key_style: KeyStyle::Ordered as i32,
        owner: "o".into(),
        label: "l".into(),
        dek: Some(wrapped_dek()),
    };
    vec![plain(Op::Bootstrap(bootstrap)), call(1, Op::CreateCollection(create))]
}

/// One of every other kind of command.
pub(crate) fn others() -> Vec<Command> {
    let delete = DeleteRecord {
        collection: COLLECTION.into(),
        id: Bytes::from_static(b"ward/1"),
        expect: Some(Expect { kind: ExpectKind::Generation as i32, generation: 1 }),
        provenance: None,
    };
    let dr = site("dr");
    let wrap = wrap_dek(&dek(), &STORE, &INCARNATION, &dr, &Zeroizing::new([8; 32])).expect("a good public key");
    let add = AddSite { site: Some(dr), deks: vec![WrappedDek { wraps: vec![wrap], ..wrapped_dek() }] };
    let claim = ClaimNodeId { node_id: 3, folder_id: Bytes::from_static(&[0x77; 16]) };
    let limits = RetentionLimits { max_generations: 1, max_age_ms: 0 };
    let retain = SetRetention { collection: COLLECTION.into(), change: Some(RetentionChange::Limits(limits)) };
    let collect = Collect {
        up_to_revision: 3,
        collection: 1,
        incarnation: Bytes::from_static(&INCARNATION),
        after_id: Bytes::new(),
        max_records: 10,
    };
    vec![
        put(2, b"ward/1"),
        put(3, b"ward/2"),
        call(4, Op::Delete(delete)),
        plain(Op::AddSite(add)),
        plain(Op::ClaimNodeId(claim)),
        plain(Op::TimeMark(TimeMark {})),
        plain(Op::TakeDigest(TakeDigest {})),
        plain(Op::SetRetention(retain)),
        plain(Op::Collect(collect)),
        plain(Op::CompactChanges(CompactChanges { up_to_revision: 2, max_rows: 10 })),
    ]
}

pub(crate) fn empty(home: &Arc<MemoryHome>) -> Store {
    let settings = StoreSettings { max_request_entries: 8 };
    Store::open(home.clone(), Keeps::Records, settings).expect("an empty home opens")
}

pub(crate) fn entry(index: u64, batch: CommandBatch) -> ApplyEntry {
    let log_id = LogId { leader: LeaderId { term: 1, node_id: 1 }, index };
    ApplyEntry { log_id, payload: ApplyPayload::Commands(batch) }
}

/// A store with a little of everything.
pub(crate) fn furnished(home: &Arc<MemoryHome>) -> Store {
    let store = empty(home);
    let commands = beginning().into_iter().chain(others()).collect();
    store.apply(vec![entry(1, CommandBatch { stamp_us: 1, commands })]).expect("good commands are applied");
    store
}

/// Reads whatever can be read; rows that cannot be are errors, which a caller would show.
pub(crate) fn read_all(store: &Store) {
    let view = store.view();
    let revision = view.applied().revision;
    let _ = (view.info(), view.deks(), view.counts(), view.revision_at_time(u64::MAX).is_ok());
    for collection in view.collections() {
        let records = view.list(&collection, b"", None, revision, 100).unwrap_or_default();
        for record in records {
            let _ = view.get(&collection, &record.id, At::Generation(1)).is_ok();
            let _ = view.history(&collection, &record.id, revision, true).count();
        }
        let _ = view.history(&collection, b"ward/1", revision, false).count();
    }
}

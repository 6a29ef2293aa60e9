//! What the benches share. The workload that everyone quotes: values of 1 KiB under random-looking ids of a large
//! collection, each write with a request id of its own.
//!
//! - `benches/seal.rs`: one value sealed and opened, at 256 B, 1 KiB and 4 KiB;
//! - `benches/log_append.rs`: appends to the durable log with 1, 16 and 64 in flight, beside the disk's bare `fdatasync`;
//! - `benches/apply.rs`: batches of 64 puts applied to RocksDB;
//! - `benches/snapshot.rs`: a state moved from one RocksDB to a new one;
//! - `benches/cluster_write.rs`: five processes, acknowledged puts a second and their latency;
//! - `benches/failover.rs`: how long no write is acknowledged after SIGKILL of the leader and of the main site;
//! - `benches/sites.rs`: five processes, 1, 20 and 40 ms between their sites: latencies, and gaps when a site is lost;
//! - `benches/reinstate.rs`: a side that was left behind by a forced promotion comes back, beside a whole copy;
//! - `benches/large.rs`: three processes with many records: load, latency, disk, memory, cold start, rebuild;
//! - `benches/history_heap.rs`: memory of one node's log and state machine while the history of its records grows.
//!
//! What several of them need: [`gaps`] (writers that never stop, and how long nothing is acknowledged), and `saola_live::network`
//! (sites in network namespaces, with a distance between them).
//!
//! `make bench` runs them all; `cargo bench -p saola-benches --bench seal` runs one.

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use saola_client::CreateCollection as NewCollection;
use saola_ops::exit::Failure;
use saola_ops::launch::{LocalCluster, Place, Plan, node_binary};
use saola_storage::command::{Bootstrap, Command, CommandBatch, CreateCollection, KeyStyle, Op, WrappedDek};
use saola_storage::command::{PutRecord, RequestId};
use saola_storage::seal::{Dek, DekId, SealContext, SealError, seal};
use saola_storage::store::{ApplyEntry, ApplyPayload};
use saola_storage::types::{LeaderId, LogId};
use zeroize::Zeroizing;

pub mod gaps;

/// Collection that all benches write to.
pub const COLLECTION: &str = "bench";

const STORE_UUID: [u8; 16] = [1; 16];
const INCARNATION: [u8; 16] = [2; 16];
const DEK_ID: [u8; 16] = [3; 16];

/// A value of `bytes` bytes that does not repeat itself.
pub fn value(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// Id of the n-th record: neighbours in `n` are far apart in the key space.
pub fn record_id(n: u64) -> String {
    format!("r/{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The data key of the benches' collection.
pub fn dek() -> Dek {
    Dek::new(DekId(DEK_ID), Zeroizing::new([4; 32]))
}

/// What a value of record `id` is sealed with.
pub fn context(id: &[u8]) -> SealContext<'_> {
    SealContext {
        store_uuid: &STORE_UUID,
        incarnation: &INCARNATION,
        record_id: id,
        content_type: "application/octet-stream",
    }
}

/// The place of the entry at `index`.
pub fn log_id(index: u64) -> LogId {
    LogId { leader: LeaderId { term: 1, node_id: 1 }, index }
}

/// The two entries, at index 0 and 1, that make a store with the benches' collection.
pub fn first_entries() -> Vec<ApplyEntry> {
    let bootstrap = Bootstrap {
        store_uuid: Bytes::from_static(&STORE_UUID),
        node_ids: vec![1],
        protection: None,
        failover: None,
        cluster_name: "bench".to_string(),
        cluster_id: Bytes::from_static(&[5; 16]),
        sites: vec![],
    };
    let incarnation = Bytes::from_static(&INCARNATION);
    let create = CreateCollection {
        name: COLLECTION.to_string(),
        incarnation: incarnation.clone(),
        max_value_bytes: 1 << 20,
        key_style: KeyStyle::Ordered.into(),
        dek: Some(WrappedDek { id: Bytes::from_static(&DEK_ID), incarnation, wraps: vec![] }),
        ..CreateCollection::default()
    };
    let ops = [Op::Bootstrap(bootstrap), Op::CreateCollection(create)];
    let entry = |(index, op)| entry(index, vec![Command { request: None, op: Some(op) }]);
    (0..).zip(ops).map(entry).collect()
}

/// An entry with `puts` sealed values of `bytes` bytes each, for records from `first` on.
///
/// # Errors
/// As [`seal`].
pub fn put_entry(index: u64, first: u64, puts: u64, bytes: usize) -> Result<ApplyEntry, SealError> {
    let value = value(bytes);
    let dek = dek();
    let put = |n: u64| {
        let id = record_id(n);
        let mut entropy = [0; 28];
        entropy[..8].copy_from_slice(&n.to_be_bytes());
        let envelope = seal(&dek, &context(id.as_bytes()), &value, &entropy)?;
        // Goes up with the log, also when the same records are written again.
        let sequence = index * puts + (n - first) + 1;
        let client = Bytes::from_static(&[6; 16]);
        let put = PutRecord {
            collection: COLLECTION.to_string(),
            id: id.into(),
            envelope,
            content_type: "application/octet-stream".to_string(),
            value_bytes: bytes as u64,
            ..PutRecord::default()
        };
        let request = RequestId { client, since: 1, sequence, done_below: sequence };
        Ok(Command { request: Some(request), op: Some(Op::Put(put)) })
    };
    let commands = (first..first + puts).map(put).collect::<Result<_, SealError>>()?;
    Ok(entry(index, commands))
}

fn entry(index: u64, commands: Vec<Command>) -> ApplyEntry {
    // A fixed clock that moves a millisecond an entry.
    let stamp_us = 1_750_000_000_000_000 + index * 1000;
    ApplyEntry { log_id: log_id(index), payload: ApplyPayload::Commands(CommandBatch { stamp_us, commands }) }
}

/// How often a second this disk syncs 4 KiB over blocks written before.
///
/// # Errors
/// Those of the disk.
pub fn bare_syncs(folder: &Path) -> std::io::Result<f64> {
    let mut file = std::fs::File::create(folder.join("bare"))?;
    let page = value(4096);
    file.write_all(&page.repeat(256))?;
    file.sync_all()?;
    let start = Instant::now();
    let mut syncs = 0;
    while start.elapsed() < Duration::from_secs(2) {
        file.seek(SeekFrom::Start(syncs % 256 * 4096))?;
        file.write_all(&page)?;
        file.sync_data()?;
        syncs += 1;
    }
    Ok(syncs as f64 / start.elapsed().as_secs_f64())
}

/// Five nodes (2+2+w) with the benches' collection, their files in a new folder `cluster` of `folder`.
///
/// # Errors
/// A node program that is not there, or a cluster that does not start.
pub async fn five_nodes(folder: &Path) -> Result<LocalCluster, Failure> {
    let plan = Plan { cluster_name: "bench".to_string(), ..Plan::two_sites_and_witness() };
    started(&plan, folder).await
}

/// The nodes of a plan with the benches' collection, their files in a new folder `cluster` of `folder`.
///
/// # Errors
/// As [`five_nodes`].
pub async fn started(plan: &Plan, folder: &Path) -> Result<LocalCluster, Failure> {
    let mut cluster = LocalCluster::prepare(plan, Place::Folder(folder.join("cluster")), &node_binary()?)?;
    cluster.start_all().await?;
    cluster.init().await?;
    cluster.client().create_collection(NewCollection::new(COLLECTION)).await?;
    Ok(cluster)
}

/// True when the bench is to be measured: `cargo bench` says so, `cargo test --benches` does not.
pub fn asked_to_measure() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

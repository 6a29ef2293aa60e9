//! The collection that simulated clients write to, and how to see what is in it.

use std::collections::BTreeMap;

use bytes::Bytes;
use saola_raft::sim::{SimRuntime, spawn_on};
use saola_raft::{ReadPoint, Replica};
use saola_storage::command::{
    AddSite, Command, CreateCollection, Decision, DeleteRecord, Expect, ExpectKind, Op, PutRecord, RequestId,
    RetentionChange, SetRetention, Site, TakeDigest, Wrap, WrappedDek,
};
use saola_storage::error::StoreError;
use saola_storage::store::{At, Collection, StoredVersion, VersionOp};

use super::clerk::CALL;
use super::cluster::{Cluster, PATIENCE};

/// Its name.
pub const COLLECTION: &str = "drill";
const DEK: [u8; 16] = [7; 16];
const INCARNATION: [u8; 16] = [8; 16];
/// What stands before the value in an envelope: version, suite, key id, salt and nonce.
const HEAD: usize = 2 + 16 + 28;
/// The client that makes the collection.
const MAKER: u64 = 99;
/// Clients that make other collections: none of the others calls itself so.
const KEY_MAKER: u64 = 50_000;
/// More calls than a client makes in a run.
const SEQUENCES: u64 = 1_000_000;

fn envelope(dek: [u8; 16], value: u64, padding: usize) -> Bytes {
    let mut bytes = vec![1u8, 1];
    bytes.extend_from_slice(&dek);
    bytes.extend_from_slice(&[0; 28]);
    bytes.extend_from_slice(&value.to_le_bytes());
    bytes.resize(bytes.len() + padding, 0);
    bytes.extend_from_slice(&[0; 16]);
    bytes.into()
}

fn request(client: u64, sequence: u64) -> RequestId {
    let mut id = [0u8; 16];
    id[..8].copy_from_slice(&(client + 1).to_le_bytes());
    RequestId { client: Bytes::copy_from_slice(&id), since: 1, sequence, done_below: sequence }
}

/// The id of a record.
pub fn record_id(record: u64) -> String {
    format!("r{record}")
}

/// The value that a client writes in a call.
pub fn value_of(client: u64, sequence: u64) -> u64 {
    client * SEQUENCES + sequence
}

/// Whose value it is.
pub fn client_of(value: u64) -> u64 {
    value / SEQUENCES
}

/// A client's call: its value, and `padding` bytes behind it, as a new version of a record.
pub fn put(client: u64, sequence: u64, record: u64, padding: usize) -> Command {
    let put = PutRecord {
        collection: COLLECTION.into(),
        id: record_id(record).into(),
        envelope: envelope(DEK, value_of(client, sequence), padding),
        content_type: String::new(),
        expect: None,
        provenance: None,
        value_bytes: 8 + padding as u64,
    };
    Command { request: Some(request(client, sequence)), op: Some(Op::Put(put)) }
}

/// The same, if the newest version has this generation.
pub fn put_if(client: u64, sequence: u64, record: u64, generation: u64) -> Command {
    let mut command = put(client, sequence, record, 0);
    if let Some(Op::Put(put)) = &mut command.op {
        put.expect = Some(Expect { kind: ExpectKind::Generation as i32, generation });
    }
    command
}

/// Deletes a record.
pub fn delete(client: u64, sequence: u64, record: u64) -> Command {
    let delete =
        DeleteRecord { collection: COLLECTION.into(), id: record_id(record).into(), expect: None, provenance: None };
    Command { request: Some(request(client, sequence)), op: Some(Op::Delete(delete)) }
}

/// Wraps a data key for a site: apply looks at whom it is for, and has no key to look further.
fn wrap_for(site: &Site) -> Wrap {
    Wrap { site: site.name.clone(), kek_public: site.kek_public.clone(), ..Wrap::default() }
}

fn create(name: &str, dek: [u8; 16], incarnation: [u8; 16], sites: &[Site]) -> Op {
    let incarnation = Bytes::copy_from_slice(&incarnation);
    let wraps = sites.iter().map(wrap_for).collect();
    let dek = WrappedDek { id: Bytes::copy_from_slice(&dek), incarnation: incarnation.clone(), wraps };
    Op::CreateCollection(CreateCollection {
        name: name.into(),
        incarnation,
        max_value_bytes: 1 << 20,
        key_style: 0,
        owner: String::new(),
        label: String::new(),
        dek: Some(dek),
    })
}

/// Makes the collection in a new cluster.
pub async fn create_collection(replica: &Replica<SimRuntime>) {
    let command = Command { request: Some(request(MAKER, 1)), op: Some(create(COLLECTION, DEK, INCARNATION, &[])) };
    let outcome = replica.propose(command, PATIENCE).await.expect("a quiet cluster takes a collection");
    assert!(matches!(outcome.decision, Some(Decision::CollectionCreated(_))), "{outcome:?}");
}

/// Makes another collection with a data key of its own and writes to it, under that key or under one that is not this
/// collection's, whatever comes of the calls; true: what was sealed under the wrong key was taken.
pub async fn use_another_key(replica: &Replica<SimRuntime>, number: u64, is_its_own: bool) -> bool {
    let (client, name) = (KEY_MAKER + number, format!("{COLLECTION}-{number}"));
    let mut dek = [9; 16];
    dek[..8].copy_from_slice(&number.to_le_bytes());
    let sites = replica.store().view().info().map(|info| info.sites).unwrap_or_default();
    let made = Command { request: Some(request(client, 1)), op: Some(create(&name, dek, dek, &sites)) };
    if replica.propose(made, CALL).await.is_err() {
        return false;
    }
    let mut write = put(client, 2, 0, 0);
    if let Some(Op::Put(put)) = &mut write.op {
        put.collection = name;
        put.envelope = envelope(if is_its_own { dek } else { DEK }, 0, 0);
    }
    let written = replica.propose(write, CALL).await;
    !is_its_own && written.is_ok_and(|it| matches!(it.decision, Some(Decision::Written(_))))
}

/// Adds a site, with the data keys that this node knows of wrapped for it, or with one of them left out, whatever comes of the
/// call; true: it was taken without that key.
pub async fn add_site(replica: &Replica<SimRuntime>, number: u64, lacks_one: bool) -> bool {
    let site = Site { name: format!("site-{number}"), kek_public: Bytes::copy_from_slice(&[number as u8; 32]) };
    let known = replica.store().view().deks().into_iter();
    let deks =
        known.map(|dek| WrappedDek { wraps: vec![wrap_for(&site)], ..dek }).skip(usize::from(lacks_one)).collect();
    let command = Command { request: None, op: Some(Op::AddSite(AddSite { site: Some(site), deks })) };
    let outcome = replica.propose(command, CALL).await;
    lacks_one && outcome.is_ok_and(|it| matches!(it.decision, Some(Decision::Done(_))))
}

/// Where in a version's row its sealed value stands; none in that of a deletion.
pub fn sealed_value_in(row: &[u8]) -> Option<usize> {
    let head = envelope(DEK, 0, 0).slice(..2 + 16);
    row.windows(head.len()).position(|bytes| bytes == head).map(|at| at + head.len())
}

/// Generation of a record at a read point; 0 when it is not there.
pub fn generation_at(replica: &Replica<SimRuntime>, record: u64, point: &ReadPoint) -> u64 {
    let view = replica.store().view();
    let Some(collection) = view.collection(COLLECTION) else { return 0 };
    let version = view.get(&collection, record_id(record).as_bytes(), At::Revision(point.revision));
    version.expect("memory reads").map_or(0, |version| version.generation)
}

/// All versions of a record up to a read point: value by generation.
pub fn history_at(replica: &Replica<SimRuntime>, record: u64, point: &ReadPoint) -> BTreeMap<u64, u64> {
    let view = replica.store().view();
    let Some(collection) = view.collection(COLLECTION) else { return BTreeMap::new() };
    let versions = view.history(&collection, record_id(record).as_bytes(), point.revision, false);
    versions.map(|version| version.expect("memory reads")).map(|v| (v.generation, value_in(&v))).collect()
}

/// The newest version of a record at a revision, and its value if it is no deletion.
///
/// # Errors
/// The rows do not read.
pub fn version_at(
    replica: &Replica<SimRuntime>,
    record: u64,
    revision: u64,
) -> Result<Option<(StoredVersion, Option<u64>)>, String> {
    let view = replica.store().view();
    let Some(collection) = view.collection(COLLECTION) else { return Ok(None) };
    let version = view.get(&collection, record_id(record).as_bytes(), At::Revision(revision));
    Ok(version.map_err(|error| error.to_string())?.map(with_value))
}

/// Generation of a record at a time; 0 when it was not there.
///
/// # Errors
/// The rows do not read.
pub fn generation_as_of(replica: &Replica<SimRuntime>, record: u64, at_us: u64) -> Result<u64, String> {
    let view = replica.store().view();
    let Some(collection) = view.collection(COLLECTION) else { return Ok(0) };
    let revision = view.revision_at_time(at_us).map_err(|error| error.to_string())?;
    let version = view.get(&collection, record_id(record).as_bytes(), At::Revision(revision));
    Ok(version.map_err(|error| error.to_string())?.map_or(0, |version| version.generation))
}

/// All versions of a record up to a revision.
///
/// # Errors
/// The rows do not read.
pub fn versions_at(
    replica: &Replica<SimRuntime>,
    record: u64,
    revision: u64,
) -> Result<Vec<(StoredVersion, Option<u64>)>, String> {
    let view = replica.store().view();
    let Some(collection) = view.collection(COLLECTION) else { return Ok(Vec::new()) };
    let versions = view.history(&collection, record_id(record).as_bytes(), revision, false);
    versions.map(|version| version.map(with_value).map_err(|error| error.to_string())).collect()
}

fn with_value(version: StoredVersion) -> (StoredVersion, Option<u64>) {
    let value = (version.op != VersionOp::Delete).then(|| value_in(&version));
    (version, value)
}

/// The collection as a node has it.
pub fn collection(replica: &Replica<SimRuntime>) -> Collection {
    replica.store().view().collection(COLLECTION).expect("the cluster was made with it")
}

/// Changes how long versions are kept; `sequence` counts such changes.
pub fn set_retention(sequence: u64, change: RetentionChange) -> Command {
    let set = SetRetention { collection: COLLECTION.into(), change: Some(change) };
    Command { request: Some(request(MAKER, sequence + 1)), op: Some(Op::SetRetention(set)) }
}

/// The live records as of a revision, with their generations.
///
/// # Errors
/// The revision is gone.
pub fn listed_at(replica: &Replica<SimRuntime>, revision: u64) -> Result<BTreeMap<Bytes, u64>, StoreError> {
    let listed = replica.store().view().list(&collection(replica), b"", None, revision, usize::MAX)?;
    Ok(listed.into_iter().map(|version| (version.id, version.generation)).collect())
}

fn value_in(version: &StoredVersion) -> u64 {
    let value = version.envelope.get(HEAD..HEAD + 8).and_then(|bytes| bytes.try_into().ok());
    u64::from_le_bytes(value.expect("every envelope here has a value"))
}

/// Compares the state digests of all running data nodes at one log index.
///
/// # Errors
/// They differ, or the cluster does not serve within [`PATIENCE`], or there is a site that cannot open a data key.
pub async fn compare_digests(cluster: &Cluster) -> Result<(), String> {
    let ids = cluster.running();
    let first = ids.first().and_then(|id| cluster.replica(*id)).ok_or("no data node runs")?;
    let command = Command { request: None, op: Some(Op::TakeDigest(TakeDigest {})) };
    let outcome = spawn_on(ids[0], async move { first.propose(command, PATIENCE).await }).await;
    let index = outcome
        .map_err(|_| "the node went away")?
        .map_err(|error| format!("the cluster takes no writes: {error}"))?
        .index;
    let mut digests = BTreeMap::new();
    for (id, replica) in ids.iter().filter_map(|id| Some((*id, cluster.replica(*id)?))) {
        let reads = replica.clone();
        let point = spawn_on(id, async move { reads.read_point(PATIENCE).await }).await;
        point.map_err(|_| "the node went away")?.map_err(|error| format!("node {id} serves no reads: {error}"))?;
        digests.insert(id, replica.store().digest_at(index));
    }
    let one = digests.values().next().copied().flatten();
    if one.is_none() || digests.values().any(|digest| *digest != one) {
        return Err(format!("digests at index {index} differ: {digests:?}"));
    }
    let view = cluster.replica(ids[0]).ok_or("the node went away")?.store().view();
    let sites = view.info().map(|info| info.sites).unwrap_or_default();
    let deks = view.deks();
    let lacks = |site: &Site| deks.iter().any(|dek| !dek.wraps.contains(&wrap_for(site)));
    match sites.iter().find(|site| lacks(site)) {
        Some(site) => Err(format!("{} cannot open each data key", site.name)),
        None => Ok(()),
    }
}

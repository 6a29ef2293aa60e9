//! A node's records in a lineage of their own: what a drill rehearses a promotion on, while the cluster goes on.
//!
//! From the stream that [`crate::export`] sends comes the data folder of one member: its rows, an empty log that begins
//! where they end, and an identity under a cluster id that nobody else has. The other members stand in it without
//! addresses, so a node that runs on it reaches none of them, and none of them lets it in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use thiserror::Error;

use crate::apply::{self, Applied, Machine};
use crate::disk::{Disk, RealDisk};
use crate::engine::rocks::{RocksHome, RocksSettings};
use crate::engine::{Batch, Kind};
use crate::error::StoreError;
use crate::folder::{DataFolder, FolderClaim, FolderError};
use crate::import::{Import, ImportError};
use crate::keyspace::meta::{self, InfoRow};
use crate::keyspace::{decode_value, encode_value};
use crate::log::{Log, LogError, LogOp, LogSettings};
use crate::member::MembershipRecord;
use crate::store::{Keeps, Store, StoreSettings};
use crate::types::{LogId, NodeId, Vote};

/// Why there is no such folder. What has been written of it serves nothing.
#[derive(Debug, Error)]
pub enum ForkError {
    /// The folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The records.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The file system.
    #[error("{action} {path}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// The disk would be full.
    #[error("{free_bytes} bytes are free at {path}, and {keep_bytes} are to stay free: name a folder on another disk", path = path.display())]
    NoRoom {
        /// The folder.
        path: PathBuf,
        /// Free bytes.
        free_bytes: u64,
        /// So many must stay free.
        keep_bytes: u64,
    },
}

/// The lineage that begins.
#[derive(Clone, Debug)]
pub struct NewLineage {
    /// Id of the cluster from now on.
    pub cluster_id: [u8; 16],
    /// Its name from now on.
    pub cluster_name: String,
    /// Its epoch, which is the one that the records come from.
    pub epoch: u64,
    /// Where peers would reach the node.
    pub peer_address: String,
    /// Where clients reach the node.
    pub client_address: String,
}

/// What stands in the folder.
#[derive(Clone, Debug)]
pub struct Forked {
    /// Entry with which its records end.
    pub log_id: LogId,
    /// Revision of the records.
    pub revision: u64,
    /// State digest of the records, which is the sender's.
    pub digest: [u8; 32],
    /// Bytes that have come.
    pub bytes: u64,
}

/// A folder that is being filled.
pub struct Fork {
    path: PathBuf,
    folder: DataFolder,
    store: Store,
    import: Import,
    disk: RealDisk,
    keep_bytes: u64,
}

impl Fork {
    /// Begins with an empty folder for the member that `claim` says; `keep_bytes` of its disk are to stay free.
    ///
    /// # Errors
    /// The folder is not empty, or cannot be written.
    pub fn begin(path: &Path, claim: FolderClaim, folder_id: [u8; 16], keep_bytes: u64) -> Result<Fork, ForkError> {
        let folder = DataFolder::open(path, claim, folder_id)?;
        if folder.identity().is_some() {
            return Err(FolderError::Foreign(path.to_owned()).into());
        }
        let at = |action, path: &Path| {
            let path = path.to_owned();
            move |source| ForkError::Io { action, path, source }
        };
        let log = path.join("log");
        fs::create_dir_all(&log).map_err(at("make", &log))?;
        let disk = RealDisk::open(&log).map_err(at("open", &log))?;
        let home = RocksHome::new(path.join("db"), RocksSettings::RECORDS).note_at(path.join("members"));
        let store = Store::open(Arc::new(home), Keeps::Records, StoreSettings::default())?;
        let import = store.import()?;
        Ok(Fork { path: path.to_owned(), folder, store, import, disk, keep_bytes })
    }

    /// Takes the next chunk of the stream.
    ///
    /// # Errors
    /// It is damaged or out of place, or the disk has no room for it.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), ForkError> {
        let path = || self.path.clone();
        let free_bytes = self.disk.free_bytes();
        let free_bytes =
            free_bytes.map_err(|source| ForkError::Io { action: "ask for the free space of", path: path(), source })?;
        if free_bytes < self.keep_bytes {
            return Err(ForkError::NoRoom { path: path(), free_bytes, keep_bytes: self.keep_bytes });
        }
        Ok(self.import.write(chunk)?)
    }

    /// Makes the folder one on which a node can run, once the whole stream has come.
    ///
    /// # Errors
    /// It has not come whole, the records do not know the node, or the disk failed.
    pub fn finish(self, lineage: &NewLineage) -> Result<Forked, ForkError> {
        let Fork { mut folder, store, import, disk, .. } = self;
        let own = (folder.claim().node_id, folder.folder_id());
        let bytes = import.shipped().bytes;
        let (applied, digest) = install(import, own, lineage)?;
        store.flush()?;
        drop(store);
        let log_id = applied.log_id.unwrap_or_default();
        begin_log(disk, log_id)?;
        folder.adopt(lineage.cluster_id, lineage.epoch, None)?;
        Ok(Forked { log_id, revision: applied.revision, digest, bytes })
    }
}

/// Puts the received records in place under their new lineage, and gives where they end and their digest.
fn install(
    import: Import,
    (node_id, folder_id): (NodeId, [u8; 16]),
    lineage: &NewLineage,
) -> Result<(Applied, [u8; 32]), StoreError> {
    let whole = import.whole()?;
    let view = whole.engine.view();
    let bad = |why: String| StoreError::from(ImportError::Inconsistent { why });
    let membership = apply::membership(view.get(Kind::Meta, meta::MEMBERSHIP)?)?;
    let (at, bytes) = membership.ok_or_else(|| bad("it says nothing of members".into()))?;
    let members = MembershipRecord::decode(bytes).map_err(|error| bad(format!("its membership: {error}")))?;
    let members = alone(members, (node_id, folder_id), lineage);
    let members = members.ok_or_else(|| bad(format!("it knows no member {node_id}")))?;
    let info = view.get(Kind::Meta, meta::INFO)?.ok_or_else(|| bad("it does not say whose state it is".into()))?;
    let info: InfoRow = decode_value(Kind::Meta, meta::INFO, info)?;
    let info = InfoRow {
        cluster_id: Bytes::copy_from_slice(&lineage.cluster_id),
        cluster_name: lineage.cluster_name.clone(),
        ..info
    };
    let mut batch = Batch::default();
    let members = Bytes::from(members.encode_to_vec());
    batch.put(Kind::Meta, meta::MEMBERSHIP, apply::membership_value(at, &members));
    batch.put(Kind::Meta, meta::INFO, encode_value(&info));
    whole.engine.write(batch)?;
    whole.engine.flush()?;
    let settings = whole.shared.settings;
    let machine = Machine::load(&*whole.engine.view(), Keeps::Records, settings.max_request_entries)?;
    let digest = machine.digest.buckets().total();
    let applied = whole.shared.install(whole.generation, whole.engine, machine, false)?;
    Ok((applied, digest))
}

/// The members as this one knows them from now on: itself in its new folder, the others without an address.
fn alone(
    mut record: MembershipRecord,
    (node_id, folder_id): (NodeId, [u8; 16]),
    lineage: &NewLineage,
) -> Option<MembershipRecord> {
    for member in record.seats.iter_mut().filter_map(|seat| seat.member.as_mut()) {
        (member.peer_address, member.client_address) = (String::new(), String::new());
    }
    let own = record.seats.iter_mut().filter_map(|seat| seat.member.as_mut()).find(|it| it.node_id == node_id)?;
    own.folder_id = Bytes::copy_from_slice(&folder_id);
    own.peer_address.clone_from(&lineage.peer_address);
    own.client_address.clone_from(&lineage.client_address);
    Some(record)
}

/// A log that has been purged up to the end of the records, as after a state was received in the usual way.
fn begin_log(disk: RealDisk, upto: LogId) -> Result<(), LogError> {
    let (log, writer) = Log::open(Arc::new(disk), LogSettings::default())?;
    log.submit(LogOp::Vote(Vote { leader: upto.leader, committed: false }), None);
    log.submit(LogOp::Purge(upto), None);
    log.submit(LogOp::Committed(Some(upto)), None);
    // The writer ends with the last handle, once all of it is durable.
    drop(log);
    let mut failed = None;
    writer.run(|error| failed = Some(error));
    failed.map_or(Ok(()), Err)
}

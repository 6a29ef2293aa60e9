//! A node's data folder: its identity file, its lock, `log/` and `db/`.
//!
//! - here: the folder of a node that runs ([`DataFolder`]), and of one that does not ([`StoppedFolder`]);
//! - `identity`: the text of the identity file.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::FlockOperation;

pub use self::identity::{FORMAT, Fence, IdentityFile, Lineage, Numbered, Promise, Reinstating, hex};
use crate::failpoint::{Failpoint, reach};
use crate::member::Role;
use crate::planted::{self, Bug};
use crate::promotion::epoch_id;
use crate::release::{RELEASE, UnknownFormat};
use crate::types::{EpochId, NodeId};

mod identity;

const IDENTITY: &str = "identity";
const LOCK: &str = "lock";
/// What a folder may hold and be nobody's: what a first start left behind, and what a new ext4 file system has.
const NOBODYS: [&str; 3] = [LOCK, "identity.new", "lost+found"];

/// What the settings say that the node in this folder is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FolderClaim {
    /// Node id.
    pub node_id: NodeId,
    /// Name.
    pub name: String,
    /// Site.
    pub site: String,
    /// Role.
    pub role: Role,
}

impl fmt::Display for FolderClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({}, site {})", self.role.as_str(), self.node_id, self.name, self.site)
    }
}

/// Which node of which cluster lives in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// Made at init; new after a restore or fork.
    pub cluster_id: [u8; 16],
    /// Lineage.
    pub epoch: u64,
    /// See [`EpochId::plan`].
    pub plan: u64,
    /// Node id.
    pub node_id: NodeId,
    /// The folder's own random id.
    pub folder_id: [u8; 16],
    /// Role.
    pub role: Role,
    /// Site.
    pub site: String,
    /// Name.
    pub name: String,
    /// Raft group, 0.
    pub group_id: u64,
}

impl NodeIdentity {
    /// Lineage, told from another one of the same number.
    pub fn epoch_id(&self) -> EpochId {
        EpochId { number: self.epoch, plan: self.plan }
    }
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// File system trouble.
    #[error("data folder {path}: {action}: {source}; check that the path exists on a writable disk")]
    Io {
        /// Folder.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Cause.
        source: io::Error,
    },
    /// Another process has it.
    #[error("data folder {0} is in use by another process; stop that one first, or give this node a folder of its own")]
    InUse(PathBuf),
    /// The folder holds something, but no identity.
    #[error(
        "data folder {0} is not empty and has no identity file, so it is not a node's folder; \
         point data_dir at an empty or missing folder"
    )]
    Foreign(PathBuf),
    /// Settings and folder disagree.
    #[error(
        "data folder {path} belongs to {found}, but the settings say {claimed}; \
         point data_dir at this node's own folder, or correct the settings"
    )]
    OtherNode {
        /// Folder.
        path: PathBuf,
        /// Who lives there.
        found: String,
        /// Who wants to.
        claimed: String,
    },
    /// The identity file cannot be read.
    #[error(
        "identity file of data folder {path} is damaged: {reason}; \
         restore it from a backup of this folder, or replace the node with `saola cluster replace`"
    )]
    Damaged {
        /// Folder.
        path: PathBuf,
        /// Cause.
        reason: String,
    },
    /// Written by a newer release.
    #[error("identity file of data folder {path} {format}")]
    Newer {
        /// Folder.
        path: PathBuf,
        /// What was found, and who reads it.
        format: UnknownFormat,
    },
    /// It was reinstated, and waits for its records.
    #[error("data folder {0} has not got the records of its epoch yet: have `saola dr reinstate` finish that first")]
    ComesBack(PathBuf),
    /// Nothing is there.
    #[error("there is no data folder {0}; give the folder that the node's settings call `data_dir`")]
    Missing(PathBuf),
}

/// A locked data folder.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    /// Its claim is what the settings say; see [`DataFolder::claim`] for what holds.
    file: IdentityFile,
    /// What the settings say, with the vote that a promotion gave and the number that a reinstatement gave.
    claim: FolderClaim,
    _lock: Lock,
}

/// The lock on a folder, given back when dropped.
#[derive(Debug)]
struct Lock(File);

impl Lock {
    /// `None`: another process has it.
    fn take(file: File, operation: FlockOperation) -> io::Result<Option<Self>> {
        match rustix::fs::flock(&file, operation) {
            Ok(()) => Ok(Some(Self(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child process between fork and exec holds the same open file, and with it the lock.
        if let Err(errno) = rustix::fs::flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%errno, "the data folder's lock was not given back before its file is closed");
        }
    }
}

fn failed(path: &Path, action: &'static str) -> impl Fn(io::Error) -> FolderError {
    move |source| FolderError::Io { path: path.to_owned(), action, source }
}

fn effective(file: &IdentityFile) -> FolderClaim {
    let role = if file.lineage.votes { Role::Voter } else { file.claim.role };
    let node_id = file.lineage.numbered.map_or(file.claim.node_id, |it| it.now);
    FolderClaim { role, node_id, ..file.claim.clone() }
}

fn read_identity(path: &Path) -> Result<Option<IdentityFile>, FolderError> {
    match fs::read_to_string(path.join(IDENTITY)) {
        Ok(text) => IdentityFile::parse(&text).map(Some).map_err(|problem| problem.at(path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(path, "read identity")(error)),
    }
}

impl DataFolder {
    /// Opens and locks the folder of the node that `claim` describes. A missing or empty folder becomes this node's,
    /// with `new_folder_id` (16 random bytes), and belongs to no cluster yet.
    ///
    /// # Errors
    /// The folder is in use, another node's, damaged, of a newer release, or cannot be read or written.
    pub fn open(path: &Path, claim: FolderClaim, new_folder_id: [u8; 16]) -> Result<Self, FolderError> {
        fs::create_dir_all(path).map_err(failed(path, "create"))?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(path.join(LOCK));
        let lock = lock.and_then(|file| Lock::take(file, FlockOperation::NonBlockingLockExclusive));
        let lock = lock.map_err(failed(path, "lock"))?.ok_or_else(|| FolderError::InUse(path.to_owned()))?;
        let file = match read_identity(path)? {
            Some(file) if file.claim != claim => {
                return Err(FolderError::OtherNode {
                    path: path.to_owned(),
                    found: file.describe(),
                    claimed: claim.to_string(),
                });
            }
            Some(file) if file.release == RELEASE => {
                let claim = effective(&file);
                return Ok(Self { path: path.to_owned(), file, claim, _lock: lock });
            }
            Some(file) => file,
            None => {
                let others = fs::read_dir(path)
                    .map_err(failed(path, "list"))?
                    .filter_map(Result::ok)
                    .any(|entry| !NOBODYS.iter().any(|name| entry.file_name() == *name));
                if others {
                    return Err(FolderError::Foreign(path.to_owned()));
                }
                let lineage = Lineage::default();
                IdentityFile { claim, folder_id: new_folder_id, membership: None, lineage, release: String::new() }
            }
        };
        let claim = effective(&file);
        let mut folder = Self { path: path.to_owned(), file, claim, _lock: lock };
        folder.write()?;
        Ok(folder)
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the settings say, but for the role of a learner that a promotion has given a vote, and the number of a node that
    /// was reinstated.
    pub fn claim(&self) -> &FolderClaim {
        &self.claim
    }

    /// What forced promotions and fences left here.
    pub fn lineage(&self) -> &Lineage {
        &self.file.lineage
    }

    /// The folder's own random id.
    pub fn folder_id(&self) -> [u8; 16] {
        self.file.folder_id
    }

    /// Which node of which cluster lives here; `None` until a cluster has adopted it.
    pub fn identity(&self) -> Option<NodeIdentity> {
        let (claim, IdentityFile { folder_id, membership, lineage, .. }) = (&self.claim, &self.file);
        membership.map(|(cluster_id, epoch)| NodeIdentity {
            cluster_id,
            epoch,
            plan: epoch_id(epoch, lineage.record.as_ref()).plan,
            node_id: claim.node_id,
            folder_id: *folder_id,
            role: claim.role,
            site: claim.site.clone(),
            name: claim.name.clone(),
            group_id: 0,
        })
    }

    /// Puts aside what a node that [comes back](Self::reinstate) must not begin with: its log, and a witness's database. Call
    /// it before anything in them is opened.
    ///
    /// # Errors
    /// The file system's.
    pub fn put_aside(&self) -> io::Result<()> {
        if self.file.lineage.reinstating.is_none() {
            // A node that ended before it had removed it.
            return self.remove_aside();
        }
        let left = if self.claim.role.is_data() { &["log"][..] } else { &["log", "db"][..] };
        for name in left {
            let (path, aside) = (self.path.join(name), self.aside(name));
            match (path.exists(), aside.exists()) {
                (true, false) => fs::rename(&path, &aside)?,
                // What an earlier start has made since.
                (true, true) => fs::remove_dir_all(&path)?,
                (false, _) => {}
            }
        }
        File::open(&self.path)?.sync_all()
    }

    /// Removes what was put aside, once nobody needs it any more: the log of a node whose own writes stand in a bundle. What
    /// a witness had stays for people.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove_aside(&self) -> io::Result<()> {
        let aside = self.aside("log");
        match self.claim.role.is_data() && aside.exists() {
            true => fs::remove_dir_all(aside),
            false => Ok(()),
        }
    }

    /// Named after the number that the node had, which it never has again.
    fn aside(&self, name: &str) -> PathBuf {
        let before = self.file.lineage.numbered.map_or(self.file.claim.node_id, |it| it.before);
        self.path.join(format!("{name}.left-behind-by-{before}"))
    }

    /// Records durably that the node belongs to a cluster, in this epoch; `record`: how that began.
    ///
    /// # Errors
    /// The identity file cannot be written.
    pub fn adopt(
        &mut self,
        cluster_id: [u8; 16],
        epoch: u64,
        record: Option<Bytes>,
    ) -> Result<NodeIdentity, FolderError> {
        self.file.membership = Some((cluster_id, epoch));
        self.file.lineage.record = record;
        self.write()?;
        Ok(self.identity().expect("the membership was set two lines above"))
    }

    /// Records durably what forced promotions and fences leave here.
    ///
    /// # Errors
    /// The identity file cannot be written: then nothing has changed.
    pub fn set_lineage(&mut self, lineage: Lineage) -> Result<(), FolderError> {
        let before = std::mem::replace(&mut self.file.lineage, lineage);
        if planted::is(Bug::PromiseForgotten) && self.file.lineage.promised.is_some() {
            return Ok(());
        }
        self.write().inspect_err(|_| self.file.lineage = before)?;
        self.claim = effective(&self.file);
        Ok(())
    }

    /// Goes on durably in another epoch, which an approved plan began; as a voter, whatever the settings say of a
    /// learner. What was promised and fenced in the former one is over.
    ///
    /// # Errors
    /// The identity file cannot be written, or the node has not got the records of its own epoch yet: then nothing has
    /// changed.
    pub fn begin_epoch(&mut self, epoch: u64, record: Bytes) -> Result<(), FolderError> {
        if self.file.lineage.reinstating.is_some() {
            return Err(FolderError::ComesBack(self.path.clone()));
        }
        let before = self.file.clone();
        let votes = self.file.lineage.votes || self.file.claim.role == Role::Learner;
        let numbered = self.file.lineage.numbered;
        self.file.lineage = Lineage { votes, record: Some(record), numbered, ..Lineage::default() };
        self.file.membership = self.file.membership.map(|(cluster_id, _)| (cluster_id, epoch));
        self.write().inspect_err(|_| self.file = before)?;
        self.claim = effective(&self.file);
        Ok(())
    }

    /// Becomes durably another node of the same cluster, in an epoch that went on without this one: under a number and a
    /// folder id that nobody has had. It has no log from now on, and its records only serve to get those of that epoch.
    ///
    /// # Errors
    /// The identity file cannot be written: then nothing has changed.
    pub fn reinstate(
        &mut self,
        (node_id, folder_id): (NodeId, [u8; 16]),
        epoch: u64,
        record: Bytes,
        reinstating: Reinstating,
    ) -> Result<(), FolderError> {
        let before = self.file.clone();
        let Lineage { votes, outbid, given_up, .. } = before.lineage.clone();
        let numbered = Some(Numbered { now: node_id, before: self.claim.node_id });
        let (record, reinstating) = (Some(record), Some(reinstating));
        self.file.lineage = Lineage { votes, record, outbid, given_up, numbered, reinstating, ..Lineage::default() };
        self.file.folder_id = folder_id;
        self.file.membership = self.file.membership.map(|(cluster_id, _)| (cluster_id, epoch));
        self.write().inspect_err(|_| self.file = before)?;
        self.claim = effective(&self.file);
        Ok(())
    }

    fn write(&mut self) -> Result<(), FolderError> {
        let fresh = self.path.join("identity.new");
        let replace = || -> io::Result<()> {
            let mut file = File::create(&fresh)?;
            file.write_all(self.file.encode().as_bytes())?;
            file.sync_all()?;
            reach(Failpoint::FolderBeforeRename);
            fs::rename(&fresh, self.path.join(IDENTITY))?;
            reach(Failpoint::FolderBeforeSync);
            File::open(&self.path)?.sync_all()
        };
        replace().map_err(failed(&self.path, "write identity"))?;
        self.file.release = RELEASE.to_owned();
        Ok(())
    }
}

/// The data folder of a node that does not run, to be read and nothing else. While this is held, no node starts on it.
#[derive(Debug)]
pub struct StoppedFolder {
    path: PathBuf,
    /// A folder from which `lock` was left out, as in some copies, cannot be in use.
    _lock: Option<Lock>,
}

impl StoppedFolder {
    /// Makes sure that no node has the folder; changes nothing in it.
    ///
    /// # Errors
    /// There is no such folder, a node has it, or its lock cannot be read.
    pub fn open(path: &Path) -> Result<StoppedFolder, FolderError> {
        if !path.is_dir() {
            return Err(FolderError::Missing(path.to_owned()));
        }
        let lock = match File::open(path.join(LOCK)) {
            // Shared: several may read at a time, and a node takes it for itself.
            Ok(file) => {
                let lock = Lock::take(file, FlockOperation::NonBlockingLockShared).map_err(failed(path, "lock"))?;
                Some(lock.ok_or_else(|| FolderError::InUse(path.to_owned()))?)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(path, "lock")(error)),
        };
        Ok(StoppedFolder { path: path.to_owned(), _lock: lock })
    }

    /// What its identity file says; none if there is no such file.
    ///
    /// # Errors
    /// It cannot be read, is damaged, or was written by a newer release.
    pub fn identity(&self) -> Result<Option<IdentityFile>, FolderError> {
        read_identity(&self.path)
    }

    /// Where the log is.
    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Where the databases are.
    pub fn databases(&self) -> PathBuf {
        self.path.join("db")
    }
}

#[cfg(test)]
mod tests;

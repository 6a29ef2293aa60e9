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
use crate::member::Role;
use crate::planted::{self, Bug};
use crate::promotion::epoch_id;
use crate::release::{RELEASE, UnknownFormat};
use crate::types::{EpochId, NodeId};

mod identity;

const IDENTITY: &str = "identity";
const LOCK: &str = "lock";

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
                    .any(|entry| entry.file_name() != LOCK && entry.file_name() != "identity.new");
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
            fs::rename(&fresh, self.path.join(IDENTITY))?;
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
mod tests {
    use super::*;

    fn claim(node_id: NodeId) -> FolderClaim {
        FolderClaim { node_id, name: format!("n{node_id}"), site: "main".into(), role: Role::Voter }
    }

    #[test]
    fn folder_keeps_its_id_and_cluster_across_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap();
        assert_eq!(folder.identity(), None);
        let identity = folder.adopt([9; 16], 3, None).unwrap();
        drop(folder);
        let again = DataFolder::open(dir.path(), claim(1), [8; 16]).unwrap();
        assert_eq!(again.identity(), Some(identity));
        assert_eq!(again.folder_id(), [7; 16]);
    }

    #[test]
    fn folder_of_another_node_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap());
        let error = DataFolder::open(dir.path(), claim(2), [8; 16]).unwrap_err();
        assert!(matches!(error, FolderError::OtherNode { .. }));
        assert!(error.to_string().contains("voter 1 (n1, site main)"), "{error}");
    }

    #[test]
    fn folder_in_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _first = DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap();
        assert!(matches!(DataFolder::open(dir.path(), claim(1), [7; 16]), Err(FolderError::InUse(_))));
    }

    #[test]
    fn closed_folder_is_free_while_a_child_process_still_shares_its_files() {
        let dir = tempfile::tempdir().unwrap();
        let first = DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap();
        let _as_forked = first._lock.0.try_clone().unwrap();
        drop(first);
        DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap();
    }

    #[test]
    fn a_stopped_folder_is_read_by_several_and_started_by_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(StoppedFolder::open(&dir.path().join("gone")), Err(FolderError::Missing(_))));
        let node = DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap();
        assert!(matches!(StoppedFolder::open(dir.path()), Err(FolderError::InUse(_))));
        drop(node);
        let reader = StoppedFolder::open(dir.path()).unwrap();
        assert_eq!(StoppedFolder::open(dir.path()).unwrap().identity().unwrap().unwrap().claim, claim(1));
        assert!(matches!(DataFolder::open(dir.path(), claim(1), [7; 16]), Err(FolderError::InUse(_))));
        drop(reader);
        DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap();
    }

    #[test]
    fn the_folder_says_which_release_wrote_it_and_a_newer_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap();
        folder.adopt([9; 16], 3, None).unwrap();
        drop(folder);
        let release = || StoppedFolder::open(dir.path()).unwrap().identity().unwrap().unwrap().release;
        assert_eq!(release(), RELEASE);
        let text = fs::read_to_string(dir.path().join(IDENTITY)).unwrap();
        fs::write(dir.path().join(IDENTITY), text.replace(&format!("release = {RELEASE}\n"), "")).unwrap();
        assert_eq!(release(), "");
        DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap();
        assert_eq!(release(), RELEASE, "who opens it writes its release");

        fs::write(dir.path().join(IDENTITY), "saola-folder 4\nkind = new\nrelease = 0.3.0\n").unwrap();
        let refused = DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap_err().to_string();
        assert!(refused.contains("has format 4, written by Saola 0.3.0; this release"), "{refused}");
        assert!(refused.ends_with("reads format 3: install 0.3.0 or later"), "{refused}");
    }

    #[test]
    fn what_promotions_and_fences_leave_is_there_after_a_restart_and_older_releases_do_not_run_it() {
        let dir = tempfile::tempdir().unwrap();
        let learner = FolderClaim { role: Role::Learner, ..claim(4) };
        let open = || DataFolder::open(dir.path(), learner.clone(), [7; 16]).unwrap();
        let text = || fs::read_to_string(dir.path().join(IDENTITY)).unwrap();
        let mut folder = open();
        folder.adopt([9; 16], 1, None).unwrap();
        assert!(text().starts_with("saola-folder 1\n"));
        let plan = Bytes::from_static(b"\x00plan\xff");
        let fenced = Fence { why: "by an\noperator".into(), record: Some(plan.clone()) };
        let lineage = Lineage {
            promised: Some(Promise { epoch: 3, plan: plan.clone() }),
            outbid: vec![Promise { epoch: 2, plan: Bytes::from_static(b"earlier") }],
            given_up: 1,
            fenced: Some(fenced),
            ..Lineage::default()
        };
        folder.set_lineage(lineage.clone()).unwrap();
        assert!(text().starts_with("saola-folder 2\n"), "{}", text());
        drop(folder);
        let mut folder = open();
        assert_eq!(
            (&folder.lineage().promised, &folder.lineage().outbid, folder.lineage().given_up),
            (&lineage.promised, &lineage.outbid, 1)
        );
        assert_eq!(folder.lineage().fenced.as_ref().unwrap().why, "by an operator");
        folder.begin_epoch(2, plan.clone()).unwrap();
        drop(folder);
        let folder = open();
        assert_eq!(folder.lineage(), &Lineage { votes: true, record: Some(plan), ..Lineage::default() });
        assert_eq!((folder.claim().role, folder.identity().unwrap().epoch), (Role::Voter, 2));
    }

    #[test]
    fn a_reinstated_node_goes_by_another_number_than_its_settings_say_and_earlier_releases_do_not_run_it() {
        let dir = tempfile::tempdir().unwrap();
        let open = || DataFolder::open(dir.path(), claim(1), [7; 16]).unwrap();
        let mut folder = open();
        folder.adopt([9; 16], 1, None).unwrap();
        let reinstating = Reinstating { members: Bytes::from_static(b"members"), left_behind: Bytes::new() };
        folder.reinstate((6, [8; 16]), 2, Bytes::from_static(b"plan"), reinstating.clone()).unwrap();
        drop(folder);
        let text = fs::read_to_string(dir.path().join(IDENTITY)).unwrap();
        assert!(text.starts_with("saola-folder 3\n") && text.contains("node_id = 1\n"), "{text}");
        let mut folder = open();
        assert_eq!(folder.lineage().reinstating, Some(reinstating));
        let own = folder.identity().unwrap();
        assert_eq!((own.node_id, own.folder_id, own.epoch, own.cluster_id), (6, [8; 16], 2, [9; 16]));
        assert!(matches!(folder.begin_epoch(3, Bytes::new()), Err(FolderError::ComesBack(_))), "its records are older");
        let log = |name: &str| dir.path().join(name);
        fs::create_dir(log("log")).unwrap();
        fs::write(log("log").join("before"), "x").unwrap();
        folder.put_aside().unwrap();
        fs::create_dir(log("log")).unwrap();
        folder.put_aside().unwrap();
        assert!(!log("log").exists() && log("log.left-behind-by-1/before").exists(), "the first one is kept");
        folder.set_lineage(Lineage { reinstating: None, ..folder.lineage().clone() }).unwrap();
        folder.remove_aside().unwrap();
        assert!(!log("log.left-behind-by-1").exists());
        folder.begin_epoch(3, Bytes::from_static(b"later")).unwrap();
        drop(folder);
        assert_eq!(open().claim().node_id, 6, "for good");
    }

    #[test]
    fn foreign_and_damaged_folders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("photos.txt"), "x").unwrap();
        assert!(matches!(DataFolder::open(dir.path(), claim(1), [7; 16]), Err(FolderError::Foreign(_))));
        fs::write(dir.path().join(IDENTITY), "saola-folder 1\nnode_id = x\n").unwrap();
        assert!(matches!(DataFolder::open(dir.path(), claim(1), [7; 16]), Err(FolderError::Damaged { .. })));
        fs::write(dir.path().join(IDENTITY), "saola-folder 4\n").unwrap();
        assert!(matches!(DataFolder::open(dir.path(), claim(1), [7; 16]), Err(FolderError::Newer { .. })));
    }
}

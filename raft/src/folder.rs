//! A node's data folder: its identity file, its lock, `log/` and `db/`.
//!
//! Identity file (format version 1): text, one `key = value` a line, first line `saola-folder 1`. It is written to a
//! new file, synced and renamed, so a crash leaves the old or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use saola_storage::types::NodeId;

use crate::member::Role;

const FIRST_LINE: &str = "saola-folder 1";
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

/// Which node of which cluster lives in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// Made at init; new after a restore or fork.
    pub cluster_id: [u8; 16],
    /// Lineage.
    pub epoch: u64,
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
    #[error("data folder {path} was written by a newer release ({first_line:?}); run that release or a newer one")]
    Newer {
        /// Folder.
        path: PathBuf,
        /// What it says.
        first_line: String,
    },
}

/// A locked data folder.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    claim: FolderClaim,
    folder_id: [u8; 16],
    membership: Option<([u8; 16], u64)>,
    _lock: Lock,
}

/// The lock on a folder, given back when dropped.
#[derive(Debug)]
struct Lock(File);

impl Lock {
    /// `None`: another process has it.
    fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a child process between fork and exec holds the same open file, and with it the lock.
        if let Err(errno) = rustix::fs::flock(&self.0, rustix::fs::FlockOperation::Unlock) {
            tracing::warn!(%errno, "the data folder's lock was not given back before its file is closed");
        }
    }
}

impl DataFolder {
    /// Opens and locks the folder of the node that `claim` describes. A missing or empty folder becomes this node's,
    /// with `new_folder_id` (16 random bytes), and belongs to no cluster yet.
    pub fn open(path: &Path, claim: FolderClaim, new_folder_id: [u8; 16]) -> Result<Self, FolderError> {
        let io =
            |action: &'static str| move |source: io::Error| FolderError::Io { path: path.to_owned(), action, source };
        fs::create_dir_all(path).map_err(io("create"))?;
        let lock =
            Lock::take(&path.join(LOCK)).map_err(io("lock"))?.ok_or_else(|| FolderError::InUse(path.to_owned()))?;
        match fs::read_to_string(path.join(IDENTITY)) {
            Ok(text) => {
                let stored = Stored::parse(&text).map_err(|problem| problem.at(path))?;
                if stored.claim != claim {
                    return Err(FolderError::OtherNode {
                        path: path.to_owned(),
                        found: stored.describe(),
                        claimed: describe(&claim),
                    });
                }
                Ok(Self {
                    path: path.to_owned(),
                    claim,
                    folder_id: stored.folder_id,
                    membership: stored.membership,
                    _lock: lock,
                })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let others = fs::read_dir(path)
                    .map_err(io("list"))?
                    .filter_map(Result::ok)
                    .any(|entry| entry.file_name() != LOCK && entry.file_name() != "identity.new");
                if others {
                    return Err(FolderError::Foreign(path.to_owned()));
                }
                let folder =
                    Self { path: path.to_owned(), claim, folder_id: new_folder_id, membership: None, _lock: lock };
                folder.write().map_err(io("write identity"))?;
                Ok(folder)
            }
            Err(error) => Err(io("read identity")(error)),
        }
    }

    /// The folder's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the settings say.
    pub fn claim(&self) -> &FolderClaim {
        &self.claim
    }

    /// The folder's own random id.
    pub fn folder_id(&self) -> [u8; 16] {
        self.folder_id
    }

    /// Which node of which cluster lives here; `None` until a cluster has adopted it.
    pub fn identity(&self) -> Option<NodeIdentity> {
        self.membership.map(|(cluster_id, epoch)| NodeIdentity {
            cluster_id,
            epoch,
            node_id: self.claim.node_id,
            folder_id: self.folder_id,
            role: self.claim.role,
            site: self.claim.site.clone(),
            name: self.claim.name.clone(),
            group_id: 0,
        })
    }

    /// Records durably that the node belongs to a cluster.
    pub(crate) fn adopt(&mut self, cluster_id: [u8; 16], epoch: u64) -> Result<NodeIdentity, FolderError> {
        self.membership = Some((cluster_id, epoch));
        self.write().map_err(|source| FolderError::Io { path: self.path.clone(), action: "write identity", source })?;
        Ok(self.identity().expect("the membership was set two lines above"))
    }

    fn write(&self) -> io::Result<()> {
        let mut text = format!(
            "{FIRST_LINE}\nnode_id = {}\nname = {}\nsite = {}\nrole = {}\nfolder_id = {}\n",
            self.claim.node_id,
            self.claim.name,
            self.claim.site,
            self.claim.role.as_str(),
            hex(&self.folder_id)
        );
        if let Some((cluster_id, epoch)) = self.membership {
            text += &format!("cluster_id = {}\nepoch = {epoch}\n", hex(&cluster_id));
        }
        let fresh = self.path.join("identity.new");
        let mut file = File::create(&fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, self.path.join(IDENTITY))?;
        File::open(&self.path)?.sync_all()
    }
}

enum Problem {
    Newer(String),
    Damaged(String),
}

impl Problem {
    fn at(self, path: &Path) -> FolderError {
        match self {
            Problem::Newer(first_line) => FolderError::Newer { path: path.to_owned(), first_line },
            Problem::Damaged(reason) => FolderError::Damaged { path: path.to_owned(), reason },
        }
    }
}

#[derive(Debug)]
struct Stored {
    claim: FolderClaim,
    folder_id: [u8; 16],
    membership: Option<([u8; 16], u64)>,
}

impl Stored {
    fn parse(text: &str) -> Result<Self, Problem> {
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default();
        if first != FIRST_LINE {
            return Err(if first.starts_with("saola-folder ") {
                Problem::Newer(first.to_owned())
            } else {
                Problem::Damaged(format!("first line is {first:?}"))
            });
        }
        let fields: std::collections::BTreeMap<&str, &str> = lines.filter_map(|line| line.split_once(" = ")).collect();
        let field = |key: &str| fields.get(key).copied().ok_or_else(|| Problem::Damaged(format!("no line for {key}")));
        let number = |key: &str| field(key)?.parse::<u64>().map_err(|e| Problem::Damaged(format!("{key}: {e}")));
        let id16 =
            |key: &str| unhex(field(key)?).ok_or_else(|| Problem::Damaged(format!("{key} is not 32 hex digits")));
        let role = match field("role")? {
            "voter" => Role::Voter,
            "learner" => Role::Learner,
            "witness" => Role::Witness,
            other => return Err(Problem::Damaged(format!("role {other:?}"))),
        };
        let membership = match fields.contains_key("cluster_id") {
            true => Some((id16("cluster_id")?, number("epoch")?)),
            false => None,
        };
        Ok(Self {
            claim: FolderClaim {
                node_id: number("node_id")?,
                name: field("name")?.to_owned(),
                site: field("site")?.to_owned(),
                role,
            },
            folder_id: id16("folder_id")?,
            membership,
        })
    }

    fn describe(&self) -> String {
        let cluster = match &self.membership {
            Some((id, _)) => format!(" of cluster {}", hex(id)),
            None => String::new(),
        };
        format!("{}{cluster}", describe(&self.claim))
    }
}

fn describe(claim: &FolderClaim) -> String {
    format!("{} {} ({}, site {})", claim.role.as_str(), claim.node_id, claim.name, claim.site)
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let mut out = [0u8; 16];
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    for (slot, i) in out.iter_mut().zip((0..32).step_by(2)) {
        *slot = u8::from_str_radix(&text[i..i + 2], 16).ok()?;
    }
    Some(out)
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
        let identity = folder.adopt([9; 16], 3).unwrap();
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
    fn foreign_and_damaged_folders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("photos.txt"), "x").unwrap();
        assert!(matches!(DataFolder::open(dir.path(), claim(1), [7; 16]), Err(FolderError::Foreign(_))));
        fs::write(dir.path().join(IDENTITY), "saola-folder 1\nnode_id = x\n").unwrap();
        assert!(matches!(DataFolder::open(dir.path(), claim(1), [7; 16]), Err(FolderError::Damaged { .. })));
        fs::write(dir.path().join(IDENTITY), "saola-folder 2\n").unwrap();
        assert!(matches!(DataFolder::open(dir.path(), claim(1), [7; 16]), Err(FolderError::Newer { .. })));
    }
}

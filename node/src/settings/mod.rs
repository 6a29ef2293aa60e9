//! Settings of a node: what the file says ([`file`]), then checked and completed ([`check`]).
//!
//! Settings hold paths of secrets, never secrets, so they may be printed.

pub mod check;
pub mod file;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use saola_raft::{Role, Timing};

/// Free space below which writes are refused unless the file says otherwise: 512 MiB.
pub const DEFAULT_MIN_FREE_BYTES: u64 = 512 * 1024 * 1024;
/// Leaves most of a gigabit link and of a disk's bandwidth to the writes that go on.
pub const DEFAULT_SNAPSHOT_BYTES_PER_S: u64 = 64 << 20;
/// A receiver waits 30 s for a chunk, and one with the largest record has a little over 1 MiB.
pub const MIN_SNAPSHOT_BYTES_PER_S: u64 = 1 << 20;

/// Checked settings; every path is ready to open.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Name as in the topology and the certificate.
    pub name: String,
    /// Number as in the topology.
    pub node_id: u64,
    /// Site as in the topology.
    pub site: String,
    /// Part in the cluster.
    pub role: Role,
    /// Folder for log and state.
    pub data_dir: PathBuf,
    /// Address for other nodes.
    pub peer: SocketAddr,
    /// Address for clients.
    pub client: SocketAddr,
    /// Address for metrics and probes.
    pub metrics: Option<SocketAddr>,
    /// PEM files.
    pub tls: TlsPaths,
    /// The site's private key file; none for a witness.
    pub kek: Option<PathBuf>,
    /// Raft's clocks.
    pub timing: Timing,
    /// Below this much free space, bytes, the node takes no writes.
    pub min_free_bytes: u64,
    /// Bytes of its records that the node sends to other nodes in a second.
    pub snapshot_bytes_per_s: u64,
}

/// PEM files of one node.
#[derive(Debug, Clone)]
pub struct TlsPaths {
    /// Authority.
    pub ca: PathBuf,
    /// Own certificate.
    pub cert: PathBuf,
    /// Own private key.
    pub key: PathBuf,
}

/// Why settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("settings file {path}: {source}; give its path with `saola-node --config FILE`")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Not TOML, a key is missing, unknown or of the wrong type.
    #[error(
        "settings file {path}: {reason}\nCorrect that line; all keys stand in the table \"Settings\" of the node's README."
    )]
    Parse {
        /// The file.
        path: PathBuf,
        /// Parser's message with line and key.
        reason: String,
    },
    /// A value cannot be used.
    #[error("settings file {path}: {key}: {reason}; {next}")]
    Value {
        /// The file.
        path: PathBuf,
        /// Section and key.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
        /// What to write instead.
        next: String,
    },
}

impl Settings {
    /// Reads and checks the file at `path`.
    ///
    /// # Errors
    /// [`SettingsError`] names the file, the key and the next step.
    pub fn load(path: &Path) -> Result<Settings, SettingsError> {
        let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Read { path: path.into(), source })?;
        let raw = toml::from_str::<file::SettingsFile>(&text)
            .map_err(|e| SettingsError::Parse { path: path.into(), reason: e.to_string() })?;
        check::check(path, raw)
    }
}

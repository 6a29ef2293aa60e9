//! The settings file as it is written: TOML, unknown keys refused.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The whole file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettingsFile {
    /// Who this node is.
    pub node: NodeSection,
    /// Where it listens.
    pub listen: ListenSection,
    /// How it proves who it is.
    pub tls: TlsSection,
    /// Its site's private key; absent for a witness.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kek: Option<KekSection>,
    /// Raft's clocks.
    #[serde(default)]
    pub timing: TimingSection,
    /// Bounds.
    #[serde(default)]
    pub limits: LimitsSection,
    /// How the copy of the records is checked.
    #[serde(default)]
    pub scrub: ScrubSection,
}

/// `[node]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSection {
    /// Name as in the topology and in the certificate.
    pub name: String,
    /// Number as in the topology, from 1; never reused.
    pub node_id: u64,
    /// Site as in the topology.
    pub site: String,
    /// `voter`, `learner` or `witness`.
    pub role: String,
    /// Folder for log and state; relative paths start at the settings file's folder.
    pub data_dir: PathBuf,
}

/// `[listen]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenSection {
    /// `ip:port` for other nodes.
    pub peer: String,
    /// `ip:port` for clients.
    pub client: String,
    /// `ip:port` for `/metrics`, `/livez` and `/readyz`, plain HTTP; absent means none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
}

/// `[tls]`, paths of PEM files
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsSection {
    /// Certificates of the authority that signs nodes and clients.
    pub ca: PathBuf,
    /// This node's certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// `[kek]`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KekSection {
    /// Private key file made by `saola-node keygen kek`.
    pub file: PathBuf,
}

/// `[timing]`: a preset, or figures
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimingSection {
    /// `lan` (default) or `wan`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<String>,
    /// Milliseconds between heartbeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat_ms: Option<u64>,
    /// Shortest election timeout, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub election_min_ms: Option<u64>,
    /// Longest election timeout, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub election_max_ms: Option<u64>,
    /// Writes wait so long for another site that does not answer, milliseconds; twice the longest election timeout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub degrade_ms: Option<u64>,
}

/// `[limits]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsSection {
    /// Below this much free space, bytes, the node takes no writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_free_bytes: Option<u64>,
    /// Bytes of its records that the node sends to other nodes in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_bytes_per_s: Option<u64>,
    /// The log keeps up to this many bytes for a member that does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_keep_bytes: Option<u64>,
    /// It keeps them for this many hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_keep_hours: Option<u64>,
}

/// `[scrub]`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrubSection {
    /// So many bytes of rows are read a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_s: Option<u64>,
    /// Hours between two passes over all rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_hours: Option<u64>,
}

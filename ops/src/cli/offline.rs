//! Verbs on the data folder of a node that does not run.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use saola_client::At;

use super::{AtArgs, help};

/// `saola offline …`
#[derive(Clone, Debug, Subcommand)]
pub enum OfflineVerb {
    /// The records, as the node has flushed them
    #[command(subcommand)]
    Records(RecordsVerb),
    /// The Raft log
    #[command(subcommand)]
    Log(LogVerb),
    /// The formats that this release reads and writes; with a data folder, those found there
    Formats {
        /// Data folder of a stopped node
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
}

/// The data folder of a stopped node.
#[derive(Clone, Debug, Args)]
pub struct FolderArgs {
    /// Data folder of a stopped node (`data_dir` in its settings), or a copy of it; nothing in it is changed
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// `saola offline records …`
#[derive(Clone, Debug, Subcommand)]
pub enum RecordsVerb {
    /// Check every row against its hashes and all others; needs no key, exit 8 if something is damaged
    #[command(after_help = help::OFFLINE_VERIFY)]
    Verify(FolderArgs),
    /// Read one version of a record; its value too with --kek
    #[command(after_help = help::OFFLINE_GET)]
    Get(OfflineGetArgs),
    /// Show all versions of a record; their values too with --kek
    History(OfflineHistoryArgs),
    /// List the live records of a collection; without a collection, the collections
    List(OfflineListArgs),
}

/// `saola offline log …`
#[derive(Clone, Debug, Subcommand)]
pub enum LogVerb {
    /// Check every segment and record; exit 8 if something that was synced is damaged
    Verify(FolderArgs),
    /// Print one line per record; values stay sealed
    #[command(after_help = help::OFFLINE_DUMP)]
    Dump(DumpArgs),
}

/// Arguments of `saola offline records get`.
#[derive(Clone, Debug, Args)]
pub struct OfflineGetArgs {
    /// Where.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Collection
    pub collection: String,
    /// Record id
    pub id: String,
    /// The record's n-th version
    #[arg(long, value_name = "N", conflicts_with = "AtArgs", value_parser = clap::value_parser!(u64).range(1..))]
    pub generation: Option<u64>,
    /// The point of the read.
    #[command(flatten)]
    pub at: AtArgs,
    /// Private key file (KEK) of a site; it opens the value
    #[arg(long, value_name = "FILE")]
    pub kek: Option<PathBuf>,
    /// Print the value's bytes and nothing else
    #[arg(long, requires = "kek", conflicts_with = "output")]
    pub raw: bool,
}

impl OfflineGetArgs {
    /// Which version is asked for.
    pub fn to_at(&self) -> Option<At> {
        self.generation.map(At::Generation).or(self.at.to_at())
    }
}

/// Arguments of `saola offline records history`.
#[derive(Clone, Debug, Args)]
pub struct OfflineHistoryArgs {
    /// Where.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Collection
    pub collection: String,
    /// Record id
    pub id: String,
    /// Newest version first
    #[arg(long)]
    pub newest_first: bool,
    /// Private key file (KEK) of a site; it opens the values
    #[arg(long, value_name = "FILE")]
    pub kek: Option<PathBuf>,
}

/// Arguments of `saola offline records list`.
#[derive(Clone, Debug, Args)]
pub struct OfflineListArgs {
    /// Where.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// Collection
    pub collection: Option<String>,
    /// Only ids that begin so
    #[arg(long, default_value = "", hide_default_value = true, requires = "collection")]
    pub prefix: String,
    /// The point of the read.
    #[command(flatten)]
    pub at: AtArgs,
}

/// Arguments of `saola offline log dump`.
#[derive(Clone, Debug, Args)]
pub struct DumpArgs {
    /// Where.
    #[command(flatten)]
    pub folder: FolderArgs,
    /// First log index of the entries shown
    #[arg(long, value_name = "INDEX")]
    pub from: Option<u64>,
    /// Last log index of the entries shown
    #[arg(long, value_name = "INDEX")]
    pub to: Option<u64>,
    /// Print each entry's payload in hexadecimal as it stands there, sealed values included
    #[arg(long)]
    pub raw: bool,
}

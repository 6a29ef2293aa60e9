//! Verbs on records and collections.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use saola_client::{At, Expect, KeyStyle, Provenance, RetentionChange};

use crate::time;

/// `saola collection …`
#[derive(Debug, Subcommand)]
pub enum CollectionVerb {
    /// Create a collection
    Create(CreateArgs),
    /// List the collections
    List,
    /// Show one collection
    Show {
        /// Name of the collection
        name: String,
    },
    /// Say how long superseded versions are kept; the newest version of a record always stays
    #[command(after_help = RETENTION)]
    Retention(RetentionArgs),
    /// Remove nothing any more, whatever the limits say (legal hold)
    Hold {
        /// Name of the collection
        name: String,
        /// Why, as a case number; shown to everyone
        #[arg(long)]
        reason: String,
    },
    /// End the hold; the limits rule again
    Release {
        /// Name of the collection
        name: String,
    },
}

const RETENTION: &str = "\
A version goes once it exceeds any limit that is given; limits not given end. Versions are removed little by little,
at most about an hour later. With --max-age alone, reads as of a time younger than that stay exact; with
--max-generations, listings as of a revision before the last pass are refused (REVISION_GONE); a record can be read as of
any revision at which the version of then is kept. What is removed cannot be brought back.";

/// Arguments of `saola collection retention`.
#[derive(Debug, Args)]
pub struct RetentionArgs {
    /// Name of the collection
    pub name: String,
    /// Keep every version for ever
    #[arg(long, conflicts_with_all = ["max_generations", "max_age"], required_unless_present_any = ["max_generations", "max_age"])]
    pub keep_all: bool,
    /// Keep so many newest generations of each record
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_generations: Option<u64>,
    /// Keep a version for so long after the next one was written, as 90d or 12h
    #[arg(long, value_name = "SPAN", value_parser = time::parse_age)]
    pub max_age: Option<Duration>,
}

impl RetentionArgs {
    /// The limits as the client library takes them.
    pub fn limits(&self) -> RetentionChange {
        RetentionChange::Limits { max_generations: self.max_generations, max_age: self.max_age }
    }
}

/// Which record ids a collection takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Style {
    /// UTF-8 in Unicode form NFC, 1 to 512 bytes, no control characters
    Ordered,
    /// Any 1 to 4096 bytes
    Bytes,
}

impl From<Style> for KeyStyle {
    fn from(style: Style) -> KeyStyle {
        match style {
            Style::Ordered => KeyStyle::Ordered,
            Style::Bytes => KeyStyle::Bytes,
        }
    }
}

/// Arguments of `saola collection create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Name of the collection
    pub name: String,
    /// Largest value in bytes [default: 1 MiB, which is also the most]
    #[arg(long, value_name = "BYTES", default_value_t = 0, hide_default_value = true)]
    pub max_value_bytes: u64,
    /// Which record ids it takes
    #[arg(long, value_enum, default_value_t = Style::Ordered)]
    pub key_style: Style,
    /// Who answers for it
    #[arg(long, default_value = "", hide_default_value = true)]
    pub owner: String,
    /// What it is, for people
    #[arg(long, default_value = "", hide_default_value = true)]
    pub label: String,
}

/// Where a version comes from; stored in the clear.
#[derive(Clone, Debug, Default, Args)]
pub struct ProvenanceArgs {
    /// System that the change comes from (stored in the clear)
    #[arg(long, default_value = "", hide_default_value = true)]
    pub source: String,
    /// Who made it (stored in the clear)
    #[arg(long, default_value = "", hide_default_value = true)]
    pub actor: String,
    /// Why (stored in the clear)
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
}

impl ProvenanceArgs {
    /// The same as the contract says it.
    pub fn to_provenance(&self) -> Provenance {
        Provenance { source_system: self.source.clone(), actor: self.actor.clone(), reason: self.reason.clone() }
    }
}

fn parse_expect(text: &str) -> Result<Expect, String> {
    match text {
        "any" => Ok(Expect::Any),
        "absent" => Ok(Expect::Absent),
        _ => match text.strip_prefix("gen:").and_then(|number| number.parse().ok()) {
            Some(generation) if generation > 0 => Ok(Expect::Generation(generation)),
            _ => Err("write any, absent, or gen:N with the generation that must be there".into()),
        },
    }
}

/// Arguments of `saola put`.
#[derive(Debug, Args)]
pub struct PutArgs {
    /// Collection
    pub collection: String,
    /// Record id
    pub id: String,
    /// Value; `-` reads standard input, which other users of this machine do not see
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub value: Option<String>,
    /// Read the value from a file
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// What must be there: any, absent, or gen:N for generation N; else nothing is written (exit 4)
    #[arg(long, value_parser = parse_expect, default_value = "any", value_name = "STATE")]
    pub expect: Expect,
    /// Media type of the value
    #[arg(long, value_name = "TYPE", default_value = "application/json")]
    pub content_type: String,
    /// Where it comes from.
    #[command(flatten)]
    pub provenance: ProvenanceArgs,
}

/// Arguments of `saola delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    /// Collection
    pub collection: String,
    /// Record id
    pub id: String,
    /// What must be there: any, or gen:N for generation N; else nothing is deleted (exit 4)
    #[arg(long, value_parser = parse_expect, default_value = "any", value_name = "STATE")]
    pub expect: Expect,
    /// Where it comes from.
    #[command(flatten)]
    pub provenance: ProvenanceArgs,
}

/// The point of a read; the present if none is given.
#[derive(Clone, Debug, Default, Args)]
#[group(multiple = false)]
pub struct AtArgs {
    /// As the store stood at this revision
    #[arg(long, value_name = "REVISION")]
    pub revision: Option<u64>,
    /// As the store stood at this time, in UTC or with an offset, as in 2025-07-01T00:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time::parse_moment)]
    pub as_of: Option<u64>,
}

impl AtArgs {
    /// The same as the client says it.
    pub fn to_at(&self) -> Option<At> {
        self.revision.map(At::Revision).or(self.as_of.map(At::TimeUs))
    }
}

/// Arguments of `saola get`.
#[derive(Debug, Args)]
pub struct GetArgs {
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
    /// How old the answer may be.
    #[command(flatten)]
    pub stale: StaleArgs,
    /// Print the value's bytes and nothing else
    #[arg(long, conflicts_with = "output")]
    pub raw: bool,
}

impl GetArgs {
    /// Which version is asked for.
    pub fn to_at(&self) -> Option<At> {
        self.generation.map(At::Generation).or(self.at.to_at())
    }
}

/// How old the answer may be; as new as can be if nothing is given.
#[derive(Clone, Copy, Debug, Default, Args)]
pub struct StaleArgs {
    /// Accept what one node has, if it misses no write acknowledged more than MS milliseconds ago [without MS: any];
    /// works without a quorum
    #[arg(
        long = "stale",
        value_name = "MS",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "any",
        value_parser = parse_stale
    )]
    pub bound: Option<Duration>,
}

/// "any", which is zero to the client, or milliseconds.
fn parse_stale(text: &str) -> Result<Duration, String> {
    match text.parse() {
        _ if text == "any" => Ok(Duration::ZERO),
        Ok(ms) if ms > 0 => Ok(Duration::from_millis(ms)),
        _ => Err("give milliseconds, at least 1, as in --stale=5000, or --stale alone for any age".to_owned()),
    }
}

/// Arguments of `saola list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Collection
    pub collection: String,
    /// Only ids that begin so
    #[arg(long, default_value = "", hide_default_value = true)]
    pub prefix: String,
    /// At most so many records
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// The point of the read.
    #[command(flatten)]
    pub at: AtArgs,
    /// How old the answer may be.
    #[command(flatten)]
    pub stale: StaleArgs,
    /// Only the ids, one a line (values are never listed: `saola export`)
    #[arg(long)]
    pub keys_only: bool,
}

/// Arguments of `saola history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Collection
    pub collection: String,
    /// Record id
    pub id: String,
    /// How old the answer may be.
    #[command(flatten)]
    pub stale: StaleArgs,
    /// Newest version first
    #[arg(long)]
    pub newest_first: bool,
    /// Leave the values out
    #[arg(long)]
    pub keys_only: bool,
}

/// Arguments of `saola import`.
#[derive(Clone, Debug, Args)]
pub struct ImportArgs {
    /// File of lines as {"op":"put","collection":"agency","id":"ward/00004","value":{…}}; `-` is standard input
    pub file: PathBuf,
    /// Go on after the last line that an earlier run of this import had applied
    #[arg(long)]
    pub resume: bool,
    /// Collection of lines that name none
    #[arg(long, value_name = "NAME")]
    pub collection: Option<String>,
    /// How many writes may be under way at a time, 1 to 1024
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: u16,
    /// Where the changes come from.
    #[command(flatten)]
    pub provenance: ProvenanceArgs,
}

/// Arguments of `saola export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Collection
    pub collection: String,
    /// The point of the read.
    #[command(flatten)]
    pub at: AtArgs,
    /// How old the answer may be.
    #[command(flatten)]
    pub stale: StaleArgs,
}

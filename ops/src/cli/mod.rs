//! The command line. Nouns then verbs; flags that hold for every verb stand in [`Global`].
//!
//! [`records`] holds what concerns records, `dr` what concerns forced promotions, `drill` their rehearsals, [`cluster`] what concerns the cluster and its nodes, `offline` what concerns
//! the folder of a stopped node, `help` their examples.

pub mod cluster;
#[cfg(feature = "offline")]
pub mod dr;
#[cfg(feature = "offline")]
pub mod drill;
mod help;
#[cfg(feature = "offline")]
pub mod offline;
pub mod records;

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::Resettable;
use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use cluster::{
    CertVerb, ClusterVerb, DemoArgs, DevCertArgs, FailoverVerb, GoalArg, GoalVerb, NewNode, PolicyArg, ProtectionMode,
    ProtectionVerb, ScrubVerb, SwitchoverArgs, TopologyVerb, TransferArgs, ValidateVerb, WitnessVerb,
};
#[cfg(feature = "offline")]
pub use dr::{ApproverVerb, DrPlanVerb, DrVerb, EpochVerb, OrphanVerb, PromoteArgs, SiteVerb};
#[cfg(feature = "offline")]
pub use drill::{DrillArgs, DrillVerb};
#[cfg(feature = "offline")]
pub use offline::{
    DumpArgs, FolderArgs, LogVerb, OfflineGetArgs, OfflineHistoryArgs, OfflineListArgs, OfflineVerb, RecordsVerb,
};
pub use records::{
    AtArgs, CollectionVerb, CreateArgs, DeleteArgs, ExportArgs, GetArgs, HistoryArgs, ImportArgs, ListArgs,
    ProvenanceArgs, PutArgs,
};

use crate::exit::{Exit, Failure};
use crate::output::Format;
use crate::time;

/// Master records that outlive the loss of a site.
#[derive(Debug, Parser)]
#[command(
    name = "saola",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    after_help = help::FIRST_LOOK
)]
pub struct Cli {
    /// Flags of every verb.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

impl Cli {
    /// Reads the command line and the environment; ends the process for help and for what makes no sense. A variable
    /// that is set and empty counts as not set.
    pub fn from_arguments() -> Cli {
        let empty = |arg: &Arg| arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        let command = Cli::command().mut_args(|arg| if empty(&arg) { arg.env(Resettable::Reset) } else { arg });
        let parsed = command.try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches));
        parsed.unwrap_or_else(|error| refuse(&error, std::env::args()))
    }
}

/// Ends the command: a line that cannot be understood ends it as every other failure does, a call for help with help.
fn refuse(error: &clap::Error, args: impl Iterator<Item = String>) -> ! {
    if !error.use_stderr() {
        error.exit();
    }
    let next = "`saola --help` lists the verbs, `saola VERB --help` shows what one takes";
    match wanted_format(args) {
        Format::Table => {
            // In clap's words and colours. Nobody is left to tell if it cannot be printed.
            let _printed = error.print();
            eprintln!("next: {next}");
        }
        Format::Json => {
            let text = error.to_string();
            let what = text.trim_end().strip_prefix("error: ").unwrap_or(text.trim_end());
            eprintln!("{}", Failure::usage(what, next).to_json());
        }
    }
    std::process::exit(Exit::Usage as i32)
}

/// The format that a command line asks for which cannot be understood as a whole.
fn wanted_format(args: impl Iterator<Item = String>) -> Format {
    let args: Vec<String> = args.collect();
    let one = |arg: &String| matches!(arg.as_str(), "-ojson" | "-o=json" | "--output=json");
    let two = |pair: &[String]| matches!(pair, [flag, value] if matches!(flag.as_str(), "-o" | "--output") && value == "json");
    match args.iter().any(one) || args.windows(2).any(two) {
        true => Format::Json,
        false => Format::Table,
    }
}

/// Flags of every verb.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Options of every verb")]
pub struct Global {
    /// Client addresses of data nodes, several with commas; one is enough, the others are found
    #[arg(long, global = true, env = "SAOLA_ENDPOINT", value_delimiter = ',', value_name = "HOST:PORT")]
    pub endpoint: Vec<String>,
    /// Certificate of the authority that signed the nodes (PEM)
    #[arg(long, global = true, env = "SAOLA_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Your certificate (PEM)
    #[arg(long, global = true, env = "SAOLA_CERT", value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Your private key (PEM)
    #[arg(long, global = true, env = "SAOLA_KEY", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// TOML file with `endpoints`, `ca`, `cert` and `key`; flags and the variables above win over it
    #[arg(long, global = true, env = "SAOLA_PROFILE", value_name = "FILE")]
    pub profile: Option<PathBuf>,
    /// How to print results
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, value_name = "FORMAT")]
    pub output: Format,
    /// How long a call may take, as in 500ms, 5s or 2m [default: 5s; 30s for import and export, 60s for
    /// `cluster`, 330s for changes of its members]
    #[arg(long, global = true, value_parser = time::parse_span, value_name = "SPAN")]
    pub timeout: Option<Duration>,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Who leads, how every node fares, which sites are protected; exit 0 healthy, 5 degraded, 6 critical, 7 sealed
    Status {
        /// Again every second until Ctrl-C
        #[arg(short, long)]
        watch: bool,
    },
    /// How the sites stand to each other, why, what comes next by itself, and what you can do; exit 5 unless as asked for
    Why,
    /// What the cluster bears
    #[command(subcommand)]
    Topology(TopologyVerb),
    /// Make and change the cluster
    #[command(subcommand)]
    Cluster(ClusterVerb),
    /// See and change what an acknowledged write is safe from
    #[command(subcommand)]
    Protection(ProtectionVerb),
    /// The node that votes and keeps the sealed log, at a third place
    #[command(subcommand)]
    Witness(WitnessVerb),
    /// What is done when the site that leads is lost, and where leadership belongs
    #[command(subcommand)]
    AutoFailover(FailoverVerb),
    /// What the cluster is declared to survive
    #[command(subcommand)]
    Goal(GoalVerb),
    /// Would it go well now? One verdict, with codes, causes and next commands; exit 0 ready, 5 with warnings, 6 not ready
    #[command(subcommand)]
    Validate(ValidateVerb),
    /// Hand leadership to another site on purpose: no write is lost, none doubled, clients follow by themselves
    Switchover(SwitchoverArgs),
    /// A site goes on without the other by force, when nothing goes on by itself, and the other comes back
    #[cfg(feature = "offline")]
    #[command(subcommand)]
    Dr(DrVerb),
    /// Who may approve a forced promotion
    #[cfg(feature = "offline")]
    #[command(subcommand)]
    Approver(ApproverVerb),
    /// Have a site take no part any more, or let it again
    #[cfg(feature = "offline")]
    #[command(subcommand)]
    Site(SiteVerb),
    /// The lineages of the cluster
    #[cfg(feature = "offline")]
    #[command(subcommand)]
    Epoch(EpochVerb),
    /// Writes of a side that was left behind by a forced promotion
    #[cfg(feature = "offline")]
    #[command(subcommand)]
    Orphan(OrphanVerb),
    /// Rehearse bad days on the real cluster, with a report that proves how it went
    #[cfg(feature = "offline")]
    #[command(subcommand)]
    Drill(DrillVerb),
    /// Check the copies of the records on all data nodes, and repair one
    #[command(subcommand)]
    Scrub(ScrubVerb),
    /// Create and list collections
    #[command(subcommand)]
    Collection(CollectionVerb),
    /// Write a version of a record
    Put(PutArgs),
    /// Read one version of a record
    Get(GetArgs),
    /// List the live records of a collection
    List(ListArgs),
    /// Show all versions of a record
    History(HistoryArgs),
    /// Delete a record; its history stays
    Delete(DeleteArgs),
    /// Apply puts and deletes from lines of JSON
    #[command(after_help = help::LINES)]
    Import(ImportArgs),
    /// Write the live records of a collection as lines of JSON
    Export(ExportArgs),
    /// Make certificates
    #[command(subcommand)]
    Cert(CertVerb),
    /// Start a throwaway cluster of one node, until Ctrl-C
    Dev,
    /// Start five nodes over two sites, lose a site under load, and prove that nothing was lost
    Demo(DemoArgs),
    /// Look into the data folder of a stopped node; changes nothing there, and needs no keys but to open values
    #[cfg(feature = "offline")]
    #[command(subcommand, after_help = help::OFFLINE)]
    Offline(OfflineVerb),
    /// Print completions for a shell, as in `source <(saola completions bash)`
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

//! Verbs of drills.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::help;
use crate::time;

/// `saola drill …`
#[derive(Debug, Subcommand)]
pub enum DrillVerb {
    /// The drills that come with this command
    List,
    /// What a drill would do here, and what stands against it now; changes nothing
    Plan {
        /// A drill, or the path of a scenario file
        #[arg(value_name = "SCENARIO")]
        scenario: String,
        /// Print the scenario file instead, to write one's own
        #[arg(long)]
        toml: bool,
    },
    /// Hold a drill, and write its report; exit 0 passed, 5 failed or broken off
    #[command(after_help = help::DRILL)]
    Run(DrillArgs),
    /// Break off the drill that runs; whoever holds it clears up
    Abort {
        /// Name of the cluster, to confirm without being asked
        #[arg(long, value_name = "CLUSTER")]
        confirm: Option<String>,
    },
    /// Clear up after a drill whose machine is gone: end what it does to nodes, give its lock up, prove both
    Cleanup {
        /// Name of the cluster, to confirm without being asked
        #[arg(long, value_name = "CLUSTER")]
        confirm: Option<String>,
    },
    /// Write the files of a report that the cluster keeps
    Report {
        /// Its number
        #[arg(value_name = "NUMBER")]
        number: u64,
        /// Folder that they go to
        #[arg(long, value_name = "FOLDER", default_value = ".")]
        out: PathBuf,
    },
    /// Store the report of a drill whose cluster could not take it then (number 0)
    Store {
        /// Its JSON file or page
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The private key that it was signed with: it is signed anew, with its number
        #[arg(long, value_name = "FILE")]
        sign_with: PathBuf,
        /// Folder that the numbered files go to
        #[arg(long, value_name = "FOLDER", default_value = ".")]
        out: PathBuf,
    },
    /// All drills that were held, how long writing was interrupted, and what is overdue; exit 5 if something is, 8 if a report is not to be believed
    History {
        /// Public key of whoever must have signed the reports; may be repeated
        #[arg(long, value_name = "FILE")]
        signer: Vec<PathBuf>,
    },
    /// Which drill is to be held how often; without a name, when each is due
    Schedule {
        /// A drill
        #[arg(value_name = "SCENARIO")]
        scenario: Option<String>,
        /// So often, as in 90d
        #[arg(long, value_name = "SPAN", value_parser = time::parse_age, requires = "scenario", conflicts_with = "never")]
        every: Option<Duration>,
        /// Not any more
        #[arg(long, requires = "scenario")]
        never: bool,
    },
    /// Check reports without asking any node: signature, verdict, and the chain they form; exit 8 if one is not to be believed
    Verify {
        /// Reports, JSON or pages, in the order of their numbers
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// Public key of whoever must have signed them; may be repeated
        #[arg(long, value_name = "FILE")]
        signer: Vec<PathBuf>,
    },
}

/// Arguments of `saola drill run`.
#[derive(Debug, Args)]
pub struct DrillArgs {
    /// A drill, or the path of a scenario file
    #[arg(value_name = "SCENARIO")]
    pub scenario: String,
    /// Who holds it; stands in the report
    #[arg(long, value_name = "NAME")]
    pub by: String,
    /// Private key that the report is signed with, as `saola approver keygen` makes them
    #[arg(long, value_name = "FILE")]
    pub sign_with: PathBuf,
    /// Something for the report, as who takes part and who has agreed; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub note: Vec<String>,
    /// Folder that the report's files go to
    #[arg(long, value_name = "FOLDER", default_value = ".")]
    pub out: PathBuf,
    /// For a drill on a copy: settings file of the data node that is copied; its keys are used, so run the drill there
    #[arg(long, value_name = "FILE", requires = "fork_folder")]
    pub fork_of: Option<PathBuf>,
    /// Folder of the copy, new, with room for all records; it is removed in the end
    #[arg(long, value_name = "FOLDER", requires = "fork_of")]
    pub fork_folder: Option<PathBuf>,
    /// Name of the cluster, to confirm without being asked
    #[arg(long, value_name = "CLUSTER")]
    pub confirm: Option<String>,
}

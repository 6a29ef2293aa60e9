//! Verbs of the worst day.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::help;
use crate::time;

/// `saola dr …`
#[derive(Debug, Subcommand)]
pub enum DrVerb {
    /// Work out what would be done and lost; changes nothing on any node
    #[command(subcommand)]
    Plan(DrPlanVerb),
    /// Print a plan, its hash and its approvals
    Show {
        /// The plan
        #[arg(value_name = "PLAN")]
        file: PathBuf,
    },
    /// Approve a plan with your key; needs no node
    #[command(after_help = help::APPROVE)]
    Approve {
        /// The plan; the approval is added to it
        #[arg(value_name = "PLAN")]
        file: PathBuf,
        /// Your private key, as `saola approver keygen` wrote it
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// Hash of the plan, to confirm without being asked
        #[arg(long, value_name = "HASH")]
        confirm: Option<String>,
    },
    /// Give a plan up that has not begun: whoever has promised it takes part again
    Abandon {
        /// The plan
        #[arg(value_name = "PLAN")]
        file: PathBuf,
        /// Name of the cluster, to confirm without being asked
        #[arg(long, value_name = "CLUSTER")]
        confirm: Option<String>,
    },
    /// Carry an approved plan out; after any failure, run it again
    Apply {
        /// The plan, with enough approvals
        #[arg(value_name = "PLAN")]
        file: PathBuf,
        /// Name of the cluster, to confirm without being asked
        #[arg(long, value_name = "CLUSTER")]
        confirm: Option<String>,
    },
    /// Have the nodes of a site come back that a forced promotion has left behind; repeated, it finishes what is left
    #[command(after_help = help::REINSTATE)]
    Reinstate {
        /// The site that was left behind
        #[arg(value_name = "SITE")]
        site: String,
        /// Say how they stand and what would be done, and change nothing
        #[arg(long)]
        dry_run: bool,
        /// Name of the cluster, to confirm without being asked
        #[arg(long, value_name = "CLUSTER")]
        confirm: Option<String>,
    },
    /// After a promotion: bring back whoever answers at any site, and wait until the sites protect each other
    ReProtect {
        /// Name of the cluster, to confirm without being asked
        #[arg(long, value_name = "CLUSTER")]
        confirm: Option<String>,
    },
}

/// `saola orphan …`
#[derive(Debug, Subcommand)]
pub enum OrphanVerb {
    /// The bundles of all data nodes
    List,
    /// Each write of a bundle, beside the record as it is now; changes nothing
    Diff {
        /// The bundle, as `saola orphan list` names it
        #[arg(value_name = "BUNDLE")]
        bundle: String,
    },
    /// Write again what nobody has written since, under the calls that it came with; repeated, it does no more
    Replay {
        /// The bundle
        #[arg(value_name = "BUNDLE")]
        bundle: String,
        /// Name of the cluster, to confirm without being asked
        #[arg(long, value_name = "CLUSTER")]
        confirm: Option<String>,
    },
    /// Remove a bundle for good
    Discard {
        /// The bundle
        #[arg(value_name = "BUNDLE")]
        bundle: String,
        /// Name of the cluster, to confirm without being asked
        #[arg(long, value_name = "CLUSTER")]
        confirm: Option<String>,
    },
}

/// `saola dr plan …`
#[derive(Debug, Subcommand)]
pub enum DrPlanVerb {
    /// A site goes on alone, because the others are lost and nothing goes on by itself
    #[command(after_help = help::PROMOTE)]
    Promote(PromoteArgs),
}

/// Arguments of `saola dr plan promote`.
#[derive(Debug, Args)]
pub struct PromoteArgs {
    /// The site that goes on
    #[arg(long, value_name = "SITE")]
    pub site: String,
    /// Where the plan goes [default: promote-SITE-HASH.plan]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Why the nodes that do not answer can take no part any more; the approvers sign it
    #[arg(long, value_name = "TEXT")]
    pub attest: Option<String>,
    /// The other side had stopped by then for certain, as in 2026-07-01T02:00:00Z; the approvers sign it
    #[arg(long, value_name = "TIME", value_parser = time::parse_moment)]
    pub stopped_at: Option<u64>,
    /// The newest revision of the other side, seen after it had stopped; the approvers sign it
    #[arg(long, value_name = "N")]
    pub last_revision: Option<u64>,
    /// Nobody has changed the protection or the data nodes on the other side since it was cut off; the approvers sign it
    #[arg(long)]
    pub unchanged: bool,
}

/// `saola approver …`
#[derive(Debug, Subcommand)]
pub enum ApproverVerb {
    /// Make a key pair for an approver: FILE for them alone, FILE.pub for `saola approver set`
    Keygen {
        /// Where the private key goes
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Who may approve a forced promotion, and how many of them must
    List,
    /// Say so, in the place of what was said before
    #[command(after_help = help::APPROVERS)]
    Set {
        /// An approver and their public key; may be repeated
        #[arg(long, value_name = "NAME=FILE", value_parser = named_file)]
        approver: Vec<(String, PathBuf)>,
        /// So many of them must approve
        #[arg(long, value_name = "M")]
        needed: u32,
        /// Name of the cluster, to confirm without being asked
        #[arg(long, value_name = "CLUSTER")]
        confirm: Option<String>,
    },
}

fn named_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, file)) if !name.is_empty() && !file.is_empty() => Ok((name.to_owned(), file.into())),
        _ => Err("write NAME=FILE, as in director=director.key.pub".into()),
    }
}

/// `saola site …`
#[derive(Debug, Subcommand)]
pub enum SiteVerb {
    /// Have the nodes of a site that answer take no part any more, durably: before another site goes on without it
    Fence {
        /// The site
        #[arg(value_name = "SITE")]
        site: String,
        /// Why, for those who find the nodes later
        #[arg(long, value_name = "TEXT")]
        why: String,
        /// Name of the cluster, to confirm without being asked
        #[arg(long, value_name = "CLUSTER")]
        confirm: Option<String>,
    },
    /// Let them take part again, unless another epoch goes on without them
    Unfence {
        /// The site
        #[arg(value_name = "SITE")]
        site: String,
        /// Name of the cluster, to confirm without being asked
        #[arg(long, value_name = "CLUSTER")]
        confirm: Option<String>,
    },
}

/// `saola epoch …`
#[derive(Debug, Subcommand)]
pub enum EpochVerb {
    /// Which epochs forced promotions began, with their verdicts and who approved
    History,
}

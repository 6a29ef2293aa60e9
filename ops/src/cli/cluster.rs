//! Verbs on the cluster, its nodes and their certificates.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::help;
use crate::time;
use crate::topology::{self, Node, Role};

/// `saola cluster …`
#[derive(Debug, Subcommand)]
pub enum ClusterVerb {
    /// Make a cluster of fresh nodes, which run already and wait
    #[command(after_help = help::TOPOLOGY)]
    Init {
        /// Nodes, roles, sites, addresses and public KEKs (TOML)
        #[arg(long, value_name = "FILE")]
        topology: PathBuf,
    },
    /// Add a fresh node, which runs already on an empty data folder and waits
    #[command(after_help = help::ADD)]
    Add {
        /// The node.
        #[command(flatten)]
        node: NewNode,
        /// Public key (KEK) of its site, needed when the site is new: 64 digits, from `saola-node keygen public --file FILE`
        #[arg(long, value_name = "HEX", value_parser = parse_kek)]
        kek_public: Option<KekPublic>,
    },
    /// Remove a node for good
    Remove {
        /// Name or number of the node
        node: String,
        /// Name of the cluster, to confirm without being asked
        #[arg(long, value_name = "CLUSTER")]
        confirm: Option<String>,
    },
    /// Remove a node and put a fresh one with a new number in its place
    Replace {
        /// Name or number of the node that goes
        node: String,
        /// The node that comes.
        #[command(flatten)]
        new: NewNode,
        /// Name of the cluster, to confirm without being asked
        #[arg(long, value_name = "CLUSTER")]
        confirm: Option<String>,
    },
    /// Hand leadership to another node
    Transfer(TransferArgs),
    /// Compare the state of all data nodes at one log index; exit 8 if two differ, 5 if one does not answer
    Digest,
    /// List the members
    Members,
}

/// `saola protection …`
#[derive(Debug, Subcommand)]
pub enum ProtectionVerb {
    /// What an acknowledgement waits for, and what the loss of the main site would mean now
    Show,
    /// Change what an acknowledgement waits for; it rules every acknowledgement after the answer
    Set {
        /// When a write counts as safe
        #[arg(value_enum)]
        mode: ProtectionMode,
        /// So many data nodes of other sites must have flushed a write; without it as many as before
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        acks: Option<u32>,
        /// Under maximum availability: go on without the other site when it has not acknowledged for so long; 0: the
        /// nodes' preset, as for the other times; without one of them it stays what it was
        #[arg(long, value_name = "MS")]
        degrade_ms: Option<u64>,
        /// A site that comes back must answer for so long before it is waited for
        #[arg(long, value_name = "MS")]
        return_ms: Option<u64>,
        /// Then it must have everything for so long before acknowledgements wait for it again
        #[arg(long, value_name = "MS")]
        parity_ms: Option<u64>,
        /// A site that is silent for so long loses its votes until it is back, where the rest may then lose a node (never
        /// where `saola goal set survive=site` holds)
        #[arg(long, value_name = "MS")]
        shrink_ms: Option<u64>,
        /// Name of the cluster, to confirm a lower protection without being asked
        #[arg(long, value_name = "CLUSTER")]
        confirm: Option<String>,
    },
}

/// When a write counts as safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProtectionMode {
    /// A commit by a quorum of voters is enough
    MaximumPerformance,
    /// Data nodes of another site must have flushed it too, as long as they answer
    MaximumAvailability,
    /// Data nodes of another site must have flushed it too; without them writes wait
    MaximumProtection,
}

/// `saola auto-failover …`
#[derive(Debug, Subcommand)]
pub enum FailoverVerb {
    /// Whether another site takes over by itself, and where leadership belongs
    Show,
    /// Change that; also acknowledges the automatic failovers so far, so that they count for the limit no more
    Set {
        /// Whether another site takes over by itself when the one that leads is lost
        #[arg(value_enum)]
        policy: PolicyArg,
        /// So many times within six hours, then as with observe-only; 0: always; without it as before
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
        /// The site where leadership belongs; "": anywhere; without it as before
        #[arg(long, value_name = "SITE")]
        home: Option<String>,
        /// Leadership goes back there by itself even after that site was lost; without it as before
        #[arg(long, value_name = "BOOL")]
        returns: Option<bool>,
    },
    /// A site is lost for long and nobody takes over by itself: have another site take over now
    Override {
        /// The site that takes over
        #[arg(long, value_name = "SITE")]
        site: String,
        /// Name of the cluster, to confirm without being asked
        #[arg(long, value_name = "CLUSTER")]
        confirm: Option<String>,
    },
}

/// `saola goal …`
#[derive(Debug, Subcommand)]
pub enum GoalVerb {
    /// What the cluster is declared to survive, and whether its membership bears it
    Show,
    /// Declare it: changes of the membership that would break it are refused from then on
    Set {
        /// What may be lost while enough voters are left to go on, one of them with records
        #[arg(value_enum)]
        goal: GoalArg,
    },
}

/// See [`GoalVerb::Set`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GoalArg {
    /// Any one node
    #[value(name = "survive=node")]
    Node,
    /// Any one site
    #[value(name = "survive=site")]
    Site,
    /// Declare nothing any more
    #[value(name = "none")]
    Nothing,
}

/// See [`FailoverVerb::Set`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PolicyArg {
    /// It does
    On,
    /// It votes and does not campaign: it says what it would have done, and people decide
    ObserveOnly,
}

/// `saola witness …`
#[derive(Debug, Subcommand)]
pub enum WitnessVerb {
    /// How it fares, what of the log it keeps, and whether it had to forget something; exit 5 unless it does its part
    Status,
}

/// `saola topology …`
#[derive(Debug, Subcommand)]
pub enum TopologyVerb {
    /// What happens when a node, a site, the witness or a link is lost, for the cluster as it is now
    Explain,
}

/// `saola validate …`
#[derive(Debug, Subcommand)]
pub enum ValidateVerb {
    /// May leadership go to another site now?
    Switchover {
        /// The site [default: the one that does not lead]
        #[arg(long, value_name = "SITE")]
        to: Option<String>,
        /// A warning counts as a reason against it
        #[arg(long)]
        strict: bool,
    },
    /// Would the loss of any one site lose nothing and stop nothing?
    Failover {
        /// A warning counts as a reason against it
        #[arg(long)]
        strict: bool,
    },
    /// Is all of that so, there and back, so that a drill may begin?
    Drill {
        /// The site that the drill goes to [default: the one that does not lead]
        #[arg(long, value_name = "SITE")]
        to: Option<String>,
        /// A warning counts as a reason against it
        #[arg(long)]
        strict: bool,
    },
}

/// Arguments of `saola switchover`.
#[derive(Debug, Args)]
pub struct SwitchoverArgs {
    /// The site that leads afterwards
    #[arg(long, value_name = "SITE")]
    pub to: String,
    /// Only say what stands against it, as `saola validate switchover` does
    #[arg(long, conflicts_with = "at")]
    pub dry_run: bool,
    /// Wait until then, as in 2026-07-01T02:00:00Z, check again, and begin
    #[arg(long, value_name = "TIME", value_parser = time::parse_moment)]
    pub at: Option<u64>,
}

/// `saola scrub …`
#[derive(Debug, Subcommand)]
pub enum ScrubVerb {
    /// Read and check all records of every data node now, in the background
    Start {
        /// Name or number of a node, to have it alone read; may be repeated
        #[arg(long, value_name = "NODE")]
        node: Vec<String>,
        /// Wait for the end, with progress; exit 8 if something does not verify
        #[arg(long)]
        wait: bool,
    },
    /// What is known of every copy of the records; exit 8 if something does not verify
    Status,
    /// Say which copy is the bad one, when the nodes cannot tell: it is replaced by another node's
    Repair {
        /// Name or number of the data node whose copy goes
        #[arg(long, value_name = "NODE")]
        node: String,
        /// Name of the cluster, to confirm without being asked
        #[arg(long, value_name = "CLUSTER")]
        confirm: Option<String>,
    },
}

/// A node that joins.
#[derive(Clone, Debug, Args)]
pub struct NewNode {
    /// Its number, as in its settings; never one that was used before
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub node_id: u64,
    /// Its name, as in its settings and its certificate
    #[arg(long)]
    pub name: String,
    /// Its site, as in its settings
    #[arg(long)]
    pub site: String,
    /// Its part, as in its settings
    #[arg(long, value_enum, default_value_t = Role::Voter)]
    pub role: Role,
    /// Where other nodes reach it
    #[arg(long, value_name = "HOST:PORT")]
    pub peer_address: String,
    /// Where clients reach it
    #[arg(long, value_name = "HOST:PORT")]
    pub client_address: String,
}

impl NewNode {
    /// The same as a topology says it.
    pub fn to_node(&self) -> Node {
        Node {
            node_id: self.node_id,
            name: self.name.clone(),
            site: self.site.clone(),
            role: self.role,
            peer_address: self.peer_address.clone(),
            client_address: self.client_address.clone(),
        }
    }
}

/// A site's public KEK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KekPublic(pub Vec<u8>);

fn parse_kek(text: &str) -> Result<KekPublic, String> {
    match topology::kek_public(text) {
        Ok(key) if key.is_empty() => Err("the key is empty".into()),
        other => other.map(KekPublic),
    }
}

/// Where leadership goes.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct TransferArgs {
    /// Name or number of a voter that keeps records
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// A voter of this site that keeps records
    #[arg(long)]
    pub site: Option<String>,
}

/// `saola cert …`
#[derive(Debug, Subcommand)]
pub enum CertVerb {
    /// Make a development authority, and node and client certificates signed by it
    #[command(after_help = help::CERTIFICATES)]
    Dev(DevCertArgs),
}

/// Arguments of `saola cert dev`.
#[derive(Debug, Args)]
pub struct DevCertArgs {
    /// Folder for the files; an authority that is there already is used again
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Make a node certificate NAME.pem with its NAME.key; may be repeated
    #[arg(long, value_name = "NAME")]
    pub node: Vec<String>,
    /// Make a client certificate NAME.pem with its NAME.key; may be repeated
    #[arg(long, value_name = "NAME")]
    pub client: Vec<String>,
    /// For how many days node and client certificates hold; 0 or less makes one that has expired
    #[arg(long, value_name = "DAYS", default_value_t = 365, allow_negative_numbers = true)]
    pub valid_days: i32,
}

/// Arguments of `saola demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Leave the cluster running at the end and print how to talk to it
    #[arg(long)]
    pub keep: bool,
    /// Folder for the nodes' files, fresh or empty; kept afterwards [default: a temporary one]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

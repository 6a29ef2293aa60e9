//! The command line of `saola-node`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

const SETTINGS: &str = r#"A settings file:
  [node]
  name = "main-1"
  node_id = 1
  site = "main"
  role = "voter"          # or learner, witness
  data_dir = "data"       # relative paths start at the file's folder
  [listen]
  peer = "10.0.0.1:7101"
  client = "10.0.0.1:7001"
  metrics = "10.0.0.1:7201"     # may be left out
  [tls]
  ca = "ca.pem"           # `saola cert dev` makes a set for development
  cert = "main-1.pem"
  key = "main-1.key"
  [kek]                   # not for a witness
  file = "main.kek"       # `saola-node keygen kek --out main.kek`
  [timing]                # may be left out
  preset = "lan"          # or wan
  [limits]                # may be left out
  min_free_bytes = 536870912
  snapshot_bytes_per_s = 67108864

The log goes to standard error; SAOLA_LOG=debug shows more. Exit codes: 0 stopped as asked, 1 failure, 2 wrong command
line. With all nodes of a new cluster running: `saola cluster init`."#;

/// One node of a Saola cluster.
#[derive(Debug, Parser)]
#[command(
    name = "saola-node",
    version,
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true,
    after_help = SETTINGS
)]
pub struct Cli {
    /// Something else than running the node.
    #[command(subcommand)]
    pub verb: Option<Verb>,
    /// How to run the node.
    #[command(flatten)]
    pub run: RunArgs,
}

/// Arguments of a node that runs.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Settings file (TOML); the node runs until SIGTERM or Ctrl-C
    #[arg(long, value_name = "FILE", required = true)]
    pub config: Option<PathBuf>,
    /// Print the settings in effect, defaults included, and end
    #[arg(long)]
    pub print_settings: bool,
}

/// Verbs beside running.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make and show key files
    #[command(subcommand)]
    Keygen(Keygen),
}

/// Key files.
#[derive(Debug, Subcommand)]
pub enum Keygen {
    /// Make a site's KEK pair: the private half goes to FILE (mode 0600), the public half to standard output
    Kek {
        /// Where to put the private half; must not exist yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Print the public half of a private key file
    Public {
        /// Private key file
        #[arg(long, value_name = "FILE")]
        file: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
        assert!(Cli::try_parse_from(["saola-node", "--config", "a.toml", "--print-settings"]).is_ok());
        assert!(Cli::try_parse_from(["saola-node", "keygen", "kek", "--out", "k"]).is_ok());
        assert!(Cli::try_parse_from(["saola-node", "--print-settings"]).is_err());
    }
}

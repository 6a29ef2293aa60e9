//! `saola-node`: see the crate's README.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use saola_node::cli::{Cli, Keygen, Verb};
use saola_node::settings::Settings;
use saola_node::{entropy, lifecycle};
use saola_storage::kek::{KekPrivate, KekProvider};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.verb {
        Some(Verb::Keygen(Keygen::Kek { out })) => make_kek(&out),
        Some(Verb::Keygen(Keygen::Public { file })) => show_public(&file),
        None => {
            let config = cli.run.config.expect("the command line requires --config when there is no verb");
            run(&config, cli.run.print_settings)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn make_kek(out: &Path) -> anyhow::Result<()> {
    let key = KekPrivate::from_random(entropy::secret()?);
    key.write_file(out)?;
    println!("{}", key.public());
    Ok(())
}

fn show_public(file: &Path) -> anyhow::Result<()> {
    println!("{}", KekPrivate::read_file(file)?.public());
    Ok(())
}

fn run(config: &Path, print_settings: bool) -> anyhow::Result<()> {
    let settings = Settings::load(config)?;
    if print_settings {
        print!("{}", settings.to_toml()?);
        return Ok(());
    }
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("SAOLA_LOG")
                // openraft warns on every message to a node that is down; our own lines say it once.
                .unwrap_or_else(|_| "info,openraft=error".into()),
        )
        .with_writer(std::io::stderr)
        .with_target(false)
        .compact()
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(lifecycle::run(settings))
}

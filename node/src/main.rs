//! `saola-node`: see the crate's README.

use std::io::IsTerminal;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Parser;
use saola_node::cli::{Cli, Keygen, RunArgs, Verb};
use saola_node::lifecycle::Ended;
use saola_node::settings::Settings;
use saola_node::{entropy, failure, lifecycle, process};
use saola_storage::kek::{KekPrivate, KekProvider};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Disk work that is under way when the node has stopped gets so long.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.verb {
        Some(Verb::Keygen(Keygen::Kek { out })) => make_kek(&out),
        Some(Verb::Keygen(Keygen::Public { file })) => show_public(&file),
        None => {
            let config = cli.run.config.as_deref().expect("the command line requires --config when there is no verb");
            run(config, &cli.run)
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", failure::chain(error.as_ref()));
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

/// What SAOLA_LOG asks for; empty counts as not set.
fn log_filter() -> anyhow::Result<EnvFilter> {
    match std::env::var("SAOLA_LOG") {
        Ok(filter) if !filter.is_empty() => EnvFilter::try_new(&filter)
            .map_err(|error| anyhow!("SAOLA_LOG={filter:?}: {error}; write a level such as `info`, or unset it")),
        // openraft's lines are for its developers; what an operator has to know the node says itself.
        _ => Ok("info,openraft=off".into()),
    }
}

fn run(config: &Path, args: &RunArgs) -> anyhow::Result<()> {
    process::stay_down();
    let settings = Settings::load(config)?;
    if args.print_settings {
        print!("{}", settings.to_toml()?);
        return Ok(());
    }
    tracing_subscriber::fmt()
        .with_env_filter(log_filter()?)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty()))
        .with_target(false)
        .compact()
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let result = runtime.block_on(lifecycle::run(settings, args.until_stdin_closes));
    // Work that waits for a disk that hangs never ends.
    runtime.shutdown_timeout(SHUTDOWN_LIMIT);
    match result? {
        Ended::Stopped => Ok(()),
        Ended::StartsAnew => {
            let error = process::replace(Duration::ZERO);
            Err(anyhow!(error).context("start anew in the new epoch; start the node again by hand"))
        }
    }
}

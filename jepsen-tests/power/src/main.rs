//! `saola-power`: takes nodes' power away thousands of times, and looks at what their disks kept.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use saola_power::life::{Done, live_all};

/// Cuts the power of nodes' disks: real RocksDB, real log.
#[derive(Parser)]
struct Args {
    /// Disks, each a life of its own.
    #[arg(long, default_value_t = 10)]
    disks: u64,
    /// Power cuts of each.
    #[arg(long, default_value_t = 20)]
    cuts: u64,
    /// The first disk's seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let began = Instant::now();
    let Done { cuts, in_log, in_rocksdb, entries, flushes, installs, purges, replayed, opened } =
        match live_all(args.from..args.from + args.disks, args.cuts) {
            Ok(sum) => sum,
            Err(what) => {
                println!("{what}");
                return ExitCode::FAILURE;
            }
        };
    let took_s = began.elapsed().as_secs_f64();
    println!(
        "power: OK cuts={cuts} in_log={in_log} in_rocksdb={in_rocksdb} entries={entries} flushes={flushes} \
         installs={installs} purges={purges} replayed={replayed} opened={opened} took_s={took_s:.1} cuts_per_min={:.0}",
        60.0 * cuts as f64 / took_s
    );
    ExitCode::SUCCESS
}

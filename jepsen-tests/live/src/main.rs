//! `saola-live`: rounds of real clusters under faults, until the time is over.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use saola_live::faults::{Kind, Tally};
use saola_live::last_day::LastDay;
use saola_live::round::{self, Report, Topology};
use saola_ops::exit::Failure;

/// Real clusters under faults.
#[derive(Parser)]
struct Args {
    /// How long; a round that has begun is finished.
    #[arg(long, default_value_t = 4.0)]
    minutes: f64,
    /// How long the faults of a round last, seconds.
    #[arg(long, default_value_t = 60)]
    load_s: u64,
    /// The first round's seed: it decides what is done, not when it shows.
    #[arg(long)]
    seed: Option<u64>,
    /// One topology alone: 2+2+w, 3+2l, 3+3+w.
    #[arg(long)]
    topology: Option<String>,
    /// Each kind of fault must have been done at least once, and a promotion.
    #[arg(long)]
    complete: bool,
    /// Where rounds leave their files; those of a round that is well are removed.
    #[arg(long)]
    folder: Option<PathBuf>,
}

#[derive(Default)]
struct Sum {
    rounds: u64,
    calls: [u64; 4],
    tallies: BTreeMap<Kind, Tally>,
    states: BTreeMap<String, u64>,
    images: u64,
    promotions: u64,
    healed_ms: Vec<u64>,
}

impl Sum {
    fn add(&mut self, report: Report) {
        self.rounds += 1;
        self.images += report.images;
        self.promotions += u64::from(report.last_day.is_some());
        self.healed_ms.push(report.healed_ms);
        self.calls.iter_mut().zip(report.calls).for_each(|(sum, count)| *sum += count);
        for (kind, tally) in report.tallies {
            self.tallies.entry(kind).or_default().add(tally);
        }
        for (state, count) in report.states {
            *self.states.entry(state).or_default() += count;
        }
    }

    fn print(&self, began: Instant) {
        let mut lines = 0;
        println!("{:<18} {:>9} {:>7} {:>13}", "fault", "installed", "skipped", "indeterminate");
        for kind in Kind::ALL {
            let tally = self.tallies.get(&kind).cloned().unwrap_or_default();
            let Tally { installed, skipped, indeterminate, why } = tally;
            lines += installed;
            let why = why.lines().next().unwrap_or_default();
            println!("{:<18} {installed:>9} {skipped:>7} {indeterminate:>13} {why:.100}", kind.name());
        }
        let states: Vec<String> = self.states.iter().map(|(state, count)| format!("{state}={count}")).collect();
        println!("states: {}", states.join(" "));
        println!("{}", saola_jepsen::workloads::skipped());
        let skipped: u64 = self.tallies.values().map(|tally| tally.skipped).sum();
        let [written, read, refused, unknown] = self.calls;
        let slowest_ms = self.healed_ms.iter().max().copied().unwrap_or_default();
        println!(
            "live: OK rounds={} minutes={:.1} faults={lines} skipped={skipped} promotions={} writes={written} reads={read} \
             refused={refused} unknown={unknown} images={} slowest_heal_ms={slowest_ms}",
            self.rounds,
            began.elapsed().as_secs_f64() / 60.0,
            self.promotions,
            self.images,
        );
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("saola-live: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<ExitCode, Failure> {
    let topologies: Vec<Topology> = match &args.topology {
        None => Topology::ALL.to_vec(),
        Some(name) => Topology::ALL.into_iter().filter(|topology| topology.name() == name).collect(),
    };
    if topologies.is_empty() {
        return Err(Failure::usage("there is no such topology", "ask for 2+2+w, 3+2l or 3+3+w"));
    }
    let base = args.folder.clone().unwrap_or_else(std::env::temp_dir);
    let first = args.seed.unwrap_or_else(rand::random);
    let (began, mut sum) = (Instant::now(), Sum::default());
    let end = began + Duration::from_secs_f64(args.minutes * 60.0);
    for (seed, topology) in (first..).zip(topologies.iter().copied().cycle()) {
        if sum.rounds > 0 && Instant::now() >= end {
            break;
        }
        let made = tempfile::Builder::new().prefix("saola-live-").tempdir_in(&base);
        let folder =
            made.map_err(|source| Failure::file(format!("make a folder in {}", base.display()), &source))?.keep();
        let load = Duration::from_secs(args.load_s);
        // Each round changes the host of the thread it begins on.
        let place = folder.clone();
        let round = std::thread::spawn(move || round::run(topology, seed, load, &place)).join();
        let report = round.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        println!(
            "round {} of {}, seed {seed}: {} faults, calls {:?}, well after {} ms",
            sum.rounds + 1,
            topology.name(),
            report.tallies.values().map(|tally| tally.installed).sum::<u64>(),
            report.calls,
            report.healed_ms
        );
        if let Some(LastDay { verdict, away_ms }) = &report.last_day {
            println!(
                "  promoted by force, {verdict}: the first write {away_ms} ms after main lost power; main is back"
            );
        }
        let bad: Vec<&String> = report.wrong.iter().chain(&report.quiet).collect();
        if !bad.is_empty() {
            bad.iter().for_each(|what| println!("  {what}"));
            println!(
                "live: FAILED; history and logs in {}; the same choices again: saola-live --topology {} --seed {seed} --load-s {} \
                 --minutes 0",
                folder.display(),
                topology.name(),
                args.load_s
            );
            return Ok(ExitCode::FAILURE);
        }
        fs::remove_dir_all(&folder).map_err(|source| Failure::file(format!("remove {}", folder.display()), &source))?;
        sum.add(report);
    }
    sum.print(began);
    let missing = Kind::ALL.iter().filter(|kind| sum.tallies.get(kind).is_none_or(|tally| tally.installed == 0));
    let unpromoted = (sum.promotions == 0 && topologies.contains(&Topology::TwoSites)).then_some("promotion");
    let missing: Vec<&str> = missing.map(|kind| kind.name()).chain(unpromoted).collect();
    if args.complete && !missing.is_empty() {
        println!("live: FAILED: never done: {}", missing.join(", "));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

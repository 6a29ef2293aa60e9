//! `saola-sim`: lives simulated clusters by the thousand, tells what they met, and makes small what fails.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use saola_jepsen::history::save;
use saola_jepsen::ledger::{self, Row};
use saola_jepsen::sim::swarm::shrink::shrink;
use saola_jepsen::sim::swarm::watch::PROMOTED;
use saola_jepsen::sim::swarm::{Fault, Life, Report, Topology, day, live};
use saola_raft::protection::State;
use saola_raft::sim::Visits;
use saola_storage::failpoint::Failpoint;

/// Simulated clusters, each decided by its seed.
#[derive(Parser)]
struct Args {
    /// So many seeds.
    #[arg(long, default_value_t = 100, conflicts_with = "seed")]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// This seed alone: tells its story, and what the nodes say if `SAOLA_LOG` is set (`info,openraft=off`).
    #[arg(long)]
    seed: Option<u64>,
    /// Leaves a failing seed as it is instead of looking for the smallest life that fails.
    #[arg(long)]
    no_shrink: bool,
    /// Of one seed: fewer turns.
    #[arg(long, requires = "seed")]
    turns: Option<u64>,
    /// Of one seed: fewer clients.
    #[arg(long, requires = "seed")]
    clients: Option<u64>,
    /// Of one seed: only these faults, separated by commas.
    #[arg(long, requires = "seed", value_delimiter = ',')]
    faults: Option<Vec<String>>,
    /// Of one seed: draws among the first so many kinds of faults, as when it was kept (`jepsen-tests/seeds`).
    #[arg(long, requires = "seed")]
    kinds: Option<usize>,
    /// Lives the worst days of the seeds: a site is lost, and the other one is promoted.
    #[arg(long)]
    worst_days: bool,
    /// Of one seed: writes its history there (`src/history.rs` documents it).
    #[arg(long, requires = "seed")]
    history: Option<PathBuf>,
    /// Threads; one each core if left out.
    #[arg(long)]
    jobs: Option<usize>,
    /// One line per seed with the hash of its life.
    #[arg(long)]
    hashes: bool,
    /// Fails if a fault or a protection state was never met, if few faults were met together, or if nobody lost power at a
    /// failpoint.
    #[arg(long, conflicts_with_all = ["seed", "worst_days"])]
    complete: bool,
    /// Adds what was lived to this ledger (`jepsen-tests/seeds/ledger.txt`).
    #[arg(long, requires = "commit", conflicts_with = "seed")]
    ledger: Option<PathBuf>,
    /// The commit that stands in the ledger.
    #[arg(long)]
    commit: Option<String>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Ok(filter) = std::env::var("SAOLA_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_ansi(false).init();
    }
    match args.seed {
        Some(seed) => one(&args, seed),
        None => many(&args),
    }
}

fn drawn(args: &Args, seed: u64) -> Life {
    let life = args.kinds.map_or_else(|| Life::of(seed), |kinds| Life::among(seed, kinds));
    if args.worst_days { life.worst_day() } else { life }
}

fn chosen(args: &Args, seed: u64) -> Life {
    let mut life = drawn(args, seed);
    life.turns = args.turns.unwrap_or(life.turns);
    life.clients = args.clients.unwrap_or(life.clients);
    if let Some(names) = &args.faults {
        life.faults.retain(|it| names.iter().any(|name| name == it.name()));
    }
    life
}

fn one(args: &Args, seed: u64) -> ExitCode {
    let life = chosen(args, seed);
    println!("seed {seed}: {life}");
    let report = live(&life);
    report.story.iter().for_each(|line| println!("{line}"));
    if let Some(file) = &args.history
        && let Err(error) = save(file, &report.operations)
    {
        eprintln!("saola-sim: write {}: {error}", file.display());
        return ExitCode::FAILURE;
    }
    let [written, read, refused, unknown] = report.calls;
    println!("{written} writes, {read} reads, {refused} refused, {unknown} unknown, hash {}", short(&report.hash));
    match failed(&life, &report) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

fn short(hash: &[u8; 32]) -> String {
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn failed(life: &Life, report: &Report) -> bool {
    for what in report.violations.iter().take(8) {
        println!("seed {}: {what}", life.seed);
    }
    !report.violations.is_empty()
}

/// The line that lives a life again.
fn replay(life: &Life) -> String {
    let drawn = Life::among(life.seed, life.kinds);
    let mut line = format!("replay: saola-sim --seed {}", life.seed);
    if life.kinds != Fault::ALL.len() {
        line += &format!(" --kinds {}", life.kinds);
    }
    if life.is_worst_day != drawn.is_worst_day {
        line += " --worst-days";
    }
    if life.turns != drawn.turns {
        line += &format!(" --turns {}", life.turns);
    }
    if life.clients != drawn.clients {
        line += &format!(" --clients {}", life.clients);
    }
    if life.faults != drawn.faults {
        let names: Vec<&str> = life.faults.iter().map(|it| it.name()).collect();
        line += &format!(" --faults '{}'", names.join(","));
    }
    line
}

/// Of all pairs of faults, so many percent are to have happened in one life.
const PAIRS_PERCENT: usize = 60;

#[derive(Default)]
struct Sum {
    lives: u64,
    /// Two faults that happened in one life.
    pairs: BTreeSet<[Fault; 2]>,
    met: BTreeMap<&'static str, u64>,
    /// Worst days by how they ended: how many, acknowledged writes left behind, verdicts checked.
    days: BTreeMap<&'static str, [u64; 3]>,
    states: BTreeMap<&'static str, u64>,
    visits: BTreeMap<Failpoint, Visits>,
    topologies: BTreeMap<Topology, u64>,
    calls: [u64; 4],
    virtual_ms: u64,
    failing: Vec<u64>,
}

impl Sum {
    /// Faults of all lives.
    fn faults(&self) -> u64 {
        Fault::ALL.iter().filter_map(|it| self.met.get(it.name())).sum()
    }

    fn add(&mut self, life: &Life, report: &Report) {
        self.lives += 1;
        for (what, count) in &report.met {
            *self.met.entry(what).or_default() += count;
        }
        let faults: Vec<Fault> = Fault::ALL.into_iter().filter(|it| report.met.contains_key(it.name())).collect();
        for (place, one) in faults.iter().enumerate() {
            self.pairs.extend(faults[place + 1..].iter().map(|other| [*one, *other]));
        }
        if let Some(ended) = report.ended {
            let day = self.days.entry(ended.how).or_default();
            *day = [day[0] + 1, day[1] + ended.lost, day[2] + u64::from(ended.checked)];
        }
        for (state, count) in &report.states {
            *self.states.entry(state).or_default() += count;
        }
        for (point, count) in &report.visits {
            let sum = self.visits.entry(*point).or_default();
            (sum.all, sum.last) = (sum.all + count.all, sum.last + count.last);
        }
        *self.topologies.entry(life.topology).or_default() += 1;
        self.calls.iter_mut().zip(report.calls).for_each(|(sum, count)| *sum += count);
        self.virtual_ms += report.virtual_ms;
    }
}

fn many(args: &Args) -> ExitCode {
    let began = Instant::now();
    let jobs = args.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |it| it.get()));
    let (next, sum) = (AtomicU64::new(args.from), Mutex::new(Sum::default()));
    let end = args.from + args.seeds;
    // Before hours of lives, not after them.
    let ledger = match args.ledger.as_deref().map(|file| (file, ledger::open(file, &row(args, &Sum::default())))) {
        Some((file, Err(why))) => {
            eprintln!("saola-sim: nothing can be added to {}: {why}", file.display());
            return ExitCode::FAILURE;
        }
        Some((file, Ok(rows))) => Some((file, rows)),
        None => None,
    };
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let life = drawn(args, seed);
                    let report = live(&life);
                    let fails = failed(&life, &report);
                    let mut all = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    all.add(&life, &report);
                    if args.hashes {
                        println!("{seed} {}", short(&report.hash));
                    }
                    if fails {
                        all.failing.push(seed);
                        println!("{}", replay(&life));
                        if !args.no_shrink && all.failing.len() == 1 {
                            drop(all);
                            let (small, _) = shrink(&life, report, |_| {});
                            println!("{}   (the same, smaller)", replay(&small));
                        }
                    }
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    tell(&sum, began.elapsed().as_secs_f64());
    if let Some((file, mut rows)) = ledger {
        let row = row(args, &sum);
        if let Err(error) = ledger::add(file, &row) {
            eprintln!("saola-sim: {row} is to be added to {}: {error}", file.display());
            return ExitCode::FAILURE;
        }
        rows.push(row);
        println!("ledger: {}", ledger::total(&rows));
    }
    let missing = missing(&sum);
    if args.complete && !missing.is_empty() {
        println!("never met: {}", missing.join(" "));
        return ExitCode::FAILURE;
    }
    match sum.failing.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn row(args: &Args, sum: &Sum) -> Row {
    let [writes, reads, ..] = sum.calls;
    let mut failed = sum.failing.clone();
    failed.sort_unstable();
    Row {
        commit: args.commit.clone().unwrap_or_default(),
        worst_days: args.worst_days,
        from: args.from,
        seeds: args.seeds,
        failed,
        writes,
        reads,
        faults: sum.faults(),
        virtual_s: sum.virtual_ms / 1_000,
    }
}

/// How many pairs of faults there are.
fn all_pairs() -> usize {
    Fault::ALL.len() * (Fault::ALL.len() - 1) / 2
}

fn tell(sum: &Sum, took_s: f64) {
    let list = |counts: Vec<(&str, u64)>| {
        counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    };
    println!("{}", saola_jepsen::workloads::skipped());
    println!("topologies: {}", list(sum.topologies.iter().map(|(it, count)| (it.name(), *count)).collect()));
    println!("met: {}", list(everything().map(|it| (it, sum.met.get(it).copied().unwrap_or(0))).collect()));
    println!("faults: {}; {} of {} pairs of kinds in one life", sum.faults(), sum.pairs.len(), all_pairs());
    let visited = Failpoint::ALL.iter().map(|point| {
        let Visits { all, last } = sum.visits.get(point).copied().unwrap_or_default();
        format!("{} {last} of {all}", point.name())
    });
    println!("power lost at: {}", visited.collect::<Vec<_>>().join(", "));
    for (how, [days, lost, checked]) in &sum.days {
        println!(
            "worst days, {how}: {days}, {lost} acknowledged writes left behind and kept, {checked} verdicts checked"
        );
    }
    println!("states: {}", list(sum.states.iter().map(|(it, count)| (*it, *count)).collect()));
    let ([written, read, refused, unknown], virtual_s) = (sum.calls, sum.virtual_ms as f64 / 1_000.0);
    println!(
        "sim: {} seeds={} failed={} writes={written} reads={read} refused={refused} unknown={unknown} \
         virtual_s={virtual_s:.0} took_s={took_s:.1} seeds_per_min={:.0} virtual_per_real={:.1}",
        if sum.failing.is_empty() { "OK" } else { "FAILED" },
        sum.lives,
        sum.failing.len(),
        60.0 * sum.lives as f64 / took_s,
        virtual_s / took_s,
    );
}

fn missing(sum: &Sum) -> Vec<&'static str> {
    let few_pairs = (sum.pairs.len() * 100 < all_pairs() * PAIRS_PERCENT).then_some("enough pairs of faults");
    let met = everything().filter(|it| !sum.met.contains_key(it));
    let states = State::ALL.iter().map(|it| it.as_str()).chain(["FENCED", PROMOTED]);
    let points = Failpoint::ALL.iter().filter(|it| sum.visits.get(it).is_none_or(|visits| visits.last == 0));
    let states = states.filter(|it| !sum.states.contains_key(it));
    met.chain(points.map(|it| it.name())).chain(states).chain(few_pairs).collect()
}

/// All that may be met.
fn everything() -> impl Iterator<Item = &'static str> {
    Fault::ALL.iter().map(|it| it.name()).chain(day::MET)
}

//! `saola-planted`: puts known bugs (`saola_storage::planted`) into the simulated nodes, one after the other, and counts the lives
//! until it is found: a net that catches nothing proves nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Parser;
use saola_jepsen::sim::swarm::{Life, live};
use saola_storage::planted::{Bug, plant};

/// Puts known bugs in, and counts the lives until each is found.
#[derive(Parser)]
struct Args {
    /// These bugs alone.
    bugs: Vec<String>,
    /// So many of all bugs, which `from` chooses.
    #[arg(long, conflicts_with = "bugs")]
    sample: Option<usize>,
    /// Lives in which each must be found.
    #[arg(long, default_value_t = 1_000)]
    lives: u64,
    /// Searches of each, from seeds apart, so that there is a median.
    #[arg(long, default_value_t = 3)]
    searches: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Writes what each took there, as soon as it is known (`jepsen-tests/seeds/planted.txt`); the rows of other bugs stay.
    #[arg(long, requires = "commit", conflicts_with_all = ["lives", "from"])]
    table: Option<PathBuf>,
    /// The commit that stands in its rows.
    #[arg(long)]
    commit: Option<String>,
}

/// Above the rows of the table.
const HEADER: &str = "\
# How many lives it takes to find each bug of storage/src/planted.rs: its name, the median of its searches, in how many of them
# it was found at all within 1000 lives, and the commit that lived them.
# `make planted TABLE=jepsen-tests/seeds/planted.txt` writes it.
";
/// Seeds from one search to the next.
const APART: u64 = 100_000;

fn main() -> ExitCode {
    let args = Args::parse();
    let bugs = match chosen(&args) {
        Ok(bugs) => bugs,
        Err(problem) => {
            eprintln!("saola-planted: {problem}");
            return ExitCode::FAILURE;
        }
    };
    let searches: Vec<(Bug, u64)> =
        bugs.iter().flat_map(|bug| (0..args.searches).map(|search| (*bug, search))).collect();
    let (next, missed, unwritten) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let tries: Mutex<BTreeMap<Bug, Vec<Option<u64>>>> = Mutex::default();
    let table = args.table.as_ref().zip(args.commit.as_ref()).map(Mutex::new);
    let jobs = std::thread::available_parallelism().map_or(1, |it| it.get());
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                while let Some((bug, search)) = searches.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = until_found(*bug, args.from + search * APART, args.lives);
                    let mut all = tries.lock().expect("no search panics while it holds the tries");
                    let own = all.entry(*bug).or_default();
                    own.push(found);
                    if (own.len() as u64) < args.searches {
                        continue;
                    }
                    let mut tries = all.remove(bug).unwrap_or_default();
                    drop(all);
                    tries.sort_by_key(|it| it.unwrap_or(u64::MAX));
                    let found = tries.iter().flatten().count() as u64;
                    let median = tries[tries.len() / 2].map_or("-".into(), |it| it.to_string());
                    let searches = args.searches;
                    let row = format!("{:<22} {median:>4} {found}/{searches}", bug.name());
                    println!("{row} {}", bug.what());
                    missed.fetch_add(usize::from(found < searches), Ordering::Relaxed);
                    if let Some(table) = &table {
                        let held = table.lock().expect("no search panics while it holds the table");
                        let (path, commit) = *held;
                        if let Err(error) = write_row(path, *bug, &format!("{row} {commit}")) {
                            eprintln!("saola-planted: write {}: {error}; the row was: {row} {commit}", path.display());
                            unwritten.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    let (missed, unwritten) = (missed.into_inner(), unwritten.into_inner());
    println!("planted: {} bugs={} missed={missed}", if missed == 0 { "OK" } else { "FAILED" }, bugs.len());
    if missed + unwritten == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Puts a bug's row in the place of its former one.
fn write_row(path: &Path, of: Bug, row: &str) -> io::Result<()> {
    let old = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        read => read?,
    };
    let mut text = HEADER.to_owned();
    for bug in Bug::ALL {
        let is_its_own = |line: &&str| line.split_whitespace().next() == Some(bug.name());
        if let Some(line) = if *bug == of { Some(row) } else { old.lines().find(is_its_own) } {
            text += line;
            text.push('\n');
        }
    }
    std::fs::write(path, text)
}

fn chosen(args: &Args) -> Result<Vec<Bug>, String> {
    if let Some(count) = args.sample {
        let all = Bug::ALL.len();
        return Ok((0..count.min(all)).map(|at| Bug::ALL[(args.from as usize * count + at) % all]).collect());
    }
    if args.bugs.is_empty() {
        return Ok(Bug::ALL.to_vec());
    }
    let named = |name: &String| {
        let bug = Bug::ALL.iter().find(|bug| bug.name() == name).copied();
        bug.ok_or_else(|| format!("there is no bug {name}; storage/src/planted.rs lists them"))
    };
    args.bugs.iter().map(named).collect()
}

/// How many lives it took: a random one and a worst day in turn. A life that fails without the bug too shows another one, and
/// that is what must be mended first.
fn until_found(bug: Bug, from: u64, lives: u64) -> Option<u64> {
    plant(Some(bug));
    let life = |at: u64| match at % 2 {
        0 => Life { is_worst_day: false, ..Life::of(from + at) },
        _ => Life::of(from + at).worst_day(),
    };
    let found = (0..lives).find_map(|at| Some((at, live(&life(at)).violations.into_iter().next()?)));
    plant(None);
    let (found, what) = found?;
    println!("{:<22} seed {}: {what}", bug.name(), from + found);
    let also = live(&life(found)).violations;
    if also.is_empty() {
        return Some(found + 1);
    }
    println!("{:<22} the life of seed {} fails without it too: {also:?}", bug.name(), from + found);
    None
}

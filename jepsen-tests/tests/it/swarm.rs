//! Random lives (`saola_jepsen::sim::swarm`): seeds that nobody has seen before by `make sim`, those that once failed here, and
//! whether a seed decides everything.

use std::process::Command;

use saola_jepsen::ledger::rows;
use saola_jepsen::sim::swarm::{Life, live};

const SIM: &str = env!("CARGO_BIN_EXE_saola-sim");
const RANDOM: &str = include_str!("../../seeds/swarm.txt");
const WORST_DAYS: &str = include_str!("../../seeds/worst-days.txt");

/// A line for each: the seed, how many kinds of faults there were then, and what it found.
fn kept(file: &str) -> Vec<Life> {
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    let numbers =
        lines.map(|line| line.splitn(3, ' ').take(2).map(|it| it.parse::<u64>().expect("a number")).collect());
    let lives = numbers.map(|numbers: Vec<u64>| Life::among(numbers[0], numbers[1] as usize));
    let lives: Vec<Life> = lives.collect();
    assert!(!lives.is_empty(), "some are kept");
    lives
}

fn holds(life: &Life, options: &str) {
    let wrong = live(life).violations.join("\n");
    assert!(wrong.is_empty(), "replay: saola-sim {options}--seed {} --kinds {}\n{wrong}", life.seed, life.kinds);
}

#[test]
fn seeds_that_once_failed_hold() {
    kept(RANDOM).iter().for_each(|life| holds(life, ""));
}

#[test]
fn worst_days_that_once_failed_hold() {
    kept(WORST_DAYS).into_iter().for_each(|life| holds(&life.worst_day(), "--worst-days "));
}

#[test]
fn whatever_failed_in_the_ledger_has_its_story() {
    let rows = rows(include_str!("../../seeds/ledger.txt")).unwrap_or_else(|why| panic!("{why}"));
    for row in rows {
        let stories = kept(if row.worst_days { WORST_DAYS } else { RANDOM });
        assert!(row.failed.iter().all(|seed| stories.iter().any(|life| life.seed == *seed)), "{row}");
    }
}

#[test]
fn whatever_happens_around_a_promotion_its_verdict_is_true_and_one_side_counts() {
    let (mut checked, mut begun) = (Vec::new(), 0);
    for seed in 0..20 {
        let report = live(&Life::of(seed).worst_day());
        let wrong = report.violations.join("\n");
        assert!(wrong.is_empty(), "replay: saola-sim --worst-days --seed {seed}\n{wrong}");
        let Some(ended) = report.ended else { continue };
        begun += u64::from(ended.how != "not begun");
        checked.extend(Some(ended.how).filter(|_| ended.checked));
    }
    let says = |how: &str| checked.contains(&how);
    assert!(begun > 10 && says("PROVEN ZERO") && says("BOUNDED"), "{begun} promotions, checked: {checked:?}");
}

#[test]
fn a_seed_gives_the_same_life_in_two_processes() {
    let hashes = |jobs: &str| {
        let args = ["--seeds", "6", "--from", "500", "--hashes", "--jobs", jobs];
        let run = Command::new(SIM).args(args).output().expect("it is built");
        let said = String::from_utf8(run.stdout).expect("it speaks UTF-8");
        assert!(run.status.success(), "{said}");
        let mut lines: Vec<String> = said.lines().take_while(|it| !it.contains(':')).map(str::to_owned).collect();
        lines.sort();
        assert_eq!(lines.len(), 6, "{said}");
        lines
    };
    // Alone in a thread, or beside others.
    assert_eq!(hashes("1"), hashes("2"));
}

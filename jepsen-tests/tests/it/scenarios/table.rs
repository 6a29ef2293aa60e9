//! What each loss costs, over 2+2+w under load: the longest time without an acknowledgement and without a linearizable
//! read anywhere, what of the acknowledged is lost (nothing), and whether it ends by itself.
//!
//! `SAOLA_SEEDS=20 cargo test -p saola-jepsen --test it scenarios::table -- --nocapture` prints the table of
//! `ops/README.md`: times are virtual, from the timers and the emulated round trips alone.

use std::time::Duration;

use saola_jepsen::sim::{Cluster, PATIENCE};
use saola_raft::Timing;
use saola_raft::protection::State;
use tokio::time::Instant;

use super::load::{Load, percentile};
use super::sites::{MARK, Sites, maximum, set, until_state};
use super::{have_lead, number, of_seeds};

/// Cells are measured over so many runs each, unless `SAOLA_SEEDS` asks for another number.
const RUNS: u64 = 2;
/// Before the loss, and after it.
const BEFORE: Duration = Duration::from_millis(700);
const AFTER: Duration = Duration::from_secs(6);
const WITNESS: u64 = 5;

/// What is lost; node 1 leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Kill(&'static [u64]),
    Cut(&'static [u64], &'static [u64]),
    CutOneWay(&'static [u64], &'static [u64]),
    /// Cut off from all for 30 s, then back.
    Pause(&'static [u64]),
    Hang(&'static [u64]),
    Fill(u64),
}

const MAIN: &[u64] = &[1, 2];
const DR: &[u64] = &[3, 4];

const ROWS: [(&str, Loss); 19] = [
    ("leader killed", Loss::Kill(&[1])),
    ("other node of main killed", Loss::Kill(&[2])),
    ("node of DR killed", Loss::Kill(&[3])),
    ("main site killed", Loss::Kill(MAIN)),
    ("DR site killed", Loss::Kill(DR)),
    ("witness killed", Loss::Kill(&[WITNESS])),
    ("link main - DR cut", Loss::Cut(MAIN, DR)),
    ("link main - witness cut", Loss::Cut(MAIN, &[WITNESS])),
    ("link DR - witness cut", Loss::Cut(DR, &[WITNESS])),
    ("main does not reach DR (one way)", Loss::CutOneWay(MAIN, DR)),
    ("DR does not reach main (one way)", Loss::CutOneWay(DR, MAIN)),
    ("main cut off for 30 s, then back", Loss::Pause(MAIN)),
    ("main and witness killed", Loss::Kill(&[1, 2, WITNESS])),
    ("disk hangs at the leader", Loss::Hang(&[1])),
    ("disks hang at DR", Loss::Hang(DR)),
    ("disk full at the leader", Loss::Fill(1)),
    ("disk full at the other node of main", Loss::Fill(2)),
    ("disk full at a node of DR", Loss::Fill(3)),
    ("disk full at the witness", Loss::Fill(WITNESS)),
];

impl Loss {
    /// Whether writes go on by themselves.
    fn goes_on(self, protected: bool) -> bool {
        match self {
            Loss::Kill(&[1, 2, WITNESS]) => false,
            // Under maximum protection nothing is acknowledged that the other site lacks.
            Loss::Kill(MAIN | DR) | Loss::Cut(MAIN, DR) | Loss::CutOneWay(..) | Loss::Pause(_) | Loss::Hang(DR) => {
                !protected
            }
            _ => true,
        }
    }

    async fn strike(self, cluster: &mut Cluster) {
        match self {
            Loss::Kill(nodes) => {
                for node in nodes {
                    cluster.kill(*node).await;
                }
            }
            Loss::Cut(one, other) => cluster.part(one, other),
            Loss::CutOneWay(from, to) => {
                from.iter().for_each(|from| to.iter().for_each(|to| cluster.network.cut(*from, *to)));
            }
            Loss::Pause(nodes) => {
                let others: Vec<u64> = cluster.ids().into_iter().filter(|id| !nodes.contains(id)).collect();
                cluster.part(nodes, &others);
            }
            Loss::Hang(nodes) => nodes.iter().for_each(|node| cluster.hang_log(*node)),
            Loss::Fill(node) => cluster.disk(node).fill(MARK / 2),
        }
    }

    /// What was lost is back.
    async fn mend(self, sites: &mut Sites) {
        if let Loss::Pause(_) = self {
            tokio::time::sleep(Duration::from_secs(30).saturating_sub(AFTER)).await;
        }
        sites.mend_all(&mut Vec::new()).await;
        sites.cluster.start_all().await;
    }
}

/// What one run gave: the longest gaps in milliseconds, none where nothing came back by itself.
#[derive(Clone, Copy, Debug)]
struct Cell {
    write_gap_ms: Option<u64>,
    read_gap_ms: Option<u64>,
}

async fn measure(loss: Loss, round_trip: Duration, protected: bool) -> Cell {
    let mut sites = Sites::with_witness();
    sites.cluster.timing = if round_trip > Duration::from_millis(5) { Timing::WAN } else { Timing::LAN };
    sites.cluster.min_free_bytes = MARK;
    sites.be_apart(round_trip);
    sites.cluster.init().await;
    have_lead(&sites.cluster, 1).await;
    if protected {
        set(&sites.cluster, 1, maximum(1)).await.expect("both sites are there");
    }
    until_state(&sites.cluster, State::Synchronized, PATIENCE).await;
    let load = Load::begin(&sites.cluster);
    tokio::time::sleep(BEFORE).await;
    let struck = Instant::now();
    loss.strike(&mut sites.cluster).await;
    tokio::time::sleep(AFTER).await;
    let until = Instant::now();
    load.stop();
    let cell = Cell { write_gap_ms: load.write_gap_ms(struck, until), read_gap_ms: load.read_gap_ms(struck, until) };
    // What was acknowledged at any time is there, first at those that are left, then everywhere.
    if cell.read_gap_ms.is_some() {
        load.check(&sites.cluster, false).await;
    }
    loss.mend(&mut sites).await;
    load.check(&sites.cluster, true).await;
    cell
}

/// Runs a cell; prints `p50 / p99` of both gaps.
fn cell(name: &str, loss: Loss, round_trip_ms: u64, protected: bool, limit_ms: u64) -> String {
    let cells = of_seeds("table", RUNS, async |_| {
        let cell = measure(loss, Duration::from_millis(round_trip_ms), protected).await;
        let went_on = cell.write_gap_ms.is_some();
        assert_eq!(went_on, loss.goes_on(protected), "{name}, {round_trip_ms} ms, protected {protected}: {cell:?}");
        for gap in [cell.write_gap_ms, cell.read_gap_ms].into_iter().flatten() {
            assert!(gap <= limit_ms, "{name}, {round_trip_ms} ms: {cell:?}, {limit_ms}");
        }
        cell
    });
    let show = |of: fn(&Cell) -> Option<u64>| {
        let mut gaps: Vec<u64> = cells.iter().filter_map(of).collect();
        gaps.sort_unstable();
        match gaps.len() == cells.len() {
            true => format!("{} / {}", percentile(&gaps, 50), percentile(&gaps, 99)),
            false => "stop".to_owned(),
        }
    };
    format!("{} · {}", show(|cell| cell.write_gap_ms), show(|cell| cell.read_gap_ms))
}

/// The longest write gaps allowed: a site loss within the aims, and twice an election more where the witness alone may
/// hold the newest entries.
fn limits(round_trip_ms: u64) -> u64 {
    let (aim, timing) = if round_trip_ms > 5 { (3_000, Timing::WAN) } else { (1_500, Timing::LAN) };
    aim + 2 * timing.election_max_ms
}

#[test]
fn a_loss_costs_no_acknowledged_write_and_no_more_time_than_is_aimed_at() {
    println!("| lost | lan, 1 ms | wan, 20 ms | wan, 40 ms | maximum protection, 1 ms |");
    println!("|---|---|---|---|---|");
    let wan = number("SAOLA_SEEDS").or(number("SAOLA_SEED")).is_some();
    for (name, loss) in ROWS {
        let at = |round_trip_ms, protected| cell(name, loss, round_trip_ms, protected, limits(round_trip_ms));
        let lan = at(1, false);
        let (twenty, forty) = if wan { (at(20, false), at(40, false)) } else { Default::default() };
        println!("| {name} | {lan} | {twenty} | {forty} | {} |", at(1, true));
    }
}

//! What each loss costs, over 2+2+w under load: the longest time without an acknowledgement and without a linearizable
//! read anywhere, what of the acknowledged is lost (nothing), and whether it ends by itself.
//!
//! `SAOLA_SEEDS=20 cargo test -p saola-jepsen --test it scenarios::table -- --nocapture` prints the table of
//! `ops/README.md`: times are virtual, from the timers and the emulated round trips alone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use saola_jepsen::sim::records::{history_at, put, value_of};
use saola_jepsen::sim::{Cluster, PATIENCE};
use saola_raft::protection::State;
use saola_raft::sim::spawn_on;
use saola_raft::{Replica, Timing, sim::SimRuntime};
use saola_storage::command::Decision;
use tokio::time::Instant;

use super::sites::{MARK, Sites, maximum, set, until_state};
use super::{have_lead, number, of_seeds};

/// Cells are measured over so many runs each, unless `SAOLA_SEEDS` asks for another number.
const RUNS: u64 = 2;
/// A client's call, and its pause before the next.
const CALL: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(15);
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

/// What clients of one node saw.
#[derive(Default)]
struct Saw {
    writes: Vec<Instant>,
    reads: Vec<Instant>,
    /// Record and generation, and the value.
    acked: BTreeMap<(u64, u64), u64>,
}

/// Writes and reads through one node, one call after the other, until the node ends or it is told to stop.
fn clients(replica: &Replica<SimRuntime>, node: u64, saw: &Arc<Mutex<Saw>>, stop: &Arc<Mutex<bool>>) {
    let (writer, seen, stops) = (replica.clone(), saw.clone(), stop.clone());
    spawn_on(node, async move {
        for sequence in 1.. {
            if *stops.lock() {
                return;
            }
            if let Ok(outcome) = writer.propose(put(node, sequence, node, 0), CALL).await
                && let Some(Decision::Written(written)) = outcome.decision
            {
                let mut saw = seen.lock();
                saw.writes.push(Instant::now());
                saw.acked.insert((node, written.generation), value_of(node, sequence));
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
    let (reader, seen, stops) = (replica.clone(), saw.clone(), stop.clone());
    spawn_on(node, async move {
        while !*stops.lock() {
            if reader.read_point(CALL).await.is_ok() {
                seen.lock().reads.push(Instant::now());
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
}

/// The longest time without any of these between two moments; none: there was nothing more behind the second half.
fn gap(mut times: Vec<Instant>, from: Instant, to: Instant) -> Option<Duration> {
    times.retain(|at| *at >= from && *at <= to);
    times.sort_unstable();
    let last = *times.last()?;
    let longest =
        [from].into_iter().chain(times.iter().copied()).zip(times.iter().copied()).map(|(a, b)| b - a).max()?;
    (to - last < Duration::from_secs(1)).then_some(longest)
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
    let (saw, stop) = (Arc::new(Mutex::new(Saw::default())), Arc::new(Mutex::new(false)));
    for node in 1..=4 {
        clients(&sites.cluster.replica(node).expect("all run"), node, &saw, &stop);
    }
    tokio::time::sleep(BEFORE).await;
    let struck = Instant::now();
    loss.strike(&mut sites.cluster).await;
    tokio::time::sleep(AFTER).await;
    let until = Instant::now();
    *stop.lock() = true;
    let cell = {
        let saw = saw.lock();
        let ms = |gap: Option<Duration>| gap.map(|gap| gap.as_millis() as u64);
        Cell {
            write_gap_ms: ms(gap(saw.writes.clone(), struck, until)),
            read_gap_ms: ms(gap(saw.reads.clone(), struck, until)),
        }
    };
    // What was acknowledged at any time is there, first at those that are left, then everywhere.
    if cell.read_gap_ms.is_some() {
        check(&sites.cluster, &saw, false).await;
    }
    loss.mend(&mut sites).await;
    check(&sites.cluster, &saw, true).await;
    cell
}

/// Every acknowledged write is read at every data node, or at some.
async fn check(cluster: &Cluster, saw: &Arc<Mutex<Saw>>, everywhere: bool) {
    let mut read = 0;
    for node in cluster.running() {
        let replica = cluster.replica(node).expect("it runs");
        let patience = if everywhere { PATIENCE } else { CALL };
        // A read need not show what is acknowledged only after it began.
        let acked = saw.lock().acked.clone();
        let Ok(point) = replica.read_point(patience).await else {
            assert!(!everywhere, "node {node} serves no reads");
            continue;
        };
        read += 1;
        let histories: BTreeMap<u64, _> =
            (1..=4).map(|record| (record, history_at(&replica, record, &point))).collect();
        for ((record, generation), value) in &acked {
            assert_eq!(histories[record].get(generation), Some(value), "node {node}: r{record} {generation} is lost");
        }
    }
    assert!(read > 0, "some node serves reads");
}

fn percentile(sorted: &[u64], percent: usize) -> u64 {
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

/// Runs a cell; prints `p50 / p99` of both gaps.
fn cell(name: &str, loss: Loss, round_trip_ms: u64, protected: bool, limit_ms: u64) -> String {
    let cells = of_seeds("table", RUNS, async |_| {
        let cell = measure(loss, Duration::from_millis(round_trip_ms), protected).await;
        let went_on = cell.write_gap_ms.is_some();
        assert_eq!(went_on, loss.goes_on(protected), "{name}, {round_trip_ms} ms, protected {protected}: {cell:?}");
        assert!(
            cell.write_gap_ms.is_none_or(|gap| gap <= limit_ms),
            "{name}, {round_trip_ms} ms: {cell:?}, {limit_ms}"
        );
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

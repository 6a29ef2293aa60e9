//! What a write and a linearizable read cost at the leader while the sites protect each other: one round each.
//!
//! `cargo test -p saola-jepsen --test it scenarios::latency -- --nocapture` prints the medians. Times are virtual, in
//! whole milliseconds: a message takes 1 to 3 ms beyond the emulated distance, a sync 1 to 5 ms, code nothing.

use std::time::Duration;

use saola_jepsen::sim::{CALL, PATIENCE};
use saola_raft::Timing;
use saola_raft::protection::State;
use saola_raft::sim::spawn_on;
use tokio::time::Instant;

use super::sites::{Sites, until_state};
use super::{of_seeds, status};

/// Clusters per distance, unless `SAOLA_SEEDS` asks for another number, and calls in each.
const RUNS: u64 = 3;
const CALLS: u64 = 60;
/// What a message and its answer take on the average beyond the distance, and a sync.
const MESSAGES_US: u64 = 3_500;
const SYNC_US: u64 = 3_000;

/// What so many of ten calls do not exceed, microseconds.
fn tenths(times: &mut [Duration], tenths: usize) -> u64 {
    times.sort_unstable();
    times[times.len() * tenths / 10].as_micros() as u64
}

/// Medians of a write and of a read at the leader, and what nine of ten reads do not exceed; microseconds.
async fn measure(round_trip: Duration) -> [u64; 3] {
    let mut sites = Sites::with_witness();
    sites.cluster.timing = if round_trip > Duration::from_millis(5) { Timing::WAN } else { Timing::LAN };
    sites.be_apart(round_trip);
    let mut clerk = sites.begin().await;
    until_state(&sites.cluster, State::Synchronized, PATIENCE).await;
    let (mut writes, mut reads) = (Vec::new(), Vec::new());
    for call in 0..CALLS {
        let began = Instant::now();
        clerk.put(&sites.cluster, 1, call % 3).await.expect("nothing is lost here");
        writes.push(began.elapsed());
    }
    for call in 0..2 * CALLS {
        // Back to back, and then with pauses, so that some meet a heartbeat under way.
        if call >= CALLS {
            tokio::time::sleep(Duration::from_millis(call * 17 % 100)).await;
        }
        let leader = sites.cluster.replica(1).expect("it runs");
        let began = Instant::now();
        let read = spawn_on(1, async move { leader.read_point(CALL).await });
        read.await.expect("nobody crashes").expect("nothing is lost here");
        reads.push(began.elapsed());
    }
    assert_eq!(status(&sites.cluster, 1).state, "leader", "the plot needs a leader at main");
    [tenths(&mut writes, 5), tenths(&mut reads, 5), tenths(&mut reads, 9)]
}

#[test]
fn a_write_takes_one_round_to_the_other_site_and_a_sync_there_and_a_read_one_round_to_a_quorum() {
    println!("| between the sites | write, median | read, median | read, p90 |");
    println!("|---|---|---|---|");
    for round_trip_ms in [1, 20, 40] {
        let medians = of_seeds("latency", RUNS, async |_| measure(Duration::from_millis(round_trip_ms)).await);
        let [write_us, read_us, most_reads_us] =
            [0, 1, 2].map(|which| medians.iter().map(|run| run[which]).max().unwrap_or(0));
        let [write, read, most_reads] = [write_us, read_us, most_reads_us].map(|us| us as f64 / 1e3);
        println!("| {round_trip_ms} ms | {write:.1} ms | {read:.1} ms | {most_reads:.1} ms |");
        let round_us = round_trip_ms * 1_000 + MESSAGES_US;
        assert!(write_us.min(read_us) >= round_trip_ms * 1_000, "{round_trip_ms} ms: the sites are not apart");
        assert!(write_us <= round_us + SYNC_US + 2_000, "{round_trip_ms} ms: a write takes {write_us} us");
        assert!(read_us <= round_us + 1_000, "{round_trip_ms} ms: a read takes {read_us} us");
        // Not two rounds, when a heartbeat is under way.
        assert!(most_reads_us <= round_us + 2_500, "{round_trip_ms} ms: one read of ten takes {most_reads_us} us");
    }
}

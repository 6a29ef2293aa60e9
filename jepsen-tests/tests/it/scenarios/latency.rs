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

fn median(mut times: Vec<Duration>) -> u64 {
    times.sort_unstable();
    times[times.len() / 2].as_micros() as u64
}

/// Medians of a write and of a read at the leader, microseconds.
async fn measure(round_trip: Duration) -> (u64, u64) {
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
    for _ in 0..CALLS {
        let leader = sites.cluster.replica(1).expect("it runs");
        let began = Instant::now();
        let read = spawn_on(1, async move { leader.read_point(CALL).await });
        read.await.expect("nobody crashes").expect("nothing is lost here");
        reads.push(began.elapsed());
    }
    assert_eq!(status(&sites.cluster, 1).state, "leader", "the plot needs a leader at main");
    (median(writes), median(reads))
}

#[test]
fn a_write_takes_one_round_to_the_other_site_and_a_sync_there_and_a_read_one_round_to_a_quorum() {
    println!("| between the sites | write, median | read, median |");
    println!("|---|---|---|");
    for round_trip_ms in [1, 20, 40] {
        let medians = of_seeds("latency", RUNS, async |_| measure(Duration::from_millis(round_trip_ms)).await);
        let (write_us, read_us) = medians.iter().fold((0, 0), |most, it| (most.0.max(it.0), most.1.max(it.1)));
        println!("| {round_trip_ms} ms | {:.1} ms | {:.1} ms |", write_us as f64 / 1e3, read_us as f64 / 1e3);
        let round_us = round_trip_ms * 1_000 + MESSAGES_US;
        assert!(write_us.min(read_us) >= round_trip_ms * 1_000, "{round_trip_ms} ms: the sites are not apart");
        assert!(write_us <= round_us + SYNC_US + 2_000, "{round_trip_ms} ms: a write takes {write_us} us");
        assert!(read_us <= round_us + 1_000, "{round_trip_ms} ms: a read takes {read_us} us");
    }
}

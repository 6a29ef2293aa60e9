//! Leadership goes to the other site on purpose, and back.
//!
//! `SAOLA_SEEDS=20 cargo test -p saola-jepsen --test it scenarios::switchover -- --nocapture` prints the pauses: times are
//! virtual.

use std::time::Duration;

use saola_jepsen::sim::PATIENCE;
use saola_raft::Timing;
use saola_raft::protection::State;
use tokio::time::Instant;

use super::load::{Load, percentile};
use super::sites::{Sites, maximum, set, until_state};
use super::{SEEDS, have_lead, leader, leads, of_seeds, on, pick, status, under_seeds};

/// Before a switchover, and after it.
const AROUND: Duration = Duration::from_millis(700);
/// The longest pause that is aimed at.
const LONGEST_MS: u64 = 500;

/// There and back under load; answers the pauses of writes and of reads, milliseconds.
async fn there_and_back(sites: &mut Sites, round_trip: Duration) -> Vec<(u64, u64)> {
    sites.cluster.timing = if round_trip > Duration::from_millis(5) { Timing::WAN } else { Timing::LAN };
    sites.be_apart(round_trip);
    sites.begin().await;
    until_state(&sites.cluster, State::Synchronized, PATIENCE).await;
    let load = Load::begin(&sites.cluster);
    let (mut pauses, data) = (Vec::new(), [&sites.main[..], &sites.dr[..]].concat());
    for site in ["dr", "main"] {
        tokio::time::sleep(AROUND).await;
        let begun = Instant::now();
        let through = pick(&data);
        let to = on(&sites.cluster, through, move |replica| async move { replica.transfer_to_site(site).await }).await;
        let there = if site == "dr" { &sites.dr } else { &sites.main };
        assert!(there.contains(&to.expect("both sites are well")), "it goes to {site}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        tokio::time::sleep(AROUND).await;
        let gap = |gap: Option<u64>| gap.expect("the load goes on");
        let until = Instant::now();
        pauses.push((gap(load.write_gap_ms(begun, until)), gap(load.read_gap_ms(begun, until))));
        until_state(&sites.cluster, State::Synchronized, PATIENCE).await;
    }
    load.stop();
    assert_eq!(load.unknown(), [""; 0], "every write under way has its outcome before leadership goes");
    load.check(&sites.cluster, true).await;
    pauses
}

#[test]
fn a_switchover_and_back_under_load_loses_nothing_and_leaves_no_write_in_doubt() {
    println!("| between the sites | writes pause, p50 / p99 | reads pause, p50 / p99 |");
    println!("|---|---|---|");
    for round_trip_ms in [1, 20, 40] {
        let name = "switchover::a_switchover_and_back_under_load_loses_nothing_and_leaves_no_write_in_doubt";
        let runs = of_seeds(name, SEEDS / 2, async |seed| {
            let mut sites = if seed % 2 == 0 { Sites::with_witness() } else { Sites::large_with_witness() };
            there_and_back(&mut sites, Duration::from_millis(round_trip_ms)).await
        });
        let (mut writes, mut reads): (Vec<u64>, Vec<u64>) = runs.into_iter().flatten().unzip();
        writes.sort_unstable();
        reads.sort_unstable();
        let shown = |sorted: &[u64]| format!("{} / {}", percentile(sorted, 50), percentile(sorted, 99));
        println!("| {round_trip_ms} ms | {} | {} |", shown(&writes), shown(&reads));
        let longest = writes.last().max(reads.last()).copied();
        assert!(longest.is_some_and(|ms| ms <= LONGEST_MS), "{round_trip_ms} ms: {longest:?}");
    }
}

#[test]
fn a_switchover_that_cannot_settle_the_writes_leaves_leadership_where_it_is() {
    under_seeds("switchover::a_switchover_that_cannot_settle_the_writes_leaves_leadership_where_it_is", async |seed| {
        let mut sites = Sites::with_witness();
        let mut clerk = sites.begin().await;
        set(&sites.cluster, 1, maximum(2)).await.expect("both nodes of the other site are there");
        until_state(&sites.cluster, State::Synchronized, PATIENCE).await;
        // One of two that must acknowledge does not: what is written waits for it.
        let (lost, other) = if seed % 2 == 0 { (3, 4) } else { (4, 3) };
        sites.cluster.network.cut(1, lost);
        sites.cluster.network.cut(lost, 1);
        clerk.put(&sites.cluster, 2, 0).await.expect_err("it waits");
        let begun = Instant::now();
        let asked = on(&sites.cluster, other, |replica| async move { replica.transfer_to_site("dr").await }).await;
        let said = asked.expect_err("a write is not settled").to_string();
        assert!(said.contains("the writes under way were not settled"), "{said}");
        assert!(begun.elapsed() < Duration::from_secs(5) + AROUND, "{:?}", begun.elapsed());
        assert_eq!(leader(&sites.cluster).await, 1);
        let led_from = status(&sites.cluster, 1).failover.map(|it| it.replicated.led_from);
        assert_eq!(led_from.as_deref(), Some("main"), "nobody takes what did not happen for a move");
        // Writes go on where they can.
        set(&sites.cluster, 1, maximum(1)).await.expect("one node of the other site is there");
        clerk.again_surely(&sites.cluster, &[1, 2], PATIENCE).await;
        sites.cluster.network.heal();
        clerk.put_surely(&sites.cluster, &[1, 2, 3, 4], 1, PATIENCE).await;
        have_lead(&sites.cluster, 3).await;
        assert!(leads(&sites.cluster, 3) && status(&sites.cluster, 3).state == "leader");
    });
}

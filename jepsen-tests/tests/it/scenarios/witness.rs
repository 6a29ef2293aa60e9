//! 2+2+w: the main site is lost while the witness alone holds the newest acknowledged entries; what a witness may forget.

use std::time::Duration;

use saola_jepsen::sim::{CALL, Clerk, Cluster, PATIENCE, records};
use saola_raft::protection::State;
use saola_raft::sim::spawn_on;
use saola_raft::{ProposeError, ReadError, Role};
use tokio::time::Instant;

use super::sites::{Sites, until_state};
use super::{have_lead, leads, pick, replicas_are_equal, status, under_seeds, until};

const WITNESS: u64 = 5;
const NEWCOMER: u64 = 6;
/// From the loss of the main site to the first write acknowledged at the other one.
const GAP: Duration = Duration::from_secs(2);

/// The witness says no to clients, whatever it is doing.
async fn refuses_clients(cluster: &Cluster) {
    let witness = cluster.replica(WITNESS).expect("the witness runs");
    let put = witness.propose(records::put(90, 1, 0, 0), CALL).await;
    assert!(matches!(put, Err(ProposeError::Refused(_))), "{put:?}");
    let read = witness.read_point(CALL).await;
    assert!(matches!(read, Err(ReadError::WitnessNode)), "{read:?}");
    assert_eq!(witness.store().view().counts().versions, 0, "a witness keeps no records");
}

/// How the main site is lost.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Power,
    Killed,
    CutOff,
    /// With it goes a node that was about to join there and has no vote yet.
    KilledWithNewcomer,
}

async fn main_site_is_lost(loss: Loss) -> Duration {
    let mut cluster = Cluster::two_sites();
    cluster.init().await;
    have_lead(&cluster, 1).await;
    let mut clerk = Clerk::new(1);
    clerk.put(&cluster, 1, 0).await.expect("a quiet cluster takes writes");
    if let Loss::KilledWithNewcomer = loss {
        let member = cluster.add(NEWCOMER, "main", Role::Voter);
        cluster.start(NEWCOMER).await;
        let leader = cluster.replica(1).expect("it leads");
        let adding = spawn_on(1, async move { leader.add_member(member).await });
        let joins = || status(&cluster, 1).members.iter().any(|member| member.node_id == NEWCOMER);
        until("the newcomer joins", PATIENCE, joins).await;
        cluster.crash(NEWCOMER).await;
        adding.abort();
        let has_vote = status(&cluster, 1).voter_sets.iter().any(|set| set.contains(&NEWCOMER));
        assert!(!has_vote, "the plot needs a newcomer without a vote");
    }
    // From now on the other site hears nothing from main: a quorum is main and the witness.
    for dr in [3, 4] {
        cluster.network.cut(1, dr);
        cluster.network.cut(2, dr);
    }
    for record in 0..6 {
        clerk.put_surely(&cluster, &[1, 2], record % 3, PATIENCE).await;
    }
    let end = |id| cluster.log(id).and_then(|log| log.last);
    assert!(end(WITNESS) > end(3).max(end(4)), "the plot needs a witness that is ahead");
    let lost_at = Instant::now();
    match loss {
        Loss::Power => {
            cluster.crash(1).await;
            cluster.crash(2).await;
        }
        Loss::Killed | Loss::KilledWithNewcomer => {
            cluster.kill(1).await;
            cluster.kill(2).await;
        }
        Loss::CutOff => cluster.part(&[1, 2], &[3, 4, WITNESS]),
    }
    let dr_leads = || leads(&cluster, 3) || leads(&cluster, 4);
    let mut witness_led = false;
    while !dr_leads() {
        assert!(lost_at.elapsed() < GAP, "no data node leads {GAP:?} after the loss of main ({loss:?})");
        witness_led |= leads(&cluster, WITNESS);
        refuses_clients(&cluster).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    clerk.put_surely(&cluster, &[3, 4], 0, GAP).await;
    let gap = lost_at.elapsed();
    assert!(witness_led, "nobody but the witness could win");
    assert!(!leads(&cluster, WITNESS));
    for dr in [3, 4] {
        clerk.check(&cluster, dr).await;
    }
    cluster.network.heal();
    cluster.start_all().await;
    for node in cluster.running() {
        clerk.check(&cluster, node).await;
    }
    refuses_clients(&cluster).await;
    replicas_are_equal(&cluster).await;
    gap
}

fn over_seeds(name: &str, loss: Loss) {
    let longest = std::cell::Cell::new(Duration::ZERO);
    under_seeds(name, async |_| {
        let gap = main_site_is_lost(loss).await;
        assert!(gap < GAP, "{gap:?} without an acknowledgement");
        longest.set(longest.get().max(gap));
    });
    println!("{name}: at most {:?} without an acknowledgement", longest.get());
}

#[test]
fn entry_that_only_the_witness_has_outlives_a_main_site_without_power() {
    over_seeds("witness::entry_that_only_the_witness_has_outlives_a_main_site_without_power", Loss::Power);
}

#[test]
fn entry_that_only_the_witness_has_outlives_a_killed_main_site() {
    over_seeds("witness::entry_that_only_the_witness_has_outlives_a_killed_main_site", Loss::Killed);
}

#[test]
fn entry_that_only_the_witness_has_outlives_a_main_site_cut_off() {
    over_seeds("witness::entry_that_only_the_witness_has_outlives_a_main_site_cut_off", Loss::CutOff);
}

#[test]
fn entry_that_only_the_witness_has_outlives_a_main_site_that_a_new_node_was_about_to_join() {
    over_seeds(
        "witness::entry_that_only_the_witness_has_outlives_a_main_site_that_a_new_node_was_about_to_join",
        Loss::KilledWithNewcomer,
    );
}

#[test]
fn witness_crash_stops_nothing_and_it_comes_back_with_the_log() {
    under_seeds("witness::witness_crash_stops_nothing_and_it_comes_back_with_the_log", async |_| {
        let mut cluster = Cluster::two_sites();
        cluster.init().await;
        let mut clerk = Clerk::new(1);
        for round in 0..3 {
            cluster.crash(WITNESS).await;
            clerk.put_surely(&cluster, &[1, 2, 3, 4], round, PATIENCE).await;
            cluster.start(WITNESS).await;
            let end = || cluster.log(1).map(|log| log.last);
            until("the witness has the log again", PATIENCE, || cluster.log(WITNESS).map(|log| log.last) == end())
                .await;
        }
        refuses_clients(&cluster).await;
    });
}

#[test]
fn a_witness_is_not_replaced_while_it_may_be_the_only_one_that_has_what_was_acknowledged() {
    under_seeds(
        "witness::a_witness_is_not_replaced_while_it_may_be_the_only_one_that_has_what_was_acknowledged",
        async |_| {
            let mut sites = Sites::with_witness();
            let mut clerk = sites.begin().await;
            until_state(&sites.cluster, State::Synchronized, PATIENCE).await;
            sites.part_from_main();
            clerk.put_surely(&sites.cluster, &sites.main, 0, PATIENCE).await;
            until_state(&sites.cluster, State::Unsynchronized, PATIENCE).await;
            let member = sites.cluster.add(NEWCOMER, "third", Role::Witness);
            sites.cluster.start(NEWCOMER).await;
            let replace = async |cluster: &Cluster| {
                let member = member.clone();
                super::on(cluster, 1, move |lead| async move { lead.replace_member(WITNESS, member).await }).await
            };
            let refused = replace(&sites.cluster).await.expect_err("DR lacks a write").to_string();
            assert!(refused.contains("wait until they do (saola why)"), "{refused}");
            let refused = super::remove(&sites.cluster, 1, WITNESS).await.expect_err("the same").to_string();
            assert!(refused.contains("may be the only one outside this site"), "{refused}");
            sites.cluster.network.heal();
            until_state(&sites.cluster, State::Synchronized, Duration::from_secs(60)).await;
            replace(&sites.cluster).await.expect("the sites protect each other");
            for node in sites.main.clone() {
                sites.cluster.crash(node).await;
            }
            clerk.put_surely(&sites.cluster, &sites.dr, 0, PATIENCE).await;
            clerk.check(&sites.cluster, sites.dr[0]).await;
        },
    );
}

const KEEP_ENTRIES: u64 = 10;
/// Two rounds of flushing and purging.
const PURGED: Duration = Duration::from_secs(70);

fn purged(cluster: &Cluster, id: u64) -> u64 {
    cluster.log(id).and_then(|log| log.last_purged).map_or(0, |last| last.index)
}

fn says_released(cluster: &Cluster) -> bool {
    let leading = cluster.running().into_iter().filter(|id| leads(cluster, *id)).map(|id| status(cluster, id));
    let seen = leading.filter_map(|it| it.protection?.seen).next_back();
    seen.is_some_and(|seen| seen.is_released)
}

#[test]
fn the_witness_forgets_nothing_that_a_data_node_lacks_until_its_room_ends_and_that_is_said_first() {
    under_seeds(
        "witness::the_witness_forgets_nothing_that_a_data_node_lacks_until_its_room_ends_and_that_is_said_first",
        async |_| {
            let mut cluster = Cluster::two_sites();
            cluster.keep_entries = KEEP_ENTRIES;
            cluster.init().await;
            let mut clerk = Clerk::new(1);
            for record in 0..60 {
                clerk.put_surely(&cluster, &[1, 2], record, PATIENCE).await;
            }
            until("the witness forgets what all have flushed", 3 * PURGED, || purged(&cluster, WITNESS) > 0).await;
            for id in cluster.ids() {
                let last = cluster.log(id).and_then(|log| log.last).expect("entries were written").index;
                assert!(purged(&cluster, id) <= last - KEEP_ENTRIES, "node {id} purged recent entries");
            }

            // A data node goes away for long, and the leader too: the witness keeps all that it lacks.
            let flushed = cluster.replica(4).and_then(|it| it.store().flushed()).expect("it was flushed").index;
            cluster.crash(4).await;
            for record in 0..60 {
                clerk.put_surely(&cluster, &[1, 2], record, PATIENCE).await;
            }
            have_lead(&cluster, pick(&[1, 2, 3])).await;
            tokio::time::sleep(2 * PURGED).await;
            assert!(purged(&cluster, WITNESS) <= flushed, "{} of {flushed}", purged(&cluster, WITNESS));
            assert!(!says_released(&cluster));

            // Its room ends: that is an entry first, and the leader says so until nobody lacks anything.
            cluster.kill(WITNESS).await;
            cluster.log_keep_bytes = 4 << 10;
            cluster.start(WITNESS).await;
            until("the leader says so", 2 * PURGED, || {
                let lead = cluster.running().into_iter().find(|id| leads(&cluster, *id));
                let said = lead.and_then(|id| cluster.replica(id)).map_or(0, |it| it.store().released_next());
                assert!(purged(&cluster, WITNESS) <= flushed.max(said), "it has forgotten what it vouches for");
                says_released(&cluster)
            })
            .await;
            until("it has room again", 2 * PURGED, || purged(&cluster, WITNESS) > flushed).await;
            cluster.start(4).await;
            clerk.check(&cluster, 4).await;
            until("it vouches for everything again", 4 * PURGED, || !says_released(&cluster)).await;
            replicas_are_equal(&cluster).await;
        },
    );
}

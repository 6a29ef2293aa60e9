//! Maximum availability, the default: acknowledgements wait for the other site, and go on without it when it is silent.

use std::time::Duration;

use saola_jepsen::sim::PATIENCE;
use saola_raft::protection::State;
use saola_raft::sim::random_u64;
use saola_raft::{ReplicaStatus, Timing};
use saola_storage::protection::{Protection, Timers};
use tokio::time::Instant;

use super::sites::{MARK, Sites, set, state, until_state};
use super::{leader, leads, pick, replicas_are_equal, status, under_seeds};

/// What a site that comes back needs at least, answering and then having everything.
const RETURN: Duration = Duration::from_secs(40);

const DEGRADE: Duration = Duration::from_millis(Timing::LAN.degrade_ms);

fn either(seed: u64) -> Sites {
    if seed.is_multiple_of(2) { Sites::with_witness() } else { Sites::with_learners() }
}

/// The replicated part: whether the gate is closed.
fn is_closed(status: &ReplicaStatus) -> bool {
    status.protection.as_ref().is_some_and(|protection| protection.replicated.is_closed())
}

/// A leader may say that all that is acknowledged is at the other site: then whatever any node shows is there.
fn what_leaders_say_is_true(sites: &Sites) {
    let cluster = &sites.cluster;
    let shown = cluster.running().into_iter().map(|id| status(cluster, id).frontier_index).max().unwrap_or(0);
    for id in cluster.running().into_iter().filter(|id| leads(cluster, *id)) {
        let said = status(cluster, id);
        let seen = said.protection.as_ref().and_then(|protection| protection.seen);
        if !seen.is_some_and(|seen| seen.is_in_force) {
            continue;
        }
        assert!(is_closed(&said), "an open gate protects nothing: {said:?}");
        let elsewhere = if sites.main.contains(&id) { &sites.dr } else { &sites.main };
        let stored = elsewhere.iter().map(|id| cluster.stored(*id)).max().unwrap_or(0);
        assert!(stored >= shown, "{stored} elsewhere, {shown} shown by some node: {seen:?}");
    }
}

#[test]
fn a_new_cluster_is_synchronized_at_once_and_the_loss_of_its_main_site_needs_nobody() {
    under_seeds(
        "availability::a_new_cluster_is_synchronized_at_once_and_the_loss_of_its_main_site_needs_nobody",
        async |_| {
            let mut sites = Sites::with_witness();
            let mut clerk = sites.begin().await;
            until_state(&sites.cluster, State::Synchronized, Duration::from_secs(2)).await;
            for record in 0..pick(&[1, 5, 20]) {
                clerk.put_surely(&sites.cluster, &sites.main, record, PATIENCE).await;
            }
            for node in sites.main.clone() {
                sites.cluster.crash(node).await;
            }
            let gap = clerk.put_surely(&sites.cluster, &sites.dr, 0, Duration::from_secs(5)).await;
            assert!(gap >= Duration::from_millis(300), "nobody waited for the main site: {gap:?}");
            let lead = leader(&sites.cluster).await;
            assert!(!is_closed(&status(&sites.cluster, lead)), "the entry that opens the gate comes first");
            until_state(&sites.cluster, State::Unsynchronized, PATIENCE).await;
            for node in &sites.dr {
                clerk.check(&sites.cluster, *node).await;
            }
            sites.cluster.start_all().await;
            until_state(&sites.cluster, State::Synchronized, 2 * RETURN).await;
            // Now the other way round.
            for node in sites.dr.clone() {
                sites.cluster.crash(node).await;
            }
            clerk.put_surely(&sites.cluster, &sites.main, 0, Duration::from_secs(5)).await;
            sites.cluster.start_all().await;
            for node in sites.cluster.running() {
                clerk.check(&sites.cluster, node).await;
            }
            replicas_are_equal(&sites.cluster).await;
        },
    );
}

#[test]
fn writes_wait_for_a_silent_site_as_long_as_the_timer_says_and_then_go_on_without_it() {
    under_seeds(
        "availability::writes_wait_for_a_silent_site_as_long_as_the_timer_says_and_then_go_on_without_it",
        async |seed| {
            let mut sites = either(seed);
            let mut clerk = sites.begin().await;
            let cluster = &sites.cluster;
            until_state(cluster, State::Synchronized, Duration::from_secs(2)).await;
            clerk.put_surely(cluster, &sites.main, 0, PATIENCE).await;
            tokio::time::sleep(Duration::from_millis(random_u64() % 200)).await;
            let seen = status(cluster, 1).protection.and_then(|protection| protection.seen).expect("node 1 leads");
            let (cut, acknowledged) = (Instant::now(), Duration::from_millis(seen.acknowledged_ms));
            sites.part();
            clerk.put_surely(cluster, &sites.main, 0, PATIENCE).await;
            // What the leader says is as old as its last look, and in whole milliseconds.
            let waited = cut.elapsed() + acknowledged + Duration::from_millis(Timing::LAN.heartbeat_ms / 2 + 1);
            assert!(waited >= DEGRADE && waited < DEGRADE + Duration::from_secs(1), "{waited:?}");
            let begun = status(cluster, 1).protection.expect("a data node knows").replicated;
            assert!(!begun.is_closed() && begun.losses_us.len() == 1, "{begun:?}");
            // From now on it is not waited for.
            let quick = clerk.put_surely(cluster, &sites.main, 0, PATIENCE).await;
            assert!(quick < DEGRADE / 2, "{quick:?}");
            for node in &sites.main {
                clerk.check(cluster, *node).await;
            }
        },
    );
}

#[test]
fn a_site_that_comes_back_is_waited_for_only_once_it_has_answered_long_enough_and_has_everything() {
    under_seeds(
        "availability::a_site_that_comes_back_is_waited_for_only_once_it_has_answered_long_enough_and_has_everything",
        async |seed| {
            let mut sites = either(seed);
            let mut clerk = sites.begin().await;
            let cluster = &sites.cluster;
            until_state(cluster, State::Synchronized, Duration::from_secs(2)).await;
            sites.part();
            for record in 0..20 {
                clerk.put_surely(cluster, &sites.main, record, PATIENCE).await;
            }
            until_state(cluster, State::Unsynchronized, PATIENCE).await;
            cluster.network.heal();
            until_state(cluster, State::Resynchronizing, Duration::from_secs(35)).await;
            // It goes away once more: nobody waits for it, and its time begins anew.
            tokio::time::sleep(Duration::from_millis(random_u64() % 9_000)).await;
            sites.part();
            let quick = clerk.put_surely(cluster, &sites.main, 0, PATIENCE).await;
            assert!(quick < DEGRADE / 2, "{quick:?}");
            until_state(cluster, State::Unsynchronized, PATIENCE).await;
            cluster.network.heal();
            let took = until_state(cluster, State::Synchronized, 2 * RETURN).await;
            assert!(took >= RETURN - Duration::from_secs(1), "{took:?}");
            what_leaders_say_is_true(&sites);
            let stands = status(cluster, 1).protection.expect("a data node knows");
            // From its beginning to the first synchronization, and while the other site was away.
            let open_ms = stands.open_in_quarter_ms;
            assert!((40_000..200_000).contains(&open_ms), "{stands:?}");
            clerk.put_surely(cluster, &sites.main, 0, PATIENCE).await;
            for node in cluster.running() {
                clerk.check(cluster, node).await;
            }
        },
    );
}

#[test]
fn the_loss_of_a_leader_alone_opens_no_gate() {
    under_seeds("availability::the_loss_of_a_leader_alone_opens_no_gate", async |seed| {
        let mut sites = either(seed);
        let mut clerk = sites.begin().await;
        until_state(&sites.cluster, State::Synchronized, Duration::from_secs(2)).await;
        for _ in 0..3 {
            let lead = leader(&sites.cluster).await;
            sites.cluster.crash(lead).await;
            clerk.put_surely(&sites.cluster, &sites.cluster.running(), 0, PATIENCE).await;
            until_state(&sites.cluster, State::Synchronized, PATIENCE).await;
            sites.cluster.start(lead).await;
            clerk.put_surely(&sites.cluster, &sites.cluster.running(), 0, PATIENCE).await;
        }
        for id in sites.cluster.running() {
            let known = status(&sites.cluster, id).protection.expect("a data node knows").replicated;
            assert_eq!(known.losses_us, Vec::<u64>::new(), "node {id}");
        }
    });
}

#[test]
fn a_leader_that_lost_its_quorum_protects_nothing_although_the_other_site_answers_it() {
    under_seeds(
        "availability::a_leader_that_lost_its_quorum_protects_nothing_although_the_other_site_answers_it",
        async |_| {
            let mut sites = Sites::with_learners();
            let mut clerk = sites.begin().await;
            let cluster = &sites.cluster;
            until_state(cluster, State::Synchronized, Duration::from_secs(2)).await;
            clerk.put_surely(cluster, &sites.main, 0, PATIENCE).await;
            // Node 1 leads and reaches the other site; nodes 2 and 3 reach each other.
            cluster.part(&[2, 3], &[1, 4, 5]);
            clerk.put_surely(cluster, &[2, 3], 0, PATIENCE).await;
            for _ in 0..300 {
                what_leaders_say_is_true(&sites);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let old = status(cluster, 1);
            assert!(old.state != "leader" || old.protection.and_then(|it| it.seen).is_some_and(|it| !it.is_in_force));
            cluster.network.heal();
            until_state(cluster, State::Synchronized, 2 * RETURN).await;
            for node in cluster.running() {
                clerk.check(cluster, node).await;
            }
        },
    );
}

#[test]
fn a_shorter_timer_counts_only_once_the_other_site_knows_of_it() {
    under_seeds("availability::a_shorter_timer_counts_only_once_the_other_site_knows_of_it", async |seed| {
        let mut sites = either(seed);
        let mut clerk = sites.begin().await;
        let cluster = &sites.cluster;
        let within = |degrade_ms| {
            let timers = Timers { degrade_ms, ..Timers::default() };
            Protection { timers, ..Protection::default() }
        };
        set(cluster, 1, within(5_000)).await.expect("both sites are there");
        until_state(cluster, State::Synchronized, Duration::from_secs(2)).await;
        let cut = Instant::now();
        sites.part();
        let waits = set(cluster, 1, within(800)).await;
        assert!(waits.is_err(), "the other site does not know of it: {waits:?}");
        clerk.put_surely(cluster, &sites.main, 0, PATIENCE).await;
        let waited = cut.elapsed();
        assert!(waited >= Duration::from_millis(4_900) && waited < Duration::from_secs(7), "{waited:?}");
        cluster.network.heal();
        for node in &sites.main {
            clerk.check(cluster, *node).await;
        }
    });
}

#[test]
fn a_site_that_is_reached_and_stores_nothing_is_given_up_too() {
    under_seeds("availability::a_site_that_is_reached_and_stores_nothing_is_given_up_too", async |seed| {
        let mut sites = either(seed);
        let mut clerk = sites.begin().await;
        let cluster = &sites.cluster;
        until_state(cluster, State::Synchronized, Duration::from_secs(2)).await;
        for node in &sites.dr {
            cluster.hang_log(*node);
        }
        clerk.put_surely(cluster, &sites.main, 0, PATIENCE).await;
        until_state(cluster, State::Unsynchronized, PATIENCE).await;
        for record in 0..pick(&[1, 30]) {
            let quick = clerk.put_surely(cluster, &sites.main, record, PATIENCE).await;
            assert!(quick < DEGRADE / 2, "{quick:?}");
        }
        tokio::time::sleep(RETURN + Duration::from_secs(10)).await;
        assert_eq!(state(cluster), Some(State::Unsynchronized));
        for node in &sites.dr {
            cluster.release_log(*node);
        }
        until_state(cluster, State::Synchronized, 2 * RETURN).await;
        what_leaders_say_is_true(&sites);
        for node in cluster.running() {
            clerk.check(cluster, node).await;
        }
    });
}

#[test]
fn whatever_happens_between_the_sites_what_is_called_protected_survives_the_loss_of_one() {
    under_seeds(
        "availability::whatever_happens_between_the_sites_what_is_called_protected_survives_the_loss_of_one",
        async |seed| {
            let mut sites = either(seed);
            sites.cluster.min_free_bytes = MARK;
            let mut clerk = sites.begin().await;
            let mut down = Vec::new();
            for step in 0..40 {
                sites.trouble(&mut down).await;
                for record in 0..pick(&[0, 1, 4]) {
                    let through = pick(&sites.cluster.running());
                    let _unknown_if_refused = clerk.put(&sites.cluster, through, record).await;
                    what_leaders_say_is_true(&sites);
                }
                if step % 13 == 0 {
                    // Long enough for a site that is back to be waited for again.
                    tokio::time::sleep(RETURN + Duration::from_secs(5)).await;
                }
                tokio::time::sleep(Duration::from_millis(random_u64() % 700)).await;
                what_leaders_say_is_true(&sites);
            }
            sites.mend_all(&mut down).await;
            clerk.again_surely(&sites.cluster, &sites.main, PATIENCE).await;
            if seed.is_multiple_of(2) {
                // With a witness no acknowledged write is lost with a site, whatever the state.
                sites.one_is_lost_and_the_other_goes_on(&mut clerk).await;
            }
            until_state(&sites.cluster, State::Synchronized, Duration::from_secs(700)).await;
            clerk.put_surely(&sites.cluster, &sites.main, 0, PATIENCE).await;
            what_leaders_say_is_true(&sites);
            for node in sites.cluster.running() {
                clerk.check(&sites.cluster, node).await;
            }
            sites.settle().await;
            replicas_are_equal(&sites.cluster).await;
        },
    );
}

//! Leaders that hand over, stop, or lose their quorum.

use std::time::Duration;

use saola_jepsen::sim::{CALL, Clerk, Cluster, PATIENCE, records};
use saola_raft::Timing;
use saola_raft::sim::random_u64;

use super::sites::Sites;
use super::{have_lead, leader, leads, on, pick, replicas_are_equal, status, under_seeds};

/// From an orderly hand-over to the next acknowledgement.
const HANDED_OVER: Duration = Duration::from_secs(1);
/// From the silent loss of a leader to the next acknowledgement.
const LOST: Duration = Duration::from_secs(5);

#[test]
fn after_a_transfer_writes_go_on_at_once_and_nothing_is_lost() {
    under_seeds("leadership::after_a_transfer_writes_go_on_at_once_and_nothing_is_lost", async |_| {
        let mut cluster = Cluster::two_sites();
        cluster.init().await;
        let mut clerk = Clerk::new(1);
        for round in 0..5 {
            clerk.put_surely(&cluster, &[1, 2, 3, 4], round, PATIENCE).await;
            let from = leader(&cluster).await;
            let others: Vec<u64> = [1, 2, 3, 4].into_iter().filter(|id| *id != from).collect();
            let to = pick(&others);
            let asked = pick(&[1, 2, 3, 4]);
            // Through any node, with a write under way.
            let transfer = on(&cluster, asked, move |replica| async move { replica.transfer(to).await });
            let write = clerk.put_surely(&cluster, &[1, 2, 3, 4], round, HANDED_OVER);
            let (transferred, _) = futures::join!(transfer, write);
            transferred.unwrap();
            assert!(leads(&cluster, to));
            clerk.put_surely(&cluster, &[1, 2, 3, 4], round, HANDED_OVER).await;
        }
        for node in cluster.running() {
            clerk.check(&cluster, node).await;
        }
        let error = on(&cluster, 1, |replica| async move { replica.transfer(5).await }).await.unwrap_err();
        assert!(error.to_string().contains("only a voter that is a data node can lead"), "{error}");
    });
}

#[test]
fn a_new_leader_on_wide_links_does_not_search_for_what_its_followers_have() {
    under_seeds("leadership::a_new_leader_on_wide_links_does_not_search_for_what_its_followers_have", async |_| {
        let mut sites = Sites::with_witness();
        sites.cluster.timing = Timing::WAN;
        let mut clerk = sites.begin().await;
        for round in 0..600 {
            clerk.put_surely(&sites.cluster, &[1], round % 3, PATIENCE).await;
        }
        let round_trip = Duration::from_millis(40);
        sites.be_apart(round_trip);
        on(&sites.cluster, 1, |replica| async move { replica.transfer(3).await }).await.expect("it is well");
        // Its first entry and this write: a stream is opened, the log's end asked for, a stream opened anew, two entries sent,
        // and a message and a sync take a while beyond the distance. Halving 600 entries takes six questions more.
        let took = clerk.put_surely(&sites.cluster, &[3], 0, PATIENCE).await;
        assert!(took < 8 * round_trip, "the first write took {took:?}");
    });
}

#[test]
fn transfer_to_a_dead_voter_is_refused_at_once_and_changes_nothing() {
    under_seeds("leadership::transfer_to_a_dead_voter_is_refused_at_once_and_changes_nothing", async |seed| {
        let mut cluster = Cluster::new(5, false);
        cluster.init().await;
        let mut clerk = Clerk::new(1);
        clerk.put_surely(&cluster, &[1, 2, 3, 4, 5], 0, PATIENCE).await;
        let lead = leader(&cluster).await;
        let dead = lead % 5 + 1;
        let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != dead).collect();
        // Without writes nobody notices for a while; then its silence is noticed by its lag.
        if seed % 3 == 0 {
            cluster.part(&[dead], &others);
        } else {
            cluster.crash(dead).await;
        }
        if seed % 2 == 0 {
            clerk.put_surely(&cluster, &others, 0, PATIENCE).await;
        }
        let term = status(&cluster, lead).term;
        let asked = pick(&others);
        let transfer = on(&cluster, asked, move |replica| async move { replica.transfer(dead).await });
        let began = tokio::time::Instant::now();
        let writes = async {
            for round in 0..20 {
                let took = clerk.put_surely(&cluster, &others, round % 3, HANDED_OVER).await;
                assert!(took < Duration::from_millis(150), "a write waited {took:?}");
            }
        };
        let (refused, ()) = futures::join!(transfer, writes);
        let error = refused.unwrap_err();
        assert!(error.to_string().contains("does not answer"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert_eq!((leader(&cluster).await, status(&cluster, lead).term), (lead, term));
    });
}

#[test]
fn leader_that_is_shut_down_hands_over_to_one_that_is_alive() {
    under_seeds("leadership::leader_that_is_shut_down_hands_over_to_one_that_is_alive", async |_| {
        let mut cluster = Cluster::new(5, false);
        cluster.init().await;
        let mut clerk = Clerk::new(1);
        clerk.put_surely(&cluster, &[1, 2, 3, 4, 5], 0, PATIENCE).await;
        let lead = leader(&cluster).await;
        // It has everything when it dies, and no writes follow: it lacks nothing.
        tokio::time::sleep(Duration::from_millis(200)).await;
        cluster.crash(if lead == 5 { 4 } else { 5 }).await;
        cluster.stop(lead).await;
        let took = clerk.put_surely(&cluster, &cluster.running(), 0, HANDED_OVER).await;
        assert!(took < Duration::from_millis(150), "an election was waited for: {took:?}");
    });
}

#[test]
fn leader_that_is_shut_down_hands_over_first() {
    under_seeds("leadership::leader_that_is_shut_down_hands_over_first", async |_| {
        let mut cluster = Cluster::new(3, false);
        cluster.init().await;
        let mut clerk = Clerk::new(1);
        for round in 0..3 {
            clerk.put_surely(&cluster, &[1, 2, 3], round, PATIENCE).await;
            let from = leader(&cluster).await;
            cluster.stop(from).await;
            clerk.put_surely(&cluster, &cluster.running(), round, HANDED_OVER).await;
            cluster.start(from).await;
        }
        for node in cluster.running() {
            clerk.check(&cluster, node).await;
        }
    });
}

#[test]
fn leader_without_a_quorum_acknowledges_and_reads_nothing() {
    under_seeds("leadership::leader_without_a_quorum_acknowledges_and_reads_nothing", async |_| {
        let mut cluster = Cluster::new(5, false);
        cluster.init().await;
        let mut clerk = Clerk::new(1);
        clerk.put_surely(&cluster, &[1, 2, 3, 4, 5], 0, PATIENCE).await;
        let old = leader(&cluster).await;
        let companion = old % 5 + 1;
        let majority: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != old && *id != companion).collect();
        cluster.part(&[old, companion], &majority);
        let mut cut_off = Clerk::new(2);
        // At once: the old leader does not know yet. Its follower believes in it.
        for node in [old, companion] {
            assert!(cut_off.put(&cluster, node, 0).await.is_err(), "node {node} acknowledged without a quorum");
            let replica = cluster.replica(node).expect("it runs");
            assert!(replica.read_point(CALL).await.is_err(), "node {node} served a read without a quorum");
            let stale = replica.stale_point().expect("a stale read needs nobody");
            clerk.check_at(&cluster, node, &stale);
        }
        clerk.put_surely(&cluster, &majority, 0, LOST).await;
        for node in [old, companion] {
            let replica = cluster.replica(node).expect("it runs");
            assert!(cut_off.put(&cluster, node, 1).await.is_err());
            assert!(replica.read_point(CALL).await.is_err());
            let age = replica.stale_point().and_then(|point| point.age_ms).expect("it heard from a leader once");
            assert!(age >= CALL.as_millis() as u64, "{age} ms: a stale read states its age");
        }
        cluster.network.heal();
        for node in cluster.ids() {
            clerk.check(&cluster, node).await;
            cut_off.check(&cluster, node).await;
        }
        cut_off.put_surely(&cluster, &[old, companion], 0, PATIENCE).await;
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn leader_that_hears_nobody_or_reaches_nobody_is_replaced() {
    under_seeds("leadership::leader_that_hears_nobody_or_reaches_nobody_is_replaced", async |seed| {
        let mut cluster = Cluster::new(5, false);
        cluster.init().await;
        let mut clerk = Clerk::new(1);
        clerk.put_surely(&cluster, &[1, 2, 3, 4, 5], 0, PATIENCE).await;
        let old = leader(&cluster).await;
        let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != old).collect();
        for other in &others {
            let (from, to) = if seed % 2 == 0 { (*other, old) } else { (old, *other) };
            cluster.network.cut(from, to);
        }
        clerk.put_surely(&cluster, &others, 0, LOST).await;
        for node in &others {
            clerk.check(&cluster, *node).await;
        }
        cluster.network.heal();
        clerk.check(&cluster, old).await;
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn one_way_cut_of_a_follower_disturbs_nobody_for_long() {
    under_seeds("leadership::one_way_cut_of_a_follower_disturbs_nobody_for_long", async |seed| {
        let mut cluster = Cluster::two_sites();
        cluster.init().await;
        have_lead(&cluster, 1).await;
        let mut clerk = Clerk::new(1);
        let victim = pick(&[2, 3, 4, 5]);
        for other in cluster.ids().into_iter().filter(|id| *id != victim) {
            let (from, to) = if seed % 2 == 0 { (other, victim) } else { (victim, other) };
            cluster.network.cut(from, to);
        }
        let others: Vec<u64> = [1, 2, 3, 4].into_iter().filter(|id| *id != victim).collect();
        for round in 0..40 {
            clerk.put_surely(&cluster, &others, round % 3, LOST).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(leads(&cluster, 1), "a node that only hears or only speaks must not depose a leader");
        cluster.network.heal();
        for node in cluster.running() {
            clerk.check(&cluster, node).await;
        }
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn write_without_an_answer_takes_effect_once_when_repeated_after_a_leader_crash() {
    under_seeds(
        "leadership::write_without_an_answer_takes_effect_once_when_repeated_after_a_leader_crash",
        async |_| {
            let mut cluster = Cluster::new(3, false);
            cluster.init().await;
            let mut clerk = Clerk::new(1);
            clerk.put_surely(&cluster, &[1, 2, 3], 0, PATIENCE).await;
            for round in 0..8 {
                let old = leader(&cluster).await;
                let through = pick(&[1, 2, 3]);
                // The caller may get its answer, or hang on a node that is about to lose its leader or its power.
                let moment = Duration::from_micros(random_u64() % 20_000);
                let _answer = tokio::time::timeout(moment, clerk.put(&cluster, through, 0)).await;
                if round % 2 == 0 {
                    cluster.crash(old).await
                } else {
                    cluster.kill(old).await
                }
                clerk.again_surely(&cluster, &cluster.running(), PATIENCE).await;
                cluster.start(old).await;
            }
            for node in cluster.running() {
                clerk.check(&cluster, node).await;
            }
            let replica = cluster.replica(1).expect("it runs");
            let point = replica.read_point(PATIENCE).await.unwrap();
            assert_eq!(records::history_at(&replica, 0, &point).len(), 9, "nine writes, each with one version");
            replicas_are_equal(&cluster).await;
        },
    );
}

//! Disks that complete no writes, and say nothing either.

use std::time::Duration;

use saola_jepsen::sim::{CALL, Clerk, Cluster, PATIENCE};
use saola_raft::ProposeError;
use tokio::time::{Instant, sleep};

use super::{have_lead, leads, pick, replicas_are_equal, status, under_seeds, until};

/// Two election maxima until a disk counts as hung, one for the hand-over, and what the messages take (LAN preset).
const ANOTHER_LEADS: Duration = Duration::from_millis(1_000);
/// Shorter than two election maxima.
const A_SHORT_WHILE: Duration = Duration::from_millis(450);

/// Three nodes; node 1 leads, and there are records.
async fn cluster(clerk: &mut Clerk) -> Cluster {
    let mut cluster = Cluster::new(3, false);
    cluster.init().await;
    have_lead(&cluster, 1).await;
    for record in 0..5 {
        clerk.put_surely(&cluster, &[1, 2, 3], record, PATIENCE).await;
    }
    cluster
}

/// Writes through `nodes` until `done`; answers the refusals that named the disk.
async fn load(clerk: &mut Clerk, cluster: &Cluster, nodes: &[u64], mut done: impl FnMut() -> bool) -> Vec<String> {
    let began = Instant::now();
    let mut named = Vec::new();
    let mut record = 0;
    while !done() {
        assert!(began.elapsed() < PATIENCE, "no end of the load");
        record = (record + 1) % 5;
        if let Err(error @ ProposeError::DiskHangs { .. }) = clerk.put(cluster, pick(nodes), record).await {
            assert!(error.certainly_not_applied());
            named.push(error.to_string());
        }
        sleep(Duration::from_millis(5)).await;
    }
    named
}

#[test]
fn leader_whose_disk_hangs_is_replaced_and_follows_once_it_goes_on() {
    under_seeds("hangs::leader_whose_disk_hangs_is_replaced_and_follows_once_it_goes_on", async |_| {
        let mut clerk = Clerk::new(1);
        let cluster = cluster(&mut clerk).await;
        cluster.hang_log(1);
        let began = Instant::now();
        let replaced = || [2, 3].iter().any(|id| leads(&cluster, *id));
        let named = load(&mut clerk, &cluster, &[1, 2, 3], replaced).await;
        // A call that is under way when the leader changes is waited for.
        assert!(began.elapsed() < ANOTHER_LEADS + CALL, "took {:?}", began.elapsed());
        for reason in &named {
            assert!(reason.starts_with("the disk of node 1 (n1) has completed no write of the log"), "{reason}");
        }
        assert!(status(&cluster, 1).disk_hangs.is_some(), "it says so");
        until("it knows that it was replaced", PATIENCE, || !leads(&cluster, 1)).await;
        sleep(Duration::from_secs(5)).await;
        assert_ne!(status(&cluster, 1).state, "stopped", "it may wait for its disk: it keeps nobody from leading");
        for record in 0..5 {
            clerk.put_surely(&cluster, &[2, 3], record, PATIENCE).await;
        }

        cluster.release_log(1);
        until("it follows", PATIENCE, || status(&cluster, 1).disk_hangs.is_none()).await;
        clerk.put_surely(&cluster, &[1, 2, 3], 0, PATIENCE).await;
        clerk.check(&cluster, 1).await;
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn leader_whose_disk_hangs_gives_up_before_its_followers_would_ever_notice() {
    under_seeds("hangs::leader_whose_disk_hangs_gives_up_before_its_followers_would_ever_notice", async |_| {
        let mut clerk = Clerk::new(1);
        let cluster = cluster(&mut clerk).await;
        // One write that waits is enough, and nobody else writes.
        cluster.hang_log(1);
        clerk.put_surely(&cluster, &[1], 0, PATIENCE).await;
        let took = until("another node leads", ANOTHER_LEADS, || leads(&cluster, 2) || leads(&cluster, 3)).await;
        assert!(took > Duration::from_millis(500), "two election maxima had not passed: {took:?}");
        clerk.put_surely(&cluster, &[2, 3], 0, PATIENCE).await;
        clerk.check(&cluster, 2).await;
    });
}

#[test]
fn hung_leader_that_nobody_replaces_in_time_ends_and_loses_nothing() {
    under_seeds("hangs::hung_leader_that_nobody_replaces_in_time_ends_and_loses_nothing", async |seed| {
        let mut clerk = Clerk::new(1);
        let mut cluster = cluster(&mut clerk).await;
        cluster.hang_log(1);
        load(&mut clerk, &cluster, &[1], || status(&cluster, 1).disk_hangs.is_some()).await;
        // From here on nobody hears that it hands over.
        cluster.part(&[1], &[2, 3]);
        until("its process ends", ANOTHER_LEADS, || status(&cluster, 1).state == "stopped").await;
        let words = cluster.replica(1).expect("the simulation has not taken it away yet").stopped().await;
        assert!(words.contains("disk of node 1 (n1)"), "its last words name the disk: {words}");
        cluster.crash(1).await;
        cluster.network.heal();
        for record in 0..5 {
            clerk.put_surely(&cluster, &[2, 3], record, PATIENCE).await;
        }
        clerk.check(&cluster, 2 + seed % 2).await;
        cluster.release_log(1);
        cluster.start(1).await;
        clerk.check(&cluster, 1).await;
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn hang_shorter_than_the_limit_changes_nothing() {
    under_seeds("hangs::hang_shorter_than_the_limit_changes_nothing", async |_| {
        let mut clerk = Clerk::new(1);
        let cluster = cluster(&mut clerk).await;
        let term = status(&cluster, 1).term;
        for _ in 0..4 {
            cluster.hang_log(1);
            let until = Instant::now() + A_SHORT_WHILE;
            while Instant::now() < until {
                clerk.put(&cluster, 1, 0).await.expect("a quorum stores it without the leader's disk");
            }
            cluster.release_log(1);
            clerk.put(&cluster, 1, 1).await.expect("nothing stands in the way");
            sleep(Duration::from_millis(100)).await;
        }
        assert!(leads(&cluster, 1) && status(&cluster, 1).term == term, "the leader has stayed");
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn hung_disk_of_a_follower_disturbs_nobody_and_its_owner_says_so() {
    under_seeds("hangs::hung_disk_of_a_follower_disturbs_nobody_and_its_owner_says_so", async |_| {
        let mut clerk = Clerk::new(1);
        let cluster = cluster(&mut clerk).await;
        let term = status(&cluster, 1).term;
        cluster.hang_log(3);
        let until_then = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until_then {
            let through = pick(&[1, 2]);
            clerk.put(&cluster, through, 0).await.unwrap_or_else(|error| panic!("through {through}: {error}"));
            sleep(Duration::from_millis(10)).await;
        }
        let said = status(&cluster, 3).disk_hangs.expect("it says so");
        assert!(said.starts_with("the disk of node 3 (n3)"), "{said}");
        assert_ne!(status(&cluster, 3).state, "stopped");
        // Nobody else is left to lead, and it cannot: its own vote waits for the disk.
        cluster.part(&[3], &[1, 2]);
        sleep(Duration::from_secs(2)).await;
        cluster.network.heal();
        sleep(Duration::from_secs(2)).await;
        assert!(leads(&cluster, 1) && status(&cluster, 1).term == term, "it has not campaigned");
        cluster.release_log(3);
        until("it keeps up", PATIENCE, || status(&cluster, 3).disk_hangs.is_none()).await;
        clerk.check(&cluster, 3).await;
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn leader_that_is_its_own_quorum_refuses_writes_until_its_disk_goes_on() {
    under_seeds("hangs::leader_that_is_its_own_quorum_refuses_writes_until_its_disk_goes_on", async |_| {
        let mut clerk = Clerk::new(1);
        let mut cluster = Cluster::new(1, false);
        cluster.init().await;
        clerk.put_surely(&cluster, &[1], 0, PATIENCE).await;
        cluster.hang_log(1);
        let error = clerk.put(&cluster, 1, 0).await.expect_err("its only disk hangs");
        assert!(!error.certainly_not_applied(), "{error}");
        let mut second = Clerk::new(2);
        let refused = second.put(&cluster, 1, 1).await.expect_err("its only disk hangs");
        assert!(matches!(refused, ProposeError::DiskHangs { .. }), "{refused}");
        sleep(Duration::from_secs(5)).await;
        assert_eq!(status(&cluster, 1).state, "leader", "to end would make nobody lead");
        cluster.release_log(1);
        clerk.again_surely(&cluster, &[1], PATIENCE).await;
        second.again_surely(&cluster, &[1], PATIENCE).await;
        clerk.check(&cluster, 1).await;
    });
}

//! Disks that run full or fail, while the rest of the cluster is well.

use std::time::Duration;

use saola_jepsen::sim::{Clerk, Cluster, PATIENCE};
use saola_raft::ProposeError;
use saola_storage::disk::sim::Operation;

use super::{have_lead, leader, leads, pick, replicas_are_equal, status, under_seeds, until};

/// Every node's mark.
const MARK: u64 = 1 << 20;
const PADDING: usize = 4 << 10;
/// From one look at the disks to the next, with the time to tell the leader.
const NOTICED: Duration = Duration::from_secs(3);

/// Three nodes that watch their disks; node 1 leads, and every node has some log.
async fn cluster(clerk: &mut Clerk) -> Cluster {
    let mut cluster = Cluster::new(3, false);
    cluster.min_free_bytes = MARK;
    cluster.init().await;
    have_lead(&cluster, 1).await;
    clerk.padding = PADDING;
    for record in 0..10 {
        clerk.put_surely(&cluster, &[1, 2, 3], record, PATIENCE).await;
    }
    cluster
}

fn refusal(cluster: &Cluster, id: u64) -> Option<String> {
    status(cluster, id).writes_refused
}

async fn refused(clerk: &mut Clerk, cluster: &Cluster, through: u64) -> String {
    let error = clerk.put(cluster, through, 0).await.expect_err("there is no room");
    assert!(matches!(error, ProposeError::WritesRefused { .. }) && error.certainly_not_applied(), "{error}");
    error.to_string()
}

#[test]
fn writes_are_refused_by_name_while_no_quorum_has_room_and_go_on_once_there_is() {
    under_seeds("disks::writes_are_refused_by_name_while_no_quorum_has_room_and_go_on_once_there_is", async |seed| {
        let mut clerk = Clerk::new(1);
        let mut cluster = cluster(&mut clerk).await;
        cluster.disk(2).fill(MARK / 2);
        let beside = if seed % 2 == 0 {
            cluster.disk(3).fill(0);
            "node 3 (n3) has 0 MiB free"
        } else {
            cluster.crash(3).await;
            "node 3 (n3) without an answer"
        };
        until("the leader refuses writes", NOTICED, || refusal(&cluster, 1).is_some()).await;
        let reason = refused(&mut clerk, &cluster, 1).await;
        for part in ["disk of node 2 (n2) has 0 MiB free, below its mark of 1 MiB", beside, "make room"] {
            assert!(reason.contains(part), "{part:?} in: {reason}");
        }
        let log_ends = status(&cluster, 1).last_log_index;
        for node in cluster.running() {
            refused(&mut clerk, &cluster, node).await;
            clerk.check(&cluster, node).await;
            assert!(["leader", "follower"].contains(&status(&cluster, node).state));
        }
        assert_eq!(status(&cluster, 1).last_log_index, log_ends, "nothing was proposed");
        assert!(refusal(&cluster, 2).expect("it is low").starts_with("disk of node 2 (n2)"));

        cluster.disk(2).set_capacity(u64::MAX);
        let took = until("there is room", NOTICED, || refusal(&cluster, 1).or(refusal(&cluster, 2)).is_none()).await;
        assert!(took < NOTICED);
        clerk.put_surely(&cluster, &[1, 2], 0, PATIENCE).await;
        cluster.disk(3).set_capacity(u64::MAX);
        cluster.start_all().await;
        replicas_are_equal(&cluster).await;
        clerk.check(&cluster, 3).await;
    });
}

#[test]
fn one_low_disk_of_three_stops_nobody_and_its_owner_says_so() {
    under_seeds("disks::one_low_disk_of_three_stops_nobody_and_its_owner_says_so", async |seed| {
        let mut clerk = Clerk::new(1);
        let mut cluster = cluster(&mut clerk).await;
        cluster.disk(3).fill(MARK / 2);
        until("node 3 says that it is low", NOTICED, || refusal(&cluster, 3).is_some()).await;
        assert!(refused(&mut clerk, &cluster, 3).await.starts_with("disk of node 3 (n3) has 0 MiB free"));
        tokio::time::sleep(NOTICED).await;
        assert_eq!(refusal(&cluster, 1), None, "the leader knows of it, and has a quorum without it");
        for record in 0..20 {
            let through = pick(&[1, 2]);
            clerk.put(&cluster, through, record).await.unwrap_or_else(|error| panic!("through {through}: {error}"));
        }
        clerk.check(&cluster, 3).await;

        // To the last byte: it ends when its reserve is used up, and comes back once there is room.
        cluster.disk(3).fill(0);
        for record in 0..60 {
            clerk.put_surely(&cluster, &[1, 2], record % 10, PATIENCE).await;
        }
        until("node 3 ends", PATIENCE, || status(&cluster, 3).state == "stopped").await;
        cluster.kill(3).await;
        clerk.put_surely(&cluster, &[1, 2], 0, PATIENCE).await;
        cluster.disk(3).set_capacity(u64::MAX);
        if seed % 2 == 0 {
            cluster.crash(3).await;
        }
        cluster.start(3).await;
        for node in [1, 2, 3] {
            clerk.check(&cluster, node).await;
        }
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn leader_whose_disk_runs_low_hands_over_to_one_that_has_room() {
    under_seeds("disks::leader_whose_disk_runs_low_hands_over_to_one_that_has_room", async |_| {
        let mut clerk = Clerk::new(1);
        let cluster = cluster(&mut clerk).await;
        cluster.disk(1).fill(MARK / 2);
        until("another node leads", NOTICED, || leads(&cluster, 2) || leads(&cluster, 3)).await;
        for record in 0..10 {
            clerk.put_surely(&cluster, &[2, 3], record, PATIENCE).await;
        }
        assert!(!leads(&cluster, 1), "it gave leadership away for good");
        cluster.disk(1).set_capacity(u64::MAX);
        until("there is room", NOTICED, || refusal(&cluster, 1).is_none()).await;
        clerk.put_surely(&cluster, &[1, 2, 3], 0, PATIENCE).await;
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn node_on_a_disk_full_to_the_last_byte_starts_again_votes_and_serves_reads() {
    under_seeds("disks::node_on_a_disk_full_to_the_last_byte_starts_again_votes_and_serves_reads", async |_| {
        let mut clerk = Clerk::new(1);
        let mut cluster = cluster(&mut clerk).await;
        cluster.disk(3).fill(0);
        for _ in 0..3 {
            cluster.kill(3).await;
            cluster.start(3).await;
            clerk.check(&cluster, 3).await;
        }
        // Without its vote nobody could lead now.
        cluster.crash(1).await;
        let lead = leader(&cluster).await;
        until("the leader refuses writes", PATIENCE, || refusal(&cluster, lead).is_some()).await;
        let reason = refused(&mut clerk, &cluster, lead).await;
        assert!(reason.contains("disk of node 3 (n3) has 0 MiB free"), "{reason}");
        clerk.check(&cluster, 2).await;
        clerk.check(&cluster, 3).await;

        cluster.disk(3).set_capacity(u64::MAX);
        clerk.again_surely(&cluster, &[2, 3], PATIENCE).await;
        cluster.start(1).await;
        clerk.check(&cluster, 1).await;
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn failed_sync_stops_its_node_alone_and_loses_nothing_acknowledged() {
    under_seeds("disks::failed_sync_stops_its_node_alone_and_loses_nothing_acknowledged", async |seed| {
        let mut clerk = Clerk::new(1);
        let mut cluster = cluster(&mut clerk).await;
        let broken = seed % 3 + 1;
        let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != broken).collect();
        cluster.disk(broken).fail_nth(Operation::Sync, 1 + seed % 4);
        for record in 0..20 {
            clerk.put_surely(&cluster, &others, record % 10, PATIENCE).await;
        }
        until("the node with the broken disk ends", PATIENCE, || status(&cluster, broken).state == "stopped").await;
        for node in &others {
            assert!(["leader", "follower"].contains(&status(&cluster, *node).state));
            clerk.check(&cluster, *node).await;
        }
        if seed % 2 == 0 {
            cluster.crash(broken).await;
        } else {
            cluster.kill(broken).await;
        }
        clerk.put_surely(&cluster, &others, 0, PATIENCE).await;
        cluster.start(broken).await;
        clerk.check(&cluster, broken).await;
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn dead_member_holds_the_log_within_its_budget_and_comes_back_with_all_records() {
    under_seeds("disks::dead_member_holds_the_log_within_its_budget_and_comes_back_with_all_records", async |_| {
        const VALUE: usize = 40 << 10;
        let purged =
            |cluster: &Cluster, id| cluster.log(id).and_then(|log| log.last_purged).map_or(0, |last| last.index);
        let mut clerk = Clerk::new(1);
        let mut cluster = Cluster::new(3, false);
        (cluster.keep_entries, cluster.log_keep_bytes) = (10, 8 * VALUE as u64);
        cluster.init().await;
        clerk.padding = VALUE;
        clerk.put_surely(&cluster, &[1, 2, 3], 0, PATIENCE).await;
        let had = cluster.log(3).and_then(|log| log.last).expect("it has the first entries").index;
        cluster.crash(3).await;
        for record in 0..30 {
            clerk.put_surely(&cluster, &[1, 2], record, PATIENCE).await;
        }
        let last = status(&cluster, leader(&cluster).await).last_log_index;

        // Two rounds of flushing and purging, less than it takes to count as dead.
        tokio::time::sleep(Duration::from_secs(70)).await;
        assert!([1, 2].iter().all(|id| purged(&cluster, *id) <= had), "a member away for a moment needs the log");
        let both = || [1, 2].iter().all(|id| purged(&cluster, *id) > last - 10);
        until("no log is over its budget for a member that is dead", Duration::from_secs(150), both).await;

        cluster.start(3).await;
        clerk.put_surely(&cluster, &[1, 2, 3], 0, PATIENCE).await;
        clerk.check(&cluster, 3).await;
        assert!(purged(&cluster, 3) > had, "the log alone brought it up to date");
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn log_kept_for_a_dead_member_ends_with_its_hours_and_the_leader_says_what_follows() {
    under_seeds("disks::log_kept_for_a_dead_member_ends_with_its_hours_and_the_leader_says_what_follows", async |_| {
        let purged =
            |cluster: &Cluster, id| cluster.log(id).and_then(|log| log.last_purged).map_or(0, |last| last.index);
        let mut clerk = Clerk::new(1);
        let mut cluster = Cluster::new(3, false);
        (cluster.keep_entries, cluster.log_keep_for) = (10, Duration::from_secs(240));
        cluster.init().await;
        have_lead(&cluster, 1).await;
        clerk.put_surely(&cluster, &[1, 2, 3], 0, PATIENCE).await;
        cluster.crash(3).await;
        let lacks_from = status(&cluster, 1).last_log_index;
        for record in 0..30 {
            clerk.put_surely(&cluster, &[1, 2], record, PATIENCE).await;
        }
        let said = |cluster: &Cluster| {
            let kept = status(cluster, 1).log_kept;
            kept.into_iter().find(|(id, _)| *id == 3).map_or_else(String::new, |(_, text)| text)
        };
        // Dead, and still within its hours.
        until("it counts as dead", Duration::from_secs(200), || said(&cluster).contains("is kept in the log")).await;
        assert!([1, 2].iter().all(|id| purged(&cluster, *id) <= lacks_from));
        until("its hours are over", Duration::from_secs(200), || said(&cluster).contains("a whole snapshot")).await;
        assert!(purged(&cluster, 1) > lacks_from);

        cluster.start(3).await;
        clerk.put_surely(&cluster, &[1, 2, 3], 0, PATIENCE).await;
        clerk.check(&cluster, 3).await;
        until("nothing is kept for one that lives", Duration::from_secs(60), || said(&cluster).is_empty()).await;
        replicas_are_equal(&cluster).await;
    });
}

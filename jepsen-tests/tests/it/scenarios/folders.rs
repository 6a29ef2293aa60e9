//! Empty folders and old copies under a known node id.

use std::time::Duration;

use saola_jepsen::sim::{CALL, Clerk, Cluster, PATIENCE};
use saola_raft::{ReadError, Role};
use saola_storage::digest::BucketSet;
use saola_storage::engine::EngineHome;
use saola_storage::quarantine::Held;

use super::{add, have_lead, leader, on, replicas_are_equal, status, three_with_a_record, under_seeds, until};

const NEXT_STEP: &str = "saola cluster replace";
/// The records are flushed within so long.
const FLUSHED: Duration = Duration::from_secs(60);

/// The node takes no part, and both it and the leader say what to do.
async fn is_refused(cluster: &Cluster, id: u64) {
    let replica = cluster.replica(id).expect("it runs");
    let said = || replica.status().refused_by_peers.unwrap_or_default();
    until("the node learns that it is refused", PATIENCE, || said().contains(NEXT_STEP)).await;
    assert_eq!(replica.status().state, "refused");
    assert!(replica.read_point(CALL).await.is_err());
    let lead = leader(cluster).await;
    let told = || status(cluster, lead).refusals;
    until("the leader knows that the node is refused", PATIENCE, || {
        told().iter().any(|(node, why)| *node == id && why.contains(NEXT_STEP))
    })
    .await;
}

#[test]
fn empty_folder_under_a_known_id_is_refused_and_does_not_vote() {
    under_seeds("folders::empty_folder_under_a_known_id_is_refused_and_does_not_vote", async |_| {
        let (mut cluster, mut clerk) = three_with_a_record().await;
        let emptied = leader(&cluster).await % 3 + 1;
        let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != emptied).collect();
        cluster.kill(emptied).await;
        cluster.wipe(emptied);
        cluster.start(emptied).await;
        is_refused(&cluster, emptied).await;
        let read = cluster.replica(emptied).unwrap().read_point(CALL).await;
        assert!(matches!(read, Err(ReadError::NotAdopted)), "{read:?}");
        clerk.put_surely(&cluster, &others, 0, PATIENCE).await;

        // With one of the others gone, two nodes run, but only one of them has a vote.
        let left = leader(&cluster).await;
        let fallen = others.iter().copied().find(|id| *id != left).unwrap();
        cluster.crash(fallen).await;
        assert!(clerk.put(&cluster, left, 0).await.is_err(), "an empty folder acknowledged an entry");
        cluster.kill(left).await;
        cluster.start(left).await;
        tokio::time::sleep(CALL).await;
        assert!(status(&cluster, left).leader.is_none(), "an empty folder voted");
        cluster.start(fallen).await;
        clerk.put_surely(&cluster, &others, 0, PATIENCE).await;

        // The next step that the message names.
        cluster.kill(emptied).await;
        let member = cluster.add(4, "main", Role::Voter);
        cluster.start(4).await;
        let lead = leader(&cluster).await;
        let replaced =
            on(&cluster, lead, move |replica| async move { replica.replace_member(emptied, member).await }).await;
        replaced.unwrap();
        for node in cluster.running() {
            clerk.check(&cluster, node).await;
        }
        replicas_are_equal(&cluster).await;
    });
}

/// Puts a copy of a follower's folder back that is from before the leader counted ten more entries there; answers which.
async fn put_older_copy_back(cluster: &mut Cluster, clerk: &mut Clerk) -> u64 {
    let old = leader(cluster).await % 3 + 1;
    let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != old).collect();
    cluster.kill(old).await;
    let copy = cluster.copy(old).expect("its disk reads");
    cluster.start(old).await;
    for record in 0..10 {
        clerk.put_surely(cluster, &others, record, PATIENCE).await;
    }
    // The leader has counted all of it at this node.
    clerk.check(cluster, old).await;
    let lead = leader(cluster).await;
    let counted = || {
        let status = status(cluster, lead);
        status.replication.contains(&(old, status.last_log_index))
    };
    until("the leader has counted everything", PATIENCE, counted).await;
    cluster.kill(old).await;
    cluster.put_back(old, &copy);
    old
}

#[test]
fn older_copy_whose_records_are_of_no_use_gets_no_vote_with_those_of_another_node() {
    under_seeds(
        "folders::older_copy_whose_records_are_of_no_use_gets_no_vote_with_those_of_another_node",
        async |_| {
            let (mut cluster, mut clerk) = three_with_a_record().await;
            let noted = |id: u64| cluster.records(id).note().expect("memory reads").is_some();
            until("the members are noted beside all records", FLUSHED, || (1..=3).all(noted)).await;
            let old = put_older_copy_back(&mut cluster, &mut clerk).await;
            let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != old).collect();
            cluster.records(old).condemn("its disk fails").expect("memory is written");
            // The leader finds out before the node has other records.
            let lead = leader(&cluster).await;
            let fallen = others.iter().copied().find(|id| *id != lead).unwrap();
            let hold = |cluster: &Cluster, held| cluster.replica(lead).expect("it runs").store().hold(held);
            let whole = Held { whole: true, buckets: BucketSet::all(), why: "a test".into() };
            hold(&cluster, Some(whole)).expect("memory is written");
            cluster.part(&[old], &[fallen]);
            cluster.start(old).await;
            is_refused(&cluster, old).await;
            // It goes on to ask for records, and gets them.
            hold(&cluster, None).expect("memory is written");
            cluster.network.heal();
            tokio::time::sleep(PATIENCE).await;
            is_refused(&cluster, old).await;
            cluster.crash(fallen).await;
            assert!(clerk.put(&cluster, lead, 0).await.is_err(), "an old copy acknowledged an entry");
            cluster.start(fallen).await;
            clerk.again_surely(&cluster, &others, PATIENCE).await;
        },
    );
}

#[test]
fn older_copy_of_a_folder_is_refused_and_stops_counting() {
    under_seeds("folders::older_copy_of_a_folder_is_refused_and_stops_counting", async |_| {
        let (mut cluster, mut clerk) = three_with_a_record().await;
        let old = put_older_copy_back(&mut cluster, &mut clerk).await;
        let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != old).collect();
        let lead = leader(&cluster).await;
        cluster.start(old).await;
        is_refused(&cluster, old).await;
        clerk.put_surely(&cluster, &others, 0, PATIENCE).await;

        let fallen = others.iter().copied().find(|id| *id != lead).unwrap();
        cluster.crash(fallen).await;
        assert!(clerk.put(&cluster, lead, 0).await.is_err(), "an old copy acknowledged an entry");
        cluster.start(fallen).await;
        clerk.again_surely(&cluster, &others, PATIENCE).await;

        cluster.kill(old).await;
        let member = cluster.add(4, "main", Role::Voter);
        cluster.start(4).await;
        let lead = leader(&cluster).await;
        on(&cluster, lead, move |replica| async move { replica.replace_member(old, member).await }).await.unwrap();
        for node in cluster.running() {
            clerk.check(&cluster, node).await;
        }
    });
}

#[test]
fn newest_copy_of_a_folder_put_back_goes_on() {
    under_seeds("folders::newest_copy_of_a_folder_put_back_goes_on", async |_| {
        let (mut cluster, mut clerk) = three_with_a_record().await;
        cluster.kill(2).await;
        let copy = cluster.copy(2).expect("its disk reads");
        clerk.put_surely(&cluster, &[1, 3], 0, PATIENCE).await;
        cluster.put_back(2, &copy);
        cluster.start(2).await;
        clerk.check(&cluster, 2).await;
        cluster.crash(leader(&cluster).await).await;
        clerk.put_surely(&cluster, &cluster.running(), 0, PATIENCE).await;
    });
}

#[test]
fn second_node_under_a_used_id_is_refused_when_it_asks_to_join() {
    under_seeds("folders::second_node_under_a_used_id_is_refused_when_it_asks_to_join", async |_| {
        let mut cluster = Cluster::new(3, false);
        cluster.init().await;
        let lead = leader(&cluster).await;
        cluster.kill(lead % 3 + 1).await;
        cluster.wipe(lead % 3 + 1);
        cluster.start(lead % 3 + 1).await;
        let member = cluster.members().into_iter().find(|member| member.node_id == lead % 3 + 1).unwrap();
        let error = add(&cluster, lead, member).await.unwrap_err();
        for part in ["another data folder than the one it joined with", "`saola cluster remove"] {
            assert!(error.to_string().contains(part), "{part:?} in: {error}");
        }
    });
}

#[test]
fn what_a_deposed_leader_counted_is_not_held_against_a_healthy_node() {
    under_seeds("folders::what_a_deposed_leader_counted_is_not_held_against_a_healthy_node", async |_| {
        let mut cluster = Cluster::new(5, false);
        cluster.init().await;
        let mut clerk = Clerk::new(1);
        clerk.put_surely(&cluster, &[1, 2, 3, 4, 5], 0, PATIENCE).await;
        have_lead(&cluster, 1).await;
        let counted = status(&cluster, 1).last_log_index;
        // Node 2 stores entries that nobody commits, and node 1 counts them.
        cluster.part(&[1, 2], &[3, 4, 5]);
        let mut lost = Clerk::new(2);
        for record in 0..5 {
            let write = lost.put(&cluster, 1, record);
            assert!(write.await.is_err(), "two of five acknowledged a write");
        }
        let matched = || status(&cluster, 1).replication.into_iter().find(|(node, _)| *node == 2);
        let stored = cluster.log(2).and_then(|log| log.last).map_or(0, |last| last.index);
        assert!(stored > counted, "node 1 stopped leading before node 2 stored anything");
        assert!(matched().is_none_or(|(_, index)| index <= stored));
        // Node 2 hears the new leader and still gets what the old one sends, whose answers are lost.
        cluster.network.heal();
        cluster.part(&[1], &[3, 4, 5]);
        cluster.network.cut(2, 1);
        clerk.put_surely(&cluster, &[3, 4, 5], 0, PATIENCE).await;
        // Long enough for several of its probes, which it sends rarely without a quorum.
        tokio::time::sleep(10 * CALL).await;
        assert_eq!(status(&cluster, 2).refused_by_peers, None);
        clerk.check(&cluster, 2).await;
        cluster.network.heal();
        for node in [1, 2, 3, 4, 5] {
            clerk.check(&cluster, node).await;
            assert_eq!(status(&cluster, node).refused_by_peers, None);
        }
    });
}

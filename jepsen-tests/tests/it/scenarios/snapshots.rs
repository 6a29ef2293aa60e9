//! Nodes that the log can no longer bring up to date.

use std::time::Duration;

use saola_jepsen::sim::promote::name_approvers;
use saola_jepsen::sim::{Clerk, Cluster, PATIENCE};
use saola_raft::sim::random_u64;
use saola_raft::{AdminError, Role};

use super::{add, have_lead, ids, leader, remove, replicas_are_equal, status, under_seeds, until};

/// Bytes of each value: the records of a cluster fill many chunks of the stream.
const PADDING: usize = 40 << 10;
const WRITES: u64 = 60;
const KEEP_ENTRIES: u64 = 10;
/// Two rounds of flushing and purging.
const PURGED: Duration = Duration::from_secs(70);

fn purged(cluster: &Cluster, id: u64) -> u64 {
    cluster.log(id).and_then(|log| log.last_purged).map_or(0, |last| last.index)
}

/// Three nodes whose logs begin far behind the first write.
async fn purged_cluster(clerk: &mut Clerk) -> Cluster {
    purged_cluster_that_sends(clerk, 64 << 20).await
}

/// The same, with a budget for sending records.
async fn purged_cluster_that_sends(clerk: &mut Clerk, bytes_per_s: u64) -> Cluster {
    let mut cluster = Cluster::new(3, false);
    cluster.keep_entries = KEEP_ENTRIES;
    cluster.snapshot_bytes_per_s = bytes_per_s;
    cluster.init().await;
    name_approvers(&cluster, leader(&cluster).await).await;
    clerk.padding = PADDING;
    for record in 0..WRITES {
        clerk.put_surely(&cluster, &[1, 2, 3], record % 50, PATIENCE).await;
    }
    until("every log is purged", PURGED, || (1..=3).all(|id| purged(&cluster, id) > WRITES - 2 * KEEP_ENTRIES)).await;
    cluster
}

#[test]
fn node_behind_the_purged_log_gets_the_records_and_ends_equal() {
    under_seeds("snapshots::node_behind_the_purged_log_gets_the_records_and_ends_equal", async |seed| {
        let mut clerk = Clerk::new(1);
        let mut cluster = purged_cluster(&mut clerk).await;
        let role = if seed % 2 == 0 { Role::Voter } else { Role::Learner };
        let member = cluster.add(4, "main", role);
        cluster.start(4).await;
        // Writes go on while the records travel.
        let (added, _) = futures::join!(add(&cluster, 1, member), async {
            for record in 0..20 {
                clerk.put_surely(&cluster, &[1, 2, 3], record, PATIENCE).await;
            }
        });
        added.unwrap();
        assert!(purged(&cluster, 4) > WRITES - 2 * KEEP_ENTRIES, "the log alone brought it up to date");
        clerk.check(&cluster, 4).await;
        replicas_are_equal(&cluster).await;
        // What came with the stream is durable, and so is what followed.
        cluster.crash(4).await;
        cluster.start(4).await;
        clerk.check(&cluster, 4).await;
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn wiped_node_comes_back_under_a_new_id_with_all_records() {
    under_seeds("snapshots::wiped_node_comes_back_under_a_new_id_with_all_records", async |_| {
        let mut clerk = Clerk::new(1);
        let mut cluster = purged_cluster(&mut clerk).await;
        let dead = leader(&cluster).await % 3 + 1;
        cluster.crash(dead).await;
        let member = cluster.add(4, "main", Role::Voter);
        cluster.start(4).await;
        let lead = leader(&cluster).await;
        let replaced =
            super::on(&cluster, lead, move |replica| async move { replica.replace_member(dead, member).await });
        replaced.await.unwrap();
        clerk.check(&cluster, 4).await;
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn new_witness_gets_log_ids_only_and_its_vote_counts() {
    under_seeds("snapshots::new_witness_gets_log_ids_only_and_its_vote_counts", async |_| {
        let mut clerk = Clerk::new(1);
        let mut cluster = purged_cluster(&mut clerk).await;
        let lead = leader(&cluster).await;
        remove(&cluster, lead, lead % 3 + 1).await.unwrap();
        let left: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != lead % 3 + 1).collect();
        let member = cluster.add(4, "third", Role::Witness);
        cluster.start(4).await;
        let members = add(&cluster, lead, member).await.unwrap();
        assert_eq!(ids(&members), left.iter().copied().chain([4]).collect::<Vec<_>>());
        assert!(purged(&cluster, 4) > WRITES - 2 * KEEP_ENTRIES);
        let witness = cluster.replica(4).unwrap();
        assert_eq!(witness.store().view().counts().versions, 0);
        assert_eq!(witness.store().approvers().len(), 1, "who may approve what fences it");
        assert!(witness.store().data_bytes() < 4096, "a witness holds {} bytes", witness.store().data_bytes());
        drop(witness);
        // It is half of a quorum now.
        cluster.crash(lead).await;
        let other = left.iter().copied().find(|id| *id != lead).unwrap();
        clerk.put_surely(&cluster, &[other], 0, PATIENCE).await;
        cluster.crash(4).await;
        cluster.start(4).await;
        clerk.put_surely(&cluster, &[other], 0, PATIENCE).await;
        clerk.check(&cluster, other).await;
    });
}

/// What happens while the records travel from the leader to the new node.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    ReceiverCrashes,
    SenderCrashes,
    LinkIsCut,
}

async fn interrupted(trouble: Trouble) -> bool {
    let mut clerk = Clerk::new(1);
    let mut cluster = purged_cluster(&mut clerk).await;
    have_lead(&cluster, 1).await;
    let member = cluster.add(4, "main", Role::Voter);
    let again = member.clone();
    cluster.start(4).await;
    let before = status(&cluster, 1).last_log_index;
    let adding = saola_raft::sim::spawn_on(0, {
        let replica = cluster.replica(1).expect("it leads");
        async move {
            let call = saola_raft::sim::spawn_on(1, async move { replica.add_member(member).await });
            call.await.unwrap_or_else(|_| Err(AdminError::Unknown("the leader crashed".into())))
        }
    });
    // The new node is in the membership: from now on the leader sends, within milliseconds.
    until("the leader adds the node", PATIENCE, || status(&cluster, 1).last_log_index >= before + 2).await;
    tokio::time::sleep(Duration::from_micros(random_u64() % 40_000)).await;
    let midway = purged(&cluster, 4) == 0;
    match trouble {
        Trouble::ReceiverCrashes => {
            cluster.crash(4).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            cluster.start(4).await;
            let view = cluster.replica(4).expect("it was just started").store().view();
            let (kept, found) = (view.kept_digest(), view.recomputed_digest());
            assert_eq!(kept.expect("memory reads"), found.expect("memory reads"), "half a state");
        }
        Trouble::SenderCrashes => {
            cluster.crash(1).await;
            clerk.put_surely(&cluster, &[2, 3], 0, PATIENCE).await;
            cluster.start(1).await;
        }
        Trouble::LinkIsCut => {
            cluster.part(&[1], &[4]);
            clerk.put_surely(&cluster, &[1, 2, 3], 0, PATIENCE).await;
            tokio::time::sleep(Duration::from_secs(3)).await;
            cluster.network.heal();
        }
    }
    let added = adding.await.expect("nothing aborts the operator");
    let lead = leader(&cluster).await;
    if let Err(error) = added {
        assert!(matches!(trouble, Trouble::SenderCrashes), "{trouble:?}: {error}");
        if random_u64().is_multiple_of(2) {
            // The operator repeats the command: the node gets its vote.
            add(&cluster, lead, again).await.expect("the same command finishes what it began");
            let votes = status(&cluster, lead).voter_sets.iter().all(|set| set.contains(&4));
            assert!(votes, "node 4 has no vote");
        } else {
            // Or gives up on the node.
            let removed = remove(&cluster, lead, 4).await;
            match removed {
                Ok(members) => assert_eq!(ids(&members), [1, 2, 3]),
                // It had not got as far as to use the id.
                Err(error) => assert!(error.to_string().contains("not a member"), "{error}"),
            }
            cluster.kill(4).await;
            let member = cluster.add(5, "main", Role::Voter);
            cluster.start(5).await;
            add(&cluster, lead, member).await.expect("a healed cluster takes another node");
        }
    }
    for node in cluster.running() {
        clerk.check(&cluster, node).await;
    }
    replicas_are_equal(&cluster).await;
    midway
}

fn interrupted_over_seeds(name: &str, trouble: Trouble) {
    let midway = std::cell::Cell::new(0);
    under_seeds(name, async |_| midway.set(midway.get() + u32::from(interrupted(trouble).await)));
    println!("{name}: {} runs were interrupted before the records had arrived", midway.get());
}

#[test]
fn transfer_whose_receiver_crashes_ends_with_an_equal_node() {
    interrupted_over_seeds(
        "snapshots::transfer_whose_receiver_crashes_ends_with_an_equal_node",
        Trouble::ReceiverCrashes,
    );
}

#[test]
fn transfer_whose_sender_crashes_ends_with_an_equal_node() {
    interrupted_over_seeds("snapshots::transfer_whose_sender_crashes_ends_with_an_equal_node", Trouble::SenderCrashes);
}

#[test]
fn transfer_over_a_link_that_is_cut_ends_with_an_equal_node() {
    interrupted_over_seeds("snapshots::transfer_over_a_link_that_is_cut_ends_with_an_equal_node", Trouble::LinkIsCut);
}

/// A chunk in about two seconds of virtual time.
const SLOW: u64 = 128 << 10;

/// Chunks of the stream of a node's whole state.
fn stream_chunks(cluster: &Cluster, node: u64) -> u64 {
    let mut export = cluster.replica(node).expect("it runs").store().export().expect("it exports");
    std::iter::from_fn(|| export.next_chunk().expect("memory reads")).count() as u64
}

type Adding = tokio::task::JoinHandle<Result<Vec<saola_raft::Member>, AdminError>>;

/// Node 4 joins a cluster that node 1 leads; the records take a minute to come, from node 2.
async fn joining(clerk: &mut Clerk) -> (Cluster, Adding) {
    joining_with(clerk, SLOW, 0).await
}

/// The same, with a budget for sending records, and so many bytes that node 4 wants to stay free.
async fn joining_with(clerk: &mut Clerk, bytes_per_s: u64, min_free_bytes: u64) -> (Cluster, Adding) {
    let mut cluster = purged_cluster_that_sends(clerk, bytes_per_s).await;
    cluster.min_free_bytes = min_free_bytes;
    for record in 0..2 * WRITES {
        clerk.put_surely(&cluster, &[1, 2, 3], record % 50, PATIENCE).await;
    }
    have_lead(&cluster, 1).await;
    let member = cluster.add(4, "main", Role::Voter);
    cluster.start(4).await;
    let replica = cluster.replica(1).expect("it leads");
    let adding = saola_raft::sim::spawn_on(1, async move { replica.add_member(member).await });
    (cluster, adding)
}

#[test]
fn transfer_that_is_cut_ten_times_goes_on_where_it_was() {
    under_seeds("snapshots::transfer_that_is_cut_ten_times_goes_on_where_it_was", async |_| {
        let mut clerk = Clerk::new(1);
        let (cluster, adding) = joining(&mut clerk).await;
        let sent = || cluster.network.fetched(2, 4);
        for cut in 0..10 {
            until("a stream begins", PATIENCE, || sent().streams > cut).await;
            let before = sent().chunks;
            until("a chunk comes", PATIENCE, || sent().chunks > before).await;
            tokio::time::sleep(Duration::from_micros(10_000 + random_u64() % 1_000_000)).await;
            // Also between the receiver and the leader, whose offer is repeated.
            cluster.part(&[1, 2], &[4]);
            tokio::time::sleep(Duration::from_millis(3_100)).await;
            cluster.network.heal();
        }
        let whole = stream_chunks(&cluster, 2);
        adding.await.expect("the leader runs").expect("a healed link carries the rest");
        let sent = sent();
        assert_eq!(sent.exports.len(), 1, "it began again");
        assert!(sent.streams > 10, "{sent:?}");
        // A cut loses what is under way: the two chunks of its three seconds.
        assert!(sent.chunks <= whole + 10 * 3, "{} chunks were sent of a stream of {whole}", sent.chunks);
        assert!(cluster.network.fetched(1, 4).exports.is_empty() && cluster.network.fetched(3, 4).exports.is_empty());
        clerk.check(&cluster, 4).await;
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn records_come_from_a_follower_and_are_not_outdated_when_they_arrive() {
    under_seeds("snapshots::records_come_from_a_follower_and_are_not_outdated_when_they_arrive", async |_| {
        let mut clerk = Clerk::new(1);
        // Longer than two flushes: what the first one flushes the second one lets the log forget.
        let (cluster, adding) = joining_with(&mut clerk, SLOW / 2, 0).await;
        // Writes go on, and the logs are purged meanwhile, for as long as the records travel.
        clerk.padding = 0;
        while !adding.is_finished() {
            for record in 0..2 * KEEP_ENTRIES {
                clerk.put_surely(&cluster, &[1, 2, 3], record, PATIENCE).await;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        adding.await.expect("the leader runs").expect("a quiet cluster takes a node");
        // Which follower is the fit one depends on who has more just then.
        let [two, three] = [2, 3].map(|source| cluster.network.fetched(source, 4));
        assert_eq!(two.exports.len() + three.exports.len(), 1, "one transfer was enough");
        assert_eq!(two.streams + three.streams, 1);
        assert!(cluster.network.fetched(1, 4).exports.is_empty(), "the leader has other work");
        clerk.check(&cluster, 4).await;
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn source_that_crashes_midway_is_replaced_by_the_next() {
    under_seeds("snapshots::source_that_crashes_midway_is_replaced_by_the_next", async |_| {
        let mut clerk = Clerk::new(1);
        let (mut cluster, adding) = joining(&mut clerk).await;
        until("some chunks are on their way", PATIENCE, || cluster.network.fetched(2, 4).chunks >= 3).await;
        cluster.crash(2).await;
        let before = cluster.replica(4).expect("it runs").store().applied();
        assert_eq!(before.log_id, None, "half a state");
        adding.await.expect("the leader runs").expect("two nodes are left to send the records");
        assert_eq!(cluster.network.fetched(3, 4).exports.len(), 1);
        assert!(cluster.network.fetched(1, 4).exports.is_empty(), "the leader has other work");
        cluster.start(2).await;
        clerk.check(&cluster, 4).await;
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn pull_stops_before_the_disk_is_full_and_goes_on_once_there_is_room() {
    under_seeds("snapshots::pull_stops_before_the_disk_is_full_and_goes_on_once_there_is_room", async |_| {
        const MARK: u64 = 1 << 20;
        let mut clerk = Clerk::new(1);
        let (cluster, adding) = joining_with(&mut clerk, SLOW, MARK).await;
        let sent = || [1, 2, 3].map(|source| cluster.network.fetched(source, 4).chunks).into_iter().sum::<u64>();
        until("some chunks are on their way", PATIENCE, || sent() >= 3).await;
        cluster.disk(4).fill(MARK / 2);
        let low = || status(&cluster, 4).writes_refused.is_some();
        until("the node knows it", PATIENCE, low).await;
        // The whole stream would take a minute.
        tokio::time::sleep(Duration::from_secs(180)).await;
        let whole = stream_chunks(&cluster, 2);
        let before = cluster.replica(4).expect("it runs").store().applied();
        assert_eq!(before.log_id, None, "it took all {whole} chunks");
        assert!(!adding.is_finished());
        cluster.disk(4).set_capacity(u64::MAX);
        adding.await.expect("the leader runs").expect("there is room");
        clerk.check(&cluster, 4).await;
        replicas_are_equal(&cluster).await;
    });
}

//! Rows that are damaged where apply, or a start, needs them: the node takes another one's records before it takes part.

use std::time::Duration;

use futures::future::join_all;
use saola_jepsen::sim::{Clerk, Cluster, PATIENCE, records};
use saola_raft::CollectorSettings;
use saola_storage::command::{RetentionChange, RetentionLimits};
use saola_storage::engine::{Batch, Engine, EngineHome, Kind};
use saola_storage::error::StoreError;
use saola_storage::keyspace::{heads, meta, versions};

use super::{have_lead, leader, pick, replicas_are_equal, status, under_seeds, until};

/// The state machines are flushed, and the logs purged, within so long.
const FLUSHED: Duration = Duration::from_secs(35);
/// A collection begins a minute after the start of the nodes, when they confirm it.
const COLLECTED: Duration = Duration::from_secs(180);
const RECORDS: u64 = 20;
const ALL: [u64; 3] = [1, 2, 3];

/// Two generations of some records.
async fn fill(cluster: &mut Cluster) -> Clerk {
    cluster.init().await;
    let (mut clerk, nodes) = (Clerk::new(1), cluster.running());
    for round in 0..2 * RECORDS {
        clerk.put_surely(cluster, &nodes, round % RECORDS, PATIENCE).await;
    }
    clerk
}

fn head(record: u64) -> Vec<u8> {
    heads::key(1, format!("r{record}").as_bytes())
}

/// Damages a row on a node's disk so that it cannot be read, whatever becomes of the process.
fn rot(cluster: &Cluster, id: u64, kind: Kind, key: &[u8]) {
    flip(&*cluster.records(id).open_current().expect("memory opens"), kind, key);
}

/// Done a second time, it mends the row.
fn flip(engine: &dyn Engine, kind: Kind, key: &[u8]) {
    let mut value = engine.view().get(kind, key).expect("memory reads").expect("the row is there").to_vec();
    value[0] ^= 0x40;
    let mut batch = Batch::default();
    batch.put(kind, key.to_vec(), value);
    engine.write(batch).expect("memory writes");
    engine.flush().expect("memory flushes");
}

/// Writes another record and waits until it is applied everywhere: new views have rows as they are now.
async fn settle(cluster: &Cluster, clerk: &mut Clerk) {
    clerk.put_surely(cluster, &cluster.running(), 1, PATIENCE).await;
    let applied = |id| status(cluster, id).applied_index;
    let committed = status(cluster, leader(cluster).await).committed_index;
    until("all have applied it", PATIENCE, || cluster.running().into_iter().all(|id| applied(id) >= committed)).await;
}

fn others(id: u64) -> Vec<u64> {
    ALL.into_iter().filter(|other| *other != id).collect()
}

/// The node serves nothing of what it has found to be damaged, and ends.
async fn ends(cluster: &mut Cluster, id: u64) {
    until("it ends", COLLECTED, || status(cluster, id).state == "stopped").await;
    let replica = cluster.replica(id).expect("it was not taken away");
    let why = tokio::time::timeout(PATIENCE, replica.stopped()).await.expect("it has stopped");
    assert!(why.contains("start the node again: it takes them from another data node"), "{why}");
    assert!(matches!(replica.store().export(), Err(StoreError::Stopped { .. })));
    assert!(replica.store().held().is_some_and(|held| held.whole));
    if pick(&[true, false]) { cluster.crash(id).await } else { cluster.kill(id).await }
}

/// Starts a node that has to take another one's records, and waits until it takes part.
async fn comes_back(cluster: &mut Cluster, id: u64) {
    cluster.start(id).await;
    assert!(status(cluster, id).scrub.bad, "it knows what its records are worth");
    until("it has other records", PATIENCE, || status(cluster, id).scrub.repairs == 1).await;
    until("it takes part", PATIENCE, || status(cluster, id).leader.is_some()).await;
    assert!(!status(cluster, id).scrub.bad);
}

async fn nothing_is_lost(cluster: &Cluster, clerk: &mut Clerk) {
    clerk.put_surely(cluster, &cluster.running(), 7, PATIENCE).await;
    for node in cluster.running() {
        clerk.check(cluster, node).await;
    }
    replicas_are_equal(cluster).await;
}

#[test]
fn node_that_meets_a_damaged_head_in_apply_comes_back_with_another_ones_records() {
    under_seeds("ruin::node_that_meets_a_damaged_head_in_apply_comes_back_with_another_ones_records", async |_| {
        let mut cluster = Cluster::new(3, false);
        let mut clerk = fill(&mut cluster).await;
        let victim = pick(&ALL);
        rot(&cluster, victim, Kind::Heads, &head(7));
        settle(&cluster, &mut clerk).await;
        clerk.put_surely(&cluster, &ALL, 7, PATIENCE).await;
        ends(&mut cluster, victim).await;
        for record in 0..pick(&[0, RECORDS]) {
            clerk.put_surely(&cluster, &others(victim), record, PATIENCE).await;
        }
        comes_back(&mut cluster, victim).await;
        nothing_is_lost(&cluster, &mut clerk).await;
        assert!(others(victim).into_iter().all(|id| status(&cluster, id).scrub.repairs == 0));
        // And stays so.
        cluster.kill(victim).await;
        cluster.start(victim).await;
        nothing_is_lost(&cluster, &mut clerk).await;
    });
}

#[test]
fn node_that_meets_a_damaged_version_in_a_collection_comes_back_with_another_ones_records() {
    under_seeds(
        "ruin::node_that_meets_a_damaged_version_in_a_collection_comes_back_with_another_ones_records",
        async |_| {
            let mut cluster = Cluster::new(3, false);
            cluster.collector =
                CollectorSettings { pass_every: Duration::from_secs(1), ..CollectorSettings::default() };
            let mut clerk = fill(&mut cluster).await;
            let victim = pick(&ALL);
            rot(&cluster, victim, Kind::Versions, &versions::key(1, b"r7", 1));
            settle(&cluster, &mut clerk).await;
            let keep_one = RetentionChange::Limits(RetentionLimits { max_generations: 1, max_age_ms: 0 });
            let through = cluster.replica(others(victim)[0]).expect("it runs");
            through
                .propose(records::set_retention(1, keep_one), PATIENCE)
                .await
                .expect("a quiet cluster takes a policy");
            ends(&mut cluster, victim).await;
            comes_back(&mut cluster, victim).await;
            let kept = |id| cluster.replica(id).expect("it runs").store().view().counts().versions;
            until("all is collected", COLLECTED, || ALL.into_iter().all(|id| kept(id) == RECORDS)).await;
            replicas_are_equal(&cluster).await;
        },
    );
}

#[test]
fn former_leader_whose_records_do_not_open_gives_up_its_uncommitted_entries_and_nothing_else() {
    under_seeds(
        "ruin::former_leader_whose_records_do_not_open_gives_up_its_uncommitted_entries_and_nothing_else",
        async |seed| {
            let mut cluster = Cluster::new(3, false);
            cluster.keep_entries = 5;
            let mut clerk = fill(&mut cluster).await;
            tokio::time::sleep(FLUSHED).await;
            have_lead(&cluster, 1).await;
            cluster.part(&[1], &[2, 3]);
            // One entry each, as long as the leader has so many under way: more than the others write at least.
            let mut strangers: Vec<Clerk> = (2..2 + 4 * (seed % 2)).map(Clerk::new).collect();
            let fates = (0..).zip(&mut strangers).map(|(turn, stranger)| {
                let cluster = &cluster;
                async move {
                    tokio::time::sleep(turn * Duration::from_millis(20)).await;
                    stranger.put(cluster, 1, RECORDS).await
                }
            });
            for fate in join_all(fates).await {
                assert!(fate.is_err(), "nobody else has it: {fate:?}");
            }
            for record in 0..pick(&[1, RECORDS]) {
                clerk.put_surely(&cluster, &[2, 3], record, PATIENCE).await;
            }
            cluster.kill(1).await;
            cluster.network.heal();
            rot(&cluster, 1, Kind::Meta, meta::APPLIED);
            if pick(&[true, false]) {
                tokio::time::sleep(FLUSHED).await;
            }
            comes_back(&mut cluster, 1).await;
            nothing_is_lost(&cluster, &mut clerk).await;
        },
    );
}

#[test]
fn one_sound_copy_mends_all_others_without_a_leader() {
    under_seeds("ruin::one_sound_copy_mends_all_others_without_a_leader", async |_| {
        let mut cluster = Cluster::new(3, false);
        let mut clerk = fill(&mut cluster).await;
        let sound = pick(&ALL);
        for victim in others(sound) {
            rot(&cluster, victim, Kind::Heads, &head(7));
        }
        settle(&cluster, &mut clerk).await;
        // Its outcome is unknown to the client for as long as too few take part.
        let _unknown = clerk.put(&cluster, sound, 7).await;
        for victim in others(sound) {
            ends(&mut cluster, victim).await;
        }
        for victim in others(sound) {
            cluster.start(victim).await;
        }
        let mended = |id| status(&cluster, id).scrub.repairs == 1 && status(&cluster, id).leader.is_some();
        until("both are mended", PATIENCE, || others(sound).into_iter().all(mended)).await;
        clerk.again_surely(&cluster, &ALL, PATIENCE).await;
        nothing_is_lost(&cluster, &mut clerk).await;
    });
}

/// Damages the same row everywhere and has it applied to; answers which nodes have ended of it.
async fn all_meet_damage(cluster: &mut Cluster, clerk: &mut Clerk) -> Vec<u64> {
    let nodes = cluster.running();
    for id in &nodes {
        rot(cluster, *id, Kind::Heads, &head(7));
    }
    settle(cluster, clerk).await;
    let fate = clerk.put(cluster, 1, 7).await;
    assert!(fate.is_err(), "nobody can apply it: {fate:?}");
    // Two end: the last one hears of no commit any more.
    let stopped = |cluster: &Cluster| {
        let stopped = |id: &&u64| status(cluster, **id).state == "stopped";
        nodes.iter().filter(stopped).copied().collect::<Vec<u64>>()
    };
    until("those end that must apply", PATIENCE, || stopped(cluster).len() >= nodes.len().min(2)).await;
    let ended = stopped(cluster);
    for id in &ended {
        ends(cluster, *id).await;
    }
    ended
}

#[test]
fn records_that_no_disk_gave_for_a_while_are_used_again_once_they_read_whole() {
    under_seeds("ruin::records_that_no_disk_gave_for_a_while_are_used_again_once_they_read_whole", async |seed| {
        let mut cluster = Cluster::new(if seed % 2 == 0 { 1 } else { 3 }, false);
        let mut clerk = fill(&mut cluster).await;
        let nodes = cluster.running();
        let ended = all_meet_damage(&mut cluster, &mut clerk).await;
        for id in cluster.running() {
            cluster.kill(id).await;
        }
        let mend = |cluster: &Cluster| {
            for id in &nodes {
                let engine = cluster.records(*id).open_condemned().expect("memory opens");
                flip(&*engine, Kind::Heads, &head(7));
            }
        };
        // A node alone refuses to start as long as its disk fails, the others wait.
        let waiting = if nodes.len() > 1 && pick(&[true, false]) { ended } else { Vec::new() };
        for id in &waiting {
            cluster.start(*id).await;
        }
        tokio::time::sleep(PATIENCE).await;
        mend(&cluster);
        for id in nodes.iter().filter(|id| !waiting.contains(id)) {
            cluster.start(*id).await;
        }
        let takes_part = |id: &u64| status(&cluster, *id).leader.is_some() && !status(&cluster, *id).scrub.bad;
        until("all take part", 4 * PATIENCE, || nodes.iter().all(takes_part)).await;
        clerk.again_surely(&cluster, &nodes, PATIENCE).await;
        nothing_is_lost(&cluster, &mut clerk).await;
    });
}

#[test]
fn without_a_sound_copy_the_nodes_wait_and_say_so_and_a_node_alone_refuses_to_start() {
    under_seeds(
        "ruin::without_a_sound_copy_the_nodes_wait_and_say_so_and_a_node_alone_refuses_to_start",
        async |seed| {
            let alone = seed % 2 == 0;
            let mut cluster = Cluster::new(if alone { 1 } else { 3 }, false);
            let mut clerk = fill(&mut cluster).await;
            let ended = all_meet_damage(&mut cluster, &mut clerk).await;
            if alone {
                cluster.start(1).await;
                let replica = cluster.replica(1).expect("it looks at its records");
                let refused = tokio::time::timeout(PATIENCE, replica.stopped()).await.expect("it refuses");
                for part in ["drill/r7", "read once more", "restore a backup", "saola cluster replace"] {
                    assert!(refused.contains(part), "{part:?} in: {refused}");
                }
                return;
            }
            cluster.start_all().await;
            tokio::time::sleep(2 * PATIENCE).await;
            // What the last one sends does not hold together.
            for id in ended {
                let status = status(&cluster, id);
                assert_eq!((status.state, status.scrub.bad, status.leader), ("refused", true, None));
                let why = status.refused_by_peers.expect("it says why");
                for part in ["drill/r7 cannot be read", "waits for those of another data node", "restore a backup"] {
                    assert!(why.contains(part), "{part:?} in: {why}");
                }
            }
        },
    );
}

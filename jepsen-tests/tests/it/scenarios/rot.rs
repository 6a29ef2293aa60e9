//! Bits of the log that flip, or sectors that go bad, while a node is down: it comes back whole, from what the others have.

use std::time::Duration;

use saola_jepsen::sim::promote::name_approvers;
use saola_jepsen::sim::{Clerk, Cluster, PATIENCE};
use saola_raft::repair::RepairError;
use saola_raft::sim::random_u64;
use saola_raft::{Role, StartError};
use saola_storage::disk::Disk;
use saola_storage::disk::sim::SimDisk;
use saola_storage::log::{Item, LogError, Record, examine};

use super::{have_lead, leader, on, pick, replicas_are_equal, status, under_seeds, until};

/// The state machines are flushed, and the log is marked, within so long.
const FLUSHED: Duration = Duration::from_secs(35);

/// What a bad sector takes with it.
const PAGE: u64 = 4096;

/// A segment file and where its records stand, oldest first; with each whether a later record proves it synced.
struct Place {
    name: String,
    offset: u64,
    is_entry: bool,
    proven: bool,
}

/// All records of a node's log.
fn places(disk: &SimDisk) -> Vec<Place> {
    let (mut places, mut proven) = (Vec::new(), Vec::new());
    let found = examine(disk, None, |item| {
        if let Item::Record { segment, offset, synced, record } = item {
            proven.push((segment, synced));
            let is_entry = matches!(record, Record::Entry(..));
            places.push((segment, Place { name: format!("{segment:016x}.seg"), offset, is_entry, proven: false }));
        }
    });
    let newest = found.expect("the disk reads").newest;
    let synced = proven.iter().filter(|(segment, _)| *segment == newest).map(|(_, synced)| *synced).max().unwrap_or(0);
    let judged = places.into_iter().map(|(segment, mut place)| {
        place.proven = segment < newest || place.offset < synced;
        place
    });
    judged.collect()
}

/// The entries of a node's log that a later record proves to have been synced.
fn proven_entries(disk: &SimDisk) -> Vec<Place> {
    places(disk).into_iter().filter(|place| place.proven && place.is_entry).collect()
}

fn flip(disk: &SimDisk, place: &Place) {
    assert!(disk.flip_bit(&place.name, place.offset + 16 + random_u64() % 24, (random_u64() % 8) as u8));
}

/// A cluster whose nodes have flushed once, so that each knows the others, and have written some more since.
async fn settled(mut cluster: Cluster, clerk: &mut Clerk) -> Cluster {
    cluster.init().await;
    let nodes = cluster.running();
    for record in 0..10 {
        clerk.put_surely(&cluster, &nodes, record, PATIENCE).await;
    }
    let written = nodes.iter().map(|id| status(&cluster, *id).last_log_index).max();
    let has_flushed = |id: &u64| cluster.replica(*id).and_then(|it| it.store().flushed()).map(|at| at.index) >= written;
    until("all have flushed what was written", 2 * FLUSHED, || nodes.iter().all(has_flushed)).await;
    for record in 0..20 {
        clerk.put_surely(&cluster, &nodes, record, PATIENCE).await;
    }
    cluster
}

/// Waits until a node's log proves all of its entries to be synced: what is damaged then is rot.
async fn until_marked(cluster: &Cluster, id: u64) {
    let is_marked = || places(cluster.disk(id)).iter().all(|place| !place.is_entry || place.proven);
    let began = tokio::time::Instant::now();
    while !is_marked() {
        assert!(began.elapsed() < PATIENCE, "node {id} never marks its log");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Starts a node whose log is damaged, and sees that a plain start would have refused it.
async fn comes_back(cluster: &mut Cluster, clerk: &Clerk, id: u64) {
    assert_ne!(examine(cluster.disk(id), None, |_| {}).expect("the disk reads").damaged, 0, "it is damaged");
    cluster.start(id).await;
    let names = cluster.disk(id).list().expect("the disk reads");
    assert!(names.iter().any(|name| name.ends_with(".rot")), "the damaged segment is kept: {names:?}");
    if cluster.running().contains(&id) {
        clerk.check(cluster, id).await;
    }
}

/// Sees that the cluster takes a write, that all nodes that run have all that was acknowledged, and are equal.
async fn goes_on(cluster: &Cluster, clerk: &mut Clerk, through: &[u64]) {
    clerk.put_surely(cluster, through, 0, PATIENCE).await;
    for node in cluster.running() {
        clerk.check(cluster, node).await;
    }
    replicas_are_equal(cluster).await;
}

#[test]
fn node_whose_log_has_rotted_repairs_itself_from_its_peers() {
    under_seeds("rot::node_whose_log_has_rotted_repairs_itself_from_its_peers", async |seed| {
        let mut clerk = Clerk::new(1);
        let mut cluster = settled(Cluster::two_sites(), &mut clerk).await;
        // A follower, the former leader, or the witness.
        let lead = leader(&cluster).await;
        let id = match seed % 3 {
            0 => lead,
            1 => 5,
            _ => pick(&[1, 2, 3, 4].into_iter().filter(|id| *id != lead).collect::<Vec<_>>()),
        };
        until_marked(&cluster, id).await;
        if seed % 2 == 0 {
            cluster.crash(id).await;
        } else {
            cluster.kill(id).await;
        }
        let others: Vec<u64> = [1, 2, 3, 4].into_iter().filter(|other| *other != id).collect();
        for record in 0..20 {
            clerk.put_surely(&cluster, &others, record, PATIENCE).await;
        }
        let proven = proven_entries(cluster.disk(id));
        let newest = &proven[proven.len() - 1 - (random_u64() % 8) as usize];
        flip(cluster.disk(id), newest);
        if cluster.try_start(id).await.is_err() {
            panic!("the vote stands in the mark of an idle second, and the others have the entries");
        }
        let names = cluster.disk(id).list().expect("the disk reads");
        assert!(names.iter().any(|name| name.ends_with(".rot")), "the damaged segment is kept: {names:?}");
        goes_on(&cluster, &mut clerk, &others).await;
    });
}

#[test]
fn node_with_bad_sectors_in_its_log_repairs_itself_from_its_peers() {
    under_seeds("rot::node_with_bad_sectors_in_its_log_repairs_itself_from_its_peers", async |_| {
        let mut clerk = Clerk::new(1);
        let mut cluster = settled(Cluster::two_sites(), &mut clerk).await;
        for _ in 0..3 {
            let id = pick(&[1, 2, 3, 4, 5]);
            let others: Vec<u64> = [1, 2, 3, 4].into_iter().filter(|other| *other != id).collect();
            // Some of it is marked, and the newest mark does not stand on a page of theirs.
            for record in 0..40 {
                clerk.put_surely(&cluster, &others, record, PATIENCE).await;
            }
            until_marked(&cluster, id).await;
            match pick(&[true, false]) {
                true => cluster.crash(id).await,
                false => cluster.kill(id).await,
            }
            for record in 0..pick(&[0, 3, 30]) {
                clerk.put_surely(&cluster, &others, record, PATIENCE).await;
            }
            let places = places(cluster.disk(id));
            let page = |place: &Place| (place.name.clone(), place.offset / PAGE);
            let last = places.last().map(page);
            let lost: Vec<_> = places.iter().map(page).filter(|page| Some(page) != last.as_ref()).collect();
            for _ in 0..pick(&[1, 2]) {
                let (name, page) = &lost[(random_u64() % lost.len() as u64) as usize];
                assert!(cluster.disk(id).make_unreadable(name, page * PAGE..page * PAGE + 512));
            }
            comes_back(&mut cluster, &clerk, id).await;
            clerk.put_surely(&cluster, &others, 0, PATIENCE).await;
        }
        for node in cluster.running() {
            clerk.check(&cluster, node).await;
        }
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn rotten_log_is_repaired_though_its_node_still_counts_on_a_member_that_is_gone() {
    under_seeds("rot::rotten_log_is_repaired_though_its_node_still_counts_on_a_member_that_is_gone", async |seed| {
        let mut clerk = Clerk::new(1);
        let mut cluster = Cluster::two_sites();
        (cluster.keep_entries, cluster.log_keep_for) = (10, Duration::from_secs(1));
        let mut cluster = settled(cluster, &mut clerk).await;
        // The witness needs no more what all have purged; a data node finds somebody who still has it.
        let (id, gone) = if seed % 2 == 0 { (5, 4) } else { (4, 2) };
        until_marked(&cluster, id).await;
        cluster.kill(id).await;
        let place = proven_entries(cluster.disk(id)).pop().expect("it has entries");
        flip(cluster.disk(id), &place);
        cluster.kill(gone).await;
        let lead = leader(&cluster).await;
        let site = if gone == 4 { "dr" } else { "main" };
        let member = cluster.add(6, site, Role::Voter);
        cluster.start(6).await;
        on(&cluster, lead, move |replica| async move { replica.replace_member(gone, member).await })
            .await
            .expect("a quorum is there");
        if id == 5 {
            name_approvers(&cluster, lead).await;
            let others = cluster.running();
            let named = status(&cluster, lead).last_log_index;
            for record in 0..20 {
                clerk.put_surely(&cluster, &others, record, PATIENCE).await;
            }
            let have_purged = || {
                let purged = |id: &u64| cluster.log(*id).and_then(|log| log.last_purged).map(|last| last.index);
                others.iter().all(|id| purged(id) > Some(named))
            };
            until("nobody has its entries any more", 6 * FLUSHED, have_purged).await;
        }
        // Nobody ever starts the one that was replaced again.
        let comes_back = tokio::time::timeout(PATIENCE, cluster.try_start(id)).await;
        comes_back.expect("it waits for nobody who is gone").expect("what is missing is there, or nobody needs it");
        until("it takes part again", PATIENCE, || {
            ["leader", "follower", "witness"].contains(&status(&cluster, id).state)
        })
        .await;
        if id == 5 {
            // What fences a witness is approved by those who were named while it was down.
            let knows = || cluster.replica(5).is_some_and(|witness| witness.store().approvers().len() == 1);
            until("it knows who may approve", PATIENCE, knows).await;
        }
        let through = cluster.running();
        goes_on(&cluster, &mut clerk, &through[..2]).await;
    });
}

#[test]
fn rot_in_the_newest_record_loses_nothing_acknowledged_and_waits_for_who_has_it() {
    under_seeds("rot::rot_in_the_newest_record_loses_nothing_acknowledged_and_waits_for_who_has_it", async |_| {
        let mut clerk = Clerk::new(1);
        let mut cluster = settled(Cluster::new(3, false), &mut clerk).await;
        have_lead(&cluster, 1).await;
        // Only 1 and 2 have the newest writes; 2 goes down, then 1 with the rot, and 3 alone knows nothing of them.
        cluster.kill(3).await;
        for record in 0..5 {
            clerk.put_surely(&cluster, &[1, 2], record, PATIENCE).await;
        }
        until_marked(&cluster, 1).await;
        cluster.kill(2).await;
        cluster.kill(1).await;
        let proven = proven_entries(cluster.disk(1));
        flip(cluster.disk(1), proven.last().expect("it has entries"));
        cluster.start(3).await;
        let waiting = tokio::time::timeout(Duration::from_secs(20), cluster.try_start(1)).await;
        assert!(waiting.is_err(), "nobody who is there has what is missing");
        cluster.kill(1).await;
        cluster.start(2).await;
        comes_back(&mut cluster, &clerk, 1).await;
        goes_on(&cluster, &mut clerk, &[1, 2, 3]).await;
    });
}

#[test]
fn node_whose_vote_may_be_hidden_by_damage_refuses_to_start() {
    under_seeds("rot::node_whose_vote_may_be_hidden_by_damage_refuses_to_start", async |_| {
        let mut clerk = Clerk::new(1);
        let mut cluster = settled(Cluster::new(3, false), &mut clerk).await;
        for record in 0..5 {
            clerk.put_surely(&cluster, &[1, 2, 3], record, PATIENCE).await;
        }
        // Killed while it is busy: no mark stands behind the newest entries.
        cluster.kill(3).await;
        let places = places(cluster.disk(3));
        let newest = places.iter().rev().find(|place| place.proven && place.is_entry).expect("it has entries");
        flip(cluster.disk(3), newest);
        let refused = cluster.try_start(3).await.expect_err("it could vote twice");
        let StartError::Log { source: refused, .. } = refused else { panic!("{refused}") };
        let RepairError::Hopeless { damage: LogError::Rot { .. }, .. } = &refused else { panic!("{refused}") };
        for part in ["segment", "byte", "log index", "vote twice", "saola cluster replace 3"] {
            assert!(refused.to_string().contains(part), "{part:?} in: {refused}");
        }
        clerk.put_surely(&cluster, &[1, 2], 0, PATIENCE).await;
        clerk.check(&cluster, 1).await;
    });
}

#[test]
fn entry_found_damaged_while_the_node_runs_ends_it_and_the_next_start_repairs_it() {
    under_seeds("rot::entry_found_damaged_while_the_node_runs_ends_it_and_the_next_start_repairs_it", async |_| {
        let mut clerk = Clerk::new(1);
        let mut cluster = settled(Cluster::new(3, false), &mut clerk).await;
        have_lead(&cluster, 1).await;
        cluster.kill(3).await;
        clerk.padding = 8 << 10;
        // More than the log keeps in memory, so that the entries for 3 are read from the disk.
        for record in 0..3 {
            clerk.put_surely(&cluster, &[1, 2], record, PATIENCE).await;
        }
        until_marked(&cluster, 1).await;
        cluster.kill(1).await;
        cluster.start(1).await;
        // After a start nothing of the log is in memory.
        have_lead(&cluster, 1).await;
        let last = cluster.log(3).map_or(0, |log| log.last.map_or(0, |last| last.index));
        let entries = proven_entries(cluster.disk(1));
        assert!(last == 0 && entries.len() > 4);
        flip(cluster.disk(1), &entries[entries.len() - 3]);
        cluster.start(3).await;
        until("the leader meets the damage and ends", PATIENCE, || status(&cluster, 1).state == "stopped").await;
        cluster.kill(1).await;
        comes_back(&mut cluster, &clerk, 1).await;
        goes_on(&cluster, &mut clerk, &[1, 2, 3]).await;
    });
}

#[test]
fn random_flips_on_one_node_after_the_other_lose_nothing() {
    under_seeds("rot::random_flips_on_one_node_after_the_other_lose_nothing", async |_| {
        let mut clerk = Clerk::new(1);
        let mut cluster = settled(Cluster::two_sites(), &mut clerk).await;
        for _ in 0..6 {
            let id = pick(&[1, 2, 3, 4, 5]);
            let others: Vec<u64> = [1, 2, 3, 4].into_iter().filter(|other| *other != id).collect();
            for record in 0..pick(&[0, 3, 30]) {
                clerk.put_surely(&cluster, &others, record, PATIENCE).await;
            }
            until_marked(&cluster, id).await;
            match pick(&[true, false]) {
                true => cluster.crash(id).await,
                false => cluster.kill(id).await,
            }
            for record in 0..pick(&[0, 3, 30]) {
                clerk.put_surely(&cluster, &others, record, PATIENCE).await;
            }
            let proven: Vec<Place> = places(cluster.disk(id)).into_iter().filter(|place| place.proven).collect();
            let mut in_heads = false;
            for _ in 0..pick(&[1, 2, 5]) {
                let place = &proven[(random_u64() % proven.len() as u64) as usize];
                match random_u64() % 8 {
                    0 => {
                        in_heads = true;
                        assert!(cluster.disk(id).flip_bit(&place.name, random_u64() % 144, 1));
                    }
                    _ => flip(cluster.disk(id), place),
                }
            }
            if let Err(refused) = cluster.try_start(id).await {
                // The head of a young segment and all marks behind it: no certain copy of its vote is left.
                let hopeless = matches!(&refused, StartError::Log { source: RepairError::Hopeless { .. }, .. });
                assert!(hopeless && in_heads, "{refused:?}");
                clerk.put_surely(&cluster, &others, 0, PATIENCE).await;
                for node in cluster.running() {
                    clerk.check(&cluster, node).await;
                }
                return;
            }
            clerk.put_surely(&cluster, &others, 0, PATIENCE).await;
            for node in cluster.running() {
                clerk.check(&cluster, node).await;
            }
        }
        replicas_are_equal(&cluster).await;
    });
}

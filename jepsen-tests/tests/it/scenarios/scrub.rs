//! Copies of the records that go bad: found, named, not served, and replaced without an operator.

use std::time::Duration;

use saola_jepsen::sim::{Clerk, Cluster, PATIENCE, records};
use saola_raft::{AdminError, ScrubSettings, ScrubStatus};
use saola_storage::digest::{Item, StateDigest};
use saola_storage::engine::{Batch, EngineHome, Kind};
use saola_storage::error::StoreError;
use saola_storage::keyspace::{changes, versions};
use saola_storage::store::At;

use super::{have_lead, leader, leads, on, pick, replicas_are_equal, status, under_seeds, until};

/// Passes and comparisons come so soon that a run sees several.
const OFTEN: ScrubSettings =
    ScrubSettings { bytes_per_s: 1 << 20, every: Duration::from_secs(40), compare_every: Duration::from_secs(15) };
/// By then a pass has begun and ended, and what it found is mended.
const MENDED: Duration = Duration::from_secs(180);
const RECORDS: u64 = 20;

/// A cluster of voters, the last of them a witness if asked for, with some records.
async fn filled(size: u64, witness: bool) -> (Cluster, Clerk) {
    let mut cluster = Cluster::new(size, witness);
    cluster.scrub = OFTEN;
    cluster.init().await;
    let mut clerk = Clerk::new(1);
    let all = cluster.running();
    for round in 0..2 * RECORDS {
        clerk.put_surely(&cluster, &all, round % RECORDS, PATIENCE).await;
    }
    (cluster, clerk)
}

fn scrub(cluster: &Cluster, id: u64) -> ScrubStatus {
    status(cluster, id).scrub
}

/// A row with one bit flipped. In a version that is in the envelope, by far its longest field.
fn flipped(cluster: &Cluster, id: u64, kind: Kind, key: &[u8]) -> Vec<u8> {
    let engine = cluster.records(id).open_current().expect("memory opens");
    let mut value = engine.view().get(kind, key).expect("memory reads").expect("the row is there").to_vec();
    let place = value.len() / 3;
    value[place] ^= 1;
    value
}

/// Flips a bit in the newest version of a record on a node's disk.
fn damage(cluster: &Cluster, id: u64, record: u64) {
    let key = versions::key(1, format!("r{record}").as_bytes(), 2);
    let mut batch = Batch::default();
    batch.put(Kind::Versions, key.clone(), flipped(cluster, id, Kind::Versions, &key));
    cluster.records(id).open_current().expect("memory opens").write(batch).expect("memory writes");
}

/// Changes a row and the kept sums alike, as if apply had written it so, on a node that does not run.
fn rewrite(cluster: &Cluster, id: u64, kind: Kind, key: &[u8]) {
    let engine = cluster.records(id).open_current().expect("memory opens");
    let view = engine.view();
    let old = view.get(kind, key).expect("memory reads").expect("the row is there");
    let new = flipped(cluster, id, kind, key);
    let mut digest = StateDigest::load(&*view).expect("it has sums");
    digest.remove(Item::new(kind, key, &old));
    digest.add(Item::new(kind, key, &new));
    let mut batch = Batch::default();
    batch.put(kind, key.to_vec(), new);
    digest.write(&mut batch);
    engine.write(batch).expect("memory writes");
    engine.flush().expect("memory flushes");
}

/// Reads a record where it is, without a barrier.
fn read(cluster: &Cluster, id: u64, record: u64) -> Result<bool, StoreError> {
    let view = cluster.replica(id).expect("it runs").store().view();
    let drill = view.collection("drill").expect("it was made");
    let found = view.get(&drill, format!("r{record}").as_bytes(), At::Revision(view.applied().revision));
    found.map(|version| version.is_some())
}

/// Waits until a node's copy was replaced and a pass has found all rows right.
async fn mended(cluster: &Cluster, id: u64) {
    until("the bad copy is replaced", MENDED, || scrub(cluster, id).repairs > 0).await;
    let passes = scrub(cluster, id).passes;
    until("a pass proves it", MENDED, || scrub(cluster, id).passes > passes).await;
    let now = scrub(cluster, id);
    assert_eq!((now.bad, now.quarantined_buckets, now.alarm), (false, 0, None));
}

#[test]
fn a_damaged_row_is_found_named_not_served_and_mended_by_itself() {
    under_seeds("scrub::a_damaged_row_is_found_named_not_served_and_mended_by_itself", async |_| {
        let (cluster, mut clerk) = filled(3, false).await;
        let victim = pick(&[1, 2, 3]);
        damage(&cluster, victim, 7);
        // A new view has the row as it is now.
        clerk.put_surely(&cluster, &[1, 2, 3], 1, PATIENCE).await;
        until("the damage is found", MENDED, || scrub(&cluster, victim).bad || scrub(&cluster, victim).repairs > 0)
            .await;
        if scrub(&cluster, victim).bad {
            let alarm = scrub(&cluster, victim).alarm.expect("it is alarming");
            assert!(alarm.contains("drill/r7 g2"), "{alarm}");
            // At first the damage itself refuses the read, then the whole bucket is held back until it is mended.
            let refused = || matches!(read(&cluster, victim, 7), Err(StoreError::Corrupt { .. }));
            until("the read no longer meets the damage", MENDED, || !refused()).await;
            assert!(matches!(read(&cluster, victim, 7), Err(StoreError::Quarantined { .. })));
        }
        // Writes go on meanwhile.
        for record in 0..RECORDS {
            clerk.put_surely(&cluster, &[1, 2, 3], record, PATIENCE).await;
        }
        mended(&cluster, victim).await;
        for node in 1..=3 {
            clerk.check(&cluster, node).await;
        }
        replicas_are_equal(&cluster).await;
        let others = (1..=3).filter(|id| *id != victim);
        assert!(others.into_iter().all(|id| scrub(&cluster, id).repairs == 0), "only the bad copy is replaced");
    });
}

#[test]
fn a_leader_whose_copy_is_bad_hands_over_and_is_mended() {
    under_seeds("scrub::a_leader_whose_copy_is_bad_hands_over_and_is_mended", async |_| {
        let (cluster, mut clerk) = filled(3, false).await;
        have_lead(&cluster, 1).await;
        damage(&cluster, 1, 3);
        clerk.put_surely(&cluster, &[1, 2, 3], 1, PATIENCE).await;
        until("it leads no more", MENDED, || !leads(&cluster, 1)).await;
        mended(&cluster, 1).await;
        clerk.check(&cluster, 1).await;
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn a_read_that_meets_damage_fails_alone_and_has_it_mended() {
    under_seeds("scrub::a_read_that_meets_damage_fails_alone_and_has_it_mended", async |_| {
        let mut cluster = Cluster::new(3, false);
        cluster.init().await;
        let mut clerk = Clerk::new(1);
        for round in 0..2 * RECORDS {
            clerk.put_surely(&cluster, &[1, 2, 3], round % RECORDS, PATIENCE).await;
        }
        damage(&cluster, 2, 7);
        clerk.put_surely(&cluster, &[1, 2, 3], 1, PATIENCE).await;
        assert!(matches!(read(&cluster, 2, 7), Err(StoreError::Corrupt { .. })));
        assert!(read(&cluster, 2, 8).unwrap());
        // With the usual settings no pass would begin by itself for minutes.
        let took = until("the bad copy is replaced", MENDED, || scrub(&cluster, 2).repairs > 0).await;
        assert!(took < Duration::from_secs(30), "{took:?}");
        clerk.check(&cluster, 2).await;
        replicas_are_equal(&cluster).await;
    });
}

/// Two data nodes and a witness; on node 1 a row was rewritten together with its sums.
async fn tie(kind: Kind, key: &[u8]) -> (Cluster, Clerk) {
    let (mut cluster, clerk) = filled(3, true).await;
    cluster.stop(1).await;
    rewrite(&cluster, 1, kind, key);
    cluster.start(1).await;
    leader(&cluster).await;
    (cluster, clerk)
}

#[test]
fn a_tie_of_two_copies_is_decided_by_the_rows_own_checks() {
    under_seeds("scrub::a_tie_of_two_copies_is_decided_by_the_rows_own_checks", async |_| {
        let (cluster, mut clerk) = tie(Kind::Versions, &versions::key(1, b"r7", 1)).await;
        clerk.put_surely(&cluster, &[1, 2], 1, PATIENCE).await;
        mended(&cluster, 1).await;
        until("the right copy is served again", MENDED, || scrub(&cluster, 2).quarantined_buckets == 0).await;
        assert_eq!(scrub(&cluster, 2).repairs, 0);
        clerk.check(&cluster, 1).await;
        clerk.check(&cluster, 2).await;
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn a_tie_that_no_check_decides_is_not_served_until_an_operator_names_a_copy() {
    under_seeds("scrub::a_tie_that_no_check_decides_is_not_served_until_an_operator_names_a_copy", async |_| {
        let (cluster, mut clerk) = tie(Kind::Changes, &changes::key(10)).await;
        clerk.put_surely(&cluster, &[1, 2], 1, PATIENCE).await;
        let held = |id| scrub(&cluster, id).quarantined_buckets;
        until("neither serves what differs", MENDED, || held(1) == 1 && held(2) == 1).await;
        tokio::time::sleep(MENDED).await;
        assert_eq!((held(1), held(2)), (1, 1));
        assert_eq!((scrub(&cluster, 1).repairs, scrub(&cluster, 2).repairs), (0, 0));
        for id in [1, 2] {
            let alarm = scrub(&cluster, id).alarm.expect("it is alarming");
            assert!(alarm.contains("copies differ in 1 of 4096 buckets"), "{alarm}");
            let view = cluster.replica(id).unwrap().store().view();
            assert!(matches!(view.revision_at_time(0), Err(StoreError::Quarantined { .. }) | Ok(_)));
        }
        // Writes and reads of other rows go on.
        clerk.put_surely(&cluster, &[1, 2], 2, PATIENCE).await;
        assert!(read(&cluster, 2, 2).unwrap());
        let refused = on(&cluster, 2, |replica| async move { replica.replace_copy(3).await }).await;
        assert!(matches!(refused, Err(AdminError::Invalid(_))), "a witness has no copy: {refused:?}");
        on(&cluster, 2, |replica| async move { replica.replace_copy(1).await }).await.unwrap();
        mended(&cluster, 1).await;
        until("the other is served again", MENDED, || held(2) == 0).await;
        records::compare_digests(&cluster).await.unwrap();
        clerk.check(&cluster, 1).await;
        clerk.check(&cluster, 2).await;
    });
}

//! Promises about a node's records in a lineage of their own.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use saola_storage::disk::RealDisk;
use saola_storage::engine::rocks::{RocksHome, RocksSettings};
use saola_storage::folder::{DataFolder, FolderClaim};
use saola_storage::fork::{Fork, ForkError, NewLineage};
use saola_storage::log::{Log, LogSettings};
use saola_storage::member::{Member, MembershipRecord, Role, Seat, VoterSet};
use saola_storage::store::{ApplyEntry, ApplyPayload, At, Keeps, Store, StoreSettings};

use crate::state_support::*;

fn claim() -> FolderClaim {
    FolderClaim { node_id: 2, name: "dr-1".into(), site: "dr".into(), role: Role::Voter }
}

fn lineage() -> NewLineage {
    NewLineage {
        cluster_id: [9; 16],
        cluster_name: "test-drill".into(),
        epoch: 3,
        peer_address: "127.0.0.1:1".into(),
        client_address: "127.0.0.1:2".into(),
    }
}

/// A cluster of two with some records, as a stream.
fn sent() -> (Store, Vec<Bytes>) {
    let store = started(&memory_home());
    let member = |node_id, name: &str, role: Role| Member {
        node_id,
        name: name.into(),
        site: name.split('-').next().unwrap_or_default().into(),
        role: role as i32,
        peer_address: format!("10.0.0.{node_id}:7101"),
        client_address: format!("10.0.0.{node_id}:7001"),
        folder_id: vec![node_id as u8; 16].into(),
        demoted: false,
    };
    let seats = [member(1, "main-1", Role::Voter), member(2, "dr-1", Role::Voter), member(3, "third", Role::Witness)];
    let record = MembershipRecord {
        configs: vec![VoterSet { node_ids: vec![1, 2, 3] }],
        seats: seats.into_iter().map(|it| Seat { node_id: it.node_id, member: Some(it) }).collect(),
    };
    let membership = ApplyPayload::Membership(record.encode_to_vec().into());
    store.apply(vec![ApplyEntry { log_id: log_id(1), payload: membership }]).expect("it applies");
    for number in 0..40_u8 {
        apply(&store, vec![put("agency", 1, &[number], &[number; 20_000], None)]);
    }
    let mut export = store.export().expect("an export begins");
    let chunks = std::iter::from_fn(|| export.next_chunk().expect("a chunk")).collect();
    (store, chunks)
}

#[test]
fn a_fork_holds_the_same_records_under_another_cluster_id_and_knows_no_way_to_any_other_member() {
    let (sender, chunks) = sent();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("fork");
    let mut fork = Fork::begin(&path, claim(), [5; 16], 0).expect("the folder is new");
    chunks.iter().for_each(|chunk| fork.write(chunk).expect("it is the next one"));
    let forked = fork.finish(&lineage()).expect("all of it has come");
    assert_eq!((Some(forked.log_id), forked.revision), (sender.applied().log_id, sender.applied().revision));
    assert_eq!(forked.digest, sender.view().kept_digest().expect("a digest"));

    let folder = DataFolder::open(&path, claim(), [6; 16]).expect("nobody has it");
    let own = folder.identity().expect("it belongs to a cluster");
    assert_eq!((own.cluster_id, own.epoch, own.folder_id), ([9; 16], 3, [5; 16]));
    let (log, _writer) =
        Log::open(Arc::new(RealDisk::open(&path.join("log")).unwrap()), LogSettings::default()).unwrap();
    let state = log.state();
    assert_eq!(
        (state.last, state.last_purged, state.committed),
        (Some(forked.log_id), Some(forked.log_id), Some(forked.log_id))
    );
    assert!(state.vote.is_some_and(|vote| vote.leader >= forked.log_id.leader && !vote.committed));

    let home = RocksHome::new(path.join("db"), RocksSettings::RECORDS);
    let store = Store::open(Arc::new(home), Keeps::Records, StoreSettings::default()).expect("it opens");
    assert_eq!(store.view().recomputed_digest().expect("a digest"), forked.digest);
    let info = store.view().info().expect("it says whose it is");
    assert_eq!((info.cluster_id, info.cluster_name.as_str(), info.store_uuid), ([9; 16], "test-drill", [7; 16]));
    let agency = store.view().collection("agency").expect("it was created");
    assert!(store.view().get(&agency, &[7], At::Revision(99)).expect("a read").is_some());
    let (_, members) = store.applied().membership.expect("it has members");
    let members = MembershipRecord::decode(members).expect("it can be read");
    for member in members.seats.iter().filter_map(|seat| seat.member.as_ref()) {
        match member.node_id {
            2 => {
                assert_eq!(
                    (member.peer_address.as_str(), member.client_address.as_str()),
                    ("127.0.0.1:1", "127.0.0.1:2")
                );
                assert_eq!(member.folder_id, vec![5; 16]);
            }
            _ => {
                assert_eq!((member.peer_address.as_str(), member.client_address.as_str()), ("", ""), "{}", member.name)
            }
        }
    }
}

#[test]
fn a_fork_is_refused_in_a_folder_in_use_on_a_full_disk_and_when_its_stream_ends_early() {
    let (_, chunks) = sent();
    let dir = tempfile::tempdir().expect("a temporary folder");
    let mut fork = Fork::begin(&dir.path().join("full"), claim(), [5; 16], u64::MAX).expect("the folder is new");
    let refused = fork.write(&chunks[0]).expect_err("so much is never free");
    assert!(matches!(refused, ForkError::NoRoom { .. }), "{refused}");

    let path = dir.path().join("early");
    let mut fork = Fork::begin(&path, claim(), [5; 16], 0).expect("the folder is new");
    chunks[..chunks.len() - 1].iter().for_each(|chunk| fork.write(chunk).expect("it is the next one"));
    assert!(fork.finish(&lineage()).is_err(), "its manifest has not come");
    let left = DataFolder::open(&path, claim(), [6; 16]).expect("nobody has it").identity();
    assert_eq!(left, None, "no node begins on it");

    let own = dir.path().join("own");
    DataFolder::open(&own, claim(), [6; 16])
        .expect("it is new")
        .adopt([1; 16], 1, None)
        .expect("it belongs to a cluster");
    let refused = Fork::begin(&own, claim(), [5; 16], 0).map(drop).expect_err("a node lives there");
    assert!(matches!(refused, ForkError::Folder(_)), "{refused}");
}

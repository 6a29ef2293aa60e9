//! Files: who a node is, its site's private key, a promotion plan, an orphan bundle.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bytes::Bytes;
use prost::Message;
use saola_raft::Role;
use saola_raft::folder::{DataFolder, FolderClaim};
use saola_storage::command::Approver;
use saola_storage::kek::{KekPrivate, KekProvider};
use saola_storage::member::Member;
use saola_storage::orphan::{self, Head, OrphanBundle};
use saola_storage::promotion::{ApproverKey, Plan, SignedPlan};
use zeroize::Zeroizing;

use crate::Seed;
use crate::export::with_a_write;
use crate::store::kek as some_kek;

fn claim() -> FolderClaim {
    FolderClaim { node_id: 1, name: "main-1".into(), site: "main".into(), role: Role::Voter }
}

pub(crate) fn in_folder<T>(work: impl FnOnce(&Path) -> T) -> T {
    thread_local! {
        static FOLDER: tempfile::TempDir = tempfile::tempdir().expect("a temporary folder can be made");
    }
    FOLDER.with(|folder| work(folder.path()))
}

/// Opens a data folder with this identity file.
///
/// # Panics
/// A folder that opened does not open again as the same.
pub fn identity(bytes: &[u8]) {
    in_folder(|folder| {
        let folder = folder.join("data");
        fs::create_dir_all(&folder).expect("a temporary folder can be written");
        fs::write(folder.join("identity"), bytes).expect("a temporary folder can be written");
        let Ok(first) = DataFolder::open(&folder, claim(), [1; 16]) else { return };
        let found = (first.folder_id(), first.identity());
        drop(first);
        let again = DataFolder::open(&folder, claim(), [2; 16]).expect("a folder that opened opens again");
        assert_eq!((again.folder_id(), again.identity()), found);
    });
}

/// Identity files before and after adoption.
pub fn identity_seeds() -> Vec<Seed> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    drop(DataFolder::open(folder.path(), claim(), [0xab; 16]).expect("an empty folder becomes a node's"));
    let fresh = fs::read(folder.path().join("identity")).expect("an identity was written");
    // What adoption appends; only a cluster can make a node do so.
    let adopted = [&fresh[..], b"cluster_id = 000102030405060708090a0b0c0d0e0f\nepoch = 3\n"].concat();
    let left = [
        &adopted.strip_prefix(b"saola-folder 1").map(|rest| [b"saola-folder 2", rest].concat()).unwrap_or_default()[..],
        b"votes = since promotion\nrecord = 00ff\npromised_epoch = 4\npromised = 0aff\nfenced = why\nfenced_by = 00\n",
    ]
    .concat();
    let back = [
        &adopted.strip_prefix(b"saola-folder 1").map(|rest| [b"saola-folder 3", rest].concat()).unwrap_or_default()[..],
        b"record = 00ff\nnumbered = 6 1\nmembers = 0a00\nleft_behind = 2801\n",
    ]
    .concat();
    vec![("fresh", fresh), ("adopted", adopted), ("promoted", left), ("reinstated", back)]
}

/// Takes bytes as a promotion plan: as they are sent and kept, and as a file.
///
/// # Panics
/// A plan that was read is written otherwise.
pub fn plan(bytes: &[u8]) {
    let read = [
        SignedPlan::from_bytes(&Bytes::copy_from_slice(bytes)),
        SignedPlan::from_text(&String::from_utf8_lossy(bytes)),
    ];
    for (signed, plan) in read.into_iter().flatten() {
        let enough = signed.check(&plan.approvers, plan.needed).is_ok();
        let (again, its_plan) = SignedPlan::from_text(&signed.to_text()).expect("a plan that was read reads again");
        assert!(again == signed && its_plan == plan);
        assert_eq!(again.check(&plan.approvers, plan.needed).is_ok(), enough);
    }
}

/// A plan with an approval, as bytes and as a file.
pub fn plan_seeds() -> Vec<Seed> {
    let key = ApproverKey::from_random(&Zeroizing::new([5; 32]));
    let approver = Approver { name: "an".into(), public_key: Bytes::copy_from_slice(&key.public()) };
    let plan = Plan {
        format: 1,
        cluster_id: vec![1; 16].into(),
        cluster_name: "demo".into(),
        epoch: 2,
        former_epoch: 1,
        site: "dr".into(),
        base_node: 4,
        members: vec![Member { node_id: 4, site: "dr".into(), ..Member::default() }],
        approvers: vec![approver],
        needed: 1,
        ..Plan::default()
    };
    let mut signed = SignedPlan { plan: plan.encode_to_vec().into(), approvals: Vec::new() };
    signed.approve("an", &key);
    vec![("signed", signed.to_bytes().to_vec()), ("file", signed.to_text().into_bytes())]
}

/// Reads an orphan bundle to its end.
pub fn orphans(bytes: &[u8]) {
    in_folder(|folder| {
        let path = folder.join("bundle");
        fs::write(&path, bytes).expect("a temporary folder can be written");
        let Ok(mut bundle) = OrphanBundle::open(&path) else { return };
        while let Ok(Some(orphan)) = bundle.next_orphan() {
            let _ = (bundle.collection(&orphan), bundle.version(&orphan).is_ok());
        }
    });
}

/// What a state has that another one lacks.
pub fn orphans_seeds() -> Vec<Seed> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let store = with_a_write(b"ward/2");
    let head = Head { epoch: 1, left_by_epoch: 2, node: "main-1".into(), node_id: 1, ..Head::default() };
    let mut import = store.import_difference(Some((folder.path(), head))).expect("memory has room");
    let mut export = with_a_write(b"ward/3").export().expect("a store that applied all exports").outlined();
    while let Some(chunk) = export.next_chunk().expect("memory reads") {
        import.write(&chunk).expect("it is as it was sent");
        let mut spans = import.lacking().into();
        while let Some(rows) = export.rows_of(&mut spans).expect("memory reads") {
            import.fill(&rows).expect("these were asked for");
        }
    }
    let path = orphan::list(folder.path()).expect("a folder can be listed").remove(0);
    vec![("bundle", fs::read(path).expect("a bundle was written"))]
}

/// Reads a KEK file; one that is a key is written back as it was.
///
/// # Panics
/// It is not.
pub fn kek(bytes: &[u8]) {
    in_folder(|folder| {
        let (path, copy) = (folder.join("kek"), folder.join("copy"));
        let file = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&path);
        file.and_then(|mut file| file.write_all(bytes)).expect("a temporary folder can be written");
        let Ok(key) = KekPrivate::read_file(&path) else { return };
        key.write_file(&copy).expect("a temporary folder can be written");
        let again = KekPrivate::read_file(&copy).expect("a key file as written is read");
        fs::remove_file(&copy).expect("a temporary folder can be written");
        assert_eq!(again.public(), key.public());
    });
}

/// A KEK file.
pub fn kek_seeds() -> Vec<Seed> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let path = folder.path().join("kek");
    some_kek().write_file(&path).expect("a temporary folder can be written");
    vec![("key", fs::read(path).expect("a key was written"))]
}

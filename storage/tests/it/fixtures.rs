//! Files as format version 1 wrote them, kept in `tests/fixtures/v1`, and read by every later release.
//!
//! `SAOLA_WRITE_FIXTURES=1 cargo test --test it fixtures_can` writes them anew; do that only while
//! version 1 has not been released, and look at what the tests below then say of the new files.
//!
//! `node/` is the data folder of a stopped node, `main.kek` the key of its site, `export.stream` its state as it is sent
//! to another node. RocksDB's own logs, options and lock are left out: nothing reads them.

#![allow(clippy::unwrap_used, reason = "a test fails where it panics")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use saola_storage::command::{
    Bootstrap, Command, CommandBatch, CreateCollection, Op, Provenance, PutRecord, RequestId, Site, WrappedDek,
};
use saola_storage::disk::RealDisk;
use saola_storage::engine::memory::MemoryHome;
use saola_storage::engine::rocks::{self, RocksHome, RocksSettings};
use saola_storage::folder::{DataFolder, FolderClaim, StoppedFolder};
use saola_storage::kek::{KekPrivate, KekProvider};
use saola_storage::keyring::{unwrap_dek, wrap_for_sites};
use saola_storage::log::{Log, LogEntry, LogOp, LogSettings};
use saola_storage::member::{Member, MembershipRecord, Role, Seat, VoterSet};
use saola_storage::payload::{self, BLANK, PayloadKind};
use saola_storage::seal::{self, Dek, DekId, SealContext};
use saola_storage::store::{ApplyEntry, ApplyPayload, At, Keeps, Store, StoreSettings, VersionOp, View};
use saola_storage::types::{EpochId, LeaderId, LogId, Vote};
use zeroize::Zeroizing;

use crate::state_support::{command, delete};

const STORE: [u8; 16] = [7; 16];
const INCARNATION: [u8; 16] = [3; 16];
const FIRST_US: u64 = 1_751_328_000_000_000; // 2025-07-01T00:00:00Z
const OLD: &str = r#"{"name":"Phường Trúc Bạch"}"#;
const NEW: &str = r#"{"name":"Phường Ba Đình"}"#;
const LOG: LogSettings = LogSettings {
    group_id: 0,
    epoch: EpochId { number: 1, plan: 0 },
    segment_bytes: 8 << 10,
    tail_bytes: 1 << 20,
    reserve_bytes: 0,
};

fn fixtures() -> PathBuf {
    // Asked for when it runs: clones that share a target folder share the compiled test.
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs this test")).join("tests/fixtures/v1")
}

fn log_id(index: u64) -> LogId {
    LogId { leader: LeaderId { term: 2, node_id: 1 }, index }
}

fn kek() -> KekPrivate {
    KekPrivate::from_random(Zeroizing::new([0x42; 32]))
}

fn sites() -> Vec<Site> {
    let kek_public = Bytes::copy_from_slice(&kek().public().0);
    vec![Site { name: "main".into(), kek_public }, Site { name: "third".into(), kek_public: Bytes::new() }]
}

fn dek() -> Dek {
    Dek::new(DekId([0xd1; 16]), Zeroizing::new([0x24; 32]))
}

fn wrapped() -> WrappedDek {
    wrap_for_sites(&dek(), &STORE, &INCARNATION, &sites(), || Zeroizing::new([0x55; 32])).unwrap()
}

fn context(id: &str) -> SealContext<'_> {
    SealContext {
        store_uuid: &STORE,
        incarnation: &INCARNATION,
        record_id: id.as_bytes(),
        content_type: "application/json",
    }
}

fn put(sequence: u64, id: &str, value: &str) -> Command {
    let envelope = seal::seal(&dek(), &context(id), value.as_bytes(), &[sequence as u8; 28]).unwrap();
    let from = Provenance { source_system: "reform".into(), actor: "clerk".into(), reason: "merger".into() };
    let request = RequestId { client: vec![0xc1; 16].into(), since: 1, sequence, done_below: sequence };
    let put = PutRecord {
        collection: "agency".into(),
        id: Bytes::copy_from_slice(id.as_bytes()),
        envelope,
        content_type: "application/json".into(),
        expect: None,
        provenance: Some(from),
        value_bytes: value.len() as u64,
    };
    Command { request: Some(request), op: Some(Op::Put(put)) }
}

/// A record whose value reaches into the second segment of the log.
fn long() -> String {
    format!("\"{}\"", "x".repeat(6000))
}

fn entries() -> Vec<LogEntry> {
    let member = Member {
        node_id: 1,
        name: "main-1".into(),
        site: "main".into(),
        role: Role::Voter as i32,
        peer_address: "127.0.0.1:7101".into(),
        client_address: "127.0.0.1:7001".into(),
        folder_id: vec![0xf1; 16].into(),
        demoted: false,
    };
    let membership = MembershipRecord {
        configs: vec![VoterSet { node_ids: vec![1] }],
        seats: vec![Seat { node_id: 1, member: Some(member) }],
    };
    let bootstrap = Op::Bootstrap(Bootstrap {
        store_uuid: STORE.to_vec().into(),
        cluster_name: "registry".into(),
        sites: sites(),
        cluster_id: vec![8; 16].into(),
        node_ids: vec![1],
        protection: None,
        failover: None,
    });
    let create = Op::CreateCollection(CreateCollection {
        name: "agency".into(),
        incarnation: INCARNATION.to_vec().into(),
        max_value_bytes: 1 << 20,
        key_style: 0,
        owner: "registry".into(),
        label: "units".into(),
        dek: Some(wrapped()),
    });
    let commands = |index: u64, commands| {
        payload::encode(PayloadKind::Commands, &CommandBatch { stamp_us: FIRST_US + index * 1_000_000, commands })
    };
    let payloads = vec![
        payload::encode(PayloadKind::Membership, &membership),
        Bytes::from_static(BLANK),
        commands(2, vec![command(bootstrap)]),
        commands(3, vec![command(create)]),
        commands(4, vec![put(1, "ward/00004", OLD), put(2, "ward/00007", &long())]),
        commands(5, vec![put(3, "ward/00004", NEW)]),
        commands(6, vec![delete("agency", b"ward/00007", None)]),
        // Only in the log.
        commands(7, vec![put(4, "ward/00008", OLD)]),
    ];
    (0..).zip(payloads).map(|(index, payload)| LogEntry { log_id: log_id(index), payload }).collect()
}

const FLUSHED: u64 = 6;
const LAST: u64 = 7;

fn write(into: &Path) {
    let node = into.join("node");
    let claim = FolderClaim { node_id: 1, name: "main-1".into(), site: "main".into(), role: Role::Voter };
    let mut folder = DataFolder::open(&node, claim, [0xf1; 16]).unwrap();
    folder.adopt([8; 16], 1, None).unwrap();

    fs::create_dir(node.join("log")).unwrap();
    let (log, mut writer) = Log::open(Arc::new(RealDisk::open(&node.join("log")).unwrap()), LOG).unwrap();
    let mut submit = |op| {
        log.submit(op, Some(Box::new(|result| result.unwrap())));
        writer.step().unwrap();
    };
    submit(LogOp::Vote(Vote { leader: log_id(0).leader, committed: true }));
    let stale = LogEntry { log_id: log_id(LAST + 1), payload: Bytes::from_static(BLANK) };
    for entry in entries().into_iter().chain([stale]) {
        submit(LogOp::Append(vec![entry]));
    }
    submit(LogOp::TruncateAfter(Some(log_id(LAST))));
    submit(LogOp::Committed(Some(log_id(LAST))));
    submit(LogOp::Purge(log_id(1)));
    drop(writer);

    let home = RocksHome::new(node.join("db"), RocksSettings::LOG_IDS_ONLY);
    let store = Store::open(Arc::new(home), Keeps::Records, StoreSettings::default()).unwrap();
    let apply =
        |entry: LogEntry| ApplyEntry { log_id: entry.log_id, payload: payload::decode(&entry.payload).unwrap() };
    store.apply(entries().into_iter().filter(|entry| entry.log_id.index <= FLUSHED).map(apply).collect()).unwrap();
    store.flush().unwrap();
    let mut stream = Vec::new();
    let mut export = store.export().unwrap();
    while let Some(chunk) = export.next_chunk().unwrap() {
        stream.extend_from_slice(&chunk);
    }
    fs::write(into.join("export.stream"), stream).unwrap();
    drop((export, store));
    for entry in fs::read_dir(node.join("db/db-1")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if ["LOG", "OPTIONS", "LOCK"].iter().any(|left| name.starts_with(left)) || name.ends_with(".log") {
            fs::remove_file(path).unwrap();
        }
    }
    kek().write_file(&into.join("main.kek")).unwrap();
}

/// Every file below a folder, with its bytes.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.clone(), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    for (path, bytes) in files(from) {
        let path = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

/// What this release writes is what the tests below read, so the generator never rots; asked to, it keeps the files.
#[test]
fn fixtures_can_be_written_by_this_release() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path());
    check(folder.path());
    if std::env::var_os("SAOLA_WRITE_FIXTURES").is_some() {
        if fixtures().exists() {
            fs::remove_dir_all(fixtures()).unwrap();
        }
        copy(folder.path(), &fixtures());
    }
}

#[test]
fn fixtures_of_version_1_are_read() {
    check(&fixtures());
}

fn check(fixtures: &Path) {
    let before = files(fixtures);
    check_identity(fixtures);
    check_log(fixtures);
    check_rows(fixtures);
    check_export(fixtures);
    assert!(files(fixtures) == before, "reading a stopped node's folder changed it");
}

fn check_identity(fixtures: &Path) {
    let file = StoppedFolder::open(&fixtures.join("node")).unwrap().identity().unwrap().unwrap();
    assert_eq!(file.claim.to_string(), "voter 1 (main-1, site main)");
    assert_eq!((file.folder_id, file.membership), ([0xf1; 16], Some(([8; 16], 1))));
    assert_eq!(file.release, "0.1.0");
}

fn check_log(fixtures: &Path) {
    let folder = tempfile::tempdir().unwrap();
    copy(&fixtures.join("node/log"), folder.path());
    let (log, _writer) = Log::open(Arc::new(RealDisk::open(folder.path()).unwrap()), LOG).unwrap();
    let state = log.state();
    assert_eq!(state.vote.unwrap().to_string(), "T2-N1 committed");
    assert_eq!(state.last_purged.unwrap().to_string(), "T2-N1@1");
    assert_eq!(state.last.unwrap().to_string(), "T2-N1@7");
    assert_eq!(state.committed, state.last);
    assert!(log.entries(2..LAST + 1, usize::MAX).unwrap() == entries()[2..], "entries come back as they were");
    let ApplyPayload::Commands(batch) = payload::decode(&entries()[4].payload).unwrap() else { panic!() };
    assert_eq!(batch.commands.len(), 2);
}

fn check_rows(fixtures: &Path) {
    let view = View::over(rocks::read_only(&fixtures.join("node/db")).unwrap()).unwrap();
    let mut scrub = view.scrub();
    let report = std::iter::from_fn(|| Some(scrub.step(1 << 20))).flatten().next().unwrap();
    assert!(!report.is_bad() && report.damaged == 0, "{report}");
    check_view(&view, fixtures);
}

/// The state after entry 6, however it came here.
fn check_view(view: &View, fixtures: &Path) {
    assert_eq!(view.applied().log_id.unwrap().to_string(), "T2-N1@6");
    assert_eq!((view.applied().revision, view.counts().records, view.counts().versions), (5, 1, 4));
    let membership = MembershipRecord::decode(view.applied().membership.unwrap().1).unwrap();
    assert_eq!(membership.seats[0].member.as_ref().unwrap().name, "main-1");
    let info = view.info().unwrap();
    assert_eq!((info.store_uuid, info.cluster_name.as_str()), (STORE, "registry"));
    let agency = view.collection("agency").unwrap();
    assert_eq!((agency.incarnation, agency.owner.as_str()), (INCARNATION, "registry"));

    let ring = view.deks();
    let dek = unwrap_dek(&fixture_kek(fixtures), &ring[0], "main", &STORE).unwrap();
    let expected = [(1, 2, 4, OLD), (2, 4, 5, NEW)];
    let kept: Vec<_> = view.history(&agency, b"ward/00004", u64::MAX, false).collect::<Result<_, _>>().unwrap();
    assert_eq!(kept.len(), expected.len());
    for (version, (generation, revision, seconds, value)) in kept.iter().zip(expected) {
        assert_eq!((version.generation, version.revision, version.op), (generation, revision, VersionOp::Put));
        assert_eq!(version.recorded_at_us, FIRST_US + seconds * 1_000_000);
        assert_eq!(version.content_type, "application/json");
        assert_eq!(version.provenance.as_ref().unwrap().source_system, "reform");
        assert_eq!(seal::open(&dek, &context("ward/00004"), &version.envelope).unwrap(), value.as_bytes());
    }
    let deleted = view.get(&agency, b"ward/00007", At::Generation(2)).unwrap().unwrap();
    assert_eq!((deleted.revision, deleted.op), (5, VersionOp::Delete));
}

/// Git does not keep the mode that a key file must have.
fn fixture_kek(fixtures: &Path) -> KekPrivate {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("main.kek");
    fs::copy(fixtures.join("main.kek"), &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let kek = KekPrivate::read_file(&path).unwrap();
    assert_eq!(kek.public().to_string(), "132c442be010fbd57e72603328aa76e71fccc1503aae219327d14d9c9993f472");
    kek
}

fn check_export(fixtures: &Path) {
    let stream = Bytes::from(fs::read(fixtures.join("export.stream")).unwrap());
    let store = Store::open(Arc::new(MemoryHome::new()), Keeps::Records, StoreSettings::default()).unwrap();
    let mut import = store.import().unwrap();
    let mut rest = stream;
    while !rest.is_empty() {
        let length = 8 + u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
        import.write(&rest.split_to(length)).unwrap();
    }
    import.finish().unwrap();
    check_view(&store.view(), fixtures);
}

//! Promises about the store as a whole: catalog, restart, roles, digests.

use std::sync::Arc;

use bytes::Bytes;
use saola_storage::command::{
    AddSite, CameBy, ClaimNodeId, Command, Decision, ExpectKind, LeadFrom, MoveGate, Op, ReleaseFloor, RetentionChange,
    RetentionLimits, SetGoal, SetProtection, SetRetention, Site, SurvivalGoal, TimeMark, WrappedDek,
};
use saola_storage::engine::memory::MemoryHome;
use saola_storage::error::StoreError;
use saola_storage::failover::{Failover, Policy};
use saola_storage::goal::Goal;
use saola_storage::protection::{Mode, Protection, WaitsFor};
use saola_storage::store::{ApplyEntry, ApplyPayload, At, Keeps, Store, StoreSettings};

use crate::state_support::*;

#[test]
fn an_empty_store_is_at_revision_one_and_knows_nothing() {
    for home in homes() {
        let store = open(&home);
        let applied = store.applied();
        assert_eq!((applied.log_id, applied.revision, applied.clock_us), (None, 1, 0));
        let view = store.view();
        assert_eq!((view.info(), view.collections(), view.deks()), (None, Vec::new(), Vec::new()));
        assert_eq!(view.revision_at_time(u64::MAX).expect("a read"), 1);
        assert_eq!(store.flush().expect("a flush"), applied);
    }
}

#[test]
fn bootstrap_counts_once() {
    let home = memory_home();
    let store = started(&home);
    let before = store.view().info().expect("the store was bootstrapped");
    let version = store.keyring_version();
    let Command { op: Some(Op::Bootstrap(mut other)), .. } = bootstrap() else { panic!("bootstrap is one") };
    other.cluster_name = "other".to_owned();
    assert!(matches!(decide(&store, command(Op::Bootstrap(other))), Decision::StoreExists(_)));
    assert_eq!(store.view().info(), Some(before));
    assert_eq!(store.keyring_version(), version);
}

#[test]
fn collections_take_no_revision_and_their_names_are_unique() {
    let home = memory_home();
    let store = started(&home);
    assert_eq!(store.applied().revision, 1);
    let Decision::CollectionExists(there) = decide(&store, create("agency", 5)) else {
        panic!("the name is taken");
    };
    assert_eq!(there.incarnation, vec![1; 16]);
    let numbers: Vec<u32> = store.view().collections().iter().map(|collection| collection.number).collect();
    assert_eq!(numbers, [1, 2]);
}

fn rule(mode: Mode, acks: u32) -> Protection {
    Protection { mode, acks, ..Protection::default() }
}

fn set(mode: Mode, acks: u32, id: u8) -> Command {
    command(Op::SetProtection(rule(mode, acks).to_command([id; 16])))
}

#[test]
fn protection_is_what_was_set_last_on_every_engine_and_after_a_restart() {
    let mut digests = Vec::new();
    for home in homes() {
        let store = started(&home);
        assert_eq!((store.protection().rule, store.protection().is_closed()), (Protection::default(), false));
        let version = store.keyring_version();
        assert!(matches!(decide(&store, set(Mode::MaximumProtection, 1, 1)), Decision::Done(_)));
        assert!(store.keyring_version() > version, "who caches it is told");
        decide(&store, set(Mode::MaximumProtection, 2, 2));
        let there = store.protection();
        assert_eq!((there.rule, there.is_closed(), there.id), (rule(Mode::MaximumProtection, 2), true, [2; 16]));
        store.flush().expect("a flush");
        let view = store.view();
        let digest = view.kept_digest().expect("a digest");
        assert_eq!(view.recomputed_digest().expect("a digest"), digest);
        digests.push(digest);
        drop((view, store));
        assert_eq!(open(&home).protection(), there);
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn the_gate_moves_only_from_the_state_that_was_looked_at_and_only_under_maximum_availability() {
    let store = started(&memory_home());
    let change = |from: u8, to: u8| MoveGate { from: vec![from; 16].into(), to: vec![to; 16].into() };
    let degrade = |from, to| decide(&store, command(Op::Degrade(change(from, to))));
    let synchronize = |from, to| decide(&store, command(Op::Synchronize(change(from, to))));
    let stands = || (store.protection().is_closed(), store.protection().id[0], store.protection().losses_us.len());
    decide(&store, set(Mode::MaximumAvailability, 1, 1));
    assert!(matches!(synchronize(9, 2), Decision::OtherState(_)), "another state was looked at");
    assert!(matches!(degrade(1, 2), Decision::OtherState(_)), "it is open");
    assert!(matches!(synchronize(1, 2), Decision::Done(_)));
    assert_eq!(stands(), (true, 2, 0));
    assert!(matches!(synchronize(2, 3), Decision::OtherState(_)), "it is closed");
    assert!(matches!(degrade(1, 3), Decision::OtherState(_)), "a late entry of an older state");
    assert!(matches!(degrade(2, 3), Decision::Done(_)));
    assert_eq!(stands(), (false, 3, 1));
    let stand_in = |from, to| decide(&store, command(Op::WaitForWitness(change(from, to))));
    assert!(matches!(stand_in(3, 6), Decision::Done(_)), "nobody was waited for");
    assert_eq!((stands(), store.protection().waits_for), ((false, 6, 1), WaitsFor::Witness));
    assert!(matches!(stand_in(6, 7), Decision::OtherState(_)), "it is waited for");
    assert!(matches!(degrade(6, 7), Decision::Done(_)), "it is given up");
    assert!(matches!(stand_in(7, 8), Decision::Done(_)) && matches!(synchronize(8, 9), Decision::Done(_)));
    assert!(matches!(stand_in(9, 10), Decision::Done(_)), "the other site is given up, and the witness is there");
    assert_eq!((stands(), store.protection().waits_for), ((false, 10, 2), WaitsFor::Witness));
    for (mode, closed) in [(Mode::MaximumPerformance, false), (Mode::MaximumProtection, true)] {
        decide(&store, set(mode, 1, 4));
        for moved in [degrade(4, 5), synchronize(4, 5), stand_in(4, 5)] {
            assert!(matches!(moved, Decision::OtherState(_)));
        }
        assert_eq!(stands(), (closed, 4, 2));
    }
    let unnamed = MoveGate { to: Default::default(), ..change(4, 5) };
    assert!(matches!(decide(&store, command(Op::Degrade(unnamed))), Decision::Reseal(_)));
}

#[test]
fn failovers_what_a_witness_forgot_and_the_goal_are_the_same_on_every_engine_and_after_a_restart() {
    let rule = Failover { policy: Policy::ObserveOnly, limit: 2, home: "main".into(), returns: true };
    let lead =
        |site: &str, came_by: CameBy| command(Op::LeadFrom(LeadFrom { site: site.into(), came_by: came_by.into() }));
    let release = |next| command(Op::ReleaseFloor(ReleaseFloor { next }));
    let mut digests = Vec::new();
    for home in homes() {
        let store = started(&home);
        decide(&store, command(Op::SetFailover(rule.to_command())));
        decide(&store, lead("dr", CameBy::Loss));
        for next in [7, 90, 40] {
            decide(&store, release(next));
        }
        let there = store.failover();
        assert_eq!((&there.rule, there.led_from.as_str(), there.away, there.done_us.len()), (&rule, "dr", true, 1));
        for survive in [SurvivalGoal::Site, SurvivalGoal::Nothing, SurvivalGoal::Node] {
            decide(&store, command(Op::SetGoal(SetGoal { survive: survive.into() })));
        }
        assert_eq!(store.goal(), Some(Goal::Node));
        assert_eq!(store.released_next(), 90, "what was forgotten is not there any more");
        store.flush().expect("a flush");
        let view = store.view();
        let digest = view.kept_digest().expect("a digest");
        assert_eq!(view.recomputed_digest().expect("a digest"), digest);
        digests.push(digest);
        drop((view, store));
        let again = open(&home);
        assert_eq!((again.failover(), again.released_next(), again.goal()), (there, 90, Some(Goal::Node)));
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn collections_and_their_policies_are_seen_as_an_entry_left_them() {
    let keep = |max_generations| {
        let change = Some(RetentionChange::Limits(RetentionLimits { max_generations, max_age_ms: 0 }));
        command(Op::SetRetention(SetRetention { collection: "agency".into(), change }))
    };
    for home in homes() {
        let store = started(&home);
        let first = store.applied().log_id.expect("it was started").index;
        // In one batch: what is applied together may be shown one by one.
        let entries = [create("later", 3), keep(7), keep(9)];
        let entries = (first + 1..).zip(entries).map(|(index, command)| entry(index, 1, vec![command])).collect();
        store.apply(entries).expect("they are applied");
        let view = store.view();
        let at = |index| {
            let names = view.collections_at(index).into_iter().map(|it| it.name).collect::<Vec<_>>();
            (names.len(), view.collection_at("agency", index).expect("it is there").retention.max_generations)
        };
        assert_eq!([0, 1, 2, 3, 99].map(|later| at(first + later)), [(2, 0), (3, 0), (3, 7), (3, 9), (3, 9)]);
        assert!(view.collection_at("later", first).is_none() && view.collection("later").is_some());
    }
}

#[test]
fn a_protection_mode_of_a_newer_release_stops_the_store() {
    let store = started(&memory_home());
    let unknown = command(Op::SetProtection(SetProtection { mode: 99, ..SetProtection::default() }));
    let stopped = store.apply(vec![entry(1, 0, vec![unknown])]).expect_err("nobody may go past it unknowing");
    assert!(matches!(stopped, StoreError::UnknownCommand { index: 1 }), "{stopped}");
}

#[test]
fn a_collection_needs_a_new_data_key_that_every_site_with_keys_can_open() {
    let home = memory_home();
    let store = started(&home);
    let with = |dek: Option<WrappedDek>| {
        let Command { op: Some(Op::CreateCollection(mut create)), .. } = create("third", 3) else {
            panic!("create is one");
        };
        create.dek = dek;
        command(Op::CreateCollection(create))
    };
    let unwrapped = WrappedDek { wraps: vec![wrap("main")], ..dek(3, 3) };
    let foreign = dek(3, 4);
    let used = dek(1, 3);
    for refused in [None, Some(unwrapped), Some(foreign), Some(used)] {
        assert!(matches!(decide(&store, with(refused)), Decision::Reseal(_)));
    }
    assert!(matches!(decide(&store, create("third", 1)), Decision::Reseal(_)), "the incarnation is taken");
    assert!(matches!(decide(&store, with(Some(dek(3, 3)))), Decision::CollectionCreated(_)));
    assert_eq!(store.view().deks().len(), 3);
}

#[test]
fn a_new_site_comes_with_wraps_of_every_data_key() {
    for home in homes() {
        let store = started(&home);
        let site = Site { name: "north".to_owned(), kek_public: kek("north") };
        let wrapped = |id: u8| WrappedDek { wraps: vec![wrap("north")], ..dek(id, id) };
        let add = |deks: Vec<WrappedDek>| command(Op::AddSite(AddSite { site: Some(site.clone()), deks }));
        let version = store.keyring_version();
        assert!(matches!(decide(&store, add(vec![wrapped(1)])), Decision::Reseal(_)));
        assert!(matches!(decide(&store, add(vec![wrapped(1), wrapped(1)])), Decision::Reseal(_)));
        assert!(matches!(decide(&store, add(vec![dek(1, 1), dek(2, 2)])), Decision::Reseal(_)));
        assert_eq!(store.keyring_version(), version);
        assert!(matches!(decide(&store, add(vec![wrapped(2), wrapped(1)])), Decision::Done(_)));
        assert!(store.keyring_version() > version);

        store.flush().expect("a flush");
        drop(store);
        let store = open(&home);
        let view = store.view();
        assert!(view.deks().iter().all(|dek| dek.wraps.len() == 3));
        assert_eq!(view.info().and_then(|info| info.sites.last().cloned()), Some(site.clone()));
        assert_eq!(view.kept_digest().expect("a digest"), view.recomputed_digest().expect("a digest"));
        assert_eq!(store.applied().revision, 1);
        // The same site again changes nothing; another KEK under its name is refused.
        assert!(matches!(decide(&store, add(Vec::new())), Decision::Done(_)));
        let other = Site { kek_public: kek("south-east"), ..site.clone() };
        let add = command(Op::AddSite(AddSite { site: Some(other), deks: Vec::new() }));
        assert!(matches!(decide(&store, add), Decision::Reseal(_)));
    }
}

#[test]
fn a_node_id_is_given_once_and_never_again() {
    for home in homes() {
        let store = started(&home);
        let claim = |node_id, folder: &'static [u8]| {
            command(Op::ClaimNodeId(ClaimNodeId { node_id, folder_id: Bytes::from_static(folder) }))
        };
        assert!(matches!(decide(&store, claim(1, b"a")), Decision::NodeIdUsed(_)), "the first voter has it");
        assert!(matches!(decide(&store, claim(6, b"a")), Decision::Done(_)));
        store.flush().expect("a flush");
        drop(store);
        let store = open(&home);
        assert!(matches!(decide(&store, claim(6, b"b")), Decision::NodeIdUsed(_)));
        assert!(matches!(decide(&store, claim(6, b"a")), Decision::Done(_)), "its own folder asks again");
        assert!(matches!(decide(&store, claim(6, b"")), Decision::Done(_)), "its node is removed");
        store.flush().expect("a flush");
        drop(store);
        let store = open(&home);
        assert!(matches!(decide(&store, claim(6, b"a")), Decision::NodeIdUsed(_)), "removed is for good");
        let used = store.view().info().map(|info| info.node_ids.into_iter().collect::<Vec<_>>());
        assert_eq!(used, Some(vec![1, 6]));
        assert_eq!(store.applied().revision, 1);
    }
}

#[test]
fn only_a_whole_envelope_under_a_key_of_the_collection_is_accepted() {
    let home = memory_home();
    let store = started(&home);
    assert!(matches!(decide(&store, put("agency", 2, b"x", b"v", None)), Decision::Reseal(_)));
    assert!(matches!(decide(&store, put("agency", 3, b"x", b"v", None)), Decision::Reseal(_)));
    let Command { op: Some(Op::Put(mut broken)), .. } = put("agency", 1, b"x", b"v", None) else {
        panic!("put is one");
    };
    broken.envelope = broken.envelope.slice(..10);
    assert!(matches!(decide(&store, command(Op::Put(broken))), Decision::Reseal(_)));
    assert_eq!(store.applied().revision, 1);
}

#[test]
fn generations_go_on_after_a_deletion() {
    for home in homes() {
        let store = started(&home);
        decide(&store, put("agency", 1, b"x", b"1", None));
        decide(&store, delete("agency", b"x", expect(ExpectKind::Generation, 1)));
        assert!(matches!(decide(&store, delete("agency", b"x", None)), Decision::NotFound(_)));
        let Decision::Written(third) = decide(&store, put("agency", 1, b"x", b"3", expect(ExpectKind::Absent, 0)))
        else {
            panic!("the record is not live");
        };
        assert_eq!(third.generation, 3);
        let view = store.view();
        let agency = view.collection("agency").expect("it was created");
        let deleted = view.get(&agency, b"x", At::Generation(2)).expect("a read").expect("a version");
        assert!(deleted.envelope.is_empty());
        assert_eq!(view.counts().records, 1);
        assert_eq!(view.counts().versions, 3);
    }
}

#[test]
fn recorded_times_grow_even_when_the_leaders_clock_goes_back() {
    let home = memory_home();
    let store = started(&home);
    let write = || put("agency", 1, b"x", b"v", None);
    let mark = || command(Op::TimeMark(TimeMark {}));
    let entries = vec![
        entry(1, 1000, vec![write(), write()]),
        entry(2, 10, vec![write()]),
        entry(3, 5000, vec![mark()]),
        entry(4, 20, vec![write(), mark()]),
        entry(5, u64::MAX, vec![write(), write()]),
    ];
    let outcomes = store.apply(entries).expect("entries apply");
    let times: Vec<u64> = outcomes.iter().flatten().map(|outcome| outcome.recorded_at_us).collect();
    assert_eq!(times, [1000, 1001, 1002, 5000, 5001, 5001, u64::MAX, u64::MAX]);
}

#[test]
fn flushed_writes_survive_reopening() {
    for home in homes() {
        let store = started(&home);
        let membership = ApplyPayload::Membership(Bytes::from_static(b"five nodes"));
        store.apply(vec![ApplyEntry { log_id: log_id(1), payload: membership }]).expect("it applies");
        for number in 0..50_u8 {
            decide(&store, put("agency", 1, &[number], &[number; 100], None));
        }
        assert_eq!(store.flushed(), None);
        let flushed = store.flush().expect("a flush");
        assert_eq!(flushed, store.applied());
        assert_eq!(flushed.membership, Some((log_id(1), Bytes::from_static(b"five nodes"))));
        assert_eq!(store.flushed(), Some(log_id(51)));
        let digest = store.view().kept_digest().expect("a digest");
        drop(store);

        let store = open(&home);
        assert_eq!(store.applied(), flushed);
        assert_eq!(store.flushed(), Some(log_id(51)));
        assert_eq!(store.revision_at_index(51), Some(51));
        let view = store.view();
        assert_eq!(view.recomputed_digest().expect("a digest"), digest);
        assert_eq!(view.kept_digest().expect("a digest"), digest);
        let agency = view.collection("agency").expect("it was created");
        assert_eq!(view.list(&agency, b"", None, 51, 100).expect("a page").len(), 50);
        assert!(store.data_bytes() > 5000);
    }
}

#[test]
fn a_flush_returns_what_stable_storage_holds_and_not_what_came_later() {
    for home in homes() {
        let store = started(&home);
        let engine_before = store.flush().expect("a flush");
        decide(&store, put("agency", 1, b"x", b"v", None));
        assert_eq!(store.flushed(), engine_before.log_id);
        assert_eq!(store.flush().expect("a flush").revision, 2);
    }
}

#[test]
fn a_crash_goes_back_to_the_last_flush() {
    let memory = Arc::new(MemoryHome::new());
    let open = || Store::open(memory.clone(), Keeps::Records, StoreSettings::default()).expect("a store opens");
    let store = open();
    apply(&store, vec![bootstrap(), create("agency", 1), put("agency", 1, b"x", b"v", None)]);
    store.flush().expect("a flush");
    apply(&store, vec![put("agency", 1, b"x", b"w", None), put("agency", 1, b"y", b"w", None)]);
    memory.crash();
    let after = open();
    assert_eq!((after.applied().log_id, after.applied().revision), (Some(log_id(0)), 2));
    let view = after.view();
    let agency = view.collection("agency").expect("it was flushed");
    assert_eq!(view.list(&agency, b"", None, u64::MAX, 10).expect("a page").len(), 1);
    assert_eq!(store.applied().revision, 4, "the old handle still shows what it had");
}

#[cfg(feature = "rocksdb")]
#[test]
fn the_files_of_a_killed_node_hold_its_last_flush() {
    use saola_storage::engine::rocks::{RocksHome, RocksSettings};
    let (running, left) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let open = |folder: &std::path::Path| {
        let home = RocksHome::new(folder, RocksSettings::RECORDS);
        Store::open(Arc::new(home), Keeps::Records, StoreSettings::default()).expect("a store opens")
    };
    let store = open(running.path());
    apply(&store, vec![bootstrap(), create("agency", 1)]);
    for number in 0..20 {
        apply(&store, vec![by(1, 1, number, number, put("agency", 1, b"x", b"before", None))]);
    }
    let flushed = store.flush().expect("a flush");
    for number in 20..40 {
        apply(&store, vec![by(1, 1, number, number, put("agency", 1, b"x", b"after", None))]);
    }
    // The process would end here: what is on the disk now is all there is.
    std::fs::copy(running.path().join("current"), left.path().join("current")).expect("a copy");
    std::fs::create_dir(left.path().join("db-1")).expect("a folder");
    for file in std::fs::read_dir(running.path().join("db-1")).expect("the folder lists") {
        let file = file.expect("an entry");
        std::fs::copy(file.path(), left.path().join("db-1").join(file.file_name()))
            .expect("nothing is removed meanwhile");
    }
    let after = open(left.path());
    assert_eq!(after.ruined(), None, "what was flushed is whole");
    assert_eq!(after.applied(), flushed);
    let view = after.view();
    assert_eq!(view.kept_digest().expect("a digest"), view.recomputed_digest().expect("a digest"));
    let replayed = (20..40).map(|number| by(1, 1, number, number, put("agency", 1, b"x", b"after", None)));
    for command in replayed {
        apply(&after, vec![command]);
    }
    assert_eq!(after.applied(), store.applied());
    let digest = store.view().kept_digest().expect("a digest");
    assert_eq!(after.view().recomputed_digest().expect("a digest"), digest);
}

#[test]
fn a_view_stays_as_it_was() {
    for home in homes() {
        let store = started(&home);
        decide(&store, put("agency", 1, b"x", b"1", None));
        let view = store.view();
        decide(&store, put("agency", 1, b"x", b"2", None));
        decide(&store, put("agency", 1, b"y", b"2", None));
        store.flush().expect("a flush");
        let agency = view.collection("agency").expect("it was created");
        let newest = view.get(&agency, b"x", At::Revision(u64::MAX)).expect("a read").expect("a version");
        assert_eq!(newest.generation, 1);
        assert_eq!(view.list(&agency, b"", None, u64::MAX, 10).expect("a page").len(), 1);
        assert_eq!(view.applied().revision, 2);
    }
}

#[test]
fn a_witness_keeps_no_records() {
    for home in homes() {
        let open = || Store::open(Arc::clone(&home.home), Keeps::LogIdsOnly, StoreSettings::default());
        let store = open().expect("a witness opens");
        let secret = b"value that must not be kept";
        let commands = vec![bootstrap(), create("agency", 1), put("agency", 1, b"x", secret, None)];
        let membership = ApplyPayload::Membership(Bytes::from_static(b"members"));
        let entries = vec![entry(0, 5, commands), ApplyEntry { log_id: log_id(1), payload: membership }];
        assert_eq!(store.apply(entries).expect("entries apply"), [Vec::new(), Vec::new()]);
        let applied = store.flush().expect("a flush");
        assert_eq!((applied.log_id, applied.revision), (Some(log_id(1)), 1));
        assert_eq!(applied.membership, Some((log_id(1), Bytes::from_static(b"members"))));
        assert_eq!(store.view().info(), None);
        assert_eq!(store.view().collections(), []);
        drop(store);
        let engine = home.home.open_current().expect("the engine opens");
        let rows: usize = saola_storage::engine::Kind::ALL
            .into_iter()
            .map(|kind| engine.view().scan(kind, saola_storage::engine::KeyRange::all(), false).count())
            .sum();
        assert_eq!(rows, 3, "the format, how far it has applied, and the membership");
        drop(engine);
        let other = Store::open(Arc::clone(&home.home), Keeps::Records, StoreSettings::default());
        assert!(matches!(other, Err(StoreError::WrongRole { .. })));
        assert_eq!(open().expect("a witness opens").applied(), applied);
    }
}

#[test]
fn a_digest_taken_at_an_entry_is_the_one_of_its_rows_and_the_last_64_are_kept() {
    let mut taken = Vec::new();
    for home in homes() {
        let store = started(&home);
        let mut digests = Vec::new();
        for number in 0..70_u8 {
            let commands = vec![
                by(number % 3, 1, u64::from(number) + 1, 1, put("agency", 1, &[number % 7], &[number], None)),
                digest(),
            ];
            let outcome = apply(&store, commands).pop().expect("two outcomes");
            let Some(Decision::DigestTaken(digest)) = outcome.decision else { panic!("a digest was asked for") };
            assert_eq!(store.view().recomputed_digest().expect("a digest")[..], digest.digest);
            assert_eq!(store.digest_at(outcome.index).map(Vec::from), Some(digest.digest.to_vec()));
            digests.push(digest.digest);
        }
        store.flush().expect("a flush");
        drop(store);
        let store = open(&home);
        assert_eq!(store.digest_at(6), None);
        assert_eq!(store.digest_at(7).map(Vec::from), Some(digests[6].to_vec()));
        assert_eq!(store.digest_at(70).map(Vec::from), Some(digests[69].to_vec()));
        taken.push(digests);
    }
    assert!(taken.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn the_digest_kept_by_apply_survives_restarts_over_many_batches() {
    let home = memory_home();
    let mut store = started(&home);
    for number in 0..400_u64 {
        decide(&store, by(1, 1, number, number, put("agency", 1, &[(number % 50) as u8], b"v", None)));
        if number % 37 == 0 || (250..262).contains(&number) {
            store.flush().expect("a flush");
            drop(store);
            store = open(&home);
            let view = store.view();
            assert_eq!(view.kept_digest().expect("a digest"), view.recomputed_digest().expect("a digest"));
        }
    }
}

#[test]
fn the_revision_after_every_applied_entry_is_known() {
    let home = memory_home();
    let store = started(&home);
    let blank = |index| ApplyEntry { log_id: log_id(index), payload: ApplyPayload::Blank };
    let write = || put("agency", 1, b"x", b"v", None);
    store.apply(vec![blank(1), entry(2, 0, vec![write(), write()]), blank(3)]).expect("entries apply");
    let known: Vec<Option<u64>> = (0..5).map(|index| store.revision_at_index(index)).collect();
    assert_eq!(known, [Some(1), Some(1), Some(3), Some(3), None]);
}

#[test]
fn an_entry_that_was_applied_is_not_applied_again() {
    let home = memory_home();
    let store = started(&home);
    let again = store.apply(vec![entry(0, 0, vec![put("agency", 1, b"x", b"v", None)])]);
    assert!(matches!(again, Err(StoreError::OutOfOrder { index: 0, applied: 0 })));
    let later = store.apply(vec![entry(1, 0, Vec::new())]);
    assert!(matches!(later, Err(StoreError::Stopped { .. })), "the log and the state no longer agree");
    assert_eq!(store.applied().revision, 1);
}

#[test]
fn a_command_of_a_newer_release_stops_the_store() {
    let home = memory_home();
    let store = started(&home);
    let unknown = store.apply(vec![entry(1, 0, vec![Command { request: None, op: None }])]);
    assert!(matches!(unknown, Err(StoreError::UnknownCommand { index: 1 })));
    assert_eq!(store.applied().log_id, Some(log_id(0)));
}

#[test]
fn damaged_rows_are_named_and_never_panic() {
    use saola_storage::engine::{Batch, KeyRange, Kind};
    for kind in Kind::ALL {
        for cut in [0, 1, 2, 9, 30] {
            let home = memory_home();
            let store = started(&home);
            apply(&store, vec![by(1, 1, 1, 1, put("agency", 1, b"x", b"v", None)), digest()]);
            store.flush().expect("a flush");
            drop(store);
            let engine = home.home.open_current().expect("the engine opens");
            let mut batch = Batch::default();
            let view = engine.view();
            for row in view.scan(kind, KeyRange::all(), false) {
                let (key, value) = row.expect("a row");
                let mut value = value.slice(..cut.min(value.len())).to_vec();
                value.iter_mut().for_each(|byte| *byte ^= 0x5a);
                batch.put(kind, key, value);
            }
            engine.write(batch).expect("a write");
            drop((view, engine));
            let store = open(&home);
            if let Some(why) = store.ruined() {
                assert!(why.contains("cannot be read") && why.contains(kind.name()), "{kind:?} cut to {cut}: {why}");
                continue;
            }
            let view = store.view();
            let Some(agency) = view.collection("agency") else { panic!("the collection was not damaged") };
            let results = [
                view.get(&agency, b"x", At::Revision(9)).map(|_| ()),
                view.list(&agency, b"", None, 9, 9).map(|_| ()),
                view.history(&agency, b"x", 9, true).try_for_each(|version| version.map(|_| ())),
                view.revision_at_time(0).map(|_| ()),
            ];
            let damaged = results.iter().any(|result| matches!(result, Err(StoreError::Corrupt { .. })));
            let read = matches!(kind, Kind::Heads | Kind::Versions);
            assert_eq!(damaged, read, "{kind:?} cut to {cut}");
        }
    }
}

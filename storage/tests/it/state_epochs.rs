//! Who may approve a forced promotion, and the epochs that such promotions begin.

use std::sync::Arc;

use bytes::Bytes;
use saola_storage::command::{Approver, BeginEpoch, CommandBatch, Decision, Op, SetApprovers, SetFailover};
use saola_storage::protection::{Mode, Protection, WaitsFor};
use saola_storage::store::{ApplyEntry, ApplyPayload, Keeps, SkipTo, Store, StoreSettings};

use crate::state_support::*;

fn approvers(needed: u32) -> Op {
    let approver = Approver { name: format!("a{needed}"), public_key: Bytes::from(vec![needed as u8; 32]) };
    Op::SetApprovers(SetApprovers { approvers: vec![approver], needed })
}

fn begin(epoch: u64) -> Op {
    let state_id = vec![epoch as u8; 16].into();
    Op::BeginEpoch(BeginEpoch { epoch, record: Bytes::from_static(b"plan"), site: "dr".into(), state_id })
}

#[test]
fn approvers_and_epochs_are_the_same_on_every_engine_and_after_a_restart() {
    let mut digests = Vec::new();
    for home in homes() {
        let store = started(&home);
        for needed in 1..=20 {
            decide(&store, command(approvers(needed)));
        }
        let known: Vec<u32> = store.approvers().iter().map(|list| list.needed).collect();
        assert_eq!(known, (5..=20).collect::<Vec<_>>(), "the newest are kept, the newest last");
        assert!(store.approvers().windows(2).all(|pair| pair[0].at_index < pair[1].at_index));
        assert!(matches!(decide(&store, command(begin(2))), Decision::Done(_)));
        assert!(matches!(decide(&store, command(begin(4))), Decision::Done(_)), "a promise may have passed one over");
        for late in [4, 3, 1] {
            assert!(matches!(decide(&store, command(begin(late))), Decision::OtherState(_)), "epoch {late}");
        }
        let epochs = store.epochs();
        assert_eq!(epochs.iter().map(|epoch| epoch.number).collect::<Vec<_>>(), [2, 4]);
        assert_eq!((&epochs[0].record[..], epochs[0].revision), (&b"plan"[..], store.applied().revision));
        store.flush().expect("a flush");
        let view = store.view();
        let digest = view.kept_digest().expect("a digest");
        assert_eq!(view.recomputed_digest().expect("a digest"), digest);
        digests.push(digest);
        let lists = store.approvers();
        drop((view, store));
        let again = open(&home);
        assert_eq!((again.approvers(), again.epochs()), (lists, epochs));
    }
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn an_epoch_begins_with_the_gate_open_and_leadership_at_home_there() {
    let store = started(&memory_home());
    let rule = Protection { mode: Mode::MaximumProtection, acks: 2, ..Protection::default() };
    decide(&store, command(Op::SetProtection(rule.to_command([7; 16]))));
    decide(&store, command(Op::SetFailover(SetFailover { policy: 1, limit: 3, home: "main".into(), returns: true })));
    assert!(store.protection().is_closed());
    assert!(matches!(decide(&store, command(begin(2))), Decision::Done(_)));
    let stands = store.protection();
    assert_eq!(
        (stands.waits_for, stands.rule.mode, stands.rule.acks),
        (WaitsFor::Nobody, Mode::MaximumAvailability, 2)
    );
    assert_eq!((stands.id, stands.losses_us.len()), ([2; 16], 1), "the other site is lost");
    let failover = store.failover();
    assert_eq!((failover.rule.home.as_str(), failover.led_from.as_str(), failover.away), ("dr", "dr", false));
    assert_eq!((failover.rule.limit, failover.rule.returns), (3, true), "the rest of the rule stays");
    let Op::BeginEpoch(unnamed) = begin(3) else { panic!("it is one") };
    let unnamed = Op::BeginEpoch(BeginEpoch { state_id: Bytes::new(), ..unnamed });
    assert!(matches!(decide(&store, command(unnamed)), Decision::OtherState(_)));
}

#[test]
fn a_witness_knows_who_may_approve_and_nothing_else() {
    let home = memory_home();
    let open = || Store::open(Arc::clone(&home.home), Keeps::LogIdsOnly, StoreSettings::default()).expect("it opens");
    let store = open();
    let commands = vec![bootstrap(), command(approvers(2)), command(begin(2))];
    let payload = ApplyPayload::Commands(CommandBatch { stamp_us: 1, commands });
    let applied = store.apply(vec![ApplyEntry { log_id: log_id(1), payload }]).expect("it applies");
    assert_eq!(applied, [[]], "no command has an outcome here");
    store.flush().expect("a flush");
    drop(store);
    let store = open();
    assert_eq!(store.approvers().iter().map(|list| list.needed).collect::<Vec<_>>(), [2]);
    assert_eq!((store.epochs(), store.view().info()), (Vec::new(), None));
}

#[test]
fn a_witness_that_skips_entries_knows_who_may_approve_and_who_is_a_member() {
    let home = memory_home();
    let open = || Store::open(Arc::clone(&home.home), Keeps::LogIdsOnly, StoreSettings::default()).expect("it opens");
    let data = started(&memory_home());
    let set = |store: &Store, index, needed| {
        let payload = ApplyPayload::Commands(CommandBatch { stamp_us: 1, commands: vec![command(approvers(needed))] });
        store.apply(vec![ApplyEntry { log_id: log_id(index), payload }]).expect("it applies");
    };
    let needed = |store: &Store| store.approvers().iter().map(|list| list.needed).collect::<Vec<_>>();
    let store = open();
    for (index, count) in [(20, 1), (30, 2), (50, 3)] {
        set(&data, index, count);
        if index == 20 {
            set(&store, index, count);
        }
    }
    let membership = |at, text: &'static str| Some((log_id(at), Bytes::from_static(text.as_bytes())));
    let to = |last, membership| SkipTo { last: log_id(last), membership, approvers: data.approvers() };
    let skipped = store.skip_to(to(40, membership(35, "new"))).expect("it skips");
    assert_eq!((skipped.log_id, skipped.membership), (Some(log_id(40)), membership(35, "new")));
    drop(store);
    let store = open();
    assert_eq!(needed(&store), [1, 2], "on stable storage, the one that it knew once, and none that is not there yet");
    set(&store, 50, 3);
    assert_eq!(needed(&store), [1, 2, 3]);
    for late in [to(45, membership(45, "late")), to(60, membership(70, "too new")), to(70, membership(15, "old"))] {
        store.skip_to(late).expect("it skips");
    }
    assert_eq!((store.applied().log_id, store.applied().membership), (Some(log_id(70)), membership(35, "new")));
    assert_eq!(needed(&store), [1, 2, 3]);
    let refused = data.skip_to(to(99, None)).expect_err("it keeps records");
    set(&data, 60, 4);
    assert!(refused.to_string().contains("witness"), "{refused}");
}

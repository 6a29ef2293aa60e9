//! Promises about retried calls.

use saola_storage::command::{Decision, ExpectKind, Op, TakeDigest};
use saola_storage::store::{Store, StoreSettings};

use crate::state_support::*;

fn small(home: &TestHome, max_request_entries: usize) -> Store {
    let store = open_with(home, StoreSettings { max_request_entries });
    apply(&store, vec![bootstrap(), create("agency", 1)]);
    store
}

/// What a client is told that asks now.
fn seen(store: &Store) -> u64 {
    store.applied().log_id.expect("a store that was made").index
}

fn written(decision: &Decision) -> bool {
    matches!(decision, Decision::Written(_))
}

fn expired(decision: &Decision) -> bool {
    matches!(decision, Decision::RequestExpired(_))
}

#[test]
fn a_retry_takes_effect_once_and_is_answered_as_before() {
    for home in homes() {
        let store = small(&home, 100);
        let call = by(1, 1, 1, 1, put("agency", 1, b"x", b"v", None));
        let first = apply(&store, vec![call.clone()]).remove(0);
        apply(&store, vec![put("agency", 1, b"y", b"v", None)]);
        let again = apply(&store, vec![call]).remove(0);
        assert!(again.replayed && !first.replayed);
        assert_eq!((again.index, again.revision, again.decision), (first.index, first.revision, first.decision));
        assert_eq!(store.view().counts().versions, 2);
    }
}

/// A command that has all rows settled is kept in the table as any other: found by power cuts (`saola-power`), where a node that
/// had started again knew less than the others.
#[test]
fn a_digest_that_a_client_asked_for_is_remembered_after_a_start() {
    for home in homes() {
        let store = small(&home, 100);
        let call = by(1, 1, 1, 1, command(Op::TakeDigest(TakeDigest {})));
        let first = apply(&store, vec![call.clone()]).remove(0);
        store.flush().expect("a sound disk");
        drop(store);
        let store = open_with(&home, StoreSettings { max_request_entries: 100 });
        let again = apply(&store, vec![call]).remove(0);
        assert_eq!((again.replayed, again.index), (true, first.index));
    }
}

#[test]
fn a_retry_within_one_entry_takes_effect_once() {
    let home = memory_home();
    let store = small(&home, 100);
    let call = by(1, 1, 1, 1, put("agency", 1, b"x", b"v", None));
    let outcomes = apply(&store, vec![call.clone(), call]);
    assert!(outcomes[1].replayed);
    assert_eq!(store.view().counts().versions, 1);
}

#[test]
fn a_refusal_is_remembered_too() {
    let home = memory_home();
    let store = small(&home, 100);
    let call = by(1, 1, 1, 1, put("agency", 1, b"x", b"v", expect(ExpectKind::Generation, 1)));
    let first = apply(&store, vec![call.clone()]).remove(0);
    assert!(matches!(first.decision, Some(Decision::Conflict(_))));
    apply(&store, vec![put("agency", 1, b"x", b"v", None)]);
    let again = apply(&store, vec![call]).remove(0);
    assert_eq!((again.replayed, again.decision), (true, first.decision));
}

#[test]
fn a_call_that_must_be_sealed_anew_runs_under_the_same_id() {
    let home = memory_home();
    let store = small(&home, 100);
    let sealed_with = |key| by(1, 1, 1, 1, put("agency", key, b"x", b"v", None));
    assert!(matches!(decide(&store, sealed_with(9)), Decision::Reseal(_)));
    assert!(written(&decide(&store, sealed_with(1))));
    assert!(apply(&store, vec![sealed_with(1)])[0].replayed);
}

#[test]
fn settled_calls_are_forgotten_and_refused() {
    let home = memory_home();
    let store = small(&home, 100);
    let call = |sequence, done_below| by(1, 1, sequence, done_below, put("agency", 1, b"x", b"v", None));
    assert!(written(&decide(&store, call(1, 1))));
    assert!(written(&decide(&store, call(2, 2))));
    assert!(expired(&decide(&store, call(1, 1))));
    assert!(apply(&store, vec![call(2, 2)])[0].replayed);
    assert_eq!(store.view().counts().versions, 2);
}

#[test]
fn an_evicted_client_is_refused_and_a_new_one_is_served() {
    for home in homes() {
        let store = small(&home, 2);
        apply(&store, vec![put("agency", 1, b"x", b"v", None)]);
        let call = |client, since| by(client, since, 1, 1, put("agency", 1, b"x", b"v", None));
        assert_eq!(seen(&store), 1);
        assert!(written(&decide(&store, call(1, 1))));
        assert!(written(&decide(&store, call(2, 2))));
        // A third client pushes the first one out, and the floor rises to 1.
        assert!(written(&decide(&store, call(3, 3))));
        let Decision::RequestExpired(refusal) = decide(&store, call(1, 1)) else {
            panic!("a client that was evicted may have written before");
        };
        assert_eq!(refusal.floor, 1);
        assert!(apply(&store, vec![call(2, 2)])[0].replayed);
        assert!(written(&decide(&store, call(4, 4))));
        let view = store.view();
        assert_eq!(view.kept_digest().expect("a digest"), view.recomputed_digest().expect("a digest"));

        store.flush().expect("a flush");
        drop((store, view));
        let store = open_with(&home, StoreSettings { max_request_entries: 2 });
        assert!(expired(&decide(&store, call(1, 1))));
        assert!(apply(&store, vec![call(2, 2)])[0].replayed);
    }
}

#[test]
fn the_client_used_longest_ago_is_evicted_first() {
    let home = memory_home();
    let store = small(&home, 2);
    let call = |client, sequence| by(client, 1, sequence, sequence, put("agency", 1, b"x", b"v", None));
    decide(&store, call(1, 1));
    decide(&store, call(2, 1));
    decide(&store, call(1, 2));
    let newer = by(3, seen(&store), 1, 1, put("agency", 1, b"x", b"v", None));
    assert!(written(&decide(&store, newer)));
    assert!(apply(&store, vec![call(1, 2)])[0].replayed);
    assert!(expired(&decide(&store, call(2, 1))));
}

#[test]
fn a_client_that_settles_nothing_loses_its_oldest_outcomes_only() {
    let home = memory_home();
    let store = small(&home, 3);
    let call = |sequence| by(1, 1, sequence, 1, put("agency", 1, b"x", b"v", None));
    for sequence in 1..=5 {
        assert!(written(&decide(&store, call(sequence))));
    }
    assert!(expired(&decide(&store, call(2))));
    assert!(apply(&store, vec![call(3)])[0].replayed);
    assert_eq!(store.view().counts().versions, 5);
}

#[test]
fn a_client_that_claims_to_have_seen_the_future_shuts_nobody_out() {
    let home = memory_home();
    let store = small(&home, 1);
    let first_call = |client, since| by(client, since, 1, 1, put("agency", 1, b"x", b"v", None));
    assert!(written(&decide(&store, first_call(1, u64::MAX))));
    // Each pushes the one before it out, with what it was told right after that one's call.
    for client in 2..6 {
        assert!(written(&decide(&store, first_call(client, seen(&store)))), "client {client}");
    }
    assert!(expired(&decide(&store, first_call(2, 1))), "one that was pushed out");
}

#[test]
fn clients_that_change_nothing_shut_nobody_out() {
    let home = memory_home();
    let store = small(&home, 3);
    let refused =
        |client, since| by(client, since, 1, 1, put("agency", 1, b"x", b"v", expect(ExpectKind::Generation, 9)));
    apply(&store, vec![put("agency", 1, b"x", b"v", None)]);
    let revision = store.applied().revision;
    for client in 1..100 {
        let decision = decide(&store, refused(client, seen(&store)));
        assert!(matches!(decision, Decision::Conflict(_)), "client {client}: {decision:?}");
    }
    assert_eq!(store.applied().revision, revision);
    assert!(written(&decide(&store, by(200, seen(&store), 1, 1, put("agency", 1, b"x", b"v", None)))));
    assert!(expired(&decide(&store, refused(1, 1))), "one that was pushed out");
}

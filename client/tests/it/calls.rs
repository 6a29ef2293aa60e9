//! Writes: once, or said to be unknown.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use saola_client::proto::{Member, NodeStatus, Role, StatusResponse};
use saola_client::{Client, Error, Expect, Reason, Tls};
use tonic::{Code, Status};

use crate::fake::{Answer, Authority, Fake, LOG_INDEX, Running, dead_endpoint, written};

const ATTEMPT: Duration = Duration::from_millis(200);
const SHORT: Duration = Duration::from_millis(900);
const LONG: Duration = Duration::from_secs(20);
/// For calls that must end long before.
const HOPELESS: Duration = Duration::from_secs(24 * 3600);

async fn one(fake: Fake, deadline: Duration) -> (Running, Client) {
    let authority = Authority::new();
    let node = authority.serve(fake);
    let client = authority.client(&[node.endpoint()]).deadline(deadline).attempt_timeout(ATTEMPT).build().unwrap();
    (node, client)
}

fn ids(node: &Running) -> Vec<(Vec<u8>, u64, u64, u64)> {
    let asked = node.fake.put.asked();
    let ids = asked.into_iter().map(|put| put.request.unwrap());
    ids.map(|id| (id.client.to_vec(), id.since, id.sequence, id.done_below)).collect()
}

#[tokio::test]
async fn a_retry_carries_the_same_request_id() {
    let fake = Fake::new(1, 1);
    let header = fake.header;
    let fake = fake.on_put(move |nth, _| match nth {
        0 => Answer::Silence,
        1 => Answer::Refuse(Status::unavailable("connection reset")),
        2 => Answer::Refuse(Reason::OutcomeUnknown.status("leader lost", &[])),
        3 => Answer::Refuse(Reason::NoLeader.status("no leader", &[])),
        _ => Answer::Reply(saola_client::proto::WriteResponse { replayed: true, ..written(header, 1) }),
    });
    let (node, client) = one(fake, LONG).await;
    let written = client.put("agency", "a", "value").send().await.unwrap();
    assert!(written.replayed);
    let ids = ids(&node);
    assert_eq!(ids.len(), 5);
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 1);
    assert_eq!((ids[0].0.as_slice(), ids[0].1, ids[0].2), (&written.request.client[..], LOG_INDEX, 1));
}

#[tokio::test]
async fn settled_calls_are_given_up_and_the_log_index_is_learnt_once() {
    let (node, client) = one(Fake::new(1, 1), LONG).await;
    for _ in 0..3 {
        client.clone().put("agency", "a", "value").send().await.unwrap();
    }
    let numbers: Vec<_> = ids(&node).into_iter().map(|(_, since, sequence, below)| (since, sequence, below)).collect();
    assert_eq!(numbers, [(LOG_INDEX, 1, 1), (LOG_INDEX, 2, 2), (LOG_INDEX, 3, 3)]);
    assert_eq!(node.fake.collections_listed.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_write_without_an_answer_has_an_unknown_outcome() {
    let (node, client) = one(Fake::new(1, 1).on_put(|_, _| Answer::Silence), SHORT).await;
    let error = client.put("agency", "a", "value").send().await.unwrap_err();
    let Error::UnknownOutcome { request: Some(request), .. } = &error else { panic!("{error}") };
    assert!(ids(&node).len() > 1);
    assert_eq!((request.client.to_vec(), request.sequence), (ids(&node)[0].0.clone(), 1));
    assert!(error.to_string().contains(&request.to_string()), "{error}");
    assert!(!error.next_step().is_empty());
}

#[tokio::test]
async fn a_write_that_was_only_refused_is_certainly_not_applied() {
    for reason in [Reason::NoQuorum, Reason::Busy, Reason::DiskFull, Reason::Stopping, Reason::Sealed] {
        let refuse = move |_: usize, _: &_| Answer::Refuse(reason.status("node 1 cannot", &[]));
        let (node, client) = one(Fake::new(1, 1).on_put(refuse), LONG).await;
        let pinned = client.at_endpoint(&node.endpoint()).unwrap();
        let error = pinned.put("agency", "a", "value").send().await.unwrap_err();
        match reason {
            Reason::Sealed => assert!(matches!(error, Error::Sealed(_)), "{error}"),
            _ => assert!(matches!(error, Error::Unavailable(_)), "{error}"),
        }
        assert_eq!((error.reason(), error.next_step()), (reason.as_str(), reason.next_step()));
    }
}

#[tokio::test]
async fn a_refusal_does_not_settle_an_attempt_whose_answer_was_lost() {
    let refuse = |reason: Reason| {
        move |nth: usize, _: &_| match nth {
            0 => Answer::Silence,
            _ => Answer::Refuse(reason.status("refused", &[("generation", "7".to_owned())])),
        }
    };
    for reason in [Reason::NotAllowed, Reason::RequestExpired, Reason::UnknownCollection, Reason::Internal] {
        let (_node, client) = one(Fake::new(1, 1).on_put(refuse(reason)), LONG).await;
        let error = client.put("agency", "a", "value").send().await.unwrap_err();
        assert!(matches!(error, Error::UnknownOutcome { .. }), "{reason}: {error}");
    }
    // A conflict was decided by applying this very request, so it holds for all attempts.
    let (_node, client) = one(Fake::new(1, 1).on_put(refuse(Reason::Conflict)), LONG).await;
    let error = client.put("agency", "a", "value").send().await.unwrap_err();
    assert!(matches!(error, Error::Conflict { generation: 7, .. }), "{error}");
}

#[tokio::test]
async fn a_conflict_says_what_is_there() {
    let fake = Fake::new(1, 1).on_put(|_, _| {
        let there =
            [("live", "true"), ("generation", "3"), ("revision", "40")].map(|(key, text)| (key, text.to_owned()));
        Answer::Refuse(Reason::Conflict.status("agency/a has generation 3, not 2", &there))
    });
    let (node, client) = one(fake, LONG).await;
    let error = client.put("agency", "a", "value").expect(Expect::Generation(2)).send().await.unwrap_err();
    let Error::Conflict { live: true, generation: 3, revision: 40, details } = error else { panic!("{error}") };
    assert_eq!(details.message, "agency/a has generation 3, not 2");
    assert_eq!(details.next, Reason::Conflict.next_step());
    assert_eq!(node.fake.put.asked().len(), 1);
}

#[tokio::test]
async fn a_forgotten_session_is_renewed_for_a_call_that_was_never_sent() {
    let fake = Fake::new(1, 1);
    let header = fake.header;
    let fake = fake.on_put(move |nth, _| match nth {
        1 => Answer::Refuse(Reason::RequestExpired.status("client evicted", &[])),
        _ => Answer::Reply(written(header, 1)),
    });
    let (node, client) = one(fake, LONG).await;
    client.put("agency", "a", "1").send().await.unwrap();
    client.put("agency", "a", "2").send().await.unwrap();
    let ids = ids(&node);
    assert_eq!(ids[0].0, ids[1].0);
    assert_ne!(ids[1].0, ids[2].0);
    assert_eq!((ids[1].2, ids[2].2), (2, 1));
    assert_eq!(node.fake.collections_listed.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_change_of_members_is_never_sent_twice() {
    let (_node, client) = one(Fake::new(1, 1), SHORT).await;
    let error = client.remove_member(3).await.unwrap_err();
    assert!(matches!(error, Error::UnknownOutcome { request: None, .. }), "{error}");
}

#[tokio::test]
async fn learnt_members_serve_when_the_configured_node_is_gone() {
    let authority = Authority::new();
    let first = authority.serve(Fake::new(1, 1));
    let second = authority.serve(Fake::new(2, 1));
    let member = |node_id, role: Role, client_address: String| NodeStatus {
        member: Some(Member { node_id, role: role.into(), client_address, ..Member::default() }),
        ..NodeStatus::default()
    };
    *first.fake.status.lock().unwrap() = StatusResponse {
        header: Some(first.fake.header),
        leader: 2,
        nodes: vec![
            member(1, Role::Voter, first.endpoint()),
            member(2, Role::Voter, second.endpoint()),
            member(3, Role::Witness, dead_endpoint()),
        ],
        ..StatusResponse::default()
    };
    let client = authority.client(&[first.endpoint()]).deadline(LONG).build().unwrap();
    assert_eq!(client.discover().await.unwrap(), [first.endpoint(), second.endpoint()]);
    assert_eq!(client.put("agency", "a", "value").send().await.unwrap().node, 2, "writes go to the leader");

    drop(first);
    for _ in 0..4 {
        assert_eq!(client.get("agency", "a").send().await.unwrap().node, 2);
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_named() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let node = ours.serve(Fake::new(1, 1));
    let strange_node = Tls { ca_pem: theirs.client_tls().ca_pem, ..ours.client_tls() };
    let strange_client = Tls { ca_pem: ours.client_tls().ca_pem, ..theirs.client_tls() };
    let client = |tls| Client::builder().endpoints([node.endpoint()]).tls(tls).deadline(HOPELESS).build().unwrap();
    let client_of_others = client(strange_node);
    // The second one would wait for its whole deadline if it did not know that waiting cannot help.
    for client in [client_of_others.at_endpoint(&node.endpoint()).unwrap(), client_of_others] {
        let error = client.put("agency", "a", "value").send().await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
        assert_eq!(error.reason(), "NODE_UNTRUSTED", "{error}");
        assert!(error.to_string().contains("signed by another authority"), "{error}");
        assert!(error.next_step().contains("--ca"), "{error}");
    }
    let pinned = client(strange_client).at_endpoint(&node.endpoint()).unwrap();
    let error = pinned.put("agency", "a", "value").send().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    assert!(node.fake.put.asked().is_empty());
}

#[tokio::test]
async fn a_distrusted_node_does_not_keep_a_call_from_the_others() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (stranger, node) = (theirs.serve(Fake::new(1, 1)), ours.serve(Fake::new(2, 1)));
    let client = ours.client(&[stranger.endpoint(), node.endpoint()]).deadline(LONG).build().unwrap();
    for _ in 0..4 {
        assert_eq!(client.put("agency", "a", "value").send().await.unwrap().node, 2);
    }
}

#[tokio::test]
async fn a_node_that_answers_has_the_last_word_over_one_that_does_not() {
    let authority = Authority::new();
    let refuse = |_: usize, _: &_| Answer::Refuse(Reason::DiskFull.status("the leader's disk is full", &[]));
    let node = authority.serve(Fake::new(1, 1).on_put(refuse));
    for _ in 0..4 {
        let endpoints = [dead_endpoint(), node.endpoint(), dead_endpoint()];
        let client = authority.client(&endpoints).deadline(SHORT).attempt_timeout(ATTEMPT).build().unwrap();
        let error = client.put("agency", "a", "value").send().await.unwrap_err();
        assert_eq!((error.reason(), &error.details().message[..]), ("DISK_FULL", "the leader's disk is full"));
        assert!(matches!(error, Error::Unavailable(_)), "{error}");
    }
}

#[tokio::test]
async fn a_broken_off_answer_leaves_the_outcome_open_whatever_its_code_says() {
    for code in [Code::ResourceExhausted, Code::OutOfRange, Code::InvalidArgument, Code::PermissionDenied] {
        let refuse = move |_: usize, _: &_| Answer::Refuse(Status::new(code, "ENHANCE_YOUR_CALM"));
        let (_node, client) = one(Fake::new(1, 1).on_put(refuse), SHORT).await;
        let error = client.put("agency", "a", "value").send().await.unwrap_err();
        assert!(matches!(error, Error::UnknownOutcome { .. }), "{code:?}: {error}");
    }
}

#[tokio::test]
async fn settings_of_no_use_are_refused_when_building() {
    let authority = Authority::new();
    for endpoint in ["", "127.0.0.1", "https://127.0.0.1:7001", "a b:1"] {
        let error = authority.client(&[endpoint.to_owned()]).build().unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{endpoint}: {error}");
    }
    assert!(matches!(authority.client(&[]).build(), Err(Error::Invalid(_))));
    assert!(matches!(Client::builder().endpoints(["127.0.0.1:1"]).build(), Err(Error::Invalid(_))));
    let torn = Tls { key_pem: b"not a key".to_vec(), ..authority.client_tls() };
    let error = Client::builder().endpoints(["127.0.0.1:1"]).tls(torn).build().unwrap_err();
    assert!(error.to_string().contains("TLS"), "{error}");
    assert!(matches!(Tls::from_files("/nonexistent", "", ""), Err(Error::Invalid(_))));
}

//! Reads: from any node that is well, never from an older lineage.

use std::time::Duration;

use bytes::Bytes;
use saola_client::proto::{At, HistoryResponse, ListResponse, Op, Version, VersionInfo, at};
use saola_client::{At as PointInTime, Error, Reason};

use crate::fake::{Answer, Authority, Fake, Script, dead_endpoint};

const SHORT: Duration = Duration::from_millis(900);
const LONG: Duration = Duration::from_secs(20);

fn version(id: &'static str, generation: u64, op: Op) -> Version {
    let id = Bytes::from_static(id.as_bytes());
    let info = VersionInfo { id, generation, op: op.into(), ..VersionInfo::default() };
    Version { info: Some(info), value: Bytes::from_static(b"value") }
}

#[tokio::test]
async fn a_dead_endpoint_is_passed_by() {
    let authority = Authority::new();
    let node = authority.serve(Fake::new(7, 1));
    let endpoints = [dead_endpoint(), node.endpoint(), dead_endpoint()];
    let client = authority.client(&endpoints).deadline(LONG).build().unwrap();
    for _ in 0..6 {
        let reply = client.get("agency", "a").send().await.unwrap();
        assert_eq!((reply.node, reply.value), (7, None));
    }
}

#[tokio::test]
async fn reads_are_spread_over_the_nodes() {
    let authority = Authority::new();
    let (first, second) = (authority.serve(Fake::new(1, 1)), authority.serve(Fake::new(2, 1)));
    let client = authority.client(&[first.endpoint(), second.endpoint()]).deadline(LONG).build().unwrap();
    for _ in 0..10 {
        client.get("agency", "a").send().await.unwrap();
    }
    assert!(!first.fake.get.asked().is_empty() && !second.fake.get.asked().is_empty());
}

#[tokio::test]
async fn a_pinned_client_asks_its_node_alone() {
    let authority = Authority::new();
    let (first, second) = (authority.serve(Fake::new(1, 1)), authority.serve(Fake::new(2, 1)));
    let client = authority.client(&[first.endpoint()]).deadline(SHORT).build().unwrap();
    let pinned = client.at_endpoint(&second.endpoint()).unwrap();
    for _ in 0..3 {
        assert_eq!(pinned.get("agency", "a").send().await.unwrap().node, 2);
    }
    let nowhere = client.at_endpoint(&dead_endpoint()).unwrap();
    let error = nowhere.cluster_status(true).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert_eq!(error.reason(), Reason::Unreachable.as_str());
}

#[tokio::test]
async fn answers_of_a_lower_epoch_are_refused() {
    let authority = Authority::new();
    let (old, new) = (authority.serve(Fake::new(1, 1)), authority.serve(Fake::new(2, 2)));
    let client = authority.client(&[old.endpoint(), new.endpoint()]).deadline(LONG).build().unwrap();
    client.at_endpoint(&new.endpoint()).unwrap().get("agency", "a").send().await.unwrap();
    for _ in 0..4 {
        assert_eq!(client.get("agency", "a").send().await.unwrap().epoch, 2);
    }
    let pinned = client.at_endpoint(&old.endpoint()).unwrap();
    let error = pinned.get("agency", "a").send().await.unwrap_err();
    assert_eq!(error.reason(), Reason::LowerEpoch.as_str(), "{error}");
    // A write that the old side acknowledged counts for nothing, but it may be there.
    let error = pinned.put("agency", "a", "value").send().await.unwrap_err();
    assert!(matches!(error, Error::UnknownOutcome { request: Some(_), .. }), "{error}");
    assert_eq!(pinned.cluster_status(true).await.unwrap().header.unwrap().epoch, 1, "status shows nodes as they are");
}

/// Two promotions began it, and neither has what the other acknowledges.
#[tokio::test]
async fn answers_of_another_epoch_of_the_number_that_was_seen_are_refused() {
    let authority = Authority::new();
    let (seen, twin) = (authority.serve(Fake::of_plan(1, 2, 7)), authority.serve(Fake::of_plan(2, 2, 8)));
    let client = authority.client(&[twin.endpoint(), seen.endpoint()]).deadline(LONG).build().unwrap();
    client.at_endpoint(&seen.endpoint()).unwrap().get("agency", "a").send().await.unwrap();
    for _ in 0..4 {
        assert_eq!(client.get("agency", "a").send().await.unwrap().node, 1);
    }
    let pinned = client.at_endpoint(&twin.endpoint()).unwrap();
    let error = pinned.get("agency", "a").send().await.unwrap_err();
    assert_eq!(error.reason(), Reason::TwinEpoch.as_str(), "{error}");
    let error = pinned.put("agency", "a", "value").send().await.unwrap_err();
    assert!(matches!(error, Error::UnknownOutcome { request: Some(_), .. }), "{error}");
}

#[tokio::test]
async fn a_listing_follows_the_token_at_one_revision() {
    let authority = Authority::new();
    let mut fake = Fake::new(1, 1);
    let header = fake.header;
    fake.list = Script::new(move |nth, _| {
        let page = |versions, token: &'static str| ListResponse {
            header: Some(header),
            revision: 40,
            versions,
            next_page_token: Bytes::from_static(token.as_bytes()),
        };
        Answer::Reply(match nth {
            0 => page(vec![version("a", 1, Op::Put), version("b", 2, Op::Put)], "after b"),
            1 => page(Vec::new(), "still after b"),
            _ => page(vec![version("c", 1, Op::Put)], ""),
        })
    });
    let node = authority.serve(fake);
    let client = authority.client(&[node.endpoint()]).deadline(LONG).build().unwrap();
    let mut listing = client.list("agency").prefix("x").page_size(2).at(PointInTime::Revision(40)).all();
    let mut ids = Vec::new();
    while let Some(version) = listing.next().await.unwrap() {
        ids.push(version.id);
    }
    assert_eq!(ids, ["a", "b", "c"]);
    assert_eq!(listing.revision(), Some(40));

    let asked = node.fake.list.asked();
    let tokens: Vec<_> = asked.iter().map(|list| list.page_token.clone()).collect();
    assert_eq!(tokens, ["", "after b", "still after b"]);
    assert!(asked.iter().all(|list| list.prefix == "x" && list.page_size == 2));
    let points: Vec<_> = asked.iter().map(|list| list.at).collect();
    assert_eq!(points, [Some(At { kind: Some(at::Kind::Revision(40)) }), None, None]);
}

#[tokio::test]
async fn a_history_is_read_to_its_end() {
    let authority = Authority::new();
    let mut fake = Fake::new(1, 1);
    let header = Some(fake.header);
    let part = |version| HistoryResponse { header, version };
    fake.history = vec![
        part(Some(version("a", 1, Op::Put))),
        part(Some(version("a", 2, Op::Delete))),
        part(Some(version("a", 3, Op::Put))),
    ];
    let node = authority.serve(fake);
    let client = authority.client(&[node.endpoint()]).deadline(LONG).build().unwrap();
    let reply = client.history("agency", "a").send().await.unwrap();
    let seen: Vec<_> = reply.value.iter().map(|version| (version.generation, version.is_deleted())).collect();
    assert_eq!(seen, [(1, false), (2, true), (3, false)]);

    let mut empty = Fake::new(1, 1);
    empty.history = vec![HistoryResponse { header, version: None }];
    let node = authority.serve(empty);
    let client = authority.client(&[node.endpoint()]).deadline(LONG).build().unwrap();
    assert!(client.history("agency", "a").send().await.unwrap().value.is_empty());
}

#[tokio::test]
async fn a_wrong_request_is_refused_once_with_its_reason() {
    let authority = Authority::new();
    let mut fake = Fake::new(1, 1);
    fake.get = Script::new(|_, _| Answer::Refuse(Reason::FutureRevision.status("revision 99 is not there yet", &[])));
    let node = authority.serve(fake);
    let client = authority.client(&[node.endpoint()]).deadline(LONG).build().unwrap();
    let error = client.get("agency", "a").at(PointInTime::Revision(99)).send().await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    assert_eq!(error.reason(), "FUTURE_REVISION");
    assert_eq!(node.fake.get.asked().len(), 1);
}

//! Requests that a node refuses: each with its reason code, a message that says what is wrong, and the next step.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use saola_client::{At, CreateCollection, Error, Expect, KeyStyle, PageToken};

use super::harness::{COLLECTION, Cluster};

fn refused<T: std::fmt::Debug>(result: Result<T, Error>, reason: &str, parts: &[&str]) {
    let error = result.expect_err("refused");
    assert_eq!(error.reason(), reason, "{error}");
    assert!(!error.next_step().is_empty(), "{error}");
    for part in parts {
        assert!(error.to_string().contains(part), "{part:?} in: {error}");
    }
}

#[tokio::test]
async fn writes_that_cannot_be_taken_say_what_is_wrong() {
    let cluster = Cluster::running(1).await;
    let client = cluster.client();
    let put = |id: &[u8], value: usize| client.put(COLLECTION, Bytes::copy_from_slice(id), vec![b'v'; value]).send();

    refused(put(b"", 1).await, "INVALID_ID", &["record id is empty"]);
    refused(put(&[b'i'; 513], 1).await, "INVALID_ID", &["513 bytes, the limit is 512", "use a shorter id"]);
    refused(put("e\u{301}".as_bytes(), 1).await, "INVALID_ID", &["not in Unicode form NFC", "normalise it"]);
    refused(put(b"a\x00b", 1).await, "INVALID_ID", &["control character U+0000 at byte 1"]);
    refused(put(b"a\xff", 1).await, "INVALID_ID", &["not UTF-8 from byte 1 on"]);
    assert_eq!(put(&[b'i'; 512], 0).await.unwrap().generation, 1);
    refused(put(b"big", (1 << 20) + 1).await, "VALUE_TOO_LARGE", &["1048577 bytes", "at most 1048576"]);
    assert_eq!(put(b"big", 1 << 20).await.unwrap().generation, 1);
    refused(client.put("nowhere", "a", "v").send().await, "UNKNOWN_COLLECTION", &["\"nowhere\"", "collection create"]);
    refused(client.delete("nowhere", "a").send().await, "UNKNOWN_COLLECTION", &["\"nowhere\""]);
    let long_text = client.put(COLLECTION, "a", "v").content_type("t".repeat(1025)).send().await;
    refused(long_text, "INVALID_ARGUMENT", &["content_type has 1025 bytes"]);

    let small = CreateCollection { max_value_bytes: 4, key_style: KeyStyle::Bytes, ..CreateCollection::new("small") };
    client.create_collection(small.clone()).await.unwrap();
    refused(client.create_collection(small).await, "COLLECTION_EXISTS", &["\"small\" already"]);
    refused(client.put("small", "a", "12345").send().await, "VALUE_TOO_LARGE", &["5 bytes", "at most 4"]);
    assert_eq!(client.put("small", &b"\xff\x00"[..], "1234").send().await.unwrap().generation, 1);
    refused(client.create_collection(CreateCollection::new("No Name")).await, "INVALID_ARGUMENT", &["another name"]);
    let huge = CreateCollection { max_value_bytes: (1 << 20) + 1, ..CreateCollection::new("huge") };
    refused(client.create_collection(huge).await, "INVALID_ARGUMENT", &["max_value_bytes"]);
    refused(cluster.at(0).cluster_init(cluster.topology()).await, "ALREADY_ADOPTED", &["saola status"]);
}

#[tokio::test]
async fn a_condition_that_does_not_hold_says_what_is_there() {
    let cluster = Cluster::running(1).await;
    let client = cluster.client();
    let conflict = async |expect: Expect| match client.put(COLLECTION, "a", "v").expect(expect).send().await {
        Err(Error::Conflict { live, generation, revision, details }) => (live, generation, revision, details.message),
        other => panic!("no conflict: {other:?}"),
    };
    let (live, generation, revision, message) = conflict(Expect::Generation(1)).await;
    assert_eq!((live, generation, revision), (false, 0, 0));
    assert!(message.contains("never existed"), "{message}");

    let first = cluster.put("a", "v").await;
    for expect in [Expect::Absent, Expect::Generation(7)] {
        let (live, generation, revision, message) = conflict(expect).await;
        assert_eq!((live, generation, revision), (true, 1, first.revision));
        assert!(message.contains("live at generation 1"), "{message}");
    }
    let gone = client.delete(COLLECTION, "a").expect(Expect::Generation(1)).send().await.unwrap();
    let (live, generation, revision, message) = conflict(Expect::Generation(1)).await;
    assert_eq!((live, generation, revision), (false, 2, gone.revision));
    assert!(message.contains("deleted as generation 2"), "{message}");
    let back = client.put(COLLECTION, "a", "v").expect(Expect::Absent).send().await.unwrap();
    assert_eq!((back.generation, back.revision), (3, gone.revision + 1), "refused writes take no revision");
}

#[tokio::test]
async fn reads_that_cannot_be_answered_say_why() {
    let cluster = Cluster::running(1).await;
    let client = cluster.client();
    for id in ["a", "b", "c"] {
        cluster.put(id, "v").await;
    }
    let newest = cluster.status(0).await.header.unwrap().revision;
    let tomorrow = (SystemTime::now() + Duration::from_secs(86_400)).duration_since(UNIX_EPOCH).unwrap();
    let tomorrow = At::TimeUs(tomorrow.as_micros().try_into().unwrap());
    let get = |at: At| client.get(COLLECTION, "a").at(at).send();
    let wanted = format!("revision {} does not exist yet", newest + 1);
    refused(get(At::Revision(newest + 1)).await, "FUTURE_REVISION", &[&wanted, &format!("up to {newest}")]);
    refused(get(At::Revision(0)).await, "INVALID_ARGUMENT", &["no revision 0"]);
    refused(
        get(tomorrow).await,
        "FUTURE_TIME",
        &["Z has not come yet: it is 23 h ahead of the cluster's clock", "check the clocks"],
    );
    refused(client.list(COLLECTION).at(At::Revision(newest + 1)).send().await, "FUTURE_REVISION", &[&wanted]);
    refused(client.list(COLLECTION).at(At::Generation(1)).send().await, "INVALID_ARGUMENT", &["revision or time"]);
    refused(client.get("nowhere", "a").send().await, "UNKNOWN_COLLECTION", &["\"nowhere\""]);
    refused(client.list("nowhere").send().await, "UNKNOWN_COLLECTION", &["\"nowhere\""]);
    refused(client.history("nowhere", "a").send().await, "UNKNOWN_COLLECTION", &["\"nowhere\""]);
    refused(client.get(COLLECTION, "").send().await, "INVALID_ID", &["empty"]);
    refused(client.history(COLLECTION, "\u{7}").send().await, "INVALID_ID", &["U+0007"]);
    let none: [(&str, &str); 0] = [];
    refused(client.batch_get(none).send().await, "INVALID_ARGUMENT", &["0 records"]);
    refused(client.batch_get([("nowhere", "a")]).send().await, "UNKNOWN_COLLECTION", &["\"nowhere\""]);

    client.create_collection(CreateCollection::new("other")).await.unwrap();
    let page = client.list(COLLECTION).page_size(1).send().await.unwrap().value;
    let token = page.next.expect("there are more");
    for garbage in [&b"\xff\xff\xff"[..], b"next", &token.0[1..]] {
        let token = PageToken(Bytes::copy_from_slice(garbage));
        let result = client.list(COLLECTION).page_token(token).send().await;
        refused(result, "INVALID_ARGUMENT", &["page token", "start anew without a token"]);
    }
    let foreign = client.list("other").page_token(token.clone()).send().await;
    refused(foreign, "INVALID_ARGUMENT", &["another listing", "\"other\""]);
    let prefix = client.list(COLLECTION).prefix("b").page_token(token.clone()).send().await;
    refused(prefix, "INVALID_ARGUMENT", &["another listing"]);
    let selected = client.list(COLLECTION).at(At::Revision(newest)).page_token(token).send().await;
    refused(selected, "INVALID_ARGUMENT", &["pins the revision"]);
}

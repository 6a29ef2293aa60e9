//! Records on a single node: written, read as of any point, listed, deleted, with their history.

use saola_client::{At, Error, Expect, Op, Provenance, Version};

use super::harness::{COLLECTION, Cluster};

fn ids(versions: &[Version]) -> Vec<&str> {
    versions.iter().map(|version| std::str::from_utf8(&version.id).unwrap()).collect()
}

#[tokio::test]
async fn every_version_of_a_record_can_be_read_as_of_its_generation_revision_and_time() {
    let cluster = Cluster::running(1).await;
    let client = cluster.client();
    let provenance = Provenance { source_system: "hr".into(), actor: "import".into(), reason: "hired".into() };
    let first = client
        .put(COLLECTION, "ward/00004", "one")
        .content_type("text/plain")
        .provenance(provenance.clone())
        .expect(Expect::Absent)
        .send()
        .await
        .unwrap();
    let second =
        client.put(COLLECTION, "ward/00004", "two").expect(Expect::Generation(first.generation)).send().await.unwrap();
    let other = cluster.put("ward/00005", "other").await;
    let deleted = client.delete(COLLECTION, "ward/00004").send().await.unwrap();
    assert_eq!((first.generation, second.generation, deleted.generation), (1, 2, 3));
    assert!(first.revision < second.revision && second.revision < other.revision && other.revision < deleted.revision);
    assert!(first.recorded_at_us < second.recorded_at_us && second.recorded_at_us < deleted.recorded_at_us);

    let read = async |at: At| {
        let version = client.get(COLLECTION, "ward/00004").at(at).send().await.unwrap().value;
        version.map(|version| (version.generation, String::from_utf8(version.value.to_vec()).unwrap()))
    };
    let (one, two) = (Some((1, "one".to_owned())), Some((2, "two".to_owned())));
    assert_eq!(read(At::Generation(1)).await, one);
    assert_eq!(read(At::Generation(9)).await, None);
    assert_eq!(read(At::Revision(first.revision - 1)).await, None);
    assert_eq!(read(At::Revision(first.revision)).await, one);
    assert_eq!(read(At::Revision(other.revision)).await, two);
    assert_eq!(read(At::TimeUs(first.recorded_at_us - 1)).await, None);
    assert_eq!(read(At::TimeUs(second.recorded_at_us - 1)).await, one);
    assert_eq!(read(At::TimeUs(second.recorded_at_us)).await, two);

    let newest = client.get(COLLECTION, "ward/00004").send().await.unwrap();
    assert!(newest.value.as_ref().is_some_and(|version| version.is_deleted() && version.value.is_empty()));
    assert_eq!((newest.revision, newest.epoch, newest.node), (deleted.revision, deleted.epoch, 1));

    let history = client.history(COLLECTION, "ward/00004").send().await.unwrap().value;
    let story: Vec<_> =
        history.iter().map(|version| (version.generation, version.op, version.value.as_ref())).collect();
    assert_eq!(story, [(1, Op::Put, &b"one"[..]), (2, Op::Put, b"two"), (3, Op::Delete, b"")]);
    assert_eq!((&history[0].provenance, history[0].content_type.as_str()), (&provenance, "text/plain"));
    let mut backwards = client.history(COLLECTION, "ward/00004").newest_first().send().await.unwrap().value;
    backwards.reverse();
    assert_eq!(backwards, history);
    let keys = client.history(COLLECTION, "ward/00004").keys_only().send().await.unwrap().value;
    assert!(keys.iter().all(|version| version.value.is_empty()) && keys[0].value_bytes == 3);
    assert!(client.history(COLLECTION, "never").send().await.unwrap().value.is_empty());
    assert!(matches!(client.delete(COLLECTION, "ward/00004").send().await, Err(Error::NotFound(_))));
    assert!(matches!(client.delete(COLLECTION, "never").send().await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn lists_and_batches_show_one_revision_whatever_is_written_meanwhile() {
    let cluster = Cluster::running(1).await;
    let client = cluster.client();
    for n in 0..7 {
        cluster.put(&format!("ward/{n}"), &format!("v{n}")).await;
    }
    cluster.put("province/1", "p").await;

    let page = client.list(COLLECTION).prefix("ward/").page_size(3).send().await.unwrap().value;
    assert_eq!(ids(&page.versions), ["ward/0", "ward/1", "ward/2"]);
    // Both changes come after the first page, so the later pages must not show them.
    cluster.put("ward/31", "new").await;
    client.delete(COLLECTION, "ward/4").send().await.unwrap();
    let next = page.next.clone().expect("there are more");
    let rest = client.list(COLLECTION).prefix("ward/").page_size(1000).page_token(next).send().await.unwrap().value;
    assert_eq!((ids(&rest.versions), rest.revision), (vec!["ward/3", "ward/4", "ward/5", "ward/6"], page.revision));
    assert_eq!(rest.next, None);

    let all = client.list(COLLECTION).page_size(2).all().collect().await.unwrap();
    assert_eq!(ids(&all), ["province/1", "ward/0", "ward/1", "ward/2", "ward/3", "ward/31", "ward/5", "ward/6"]);
    let before = client.list(COLLECTION).at(At::Revision(page.revision)).all().collect().await.unwrap();
    assert_eq!(before.len(), 8);
    let keys = client.list(COLLECTION).keys_only().send().await.unwrap().value;
    assert!(keys.versions.iter().all(|version| version.value.is_empty()) && keys.versions[1].value_bytes == 2);
    let exact = client.list(COLLECTION).page_size(8).send().await.unwrap().value;
    assert_eq!((exact.versions.len(), exact.next), (8, None));

    let asked = [(COLLECTION, "ward/31"), (COLLECTION, "never"), (COLLECTION, "ward/0")];
    let batch = client.batch_get(asked).send().await.unwrap().value;
    let values: Vec<_> = batch.iter().map(|found| found.as_ref().map(|version| version.value.as_ref())).collect();
    assert_eq!(values, [Some(&b"new"[..]), None, Some(b"v0")]);
    let batch = client.batch_get(asked).at(At::Revision(page.revision)).send().await.unwrap().value;
    assert!(batch[0].is_none() && batch[2].is_some());
    assert_eq!(client.collections().await.unwrap().value.len(), 1);
}

//! What was acknowledged is there after any end of the process.

use super::harness::{COLLECTION, Cluster};

#[tokio::test]
async fn restart_keeps_every_acknowledged_write() {
    let mut cluster = Cluster::running(1).await;
    let mut written = Vec::new();
    for round in 0..3 {
        for n in 0..10 {
            let (id, value) = (format!("r/{n}"), format!("{round}-{n}"));
            let acknowledged = cluster.put(&id, &value).await;
            written.push((id, acknowledged.generation, acknowledged.revision, value));
        }
        if round % 2 == 0 {
            cluster.nodes[0].kill();
        } else {
            let status = cluster.nodes[0].terminate().await;
            assert!(status.success(), "{status}: {}", cluster.nodes[0].log());
        }
        cluster.start(0).await;
        for (id, generation, revision, value) in &written {
            let history = cluster.client().history(COLLECTION, id.clone()).send().await.unwrap().value;
            let found = history.iter().find(|version| version.generation == *generation).expect("not lost");
            assert_eq!((found.revision, &found.value[..]), (*revision, value.as_bytes()));
            assert_eq!(history.len(), round + 1, "nothing took effect twice");
        }
    }
    let status = cluster.status(0).await;
    assert_eq!((status.records, status.versions), (10, 30));
    assert_eq!(status.header.unwrap().revision, written.last().unwrap().2);
}

//! A disk that runs full.

use super::harness::{COLLECTION, Cluster};

#[tokio::test]
async fn below_the_mark_writes_are_refused_by_name_and_reads_go_on() {
    let mut cluster = Cluster::running(1).await;
    cluster.put("a", "before").await;
    assert!(!cluster.own_status(0).await.writes_refused);
    cluster.nodes[0].kill();
    // No disk has that much, so every disk is below the mark.
    cluster.nodes[0].set("limits", "min_free_bytes", i64::MAX);
    cluster.start(0).await;
    cluster.leader().await;

    let node = cluster.at(0);
    let error = node.put(COLLECTION, "a", "after").send().await.expect_err("refused");
    assert_eq!(error.reason(), "DISK_FULL", "{error}");
    for part in ["disk of node 1 (main-1)", "MiB free, below its mark", "main-1/data", "limits.min_free_bytes"] {
        assert!(error.to_string().contains(part), "{part:?} in: {error}");
    }
    assert!(error.next_step().contains("make room on"), "{error}");
    let error = node.delete(COLLECTION, "a").send().await.expect_err("refused");
    assert_eq!(error.reason(), "DISK_FULL", "{error}");

    assert_eq!(cluster.value("a").await.as_deref(), Some("before"));
    assert_eq!(node.history(COLLECTION, "a").send().await.unwrap().value.len(), 1);
    let status = cluster.own_status(0).await;
    assert!(status.writes_refused && status.writes_refused_reason.contains("main-1"), "{status:?}");
    assert_eq!(cluster.nodes[0].ended(), None, "the process lives");
    assert!(cluster.nodes[0].log().contains("writes are refused"));

    cluster.nodes[0].kill();
    cluster.nodes[0].set("limits", "min_free_bytes", 1);
    cluster.start(0).await;
    assert_eq!(cluster.put("a", "after").await.generation, 2);
}

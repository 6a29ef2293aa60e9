//! A node without its site's key: it says so, serves no records, and still votes.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use saola_client::{CreateCollection, Error};
use saola_node::entropy;
use saola_storage::kek::KekPrivate;

use super::harness::cluster::value_at;
use super::harness::wait::until;
use super::harness::{COLLECTION, Cluster, http};

fn write_other_key(path: &Path) {
    KekPrivate::from_random(entropy::secret().unwrap()).write_file(path).unwrap();
}

fn assert_sealed<T: std::fmt::Debug>(result: Result<T, Error>, reason: &str) {
    let error = result.expect_err("sealed");
    assert!(matches!(error, Error::Sealed(_)), "{error}");
    assert!(error.to_string().contains(reason), "{reason:?} in: {error}");
    assert!(error.next_step().contains("give this one its key"), "{error}");
}

#[tokio::test]
async fn a_node_whose_key_cannot_be_used_says_why_and_serves_no_records() {
    let mut cluster = Cluster::running(1).await;
    cluster.put("a", "v").await;
    let kek = cluster.nodes[0].kek();
    let good = fs::read(&kek).unwrap();
    type Spoil = fn(&Path);
    let spoil: [(Spoil, &[&str]); 4] = [
        (|path| fs::remove_file(path).unwrap(), &["main.kek", "does not exist", "key custodian"]),
        (|path| fs::write(path, "short").unwrap(), &["main.kek", "exactly", "restore the file"]),
        (
            |path| fs::set_permissions(path, Permissions::from_mode(0o640)).unwrap(),
            &["main.kek", "mode 0640", "chmod 600"],
        ),
        (
            |path| {
                fs::remove_file(path).unwrap();
                write_other_key(path);
            },
            &["wrong KEK", "site main", "restart the node"],
        ),
    ];
    for (spoil, expected) in spoil {
        cluster.nodes[0].kill();
        spoil(&kek);
        let status = cluster.start(0).await;
        assert!(status.sealed && status.keys_open == 0, "{status:?}");
        for part in expected {
            assert!(status.seal_reason.contains(part), "{part:?} in: {}", status.seal_reason);
            assert!(cluster.nodes[0].log().contains(part), "{part:?} in: {}", cluster.nodes[0].log());
        }
        let (node, reason) = (cluster.at(0), expected[0]);
        assert_sealed(node.put(COLLECTION, "a", "w").send().await, reason);
        assert_sealed(node.delete(COLLECTION, "a").send().await, reason);
        assert_sealed(node.get(COLLECTION, "a").send().await, reason);
        assert_sealed(node.history(COLLECTION, "a").send().await, reason);
        assert_sealed(node.list(COLLECTION).send().await, reason);
        assert_sealed(node.batch_get([(COLLECTION, "a")]).send().await, reason);
        assert_sealed(node.create_collection(CreateCollection::new("more")).await, reason);
        cluster.leader().await;
        let (code, why) = http::get(&cluster.nodes[0].metrics, "/readyz").await;
        assert!(code == 503 && why.contains("sealed"), "{code} {why}");

        fs::write(&kek, &good).unwrap();
        fs::set_permissions(&kek, Permissions::from_mode(0o600)).unwrap();
    }
    cluster.nodes[0].kill();
    let status = cluster.start(0).await;
    assert!(!status.sealed && status.keys_open == 1, "{status:?}");
    assert_eq!(cluster.value("a").await.as_deref(), Some("v"));
}

#[tokio::test]
async fn a_sealed_node_replicates_and_votes_so_that_writes_survive_another_nodes_loss() {
    let mut cluster = Cluster::prepare(3);
    let kek = cluster.nodes[2].kek();
    let good = fs::read(&kek).unwrap();
    fs::remove_file(&kek).unwrap();
    write_other_key(&kek);
    cluster.start_and_init().await;
    cluster.put("a", "with three").await;
    assert!(cluster.own_status(2).await.seal_reason.contains("wrong KEK"));

    cluster.nodes[1].kill();
    let written = cluster.put("a", "with the sealed node's vote").await;
    assert_eq!(value_at(&cluster.at(0), "a").await.unwrap().as_deref(), Some("with the sealed node's vote"));
    assert_sealed(cluster.at(2).get(COLLECTION, "a").send().await, "wrong KEK");
    until("the sealed node has applied the write", async || {
        let status = cluster.own_status(2).await;
        if status.revision >= written.revision && status.sealed { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;

    cluster.nodes[2].kill();
    fs::write(&kek, &good).unwrap();
    cluster.start(2).await;
    assert_eq!(value_at(&cluster.at(2), "a").await.unwrap().as_deref(), Some("with the sealed node's vote"));
}

//! Linearizable reads from every data node.

use saola_jepsen::sim::{Clerk, Cluster, PATIENCE};

use super::{leader, pick, replicas_are_equal, under_seeds};

#[test]
fn every_data_node_reads_every_acknowledged_write() {
    under_seeds("reads::every_data_node_reads_every_acknowledged_write", async |_| {
        let mut cluster = Cluster::two_sites();
        cluster.init().await;
        let mut clerk = Clerk::new(1);
        for round in 0..30 {
            clerk.put(&cluster, pick(&[1, 2, 3, 4]), round % 3).await.expect("a quiet cluster takes writes");
            // All at once, and at once: the followers have not applied the write yet.
            futures::future::join_all([1, 2, 3, 4].map(|node| clerk.check(&cluster, node))).await;
        }
        assert_eq!(clerk.acked(), 30);
    });
}

#[test]
fn reads_right_after_a_leader_crash_see_every_acknowledged_write() {
    under_seeds("reads::reads_right_after_a_leader_crash_see_every_acknowledged_write", async |_| {
        let mut cluster = Cluster::new(5, false);
        cluster.init().await;
        let mut clerk = Clerk::new(1);
        for round in 0..6 {
            for record in 0..3 {
                clerk.put_surely(&cluster, &cluster.running(), record, PATIENCE).await;
            }
            let fallen = leader(&cluster).await;
            if round % 2 == 0 {
                cluster.crash(fallen).await
            } else {
                cluster.kill(fallen).await
            }
            let left = cluster.running();
            futures::future::join_all(left.iter().map(|node| clerk.check(&cluster, *node))).await;
            clerk.put_surely(&cluster, &left, 0, PATIENCE).await;
            cluster.start(fallen).await;
            clerk.check(&cluster, fallen).await;
        }
        replicas_are_equal(&cluster).await;
    });
}

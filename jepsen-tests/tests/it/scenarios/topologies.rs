//! Every topology under the loss of sites, nodes, links and disks: what was acknowledged or shown stays, and where the
//! arithmetic allows it the rest goes on by itself.

use std::time::Duration;

use saola_jepsen::sim::PATIENCE;
use saola_raft::sim::random_u64;

use super::sites::{MARK, Sites};
use super::{pick, replicas_are_equal, under_seeds};

/// 2+2+w, 3+3+w, 3+2l, and one site of three nodes or one.
fn topology(seed: u64) -> Sites {
    match seed % 5 {
        0 => Sites::with_witness(),
        1 => Sites::large_with_witness(),
        2 => Sites::with_learners(),
        3 => Sites::alone(3),
        _ => Sites::alone(1),
    }
}

#[test]
fn whatever_is_lost_in_any_topology_what_was_acknowledged_or_shown_stays() {
    under_seeds("topologies::whatever_is_lost_in_any_topology_what_was_acknowledged_or_shown_stays", async |seed| {
        let mut sites = topology(seed);
        sites.cluster.min_free_bytes = MARK;
        let mut clerk = sites.begin().await;
        assert!(clerk.look(&sites.cluster, 1).await, "all is well yet");
        let mut down = Vec::new();
        for _ in 0..12 {
            sites.trouble(&mut down).await;
            for record in 0..pick(&[0, 1, 3]) {
                let running = sites.cluster.running();
                if running.is_empty() {
                    break;
                }
                let _unknown_if_refused = clerk.put(&sites.cluster, pick(&running), record).await;
                clerk.look(&sites.cluster, pick(&running)).await;
            }
            tokio::time::sleep(Duration::from_millis(random_u64() % 700)).await;
        }
        sites.mend_all(&mut down).await;
        clerk.again_surely(&sites.cluster, &sites.main, PATIENCE).await;
        if sites.survives_a_site() {
            sites.one_is_lost_and_the_other_goes_on(&mut clerk).await;
        }
        for node in sites.cluster.running() {
            clerk.check(&sites.cluster, node).await;
        }
        sites.settle().await;
        replicas_are_equal(&sites.cluster).await;
    });
}

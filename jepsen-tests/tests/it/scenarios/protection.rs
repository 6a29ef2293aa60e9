//! What an acknowledgement waits for: under maximum protection nothing is acknowledged or shown that the other site lacks.

use std::time::Duration;

use saola_jepsen::sim::records::generation_at;
use saola_jepsen::sim::{CALL, Cluster, PATIENCE};
use saola_raft::sim::random_u64;
use saola_raft::{ProposeError, ReadError, Role};

use super::sites::{Sites, maximum, performance, set};
use super::{leader, on, pick, replicas_are_equal, status, under_seeds, until};

/// The record's generation by a linearizable read at a node.
async fn read(cluster: &Cluster, node: u64, record: u64) -> u64 {
    let replica = cluster.replica(node).expect("it runs");
    let point = replica.read_point(CALL).await.unwrap_or_else(|error| panic!("node {node}: {error}"));
    generation_at(&replica, record, &point)
}

#[test]
fn what_the_other_site_lacks_is_neither_acknowledged_nor_shown_until_it_has_it() {
    under_seeds(
        "protection::what_the_other_site_lacks_is_neither_acknowledged_nor_shown_until_it_has_it",
        async |seed| {
            let mut sites = if seed % 2 == 0 { Sites::with_witness() } else { Sites::with_learners() };
            let mut clerk = sites.begin().await;
            let (cluster, main) = (&sites.cluster, &sites.main);
            set(cluster, pick(main), maximum(pick(&[1, 2]))).await.expect("both sites are there");
            clerk.put_surely(cluster, main, 0, PATIENCE).await;
            let shown = read(cluster, 1, 0).await;
            sites.part();
            let fate = clerk.put(cluster, 1, 0).await;
            assert!(matches!(fate, Err(ProposeError::GateWait { .. })), "{fate:?}");
            let ahead = |id: &u64| status(cluster, *id).applied_index > status(cluster, *id).frontier_index;
            until("the main site has applied it", PATIENCE, || main.iter().all(ahead)).await;
            for node in main {
                assert_eq!(read(cluster, *node, 0).await, shown, "node {node}");
                let replica = cluster.replica(*node).expect("it runs");
                if let Some(point) = replica.stale_point() {
                    assert_eq!(generation_at(&replica, 0, &point), shown, "node {node}");
                }
            }
            cluster.network.heal();
            clerk.again_surely(cluster, main, PATIENCE).await;
            for node in cluster.running() {
                assert_eq!(read(cluster, node, 0).await, shown + 1, "node {node}");
                clerk.check(cluster, node).await;
            }
            replicas_are_equal(cluster).await;
        },
    );
}

#[test]
fn all_that_was_acknowledged_survives_the_main_site() {
    under_seeds("protection::all_that_was_acknowledged_survives_the_main_site", async |seed| {
        let mut sites = if seed % 2 == 0 { Sites::with_witness() } else { Sites::with_learners() };
        let mut clerk = sites.begin().await;
        set(&sites.cluster, 1, maximum(1)).await.expect("both sites are there");
        for record in 0..20 {
            // Links between the sites come and go.
            match random_u64() % 4 {
                0 => sites.cluster.part(&[pick(&sites.main)], &[pick(&sites.dr)]),
                1 => sites.part(),
                _ => sites.cluster.network.heal(),
            }
            let _unknown_if_refused = clerk.put(&sites.cluster, pick(&sites.main), record % 5).await;
        }
        let frontier = |id: &u64| status(&sites.cluster, *id).frontier_index;
        let shown = sites.main.iter().map(frontier).max().expect("there are nodes");
        for node in sites.main.clone() {
            sites.cluster.crash(node).await;
        }
        sites.cluster.network.heal();
        let stored = sites.dr.iter().filter_map(|id| sites.cluster.log(*id)).filter_map(|log| log.last).max();
        assert!(stored.is_some_and(|last| last.index >= shown), "{stored:?} at the other site, {shown} was shown");
        if seed % 2 == 0 {
            // Nothing is protected any more without the main site, so nothing is acknowledged …
            let lead = leader(&sites.cluster).await;
            let waits = clerk.put(&sites.cluster, lead, 0).await;
            assert!(waits.is_err(), "{waits:?}");
            let young = |id: &u64| sites.cluster.replica(*id).and_then(|replica| replica.stale_point());
            for point in sites.dr.iter().filter_map(young) {
                assert!(point.age_ms.is_some_and(|age| age > 100), "it may lack what was acknowledged: {point:?}");
            }
            // … until somebody says that this is to be so.
            set(&sites.cluster, lead, performance()).await.expect("the witness and this site are a quorum");
            clerk.again_surely(&sites.cluster, &sites.dr, PATIENCE).await;
            for node in &sites.dr {
                clerk.check(&sites.cluster, *node).await;
            }
        }
    });
}

#[test]
fn a_new_leader_answers_no_read_before_the_other_site_has_its_first_entry() {
    under_seeds("protection::a_new_leader_answers_no_read_before_the_other_site_has_its_first_entry", async |_| {
        let mut sites = Sites::with_learners();
        let mut clerk = sites.begin().await;
        set(&sites.cluster, 1, maximum(1)).await.expect("both sites are there");
        sites.part();
        let waits = clerk.put(&sites.cluster, 1, 0).await;
        assert!(matches!(waits, Err(ProposeError::GateWait { .. })), "{waits:?}");
        sites.cluster.kill(1).await;
        let lead = leader(&sites.cluster).await;
        let replica = sites.cluster.replica(lead).expect("it runs");
        let refused = replica.read_point(CALL).await.expect_err("it may not show what it has");
        let ReadError::NoLeader { reason, .. } = &refused else { panic!("{refused}") };
        assert!(reason.contains("the other site has not stored this leader's first entry"), "{reason}");
        sites.cluster.network.heal();
        clerk.again_surely(&sites.cluster, &[2, 3], PATIENCE).await;
        clerk.check(&sites.cluster, lead).await;
    });
}

#[test]
fn a_node_of_the_other_site_that_is_lost_can_be_replaced_while_writes_wait_for_it() {
    under_seeds(
        "protection::a_node_of_the_other_site_that_is_lost_can_be_replaced_while_writes_wait_for_it",
        async |_| {
            let mut sites = Sites::with_learners();
            let mut clerk = sites.begin().await;
            set(&sites.cluster, 1, maximum(2)).await.expect("both sites are there");
            sites.cluster.crash(4).await;
            let waits = clerk.put(&sites.cluster, 1, 0).await;
            assert!(matches!(waits, Err(ProposeError::GateWait { .. })), "{waits:?}");
            let refused = on(&sites.cluster, 1, |replica| async move { replica.remove_member(4).await }).await;
            let why = refused.expect_err("nothing could be acknowledged any more").to_string();
            assert!(why.contains("there are 1 data nodes at other sites, and 2 must acknowledge"), "{why}");
            let member = sites.cluster.add(6, "dr", Role::Learner);
            sites.cluster.start(6).await;
            let replaced =
                on(&sites.cluster, 1, |replica| async move { replica.replace_member(4, member).await }).await;
            replaced.expect("the new node is there");
            clerk.again_surely(&sites.cluster, &sites.main, PATIENCE).await;
            for node in sites.cluster.running() {
                clerk.check(&sites.cluster, node).await;
            }
        },
    );
}

#[test]
fn a_node_of_the_other_site_goes_only_once_another_one_there_has_what_it_vouched_for() {
    under_seeds(
        "protection::a_node_of_the_other_site_goes_only_once_another_one_there_has_what_it_vouched_for",
        async |_| {
            let mut sites = Sites::with_learners();
            let mut clerk = sites.begin().await;
            let cluster = &sites.cluster;
            set(cluster, 1, maximum(1)).await.expect("both sites are there");
            cluster.part(&[1, 2, 3, 4], &[5]);
            clerk.put_surely(cluster, &sites.main, 0, PATIENCE).await;
            let shown = status(cluster, 1).frontier_index;
            let refused = on(cluster, 1, |replica| async move { replica.remove_member(4).await }).await;
            let why = refused.expect_err("node 5 lacks what was acknowledged").to_string();
            assert!(why.contains("node 4 has stored what other data nodes of its site lack"), "{why}");
            clerk.put_surely(cluster, &sites.main, 0, PATIENCE).await;
            cluster.network.heal();
            on(cluster, 1, |replica| async move { replica.remove_member(4).await }).await.expect("node 5 has it all");
            let stored = cluster.log(5).and_then(|log| log.last).map_or(0, |last| last.index);
            assert!(stored >= shown, "{stored} of {shown}");
            clerk.put_surely(cluster, &sites.main, 0, PATIENCE).await;
        },
    );
}

#[test]
fn protection_counts_from_its_answer_on_and_lowering_it_releases_what_waits() {
    under_seeds("protection::protection_counts_from_its_answer_on_and_lowering_it_releases_what_waits", async |_| {
        let mut sites = Sites::with_learners();
        let mut clerk = sites.begin().await;
        let cluster = &sites.cluster;
        let refused = set(cluster, 1, maximum(3)).await.expect_err("there are two nodes at the other site");
        assert!(refused.to_string().contains("with a leader at site main there are 2 data nodes"), "{refused}");
        sites.part();
        clerk.put_surely(cluster, &sites.main, 0, PATIENCE).await;
        let waits = set(cluster, 1, maximum(1)).await.expect_err("the other site does not know of it");
        assert!(matches!(waits, ProposeError::GateWait { .. }), "{waits}");
        let waits = clerk.put(cluster, 1, 0).await;
        assert!(matches!(waits, Err(ProposeError::GateWait { .. })), "{waits:?}");
        set(cluster, 1, performance()).await.expect("it needs nobody else");
        clerk.again_surely(cluster, &sites.main, Duration::from_secs(1)).await;
        assert_eq!(status(cluster, 1).frontier_index, status(cluster, 1).applied_index);
        for node in &sites.main {
            clerk.check(cluster, *node).await;
        }
    });
}

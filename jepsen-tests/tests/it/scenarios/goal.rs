//! The declared survival goal holds changes of the membership back.

use std::time::Duration;

use saola_jepsen::sim::{CALL, Cluster, PATIENCE};
use saola_raft::sim::spawn_on;
use saola_raft::{ProposeError, Role};
use saola_storage::goal::Goal;

use super::sites::Sites;
use super::{SEEDS, add, of_seeds, remove, status, under_seeds, until};

pub(super) async fn declare(cluster: &Cluster, goal: Option<Goal>) -> Result<(), ProposeError> {
    let replica = cluster.replica(1).expect("it runs");
    let set = spawn_on(1, async move { replica.set_goal(goal, CALL).await });
    set.await.expect("the node does not crash")
}

#[test]
fn a_change_that_would_break_the_declared_goal_is_refused() {
    under_seeds("goal::a_change_that_would_break_the_declared_goal_is_refused", async |_| {
        let mut sites = Sites::with_witness();
        sites.begin().await;
        let cluster = &mut sites.cluster;
        declare(cluster, Some(Goal::Site)).await.expect("2+2+w bears the loss of a site");
        let known = |cluster: &Cluster, id: &u64| status(cluster, *id).goal.and_then(|it| it.goal);
        until("all know it", PATIENCE, || cluster.running().iter().all(|id| known(cluster, id) == Some(Goal::Site)))
            .await;
        let refused = remove(cluster, 1, 4).await.expect_err("it is needed").to_string();
        for part in ["survive=site is declared", "without site main 2 of 4 voters would be left and 3 are needed"] {
            assert!(refused.contains(part), "{part:?} in: {refused}");
        }
        // With another node in its place it is not needed, whichever way that is done.
        let member = cluster.add(6, "dr", Role::Voter);
        cluster.start(6).await;
        let lead = cluster.replica(1).expect("it runs");
        let replaced = spawn_on(1, async move { lead.replace_member(4, member).await });
        replaced.await.expect("the node does not crash").expect("it changes nothing of the votes");
        declare(cluster, None).await.expect("anything may be declared no more");
        remove(cluster, 1, 6).await.expect("nothing is declared");
        let said = declare(cluster, Some(Goal::Site)).await.expect_err("it cannot be borne").to_string();
        assert!(said.contains("this cluster does not bear survive=site: without site main"), "{said}");
        declare(cluster, Some(Goal::Node)).await.expect("three of four voters are a majority");
        assert_eq!(status(cluster, 1).goal.and_then(|it| it.broken), None);
        let member = cluster.add(7, "dr", Role::Voter);
        cluster.start(7).await;
        add(cluster, 1, member).await.expect("four of five voters are a majority");
        declare(cluster, Some(Goal::Site)).await.expect("2+2+w again");
        let member = cluster.add(8, "dr", Role::Voter);
        cluster.start(8).await;
        let refused = add(cluster, 1, member).await.expect_err("main and the witness are three of six").to_string();
        assert!(refused.contains("without site dr 3 of 6 voters would be left and 4 are needed"), "{refused}");
    });
}

#[test]
fn a_goal_and_a_removal_that_breaks_it_do_not_both_pass() {
    let removed = of_seeds("goal::a_goal_and_a_removal_that_breaks_it_do_not_both_pass", 2 * SEEDS, async |seed| {
        let mut sites = Sites::with_witness();
        sites.begin().await;
        let cluster = &sites.cluster;
        // One of the two begins a while later.
        let later = Duration::from_millis(seed * 7 % 60);
        let (first, second) = if seed % 2 == 0 { (Duration::ZERO, later) } else { (later, Duration::ZERO) };
        let removed = async {
            tokio::time::sleep(first).await;
            remove(cluster, 1, 4).await.is_ok()
        };
        let declared = async {
            tokio::time::sleep(second).await;
            declare(cluster, Some(Goal::Site)).await.is_ok()
        };
        let (removed, declared) = tokio::join!(removed, declared);
        assert_ne!(removed, declared, "one of them comes first, and then the other one may not be");
        until("the leader knows", PATIENCE, || status(cluster, 1).goal.is_some_and(|it| it.goal.is_some() == declared))
            .await;
        assert_eq!(status(cluster, 1).goal.and_then(|it| it.broken), None);
        removed
    });
    let first = removed.iter().filter(|it| **it).count();
    assert!(removed.len() < 20 || (1..removed.len()).contains(&first), "always the same one came first");
}

#[test]
fn two_sites_without_a_witness_cannot_be_declared_to_survive_a_site() {
    under_seeds("goal::two_sites_without_a_witness_cannot_be_declared_to_survive_a_site", async |_| {
        let mut sites = Sites::with_learners();
        sites.begin().await;
        let said = declare(&sites.cluster, Some(Goal::Site)).await.expect_err("main has all votes").to_string();
        assert!(said.contains("without site main 0 of 3 voters would be left and 2 are needed"), "{said}");
        declare(&sites.cluster, Some(Goal::Node)).await.expect("two of three voters are a majority");
    });
}

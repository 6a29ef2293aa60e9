//! Nodes that join, leave and are replaced.

use saola_jepsen::sim::{Clerk, Cluster, PATIENCE};
use saola_raft::{AdminError, Member, Role};

use super::{add, ids, leader, on, pick, remove, replicas_are_equal, status, under_seeds};

async fn three(clerk: &mut Clerk) -> Cluster {
    let mut cluster = Cluster::new(3, false);
    cluster.init().await;
    clerk.put_surely(&cluster, &[1, 2, 3], 0, PATIENCE).await;
    cluster
}

fn refused(result: Result<Vec<Member>, AdminError>, because: &str) {
    match result {
        Err(error @ AdminError::Invalid(_)) if error.to_string().contains(because) => {}
        other => panic!("expected a refusal because {because:?}, got {other:?}"),
    }
}

#[test]
fn new_voter_catches_up_and_its_vote_counts() {
    under_seeds("membership::new_voter_catches_up_and_its_vote_counts", async |_| {
        let mut clerk = Clerk::new(1);
        let mut cluster = three(&mut clerk).await;
        for id in [4, 5] {
            let member = cluster.add(id, "main", Role::Voter);
            cluster.start(id).await;
            let through = pick(&[1, 2, 3]);
            let members = add(&cluster, through, member).await.unwrap();
            assert_eq!(ids(&members), (1..=id).collect::<Vec<_>>());
            clerk.check(&cluster, id).await;
        }
        // Three of five go on without two of the first three.
        let first = leader(&cluster).await;
        cluster.crash(first).await;
        cluster.crash(first % 3 + 1).await;
        clerk.put_surely(&cluster, &cluster.running(), 1, PATIENCE).await;
        cluster.start_all().await;
        for node in cluster.running() {
            clerk.check(&cluster, node).await;
        }
        replicas_are_equal(&cluster).await;
    });
}

#[test]
fn learner_serves_reads_has_no_vote_and_can_be_removed() {
    under_seeds("membership::learner_serves_reads_has_no_vote_and_can_be_removed", async |_| {
        let mut clerk = Clerk::new(1);
        let mut cluster = three(&mut clerk).await;
        let member = cluster.add(4, "dr", Role::Learner);
        cluster.start(4).await;
        add(&cluster, 1, member).await.unwrap();
        clerk.put_surely(&cluster, &[4], 1, PATIENCE).await;
        clerk.check(&cluster, 4).await;
        assert_eq!(status(&cluster, 4).state, "learner");
        // Two of three voters are a quorum, whether the learner is there or not.
        cluster.crash(4).await;
        cluster.crash(3).await;
        clerk.put_surely(&cluster, &[1, 2], 1, PATIENCE).await;
        cluster.start_all().await;
        clerk.check(&cluster, 4).await;
        assert_eq!(ids(&remove(&cluster, 4, 4).await.unwrap()), [1, 2, 3]);
        clerk.put_surely(&cluster, &[1, 2, 3], 1, PATIENCE).await;
    });
}

#[test]
fn removed_node_is_gone_disturbs_nobody_and_its_id_is_not_given_again() {
    under_seeds("membership::removed_node_is_gone_disturbs_nobody_and_its_id_is_not_given_again", async |seed| {
        let mut clerk = Clerk::new(1);
        let mut cluster = three(&mut clerk).await;
        let lead = leader(&cluster).await;
        let gone = lead % 3 + 1;
        let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != gone).collect();
        if seed % 2 == 0 {
            cluster.crash(gone).await;
        }
        assert_eq!(ids(&remove(&cluster, lead, gone).await.unwrap()), others);
        if seed % 2 == 0 {
            cluster.start(gone).await;
        }
        let term = status(&cluster, lead).term;
        for record in 0..5 {
            clerk.put_surely(&cluster, &others, record, PATIENCE).await;
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
        assert_eq!(leader(&cluster).await, lead);
        assert_eq!(status(&cluster, lead).term, term, "a removed node forced an election");
        let stranger = cluster.replica(gone).unwrap().read_point(saola_jepsen::sim::CALL).await;
        assert!(stranger.is_err(), "a removed node has missed writes, yet it serves: {stranger:?}");
        let write = Clerk::new(2).put(&cluster, gone, 0).await;
        assert!(write.is_err_and(|error| error.certainly_not_applied()), "a removed node wrote");

        cluster.kill(gone).await;
        cluster.wipe(gone);
        cluster.start(gone).await;
        let member = cluster.members().into_iter().find(|member| member.node_id == gone).unwrap();
        refused(add(&cluster, lead, member).await, "never used twice");
        let member = cluster.add(4, "main", Role::Voter);
        cluster.start(4).await;
        add(&cluster, lead, member).await.unwrap();
        clerk.check(&cluster, 4).await;
    });
}

#[test]
fn dead_node_is_replaced_by_one_with_a_new_id() {
    under_seeds("membership::dead_node_is_replaced_by_one_with_a_new_id", async |_| {
        let mut clerk = Clerk::new(1);
        let mut cluster = three(&mut clerk).await;
        let dead = pick(&[1, 2, 3]);
        let left: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != dead).collect();
        cluster.crash(dead).await;
        clerk.put_surely(&cluster, &left, 0, PATIENCE).await;
        let member = cluster.add(4, "main", Role::Voter);
        cluster.start(4).await;
        let through = pick(&left);
        let members = on(&cluster, through, move |replica| async move { replica.replace_member(dead, member).await });
        assert_eq!(ids(&members.await.unwrap()), left.iter().copied().chain([4]).collect::<Vec<_>>());
        clerk.check(&cluster, 4).await;
        // The new one counts: with it one of the others may be lost.
        cluster.crash(left[0]).await;
        clerk.put_surely(&cluster, &[left[1], 4], 0, PATIENCE).await;
        cluster.start(left[0]).await;
        clerk.check(&cluster, left[0]).await;
    });
}

#[test]
fn replacing_by_a_node_that_does_not_answer_removes_nobody() {
    under_seeds("membership::replacing_by_a_node_that_does_not_answer_removes_nobody", async |_| {
        let mut clerk = Clerk::new(1);
        let mut cluster = three(&mut clerk).await;
        let lead = leader(&cluster).await;
        let old = lead % 3 + 1;
        let member = cluster.add(4, "main", Role::Voter);
        let result = on(&cluster, lead, move |replica| async move { replica.replace_member(old, member).await }).await;
        refused(result, "node 4 at sim:4 does not answer");
        assert_eq!(ids(&status(&cluster, lead).members), [1, 2, 3]);
    });
}

#[test]
fn changes_that_would_harm_are_refused_with_the_next_step() {
    under_seeds("membership::changes_that_would_harm_are_refused_with_the_next_step", async |_| {
        let mut clerk = Clerk::new(1);
        let mut cluster = three(&mut clerk).await;
        let lead = leader(&cluster).await;
        refused(remove(&cluster, lead % 3 + 1, lead).await, "hand leadership over first with `saola cluster transfer`");
        refused(remove(&cluster, lead, 9).await, "not a member");

        // A node of another cluster: it has a log of its own.
        let stranger = cluster.add(8, "main", Role::Voter);
        cluster.start(8).await;
        let alone = vec![stranger.clone()];
        on(&cluster, 8, move |replica| async move { replica.init("other", vec![], alone, [9; 32]).await })
            .await
            .unwrap();
        refused(add(&cluster, lead, stranger).await, "give it an empty data folder");

        // Settings of the new node and the topology disagree.
        let fresh = cluster.add(4, "main", Role::Voter);
        cluster.start(4).await;
        refused(add(&cluster, lead, Member { site: "dr".into(), ..fresh.clone() }).await, "correct one of them");
        refused(add(&cluster, lead, Member { name: "n1".into(), ..fresh.clone() }).await, "choose another");
        assert_eq!(ids(&status(&cluster, lead).members), [1, 2, 3]);
        add(&cluster, lead, fresh).await.unwrap();
        clerk.put_surely(&cluster, &[1, 2, 3, 4], 0, PATIENCE).await;
    });
}

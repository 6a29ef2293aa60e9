//! Nodes that join, leave and are replaced.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::Duration;

use saola_jepsen::sim::{Clerk, Cluster, PATIENCE};
use saola_raft::sim::{SimRuntime, random_u64, spawn_on};
use saola_raft::{AdminError, Member, Replica, Role};

use super::{add, ids, leader, on, pick, remove, replicas_are_equal, sites, status, under_seeds, until};

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
        let refused = remove(&cluster, 4, 4).await.unwrap_err().to_string();
        assert!(refused.contains("or lower the protection"), "it is the only one of its site: {refused}");
        sites::set(&cluster, 4, sites::performance()).await.unwrap();
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

/// What an operator asks for.
#[derive(Clone, Debug)]
enum Verb {
    Add(Member),
    Remove(u64),
    Replace(u64, Member),
}

impl Verb {
    /// One of the three, as the seed decides, on a node of `cluster` that does not lead, or with node 4.
    async fn of(seed: u64, cluster: &mut Cluster) -> Verb {
        let old = leader(cluster).await % 3 + 1;
        if seed % 3 == 1 {
            return Verb::Remove(old);
        }
        let member = cluster.add(4, "main", Role::Voter);
        cluster.start(4).await;
        if seed.is_multiple_of(3) { Verb::Add(member) } else { Verb::Replace(old, member) }
    }

    /// The voters of three after it.
    fn voters_after(&self) -> BTreeSet<u64> {
        let mut voters = BTreeSet::from([1, 2, 3]);
        match self {
            Verb::Add(member) => voters.extend([member.node_id]),
            Verb::Remove(old) => voters.retain(|id| id != old),
            Verb::Replace(old, member) => {
                voters.retain(|id| id != old);
                voters.insert(member.node_id);
            }
        }
        voters
    }

    /// The node that goes.
    fn gone(&self) -> Option<u64> {
        match self {
            Verb::Add(_) => None,
            Verb::Remove(old) | Verb::Replace(old, _) => Some(*old),
        }
    }

    async fn call(self, replica: Replica<SimRuntime>) -> Result<Vec<Member>, AdminError> {
        match self {
            Verb::Add(member) => replica.add_member(member).await,
            Verb::Remove(old) => replica.remove_member(old).await,
            Verb::Replace(old, member) => replica.replace_member(old, member).await,
        }
    }

    async fn through(self, cluster: &Cluster, node: u64) -> Result<Vec<Member>, AdminError> {
        on(cluster, node, |replica| self.call(replica)).await
    }
}

/// Members and voters are those expected, as the leader has them.
fn is_made(cluster: &Cluster, expected: &BTreeSet<u64>) -> bool {
    cluster.running().into_iter().any(|node| {
        let status = status(cluster, node);
        status.state == "leader"
            && status.voter_sets == std::slice::from_ref(expected)
            && status.members.iter().map(|member| member.node_id).eq(expected.iter().copied())
    })
}

#[test]
fn caller_who_goes_away_does_not_cut_a_change_short() {
    under_seeds("membership::caller_who_goes_away_does_not_cut_a_change_short", async |seed| {
        let mut clerk = Clerk::new(1);
        let mut cluster = three(&mut clerk).await;
        let verb = Verb::of(seed, &mut cluster).await;
        let expected = verb.voters_after();
        let lead = leader(&cluster).await;
        let through = if seed % 2 == 0 { lead } else { lead % 3 + 1 };
        // Asked through a follower the verb takes its way to the leader first.
        let moment = Duration::from_millis(3) + Duration::from_micros(random_u64() % 10_000);
        let replica = cluster.replica(through).expect("it runs");
        let call = spawn_on(through, tokio::time::timeout(moment, verb.call(replica)));
        let _answer = call.await.expect("nothing aborts the caller");
        until("the change ends without its caller", PATIENCE, || is_made(&cluster, &expected)).await;
        let voters: Vec<u64> = expected.into_iter().collect();
        clerk.put_surely(&cluster, &voters, 0, PATIENCE).await;
        clerk.check(&cluster, voters[0]).await;
    });
}

#[test]
fn change_whose_leader_dies_is_finished_by_repeating_it() {
    under_seeds("membership::change_whose_leader_dies_is_finished_by_repeating_it", async |seed| {
        let mut clerk = Clerk::new(1);
        let mut cluster = three(&mut clerk).await;
        let verb = Verb::of(seed, &mut cluster).await;
        let expected = verb.voters_after();
        let old = leader(&cluster).await;
        let call = tokio::spawn({
            let (replica, verb) = (cluster.replica(old).expect("it leads"), verb.clone());
            async move { spawn_on(old, verb.call(replica)).await }
        });
        tokio::time::sleep(Duration::from_micros(random_u64() % 60_000)).await;
        cluster.crash(old).await;
        let _answer = call.await.expect("nothing aborts the operator");
        if matches!(verb, Verb::Remove(_)) {
            // Of two voters, if it has come as far as that, the one left is no quorum.
            cluster.start(old).await;
        }
        let mut lead = leader(&cluster).await;
        while verb.gone() == Some(lead) {
            // It may be gone already, and hand over by itself.
            let to = 6 - old - lead;
            let _answer = on(&cluster, lead, move |replica| async move { replica.transfer(to).await }).await;
            lead = leader(&cluster).await;
        }
        let members = verb.clone().through(&cluster, lead).await.expect("the new leader finishes it");
        assert_eq!(ids(&members).into_iter().collect::<BTreeSet<_>>(), expected);
        until("it is made", PATIENCE, || is_made(&cluster, &expected)).await;
        if cluster.replica(old).is_none() {
            cluster.start(old).await;
        }
        let voters: Vec<u64> = expected.into_iter().collect();
        for node in &voters {
            clerk.put_surely(&cluster, &[*node], 0, PATIENCE).await;
            clerk.check(&cluster, *node).await;
        }
        // Repeated once more it finds nothing left to do.
        let lead = leader(&cluster).await;
        verb.through(&cluster, lead).await.expect("a change that is made can be asked for again");
    });
}

#[test]
fn joint_membership_that_a_dead_leader_left_is_completed_by_the_next() {
    let left_joint = Cell::new(0);
    under_seeds("membership::joint_membership_that_a_dead_leader_left_is_completed_by_the_next", async |seed| {
        let mut clerk = Clerk::new(1);
        let mut cluster = three(&mut clerk).await;
        let verb = Verb::of(3 * seed + 2 * (seed % 2), &mut cluster).await;
        let expected = verb.voters_after();
        let old = leader(&cluster).await;
        spawn_on(old, verb.call(cluster.replica(old).expect("it leads")));
        let joint = |node| status(&cluster, node).voter_sets.len() == 2;
        let others: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != old).collect();
        // Both have it, so whoever is elected has it; the entry that ends it is probably not written by then.
        while !others.iter().all(|node| joint(*node)) {
            tokio::time::sleep(Duration::from_micros(20)).await;
        }
        cluster.crash(old).await;
        let now: Vec<u64> = cluster.running();
        left_joint
            .set(left_joint.get() + usize::from(now.iter().any(|node| status(&cluster, *node).voter_sets.len() == 2)));
        until("the next leader completes the change", PATIENCE, || is_made(&cluster, &expected)).await;
        clerk.put_surely(&cluster, &now, 0, PATIENCE).await;
        cluster.start(old).await;
        clerk.check(&cluster, old).await;
    });
    println!("{} runs left a joint membership to the next leader", left_joint.get());
}

#[test]
fn node_that_does_not_catch_up_can_be_removed_while_it_is_being_added() {
    under_seeds("membership::node_that_does_not_catch_up_can_be_removed_while_it_is_being_added", async |_| {
        let mut clerk = Clerk::new(1);
        let mut cluster = three(&mut clerk).await;
        let lead = leader(&cluster).await;
        let member = cluster.add(4, "main", Role::Voter);
        cluster.start(4).await;
        let adding = spawn_on(lead, Verb::Add(member.clone()).call(cluster.replica(lead).expect("it leads")));
        until("node 4 joins", PATIENCE, || ids(&status(&cluster, lead).members).contains(&4)).await;
        cluster.crash(4).await;
        if ids(&remove(&cluster, lead, 4).await.unwrap()) != [1, 2, 3] {
            panic!("node 4 is still a member");
        }
        // Its vote may have come first.
        if let Err(error) = adding.await.expect("nothing aborts the operator") {
            assert!(error.to_string().contains("was removed before it had caught up"), "{error}");
        }
        cluster.start(4).await;
        refused(add(&cluster, lead, member).await, "never used twice");
        clerk.put_surely(&cluster, &[1, 2, 3], 0, PATIENCE).await;
    });
}

#[test]
fn change_after_which_too_few_voters_would_answer_is_not_begun() {
    under_seeds("membership::change_after_which_too_few_voters_would_answer_is_not_begun", async |_| {
        let mut clerk = Clerk::new(1);
        let mut cluster = three(&mut clerk).await;
        let lead = leader(&cluster).await;
        let (alive, dead) = (lead % 3 + 1, (lead + 1) % 3 + 1);
        cluster.crash(dead).await;
        refused(remove(&cluster, lead, alive).await, "2 voters would be left, of which 1 answer and 2 are needed");
        clerk.put_surely(&cluster, &[lead, alive], 0, PATIENCE).await;
        assert_eq!(ids(&remove(&cluster, lead, dead).await.unwrap()).len(), 2);
    });
}

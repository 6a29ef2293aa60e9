//! Who may speak as which node: copies at another address, removed nodes, other nodes' certificates, and what a member
//! may say.

use saola_jepsen::sim::{CALL, Cluster, PATIENCE};
use saola_raft::sim::spawn_on;
use saola_raft::transport::Caller;
use saola_raft::wire::{
    Answer, AppendRequest, AppendResult, Header, Nothing, PeerReply, PeerRequest, Question, RefusalCode, WIRE_VERSION,
    WireVote,
};
use saola_raft::{ReadError, Role};

use super::{add, have_lead, leader, pick, remove, status, three_with_a_record, under_seeds, until};

#[test]
fn copy_of_a_folder_at_another_address_takes_no_part() {
    under_seeds("admission::copy_of_a_folder_at_another_address_takes_no_part", async |_| {
        const TWIN: u64 = 12;
        let (mut cluster, mut clerk) = three_with_a_record().await;
        have_lead(&cluster, 1).await;
        cluster.stop(2).await;
        cluster.twin(TWIN, 2);
        cluster.start(TWIN).await;

        // The node itself is away: with node 3 gone too, the copy would be the second of three.
        cluster.stop(3).await;
        cluster.kill(1).await;
        cluster.start(1).await;
        tokio::time::sleep(10 * CALL).await;
        assert!(status(&cluster, 1).leader.is_none(), "a copy at another address helped to elect node 1");
        assert!(status(&cluster, TWIN).leader.is_none(), "a copy at another address was elected");
        let told = status(&cluster, TWIN).refusals;
        assert!(told.iter().any(|(_, why)| why.contains("recorded address sim:2 of node 2")), "{told:?}");

        // Both run: the one at the recorded address is the node.
        cluster.start(2).await;
        cluster.start(3).await;
        let said = || status(&cluster, TWIN).refused_by_peers.unwrap_or_default();
        let stop = "two processes run as node 2: the one at the recorded address sim:2 counts; stop this one";
        until("the copy learns that it does not count", PATIENCE, || said() == stop).await;
        assert_eq!(status(&cluster, TWIN).state, "refused");
        for record in 0..5 {
            clerk.put_surely(&cluster, &[1, 2, 3], record, PATIENCE).await;
        }
        for node in [1, 2, 3] {
            clerk.check(&cluster, node).await;
            assert_eq!(status(&cluster, node).refused_by_peers, None);
        }
    });
}

#[test]
fn removed_node_that_runs_on_or_again_learns_it_and_stops() {
    under_seeds("admission::removed_node_that_runs_on_or_again_learns_it_and_stops", async |seed| {
        let (mut cluster, mut clerk) = three_with_a_record().await;
        let role = pick(&[Role::Voter, Role::Learner]);
        let member = cluster.add(4, "main", role);
        cluster.start(4).await;
        let lead = leader(&cluster).await;
        add(&cluster, lead, member).await.unwrap();
        clerk.check(&cluster, 4).await;
        let away = seed % 2 == 0;
        if away {
            cluster.crash(4).await;
        }
        remove(&cluster, lead, 4).await.unwrap();
        if away {
            cluster.start(4).await;
        }
        let term = status(&cluster, lead).term;
        let why = "node 4 was removed from the cluster: stop it and delete its data folder";
        let said = |cluster: &Cluster| status(cluster, 4).refused_by_peers.unwrap_or_default();
        until("the removed node learns it", PATIENCE, || said(&cluster).starts_with(why)).await;
        assert_eq!(status(&cluster, 4).state, "refused");
        let read = cluster.replica(4).unwrap().read_point(CALL).await;
        assert!(matches!(&read, Err(ReadError::Stopped(reason)) if reason.starts_with(why)), "{read:?}");
        clerk.put_surely(&cluster, &[1, 2, 3], 0, PATIENCE).await;
        assert_eq!(status(&cluster, lead).term, term, "a removed node forced an election");
        // Not from hearsay: it asks again when it starts again.
        cluster.kill(4).await;
        cluster.start(4).await;
        until("it learns it again", PATIENCE, || said(&cluster).starts_with(why)).await;
    });
}

#[test]
fn node_that_joined_while_another_was_away_is_not_taken_for_a_removed_one() {
    under_seeds("admission::node_that_joined_while_another_was_away_is_not_taken_for_a_removed_one", async |_| {
        let (mut cluster, mut clerk) = three_with_a_record().await;
        have_lead(&cluster, 1).await;
        cluster.stop(3).await;
        let member = cluster.add(4, "main", Role::Voter);
        cluster.start(4).await;
        add(&cluster, 1, member).await.unwrap();
        have_lead(&cluster, 4).await;
        clerk.put_surely(&cluster, &[1, 2, 4], 0, PATIENCE).await;
        // Three of four: the new leader needs the node that has never heard of it.
        cluster.crash(2).await;
        cluster.start(3).await;
        clerk.put_surely(&cluster, &[1, 3, 4], 0, PATIENCE).await;
        for node in [1, 3, 4] {
            clerk.check(&cluster, node).await;
            assert_eq!(status(&cluster, node).refused_by_peers, None);
        }
    });
}

#[test]
fn node_with_another_nodes_certificate_takes_no_part() {
    under_seeds("admission::node_with_another_nodes_certificate_takes_no_part", async |_| {
        let (mut cluster, mut clerk) = three_with_a_record().await;
        have_lead(&cluster, 1).await;
        cluster.stop(3).await;
        cluster.certify(3, "n2");
        cluster.start(3).await;
        cluster.stop(2).await;
        cluster.kill(1).await;
        cluster.start(1).await;
        tokio::time::sleep(10 * CALL).await;
        for node in [1, 3] {
            assert!(status(&cluster, node).leader.is_none(), "another node's certificate had a vote");
        }
        let told = status(&cluster, 3).refusals;
        assert!(told.iter().any(|(_, why)| why.contains("it is from n3, the certificate is n2's")), "{told:?}");
        cluster.kill(3).await;
        cluster.certify(3, "n3");
        cluster.start(3).await;
        clerk.put_surely(&cluster, &[1, 3], 0, PATIENCE).await;
    });
}

async fn ask(cluster: &Cluster, node: u64, certified: &str, header: Header, question: Question) -> PeerReply {
    let service = cluster.replica(node).expect("it runs").peer_service();
    let caller = Caller::certified(vec![certified.to_owned()]);
    let request = PeerRequest { header: Some(header), question: Some(question) };
    spawn_on(node, async move { service.call(&caller, request).await }).await.expect("nothing aborts a node here")
}

/// The header of a member's message.
async fn header(cluster: &Cluster, from: u64, to: u64) -> Header {
    let (sender, receiver) = (status(cluster, from), status(cluster, to));
    let member = |id: u64| sender.members.iter().find(|member| member.node_id == id).cloned().expect("a member");
    let anyone = Header { wire_version: WIRE_VERSION, from_name: "n9".into(), ..Header::default() };
    let who = ask(cluster, from, "n9", anyone, Question::Identify(Nothing {})).await;
    let Some(Answer::Identity(identity)) = who.answer else { panic!("node {from} said {who:?}") };
    Header {
        wire_version: WIRE_VERSION,
        cluster_id: receiver.cluster_id.expect("it is adopted").to_vec().into(),
        epoch: receiver.epoch,
        from,
        to,
        from_folder: member(from).folder_id,
        to_folder: member(to).folder_id,
        from_role: member(from).role,
        from_site: member(from).site,
        from_name: member(from).name,
        from_boot: identity.boot_id,
        ..Header::default()
    }
}

#[test]
fn a_message_counts_only_from_the_process_and_in_the_name_of_its_sender() {
    under_seeds("admission::a_message_counts_only_from_the_process_and_in_the_name_of_its_sender", async |_| {
        let mut cluster = Cluster::new(3, false);
        cluster.init().await;
        have_lead(&cluster, 1).await;
        let own = header(&cluster, 1, 2).await;
        let vote = |node_id| Some(WireVote { term: status(&cluster, 1).term, node_id, committed: true });
        let append = |node_id| Question::Append(AppendRequest { vote: vote(node_id), ..AppendRequest::default() });
        let refusal = |reply: PeerReply| match reply.answer {
            Some(Answer::Refused(refusal)) => Some(refusal.kind()),
            Some(Answer::Append(reply)) => match reply.result {
                Some(AppendResult::Refused(refusal)) => Some(refusal.kind()),
                _ => None,
            },
            _ => None,
        };
        assert_eq!(refusal(ask(&cluster, 2, "n1", own.clone(), append(1)).await), None);
        let by_another = ask(&cluster, 2, "n3", own.clone(), append(1)).await;
        assert_eq!(refusal(by_another), Some(RefusalCode::WrongCertificate));
        let for_another = ask(&cluster, 2, "n1", own.clone(), append(3)).await;
        assert_eq!(refusal(for_another), Some(RefusalCode::BadMessage));
        let twin = Header { from_boot: vec![9; 16].into(), ..own.clone() };
        assert_eq!(refusal(ask(&cluster, 2, "n1", twin, append(1)).await), Some(RefusalCode::TwoProcesses));
        assert_eq!(refusal(ask(&cluster, 2, "n1", own, append(1)).await), None);
    });
}

#[test]
fn a_member_cannot_raise_the_frontier_above_what_is_committed() {
    under_seeds("admission::a_member_cannot_raise_the_frontier_above_what_is_committed", async |_| {
        let (cluster, mut clerk) = three_with_a_record().await;
        have_lead(&cluster, 1).await;
        let own = header(&cluster, 1, 2).await;
        let vote = Some(WireVote { term: status(&cluster, 1).term, node_id: 1, committed: true });
        let lie = AppendRequest { vote, frontier_next: 1 << 60, ..AppendRequest::default() };
        let reply = ask(&cluster, 2, "n1", own, Question::Append(lie)).await;
        assert!(matches!(reply.answer, Some(Answer::Append(_))), "{reply:?}");
        let (follower, leader) = (status(&cluster, 2), status(&cluster, 1));
        assert!(follower.frontier_index <= leader.committed_index, "{} is shown", follower.frontier_index);
        clerk.put_surely(&cluster, &[2], 0, PATIENCE).await;
        clerk.check(&cluster, 2).await;
    });
}

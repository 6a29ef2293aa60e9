//! The cluster as the node that knows most tells it.
//!
//! Any node answers for the whole cluster from what it knows, and some know nothing or old things: one that waits to be
//! adopted, one that was removed, one that is cut off. The leader knows the members of now.

use std::time::Duration;

use futures::future::join_all;
use saola_client::Client;
use saola_client::proto::{NodeStatus, StatusResponse};

use crate::exit::Failure;

/// The leader, and then the other nodes, have so long to answer; a node waits a second for each of its peers.
const ANSWER_LIMIT: Duration = Duration::from_millis(1500);

/// Asks for the cluster's status; goes on to the leader, or failing that to all known nodes, for the best answer.
///
/// # Errors
/// No node that answers.
pub async fn cluster_view(client: &Client) -> Result<StatusResponse, Failure> {
    let first = client.cluster_status(false).await?;
    if rank(&first).0 {
        return Ok(first);
    }
    let from_leader = match leader_address(&first) {
        Some(address) => ask(client, address).await,
        None => None,
    };
    if let Some(answer) = from_leader.filter(|answer| rank(answer).0) {
        return Ok(answer);
    }
    let endpoints = client.endpoints();
    let others = join_all(endpoints.iter().map(|endpoint| ask(client, endpoint))).await;
    Ok(best(first, others.into_iter().flatten()))
}

/// A node that cannot be asked counts as one without an answer: another one has answered already.
async fn ask(client: &Client, endpoint: &str) -> Option<StatusResponse> {
    client.at_endpoint(endpoint).ok()?.with_deadline(ANSWER_LIMIT).cluster_status(false).await.ok()
}

/// A node that was removed hears from no leader, but its former peers tell it who leads.
fn leader_address(status: &StatusResponse) -> Option<&str> {
    let known = |node: &&NodeStatus| node.member.as_ref().is_some_and(|member| member.node_id == status.leader);
    let leader = status.nodes.iter().find(known).or_else(|| status.nodes.iter().find(|node| node.state == "leader"))?;
    leader.member.as_ref().map(|member| member.client_address.as_str())
}

fn best(first: StatusResponse, others: impl Iterator<Item = StatusResponse>) -> StatusResponse {
    others.fold(first, |best, other| if rank(&other) > rank(&best) { other } else { best })
}

/// How much an answer is worth: from the leader itself, from one that knows a leader, from a member, of a later term.
fn rank(status: &StatusResponse) -> (bool, bool, bool, u64) {
    let answered_by = status.header.map_or(0, |header| header.node);
    let knows_leader = status.leader != 0;
    (knows_leader && status.leader == answered_by, knows_leader, !status.cluster_id.is_empty(), status.term)
}

#[cfg(test)]
mod tests {
    use saola_client::proto::{Header, Member};

    use super::*;

    fn answer(node: u64, leader: u64, cluster: &'static [u8], term: u64) -> StatusResponse {
        StatusResponse {
            header: Some(Header { node, ..Header::default() }),
            leader,
            cluster_id: cluster.into(),
            term,
            ..StatusResponse::default()
        }
    }

    fn node_of(first: &StatusResponse, others: &[StatusResponse]) -> u64 {
        best(first.clone(), others.iter().cloned()).header.unwrap().node
    }

    #[test]
    fn the_leader_is_found_by_its_number_or_by_what_it_says_of_itself() {
        let node = |node_id, state: &str| NodeStatus {
            member: Some(Member { node_id, client_address: format!("n{node_id}:1"), ..Member::default() }),
            state: state.into(),
            ..NodeStatus::default()
        };
        let mut status = answer(1, 2, b"c", 5);
        status.nodes = vec![node(1, "follower"), node(2, ""), node(3, "leader")];
        assert_eq!(leader_address(&status), Some("n2:1"));
        status.leader = 0;
        assert_eq!(leader_address(&status), Some("n3:1"));
        status.nodes.pop();
        assert_eq!(leader_address(&status), None);
    }

    #[test]
    fn the_leader_is_believed_before_its_followers_and_a_member_before_a_node_without_cluster() {
        let (waiting, alone) = (answer(2, 0, b"", 0), answer(3, 0, b"c", 9));
        let (follower, leader) = (answer(4, 1, b"c", 5), answer(1, 1, b"c", 5));
        assert_eq!(node_of(&waiting, &[alone.clone(), follower.clone(), leader.clone()]), 1);
        assert_eq!(node_of(&waiting, &[alone.clone(), follower]), 4);
        assert_eq!(node_of(&waiting, &[alone]), 3);
        assert_eq!(node_of(&answer(5, 5, b"c", 4), &[leader]), 1);
    }
}

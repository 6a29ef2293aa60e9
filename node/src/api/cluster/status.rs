//! The call `Status`: what this node says of itself, what the others say, and what follows for the cluster.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use prost::Message;
use saola_client::proto::{Member, NodeStatus, Role, SiteStatus, StatusResponse};
use saola_raft::{AdminError, ReplicaStatus};

use super::protection::{self, NodeView};
use super::{header, topology};
use crate::api::convert;
use crate::node::Node;
use crate::process;

/// Each node gets so long to say how it is.
const STATUS_LIMIT: Duration = Duration::from_millis(1000);

/// What this node says of itself and of its cluster, as bytes for its peers.
pub fn encoded_status(node: &Node) -> Vec<u8> {
    let own = node.replica().status();
    StatusResponse { cluster_id: cluster_id(&own), nodes: vec![own_status(node, &own)], ..StatusResponse::default() }
        .encode_to_vec()
}

/// 16 bytes, none before the node is part of a cluster.
fn cluster_id(own: &ReplicaStatus) -> Bytes {
    own.cluster_id.map(|id| Bytes::copy_from_slice(&id)).unwrap_or_default()
}

fn own_status(node: &Node, status: &ReplicaStatus) -> NodeStatus {
    let ring = node.ring();
    let own = status.members.iter().find(|member| member.node_id == node.id());
    let member = own.cloned().map_or_else(|| node.member().clone(), convert::member_from_raft);
    NodeStatus {
        member: Some(member),
        reachable: true,
        error: status.refused_by_peers.clone().unwrap_or_default(),
        state: status.state.into(),
        sealed: ring.sealed().is_some(),
        seal_reason: ring.sealed().unwrap_or_default().into(),
        last_log_index: status.last_log_index,
        committed_index: status.committed_index,
        applied_index: status.applied_index,
        frontier_index: status.frontier_index,
        revision: status.revision,
        disk_free_bytes: status.disk_free_bytes,
        disk_min_free_bytes: status.disk_min_free_bytes,
        data_bytes: status.data_bytes,
        rss_bytes: process::rss_bytes(),
        release: env!("CARGO_PKG_VERSION").into(),
        uptime_s: node.uptime_s(),
        certificate_expires_in_s: node.certificate_expires_in_s(),
        keys_open: ring.open_count() as u64,
        keys_total: ring.total() as u64,
        writes_refused: status.writes_refused.is_some(),
        writes_refused_reason: status.writes_refused.clone().unwrap_or_default(),
        log_syncs: status.log_syncs,
        links: convert::links(status),
        timers: Some(convert::timers(status)),
        log_bytes: status.log_bytes,
        log_keep_bytes: status.log_keep_bytes,
        log_first_index: status.log_first_index,
        copy: (node.member().role() != Role::Witness).then(|| convert::copy_status(&status.scrub)),
        disk_hangs: status.disk_hangs.clone().unwrap_or_default(),
        log_kept: String::new(),
        without_vote: String::new(),
        vote_taken: false,
        known_without_vote: convert::without_vote(status),
        membership_index: status.membership_index,
        protection: convert::protection_status(status),
        failover: convert::failover_status(status),
        trouble: node.troubles().describe(),
        twin_epoch: status.twin_epoch.clone().unwrap_or_default(),
    }
}

/// The whole answer; `local`: without asking the other nodes.
pub(super) async fn of_cluster(node: &Node, local: bool) -> StatusResponse {
    let own = node.replica().status();
    let mut nodes = vec![own_status(node, &own)];
    let others = own.members.iter().filter(|member| member.node_id != node.id());
    nodes.extend(join_all(others.map(|member| ask(node, &own, member, local))).await);
    for node in &mut nodes {
        let id = node.member.as_ref().map_or(0, |member| member.node_id);
        let kept = own.log_kept.iter().find(|(dead, _)| *dead == id);
        node.log_kept = kept.map_or_else(String::new, |(_, text)| text.clone());
    }
    nodes.sort_by_key(|status| status.member.as_ref().map_or(0, |member| member.node_id));
    let leads =
        |status: &&NodeStatus| own.leader.is_some() && status.member.as_ref().map(|it| it.node_id) == own.leader;
    let leading = nodes.iter().find(leads).cloned();
    let stand = leading.as_ref().and_then(|leader| leader.protection.clone());
    let stand = stand.or_else(|| convert::protection_status(&own));
    // The leader knows; without one, whoever knows the newest membership.
    let newest = nodes.iter().filter(|node| takes_part(node)).max_by_key(|node| node.membership_index);
    let voteless = leading.as_ref().filter(|node| takes_part(node)).or(newest);
    for voteless in voteless.map(|node| node.known_without_vote.clone()).unwrap_or_default() {
        let of = |node: &&mut NodeStatus| node.member.as_ref().is_some_and(|it| it.node_id == voteless.node_id);
        for node in nodes.iter_mut().filter(of) {
            (node.without_vote, node.vote_taken) = (voteless.why.clone(), voteless.taken);
        }
    }

    let view = node.store().view();
    let info = view.info();
    let counts = view.counts();
    let taking_part = nodes.iter().filter(|status| takes_part(status));
    let committed = taking_part.map(|status| status.committed_index).max().unwrap_or(0);
    let views: Vec<NodeView> = nodes
        .iter()
        .map(|status| NodeView {
            member: status.member.clone().unwrap_or_default(),
            has_vote: status.without_vote.is_empty(),
            vote_taken: status.vote_taken,
            takes_part: takes_part(status),
            sealed: status.sealed,
            applied_index: status.applied_index,
        })
        .collect();
    let site_of = |id: u64| views.iter().find(|view| view.member.node_id == id).map(|view| view.member.site.clone());
    let main_site = own.leader.and_then(site_of).unwrap_or_else(|| node.member().site.clone());
    let members: Vec<Member> = views.iter().map(|view| view.member.clone()).collect();
    let failover = leading.and_then(|leader| leader.failover).or_else(|| convert::failover_status(&own));
    let glance = protection::of_cluster(&main_site, &views, committed, stand.as_ref());
    // Where a promotion has left one site, that is no choice of anybody's.
    let alone = node.store().epochs().pop().filter(|_| glance.sentence.starts_with(protection::ONE_SITE));
    let protection = match own.adopted {
        true => alone.map_or(glance.sentence, |epoch| protection::promoted(epoch.number)),
        false => own.refused_by_peers.clone().unwrap_or_else(|| "no cluster yet: run `saola cluster init`".into()),
    };
    StatusResponse {
        header: Some(header(node)),
        cluster_name: info.as_ref().map(|info| info.cluster_name.clone()).unwrap_or_default(),
        cluster_id: cluster_id(&own),
        leader: own.leader.unwrap_or(0),
        term: own.term,
        topology: topology::name(&members),
        sites: site_statuses(&views, committed),
        nodes,
        protection,
        records: counts.records,
        versions: counts.versions,
        rule: stand.as_ref().and_then(|stand| stand.rule),
        protection_status: stand,
        rpo: glance.rpo,
        failover,
        goal: convert::goal_status(&own),
    }
}

async fn ask(node: &Node, own: &ReplicaStatus, member: &saola_raft::Member, local: bool) -> NodeStatus {
    let unanswered = |error: String| NodeStatus {
        member: Some(convert::member_from_raft(member.clone())),
        error,
        ..NodeStatus::default()
    };
    if local {
        return unanswered("not asked".into());
    }
    let answer = tokio::time::timeout(STATUS_LIMIT, node.replica().peer_status(member.node_id)).await;
    match answer {
        Err(_) => unanswered(format!("no answer within {} ms", STATUS_LIMIT.as_millis())),
        Ok(Err(AdminError::PeerUnreachable { address, reason, .. })) => unanswered(format!("{reason} at {address}")),
        Ok(Err(error)) => unanswered(error.to_string()),
        Ok(Ok(bytes)) => match StatusResponse::decode(bytes) {
            Err(error) => unanswered(format!("its answer cannot be read: {error}; run the same release everywhere")),
            Ok(answer) => of_member(own, member, answer),
        },
    }
}

/// What a member's answer says, seen from this node's cluster.
fn of_member(own: &ReplicaStatus, member: &saola_raft::Member, answer: StatusResponse) -> NodeStatus {
    let foreign = !answer.cluster_id.is_empty() && answer.cluster_id != cluster_id(own);
    let starting = || NodeStatus { error: "the node is still starting".into(), ..NodeStatus::default() };
    let mut status = answer.nodes.into_iter().next().unwrap_or_else(starting);
    status.member = Some(convert::member_from_raft(member.clone()));
    let id = member.node_id;
    if foreign {
        // Its figures are those of the other cluster.
        return NodeStatus {
            member: status.member,
            reachable: true,
            state: "refused".into(),
            error: format!(
                "node {id} runs on a data folder of another cluster: put its own folder back, or replace it with \
                 `saola cluster replace {id}`"
            ),
            ..NodeStatus::default()
        };
    }
    // A node that waits for a cluster under a member's address runs on another folder than the one known.
    if let Some((_, refusal)) = own.refusals.iter().find(|(refusing, _)| *refusing == id)
        && status.error.is_empty()
        && matches!(status.state.as_str(), "waiting" | "refused")
    {
        status.error = refusal.clone();
        status.state = "refused".into();
    }
    status
}

/// It answered, as a node of this cluster whose Raft runs.
fn takes_part(status: &NodeStatus) -> bool {
    status.reachable
        && !matches!(status.state.as_str(), "waiting" | "asking" | "fenced" | "refused" | "stopped" | "repairing")
}

fn site_statuses(views: &[NodeView], committed: u64) -> Vec<SiteStatus> {
    let mut names: Vec<&str> = Vec::new();
    for view in views {
        if !names.contains(&view.member.site.as_str()) {
            names.push(&view.member.site);
        }
    }
    let status = |name: &str| {
        let here = || views.iter().filter(|view| view.member.site == name);
        let data = here().filter(|view| view.member.role() != Role::Witness).count();
        SiteStatus {
            name: name.to_owned(),
            data_nodes: data as u32,
            data_nodes_current: here().filter(|view| view.is_current(committed)).count() as u32,
            is_witness_site: data == 0,
            protection: protection::of_site(name, views, committed),
        }
    };
    names.into_iter().map(status).collect()
}

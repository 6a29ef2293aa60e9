//! The service `saola.v1.Cluster`: making a cluster, looking at it, changing its members.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use saola_client::proto::cluster_server::Cluster;
use saola_client::proto::{
    AddMemberRequest, CampaignRequest, CampaignResponse, DigestRequest, DigestResponse, Header, InitRequest,
    InitResponse, Member, MembershipResponse, NodeDigest, RemoveMemberRequest, ReplaceMemberRequest, Role,
    ScrubRequest, ScrubResponse, SetFailoverRequest, SetFailoverResponse, SetGoalRequest, SetGoalResponse,
    SetProtectionRequest, SetProtectionResponse, Site, StatusRequest, StatusResponse, TransferRequest,
    TransferResponse,
};
use saola_raft::ReadError;
use saola_storage::command::{AddSite, Command, Decision, Op, TakeDigest, WrappedDek};
use saola_storage::keyring::wrap_dek;
use saola_storage::seal::DekId;
use tonic::{Request, Response, Status};

use super::deadline::Deadline;
use super::errors::{Reason, Refusal};
use super::{admit, convert};
use crate::entropy;
use crate::node::Node;
use topology::TopologyError;

pub mod protection;
mod status;
pub mod topology;

pub use status::encoded_status;

/// A change of the cluster waits so long for a leader with a quorum, an election included.
const QUORUM_LIMIT: Duration = Duration::from_secs(10);
/// How often a node is asked for its digest while it has not applied that far.
const DIGEST_PAUSE: Duration = Duration::from_millis(50);
/// A node that does not say anything is waited for no longer; one that has not applied enough is, until the deadline.
const DIGEST_SILENCE: Duration = Duration::from_secs(3);

/// Answers calls about the cluster.
pub struct ClusterService(pub Arc<Node>);

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn init(&self, request: Request<InitRequest>) -> Result<Response<InitResponse>, Status> {
        admit(&self.0, request.metadata())?;
        Ok(Response::new(init(&self.0, request.into_inner()).await?))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        admit(&self.0, request.metadata())?;
        Ok(Response::new(status::of_cluster(&self.0, request.into_inner().local).await))
    }

    async fn transfer(&self, request: Request<TransferRequest>) -> Result<Response<TransferResponse>, Status> {
        let deadline = admit(&self.0, request.metadata())?;
        check_quorum(&self.0, deadline).await?;
        Ok(Response::new(transfer(&self.0, request.into_inner()).await?))
    }

    async fn add_member(&self, request: Request<AddMemberRequest>) -> Result<Response<MembershipResponse>, Status> {
        let deadline = admit(&self.0, request.metadata())?;
        let AddMemberRequest { member, site } = request.into_inner();
        Ok(Response::new(add_member(&self.0, member, site, deadline).await?))
    }

    async fn remove_member(
        &self,
        request: Request<RemoveMemberRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        let deadline = admit(&self.0, request.metadata())?;
        check_quorum(&self.0, deadline).await?;
        let removed = self.0.replica().remove_member(request.into_inner().node_id).await;
        Ok(Response::new(members(&self.0, removed.map_err(Refusal::from)?)))
    }

    async fn replace_member(
        &self,
        request: Request<ReplaceMemberRequest>,
    ) -> Result<Response<MembershipResponse>, Status> {
        let deadline = admit(&self.0, request.metadata())?;
        let ReplaceMemberRequest { node_id, member } = request.into_inner();
        let member = check_new(&self.0, member, None)?;
        check_quorum(&self.0, deadline).await?;
        let replaced = self.0.replica().replace_member(node_id, convert::member_to_raft(member)).await;
        Ok(Response::new(members(&self.0, replaced.map_err(Refusal::from)?)))
    }

    async fn digest(&self, request: Request<DigestRequest>) -> Result<Response<DigestResponse>, Status> {
        let deadline = admit(&self.0, request.metadata())?;
        Ok(Response::new(digest(&self.0, deadline).await?))
    }

    async fn scrub(&self, request: Request<ScrubRequest>) -> Result<Response<ScrubResponse>, Status> {
        admit(&self.0, request.metadata())?;
        Ok(Response::new(scrub(&self.0, request.into_inner()).await?))
    }

    async fn set_protection(
        &self,
        request: Request<SetProtectionRequest>,
    ) -> Result<Response<SetProtectionResponse>, Status> {
        let deadline = admit(&self.0, request.metadata())?;
        let protection = convert::protection_to_storage(request.into_inner().protection)?;
        // No quorum is asked for first: a leader that the other site does not answer serves no read, and this ends that.
        let set = self.0.replica().set_protection(protection, deadline.left().min(QUORUM_LIMIT)).await;
        set.map_err(Refusal::from)?;
        Ok(Response::new(SetProtectionResponse { header: Some(header(&self.0)) }))
    }

    async fn campaign(&self, request: Request<CampaignRequest>) -> Result<Response<CampaignResponse>, Status> {
        admit(&self.0, request.metadata())?;
        let held_back = self.0.replica().campaign_now().unwrap_or_default();
        Ok(Response::new(CampaignResponse { header: Some(header(&self.0)), held_back }))
    }

    async fn set_goal(&self, request: Request<SetGoalRequest>) -> Result<Response<SetGoalResponse>, Status> {
        let deadline = admit(&self.0, request.metadata())?;
        let goal = convert::goal_to_storage(request.into_inner().survive)?;
        let set = self.0.replica().set_goal(goal, deadline.left().min(QUORUM_LIMIT)).await;
        set.map_err(Refusal::from)?;
        Ok(Response::new(SetGoalResponse { header: Some(header(&self.0)) }))
    }

    async fn set_failover(
        &self,
        request: Request<SetFailoverRequest>,
    ) -> Result<Response<SetFailoverResponse>, Status> {
        let deadline = admit(&self.0, request.metadata())?;
        let rule = convert::failover_to_storage(request.into_inner().failover)?;
        let set = self.0.replica().set_failover(rule, deadline.left().min(QUORUM_LIMIT)).await;
        set.map_err(Refusal::from)?;
        Ok(Response::new(SetFailoverResponse { header: Some(header(&self.0)) }))
    }
}

impl From<TopologyError> for Refusal {
    fn from(error: TopologyError) -> Refusal {
        let next = error.next.clone();
        Refusal::invalid(error.to_string(), &next)
    }
}

async fn init(node: &Node, call: InitRequest) -> Result<InitResponse, Refusal> {
    let wanted = call.topology.ok_or_else(|| Refusal::invalid("the call has no topology".into(), "send one"))?;
    topology::check(&wanted, node.member())?;
    if let Some(advice) = topology::advice(&wanted.members) {
        tracing::warn!("topology: {advice}");
    }
    let entropy = entropy::random::<32>().map_err(Refusal::internal)?;
    let sites = wanted.sites.into_iter().map(convert::site_to_storage).collect();
    let members = wanted.members.into_iter().map(convert::member_to_raft).collect();
    let cluster_id = node.replica().init(&wanted.cluster_name, sites, members, entropy).await?;
    Ok(InitResponse { header: Some(header(node)), cluster_id: Bytes::copy_from_slice(&cluster_id) })
}

/// Where a node stands.
pub(super) fn header(node: &Node) -> Header {
    let status = node.replica().status();
    convert::header(node, status.frontier_revision, status.frontier_index)
}

fn members(node: &Node, members: Vec<saola_raft::Member>) -> MembershipResponse {
    let members = members.into_iter().map(convert::member_from_raft).collect();
    MembershipResponse { header: Some(header(node)), members }
}

async fn transfer(node: &Node, call: TransferRequest) -> Result<TransferResponse, Refusal> {
    let leader = match (call.node_id, call.site.as_str()) {
        (0, "") => {
            return Err(Refusal::invalid("the call names neither a node nor a site".into(), "name one of them"));
        }
        (0, site) => node.replica().transfer_to_site(site).await?,
        (to, _) => {
            node.replica().transfer(to).await?;
            to
        }
    };
    Ok(TransferResponse { header: Some(header(node)), leader })
}

/// Lets nothing begin that would wait for voters in vain: its outcome would be unknown then.
async fn check_quorum(node: &Node, deadline: Deadline) -> Result<(), Refusal> {
    let limit = deadline.left().min(QUORUM_LIMIT);
    match node.replica().read_point(limit).await {
        // A witness reads nothing itself; the leader that it passes the change on to has to find its quorum.
        Ok(_) | Err(ReadError::WitnessNode) => Ok(()),
        Err(ReadError::NoLeader { .. }) => Err(Refusal::new(
            Reason::NoQuorum,
            format!(
                "nothing was done: node {} ({}) sees no leader that a majority of the voters confirms (waited {} s)",
                node.id(),
                node.member().name,
                limit.as_secs()
            ),
            "bring the missing voters back, `saola status` names them; if only this node is cut off, name another one \
             with --endpoint",
        )
        .never_again()),
        Err(error) => Err(error.into()),
    }
}

/// Checks a new member against the site map, and its site's key if the site is new.
fn check_new(node: &Node, member: Option<Member>, site: Option<&Site>) -> Result<Member, Refusal> {
    let member = member.ok_or_else(|| Refusal::invalid("the call has no member".into(), "send one"))?;
    let info = node.store().view().info();
    let mut sites: Vec<Site> =
        info.map(|info| info.sites).unwrap_or_default().into_iter().map(convert::site_from_storage).collect();
    if let Some(site) = site
        && !sites.iter().any(|known| known.name == site.name)
    {
        topology::check_site_key(site, member.role() != Role::Witness)?;
        sites.push(site.clone());
    }
    if !member.site.is_empty() && !sites.iter().any(|known| known.name == member.site) {
        let known: Vec<&str> = sites.iter().map(|known| known.name.as_str()).collect();
        return Err(Refusal::invalid(
            format!("site {} of node {} is not in the site map ({})", member.site, member.name, known.join(", ")),
            "name one of these, or for a new site add `--kek-public HEX` with what `saola-node keygen public --file FILE` \
             prints there",
        ));
    }
    topology::check_member(&member, &sites)?;
    Ok(member)
}

async fn add_member(
    node: &Node,
    member: Option<Member>,
    site: Option<Site>,
    deadline: Deadline,
) -> Result<MembershipResponse, Refusal> {
    let member = check_new(node, member, site.as_ref())?;
    check_quorum(node, deadline).await?;
    if let Some(site) = site {
        add_site(node, site, deadline).await?;
    }
    let added = node.replica().add_member(convert::member_to_raft(member)).await?;
    Ok(members(node, added))
}

/// Puts a new site into the site map, with every data key wrapped for it.
async fn add_site(node: &Node, site: Site, deadline: Deadline) -> Result<(), Refusal> {
    let point = node.read_point(deadline).await?;
    let info = point.view.info().ok_or_else(|| Refusal::internal("a node of a cluster has no site map"))?;
    let site = convert::site_to_storage(site);
    match info.sites.iter().find(|known| known.name == site.name) {
        Some(known) if *known == site => return Ok(()),
        Some(_) => {
            return Err(Refusal::invalid(
                format!("site {:?} is part of the cluster already, with another public KEK", site.name),
                "leave the KEK out, or correct it",
            ));
        }
        None => {}
    }
    let ring = node.ring();
    let mut deks = Vec::new();
    for known in point.view.deks().into_iter().filter(|_| !site.kek_public.is_empty()) {
        let not_open = || Refusal::plain(Reason::Sealed, "this node does not hold every data key open".into());
        let id = <[u8; 16]>::try_from(known.id.as_ref()).map_err(|_| not_open())?;
        let incarnation = <[u8; 16]>::try_from(known.incarnation.as_ref()).map_err(|_| not_open())?;
        let dek = ring.open_keys().get(&DekId(id)).ok_or_else(not_open)?;
        let secret = entropy::secret().map_err(Refusal::internal)?;
        let wrap = wrap_dek(dek, &info.store_uuid, &incarnation, &site, &secret).map_err(Refusal::internal)?;
        deks.push(WrappedDek { wraps: vec![wrap], ..known });
    }
    let command = Command { request: None, op: Some(Op::AddSite(AddSite { site: Some(site), deks })) };
    match node.propose(command, deadline).await?.decision {
        Some(Decision::Done(_)) => Ok(()),
        // A collection was created meanwhile: its key has no wrap for the new site yet.
        Some(Decision::Reseal(_)) => Err(Refusal::new(
            Reason::Busy,
            "the key ring changed while the site was added".into(),
            "send the call again",
        )),
        other => Err(convert::refused(other, "")),
    }
}

async fn scrub(node: &Node, call: ScrubRequest) -> Result<ScrubResponse, Refusal> {
    let header = Some(header(node));
    if call.repair_node_id != 0 {
        node.replica().replace_copy(call.repair_node_id).await?;
        return Ok(ScrubResponse { header, node_ids: vec![call.repair_node_id], errors: Vec::new() });
    }
    let members = node.replica().status().members;
    let asked: Vec<u64> = match &call.node_ids[..] {
        [] => members.iter().filter(|member| member.role_value().is_data()).map(|member| member.node_id).collect(),
        named => named.to_vec(),
    };
    let begun = join_all(asked.iter().map(|id| node.replica().start_scrub(*id))).await;
    let (mut node_ids, mut errors) = (Vec::new(), Vec::new());
    for (id, begun) in asked.into_iter().zip(begun) {
        match begun {
            Ok(()) => node_ids.push(id),
            Err(error) => errors.push(format!("node {id}: {error}")),
        }
    }
    Ok(ScrubResponse { header, node_ids, errors })
}

async fn digest(node: &Node, deadline: Deadline) -> Result<DigestResponse, Refusal> {
    check_quorum(node, deadline).await?;
    let command = Command { request: None, op: Some(Op::TakeDigest(TakeDigest {})) };
    let outcome = node.propose(command, deadline).await?;
    let members = node.replica().status().members;
    let data = members.iter().filter(|member| member.role_value().is_data());
    let digests = join_all(data.map(|member| digest_of(node, member.node_id, outcome.index, deadline))).await;
    Ok(DigestResponse { header: Some(header(node)), log_index: outcome.index, digests })
}

async fn digest_of(node: &Node, node_id: u64, index: u64, deadline: Deadline) -> NodeDigest {
    let mut heard_at = Instant::now();
    loop {
        let error = match node.replica().peer_digest(node_id, index).await {
            Ok(Some(digest)) => {
                return NodeDigest { node_id, digest: Bytes::copy_from_slice(&digest), error: String::new() };
            }
            Ok(None) => {
                heard_at = Instant::now();
                format!("has not applied log index {index} yet")
            }
            Err(error) => error.to_string(),
        };
        if deadline.left() <= DIGEST_PAUSE * 2 || heard_at.elapsed() > DIGEST_SILENCE {
            return NodeDigest { node_id, digest: Bytes::new(), error };
        }
        tokio::time::sleep(DIGEST_PAUSE).await;
    }
}

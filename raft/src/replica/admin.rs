//! Making a cluster, changing who belongs to it, handing leadership over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use openraft::raft::Precondition;
use openraft::{ChangeMembers, Instant as _};
use saola_storage::command::{Bootstrap, ClaimNodeId, Command, Decision, Op, Site};
use saola_storage::types::NodeId;

use super::propose::TimeLeft;
use super::{InstantOf, Replica};
use crate::member::{Member, Role};
use crate::transport::{Lane, PeerAddress, TransportError};
use crate::types::{Runtime, TypeConfig};
use crate::wire::{
    Admin, AdminVerb, Adopt, Answer, DigestAt, Identity, Nothing, PeerRequest, Question, Refusal, RefusalCode,
    ReplaceWith,
};

/// One question to a peer during init or a membership change may take so long.
const QUESTION_LIMIT: Duration = Duration::from_secs(3);
/// A membership change, catching up included, may take so long.
const CHANGE_LIMIT: Duration = Duration::from_secs(300);
/// A new node may lag so many entries when it starts to vote.
const VOTE_LAG: u64 = 1024;

/// Why an admin verb was not carried out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AdminError {
    /// The request does not fit the cluster's state; the message says why and what to do.
    #[error("{0}")]
    Invalid(String),
    /// A node that is needed did not answer.
    #[error("node {node} at {address} does not answer: {reason}; start it, or correct its address")]
    PeerUnreachable {
        /// Which.
        node: NodeId,
        /// Where.
        address: String,
        /// Cause.
        reason: String,
        /// The question may have reached it all the same.
        maybe_delivered: bool,
    },
    /// No leader within the deadline.
    #[error("no leader: {0}")]
    NoLeader(String),
    /// It may or may not have been carried out.
    #[error("outcome unknown: {0}; look at `saola cluster members` before trying again")]
    Unknown(String),
}

fn invalid(message: impl Into<String>) -> AdminError {
    AdminError::Invalid(message.into())
}

impl From<AdminError> for Refusal {
    fn from(error: AdminError) -> Self {
        let code = match &error {
            AdminError::Unknown(_) => RefusalCode::Unknown,
            AdminError::NoLeader(_) => RefusalCode::NotLeader,
            AdminError::Invalid(_) | AdminError::PeerUnreachable { .. } => RefusalCode::Invalid,
        };
        Refusal::new(code, error.to_string())
    }
}

impl From<Refusal> for AdminError {
    fn from(refusal: Refusal) -> Self {
        match refusal.kind() {
            RefusalCode::Unknown => AdminError::Unknown(refusal.message),
            RefusalCode::NotLeader | RefusalCode::Stopped => AdminError::NoLeader(refusal.message),
            _ => AdminError::Invalid(refusal.message),
        }
    }
}

impl<RT: Runtime> Replica<RT> {
    /// Makes a cluster of fresh nodes, this one among them. `entropy` is random: cluster id and store uuid.
    /// Answers the cluster id. Can be repeated until it succeeds.
    pub async fn init(
        &self,
        cluster_name: &str,
        sites: Vec<Site>,
        mut members: Vec<Member>,
        entropy: [u8; 32],
    ) -> Result<[u8; 16], AdminError> {
        let shared = &self.shared;
        if !shared.describe_self().fresh {
            return Err(invalid(format!(
                "node {} is part of a cluster already; `saola status` shows it",
                shared.claim.node_id
            )));
        }
        let mut cluster_id = [0; 16];
        cluster_id.copy_from_slice(&entropy[..16]);
        let own_id = shared.claim.node_id;
        if !members.iter().any(|member| member.node_id == own_id) {
            return Err(invalid(format!(
                "the topology does not contain node {own_id}, which was asked to make the cluster"
            )));
        }
        for member in &mut members {
            let identity = match member.node_id == own_id {
                true => shared.describe_self(),
                false => self.identify(member).await?,
            };
            if !identity.fresh {
                return Err(invalid(format!(
                    "node {} ({}) at {} is not fresh: it belongs to a cluster already; give it an empty data folder",
                    member.node_id, member.name, member.peer_address
                )));
            }
            member.folder_id = identity.member.map(|own| own.folder_id).unwrap_or_default();
        }
        for member in members.iter().filter(|member| member.node_id != own_id) {
            self.ask_to_adopt(member, &cluster_id, 1).await?;
        }
        let own = members
            .iter()
            .find(|member| member.node_id == own_id)
            .cloned()
            .expect("the topology was seen to contain this node");
        let adopt = Adopt { cluster_id: Bytes::copy_from_slice(&cluster_id), epoch: 1, member: Some(own) };
        self.adopt(adopt).await.map_err(AdminError::from)?;

        let voters: BTreeMap<NodeId, Member> = members
            .iter()
            .filter(|member| member.role_value().votes())
            .map(|member| (member.node_id, member.clone()))
            .collect();
        let node_ids = voters.keys().copied().collect();
        let raft = shared.raft().ok_or_else(|| invalid("Raft does not run on this node"))?;
        raft.initialize(voters).await.map_err(|error| invalid(format!("initialize Raft: {error}")))?;
        let bootstrap = Bootstrap {
            store_uuid: Bytes::copy_from_slice(&entropy[16..]),
            cluster_name: cluster_name.to_owned(),
            sites,
            cluster_id: Bytes::copy_from_slice(&cluster_id),
            node_ids,
        };
        let command = Command { request: None, op: Some(Op::Bootstrap(bootstrap)) };
        self.propose(command, Duration::from_secs(15))
            .await
            .map_err(|error| AdminError::Unknown(format!("write the cluster's first entry: {error}")))?;
        for learner in members.into_iter().filter(|member| !member.role_value().votes()) {
            self.admin(Admin::Add(learner)).await?;
        }
        Ok(cluster_id)
    }

    /// Hands leadership to another data voter.
    pub async fn transfer(&self, to: NodeId) -> Result<(), AdminError> {
        self.admin(Admin::Transfer(to)).await.map(|_| ())
    }

    /// Adds a fresh node: as learner until it has caught up, then in its role. Answers the members after.
    pub async fn add_member(&self, member: Member) -> Result<Vec<Member>, AdminError> {
        self.admin(Admin::Add(member)).await
    }

    /// Removes a node for good. Answers the members after.
    pub async fn remove_member(&self, node_id: NodeId) -> Result<Vec<Member>, AdminError> {
        self.admin(Admin::Remove(node_id)).await
    }

    /// Removes a node and adds a fresh one with a new id in its place. Answers the members after.
    pub async fn replace_member(&self, node_id: NodeId, member: Member) -> Result<Vec<Member>, AdminError> {
        self.admin(Admin::Replace(ReplaceWith { node_id, member: Some(member) })).await
    }

    /// What a peer's status source answers.
    pub async fn peer_status(&self, node_id: NodeId) -> Result<Bytes, AdminError> {
        if node_id == self.shared.claim.node_id {
            return Ok(self.shared.status_bytes());
        }
        let member = self.known_member(node_id)?;
        match self.ask(&member, Question::Status(Nothing {}), Duration::from_secs(1)).await? {
            Answer::Status(bytes) => Ok(bytes),
            _ => Err(wrong_kind(&member)),
        }
    }

    /// A data node's state digest at the log index of a DIGEST entry; `None` while it has not applied that far.
    pub async fn peer_digest(&self, node_id: NodeId, index: u64) -> Result<Option<[u8; 32]>, AdminError> {
        if node_id == self.shared.claim.node_id {
            return Ok(self.shared.store.digest_at(index));
        }
        let member = self.known_member(node_id)?;
        match self.ask(&member, Question::Digest(DigestAt { index }), Duration::from_secs(1)).await? {
            Answer::Digest(bytes) => Ok(<[u8; 32]>::try_from(bytes.as_ref()).ok()),
            _ => Err(wrong_kind(&member)),
        }
    }

    fn known_member(&self, node_id: NodeId) -> Result<Member, AdminError> {
        let known = self.shared.members().into_iter().find(|member| member.node_id == node_id);
        known.ok_or_else(|| invalid(format!("node {node_id} is not a member of this cluster")))
    }

    pub(crate) async fn ask(&self, member: &Member, question: Question, limit: Duration) -> Result<Answer, AdminError> {
        let address = PeerAddress { address: member.peer_address.clone(), name: member.name.clone() };
        let request = PeerRequest { header: self.shared.header(member, 0), question: Some(question) };
        let reply = self.shared.transport.call(&address, Lane::Control, request, limit).await.map_err(|error| {
            AdminError::PeerUnreachable {
                node: member.node_id,
                address: member.peer_address.clone(),
                reason: error.to_string(),
                maybe_delivered: matches!(error, TransportError::Broken { .. }),
            }
        })?;
        match reply.answer {
            Some(Answer::Refused(refusal)) => Err(refusal.into()),
            Some(answer) => Ok(answer),
            None => Err(wrong_kind(member)),
        }
    }

    pub(crate) async fn identify(&self, member: &Member) -> Result<Identity, AdminError> {
        match self.ask(member, Question::Identify(Nothing {}), QUESTION_LIMIT).await? {
            Answer::Identity(identity) => Ok(identity),
            _ => Err(wrong_kind(member)),
        }
    }

    async fn ask_to_adopt(&self, member: &Member, cluster_id: &[u8; 16], epoch: u64) -> Result<(), AdminError> {
        let adopt = Adopt { cluster_id: Bytes::copy_from_slice(cluster_id), epoch, member: Some(member.clone()) };
        self.ask(member, Question::Adopt(adopt), QUESTION_LIMIT).await.map(|_| ())
    }

    /// Has the leader carry out a verb.
    async fn admin(&self, verb: Admin) -> Result<Vec<Member>, AdminError> {
        let shared = &self.shared;
        let until = InstantOf::<RT>::now() + Duration::from_secs(10);
        let found = shared
            .until_deadline(until, || async {
                let leader = shared.leader()?;
                if leader == shared.claim.node_id {
                    return Some(None);
                }
                shared.member(leader).map(Some)
            })
            .await;
        let verb = AdminVerb { verb: Some(verb) };
        match found {
            None => Err(AdminError::NoLeader("none was found within 10 s; a quorum may be out of reach".into())),
            Some(None) => self.admin_here(verb).await.map_err(AdminError::from),
            Some(Some(leader)) => match self.ask(&leader, Question::Admin(verb), CHANGE_LIMIT).await {
                Ok(Answer::Members(members)) => Ok(members.members),
                Ok(_) => Err(wrong_kind(&leader)),
                Err(error @ AdminError::PeerUnreachable { maybe_delivered: true, .. }) => {
                    Err(AdminError::Unknown(error.to_string()))
                }
                Err(error) => Err(error),
            },
        }
    }

    /// Carries out a verb at this node, which must lead.
    pub(crate) async fn admin_here(&self, verb: AdminVerb) -> Result<Vec<Member>, Refusal> {
        let shared = &self.shared;
        if !shared.is_leader() {
            return Err(Refusal {
                leader: shared.leader().unwrap_or(0),
                ..Refusal::new(RefusalCode::NotLeader, format!("node {} does not lead", shared.claim.node_id))
            });
        }
        let _one_at_a_time = shared.admin.lock().await;
        match verb.verb {
            Some(Admin::Transfer(to)) => self.transfer_here(to).await?,
            Some(Admin::Add(member)) => self.add_here(member).await?,
            Some(Admin::Remove(node_id)) => self.remove_here(node_id).await?,
            Some(Admin::Replace(ReplaceWith { node_id, member: Some(member) })) => {
                self.check_new(&member)?;
                self.identify(&member).await?;
                self.remove_here(node_id).await?;
                self.add_here(member).await?;
            }
            Some(Admin::Replace(_)) | None => {
                return Err(Refusal::new(RefusalCode::BadMessage, "admin verb without its content"));
            }
        }
        Ok(shared.members())
    }

    pub(crate) async fn transfer_here(&self, to: NodeId) -> Result<(), AdminError> {
        let shared = &self.shared;
        if to == shared.claim.node_id {
            return Ok(());
        }
        let member = self.known_member(to)?;
        if member.role_value() != Role::Voter {
            return Err(invalid(format!(
                "node {to} ({}) is a {}: only a voter that is a data node can lead",
                member.name,
                member.role_value().as_str()
            )));
        }
        let raft = shared.raft().ok_or_else(|| invalid("Raft does not run on this node"))?;
        let lag = |shared: &super::Shared<RT>| {
            let matched = shared.matched()?.get(&to).copied().flatten()?;
            Some(shared.flushed_next().saturating_sub(matched + 1))
        };
        if !self.within(Duration::from_secs(2), |shared| lag(shared).is_some_and(|lag| lag <= VOTE_LAG)).await {
            return Err(invalid(format!(
                "node {to} ({}) has not caught up; `saola status` shows its lag, try again when it is small",
                member.name
            )));
        }
        raft.trigger().transfer_leader(to).await.map_err(|error| AdminError::NoLeader(error.to_string()))?;
        let limit = Duration::from_millis(4 * shared.timing.election_max_ms + 1000);
        self.within(limit, |shared| shared.leader().is_some_and(|leader| leader != shared.claim.node_id)).await;
        match shared.leader() {
            Some(leader) if leader == to => Ok(()),
            Some(leader) => Err(invalid(format!("node {leader} took over instead of node {to}; try again from there"))),
            None => Err(AdminError::Unknown(format!("no leader yet after handing over to node {to}"))),
        }
    }

    /// The data voter that should lead after this node: caught up best, own site first.
    pub(crate) fn successor(&self) -> Option<NodeId> {
        let shared = &self.shared;
        let matched = shared.matched()?;
        shared
            .members()
            .into_iter()
            .filter(|member| member.role_value() == Role::Voter && member.node_id != shared.claim.node_id)
            .filter_map(|member| {
                let index = matched.get(&member.node_id).copied().flatten()?;
                Some((index, member.site == shared.claim.site, member.node_id))
            })
            .max()
            .map(|(_, _, node_id)| node_id)
    }

    fn check_new(&self, member: &Member) -> Result<(), AdminError> {
        let used = self.shared.store.view().info().map(|info| info.node_ids).unwrap_or_default();
        if used.contains(&member.node_id) {
            let free = used.last().map_or(1, |highest| highest + 1);
            return Err(invalid(format!(
                "node id {} has been used in this cluster, and node ids are never used twice: take {free}",
                member.node_id
            )));
        }
        for known in self.shared.members() {
            let what = if known.name == member.name {
                format!("name {}", member.name)
            } else if known.peer_address == member.peer_address {
                format!("peer address {}", member.peer_address)
            } else {
                continue;
            };
            return Err(invalid(format!(
                "{what} belongs to node {} ({}) of this cluster: choose another",
                known.node_id, known.name
            )));
        }
        Ok(())
    }

    async fn add_here(&self, mut member: Member) -> Result<(), AdminError> {
        let shared = &self.shared;
        self.check_new(&member)?;
        let own = shared.identity().ok_or_else(|| invalid("this node is not part of a cluster"))?;
        let identity = self.identify(&member).await?;
        member.folder_id = identity.member.map(|own| own.folder_id).unwrap_or_default();
        if !identity.fresh {
            return Err(invalid(format!(
                "node {} ({}) at {} is not fresh: give it an empty data folder",
                member.node_id, member.name, member.peer_address
            )));
        }
        self.ask_to_adopt(&member, &own.cluster_id, own.epoch).await?;
        let raft = shared.raft().ok_or_else(|| invalid("Raft does not run on this node"))?;
        let node_id = member.node_id;
        let votes = member.role_value().votes();
        let claim = Command { request: None, op: Some(Op::ClaimNodeId(ClaimNodeId { node_id })) };
        let claimed = self.propose(claim, Duration::from_secs(10)).await;
        match claimed.map_err(|error| AdminError::Unknown(error.to_string()))?.decision {
            Some(Decision::Done(_)) => {}
            _ => return Err(invalid(format!("node id {node_id} was used meanwhile: take another"))),
        }
        let until = InstantOf::<RT>::now() + CHANGE_LIMIT;
        RT::timeout(until.saturating_duration_since_now(), raft.add_learner(node_id, member, true))
            .await
            .map_err(|_| AdminError::Unknown(format!("node {node_id} did not catch up in time; it stays a learner")))?
            .map_err(|error| AdminError::Unknown(error.to_string()))?;
        if votes {
            self.change(ChangeMembers::AddVoterIds(BTreeSet::from([node_id]))).await?;
        }
        Ok(())
    }

    async fn remove_here(&self, node_id: NodeId) -> Result<(), AdminError> {
        let shared = &self.shared;
        let member = self.known_member(node_id)?;
        if node_id == shared.claim.node_id {
            return Err(invalid(format!(
                "node {node_id} ({}) leads: hand leadership over first with `saola cluster transfer`",
                member.name
            )));
        }
        let ids = BTreeSet::from([node_id]);
        // Raft's own set decides: a node whose promotion was cut short has the role of a voter, but no vote.
        let voters: BTreeSet<NodeId> = shared
            .with_metrics(|metrics| metrics.membership_config.membership().voter_ids().collect())
            .unwrap_or_default();
        if voters.contains(&node_id) {
            if voters.len() == 1 {
                return Err(invalid(format!("node {node_id} is the only voter: add another first")));
            }
            // `retain = false`: a removed voter does not stay as a learner.
            self.change(ChangeMembers::RemoveVoters(ids)).await
        } else {
            self.change(ChangeMembers::RemoveNodes(ids)).await
        }
    }

    /// Changes the membership if it is still the one that was looked at.
    async fn change(&self, change: ChangeMembers<NodeId, Member>) -> Result<(), AdminError> {
        let raft = self.shared.raft().ok_or_else(|| invalid("Raft does not run on this node"))?;
        let seen = self.shared.with_metrics(|metrics| *metrics.membership_config.log_id()).flatten();
        let unchanged = Precondition::<TypeConfig<RT>>::LastMembershipLogId { last_membership_log_id: seen };
        RT::timeout(CHANGE_LIMIT, raft.change_membership_if(change, false, [unchanged]))
            .await
            .map_err(|_| AdminError::Unknown("the membership change did not end in time".into()))?
            .map_err(|error| AdminError::Unknown(error.to_string()))?;
        Ok(())
    }
}

fn wrong_kind(member: &Member) -> AdminError {
    invalid(format!("node {} gave an answer of the wrong kind: run the same release on all nodes", member.node_id))
}

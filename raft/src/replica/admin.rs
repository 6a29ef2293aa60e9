//! Admin verbs: what operators call, from any node, and the questions to peers that carrying them out takes.

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use openraft::Instant as _;
use saola_storage::types::NodeId;
use tokio::sync::{MutexGuard, oneshot};

use super::propose::TimeLeft;
use super::{InstantOf, Replica};
use crate::member::Member;
use crate::transport::{Lane, PeerAddress, TransportError};
use crate::types::{Runtime, detach};
use crate::wire::{
    Admin, AdminVerb, Adopt, Answer, DigestAt, Identity, Nothing, PeerRequest, Question, Refusal, RefusalCode,
    ReplaceWith,
};

/// One question to a peer during init or a membership change may take so long.
pub(super) const QUESTION_LIMIT: Duration = Duration::from_secs(3);
/// The node that was asked waits so long for the leader to carry out a verb. The leader itself gives up earlier, so
/// that its reason arrives.
pub(super) const CHANGE_LIMIT: Duration = Duration::from_secs(300);
/// A step that is over in a moment waits so long for another change to end.
const OTHER_CHANGE_LIMIT: Duration = Duration::from_secs(1);
/// A leader is looked for so long, also when one was lost on the way.
const LEADER_LIMIT: Duration = Duration::from_secs(10);

/// Why an admin verb was not carried out.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AdminError {
    /// The request does not fit the cluster's state; the message says why and what to do.
    #[error("{0}")]
    Invalid(String),
    /// The cluster is made already; the message says which, and what to do.
    #[error("{0}")]
    AlreadyMade(String),
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
    /// No leader within the deadline. What was begun is finished by repeating the verb.
    #[error("no leader: {0}")]
    NoLeader(String),
    /// It may or may not have been carried out. Repeating the verb is safe: it goes on from where it stopped.
    #[error("outcome unknown: {0}; `saola status` shows the members, and repeating the command finishes what is left")]
    Unknown(String),
}

pub(super) fn invalid(message: impl Into<String>) -> AdminError {
    AdminError::Invalid(message.into())
}

impl From<AdminError> for Refusal {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Unknown(reason) => Refusal::new(RefusalCode::Unknown, reason),
            AdminError::NoLeader(reason) => Refusal::new(RefusalCode::NotLeader, reason),
            other => Refusal::new(RefusalCode::Invalid, other.to_string()),
        }
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

/// Runs work that a caller who goes away must not cut short.
pub(super) async fn to_its_end<RT: Runtime, T: Send + 'static>(
    work: impl Future<Output = Result<T, AdminError>> + Send + 'static,
) -> Result<T, AdminError> {
    let (answer, answered) = oneshot::channel();
    detach::<RT>(async move {
        let _caller_gone = answer.send(work.await);
    });
    answered.await.unwrap_or_else(|_| Err(AdminError::Unknown("the node stopped before the change had ended".into())))
}

impl<RT: Runtime> Replica<RT> {
    /// Hands leadership to another data voter.
    pub async fn transfer(&self, to: NodeId) -> Result<(), AdminError> {
        self.admin(Admin::Transfer(to)).await.map(|_| ())
    }

    /// Hands leadership to a voter with records at a site, the writes under way settled first; answers to whom. What is
    /// not under way within five seconds is not begun.
    pub async fn transfer_to_site(&self, site: &str) -> Result<NodeId, AdminError> {
        self.admin(Admin::TransferToSite(site.to_owned())).await?;
        let there = |leader: &NodeId| self.shared.member(*leader).is_some_and(|it| it.site == site);
        let until = InstantOf::<RT>::now() + LEADER_LIMIT;
        let leader = self.shared.until_deadline(until, || std::future::ready(self.shared.leader().filter(there))).await;
        leader.ok_or_else(|| AdminError::Unknown(format!("leadership went to site {site} and on to another one")))
    }

    /// Adds a fresh node: as learner until it has caught up, then in its role. Answers the members after. The leader
    /// goes on when the caller goes away; called again, it finishes what is left.
    pub async fn add_member(&self, member: Member) -> Result<Vec<Member>, AdminError> {
        self.admin(Admin::Add(member)).await
    }

    /// Removes a node for good. Answers the members after. Cut short or repeated, it is as [`Replica::add_member`].
    pub async fn remove_member(&self, node_id: NodeId) -> Result<Vec<Member>, AdminError> {
        self.admin(Admin::Remove(node_id)).await
    }

    /// Adds a fresh node with a new id, and once it has caught up lets it take the place of another in one change.
    /// Answers the members after. Cut short or repeated, it is as [`Replica::add_member`].
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

    pub(super) fn known_member(&self, node_id: NodeId) -> Result<Member, AdminError> {
        let known = self.shared.members().into_iter().find(|member| member.node_id == node_id);
        known.ok_or_else(|| invalid(format!("node {node_id} is not a member of this cluster")))
    }

    pub(crate) async fn ask(&self, member: &Member, question: Question, limit: Duration) -> Result<Answer, AdminError> {
        let address = PeerAddress { address: member.peer_address.clone(), name: member.name.clone() };
        let request = PeerRequest { header: Some(self.shared.header(member, 0)), question: Some(question) };
        let reply = self.shared.transport.call(&address, Lane::Control, request, limit).await.map_err(|error| {
            AdminError::PeerUnreachable {
                node: member.node_id,
                address: member.peer_address.clone(),
                reason: error.reason().to_owned(),
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

    pub(super) async fn ask_to_adopt(
        &self,
        member: &Member,
        cluster_id: &[u8; 16],
        epoch: u64,
    ) -> Result<(), AdminError> {
        let (cluster_id, record) = (Bytes::copy_from_slice(cluster_id), self.shared.record());
        let adopt = Adopt { cluster_id, epoch, member: Some(member.clone()), record };
        self.ask(member, Question::Adopt(adopt), QUESTION_LIMIT).await.map(|_| ())
    }

    /// Has the leader carry out a verb. Every verb can be repeated, so a leader that is lost on the way is no end: the
    /// next one is asked.
    pub(super) async fn admin(&self, verb: Admin) -> Result<Vec<Member>, AdminError> {
        let shared = &self.shared;
        let verb = AdminVerb { verb: Some(verb) };
        let end = InstantOf::<RT>::now() + CHANGE_LIMIT;
        let mut look_until = InstantOf::<RT>::now() + LEADER_LIMIT;
        let mut lost: Option<AdminError> = None;
        loop {
            let found = shared
                .until_deadline(look_until, || async {
                    let leader = shared.leader()?;
                    if leader == shared.claim.node_id {
                        return Some(None);
                    }
                    shared.member(leader).map(Some)
                })
                .await;
            let result = match found {
                None => {
                    let none = || {
                        let limit = LEADER_LIMIT.as_secs();
                        AdminError::NoLeader(format!("none was found within {limit} s; a quorum may be out of reach"))
                    };
                    return Err(lost.unwrap_or_else(none));
                }
                Some(None) => self.admin_here(verb.clone()).await.map_err(AdminError::from),
                Some(Some(leader)) => {
                    let question = Question::Admin(verb.clone());
                    match self.ask(&leader, question, end.saturating_duration_since_now()).await {
                        Ok(Answer::Members(members)) => Ok(members.members),
                        Ok(_) => Err(wrong_kind(&leader)),
                        Err(error) => Err(error),
                    }
                }
            };
            let error = match result {
                Err(error @ (AdminError::NoLeader(_) | AdminError::PeerUnreachable { .. })) => error,
                other => return other,
            };
            let now = InstantOf::<RT>::now();
            if lost.is_none() {
                look_until = end.min(now + LEADER_LIMIT);
            }
            lost = Some(match error {
                AdminError::PeerUnreachable { maybe_delivered: true, .. } => AdminError::Unknown(error.to_string()),
                // What an earlier attempt may have done is not undone by this one's failure.
                other => match lost {
                    Some(unknown @ AdminError::Unknown(_)) => unknown,
                    _ => other,
                },
            });
            if now >= look_until {
                return Err(lost.expect("it was set in the line above"));
            }
            RT::sleep(shared.pause()).await;
        }
    }

    /// Carries out a verb at this node, which must lead. It ends by itself, whether or not the caller stays.
    pub(crate) async fn admin_here(&self, verb: AdminVerb) -> Result<Vec<Member>, Refusal> {
        let shared = &self.shared;
        if !shared.is_leader() {
            return Err(Refusal {
                leader: shared.leader().unwrap_or(0),
                ..Refusal::new(RefusalCode::NotLeader, format!("node {} does not lead", shared.claim.node_id))
            });
        }
        let verb = verb.verb.ok_or_else(|| Refusal::new(RefusalCode::BadMessage, "admin verb without its content"))?;
        let replica = self.clone();
        to_its_end::<RT, _>(async move {
            let result = replica.carry_out(verb).await;
            match &result {
                Ok(()) => tracing::info!("the change of the cluster is made"),
                Err(error) => tracing::warn!("the change of the cluster ended early: {error}"),
            }
            result.map(|()| replica.shared.members())
        })
        .await
        .map_err(Refusal::from)
    }

    /// Held while a step is made that no other change may run beside; refused when one does and does not end soon.
    pub(super) async fn alone(&self) -> Result<MutexGuard<'_, ()>, AdminError> {
        let until = InstantOf::<RT>::now() + OTHER_CHANGE_LIMIT;
        let locked = self.shared.until_deadline(until, || std::future::ready(self.shared.admin.try_lock().ok())).await;
        locked.ok_or_else(|| {
            invalid("another change of the cluster is under way: nothing was changed, try again when it has ended")
        })
    }

    async fn carry_out(&self, verb: Admin) -> Result<(), AdminError> {
        match verb {
            Admin::Transfer(to) => {
                let _one_at_a_time = self.alone().await?;
                self.move_on_purpose(vec![to]).await
            }
            Admin::TransferToSite(site) => {
                let _one_at_a_time = self.alone().await?;
                self.move_to_site(&site).await
            }
            Admin::Add(member) => self.add_here(member).await,
            Admin::Remove(node_id) => self.remove_here(node_id).await,
            Admin::Replace(ReplaceWith { node_id, member: Some(member) }) => self.replace_here(node_id, member).await,
            Admin::Reinstate(former) => self.reinstate_here(former).await,
            Admin::Replace(_) => Err(invalid("the verb to replace a node names no new one")),
        }
    }
}

pub(super) fn wrong_kind(member: &Member) -> AdminError {
    invalid(format!("node {} gave an answer of the wrong kind: run the same release on all nodes", member.node_id))
}

//! Calls on the cluster itself. Changes of members carry no request id: when their answer is lost they are not sent
//! again, and `cluster_status` shows what came of them. The leader goes on with what it began, whether or not the caller
//! waits; the same call sent again waits for its end, or finishes what was left. Give these calls time: [`CHANGE_LIMIT`]
//! by [`Client::with_deadline`].

use std::time::Duration;

use bytes::Bytes;
use tonic::transport::Channel;

use crate::call::{Effect, Plan};
use crate::client::{Client, MAX_REPLY_BYTES};
use crate::error::Error;
use crate::pool::Route;
use crate::proto::{self, cluster_client::ClusterClient};

/// By this time the cluster has made a change of its members, or says why not. A new node has to catch up first.
pub const CHANGE_LIMIT: Duration = Duration::from_secs(330);

/// Where leadership is to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferTo {
    /// The voter with this id.
    Node(u64),
    /// Any voter of this site.
    Site(String),
}

fn cluster(channel: Channel) -> ClusterClient<Channel> {
    ClusterClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES)
}

impl Client {
    /// Makes a cluster of fresh nodes; gives its id. Sent again through the same node it finishes what was cut short.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when that is done already, or the node is part of another cluster.
    pub async fn cluster_init(&self, topology: proto::Topology) -> Result<Bytes, Error> {
        let message = proto::InitRequest { topology: Some(topology) };
        let plan = Plan { route: Route::Read, guard_epoch: false, ..Plan::CHANGE };
        let send = |channel, request| async move { cluster(channel).init(request).await };
        let (reply, _): (proto::InitResponse, _) = self.call(plan, message, send).await?;
        Ok(reply.cluster_id)
    }

    /// What a node knows of the cluster; with `local` without asking the other nodes.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no node answers.
    pub async fn cluster_status(&self, local: bool) -> Result<proto::StatusResponse, Error> {
        let send = |channel, request| async move { cluster(channel).status(request).await };
        let (reply, _) = self.call(Plan::STATUS, proto::StatusRequest { local }, send).await?;
        Ok(reply)
    }

    /// Learns members and leader now, instead of in the background; gives all endpoints known.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no node answers.
    pub async fn discover(&self) -> Result<Vec<String>, Error> {
        self.pool.learn(&self.cluster_status(true).await?);
        Ok(self.endpoints())
    }

    /// Moves leadership; gives the new leader's node id.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is no such voter.
    pub async fn transfer(&self, to: TransferTo) -> Result<u64, Error> {
        let message = match to {
            TransferTo::Node(node_id) => proto::TransferRequest { node_id, site: String::new() },
            TransferTo::Site(site) => proto::TransferRequest { node_id: 0, site },
        };
        let send = |channel, request| async move { cluster(channel).transfer(request).await };
        let (reply, _): (proto::TransferResponse, _) = self.call(Plan::CHANGE, message, send).await?;
        Ok(reply.leader)
    }

    /// Adds a fresh node, with its site when that is new; gives all members.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the cluster cannot take it.
    pub async fn add_member(
        &self,
        member: proto::Member,
        site: Option<proto::Site>,
    ) -> Result<Vec<proto::Member>, Error> {
        let message = proto::AddMemberRequest { member: Some(member), site };
        let send = |channel, request| async move { cluster(channel).add_member(request).await };
        let (reply, _): (proto::MembershipResponse, _) = self.call(Plan::CHANGE, message, send).await?;
        Ok(reply.members)
    }

    /// Removes a node for good; gives all members.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the cluster cannot do without it.
    pub async fn remove_member(&self, node_id: u64) -> Result<Vec<proto::Member>, Error> {
        let message = proto::RemoveMemberRequest { node_id };
        let send = |channel, request| async move { cluster(channel).remove_member(request).await };
        let (reply, _): (proto::MembershipResponse, _) = self.call(Plan::CHANGE, message, send).await?;
        Ok(reply.members)
    }

    /// Puts a fresh node with a new id in the place of another; gives all members.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the cluster cannot take it.
    pub async fn replace_member(&self, node_id: u64, member: proto::Member) -> Result<Vec<proto::Member>, Error> {
        let message = proto::ReplaceMemberRequest { node_id, member: Some(member) };
        let send = |channel, request| async move { cluster(channel).replace_member(request).await };
        let (reply, _): (proto::MembershipResponse, _) = self.call(Plan::CHANGE, message, send).await?;
        Ok(reply.members)
    }

    /// Changes what an acknowledgement waits for; it rules every acknowledgement after the answer.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the cluster cannot give it, [`Error::Unknown`] while the other site does not answer.
    pub async fn set_protection(&self, protection: proto::Protection) -> Result<(), Error> {
        // Said a second time it says the same.
        let plan = Plan { effect: Effect::None, ..Plan::CHANGE };
        let message = proto::SetProtectionRequest { protection: Some(protection) };
        let send = |channel, request| async move { cluster(channel).set_protection(request).await };
        let (_, _): (proto::SetProtectionResponse, _) = self.call(plan, message, send).await?;
        Ok(())
    }

    /// Changes what is done when the site that leads is lost, and where leadership belongs. Also acknowledges the
    /// failovers so far: they count for the limit no more.
    ///
    /// # Errors
    /// [`Error::Invalid`] when leadership cannot belong there.
    pub async fn set_failover(&self, failover: proto::Failover) -> Result<(), Error> {
        let plan = Plan { effect: Effect::None, ..Plan::CHANGE };
        let message = proto::SetFailoverRequest { failover: Some(failover) };
        let send = |channel, request| async move { cluster(channel).set_failover(request).await };
        let (_, _): (proto::SetFailoverResponse, _) = self.call(plan, message, send).await?;
        Ok(())
    }

    /// Declares what the cluster survives.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the membership does not bear it.
    pub async fn set_goal(&self, survive: proto::SurvivalGoal) -> Result<(), Error> {
        let plan = Plan { effect: Effect::None, ..Plan::CHANGE };
        let message = proto::SetGoalRequest { survive: survive.into() };
        let send = |channel, request| async move { cluster(channel).set_goal(request).await };
        let (_, _): (proto::SetGoalResponse, _) = self.call(plan, message, send).await?;
        Ok(())
    }

    /// Has the node that answers campaign for a lost site, although nobody is to take over by itself; meant for a client
    /// of one endpoint. Answers what that node held back for; empty: nothing.
    ///
    /// # Errors
    /// A failed call.
    pub async fn campaign(&self) -> Result<String, Error> {
        let plan = Plan { effect: Effect::None, ..Plan::CHANGE };
        let send = |channel, request| async move { cluster(channel).campaign(request).await };
        let (reply, _): (proto::CampaignResponse, _) = self.call(plan, proto::CampaignRequest {}, send).await?;
        Ok(reply.held_back)
    }

    /// Each data node's state digest at one log index.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when there is no leader.
    pub async fn digest(&self) -> Result<proto::DigestResponse, Error> {
        // A second digest entry does no harm.
        let plan = Plan { effect: Effect::None, ..Plan::CHANGE };
        let send = |channel, request| async move { cluster(channel).digest(request).await };
        let (reply, _) = self.call(plan, proto::DigestRequest {}, send).await?;
        Ok(reply)
    }

    /// Has data nodes read all their records now; all of them when none is named. Gives those that have begun, and why
    /// others have not.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no node answers.
    pub async fn start_scrub(&self, node_ids: Vec<u64>) -> Result<proto::ScrubResponse, Error> {
        self.scrub(proto::ScrubRequest { node_ids, repair_node_id: 0 }).await
    }

    /// Has a data node replace its copy of the records by another node's.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is no other copy, or it is no data node.
    pub async fn repair_copy(&self, node_id: u64) -> Result<proto::ScrubResponse, Error> {
        self.scrub(proto::ScrubRequest { node_ids: Vec::new(), repair_node_id: node_id }).await
    }

    async fn scrub(&self, message: proto::ScrubRequest) -> Result<proto::ScrubResponse, Error> {
        // Asked a second time, a node goes on with what it does.
        let plan = Plan { effect: Effect::None, ..Plan::CHANGE };
        let send = |channel, request| async move { cluster(channel).scrub(request).await };
        let (reply, _) = self.call(plan, message, send).await?;
        Ok(reply)
    }
}

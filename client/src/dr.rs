//! Calls for the worst day: a site goes on without the other. They ask any node that answers, and none but
//! [`Client::set_approvers`] needs a leader. Plans are opaque here; `saola dr` reads and signs them.

use bytes::Bytes;
use tonic::transport::Channel;

use crate::call::{Effect, Plan};
use crate::client::{Client, MAX_REPLY_BYTES};
use crate::error::Error;
use crate::pool::Route;
use crate::proto::{self, dr_client::DrClient};

fn dr(channel: Channel) -> DrClient<Channel> {
    DrClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES)
}

/// Of any node, whatever its epoch; asked a second time it does no more.
const ANY: Plan = Plan { route: Route::Any, effect: Effect::None, patient: true, guard_epoch: false };

impl Client {
    /// Makes the plan by which a site goes on without the other; gives its bytes, which approvers sign.
    ///
    /// # Errors
    /// [`Error::Invalid`] says why there is no plan to make, and what to do.
    pub async fn plan_promotion(&self, site: &str, attested: proto::Attested) -> Result<Bytes, Error> {
        let message = proto::PlanPromotionRequest { site: site.to_owned(), attested: Some(attested) };
        let send = |channel, request| async move { dr(channel).plan_promotion(request).await };
        let (reply, _): (proto::PlanPromotionResponse, _) = self.call(ANY, message, send).await?;
        Ok(reply.plan)
    }

    /// Carries an approved plan out; gives the epoch that has begun. After any failure it may be sent again, through any
    /// node that the plan counts among the survivors.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is not approved, has expired, or the nodes do not stand as it says.
    pub async fn apply_promotion(&self, signed_plan: Bytes) -> Result<u64, Error> {
        let send = |channel, request| async move { dr(channel).apply_promotion(request).await };
        let message = proto::ApplyPromotionRequest { signed_plan };
        let (reply, _): (proto::ApplyPromotionResponse, _) = self.call(ANY, message, send).await?;
        Ok(reply.epoch)
    }

    /// Gives a plan up that has not begun.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it has begun, or the node that would begin it does not answer.
    pub async fn abandon_promotion(&self, signed_plan: Bytes) -> Result<(), Error> {
        let send = |channel, request| async move { dr(channel).abandon_promotion(request).await };
        let message = proto::AbandonPromotionRequest { signed_plan };
        let (_, _): (proto::AbandonPromotionResponse, _) = self.call(ANY, message, send).await?;
        Ok(())
    }

    /// Has the nodes of a site that answer take no part any more; gives the names of those that have done so, and of
    /// those that did not answer.
    ///
    /// # Errors
    /// A failed call.
    pub async fn fence_site(&self, site: &str, why: &str) -> Result<proto::FenceResponse, Error> {
        self.fence(proto::FenceRequest { site: site.to_owned(), why: why.to_owned(), lift: false }).await
    }

    /// Lets them take part again.
    ///
    /// # Errors
    /// [`Error::Invalid`] when another epoch goes on without them.
    pub async fn unfence_site(&self, site: &str) -> Result<proto::FenceResponse, Error> {
        self.fence(proto::FenceRequest { site: site.to_owned(), why: String::new(), lift: true }).await
    }

    async fn fence(&self, message: proto::FenceRequest) -> Result<proto::FenceResponse, Error> {
        let send = |channel, request| async move { dr(channel).fence(request).await };
        let (reply, _) = self.call(ANY, message, send).await?;
        Ok(reply)
    }

    /// Says who may approve a forced promotion, and how many of them must.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the list makes no sense.
    pub async fn set_approvers(&self, approvers: Vec<proto::Approver>, needed: u32) -> Result<(), Error> {
        let plan = Plan { effect: Effect::None, ..Plan::CHANGE };
        let message = proto::SetApproversRequest { approvers, needed };
        let send = |channel, request| async move { dr(channel).set_approvers(request).await };
        let (_, _): (proto::SetApproversResponse, _) = self.call(plan, message, send).await?;
        Ok(())
    }

    /// Which nodes of a site, or of all if it is empty, a forced promotion has left behind, and how they stand.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no node reaches a leader with a quorum.
    pub async fn former_members(&self, site: &str) -> Result<Vec<proto::FormerMember>, Error> {
        let send = |channel, request| async move { dr(channel).former_members(request).await };
        let message = proto::FormerMembersRequest { site: site.to_owned() };
        let plan = Plan { route: Route::Read, patient: false, ..ANY };
        let (reply, _): (proto::FormerMembersResponse, _) = self.call(plan, message, send).await?;
        Ok(reply.members)
    }

    /// Has one of them come back as a member, with the records that it has as far as they are the same. After any failure
    /// it may be sent again.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it does not answer, is not fenced, or cannot come back.
    pub async fn reinstate(&self, name: &str) -> Result<proto::ReinstateResponse, Error> {
        let plan = Plan { effect: Effect::None, ..Plan::CHANGE };
        let send = |channel, request| async move { dr(channel).reinstate(request).await };
        let (reply, _) = self.call(plan, proto::ReinstateRequest { name: name.to_owned() }, send).await?;
        Ok(reply)
    }

    /// The orphan bundles of a node; ask one with [`Client::at_endpoint`].
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it does not answer.
    pub async fn orphan_bundles(&self) -> Result<Vec<proto::OrphanBundle>, Error> {
        let plan = Plan { patient: false, ..ANY };
        let send = |channel, request| async move { dr(channel).list_orphans(request).await };
        let (reply, _): (proto::ListOrphansResponse, _) = self.call(plan, proto::ListOrphansRequest {}, send).await?;
        Ok(reply.bundles)
    }

    /// What would come of the next writes of a bundle of a node, behind a revision; without `dry_run` they are written
    /// again. The answer says where the next call goes on.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the node has no such bundle. Whatever was written stays: the call can be repeated.
    pub async fn replay_orphans(
        &self,
        bundle: &str,
        after_revision: u64,
        dry_run: bool,
    ) -> Result<proto::ReplayOrphansResponse, Error> {
        let send = |channel, request| async move { dr(channel).replay_orphans(request).await };
        let message = proto::ReplayOrphansRequest { bundle: bundle.to_owned(), after_revision, dry_run };
        let (reply, _) = self.call(ANY, message, send).await?;
        Ok(reply)
    }

    /// Removes a bundle of a node for good.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the node has no such bundle.
    pub async fn discard_orphans(&self, bundle: &str) -> Result<(), Error> {
        let send = |channel, request| async move { dr(channel).discard_orphans(request).await };
        let message = proto::DiscardOrphansRequest { bundle: bundle.to_owned() };
        let (_, _): (proto::DiscardOrphansResponse, _) = self.call(ANY, message, send).await?;
        Ok(())
    }

    /// Which epochs forced promotions began, and who may approve the next one; where no leader answers, as the asked
    /// node has it (`outdated` says so).
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no node answers.
    pub async fn epochs(&self) -> Result<proto::EpochsResponse, Error> {
        let plan = Plan { route: Route::Read, patient: false, ..ANY };
        let send = |channel, request| async move { dr(channel).epochs(request).await };
        let (reply, _) = self.call(plan, proto::EpochsRequest {}, send).await?;
        Ok(reply)
    }
}

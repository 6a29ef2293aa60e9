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

    /// Which epochs forced promotions began, and who may approve the next one.
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

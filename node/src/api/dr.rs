//! The service `saola.v1.Dr`: what people do on the worst day.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use saola_client::proto::dr_server::Dr;
use saola_client::proto::{
    AbandonPromotionRequest, AbandonPromotionResponse, ApplyPromotionRequest, ApplyPromotionResponse, Approver, Epoch,
    EpochsRequest, EpochsResponse, FenceRequest, FenceResponse, PlanPromotionRequest, PlanPromotionResponse,
    SetApproversRequest, SetApproversResponse,
};
use saola_raft::{Begun, Told};
use saola_storage::command;
use saola_storage::promotion::Attested;
use tonic::{Request, Response, Status};

use super::admit;
use super::cluster::header;
use super::errors::Refusal;
use crate::node::Node;

/// New approvers wait so long for a leader with a quorum, an election included.
const QUORUM_LIMIT: Duration = Duration::from_secs(10);

/// Answers calls about epochs.
pub struct DrService(pub Arc<Node>);

#[tonic::async_trait]
impl Dr for DrService {
    async fn plan_promotion(
        &self,
        request: Request<PlanPromotionRequest>,
    ) -> Result<Response<PlanPromotionResponse>, Status> {
        admit(&self.0, request.metadata())?;
        let PlanPromotionRequest { site, attested } = request.into_inner();
        let said = attested.unwrap_or_default();
        let attested = Attested {
            fenced: said.fenced,
            stopped_us: said.stopped_us,
            last_revision: said.last_revision,
            unchanged: said.unchanged,
        };
        let plan = self.0.replica().plan_promotion(&site, &attested).await.map_err(Refusal::from)?;
        Ok(Response::new(PlanPromotionResponse { header: Some(header(&self.0)), plan: plan.encode_to_vec().into() }))
    }

    async fn apply_promotion(
        &self,
        request: Request<ApplyPromotionRequest>,
    ) -> Result<Response<ApplyPromotionResponse>, Status> {
        admit(&self.0, request.metadata())?;
        let applied = self.0.replica().apply_promotion(request.into_inner().signed_plan).await;
        let Begun { epoch, base_node } = applied.map_err(Refusal::from)?;
        Ok(Response::new(ApplyPromotionResponse { header: Some(header(&self.0)), epoch, base_node }))
    }

    async fn abandon_promotion(
        &self,
        request: Request<AbandonPromotionRequest>,
    ) -> Result<Response<AbandonPromotionResponse>, Status> {
        admit(&self.0, request.metadata())?;
        let given_up = self.0.replica().abandon_promotion(request.into_inner().signed_plan).await;
        given_up.map_err(Refusal::from)?;
        Ok(Response::new(AbandonPromotionResponse { header: Some(header(&self.0)) }))
    }

    async fn fence(&self, request: Request<FenceRequest>) -> Result<Response<FenceResponse>, Status> {
        admit(&self.0, request.metadata())?;
        let FenceRequest { site, why, lift } = request.into_inner();
        let replica = self.0.replica();
        let told = if lift { replica.unfence_site(&site).await } else { replica.fence_site(&site, &why).await };
        let Told { done, silent, refused } = told.map_err(Refusal::from)?;
        Ok(Response::new(FenceResponse { header: Some(header(&self.0)), done, silent, refused }))
    }

    async fn set_approvers(
        &self,
        request: Request<SetApproversRequest>,
    ) -> Result<Response<SetApproversResponse>, Status> {
        let deadline = admit(&self.0, request.metadata())?;
        let SetApproversRequest { approvers, needed } = request.into_inner();
        let stored = |it: Approver| command::Approver { name: it.name, public_key: it.public_key };
        let list = approvers.into_iter().map(stored).collect();
        let set = self.0.replica().set_approvers(list, needed, deadline.left().min(QUORUM_LIMIT)).await;
        set.map_err(Refusal::from)?;
        Ok(Response::new(SetApproversResponse { header: Some(header(&self.0)) }))
    }

    async fn epochs(&self, request: Request<EpochsRequest>) -> Result<Response<EpochsResponse>, Status> {
        admit(&self.0, request.metadata())?;
        let store = self.0.store();
        let shown = |it: saola_storage::epoch::Epoch| Epoch {
            number: it.number,
            signed_plan: it.record,
            revision: it.revision,
            began_us: it.began_us,
        };
        let newest = store.approvers().pop();
        let (list, needed) = newest.map_or_else(Default::default, |it| (it.list, it.needed));
        Ok(Response::new(EpochsResponse {
            header: Some(header(&self.0)),
            epochs: store.epochs().into_iter().map(shown).collect(),
            approvers: list.into_iter().map(|it| Approver { name: it.name, public_key: it.public_key }).collect(),
            needed,
        }))
    }
}

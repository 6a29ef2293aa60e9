//! The service `saola.v1.Dr`: what people do on the worst day.

use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use saola_client::proto::dr_server::Dr;
use saola_client::proto::{
    AbandonPromotionRequest, AbandonPromotionResponse, ApplyPromotionRequest, ApplyPromotionResponse, Approver,
    DiscardOrphansRequest, DiscardOrphansResponse, Epoch, EpochsRequest, EpochsResponse, FenceRequest, FenceResponse,
    FormerMember, FormerMembersRequest, FormerMembersResponse, ListOrphansRequest, ListOrphansResponse,
    PlanPromotionRequest, PlanPromotionResponse, ReinstateRequest, ReinstateResponse, ReplayOrphansRequest,
    ReplayOrphansResponse, SetApproversRequest, SetApproversResponse,
};
use saola_raft::{Begun, Former, Told};
use saola_storage::command;
use saola_storage::promotion::Attested;
use tonic::{Request, Response, Status};

use super::admit;
use super::cluster::header;
use super::errors::Refusal;
use super::orphans;
use crate::node::Node;

/// New approvers wait so long for a leader with a quorum, an election included.
const QUORUM_LIMIT: Duration = Duration::from_secs(10);
/// Who asks for epochs waits so long for a leader; on the worst day there is none, and what this node has will do.
const CURRENT_LIMIT: Duration = Duration::from_secs(1);

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
        let deadline = admit(&self.0, request.metadata())?;
        let current = self.0.replica().read_point(deadline.left().min(CURRENT_LIMIT)).await;
        let outdated = current.err().map(|error| error.to_string()).unwrap_or_default();
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
            outdated,
        }))
    }

    async fn former_members(
        &self,
        request: Request<FormerMembersRequest>,
    ) -> Result<Response<FormerMembersResponse>, Status> {
        admit(&self.0, request.metadata())?;
        let site = request.into_inner().site;
        let former = self.0.replica().former_members().await.map_err(Refusal::from)?;
        let members =
            former.into_iter().filter(|it| site.is_empty() || it.member.site == site).map(shown_former).collect();
        Ok(Response::new(FormerMembersResponse { header: Some(header(&self.0)), members }))
    }

    async fn reinstate(&self, request: Request<ReinstateRequest>) -> Result<Response<ReinstateResponse>, Status> {
        admit(&self.0, request.metadata())?;
        let name = request.into_inner().name;
        let former = self.0.replica().former_member(&name).await.map_err(Refusal::from)?;
        let (member, came) = self.0.replica().reinstate(former).await.map_err(Refusal::from)?;
        let came = came.unwrap_or_default();
        Ok(Response::new(ReinstateResponse {
            header: Some(header(&self.0)),
            node_id: member.node_id,
            bytes: came.bytes,
            of_bytes: came.of_bytes,
            orphans: came.orphans,
        }))
    }

    async fn list_orphans(
        &self,
        request: Request<ListOrphansRequest>,
    ) -> Result<Response<ListOrphansResponse>, Status> {
        admit(&self.0, request.metadata())?;
        Ok(Response::new(orphans::list(&self.0).await?))
    }

    async fn replay_orphans(
        &self,
        request: Request<ReplayOrphansRequest>,
    ) -> Result<Response<ReplayOrphansResponse>, Status> {
        let deadline = admit(&self.0, request.metadata())?;
        Ok(Response::new(orphans::replay(&self.0, request.into_inner(), deadline).await?))
    }

    async fn discard_orphans(
        &self,
        request: Request<DiscardOrphansRequest>,
    ) -> Result<Response<DiscardOrphansResponse>, Status> {
        admit(&self.0, request.metadata())?;
        orphans::discard(&self.0, request.into_inner()).await?;
        Ok(Response::new(DiscardOrphansResponse { header: Some(header(&self.0)) }))
    }
}

fn shown_former(former: Former) -> FormerMember {
    let Former { member, standing } = former;
    let shown = FormerMember {
        role: member.role_value().as_str().to_owned(),
        name: member.name,
        node_id: member.node_id,
        site: member.site,
        ..FormerMember::default()
    };
    match standing {
        Err(silent) => FormerMember { silent, ..shown },
        Ok(it) => {
            let index = |log_id: Option<saola_storage::types::LogId>| log_id.map_or(0, |log_id| log_id.index);
            FormerMember {
                epoch: it.epoch,
                twin_plan: it.twin.unwrap_or_default(),
                fenced: it.fenced,
                back_as: it.back_as.unwrap_or(0),
                entries_beyond: index(it.last).saturating_sub(index(it.base)),
                revision: it.revision,
                base_revision: it.base_revision,
                ..shown
            }
        }
    }
}

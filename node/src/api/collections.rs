//! The service `saola.v1.Collections`.

use std::sync::Arc;

use bytes::Bytes;
use saola_client::proto::collections_server::Collections;
use saola_client::proto::{
    self, CreateCollectionRequest, CreateCollectionResponse, ListCollectionsRequest, ListCollectionsResponse,
    SetRetentionRequest, SetRetentionResponse, set_retention_request,
};
use saola_storage::collection::{MAX_VALUE_BYTES, check_collection_name};
use saola_storage::command::{
    Command, CreateCollection, Decision, KeyStyle, Op, Release, RetentionChange, RetentionLimits, SetRetention,
    WrappedDek,
};
use saola_storage::keyring::wrap_for_sites;
use saola_storage::seal::{Dek, DekId};
use saola_storage::store::StoreInfo;
use tonic::{Request, Response, Status};

use super::deadline::Deadline;
use super::errors::{Reason, Refusal};
use super::{admit, convert, limits, point};
use crate::entropy::{self, EntropyError};
use crate::node::Node;

/// Answers calls about collections.
pub struct CollectionsService(pub Arc<Node>);

#[tonic::async_trait]
impl Collections for CollectionsService {
    async fn create(
        &self,
        request: Request<CreateCollectionRequest>,
    ) -> Result<Response<CreateCollectionResponse>, Status> {
        let deadline = admit(&self.0, request.metadata())?;
        Ok(Response::new(create(&self.0, request.into_inner(), deadline).await?))
    }

    async fn list(
        &self,
        request: Request<ListCollectionsRequest>,
    ) -> Result<Response<ListCollectionsResponse>, Status> {
        let deadline = admit(&self.0, request.metadata())?;
        Ok(Response::new(list(&self.0, request.into_inner(), deadline).await?))
    }

    async fn set_retention(
        &self,
        request: Request<SetRetentionRequest>,
    ) -> Result<Response<SetRetentionResponse>, Status> {
        let deadline = admit(&self.0, request.metadata())?;
        Ok(Response::new(set_retention(&self.0, request.into_inner(), deadline).await?))
    }
}

async fn create(
    node: &Node,
    call: CreateCollectionRequest,
    deadline: Deadline,
) -> Result<CreateCollectionResponse, Refusal> {
    node.check_serves_records()?;
    let request = convert::request_id(call.request)?;
    check_collection_name(&call.name).map_err(|error| Refusal::invalid(error.to_string(), "choose another name"))?;
    limits::texts(&[("owner", &call.owner), ("label", &call.label)])?;
    let max_value_bytes = match call.max_value_bytes {
        0 => MAX_VALUE_BYTES,
        n @ 1..=MAX_VALUE_BYTES => n,
        n => {
            return Err(Refusal::invalid(
                format!("max_value_bytes {n} is over the most, {MAX_VALUE_BYTES}"),
                "choose a lower limit; larger values do not belong here",
            ));
        }
    };
    let key_style = match proto::KeyStyle::try_from(call.key_style) {
        Ok(proto::KeyStyle::Unspecified | proto::KeyStyle::Ordered) => KeyStyle::Ordered,
        Ok(proto::KeyStyle::Bytes) => KeyStyle::Bytes,
        Err(_) => {
            return Err(Refusal::invalid(
                format!("key style {} is unknown to this release", call.key_style),
                "choose ordered or bytes",
            ));
        }
    };
    // A barrier first, so that the site map and the name are those that everyone sees.
    let info = node.read_point(deadline).await?.view.info();
    let info = info.ok_or_else(|| Refusal::internal("a node of a cluster has no site map"))?;
    let incarnation = entropy::random::<16>().map_err(Refusal::internal)?;
    let dek = first_key(&info, &incarnation)?;
    let create = CreateCollection {
        name: call.name.clone(),
        incarnation: Bytes::copy_from_slice(&incarnation),
        max_value_bytes,
        key_style: key_style as i32,
        owner: call.owner,
        label: call.label,
        dek: Some(dek),
    };
    let command = Command { request: Some(request), op: Some(Op::CreateCollection(create)) };
    let outcome = node.propose(command, deadline).await?;
    match outcome.decision {
        Some(Decision::CollectionCreated(_)) => {
            // It exists from here on: what fails now must not read as if it did not.
            let created = |error: Refusal| {
                Refusal::plain(
                    Reason::OutcomeUnknown,
                    format!("collection {:?} was created, but cannot be read back yet: {error:?}", call.name),
                )
            };
            let point = node.read_point(deadline).await.map_err(created)?;
            let collection = point.collection(&call.name)?;
            Ok(CreateCollectionResponse {
                header: Some(point.header()),
                collection: Some(convert::collection(collection)),
            })
        }
        other => Err(convert::refused(other, &call.name)),
    }
}

/// A new data key, wrapped for every site that holds keys; its clear form ends here.
fn first_key(info: &StoreInfo, incarnation: &[u8; 16]) -> Result<WrappedDek, Refusal> {
    let made: Result<_, EntropyError> = (|| {
        let dek = Dek::new(DekId(entropy::random()?), entropy::secret()?);
        let secrets = info.sites.iter().map(|_| entropy::secret()).collect::<Result<Vec<_>, _>>()?;
        Ok((dek, secrets.into_iter()))
    })();
    let (dek, mut secrets) = made.map_err(Refusal::internal)?;
    wrap_for_sites(&dek, &info.store_uuid, incarnation, &info.sites, || {
        secrets.next().expect("there is one secret per site and at most one call per site")
    })
    .map_err(Refusal::internal)
}

async fn list(
    node: &Node,
    call: ListCollectionsRequest,
    deadline: Deadline,
) -> Result<ListCollectionsResponse, Refusal> {
    let point = point::reach(node, call.consistency, deadline).await?;
    let collections = point.collections().into_iter().map(convert::collection).collect();
    Ok(ListCollectionsResponse { header: Some(point.header()), collections })
}

async fn set_retention(
    node: &Node,
    call: SetRetentionRequest,
    deadline: Deadline,
) -> Result<SetRetentionResponse, Refusal> {
    node.check_serves_records()?;
    let request = convert::request_id(call.request)?;
    let change = retention_change(call.change)?;
    let set = SetRetention { collection: call.collection.clone(), change: Some(change) };
    let command = Command { request: Some(request), op: Some(Op::SetRetention(set)) };
    match node.propose(command, deadline).await?.decision {
        Some(Decision::Done(_)) => {
            // It rules from here on: what fails now must not read as if it did not.
            let changed = |error: Refusal| {
                Refusal::plain(
                    Reason::OutcomeUnknown,
                    format!("the policy of {:?} was changed, but cannot be read back yet: {error:?}", call.collection),
                )
            };
            let point = node.read_point(deadline).await.map_err(changed)?;
            let collection = point.collection(&call.collection)?;
            Ok(SetRetentionResponse { header: Some(point.header()), collection: Some(convert::collection(collection)) })
        }
        other => Err(convert::refused(other, &call.collection)),
    }
}

fn retention_change(change: Option<set_retention_request::Change>) -> Result<RetentionChange, Refusal> {
    use set_retention_request::Change;
    match change {
        Some(Change::Limits(proto::RetentionLimits { max_generations, max_age_ms })) => {
            Ok(RetentionChange::Limits(RetentionLimits { max_generations, max_age_ms }))
        }
        Some(Change::Hold(reason)) if !reason.trim().is_empty() => {
            limits::texts(&[("hold", &reason)])?;
            Ok(RetentionChange::Hold(reason))
        }
        Some(Change::Hold(_)) => Err(Refusal::invalid(
            "a hold needs a reason".into(),
            "say why nothing may be removed, as with a case number",
        )),
        Some(Change::Release(true)) => Ok(RetentionChange::Release(Release {})),
        Some(Change::Release(false)) | None => {
            Err(Refusal::invalid("the call changes nothing".into(), "give limits, a hold, or its release"))
        }
    }
}

#[cfg(test)]
mod tests {
    use saola_client::proto::set_retention_request::Change;

    use super::*;

    #[test]
    fn a_hold_needs_a_reason_and_a_change_is_one() {
        for bad in
            [None, Some(Change::Release(false)), Some(Change::Hold(" ".into())), Some(Change::Hold("x".repeat(1025)))]
        {
            let refused = retention_change(bad.clone()).expect_err("it says nothing");
            assert_eq!(refused.reason(), Reason::InvalidArgument, "{bad:?}");
        }
        let held = retention_change(Some(Change::Hold("case 7".into()))).expect("it has a reason");
        assert_eq!(held, RetentionChange::Hold("case 7".into()));
    }
}

//! Put and Delete: check, seal, propose, convert.

use saola_client::proto::{DeleteRequest, PutRequest, WriteResponse};
use saola_storage::command::{Command, Decision, DeleteRecord, Op, PutRecord};
use saola_storage::store::Collection;

use super::deadline::Deadline;
use super::errors::{Reason, Refusal};
use super::{convert, limits};
use crate::node::Node;

/// How often a value is sealed anew when its key may no longer seal; keys change rarely, so two is plenty.
const SEAL_TRIES: usize = 3;

/// Writes one version of a record.
///
/// # Errors
/// [`Refusal`] with its reason.
pub async fn put(node: &Node, call: PutRequest, deadline: Deadline) -> Result<WriteResponse, Refusal> {
    node.check_serves_records()?;
    let request = convert::request_id(call.request)?;
    let expect = convert::expect(call.expect);
    let provenance = convert::provenance(call.provenance)?;
    limits::texts(&[("content_type", &call.content_type)])?;
    let mut collection = known_collection(node, &call.collection, deadline).await?;
    limits::record_id(&collection, &call.id)?;
    limits::value(&collection, &call.value)?;
    for _ in 0..SEAL_TRIES {
        let envelope = node.ring().seal(&collection, &call.id, &call.content_type, &call.value)?;
        let command = Command {
            request: Some(request.clone()),
            op: Some(Op::Put(PutRecord {
                collection: call.collection.clone(),
                id: call.id.clone(),
                envelope,
                content_type: call.content_type.clone(),
                expect,
                provenance: provenance.clone(),
                value_bytes: call.value.len() as u64,
            })),
        };
        let outcome = node.propose(command, deadline).await?;
        if !matches!(outcome.decision, Some(Decision::Reseal(_))) {
            return convert::written(node, &call.collection, outcome);
        }
        // This node's view of the collection or of its keys is older than what decided: catch up, then seal anew.
        let point = node.read_point(deadline).await?;
        collection = point.collection(&call.collection)?;
        limits::value(&collection, &call.value)?;
    }
    Err(Refusal::new(
        Reason::Busy,
        format!("the data keys of collection {:?} changed during {SEAL_TRIES} attempts", call.collection),
        "send the call again under the same request id",
    ))
}

/// Deletes a record.
///
/// # Errors
/// [`Refusal`] with its reason.
pub async fn delete(node: &Node, call: DeleteRequest, deadline: Deadline) -> Result<WriteResponse, Refusal> {
    node.check_serves_records()?;
    let request = convert::request_id(call.request)?;
    let expect = convert::expect(call.expect);
    let provenance = convert::provenance(call.provenance)?;
    let collection = known_collection(node, &call.collection, deadline).await?;
    limits::record_id(&collection, &call.id)?;
    let delete = DeleteRecord { collection: call.collection, id: call.id, expect, provenance };
    let command = Command { request: Some(request), op: Some(Op::Delete(delete)) };
    let outcome = node.propose(command, deadline).await?;
    convert::written(node, &collection.name, outcome)
}

/// The collection as this node has it; if it has none, as it stands after everything acknowledged so far.
async fn known_collection(node: &Node, name: &str, deadline: Deadline) -> Result<Collection, Refusal> {
    if let Some(collection) = node.store().view().collection(name) {
        return Ok(collection);
    }
    node.read_point(deadline).await?.collection(name)
}

//! Get, BatchGet, List and History: reach a point, read the view, open, convert.

use bytes::Bytes;
use prost::Message;
use saola_client::proto::{
    BatchGetRequest, BatchGetResponse, GetRequest, GetResponse, GetResult, HistoryRequest, HistoryResponse,
    ListRequest, ListResponse, Version,
};
use saola_raft::PinError;
use saola_storage::store::{At, Collection, StoredVersion};

use super::deadline::Deadline;
use super::errors::Refusal;
use super::page_token::PageToken;
use super::point::{self, Point};
use super::stream::{Answers, Sink, Streams};
use super::{convert, limits};
use crate::keys::Ring;
use crate::node::Node;

/// Rows that a listing takes from the store at a time, so that a page of large values does not fill the memory.
const LIST_STEP: usize = 64;

/// Reads one version of one record.
///
/// # Errors
/// [`Refusal`] with its reason.
pub async fn get(node: &Node, call: GetRequest, deadline: Deadline) -> Result<GetResponse, Refusal> {
    let (point, at) = point::select(node, call.at, call.consistency, deadline).await?;
    let collection = point.collection(&call.collection)?;
    limits::record_id(&collection, &call.id)?;
    let found = shown(&point, &collection, &call.id, at)?;
    let ring = node.ring();
    let version = found.map(|v| opened(&ring, &collection, v, false)).transpose()?;
    Ok(GetResponse { header: Some(point.header()), version, age_ms: point.age_ms })
}

/// Reads many records at one revision.
///
/// # Errors
/// [`Refusal`] with its reason.
pub async fn batch_get(node: &Node, call: BatchGetRequest, deadline: Deadline) -> Result<BatchGetResponse, Refusal> {
    limits::batch(&call.records)?;
    let (point, revision) = point::select_revision(node, call.at, call.consistency, deadline).await?;
    let ring = node.ring();
    blocking(move || {
        let mut bytes = 0;
        let mut results = Vec::with_capacity(call.records.len());
        for record in call.records {
            if bytes >= limits::MAX_ANSWER_BYTES {
                return Err(Refusal::invalid(
                    format!("the records asked for exceed {} bytes", limits::MAX_ANSWER_BYTES),
                    "ask for fewer records in one call",
                ));
            }
            let collection = point.collection(&record.collection)?;
            limits::record_id(&collection, &record.id)?;
            let version = shown(&point, &collection, &record.id, At::Revision(revision))?
                .map(|v| opened(&ring, &collection, v, false))
                .transpose()?;
            bytes += version.as_ref().map_or(0, Message::encoded_len);
            results.push(GetResult { version });
        }
        Ok(BatchGetResponse { header: Some(point.header()), results })
    })
    .await
}

/// One page of the live records of a collection.
///
/// # Errors
/// [`Refusal`] with its reason.
pub async fn list(node: &Node, call: ListRequest, deadline: Deadline) -> Result<ListResponse, Refusal> {
    let token = match &call.page_token[..] {
        [] => None,
        _ if call.at.is_some() => {
            return Err(Refusal::invalid(
                "a page token pins the revision, the call selects another".into(),
                "leave the selector out from the second page on",
            ));
        }
        bytes => Some(PageToken::read(bytes)?),
    };
    let (point, newest) = point::select_revision(node, call.at, call.consistency, deadline).await?;
    let collection = point.collection(&call.collection)?;
    let (revision, after) = match token {
        None => (newest, None),
        Some(token) => {
            token.check_continues(&collection, &call.prefix)?;
            point::check_revision(&point, token.revision)?;
            (token.revision, Some(token.after))
        }
    };
    let (ring, replica) = (node.ring(), node.replica().clone());
    blocking(move || {
        let size = limits::page(call.page_size);
        let page = page(&point, &ring, &collection, &call, revision, after, size)?;
        if page.next_after.is_some() {
            may_go_on(replica.pin(&collection, revision))?;
        }
        Ok(ListResponse {
            header: Some(point.header()),
            revision,
            versions: page.versions,
            next_page_token: page
                .next_after
                .map(|after| PageToken::new(&collection, revision, after, call.prefix.clone()).encode_to_vec())
                .unwrap_or_default()
                .into(),
        })
    })
    .await
}

/// Whether a token for the next page is given, after this node was asked to promise its revision.
fn may_go_on(promised: Result<(), PinError>) -> Result<(), Refusal> {
    match promised {
        // Without a promise the next page is refused only if versions are collected meanwhile.
        Ok(()) | Err(PinError::CutOff | PinError::TooMany) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

struct Page {
    versions: Vec<Version>,
    next_after: Option<Bytes>,
}

fn page(
    point: &Point,
    ring: &Ring,
    collection: &Collection,
    call: &ListRequest,
    revision: u64,
    mut after: Option<Bytes>,
    size: usize,
) -> Result<Page, Refusal> {
    let mut versions = Vec::new();
    let mut bytes = 0;
    loop {
        let rows = point.view.list(collection, &call.prefix, after.as_deref(), revision, LIST_STEP)?;
        let last_step = rows.len() < LIST_STEP;
        for row in rows {
            if versions.len() == size || bytes >= limits::MAX_ANSWER_BYTES {
                return Ok(Page { versions, next_after: after });
            }
            after = Some(row.id.clone());
            let version = opened(ring, collection, row, call.keys_only)?;
            bytes += version.encoded_len();
            versions.push(version);
        }
        if last_step {
            return Ok(Page { versions, next_after: None });
        }
    }
}

/// All kept versions of one record, sent one by one.
///
/// # Errors
/// [`Refusal`] with its reason, BUSY when too many are under way; later ones end the stream.
pub async fn history(
    node: &Node,
    streams: &Streams,
    call: HistoryRequest,
    deadline: Deadline,
) -> Result<Answers<HistoryResponse>, Refusal> {
    let point = point::reach(node, call.consistency, deadline).await?;
    let collection = point.collection(&call.collection)?;
    limits::record_id(&collection, &call.id)?;
    let ring = node.ring();
    streams.begin(move |sink| send_history(&point, &ring, &collection, &call, sink))
}

fn send_history(
    point: &Point,
    ring: &Ring,
    collection: &Collection,
    call: &HistoryRequest,
    sink: &Sink<HistoryResponse>,
) {
    let mut any = false;
    for version in point.view.history(collection, &call.id, point.revision, call.newest_first) {
        any = true;
        let answer = version
            .map_err(Refusal::from)
            .and_then(|version| opened(ring, collection, version, call.keys_only))
            .map(|version| HistoryResponse { header: Some(point.header()), version: Some(version) });
        if !sink.send(answer) {
            return;
        }
    }
    if !any {
        // Every answer carries a header, so that the client learns the revision of this one too.
        let empty = HistoryResponse { header: Some(point.header()), version: None };
        sink.send(Ok(empty));
    }
}

/// The version that `at` selects, unless it lies beyond what may be shown.
fn shown(point: &Point, collection: &Collection, id: &[u8], at: At) -> Result<Option<StoredVersion>, Refusal> {
    Ok(point.view.get(collection, id, at)?.filter(|v| v.revision <= point.revision))
}

fn opened(ring: &Ring, collection: &Collection, version: StoredVersion, keys_only: bool) -> Result<Version, Refusal> {
    let value = match version.envelope.is_empty() || keys_only {
        true => Bytes::new(),
        false => ring.open(collection, &version)?,
    };
    Ok(Version { info: Some(convert::version_info(&collection.name, version)), value })
}

/// Runs storage work that may touch the disk often, off the threads that serve connections.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work).await.map_err(Refusal::internal)?
}

#[cfg(test)]
mod tests {
    use super::super::errors::Reason;
    use super::*;

    #[test]
    fn a_listing_goes_on_without_a_promise_where_none_can_be_had_and_ends_where_its_revision_goes() {
        for promised in [Ok(()), Err(PinError::CutOff), Err(PinError::TooMany)] {
            may_go_on(promised).expect("a node that is cut off lists what it has");
        }
        let reason = |error| may_go_on(Err(error)).expect_err("the next page would lack versions").reason();
        assert_eq!(reason(PinError::BeingCollected), Reason::Busy);
        assert_eq!(reason(PinError::Gone { oldest: 7 }), Reason::RevisionGone);
    }
}

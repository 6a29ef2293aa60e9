//! Calls on records. Each is built up and then sent; a clone of a built call may be sent again as a new call.

use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::call::{Headed, Plan};
use crate::client::{Client, MAX_REPLY_BYTES};
use crate::error::{Details, Error};
use crate::proto::{self, records_client::RecordsClient};
use crate::reason::Reason;
use crate::types::{At, Expect, Provenance, Reply, Version, Written};

impl Client {
    /// Writes a version of a record.
    pub fn put(&self, collection: &str, id: impl Into<Bytes>, value: impl Into<Bytes>) -> Put {
        let request = proto::PutRequest {
            collection: collection.to_owned(),
            id: id.into(),
            value: value.into(),
            ..proto::PutRequest::default()
        };
        Put { client: self.clone(), request }
    }

    /// Deletes a record; its history stays.
    pub fn delete(&self, collection: &str, id: impl Into<Bytes>) -> Delete {
        let request = proto::DeleteRequest {
            collection: collection.to_owned(),
            id: id.into(),
            ..proto::DeleteRequest::default()
        };
        Delete { client: self.clone(), request }
    }

    /// Reads one version of a record.
    pub fn get(&self, collection: &str, id: impl Into<Bytes>) -> Get {
        let request =
            proto::GetRequest { collection: collection.to_owned(), id: id.into(), ..proto::GetRequest::default() };
        Get { client: self.clone(), request }
    }

    /// Reads many records, given as (collection, id), at one revision.
    pub fn batch_get<C: Into<String>, I: Into<Bytes>>(&self, records: impl IntoIterator<Item = (C, I)>) -> BatchGet {
        let records = records
            .into_iter()
            .map(|(collection, id)| proto::RecordRef { collection: collection.into(), id: id.into() })
            .collect();
        let request = proto::BatchGetRequest { records, ..proto::BatchGetRequest::default() };
        BatchGet { client: self.clone(), request }
    }

    /// Lists the live records of a collection in the order of their ids.
    pub fn list(&self, collection: &str) -> List {
        let request = proto::ListRequest { collection: collection.to_owned(), ..proto::ListRequest::default() };
        List { client: self.clone(), request }
    }

    /// Reads all kept versions of a record.
    pub fn history(&self, collection: &str, id: impl Into<Bytes>) -> History {
        let request = proto::HistoryRequest {
            collection: collection.to_owned(),
            id: id.into(),
            ..proto::HistoryRequest::default()
        };
        History { client: self.clone(), request }
    }
}

fn records(channel: Channel) -> RecordsClient<Channel> {
    RecordsClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES)
}

fn stale_within(bound: Duration) -> Option<proto::Consistency> {
    // Rounded up: a bound below a millisecond is not none at all.
    let bound_ms = u64::try_from(bound.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
    Some(proto::Consistency { kind: Some(proto::consistency::Kind::StaleWithinMs(bound_ms)) })
}

macro_rules! write_options {
    () => {
        /// Only if this holds.
        pub fn expect(mut self, expect: Expect) -> Self {
            self.request.expect = Some(expect.into());
            self
        }

        /// Where it comes from. Kept in clear text.
        pub fn provenance(mut self, provenance: Provenance) -> Self {
            self.request.provenance = Some(provenance);
            self
        }
    };
}

macro_rules! stale_option {
    () => {
        /// Take what the node has, if it misses nothing acknowledged longer than `bound` ago; zero means no bound.
        /// Without it, reads are linearizable.
        pub fn stale(mut self, bound: Duration) -> Self {
            self.request.consistency = stale_within(bound);
            self
        }
    };
}

macro_rules! at_option {
    () => {
        /// Read this instead of the newest.
        pub fn at(mut self, at: At) -> Self {
            self.request.at = Some(at.into());
            self
        }
    };
}

async fn send_write<M, F, Fut>(
    client: &Client,
    build: impl Fn(proto::RequestId) -> M,
    send: F,
) -> Result<Written, Error>
where
    M: Clone,
    F: Fn(Channel, Request<M>) -> Fut,
    Fut: Future<Output = Result<Response<proto::WriteResponse>, Status>>,
{
    let (reply, header, request) = client.write(build, send).await?;
    Ok(Written {
        generation: reply.generation,
        revision: reply.revision,
        recorded_at_us: reply.recorded_at_us,
        replayed: reply.replayed,
        epoch: header.epoch,
        node: header.node,
        request,
    })
}

/// A write to be sent; see [`Client::put`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens until it is sent"]
pub struct Put {
    client: Client,
    request: proto::PutRequest,
}

impl Put {
    write_options!();

    /// Media type of the value.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Put {
        self.request.content_type = content_type.into();
        self
    }

    /// Sends it until it is acknowledged, refused, or the deadline ends.
    ///
    /// # Errors
    /// [`Error::Conflict`] when `expect` does not hold, [`Error::UnknownOutcome`] when it may have been applied,
    /// else certainly not applied.
    pub async fn send(self) -> Result<Written, Error> {
        let build = |id| proto::PutRequest { request: Some(id), ..self.request.clone() };
        send_write(&self.client, build, |channel, request| async move { records(channel).put(request).await }).await
    }
}

/// A deletion to be sent; see [`Client::delete`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens until it is sent"]
pub struct Delete {
    client: Client,
    request: proto::DeleteRequest,
}

impl Delete {
    write_options!();

    /// Sends it until it is acknowledged, refused, or the deadline ends.
    ///
    /// # Errors
    /// As [`Put::send`], and [`Error::NotFound`] when the record is not live.
    pub async fn send(self) -> Result<Written, Error> {
        let build = |id| proto::DeleteRequest { request: Some(id), ..self.request.clone() };
        send_write(&self.client, build, |channel, request| async move { records(channel).delete(request).await }).await
    }
}

/// A read to be sent; see [`Client::get`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens until it is sent"]
pub struct Get {
    client: Client,
    request: proto::GetRequest,
}

impl Get {
    at_option!();
    stale_option!();

    /// Reads it. None when there is no such version; a deletion is a version ([`Version::is_deleted`]).
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown collection, [`Error::Invalid`] for a point that does not exist.
    pub async fn send(self) -> Result<Reply<Option<Version>>, Error> {
        let send = |channel, request| async move { records(channel).get(request).await };
        let (reply, header) = self.client.call(Plan::READ, self.request, send).await?;
        Ok(Reply::new(header, reply.age_ms, reply.version.map(Version::from)))
    }
}

/// A read of many records to be sent; see [`Client::batch_get`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens until it is sent"]
pub struct BatchGet {
    client: Client,
    request: proto::BatchGetRequest,
}

impl BatchGet {
    at_option!();
    stale_option!();

    /// Reads them, one result per asked record in order.
    ///
    /// # Errors
    /// As [`Get::send`].
    pub async fn send(self) -> Result<Reply<Vec<Option<Version>>>, Error> {
        let asked = self.request.records.len();
        let send = |channel, request| async move { records(channel).batch_get(request).await };
        let (reply, header) = self.client.call(Plan::READ, self.request, send).await?;
        if reply.results.len() != asked {
            let message =
                format!("batch get: node {} answered {} of {asked} records", header.node, reply.results.len());
            return Err(Error::Internal(Details::new(Reason::Internal, message)));
        }
        let versions = reply.results.into_iter().map(|result| result.version.map(Version::from)).collect();
        Ok(Reply::new(header, None, versions))
    }
}

/// Where the next page begins; it pins the listing's revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageToken(pub Bytes);

/// One page of a listing.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// Live records in the order of their ids.
    pub versions: Vec<Version>,
    /// Revision that the whole listing shows.
    pub revision: u64,
    /// None on the last page.
    pub next: Option<PageToken>,
}

/// A listing to be sent; see [`Client::list`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens until it is sent"]
pub struct List {
    client: Client,
    request: proto::ListRequest,
}

impl List {
    at_option!();
    stale_option!();

    /// Only ids that begin with this.
    pub fn prefix(mut self, prefix: impl Into<Bytes>) -> List {
        self.request.prefix = prefix.into();
        self
    }

    /// At most so many records per page; 100 if not set, 1000 at most.
    pub fn page_size(mut self, records: u32) -> List {
        self.request.page_size = records;
        self
    }

    /// Leave the values out.
    pub fn keys_only(mut self) -> List {
        self.request.keys_only = true;
        self
    }

    /// Go on where another page ended. The token holds the revision, so `at` must not be set.
    pub fn page_token(mut self, token: PageToken) -> List {
        self.request.page_token = token.0;
        self
    }

    /// Reads one page.
    ///
    /// # Errors
    /// As [`Get::send`].
    pub async fn send(self) -> Result<Reply<Page>, Error> {
        let send = |channel, request| async move { records(channel).list(request).await };
        let (reply, header) = self.client.call(Plan::READ, self.request, send).await?;
        let next = (!reply.next_page_token.is_empty()).then_some(PageToken(reply.next_page_token));
        let versions = reply.versions.into_iter().map(Version::from).collect();
        Ok(Reply::new(header, None, Page { versions, revision: reply.revision, next }))
    }

    /// Reads all pages at one revision, as they are asked for.
    pub fn all(self) -> Listing {
        Listing { next_page: Some(self), read: VecDeque::new(), revision: None }
    }
}

/// All records of a listing at one revision; see [`List::all`].
#[derive(Debug)]
pub struct Listing {
    next_page: Option<List>,
    read: VecDeque<Version>,
    revision: Option<u64>,
}

impl Listing {
    /// The next record, or none at the end. After an error it may be called again to go on.
    ///
    /// # Errors
    /// As [`Get::send`].
    pub async fn next(&mut self) -> Result<Option<Version>, Error> {
        while self.read.is_empty() {
            let Some(list) = &self.next_page else {
                return Ok(None);
            };
            let page = list.clone().send().await?.value;
            self.revision = Some(page.revision);
            self.read.extend(page.versions);
            self.next_page = self.next_page.take().zip(page.next).map(|(mut list, token)| {
                list.request.at = None;
                list.page_token(token)
            });
        }
        Ok(self.read.pop_front())
    }

    /// All that remain.
    ///
    /// # Errors
    /// As [`Get::send`].
    pub async fn collect(mut self) -> Result<Vec<Version>, Error> {
        let mut versions = Vec::new();
        while let Some(version) = self.next().await? {
            versions.push(version);
        }
        Ok(versions)
    }

    /// The revision that it shows; none before the first record was read.
    pub fn revision(&self) -> Option<u64> {
        self.revision
    }
}

/// A history to be read; see [`Client::history`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens until it is sent"]
pub struct History {
    client: Client,
    request: proto::HistoryRequest,
}

impl History {
    stale_option!();

    /// Begin with the newest version.
    pub fn newest_first(mut self) -> History {
        self.request.newest_first = true;
        self
    }

    /// Leave the values out.
    pub fn keys_only(mut self) -> History {
        self.request.keys_only = true;
        self
    }

    /// Reads all versions; none when the record never existed.
    ///
    /// # Errors
    /// As [`Get::send`].
    pub async fn send(self) -> Result<Reply<Vec<Version>>, Error> {
        let send = |channel, request| async move {
            let mut stream = records(channel).history(request).await?.into_inner();
            let mut whole = WholeHistory { header: None, versions: Vec::new() };
            while let Some(part) = stream.message().await? {
                whole.header = whole.header.or(part.header);
                whole.versions.extend(part.version.map(Version::from));
            }
            Ok(Response::new(whole))
        };
        let (whole, header) = self.client.call(Plan::READ, self.request, send).await?;
        Ok(Reply::new(header, None, whole.versions))
    }
}

/// A history's parts put together, with the header of the first.
struct WholeHistory {
    header: Option<proto::Header>,
    versions: Vec<Version>,
}

impl Headed for WholeHistory {
    fn header(&self) -> Option<proto::Header> {
        self.header
    }
}

//! Calls on collections.

use std::time::Duration;

use crate::call::Plan;
use crate::client::{Client, MAX_REPLY_BYTES};
use crate::error::{Details, Error};
pub use crate::proto::KeyStyle;
use crate::proto::{self, collections_client::CollectionsClient};
use crate::reason::Reason;
use crate::types::Reply;

/// A collection to be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateCollection {
    /// Unique name: 1 to 64 characters of a-z, 0-9, `-`, `_`, `.`.
    pub name: String,
    /// Largest value in bytes; 0 means 1 MiB, which is also the most.
    pub max_value_bytes: u64,
    /// Which record ids it takes.
    pub key_style: KeyStyle,
    /// Who answers for it.
    pub owner: String,
    /// What it is.
    pub label: String,
}

impl CreateCollection {
    /// A collection with the default limits and `ordered` ids.
    pub fn new(name: impl Into<String>) -> CreateCollection {
        CreateCollection {
            name: name.into(),
            max_value_bytes: 0,
            key_style: KeyStyle::Ordered,
            owner: String::new(),
            label: String::new(),
        }
    }
}

/// A change of how long a collection keeps versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetentionChange {
    /// Both limits anew; none: all versions are kept.
    Limits {
        /// So many newest generations of a record stay.
        max_generations: Option<u64>,
        /// A version stays for so long after the next one was written; whole milliseconds count.
        max_age: Option<Duration>,
    },
    /// Nothing is removed any more, for this reason.
    Hold(String),
    /// The hold ends; the limits rule again.
    Release,
}

impl RetentionChange {
    fn to_proto(&self) -> proto::set_retention_request::Change {
        use proto::set_retention_request::Change;
        match self {
            RetentionChange::Limits { max_generations, max_age } => Change::Limits(proto::RetentionLimits {
                max_generations: max_generations.unwrap_or(0),
                max_age_ms: max_age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            }),
            RetentionChange::Hold(reason) => Change::Hold(reason.clone()),
            RetentionChange::Release => Change::Release(true),
        }
    }
}

impl Client {
    /// Creates a collection together with its first data key.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`] when the name is taken, [`Error::Invalid`] for a name that is not allowed.
    pub async fn create_collection(&self, new: CreateCollection) -> Result<proto::CollectionInfo, Error> {
        let build = |id| proto::CreateCollectionRequest {
            request: Some(id),
            name: new.name.clone(),
            max_value_bytes: new.max_value_bytes,
            key_style: new.key_style.into(),
            owner: new.owner.clone(),
            label: new.label.clone(),
        };
        let send = |channel, request| async move { CollectionsClient::new(channel).create(request).await };
        let (reply, header, _): (proto::CreateCollectionResponse, _, _) = self.write(build, send).await?;
        reply.collection.ok_or_else(|| {
            let message = format!("create collection {}: node {} answered without it", new.name, header.node);
            Error::Internal(Details::new(Reason::Internal, message))
        })
    }

    /// Changes how long a collection keeps versions, and returns it as it is then.
    ///
    /// # Errors
    /// [`Error::NotFound`] for a collection that is not there, [`Error::Invalid`] for a hold without a reason, or while
    /// there is a hold for another one.
    pub async fn set_retention(&self, name: &str, change: RetentionChange) -> Result<proto::CollectionInfo, Error> {
        let build = |id| proto::SetRetentionRequest {
            request: Some(id),
            collection: name.to_owned(),
            change: Some(change.to_proto()),
        };
        let send = |channel, request| async move { CollectionsClient::new(channel).set_retention(request).await };
        let (reply, header, _): (proto::SetRetentionResponse, _, _) = self.write(build, send).await?;
        reply.collection.ok_or_else(|| {
            let message = format!("retention of collection {name}: node {} answered without it", header.node);
            Error::Internal(Details::new(Reason::Internal, message))
        })
    }

    /// All collections.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no node can serve a linearizable read.
    pub async fn collections(&self) -> Result<Reply<Vec<proto::CollectionInfo>>, Error> {
        let send = |channel, request| async move {
            CollectionsClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES).list(request).await
        };
        let (reply, header) = self.call(Plan::READ, proto::ListCollectionsRequest::default(), send).await?;
        let reply: proto::ListCollectionsResponse = reply;
        Ok(Reply::new(header, None, reply.collections))
    }
}

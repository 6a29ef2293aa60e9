//! Calls on collections.

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

//! The service `saola.v1.Records`.

use std::sync::Arc;

use saola_client::proto::records_server::Records;
use saola_client::proto::{
    BatchGetRequest, BatchGetResponse, DeleteRequest, GetRequest, GetResponse, HistoryRequest, HistoryResponse,
    ListRequest, ListResponse, PutRequest, WriteResponse,
};
use tonic::{Request, Response, Status};

use super::stream::{Answers, Streams};
use super::{admit, read, write};
use crate::node::Node;

/// Answers calls about records.
pub struct RecordsService {
    node: Arc<Node>,
    streams: Streams,
}

impl RecordsService {
    /// Of one node.
    pub fn new(node: Arc<Node>) -> RecordsService {
        RecordsService { node, streams: Streams::default() }
    }
}

#[tonic::async_trait]
impl Records for RecordsService {
    type HistoryStream = Answers<HistoryResponse>;

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<WriteResponse>, Status> {
        let deadline = admit(&self.node, request.metadata())?;
        Ok(Response::new(write::put(&self.node, request.into_inner(), deadline).await?))
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<WriteResponse>, Status> {
        let deadline = admit(&self.node, request.metadata())?;
        Ok(Response::new(write::delete(&self.node, request.into_inner(), deadline).await?))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let deadline = admit(&self.node, request.metadata())?;
        Ok(Response::new(read::get(&self.node, request.into_inner(), deadline).await?))
    }

    async fn batch_get(&self, request: Request<BatchGetRequest>) -> Result<Response<BatchGetResponse>, Status> {
        let deadline = admit(&self.node, request.metadata())?;
        Ok(Response::new(read::batch_get(&self.node, request.into_inner(), deadline).await?))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let deadline = admit(&self.node, request.metadata())?;
        Ok(Response::new(read::list(&self.node, request.into_inner(), deadline).await?))
    }

    async fn history(&self, request: Request<HistoryRequest>) -> Result<Response<Self::HistoryStream>, Status> {
        let deadline = admit(&self.node, request.metadata())?;
        Ok(Response::new(read::history(&self.node, &self.streams, request.into_inner(), deadline).await?))
    }
}

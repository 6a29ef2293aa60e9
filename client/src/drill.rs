//! Calls of a drill on the node that a client is pinned to ([`Client::at_endpoint`]).

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tonic::Status;

use crate::call::{Effect, Plan};
use crate::client::{Client, MAX_REPLY_BYTES};
use crate::error::{Error, Failure};
use crate::pool::Route;
use crate::proto::drills_client::DrillsClient;
use crate::proto::{self, trouble_request::Kind};
use crate::reason::Reason;

/// Collection of what a drill needs while it runs.
pub const WORK: &str = "saola.drill-work";
/// Record there whose value is the id of the drill that runs.
pub const LOCK: &str = "lock";

const HERE: Plan = Plan { route: Route::Any, effect: Effect::None, patient: false, guard_epoch: false };

impl Client {
    /// Has the node do this to itself, or keep it up; it ends by itself after `lasts`, at most ten seconds.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] when this drill does not run, [`Error::Invalid`] when the node cannot do it.
    pub async fn trouble(&self, drill: &str, kind: Kind, lasts: Duration) -> Result<(), Error> {
        let for_ms = u32::try_from(lasts.as_millis()).unwrap_or(u32::MAX);
        let message = proto::TroubleRequest { drill: drill.to_owned(), kind: Some(kind), for_ms };
        let send = |channel, request| async move { DrillsClient::new(channel).trouble(request).await };
        let (_, _): (proto::TroubleResponse, _) = self.call(HERE, message, send).await?;
        Ok(())
    }

    /// Ends whatever a drill does to the node; says what that was, if anything.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it does not answer.
    pub async fn end_trouble(&self) -> Result<String, Error> {
        let send = |channel, request| async move { DrillsClient::new(channel).end_trouble(request).await };
        let (reply, _): (proto::EndTroubleResponse, _) = self.call(HERE, proto::EndTroubleRequest {}, send).await?;
        Ok(reply.ended)
    }

    /// Begins to copy all records of the node, sealed as it keeps them.
    ///
    /// # Errors
    /// [`Error::NotAllowed`] when this drill does not run, [`Error::Unavailable`] when the node cannot send them now.
    pub async fn export(&self, drill: &str) -> Result<Export, Error> {
        let (node, _) = self.pool.pick(Route::Any, &[]);
        let silence = self.deadline();
        let mut client = DrillsClient::new(node.channel.clone()).max_decoding_message_size(MAX_REPLY_BYTES);
        let asked = timeout(silence, client.export(proto::ExportRequest { drill: drill.to_owned() })).await;
        let address = node.address.clone();
        match asked {
            Ok(Ok(stream)) => Ok(Export { stream: stream.into_inner(), address, silence }),
            Ok(Err(status)) => Err(refused(&status, &address)),
            Err(_) => Err(silent(&address, silence)),
        }
    }
}

/// The records of a node, as they come.
pub struct Export {
    stream: tonic::Streaming<proto::ExportResponse>,
    address: String,
    silence: Duration,
}

impl Export {
    /// The next chunk; none: the node has ended the stream, and only its last chunk says whether it is whole.
    ///
    /// # Errors
    /// The node has stopped, or has sent nothing for as long as the client's deadline.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        match timeout(self.silence, self.stream.message()).await {
            Ok(Ok(part)) => Ok(part.map(|part| part.chunk)),
            Ok(Err(status)) => Err(refused(&status, &self.address)),
            Err(_) => Err(silent(&self.address, self.silence)),
        }
    }
}

fn refused(status: &Status, address: &str) -> Error {
    Failure::from_status(status, address).into_error()
}

fn silent(address: &str, silence: Duration) -> Error {
    let text = format!("copy the records of {address}: nothing came for {} ms", silence.as_millis());
    Failure::local(Reason::NoAnswer, text).into_error()
}

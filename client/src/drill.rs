//! Calls of a drill on the node that a client is pinned to ([`Client::at_endpoint`]).

use std::time::Duration;

use crate::call::{Effect, Plan};
use crate::client::Client;
use crate::error::Error;
use crate::pool::Route;
use crate::proto::drills_client::DrillsClient;
use crate::proto::{self, trouble_request::Kind};

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
}

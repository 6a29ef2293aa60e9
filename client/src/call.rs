//! One call: attempts at one node after another until an answer stands or the deadline ends.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::client::{Client, MAX_REPLY_BYTES};
use crate::epoch::Older;
use crate::error::{Error, Failure};
use crate::pool::{Node, Route};
use crate::proto::{self, cluster_client::ClusterClient, collections_client::CollectionsClient};
use crate::reason::{Reason, Retry};
use crate::session::{Session, Ticket};
use crate::types::RequestId;

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// What an attempt whose answer was lost may have done, and so whether another may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// A change under a request id: further attempts carry the same.
    Once,
    /// A change without a request id: no further attempt.
    Change,
}

/// How a call goes about its attempts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub route: Route,
    pub effect: Effect,
    /// Give one attempt all the time there is: for changes of the cluster, which take long.
    pub patient: bool,
    /// Refuse answers of an older lineage than one already seen. Off for what shows nodes as they are.
    pub guard_epoch: bool,
}

impl Plan {
    pub const READ: Plan = Plan { route: Route::Read, effect: Effect::None, patient: false, guard_epoch: true };
    pub const WRITE: Plan = Plan { route: Route::Write, effect: Effect::Once, patient: false, guard_epoch: true };
    pub const CHANGE: Plan = Plan { route: Route::Write, effect: Effect::Change, patient: true, guard_epoch: true };
    pub const STATUS: Plan = Plan { route: Route::Any, effect: Effect::None, patient: false, guard_epoch: false };
}

/// A call that ended without an answer that stands.
pub(crate) struct Ended {
    pub failure: Failure,
    /// An attempt may have taken effect.
    pub maybe: bool,
}

impl Ended {
    pub fn into_error(self, request: Option<RequestId>) -> Error {
        if self.maybe && !self.failure.settles() {
            return Error::UnknownOutcome { request, details: self.failure.details };
        }
        self.failure.into_error()
    }
}

/// Responses that say where they stand.
pub(crate) trait Headed {
    fn header(&self) -> Option<proto::Header>;
}

macro_rules! headed {
    ($($response:ident),* $(,)?) => {
        $(impl Headed for proto::$response {
            fn header(&self) -> Option<proto::Header> {
                self.header
            }
        })*
    };
}

headed!(
    WriteResponse,
    GetResponse,
    BatchGetResponse,
    ListResponse,
    CreateCollectionResponse,
    ListCollectionsResponse,
    SetProtectionResponse,
    SetFailoverResponse,
    SetGoalResponse,
    CampaignResponse,
    SetRetentionResponse,
    InitResponse,
    StatusResponse,
    TransferResponse,
    MembershipResponse,
    DigestResponse,
    ScrubResponse,
    PlanPromotionResponse,
    ApplyPromotionResponse,
    AbandonPromotionResponse,
    FenceResponse,
    SetApproversResponse,
    EpochsResponse,
    FormerMembersResponse,
    ReinstateResponse,
    ListOrphansResponse,
    ReplayOrphansResponse,
    DiscardOrphansResponse,
    TroubleResponse,
    EndTroubleResponse,
);

/// What to report of each node's newest failure, given in the order of time: a node's own answer tells more than
/// another node's silence.
fn most_telling(failures: Vec<(Arc<Node>, Failure)>) -> Failure {
    let last = failures.into_iter().map(|(_, failure)| failure).max_by_key(Failure::weight);
    last.expect("a call ends with a failure only after one")
}

impl Client {
    /// Sends a message until an answer stands; gives it with its header. When none does, the newest failure of the node
    /// that had most to say ends the call.
    pub(crate) async fn run<M, T, F, Fut>(
        &self,
        plan: Plan,
        deadline: Instant,
        message: &M,
        send: F,
    ) -> Result<(T, proto::Header), Ended>
    where
        M: Clone,
        T: Headed,
        F: Fn(Channel, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut tried: Vec<Arc<Node>> = Vec::new();
        let mut failures: Vec<(Arc<Node>, Failure)> = Vec::new();
        let mut maybe = false;
        let mut pause = FIRST_PAUSE;
        loop {
            let (mut node, mut well) = self.pool.pick(plan.route, &tried);
            if !well && !tried.is_empty() {
                sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
                tried.clear();
                (node, well) = self.pool.pick(plan.route, &tried);
            }
            tracing::trace!(endpoint = node.address, well, "attempt");
            let failure = match self.attempt(plan, deadline, &node, message, &send).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            self.pool.failed(&node, &failure);
            maybe |= plan.effect != Effect::None && failure.retry == Retry::UnknownOutcome;
            let may_retry = match failure.retry {
                Retry::Never => false,
                Retry::Elsewhere => true,
                Retry::UnknownOutcome => plan.effect != Effect::Change,
            };
            if !may_retry || self.pool.pinned() {
                return Err(Ended { failure, maybe });
            }
            tracing::debug!(endpoint = node.address, failure = %failure.details, "attempt failed");
            failures.retain(|(earlier, _)| !Arc::ptr_eq(earlier, &node));
            failures.push((node.clone(), failure));
            tried.push(node);
            // Certificates stay what they are: when no node is left to hope for, waiting does not help.
            let distrusted = |node: &Arc<Node>| {
                failures.iter().any(|(failed, failure)| Arc::ptr_eq(failed, node) && failure.is_distrust())
            };
            if Instant::now() + LONGEST_PAUSE >= deadline || self.pool.all(plan.route, distrusted) {
                return Err(Ended { failure: most_telling(failures), maybe });
            }
        }
    }

    async fn attempt<M, T, F, Fut>(
        &self,
        plan: Plan,
        deadline: Instant,
        node: &Arc<Node>,
        message: &M,
        send: &F,
    ) -> Result<(T, proto::Header), Failure>
    where
        M: Clone,
        T: Headed,
        F: Fn(Channel, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let limit = if plan.patient || self.pool.pinned() { remaining } else { remaining.min(self.attempt_timeout()) };
        let mut request = Request::new(message.clone());
        request.set_timeout(limit);
        if plan.guard_epoch {
            self.shared.epoch.tell(request.metadata_mut());
        }
        let reply = match timeout(limit, send(node.channel.clone(), request)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => return Err(Failure::from_status(&status, &node.address)),
            Err(_) => {
                let text = format!("call {}: no answer within {} ms", node.address, limit.as_millis());
                return Err(Failure::local(Reason::NoAnswer, text));
            }
        };
        let header = reply.header().ok_or_else(|| {
            let text = format!("call {}: reply without a header", node.address);
            Failure::local(Reason::Internal, text).after_acting()
        })?;
        if let Err(Older { reason, says }) = self.shared.epoch.see(&header)
            && plan.guard_epoch
        {
            return Err(Failure::local(reason, format!("call {}: it answered in {says}", node.address)).after_acting());
        }
        if plan.guard_epoch {
            self.shared.highest_index.fetch_max(header.log_index, Ordering::Relaxed);
        }
        if self.pool.succeeded(node) {
            tokio::spawn(self.clone().refresh(node.clone()));
        }
        Ok((reply, header))
    }

    /// A call without a request id, within this client's deadline.
    pub(crate) async fn call<M, T, F, Fut>(&self, plan: Plan, message: M, send: F) -> Result<(T, proto::Header), Error>
    where
        M: Clone,
        T: Headed,
        F: Fn(Channel, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.run(plan, self.deadline_from_now(), &message, send).await.map_err(|ended| ended.into_error(None))
    }

    /// A call that takes effect once; `build` makes its message from the request id.
    pub(crate) async fn write<M, T, F, Fut>(
        &self,
        build: impl Fn(proto::RequestId) -> M,
        send: F,
    ) -> Result<(T, proto::Header, RequestId), Error>
    where
        M: Clone,
        T: Headed,
        F: Fn(Channel, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = self.deadline_from_now();
        let mut renewed = false;
        loop {
            let ticket = self.ticket(deadline).await?;
            let message = build(ticket.to_proto());
            let ended = match self.run(Plan::WRITE, deadline, &message, &send).await {
                Ok((reply, header)) => return Ok((reply, header, ticket.id())),
                Err(ended) => ended,
            };
            // The cluster has forgotten this session. Sent for the first time, the call was certainly not applied.
            if !ended.failure.is(Reason::RequestExpired) || ended.maybe || renewed {
                return Err(ended.into_error(Some(ticket.id())));
            }
            self.forget_session(&ticket).await;
            renewed = true;
        }
    }

    /// Opens the next call of the session; learns a log index first if none was seen yet.
    async fn ticket(&self, deadline: Instant) -> Result<Ticket, Error> {
        let mut session = self.shared.session.lock().await;
        if let Some(session) = session.as_ref() {
            return Ok(session.open());
        }
        if self.shared.highest_index.load(Ordering::Relaxed) == 0 {
            self.learn_index(deadline).await.map_err(|ended| ended.into_error(None))?;
        }
        let since = self.shared.highest_index.load(Ordering::Relaxed);
        Ok(session.insert(Session::new(rand::random(), since)).open())
    }

    async fn forget_session(&self, ticket: &Ticket) {
        let mut session = self.shared.session.lock().await;
        if session.as_ref().is_some_and(|session| ticket.is_of(session)) {
            *session = None;
            // The next session begins at an index that is read anew, above the cluster's floor.
            self.shared.highest_index.store(0, Ordering::Relaxed);
        }
    }

    /// A linearizable read, for the log index in its header.
    async fn learn_index(&self, deadline: Instant) -> Result<(), Ended> {
        let message = proto::ListCollectionsRequest::default();
        self.run(Plan::READ, deadline, &message, |channel, request| async move {
            CollectionsClient::new(channel).max_decoding_message_size(MAX_REPLY_BYTES).list(request).await
        })
        .await
        .map(|(_, _): (proto::ListCollectionsResponse, _)| ())
    }

    /// Asks a node for the members and the leader.
    async fn refresh(self, node: Arc<Node>) {
        let mut request = Request::new(proto::StatusRequest { local: true });
        request.set_timeout(self.attempt_timeout());
        let mut cluster = ClusterClient::new(node.channel.clone());
        match timeout(self.attempt_timeout(), cluster.status(request)).await {
            Ok(Ok(status)) => self.pool.learn(status.get_ref()),
            Ok(Err(status)) => {
                tracing::debug!(endpoint = node.address, %status, "members not learnt")
            }
            Err(_) => tracing::debug!(endpoint = node.address, "members not learnt: no answer"),
        }
    }
}

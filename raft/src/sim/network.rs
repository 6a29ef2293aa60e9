//! A network in memory: delays and cuts that the seed decides. Messages go through their real encoding.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, Either, select};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use prost::Message;
use saola_storage::types::NodeId;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::clock::truly;
use super::runtime::{SimRuntime, random_u64, spawn_on};
use crate::peer::PeerService;
use crate::transport::{Caller, Lane, PeerAddress, Transport, TransportError};
use crate::wire::{AppendReply, AppendRequest, FetchPart, FetchReply, FetchRequest, PeerReply, PeerRequest};

/// Messages of one direction of a stream that are under way.
const IN_FLIGHT: usize = 64;

/// A connection that loses messages is closed after so long, as keep-alives do.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// What befalls messages on all links, in thousandths of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weather {
    /// Take up to a second longer, as when TCP sends again what was lost.
    pub late_per_mille: u64,
    /// Are lost, and the connection is closed at once.
    pub reset_per_mille: u64,
    /// Calls that arrive twice; the second answer counts.
    pub repeated_per_mille: u64,
    /// Messages that are larger are lost, and all behind them on their connection; 0: none. A path whose MTU is smaller than
    /// its ends believe: heartbeats pass.
    pub lost_above_bytes: u64,
    /// What a link carries; 0: any number.
    pub bytes_per_s: u64,
}

fn befalls(per_mille: u64) -> bool {
    // Fair weather draws nothing, so that it does not depend on what befalls others.
    per_mille > 0 && random_u64() % 1_000 < per_mille
}

/// A message was lost, and the connection with it.
struct Lost;

/// Connects all nodes of a simulation.
#[derive(Default)]
pub struct SimNetwork {
    state: Mutex<State>,
}

/// A machine that answers.
#[derive(Clone)]
struct Machine {
    /// Whose certificate it shows.
    certified: String,
    service: PeerService<SimRuntime>,
}

#[derive(Default)]
struct State {
    services: BTreeMap<NodeId, Machine>,
    cuts: BTreeSet<(NodeId, NodeId)>,
    /// What messages take beyond the usual, by sender and receiver.
    delays: BTreeMap<(NodeId, NodeId), Duration>,
    /// When a link that carries little has carried all that was sent over it.
    busy: BTreeMap<(NodeId, NodeId), Instant>,
    fetched: BTreeMap<(NodeId, NodeId), Fetched>,
    weather: Weather,
    befallen: Befallen,
}

/// How many messages were befallen by what, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Befallen {
    /// Came late.
    pub late: u64,
    /// Were lost with their connection.
    pub reset: u64,
    /// Arrived twice.
    pub repeated: u64,
    /// Were too large.
    pub large: u64,
}

/// What a node has sent of its records to another one so far over connections that were up, whether or not it arrived.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Exports, by their ids.
    pub exports: BTreeSet<Vec<u8>>,
    /// Streams: one more than there were cuts.
    pub streams: u64,
    /// Chunks; those that were sent again count again.
    pub chunks: u64,
}

impl SimNetwork {
    /// A network without nodes.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Address under which a node is reached.
    pub fn address(node: NodeId) -> String {
        format!("sim:{node}")
    }

    /// One machine's way into the network, with the certificate of the node called `name`.
    pub fn transport(self: &Arc<Self>, node: NodeId, name: &str) -> SimTransport {
        SimTransport { network: self.clone(), node, name: name.to_owned() }
    }

    /// A node answers from now on, with the certificate of the node called `name`.
    pub fn connect(&self, node: NodeId, name: &str, service: PeerService<SimRuntime>) {
        self.state.lock().services.insert(node, Machine { certified: name.to_owned(), service });
    }

    /// A node answers no more.
    pub fn disconnect(&self, node: NodeId) {
        self.state.lock().services.remove(&node);
    }

    /// Messages from `from` to `to` are lost from now on.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        self.state.lock().cuts.insert((from, to));
    }

    /// They are not any more.
    pub fn join(&self, from: NodeId, to: NodeId) {
        self.state.lock().cuts.remove(&(from, to));
    }

    /// Messages from `from` to `to` take so much longer from now on.
    pub fn delay(&self, from: NodeId, to: NodeId, by: Duration) {
        self.state.lock().delays.insert((from, to), by);
    }

    /// What befalls messages from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.state.lock().weather = weather;
    }

    /// What has befallen messages so far.
    pub fn befallen(&self) -> Befallen {
        self.state.lock().befallen
    }

    /// No message is lost from now on.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.cuts.clear();
        state.busy.clear();
        state.weather = Weather::default();
    }

    /// All links take the usual time.
    pub fn hurry(&self) {
        self.state.lock().delays.clear();
    }

    fn is_reset(&self) -> bool {
        let mut state = self.state.lock();
        let is_reset = befalls(state.weather.reset_per_mille);
        state.befallen.reset += u64::from(is_reset);
        is_reset
    }

    fn is_repeated(&self) -> bool {
        let mut state = self.state.lock();
        let is_repeated = befalls(state.weather.repeated_per_mille);
        state.befallen.repeated += u64::from(is_repeated);
        is_repeated
    }

    /// What `from` has sent of its records to `to`.
    pub fn fetched(&self, from: NodeId, to: NodeId) -> Fetched {
        self.state.lock().fetched.get(&(from, to)).cloned().unwrap_or_default()
    }

    fn count(&self, from: NodeId, to: NodeId, reply: &FetchReply) {
        let mut state = self.state.lock();
        let fetched = state.fetched.entry((from, to)).or_default();
        match &reply.part {
            Some(FetchPart::Began(id)) => {
                fetched.exports.insert(id.to_vec());
                fetched.streams += 1;
            }
            Some(FetchPart::Chunk(_)) => fetched.chunks += 1,
            _ => {}
        }
    }

    /// Whether messages from `from` to `to` are lost.
    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.state.lock().cuts.contains(&(from, to))
    }

    /// Who answers there, if its certificate is the right one.
    fn service(&self, node: NodeId, to: &PeerAddress) -> Result<PeerService<SimRuntime>, TransportError> {
        let machine = self.state.lock().services.get(&node).cloned();
        let machine = machine.ok_or_else(|| unreachable(to, "connection refused"))?;
        match machine.certified == to.name {
            true => Ok(machine.service),
            false => Err(unreachable(to, "the certificate is another node's")),
        }
    }

    /// When a message that is sent now arrives; none: never.
    fn arrival(&self, from: NodeId, to: NodeId, message: &impl Message) -> Option<Instant> {
        let mut state = self.state.lock();
        let Weather { lost_above_bytes, bytes_per_s, .. } = state.weather;
        let bytes = if lost_above_bytes + bytes_per_s > 0 { message.encoded_len() as u64 } else { 0 };
        if lost_above_bytes > 0 && bytes > lost_above_bytes {
            state.befallen.large += 1;
            return None;
        }
        let mut by = state.delays.get(&(from, to)).copied().unwrap_or_default();
        if let Some(us) = (bytes * 1_000_000).checked_div(bytes_per_s) {
            let now = Instant::now();
            let free_at = state.busy.get(&(from, to)).map_or(now, |at| now.max(*at));
            let free_at = free_at + Duration::from_micros(us);
            state.busy.insert((from, to), free_at);
            by += free_at - now;
        }
        if befalls(state.weather.late_per_mille) {
            by += Duration::from_micros(random_u64() % 1_000_000);
            state.befallen.late += 1;
        }
        Some(Instant::now() + by + Duration::from_micros(100 + random_u64() % 2_000))
    }

    /// Delays a message; when it is lost on the way, its connection ends after a while.
    async fn travel(&self, from: NodeId, to: NodeId, message: &impl Message) -> Result<(), Lost> {
        self.arrive(from, to, self.arrival(from, to, message)).await
    }

    async fn arrive(&self, from: NodeId, to: NodeId, at: Option<Instant>) -> Result<(), Lost> {
        if let Some(at) = at {
            tokio::time::sleep_until(at).await;
        }
        if self.is_reset() {
            return Err(Lost);
        }
        if at.is_none() || self.is_cut(from, to) {
            tokio::time::sleep(KEEP_ALIVE).await;
            return Err(Lost);
        }
        Ok(())
    }
}

/// [`Transport`] of one simulated node.
pub struct SimTransport {
    network: Arc<SimNetwork>,
    node: NodeId,
    name: String,
}

impl SimTransport {
    fn caller(&self) -> Caller {
        Caller::certified(vec![self.name.clone()])
    }
}

fn node_of(address: &PeerAddress) -> NodeId {
    address.address.strip_prefix("sim:").and_then(|id| id.parse().ok()).unwrap_or(0)
}

fn unreachable(to: &PeerAddress, reason: &str) -> TransportError {
    TransportError::Unreachable { peer: to.name.clone(), reason: reason.into() }
}

fn broken(to: &PeerAddress, reason: &str) -> TransportError {
    TransportError::Broken { peer: to.name.clone(), reason: reason.into() }
}

/// Through the bytes and back: what cannot be encoded and decoded cannot be sent.
fn through_bytes<M: Message + Default>(message: &M) -> M {
    M::decode(message.encode_to_vec().as_slice()).expect("a message decodes from its own encoding")
}

/// Moves a stream's messages one way, in order and many at a time, until either end is gone.
fn pump<M: Message + Default + 'static>(
    network: Arc<SimNetwork>,
    from: NodeId,
    to: NodeId,
    mut messages: impl Stream<Item = M> + Send + Unpin + 'static,
) -> mpsc::Receiver<M> {
    let (sender, receiver) = mpsc::channel(1);
    let (under_way, mut arriving) = mpsc::channel(IN_FLIGHT);
    let sending = network.clone();
    spawn_on(from, async move {
        // A connection that has died takes no more messages from whoever would send them.
        while let Either::Left((Some(message), _)) = select(messages.next(), pin!(under_way.closed())).await {
            if under_way.send((sending.arrival(from, to, &message), message)).await.is_err() {
                return;
            }
        }
    });
    spawn_on(from, async move {
        while let Some((at, message)) = arriving.recv().await {
            if network.arrive(from, to, at).await.is_err() || sender.send(through_bytes(&message)).await.is_err() {
                return;
            }
        }
    });
    receiver
}

impl Transport for SimTransport {
    fn call(
        &self,
        to: &PeerAddress,
        _lane: Lane,
        request: PeerRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<PeerReply, TransportError>> {
        let (network, from, to, caller) = (self.network.clone(), self.node, to.clone(), self.caller());
        Box::pin(async move {
            let target = node_of(&to);
            let exchange = async {
                network.travel(from, target, &request).await.map_err(|Lost| broken(&to, "the connection died"))?;
                let service = network.service(target, &to)?;
                let request = through_bytes(&request);
                if network.is_repeated() {
                    let (service, caller, request) = (service.clone(), caller.clone(), request.clone());
                    spawn_on(target, async move { service.call(&caller, request).await });
                }
                let reply = spawn_on(target, async move { service.call(&caller, request).await })
                    .await
                    .map_err(|_| broken(&to, "the peer crashed"))?;
                network.travel(target, from, &reply).await.map_err(|Lost| broken(&to, "the connection died"))?;
                Ok(through_bytes(&reply))
            };
            match tokio::time::timeout(truly(timeout), exchange).await {
                Ok(result) => result,
                Err(_) => Err(broken(&to, "no answer in time")),
            }
        })
    }

    fn append(
        &self,
        to: &PeerAddress,
        requests: BoxStream<'static, AppendRequest>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<AppendReply, TransportError>>, TransportError>> {
        let (network, from, to, caller) = (self.network.clone(), self.node, to.clone(), self.caller());
        Box::pin(async move {
            let target = node_of(&to);
            network.travel(from, target, &()).await.map_err(|Lost| broken(&to, "the connection died"))?;
            let service = network.service(target, &to)?;
            let arriving = ReceiverStream::new(pump(network.clone(), from, target, requests)).boxed();
            let (replies, answered) = mpsc::channel(IN_FLIGHT);
            spawn_on(target, async move {
                let mut answers = service.append(caller, arriving).await;
                while let Some(answer) = answers.next().await {
                    if replies.send(answer).await.is_err() {
                        return;
                    }
                }
            });
            let back = pump(network, target, from, ReceiverStream::new(answered));
            Ok(ReceiverStream::new(back).map(Ok).boxed())
        })
    }

    fn fetch(
        &self,
        to: &PeerAddress,
        request: FetchRequest,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<FetchReply, TransportError>>, TransportError>> {
        let (network, from, to, caller) = (self.network.clone(), self.node, to.clone(), self.caller());
        Box::pin(async move {
            let target = node_of(&to);
            network.travel(from, target, &request).await.map_err(|Lost| broken(&to, "the connection died"))?;
            let service = network.service(target, &to)?;
            let request = through_bytes(&request);
            let (replies, answered) = mpsc::channel(IN_FLIGHT);
            let counting = network.clone();
            spawn_on(target, async move {
                let mut answers = service.fetch(&caller, request).await;
                while let Some(answer) = answers.next().await {
                    if replies.send(answer.clone()).await.is_err() {
                        return;
                    }
                    counting.count(target, from, &answer);
                }
            });
            let back = pump(network, target, from, ReceiverStream::new(answered));
            Ok(ReceiverStream::new(back).map(Ok).boxed())
        })
    }
}

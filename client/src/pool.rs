//! The nodes that a client knows: one lazy connection each, learnt members, and the choice of the next to ask.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::SERVER_NAME;
use crate::client::Tls;
use crate::error::{Error, Failure};
use crate::proto::{Role, StatusResponse};
use crate::reason::Reason;

const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a node that failed once is left alone; doubled with each further failure up to the longest.
const FIRST_PENALTY: Duration = Duration::from_millis(200);
const LONGEST_PENALTY: Duration = Duration::from_secs(5);
/// Members and leader are asked for again after so long, when there are calls at all.
const REFRESH_AFTER: Duration = Duration::from_secs(5);

/// Which node a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Any data node, in turn.
    Read,
    /// The leader when known: other data nodes would pass the write on to it.
    Write,
    /// Any node, also one that keeps no records.
    Any,
}

/// Makes connections; shared by a client and those pinned from it.
#[derive(Clone)]
pub(crate) struct Connector {
    tls: ClientTlsConfig,
}

impl Connector {
    pub fn new(tls: &Tls) -> Connector {
        let tls = ClientTlsConfig::new()
            .domain_name(SERVER_NAME)
            .ca_certificate(Certificate::from_pem(&tls.ca_pem))
            .identity(Identity::from_pem(&tls.cert_pem, &tls.key_pem));
        Connector { tls }
    }

    /// A connection that is made when first used.
    fn connect(&self, address: &str) -> Result<Channel, Error> {
        let bad = |what: &dyn std::fmt::Display| {
            Error::invalid(format!("endpoint {address:?}: {what}; endpoints are host:port, as in 127.0.0.1:7001"))
        };
        if address.contains('/') || !address.contains(':') {
            return Err(bad(&"not host:port"));
        }
        let endpoint = Endpoint::from_shared(format!("https://{address}")).map_err(|error| bad(&error))?;
        let endpoint = endpoint.tls_config(self.tls.clone()).map_err(|error| {
            let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            Error::invalid(format!("client TLS settings: {cause}; check the CA, certificate and key files (PEM)"))
        })?;
        Ok(endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .connect_lazy())
    }
}

/// One node as the client sees it.
pub(crate) struct Node {
    pub address: String,
    pub channel: Channel,
    configured: bool,
    keeps_no_records: AtomicBool,
    health: Mutex<Health>,
}

#[derive(Default)]
struct Health {
    failures: u32,
    left_alone_until: Option<Instant>,
}

impl Node {
    fn new(address: String, channel: Channel, configured: bool) -> Arc<Node> {
        Arc::new(Node {
            address,
            channel,
            configured,
            keeps_no_records: AtomicBool::new(false),
            health: Mutex::default(),
        })
    }

    fn health(&self) -> std::sync::MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When it may be asked again; none when it is well.
    fn left_alone_until(&self, now: Instant) -> Option<Instant> {
        self.health().left_alone_until.filter(|until| *until > now)
    }
}

/// The nodes of one client.
pub(crate) struct Pool {
    connector: Connector,
    nodes: RwLock<Vec<Arc<Node>>>,
    leader: Mutex<Option<String>>,
    turn: AtomicUsize,
    /// Pinned pools neither learn nor fail over.
    pinned: bool,
    refreshed: Mutex<Option<Instant>>,
}

impl Pool {
    pub fn new(connector: Connector, addresses: &[String], pinned: bool) -> Result<Pool, Error> {
        let mut nodes = Vec::new();
        for address in addresses {
            nodes.push(Node::new(address.clone(), connector.connect(address)?, true));
        }
        if nodes.is_empty() {
            return Err(Error::invalid("build client: no endpoints; give at least one as host:port"));
        }
        Ok(Pool {
            connector,
            nodes: RwLock::new(nodes),
            leader: Mutex::default(),
            // Clients that start together begin at different nodes.
            turn: AtomicUsize::new(rand::random::<u16>().into()),
            pinned,
            refreshed: Mutex::default(),
        })
    }

    pub fn pinned(&self) -> bool {
        self.pinned
    }

    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    pub fn addresses(&self) -> Vec<String> {
        self.nodes().iter().map(|node| node.address.clone()).collect()
    }

    fn nodes(&self) -> Vec<Arc<Node>> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn leader(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nodes that may be asked: not those that keep no records when others are known, unless any node will do.
    fn candidates(&self, route: Route) -> Vec<Arc<Node>> {
        let mut nodes = self.nodes();
        if route != Route::Any && nodes.iter().any(|node| !node.keeps_no_records.load(Ordering::Relaxed)) {
            nodes.retain(|node| !node.keeps_no_records.load(Ordering::Relaxed));
        }
        nodes
    }

    /// True when it holds for every node that may be asked.
    pub fn all(&self, route: Route, holds: impl Fn(&Arc<Node>) -> bool) -> bool {
        self.candidates(route).iter().all(holds)
    }

    /// The node to ask next: one that is well and was not just tried; else the one that may be asked again first.
    /// The flag says whether it is well, so that there is no need to wait before asking it.
    pub fn pick(&self, route: Route, tried: &[Arc<Node>]) -> (Arc<Node>, bool) {
        let now = Instant::now();
        let mut nodes = self.candidates(route);
        let fresh = |node: &Arc<Node>| {
            node.left_alone_until(now).is_none() && !tried.iter().any(|tried| Arc::ptr_eq(tried, node))
        };
        if route == Route::Write {
            let leader = self.leader().clone();
            let leader = nodes.iter().find(|node| Some(&node.address) == leader.as_ref());
            if let Some(leader) = leader.filter(|node| fresh(node)) {
                return (leader.clone(), true);
            }
        }
        let start = self.turn.fetch_add(1, Ordering::Relaxed) % nodes.len();
        nodes.rotate_left(start);
        if let Some(node) = nodes.iter().find(|node| fresh(node)) {
            return (node.clone(), true);
        }
        let node = nodes.iter().min_by_key(|node| node.left_alone_until(now)).expect("a pool has a node");
        (node.clone(), false)
    }

    /// Notes an answer. True when it is time to ask for the members again.
    pub fn succeeded(&self, node: &Node) -> bool {
        *node.health() = Health::default();
        if self.pinned {
            return false;
        }
        let mut refreshed = self.refreshed.lock().unwrap_or_else(PoisonError::into_inner);
        let due = refreshed.is_none_or(|at| at.elapsed() >= REFRESH_AFTER);
        if due {
            *refreshed = Some(Instant::now());
        }
        due
    }

    /// Notes a failure: the node is left alone for a while, and is not taken for the leader any more.
    pub fn failed(&self, node: &Node, failure: &Failure) {
        if failure.is(Reason::Witness) {
            node.keeps_no_records.store(true, Ordering::Relaxed);
        }
        let mut health = node.health();
        let penalty = FIRST_PENALTY.saturating_mul(1 << health.failures.min(8)).min(LONGEST_PENALTY);
        health.failures = health.failures.saturating_add(1);
        health.left_alone_until = Some(Instant::now() + penalty);
        drop(health);
        let mut leader = self.leader();
        if leader.as_ref() == Some(&node.address) {
            *leader = None;
            // Whoever answers next is asked who leads now.
            *self.refreshed.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// Takes over the members and the leader that a node told of. Configured endpoints stay, also when they are not
    /// among the members: they may be names for them.
    pub fn learn(&self, status: &StatusResponse) {
        let members: HashMap<&str, bool> = status
            .nodes
            .iter()
            .filter_map(|node| node.member.as_ref())
            .filter(|member| !member.client_address.is_empty())
            .map(|member| (member.client_address.as_str(), member.role() == Role::Witness))
            .collect();
        if members.is_empty() {
            return;
        }
        let mut nodes = self.nodes.write().unwrap_or_else(PoisonError::into_inner);
        nodes.retain(|node| node.configured || members.contains_key(node.address.as_str()));
        for (&address, &witness) in &members {
            if let Some(node) = nodes.iter().find(|node| node.address == address) {
                node.keeps_no_records.store(witness, Ordering::Relaxed);
                continue;
            }
            match self.connector.connect(address) {
                Ok(channel) if !witness => nodes.push(Node::new(address.to_owned(), channel, false)),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(address, %error, "member's client address cannot be used")
                }
            }
        }
        drop(nodes);
        let leader = status.nodes.iter().filter_map(|node| node.member.as_ref());
        let leader = leader.filter(|member| member.node_id == status.leader && member.role() != Role::Witness);
        *self.leader() = leader.map(|member| member.client_address.clone()).next();
    }
}

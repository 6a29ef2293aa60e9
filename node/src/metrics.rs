//! What Prometheus scrapes, and the probes. The table of metrics stands in the crate's README; a test compares.
//!
//! Labels carry names of methods, codes and node ids, never ids or values of records.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::routing::get;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tonic::codegen::http;

use saola_raft::protection::State;
use saola_raft::round_trips::RoundTrip;
use saola_storage::protection::WaitsFor;

use crate::node::Node;
use crate::process;

/// What a request was and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    method: String,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PeerLabel {
    node: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: String,
}

/// Times of client calls. Clones share them.
#[derive(Clone)]
pub struct Requests(Family<Labels, Histogram>);

impl Default for Requests {
    fn default() -> Self {
        // 100 µs to about 13 s, doubling.
        Self(Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.0001, 2.0, 18))))
    }
}

impl Requests {
    /// Measures every call that passes.
    pub fn layer(&self) -> RequestsLayer {
        RequestsLayer(self.clone())
    }
}

/// See [`Requests::layer`].
#[derive(Clone)]
pub struct RequestsLayer(Requests);

impl<S> tower::Layer<S> for RequestsLayer {
    type Service = Timed<S>;

    fn layer(&self, inner: S) -> Timed<S> {
        Timed { inner, requests: self.0.clone() }
    }
}

/// A service whose calls are timed.
#[derive(Clone)]
pub struct Timed<S> {
    inner: S,
    requests: Requests,
}

impl<S, In, Out> tower::Service<http::Request<In>> for Timed<S>
where
    S: tower::Service<http::Request<In>, Response = http::Response<Out>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<In>) -> Self::Future {
        let started = Instant::now();
        // Unknown paths share one label, so that a caller cannot fill the memory with labels.
        let method = match request.uri().path().strip_prefix("/saola.v1.") {
            Some(method) if method.len() < 64 => method.to_owned(),
            _ => "other".to_owned(),
        };
        let requests = self.requests.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            let code = match &answer {
                // A refused call has its code in the headers; one that succeeds has it in the trailers, as 0.
                Ok(response) => match response.headers().get("grpc-status").and_then(|code| code.to_str().ok()) {
                    Some(code) => code.to_owned(),
                    None => "0".to_owned(),
                },
                Err(_) => "broken".to_owned(),
            };
            let known = code != "12";
            let method = if known { method } else { "other".to_owned() };
            requests.0.get_or_create(&Labels { method, code }).observe(started.elapsed().as_secs_f64());
            answer
        })
    }
}

/// `/metrics`, `/livez` and `/readyz` over plain HTTP.
pub fn router(node: Arc<Node>, requests: Requests) -> Router {
    let scraped = node.clone();
    let metrics = move || {
        let text = render(&scraped, &requests);
        async move {
            match text {
                Ok(text) => {
                    Ok(([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text))
                }
                Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
            }
        }
    };
    let ready = move || {
        let answer = match node.not_ready() {
            None => (StatusCode::OK, "ready\n".to_owned()),
            Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        };
        async move { answer }
    };
    Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
}

/// All metrics as text.
///
/// # Errors
/// When a value cannot be formatted.
pub fn render(node: &Node, requests: &Requests) -> Result<String, std::fmt::Error> {
    let status = node.replica().status();
    let ring = node.ring();
    let counts = node.store().view().counts();
    let mut registry = Registry::with_prefix("saola");
    let mut gauge = |name: &str, help: &str, value: u64| {
        registry.register(name, help, ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)));
    };
    gauge("raft_term", "Raft's term", status.term);
    gauge("raft_leader", "1 on the leader", u64::from(status.state == "leader"));
    gauge("raft_has_leader", "1 where a leader is known", u64::from(status.leader.is_some()));
    gauge("raft_committed_index", "Highest log index known to be committed", status.committed_index);
    gauge("raft_applied_index", "Highest log index in the state machine", status.applied_index);
    gauge("raft_frontier_index", "Highest log index that may be shown", status.frontier_index);
    gauge("store_revision", "Store-wide revision", status.revision);
    gauge("store_records", "Live records", counts.records);
    gauge("store_versions", "Kept versions", counts.versions);
    gauge("disk_free_bytes", "Free bytes on the log's disk", status.disk_free_bytes);
    gauge("data_bytes", "Bytes of records on disk", status.data_bytes);
    gauge("sealed", "1 when the node cannot open its keys", u64::from(ring.sealed().is_some()));
    gauge("keys_open", "Data keys that are open", ring.open_count() as u64);
    gauge("keys_total", "Data keys in the key ring", ring.total() as u64);
    gauge(
        "writes_refused",
        "1 when the node takes no writes because of a disk",
        u64::from(status.writes_refused.is_some()),
    );
    gauge("disk_hangs", "1 while the log's disk completes no writes", u64::from(status.disk_hangs.is_some()));
    gauge(
        "quarantined_buckets",
        "Buckets of the records, of 4096, that this node does not serve",
        status.scrub.quarantined_buckets,
    );
    gauge("scrub_running", "1 while all rows are being read", u64::from(status.scrub.running.is_some()));
    gauge(
        "scrub_read_bytes",
        "Bytes that the running scrub has read",
        status.scrub.running.map_or(0, |(read, _)| read),
    );
    gauge("process_resident_bytes", "Resident memory", process::rss_bytes());
    let protection = status.protection.as_ref();
    let seen = protection.and_then(|protection| protection.seen);
    gauge(
        "protection_gate_closed",
        "1 while acknowledgements wait for another site",
        protection.is_some_and(|protection| protection.replicated.is_closed()).into(),
    );
    gauge(
        "protection_waits_for_witness",
        "1 while the witness stands in for a site that has lost its votes",
        protection.is_some_and(|protection| protection.replicated.waits_for == WaitsFor::Witness).into(),
    );
    gauge(
        "voters_without_vote",
        "Members whose votes were taken because their site was lost, and not given back yet",
        status.members.iter().filter(|it| it.demoted).count() as u64,
    );
    gauge(
        "protection_losses",
        "Times within the last hour that another site was given up",
        protection.map_or(0, |protection| protection.losses.into()),
    );
    gauge(
        "protection_open_in_quarter_ms",
        "Milliseconds of this quarter of the year in which acknowledgements waited for no other site",
        protection.map_or(0, |protection| protection.open_in_quarter_ms),
    );
    gauge(
        "protection_in_force",
        "On the leader: 1 while all that is acknowledged is at another site",
        seen.is_some_and(|seen| seen.is_in_force).into(),
    );
    gauge(
        "protection_acknowledged_ago_ms",
        "On the leader: milliseconds since the newest acknowledgement by another site was asked for",
        seen.map_or(0, |seen| seen.acknowledged_ms),
    );
    gauge(
        "protection_missing_revisions",
        "On the leader: revisions that no data node of another site is known to have",
        seen.and_then(|seen| seen.missing).map_or(0, |missing| missing.revisions),
    );
    gauge(
        "protection_missing_known",
        "On the leader: 1 where it has heard what other sites have; else the figure before this says nothing",
        seen.is_some_and(|seen| seen.missing.is_some()).into(),
    );
    gauge(
        "failover_held",
        "1 while no other site takes over by itself",
        status.failover.as_ref().is_some_and(|failover| failover.held.is_some()).into(),
    );
    gauge(
        "failover_held_back",
        "1 while a site is lost and this voter does not campaign for it",
        status.failover.as_ref().is_some_and(|failover| failover.held_back.is_some()).into(),
    );
    let state = Family::<StateLabel, Gauge>::default();
    for each in State::ALL {
        let is_in = seen.is_some_and(|seen| seen.state == each);
        state.get_or_create(&StateLabel { state: each.as_str().to_owned() }).set(is_in.into());
    }
    registry.register("protection_state", "On the leader, by state: 1 for the one that the sites are in", state);
    registry.register(
        "certificate_expires_in_seconds",
        "Time until the node's certificate ends",
        ConstGauge::new(node.certificate_expires_in_s()),
    );
    registry.register(
        "store_versions_removed",
        "Versions that policy has removed since the cluster was made",
        ConstCounter::new(counts.removed),
    );
    registry.register("log_syncs", "Syncs of the log since the start", ConstCounter::new(status.log_syncs));
    registry.register("scrub_passes", "Scrubs that came to their end", ConstCounter::new(status.scrub.passes));
    registry.register(
        "scrub_damaged_rows",
        "Damaged rows that scrubs and reads met",
        ConstCounter::new(status.scrub.damaged_rows),
    );
    registry.register(
        "scrub_repairs",
        "Times that the copy of the records was replaced",
        ConstCounter::new(status.scrub.repairs),
    );
    let lag = Family::<PeerLabel, Gauge>::default();
    for (peer, matched) in &status.replication {
        let behind = status.last_log_index.saturating_sub(*matched);
        lag.get_or_create(&PeerLabel { node: *peer }).set(i64::try_from(behind).unwrap_or(i64::MAX));
    }
    let (p50, p99) = (Family::<PeerLabel, Gauge>::default(), Family::<PeerLabel, Gauge>::default());
    let itself = [(node.id(), RoundTrip::default())];
    for (peer, trip) in status.round_trips.iter().chain(&itself).filter(|_| status.state == "leader") {
        for (family, us) in [(&p50, trip.p50_us), (&p99, trip.p99_us)] {
            family.get_or_create(&PeerLabel { node: *peer }).set(i64::try_from(us).unwrap_or(i64::MAX));
        }
    }
    registry.register("peer_round_trip_p50_us", "On the leader: half of the heartbeats were answered within this", p50);
    registry.register("peer_round_trip_p99_us", "On the leader: 99 of 100 heartbeats were answered within this", p99);
    registry.register("peer_matched_lag", "On the leader: log entries that a node has not flushed", lag);
    registry.register_with_unit("request", "Time of a client call", Unit::Seconds, requests.0.clone());
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

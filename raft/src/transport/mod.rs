//! How peers reach each other: a trait with two daily users, gRPC (`tonic`) and the simulated network.
//!
//! Both move the same encoded messages of `wire`.

use std::fmt;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::wire::{AppendReply, AppendRequest, FetchReply, FetchRequest, PeerReply, PeerRequest};

#[cfg(feature = "tonic")]
pub mod cut;
#[cfg(feature = "tonic")]
mod tls;
#[cfg(feature = "tonic")]
pub mod tonic;

/// Where a peer is and who must answer there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    /// host:port.
    pub address: String,
    /// Name that its certificate must carry.
    pub name: String,
}

/// Who calls: the names of nodes that the certificate of its connection carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller(Vec<String>);

impl Caller {
    /// A caller whose certificate was checked and carries these names of nodes.
    pub fn certified(names: Vec<String>) -> Self {
        Self(names)
    }

    /// Whether the certificate is that of the node called `name`.
    pub fn is(&self, name: &str) -> bool {
        self.0.iter().any(|certified| certified == name)
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" or "))
    }
}

/// Kinds of traffic that must not hold each other up; each has a connection of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Entries, proposals, reads.
    Append,
    /// Heartbeats, votes, questions that must get through.
    Control,
    /// Snapshots.
    Snapshot,
}

/// Why a message did not get an answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransportError {
    /// No connection could be made: surely not delivered.
    #[error("cannot reach {peer}: {reason}")]
    Unreachable {
        /// Address and name.
        peer: String,
        /// Cause.
        reason: String,
    },
    /// The connection broke or the answer did not come in time: may have been delivered.
    #[error("no answer from {peer}: {reason}")]
    Broken {
        /// Address and name.
        peer: String,
        /// Cause.
        reason: String,
    },
}

impl TransportError {
    /// The cause alone, where the peer is named already.
    pub fn reason(&self) -> &str {
        match self {
            TransportError::Unreachable { reason, .. } | TransportError::Broken { reason, .. } => reason,
        }
    }
}

/// Moves peer messages.
pub trait Transport: Send + Sync + 'static {
    /// Asks one question.
    fn call(
        &self,
        to: &PeerAddress,
        lane: Lane,
        request: PeerRequest,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<PeerReply, TransportError>>;

    /// Opens a stream of appends; answers come in order.
    fn append(
        &self,
        to: &PeerAddress,
        requests: BoxStream<'static, AppendRequest>,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<AppendReply, TransportError>>, TransportError>>;

    /// Asks for the records of a peer; they come in order, until the stream ends or the connection breaks.
    fn fetch(
        &self,
        to: &PeerAddress,
        request: FetchRequest,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Result<FetchReply, TransportError>>, TransportError>>;
}

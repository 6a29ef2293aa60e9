//! The types openraft is configured with, and their conversion to those of `storage`.
//!
//! Generic over the runtime, so that the simulator runs the same code on virtual time.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use openraft::impls::leader_id_adv;
use openraft::type_config::alias::{EntryOf, LogIdOf, VoteOf};
use saola_storage::command::Outcome;
use saola_storage::types::{LeaderId, LogId, NodeId, Vote};

use crate::member::Member;

/// How long disk work may keep a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// It reads and writes memory, as a rule.
    AMoment,
    /// It may wait for the disk.
    Long,
}

/// What the adapters ask of a runtime: time, spawning, disk work and randomness go through it and nothing else.
pub trait Runtime: openraft::AsyncRuntime + Sized + 'static {
    /// Does disk work; what may take long is kept off the threads that serve tasks. Once begun it is done to its end,
    /// whether or not somebody waits for it.
    fn disk<T: Send + 'static>(
        takes: Takes,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = T> + Send;
}

/// Production runtime.
pub type TokioRuntime = openraft_rt_tokio::TokioRuntime;

impl Runtime for TokioRuntime {
    async fn disk<T: Send + 'static>(takes: Takes, work: impl FnOnce() -> T + Send + 'static) -> T {
        if takes == Takes::AMoment {
            return work();
        }
        #[expect(clippy::disallowed_methods, reason = "production's blocking threads; the simulator works in line")]
        let working = tokio::task::spawn_blocking(work);
        match working.await {
            Ok(done) => done,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a runtime that ends cancels such work, and the task that waits here ends with it.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

/// openraft's type configuration over a runtime.
pub struct TypeConfig<RT>(PhantomData<fn() -> RT>);

impl<RT> fmt::Debug for TypeConfig<RT> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypeConfig")
    }
}
impl<RT> Clone for TypeConfig<RT> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<RT> Copy for TypeConfig<RT> {}
impl<RT> Default for TypeConfig<RT> {
    fn default() -> Self {
        Self(PhantomData)
    }
}
impl<RT> PartialEq for TypeConfig<RT> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<RT> Eq for TypeConfig<RT> {}
impl<RT> PartialOrd for TypeConfig<RT> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<RT> Ord for TypeConfig<RT> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

/// `leader_id_adv`: a log id is term, node id and index wherever it is stored or sent.
pub(crate) type RaftLeader = leader_id_adv::LeaderId<u64, NodeId>;

impl<RT: Runtime> openraft::RaftTypeConfig for TypeConfig<RT> {
    type D = Proposal;
    type R = Outcomes;
    type NodeId = NodeId;
    type Node = Member;
    type Term = u64;
    type LeaderId = RaftLeader;
    type Vote = openraft::impls::Vote<RaftLeader>;
    type Payload = openraft::EntryPayload<Proposal, NodeId, Member>;
    type Entry = openraft::Entry<RaftLeader, Self::Payload>;
    type AsyncRuntime = RT;
    type Responder<T>
        = openraft::impls::OneshotResponder<Self, T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

/// An encoded log payload that holds commands (`payload::encode_commands`). Encoded once, at the leader.
#[derive(Clone, PartialEq, Eq)]
pub struct Proposal(pub Bytes);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.0.len())
    }
}
impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The outcomes of one entry's commands, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcomes(pub Vec<Outcome>);

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} outcomes", self.0.len())
    }
}

pub(crate) type Entry<RT> = EntryOf<TypeConfig<RT>>;

pub(crate) fn log_id_from<RT: Runtime>(id: &LogIdOf<TypeConfig<RT>>) -> LogId {
    LogId { leader: LeaderId { term: id.leader_id.term, node_id: id.leader_id.node_id }, index: id.index }
}

pub(crate) fn log_id_to<RT: Runtime>(id: &LogId) -> LogIdOf<TypeConfig<RT>> {
    openraft::LogId::new(RaftLeader { term: id.leader.term, node_id: id.leader.node_id }, id.index)
}

pub(crate) fn vote_from<RT: Runtime>(vote: &VoteOf<TypeConfig<RT>>) -> Vote {
    let leader = vote.leader_id;
    Vote { leader: LeaderId { term: leader.term, node_id: leader.node_id }, committed: vote.committed }
}

pub(crate) fn vote_to<RT: Runtime>(vote: &Vote) -> VoteOf<TypeConfig<RT>> {
    let leader = RaftLeader { term: vote.leader.term, node_id: vote.leader.node_id };
    openraft::impls::Vote { leader_id: leader, committed: vote.committed }
}

/// Starts a task that nobody waits for: it ends with the channel, stream or replica that it serves.
pub(crate) fn detach<RT: Runtime>(task: impl Future<Output = ()> + Send + 'static) {
    drop(RT::spawn(task));
}

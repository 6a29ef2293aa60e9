//! Linearizable reads: one quorum round at a time, joined by all reads that arrived before it began.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::Instant as _;
use saola_storage::failpoint::{Failpoint, reach};
use saola_storage::planted::{self, Bug};
use saola_storage::types::EpochId;
use tokio::sync::{mpsc, oneshot};

use super::confirm::Rounds;
use super::propose::TimeLeft;
use super::{InstantOf, Replica, Shared};
use crate::member::Role;
use crate::transport::{Lane, PeerAddress};
use crate::types::Runtime;
use crate::wire::{Answer, Nothing, PeerRequest, Question, Refusal, RefusalCode};

/// Reads waiting for the next round; one more is answered like a lost leader and tries again.
pub(super) const QUEUE: usize = 16_384;

/// A read waiting for a round that begins after it arrived.
pub(super) type Waiting = oneshot::Sender<Result<u64, Refusal>>;

/// Up to where a read may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPoint {
    /// Log index that this node has applied at least.
    pub index: u64,
    /// Revision to read at.
    pub revision: u64,
    /// Lineage.
    pub epoch: EpochId,
    /// For stale reads: how old the state is at most, milliseconds: it misses nothing that was acknowledged earlier.
    pub age_ms: Option<u64>,
}

/// Why there is no read point.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The node is not part of a cluster.
    #[error("node is not part of a cluster yet: run `saola cluster init`")]
    NotAdopted,
    /// No leader confirmed itself within the deadline.
    #[error("no leader confirmed itself within {waited_ms} ms: {reason}")]
    NoLeader {
        /// How long was tried.
        waited_ms: u64,
        /// What stood in the way last.
        reason: String,
    },
    /// This node did not catch up within the deadline.
    #[error(
        "this node has not come to the leader's frontier within {waited_ms} ms: ask another node or raise --timeout; \
         `saola status` shows whether the other site is waited for"
    )]
    Timeout {
        /// How long was tried.
        waited_ms: u64,
    },
    /// This node started with more than may be shown yet.
    #[error(
        "this node started with records that may not be shown yet, and still may not after {waited_ms} ms: ask another node; \
         `saola status` shows how far each has come, and whether the other site is waited for"
    )]
    Ahead {
        /// How long was tried.
        waited_ms: u64,
    },
    /// A witness has no records.
    #[error("a witness has no records: ask a data node")]
    WitnessNode,
    /// Raft has stopped on this node.
    #[error("this node has stopped taking part: {0}")]
    Stopped(String),
}

impl<RT: Runtime> Replica<RT> {
    /// A point at or after every write acknowledged before this call began, applied on this node.
    pub async fn read_point(&self, deadline: Duration) -> Result<ReadPoint, ReadError> {
        let shared = &self.shared;
        let Some(identity) = shared.identity() else {
            return Err(ReadError::NotAdopted);
        };
        if shared.claim.role == Role::Witness {
            return Err(ReadError::WitnessNode);
        }
        if shared.raft().is_none() && !shared.asks_its_epoch.load(Ordering::Acquire) {
            return Err(ReadError::Stopped(shared.refused.lock().clone().unwrap_or_default()));
        }
        let until = InstantOf::<RT>::now() + deadline;
        let (index, revision) = loop {
            if let Some(point) = self.point_at_frontier(until, deadline).await? {
                break point;
            }
            // What this node had applied when it started may not be shown yet, however committed it is: the leader has not
            // applied it, or the other site lacks it. All others read below it.
            if until.saturating_duration_since_now() <= shared.pause() {
                return Err(ReadError::Ahead { waited_ms: deadline.as_millis() as u64 });
            }
            RT::sleep(shared.pause()).await;
        };
        let revision = match planted::is(Bug::ReadBeyondFrontier) {
            true => shared.store.applied().revision,
            false => revision,
        };
        // It may have been fenced while it waited: then another epoch may have gone on since the round.
        if let Some(reason) = shared.refused.lock().clone() {
            return Err(ReadError::Stopped(reason));
        }
        Ok(ReadPoint { index, revision, epoch: identity.epoch_id(), age_ms: None })
    }

    /// The leader's frontier, once this node has applied it, and the revision there; none if this node knows only a later one.
    async fn point_at_frontier(
        &self,
        until: InstantOf<RT>,
        deadline: Duration,
    ) -> Result<Option<(u64, u64)>, ReadError> {
        let shared = &self.shared;
        let waited_ms = deadline.as_millis() as u64;
        let last_refusal = parking_lot::Mutex::new(String::from("no leader is known"));
        let frontier_next = shared
            .until_deadline(until, || async {
                if planted::is(Bug::LocalRead) {
                    return Some(shared.frontier.next());
                }
                match RT::timeout(until.saturating_duration_since_now(), shared.join_round()).await {
                    Ok(Ok(frontier_next)) => Some(frontier_next),
                    Ok(Err(refusal)) => {
                        *last_refusal.lock() = refusal.message;
                        None
                    }
                    Err(_) => None,
                }
            })
            .await;
        let Some(frontier_next) = frontier_next else {
            return Err(ReadError::NoLeader { waited_ms, reason: last_refusal.lock().clone() });
        };
        // A leader's frontier covers its term's first entry, so there is something below it.
        let index = frontier_next.saturating_sub(1);
        let applied = RT::timeout(until.saturating_duration_since_now(), shared.applied(index));
        if planted::is(Bug::ReadBeforeApply) {
            return Ok(Some((index, shared.store.applied().revision)));
        }
        if applied.await.is_err() {
            return Err(ReadError::Timeout { waited_ms });
        }
        shared.frontier.heard(frontier_next);
        Ok(shared.store.revision_at_index(index).map(|revision| (index, revision)))
    }

    /// What this node has, without asking anyone, and how old that is at most; `None` before this node has applied what
    /// a leader with a quorum told it since it started.
    pub fn stale_point(&self) -> Option<ReadPoint> {
        let shared = &self.shared;
        let identity = shared.identity()?;
        let (asked, quorum_age) = (InstantOf::<RT>::now(), shared.quorum_age());
        let applied_next = *shared.applied_next.borrow();
        let age_ms = shared.data_age(asked, quorum_age, applied_next)?.as_micros().div_ceil(1000) as u64;
        let index = shared.frontier.next().min(applied_next).checked_sub(1)?;
        let revision = shared.store.revision_at_index(index)?;
        Some(ReadPoint { index, revision, epoch: identity.epoch_id(), age_ms: Some(age_ms) })
    }

    /// One quorum round at this node, which must lead; answers its frontier.
    pub(crate) async fn barrier_here(&self) -> Result<u64, Refusal> {
        if !self.shared.is_leader() {
            return Err(Refusal {
                leader: self.shared.leader().unwrap_or(0),
                ..Refusal::new(RefusalCode::NotLeader, format!("node {} does not lead", self.shared.claim.node_id))
            });
        }
        self.shared.join_round().await
    }
}

impl<RT: Runtime> Shared<RT> {
    async fn join_round(&self) -> Result<u64, Refusal> {
        let (waiting, answer) = oneshot::channel();
        self.barriers
            .try_send(waiting)
            .map_err(|_| Refusal::new(RefusalCode::Busy, "too many reads wait on this node"))?;
        answer.await.map_err(|_| Refusal::new(RefusalCode::Stopped, "the node is stopping"))?
    }

    async fn round(self: &Arc<Self>, rounds: &mut Rounds, limit: Duration) -> Result<u64, Refusal> {
        let Some(leader) = self.leader() else {
            return Err(Refusal::new(
                RefusalCode::NotLeader,
                "no leader is known; a quorum of voters may be out of reach",
            ));
        };
        if leader == self.claim.node_id {
            return self.leader_round(rounds, limit).await;
        }
        let Some(member) = self.member(leader) else {
            return Err(Refusal::new(RefusalCode::NotLeader, "the leader is not in the membership of this node"));
        };
        let request =
            PeerRequest { header: Some(self.header(&member, 0)), question: Some(Question::ReadBarrier(Nothing {})) };
        let address = PeerAddress { address: member.peer_address.clone(), name: member.name.clone() };
        let reply = self
            .transport
            .call(&address, Lane::Append, request, limit)
            .await
            .map_err(|error| Refusal::new(RefusalCode::NotLeader, error.to_string()))?;
        match reply.answer {
            Some(Answer::Barrier(barrier)) => Ok(barrier.frontier_next),
            Some(Answer::Refused(refusal)) => Err(refusal),
            _ => Err(Refusal::new(RefusalCode::BadMessage, "answer of the wrong kind to a read barrier")),
        }
    }

    async fn leader_round(self: &Arc<Self>, rounds: &mut Rounds, limit: Duration) -> Result<u64, Refusal> {
        if self.raft().is_none() {
            return Err(Refusal::new(RefusalCode::Stopped, "Raft does not run on this node"));
        }
        let until = InstantOf::<RT>::now() + limit;
        let leader = match planted::is(Bug::UnconfirmedRead) {
            true => self.leadership()?,
            false if planted::is(Bug::LeaseRead) && self.quorum_age().is_some_and(|age| age < limit) => {
                self.leadership()?
            }
            false => rounds.confirm(self, limit).await?,
        };
        reach(Failpoint::ReadConfirmed);
        // What former leaders have acknowledged lies before this leadership's first entry, and all that this one has
        // acknowledged below its frontier.
        // Less than the asking node waits, so that it hears the reason.
        let patience = until.saturating_duration_since_now().min(limit / 2);
        if planted::is(Bug::NewLeaderReads) {
            return Ok(self.frontier.next());
        }
        let covered = RT::timeout(patience, self.frontier.covers(leader)).await;
        // It may have been fenced while it waited.
        if self.raft().is_none() {
            return Err(Refusal::new(RefusalCode::Stopped, "Raft does not run on this node any more"));
        }
        covered.map_err(|_| Refusal::new(RefusalCode::NotLeader, self.not_covered(limit)))
    }

    /// Why a leader may not answer reads yet.
    fn not_covered(&self, limit: Duration) -> String {
        let waits_for = match self.frontier.is_gated() {
            true => "the other site has not stored this leader's first entry",
            false => "this leader's first entry is not applied",
        };
        format!(
            "{waits_for} within {} ms; linearizable reads wait; ask for a stale read (--stale)",
            limit.as_millis() / 2
        )
    }

    /// What a leader says that its voters leave alone.
    pub(super) fn no_quorum(&self, limit: Duration) -> String {
        let voters = self.with_metrics(|metrics| metrics.membership_config.voter_ids().collect::<Vec<_>>());
        let voters = voters.unwrap_or_default();
        let reached = |id: &&u64| {
            let answered = || self.links.last_answer(**id).is_some_and(|(at, _)| at.elapsed() <= limit);
            **id == self.claim.node_id || answered()
        };
        format!(
            "no quorum of voters answered within {} ms: {} of {} reachable; writes and linearizable reads wait; ask for a \
             stale read (--stale) or bring back a voter",
            limit.as_millis(),
            voters.iter().filter(reached).count(),
            voters.len()
        )
    }

    /// How old the state below `applied_next` is at most. A quorum had confirmed this node `quorum_age` before `asked`,
    /// which was before `applied_next` was looked at: what is applied in between must not look older than it is.
    fn data_age(&self, asked: InstantOf<RT>, quorum_age: Option<Duration>, applied_next: u64) -> Option<Duration> {
        let mut staleness = self.staleness.lock();
        if let Some(before) = quorum_age {
            // A leader acknowledges nothing that it has not applied.
            staleness.hear(asked, applied_next, before, applied_next);
        }
        staleness.age(InstantOf::<RT>::now(), applied_next)
    }
}

/// Runs the rounds of one node. One task per node; it ends with the queue.
pub(super) async fn run<RT: Runtime>(shared: Arc<Shared<RT>>, mut queue: mpsc::Receiver<Waiting>) {
    let limit = Duration::from_millis(2 * shared.timing.election_max_ms);
    let mut rounds = Rounds::default();
    while let Some(first) = queue.recv().await {
        let mut waiting = vec![first];
        while let Ok(next) = queue.try_recv() {
            waiting.push(next);
        }
        let result = shared.round(&mut rounds, limit).await;
        while let Some(late) = queue.try_recv().ok().filter(|_| planted::is(Bug::LateReadJoins)) {
            waiting.push(late);
        }
        for reader in waiting {
            let _reader_gone = reader.send(result.clone());
        }
    }
}

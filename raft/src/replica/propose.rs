//! Writes: commands queue at the leader, one entry carries many of them, outcomes leave at the frontier.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::Instant as _;
use openraft::errors::ClientWriteError;
use openraft::impls::OneshotResponder;
use prost::Message;
use saola_storage::command::{Command, CommandBatch, Decision, Op, Outcome};
use saola_storage::failpoint::{Failpoint, reach};
use saola_storage::planted::{self, Bug};
use saola_storage::protection::WaitsFor;
use tokio::sync::{mpsc, oneshot};

use super::{InstantOf, Replica, Shared};
use crate::member::Role;
use crate::payload::encode_commands;
use crate::transport::{Lane, PeerAddress, TransportError};
use crate::types::{Runtime, TypeConfig, detach};
use crate::wire::{Answer, PeerRequest, Question, Refusal, RefusalCode};

/// Commands waiting at a leader; one more is answered with Busy.
pub(super) const QUEUE: usize = 4096;
/// An entry takes at most so many commands …
const BATCH_COMMANDS: usize = 256;
/// … and stops growing at this many bytes.
const BATCH_BYTES: usize = 512 << 10;
/// Entries proposed and not yet applied. While they are under way arriving commands gather for the next entry.
pub(super) const ENTRIES_IN_FLIGHT: usize = 4;

/// Applied entries that may wait for the other site; beyond that commands are answered with GateBusy. The store knows
/// the revisions of many more of the newest entries, which reads behind the frontier need.
const GATE_ENTRIES: u64 = 8192;

const GATE_WAIT: &str = "proposed, and not stored at the other site within the deadline; it counts once that has happened: \
                         ask again under the same request id; `saola status` shows the sites";
const WITNESS_WAIT: &str = "proposed, and not stored at the witness, which stands in for the other site, within the deadline; \
                            it counts once that has happened: ask again under the same request id";

/// Why a command has no outcome.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// The node is not part of a cluster.
    #[error("node is not part of a cluster yet: run `saola cluster init`")]
    NotAdopted,
    /// No leader was found within the deadline; surely not applied.
    #[error("no leader within {waited_ms} ms: {reason}")]
    NoLeader {
        /// How long was tried.
        waited_ms: u64,
        /// What stood in the way last.
        reason: String,
    },
    /// The leader or this node has too little disk; surely not applied.
    #[error("{reason}")]
    WritesRefused {
        /// Which disk, and what to do.
        reason: String,
    },
    /// The leader's disk hangs, and it hands over; surely not applied.
    #[error("{reason}")]
    DiskHangs {
        /// Which disk, and what to do.
        reason: String,
    },
    /// The leader's queue is full; surely not applied.
    #[error("the leader has too many writes waiting: try again in a moment")]
    Busy,
    /// Too much waits for the other site already; surely not applied.
    #[error("{reason}")]
    GateBusy {
        /// What waits, and what to do.
        reason: String,
    },
    /// Proposed, and not shown to be stored at the other site within the deadline: it counts once that has happened.
    #[error("{reason}")]
    GateWait {
        /// What it waits for, and what to do.
        reason: String,
    },
    /// May or may not have been applied.
    #[error("outcome unknown: {reason}; ask again under the same request id")]
    Unknown {
        /// What happened.
        reason: String,
    },
    /// The request makes no sense here.
    #[error("{0}")]
    Refused(String),
    /// Raft has stopped on this node.
    #[error("this node has stopped taking part: {0}")]
    Stopped(String),
}

impl ProposeError {
    /// True when the command surely has not been and will not be applied.
    pub fn certainly_not_applied(&self) -> bool {
        !matches!(self, ProposeError::Unknown { .. } | ProposeError::GateWait { .. })
    }
}

/// Where an outcome goes.
type Caller = oneshot::Sender<Result<Outcome, Refusal>>;

/// A command waiting for its entry.
pub(super) struct Queued {
    command: Command,
    answer: Caller,
}

impl<RT: Runtime> Replica<RT> {
    /// Proposes a command from any data node and returns its outcome once the frontier has reached it.
    pub async fn propose(&self, command: Command, deadline: Duration) -> Result<Outcome, ProposeError> {
        let shared = &self.shared;
        if shared.identity().is_none() {
            return Err(ProposeError::NotAdopted);
        }
        if shared.claim.role == Role::Witness {
            return Err(ProposeError::Refused("a witness takes no writes: use a data node".into()));
        }
        if let Some(reason) = shared.writes_refused().filter(|_| !is_set_by_people(&command.op)) {
            return Err(ProposeError::WritesRefused { reason });
        }
        let until = InstantOf::<RT>::now() + deadline;
        let last_refusal = parking_lot::Mutex::new(String::from("no leader is known"));
        let result = shared
            .until_deadline(until, || async {
                match self.propose_once(&command, until).await {
                    Ok(outcome) => Some(Ok(outcome)),
                    Err(refusal) => match refusal.kind() {
                        RefusalCode::DiskFull => Some(Err(ProposeError::WritesRefused { reason: refusal.message })),
                        RefusalCode::DiskHangs => Some(Err(ProposeError::DiskHangs { reason: refusal.message })),
                        RefusalCode::Busy => Some(Err(ProposeError::Busy)),
                        RefusalCode::GateBusy => Some(Err(ProposeError::GateBusy { reason: refusal.message })),
                        RefusalCode::GateWait => Some(Err(ProposeError::GateWait { reason: refusal.message })),
                        RefusalCode::Unknown => Some(Err(ProposeError::Unknown { reason: refusal.message })),
                        RefusalCode::Stopped if shared.is_leader() || shared.raft().is_none() => {
                            Some(Err(ProposeError::Stopped(refusal.message)))
                        }
                        RefusalCode::Invalid => Some(Err(ProposeError::Refused(refusal.message))),
                        // All others say that nothing was proposed: another leader may take it.
                        _ => {
                            *last_refusal.lock() = refusal.message;
                            None
                        }
                    },
                }
            })
            .await;
        result.unwrap_or_else(|| {
            Err(ProposeError::NoLeader { waited_ms: deadline.as_millis() as u64, reason: last_refusal.lock().clone() })
        })
    }

    async fn propose_once(&self, command: &Command, until: InstantOf<RT>) -> Result<Outcome, Refusal> {
        let shared = &self.shared;
        let not_leader = |message: &str| Refusal::new(RefusalCode::NotLeader, message);
        let Some(leader) = shared.leader() else {
            return Err(not_leader("no leader is known; a quorum of voters may be out of reach"));
        };
        let left = until.saturating_duration_since_now();
        if leader == shared.claim.node_id {
            return match RT::timeout(left, self.propose_here(command.clone())).await {
                Ok(result) => result,
                Err(_) => Err(shared.no_outcome(
                    "proposed, but not committed within the deadline; a quorum of voters may be out of reach".into(),
                )),
            };
        }
        let Some(member) = shared.member(leader) else {
            return Err(not_leader("the leader is not in the membership that this node knows"));
        };
        if member.role_value() == Role::Witness {
            return Err(not_leader("the witness leads for a moment, to hand over to a data node"));
        }
        let request =
            PeerRequest { header: Some(shared.header(&member, 0)), question: Some(Question::Propose(command.clone())) };
        let address = PeerAddress { address: member.peer_address.clone(), name: member.name.clone() };
        match shared.transport.call(&address, Lane::Append, request, left).await {
            Ok(reply) => match reply.answer {
                Some(Answer::Outcome(outcome)) => Ok(outcome),
                Some(Answer::Refused(refusal)) => Err(refusal),
                _ => Err(Refusal::new(RefusalCode::Unknown, "the leader's answer was of the wrong kind")),
            },
            Err(error @ TransportError::Unreachable { .. }) => Err(not_leader(&error.to_string())),
            Err(error @ TransportError::Broken { .. }) => Err(shared.no_outcome(error.to_string())),
        }
    }

    /// The same, for work of the node's own that must not wait for ever.
    pub(super) async fn propose_within(&self, command: Command, limit: Duration) -> Result<Outcome, Refusal> {
        let proposed = RT::timeout(limit, self.propose_here(command)).await;
        proposed.unwrap_or_else(|_| Err(self.shared.no_outcome("not committed in time".into())))
    }

    /// Proposes at this node, which must lead.
    pub(crate) async fn propose_here(&self, command: Command) -> Result<Outcome, Refusal> {
        let shared = &self.shared;
        if !shared.is_leader() {
            return Err(Refusal {
                leader: shared.leader().unwrap_or(0),
                ..Refusal::new(RefusalCode::NotLeader, format!("node {} does not lead", shared.claim.node_id))
            });
        }
        if shared.claim.role == Role::Witness {
            return Err(Refusal::new(RefusalCode::NotLeader, "the witness leads for a moment and takes no writes"));
        }
        if command.op.is_none() {
            // In the log it would stop every node of this release.
            return Err(Refusal::new(
                RefusalCode::Invalid,
                "the leader does not know this command: run the same release on all nodes",
            ));
        }
        // So that the revision which it begins with is the base's, and what comes later is surely not the former side's.
        if !shared.epoch_is_open.load(Ordering::Acquire) && !matches!(command.op, Some(Op::BeginEpoch(_))) {
            return Err(Refusal::new(RefusalCode::NotLeader, "the first command of this epoch is not there yet"));
        }
        let _no_change_meanwhile = match &command.op {
            Some(Op::SetGoal(declared)) => self.may_declare(declared).await?,
            _ => None,
        };
        // What ends the waiting must get through, and a protection is no matter of room.
        let moves = is_set_by_people(&command.op)
            || matches!(
                command.op,
                Some(
                    Op::BeginEpoch(_)
                        | Op::ReleaseFloor(_)
                        | Op::LeadFrom(_)
                        | Op::Degrade(_)
                        | Op::Synchronize(_)
                        | Op::WaitForWitness(_)
                )
            );
        let always = moves || matches!(command.op, Some(Op::ClaimNodeId(_)));
        if let Some(reason) = shared.writes_refused().filter(|_| !moves) {
            return Err(Refusal::new(RefusalCode::DiskFull, reason));
        }
        if let Some(reason) = shared.hung_leader() {
            return Err(Refusal::new(RefusalCode::DiskHangs, reason));
        }
        let waiting = shared.frontier.waiting();
        if waiting > GATE_ENTRIES && !always {
            let whom = match shared.store.protection().waits_for {
                WaitsFor::Witness => "the witness, which stands in for the other site, already: bring it back",
                _ => "the other site already: bring its nodes back",
            };
            let message = format!("{waiting} entries wait for {whom}, or lower the protection (saola protection set)");
            return Err(Refusal::new(RefusalCode::GateBusy, message));
        }
        let (answer, outcome) = oneshot::channel();
        shared
            .proposals
            .try_send(Queued { command, answer })
            .map_err(|_| Refusal::new(RefusalCode::Busy, "the leader's queue of writes is full"))?;
        outcome.await.map_err(|_| Refusal::new(RefusalCode::Unknown, "the node stopped before it answered"))?
    }
}

impl<RT: Runtime> Shared<RT> {
    /// What a caller hears that gave up on a command: as far as this node sees, it may wait for the other site.
    fn no_outcome(&self, otherwise: String) -> Refusal {
        match self.frontier.is_gated() && self.frontier.waiting() > 0 {
            true if self.store.protection().waits_for == WaitsFor::Witness => {
                Refusal::new(RefusalCode::GateWait, WITNESS_WAIT)
            }
            true => Refusal::new(RefusalCode::GateWait, GATE_WAIT),
            false if planted::is(Bug::UnknownRefused) => Refusal::new(RefusalCode::Invalid, otherwise),
            false => Refusal::new(RefusalCode::Unknown, otherwise),
        }
    }
}

/// Turns queued commands into entries. One task per node; it ends with the queue.
pub(super) async fn run<RT: Runtime>(shared: Arc<Shared<RT>>, mut queue: mpsc::Receiver<Queued>) {
    while let Some(first) = queue.recv().await {
        // Before the permit: one that is out while the writes wait is an entry under way.
        let _proposing = shared.proposing.read().await;
        let permit = shared.in_flight.clone().acquire_owned().await.expect("nobody closes the semaphore");
        let (mut bytes, mut commands, mut answers, mut ids) = (0, Vec::new(), Vec::new(), Vec::new());
        let mut next = Some(first);
        while let Some(Queued { command, answer }) = next {
            // Who gave up while no entry could be committed was told that the outcome is unknown: it ends here.
            if matches!(command.op, Some(Op::Degrade(_) | Op::WaitForWitness(_))) && !shared.gives_up() {
                // It has waited here, and an acknowledgement has come meanwhile.
                refuse_all(vec![answer], &Refusal::new(RefusalCode::Busy, "whoever was waited for acknowledges again"));
            } else if !answer.is_closed() {
                bytes += command.encoded_len();
                ids.push(matches!(command.op, Some(Op::ClaimNodeId(_))));
                commands.push(command);
                answers.push(answer);
            }
            let room = commands.len() < BATCH_COMMANDS && bytes < BATCH_BYTES;
            next = if room { queue.try_recv().ok() } else { None };
        }
        if commands.is_empty() {
            continue;
        }
        let Some(raft) = shared.raft() else {
            refuse_all(answers, &Refusal::new(RefusalCode::Stopped, "Raft does not run on this node"));
            continue;
        };
        if let Some(reason) = shared.hung_leader() {
            refuse_all(answers, &Refusal::new(RefusalCode::DiskHangs, reason));
            continue;
        }
        reach(Failpoint::ProposalTaken);
        let batch = CommandBatch { stamp_us: shared.stamp_us(), commands };
        let (responder, applied) = OneshotResponder::<TypeConfig<RT>, _>::new_pair();
        let proposed = raft.client_write_ff(encode_commands(&batch), Some(responder)).await;
        if let Err(fatal) = proposed {
            refuse_all(answers, &Refusal::new(RefusalCode::Stopped, fatal.to_string()));
            continue;
        }
        let (fenced, frontier, mut stopped) = (shared.clone(), shared.frontier.clone(), shared.stopped.subscribe());
        detach::<RT>(async move {
            let result = applied.await;
            reach(Failpoint::ProposalDone);
            drop(permit);
            match result {
                Ok(Ok(response)) => {
                    let decided = answers.into_iter().zip(ids).zip(response.data.0);
                    let (now, later): (Vec<_>, Vec<_>) = decided.partition(|((_, is_id), outcome)| {
                        let is_conflict = matches!(outcome.decision, Some(Decision::Conflict(_)));
                        *is_id || planted::is(Bug::ConflictShownEarly) && is_conflict
                    });
                    // A caller that gave up finds the outcome in the request table.
                    let send = |decided: Vec<((Caller, bool), Outcome)>| {
                        decided.into_iter().for_each(|((answer, _), outcome)| drop(answer.send(Ok(outcome))));
                    };
                    // A node id is claimed before the membership names it, which waits for nobody either: a site that is
                    // lost could not be replaced otherwise.
                    send(now);
                    // An outcome of any other kind, replayed ones too, leaves when its own entry may be shown.
                    let reached = std::pin::pin!(frontier.reached(response.log_id.index));
                    let ended = std::pin::pin!(stopped.wait_for(Option::is_some));
                    match futures::future::select(reached, ended).await {
                        futures::future::Either::Left(_) if fenced.raft().is_some() => send(later),
                        // Another epoch may have gone on without this node by then.
                        _ => refuse_all(
                            later.into_iter().map(|((answer, _), _)| answer).collect(),
                            &Refusal::new(RefusalCode::Unknown, "the node stopped before it could answer"),
                        ),
                    }
                }
                Ok(Err(ClientWriteError::ForwardToLeader(forward))) => refuse_all(
                    answers,
                    &Refusal {
                        leader: forward.leader_id.unwrap_or(0),
                        ..Refusal::new(RefusalCode::NotLeader, "not proposed: this node does not lead any more")
                    },
                ),
                Ok(Err(error)) => refuse_all(answers, &Refusal::new(RefusalCode::Unknown, error.to_string())),
                Err(_) => refuse_all(
                    answers,
                    &Refusal::new(RefusalCode::Unknown, "Raft stopped on this node before it answered"),
                ),
            }
        });
    }
}

/// What people say the cluster is to do: that needs no room, and may be what makes some.
fn is_set_by_people(op: &Option<Op>) -> bool {
    matches!(op, Some(Op::SetProtection(_) | Op::SetFailover(_) | Op::SetGoal(_) | Op::SetApprovers(_)))
}

fn refuse_all(answers: Vec<Caller>, refusal: &Refusal) {
    for answer in answers {
        let _caller_gone = answer.send(Err(refusal.clone()));
    }
}

/// Time left until a deadline.
pub(super) trait TimeLeft {
    fn saturating_duration_since_now(self) -> Duration;
}

impl<I: openraft::Instant> TimeLeft for I {
    fn saturating_duration_since_now(self) -> Duration {
        let now = I::now();
        if self > now { self - now } else { Duration::ZERO }
    }
}

//! What a replica says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use openraft::ServerState;
use saola_storage::types::{EpochId, NodeId};

use super::{FailoverStatus, GoalStatus, ProtectionStatus, Replica, ScrubStatus};
use crate::member::{Member, Role};
use crate::round_trips::RoundTrip;
use crate::timing::Timing;
use crate::types::Runtime;

/// One node's view, taken at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaStatus {
    /// "leader", "follower", "candidate", "learner", "witness", "waiting" (for init), "asking" (other sites for the epoch), "fenced", "refused", "stopped".
    pub state: &'static str,
    /// Whom this node takes for the leader.
    pub leader: Option<NodeId>,
    /// Raft's term.
    pub term: u64,
    /// End of the log.
    pub last_log_index: u64,
    /// Highest index that this node knows to be committed.
    pub committed_index: u64,
    /// Highest index in the state machine.
    pub applied_index: u64,
    /// Highest index that may be shown.
    pub frontier_index: u64,
    /// Store-wide revision at that index; 0 where this node cannot tell.
    pub frontier_revision: u64,
    /// What an acknowledgement waits for, and how the sites stand to each other; a witness does not know.
    pub protection: Option<ProtectionStatus>,
    /// What is done when the site that leads is lost; a witness does not know.
    pub failover: Option<FailoverStatus>,
    /// What the cluster is declared to survive; a witness does not know.
    pub goal: Option<GoalStatus>,
    /// Store-wide revision of the applied state.
    pub revision: u64,
    /// All members.
    pub members: Vec<Member>,
    /// Who of them votes; two sets while a change is under way. A member whose role votes and who is in none waits to
    /// catch up, or for the command that added it to be repeated.
    pub voter_sets: Vec<BTreeSet<NodeId>>,
    /// Entry that set them.
    pub membership_index: u64,
    /// Free bytes on the log's disk.
    pub disk_free_bytes: u64,
    /// Below so many this node takes no writes.
    pub disk_min_free_bytes: u64,
    /// Size of the records on disk, approximately.
    pub data_bytes: u64,
    /// Syncs of the log since the start.
    pub log_syncs: u64,
    /// What the log's entries take on the disk.
    pub log_bytes: u64,
    /// What it may hold for members that are dead; a witness's for data nodes that lack something.
    pub log_keep_bytes: u64,
    /// First index that it keeps.
    pub log_first_index: u64,
    /// Why writes are refused, if they are.
    pub writes_refused: Option<String>,
    /// What is wrong with the log's disk, if it completes no writes.
    pub disk_hangs: Option<String>,
    /// On the leader: highest index that each member has flushed.
    pub replication: Vec<(NodeId, u64)>,
    /// How long members took to answer this node's heartbeats while it led.
    pub round_trips: Vec<(NodeId, RoundTrip)>,
    /// How far the members' clocks were ahead of this node's while it led, microseconds.
    pub clocks_ahead_us: BTreeMap<NodeId, i64>,
    /// Timers in force at this node.
    pub timing: Timing,
    /// On the leader: what the log keeps for members that are dead, in words.
    pub log_kept: Vec<(NodeId, String)>,
    /// Why this node does not take part, if peers or its folder forbid it.
    pub refused_by_peers: Option<String>,
    /// Peers that refuse this node's messages, and why.
    pub refusals: Vec<(NodeId, String)>,
    /// 16 bytes once adopted.
    pub cluster_id: Option<[u8; 16]>,
    /// Lineage, 0 before adoption.
    pub epoch: u64,
    /// Another promotion began an epoch of the same number, as was seen lately, in words.
    pub twin_epoch: Option<String>,
    /// Part of a cluster?
    pub adopted: bool,
    /// What is known of this node's copy of the records.
    pub scrub: ScrubStatus,
}

impl<RT: Runtime> Replica<RT> {
    /// Lineage of this node's cluster; number 0 before it is part of one.
    pub fn epoch(&self) -> EpochId {
        self.shared.identity.read().as_ref().map(|own| own.epoch_id()).unwrap_or_default()
    }

    /// This node's view now.
    pub fn status(&self) -> ReplicaStatus {
        let shared = &self.shared;
        let identity = shared.identity();
        let applied = shared.store.applied();
        let refused_by_peers = shared.refused.lock().clone().or_else(|| shared.waiting_for.lock().clone());
        let (server_state, term, last_log_index, committed_index) = shared
            .with_metrics(|metrics| {
                (
                    Some(metrics.state),
                    metrics.current_term,
                    metrics.last_log_index.unwrap_or(0),
                    metrics.local_committed.map_or(0, |id| id.index),
                )
            })
            .unwrap_or((None, 0, 0, 0));
        let stopped = shared.stopped.borrow().is_some();
        let state = match server_state {
            _ if shared.lineage().fenced.is_some() => "fenced",
            _ if shared.lineage().reinstating.is_some() => "reinstating",
            _ if shared.asks_its_epoch.load(Ordering::Acquire) => "asking",
            _ if refused_by_peers.is_some() => "refused",
            _ if stopped => "stopped",
            None => "waiting",
            Some(ServerState::Leader) if shared.is_superseded() => "follower",
            Some(ServerState::Leader) => "leader",
            Some(_) if shared.claim.role == Role::Witness => "witness",
            Some(ServerState::Follower) => "follower",
            Some(ServerState::Candidate) => "candidate",
            Some(ServerState::Learner) => "learner",
            Some(ServerState::Shutdown) => "stopped",
        };
        ReplicaStatus {
            state,
            leader: shared.leader(),
            term,
            last_log_index,
            committed_index,
            applied_index: applied.log_id.map_or(0, |id| id.index),
            frontier_index: shared.frontier.next().saturating_sub(1),
            frontier_revision: shared
                .frontier
                .next()
                .checked_sub(1)
                .and_then(|at| shared.store.revision_at_index(at))
                .unwrap_or(0),
            protection: shared.protection_status(),
            failover: shared.failover_status(),
            goal: shared.goal_status(),
            revision: applied.revision,
            members: shared.members(),
            voter_sets: shared
                .with_metrics(|metrics| metrics.membership_config.membership().get_joint_config().clone())
                .unwrap_or_default(),
            membership_index: shared
                .with_metrics(|metrics| metrics.membership_config.log_id().as_ref().map_or(0, |at| at.index))
                .unwrap_or(0),
            disk_free_bytes: shared.free_bytes(),
            disk_min_free_bytes: shared.min_free_bytes(),
            data_bytes: shared.store.data_bytes(),
            log_syncs: shared.log.stats().syncs,
            log_bytes: shared.log.bytes_from(0),
            log_keep_bytes: shared.log_keep_bytes,
            log_first_index: shared.log.state().last_purged.map_or(0, |purged| purged.index + 1),
            writes_refused: shared.writes_refused().or_else(|| shared.hung_leader()),
            disk_hangs: shared.log_hangs(),
            replication: shared
                .matched()
                .unwrap_or_default()
                .into_iter()
                .map(|(id, index)| (id, index.unwrap_or(0)))
                .collect(),
            round_trips: shared.links.round_trips(),
            clocks_ahead_us: shared.links.clocks_ahead_us(),
            timing: shared.timing,
            log_kept: if shared.is_leader() { shared.log_kept.lock().clone() } else { Vec::new() },
            refused_by_peers,
            refusals: shared.links.refusals().into_iter().map(|(id, refusal)| (id, refusal.message)).collect(),
            cluster_id: identity.as_ref().map(|own| own.cluster_id),
            epoch: identity.as_ref().map_or(0, |own| own.epoch),
            twin_epoch: shared.twin_epoch(),
            adopted: identity.is_some(),
            scrub: shared.copy.status(&shared.store),
        }
    }
}

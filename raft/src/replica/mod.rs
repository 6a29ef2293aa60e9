//! One node's part in the cluster, behind a facade that shows no openraft type.
//!
//! Reading order: this file (what a replica is made of), `start` (life), `propose` and `barrier` with `confirm` (writes and reads), `quorum_age`
//! with `staleness` (how old a state is),
//! `protection` and `sites` (what an acknowledgement waits for, and the leader's watch over the other site), `failover` (who campaigns, and leadership's way home), `goal` (what a membership must bear), `shrink` (the votes of a site that stays away), `release` (what a witness may forget),
//! `init`, `admin`, `changes` with `newcomer`, `handover` (making a cluster, operators' verbs, membership, leadership),
//! `room` (free space), `stall` (a disk that hangs), `maintenance` (flushing, purging), `collector` (old versions),
//! `offers` with `fetch` and `exports` (snapshots), `copy` with `scrub`, `compare` and `repair` (is this node's copy of the
//! records right, and what if not), `renew` (a start on records that cannot be used), `lineage`, `standing` and `promote` (epochs: who
//! takes no part any more, and how a site goes on without the other by force), `former` with `reinstate` (who was left behind,
//! and how they come back), `status`.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::metrics::RaftMetrics;
use parking_lot::{Mutex, RwLock};
use prost::Message;
use saola_storage::import::Shipped;
use saola_storage::log::Log;
use saola_storage::release::RELEASE;
use saola_storage::store::{Collection, Store};
use saola_storage::types::{LogId, NodeId};
use tokio::sync::{mpsc, watch};

use crate::acknowledgements::Acknowledgements;
use crate::admission::Processes;
use crate::clock;
use crate::folder::{DataFolder, FolderClaim, NodeIdentity};
use crate::frontier::FrontierCell;
use crate::heard_back::HeardBack;
use crate::links::Links;
use crate::member::{Member, MembershipRecord, Role, members_of};
use crate::peer::PeerService;
use crate::pins::{Announcement, PinError, Pins};
use crate::state_machine::StateMachine;
use crate::timing::Timing;
use crate::transport::Transport;
use crate::types::{Runtime, TokioRuntime, TypeConfig, detach, log_id_from};
use crate::wire::{Header, Identity, WIRE_VERSION};

mod admin;
mod barrier;
mod changes;
mod collector;
mod compare;
mod confirm;
mod copy;
mod exports;
mod failover;
mod fetch;
mod former;
mod goal;
mod handover;
mod init;
mod lineage;
mod maintenance;
mod newcomer;
mod offers;
mod promote;
mod propose;
mod protection;
mod quorum_age;
mod reinstate;
mod release;
mod renew;
mod repair;
mod room;
mod scrub;
mod shrink;
mod sites;
mod staleness;
mod stall;
mod standing;
mod start;
mod status;

pub use admin::AdminError;
pub use barrier::{ReadError, ReadPoint};
pub use collector::CollectorSettings;
pub use copy::{ScrubSettings, ScrubStatus};
pub use failover::FailoverStatus;
pub use former::{Former, FormerStanding};
pub use goal::GoalStatus;
pub(crate) use handover::Writes;
pub use promote::{Begun, Told};
pub use propose::ProposeError;
pub use protection::ProtectionStatus;
pub use reinstate::ORPHANS;
pub use sites::{Missing, Seen};
#[cfg(feature = "rocksdb")]
pub use start::ReplicaLimits;
pub use start::{ReplicaParts, ReplicaSettings, StartError};
pub use status::ReplicaStatus;

pub(crate) type RaftOf<RT> = openraft::Raft<TypeConfig<RT>, StateMachine<RT>>;
type InstantOf<RT> = <RT as openraft::AsyncRuntime>::Instant;

/// Answers the bytes that peers get when they ask how this node is.
pub type StatusSource = Box<dyn Fn() -> Vec<u8> + Send + Sync>;

/// Wall clock in microseconds since 1970.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Everything that the parts of one node share.
pub(crate) struct Shared<RT: Runtime> {
    pub(crate) claim: FolderClaim,
    pub(crate) store: Arc<Store>,
    pub(crate) log: Log,
    pub(crate) frontier: Arc<FrontierCell>,
    pub(crate) links: Links<InstantOf<RT>>,
    pub(crate) acknowledgements: Mutex<Acknowledgements<InstantOf<RT>>>,
    /// On a leader: its term, and the newest acknowledgement of the other site that no other leader preceded.
    acknowledged: Mutex<Option<(u64, InstantOf<RT>)>>,
    /// At the other site: when the leader last counted one.
    pub(crate) heard_back: Mutex<HeardBack<InstantOf<RT>>>,
    /// On a leader: how the sites stand to each other.
    protection_seen: Mutex<Option<sites::Seen>>,
    /// Leadership is about to go to another node on purpose.
    is_moving: AtomicBool,
    /// Somebody told this voter to campaign for a lost site, although that is held.
    told_to_campaign: AtomicBool,
    /// A site is lost, and this voter does not campaign for it: why.
    held_back: Mutex<Option<String>>,
    pub(crate) processes: Processes,
    /// States that other nodes pull from this one.
    exports: exports::Exports<InstantOf<RT>>,
    /// The state that this node pulls.
    offers: offers::Offers,
    /// Drawn when this process started: tells it from another one on a copy of its folder.
    boot_id: [u8; 16],
    pub(crate) transport: Arc<dyn Transport>,
    folder: Mutex<DataFolder>,
    identity: RwLock<Option<NodeIdentity>>,
    timing: Timing,
    wall_clock: WallClock,
    clock_off: AtomicBool,
    applied_next: watch::Sender<u64>,
    /// Log index of the newest digest of the applied state.
    digest_taken: watch::Sender<u64>,
    raft: OnceLock<RaftOf<RT>>,
    /// When a leader last spoke.
    heard: Mutex<Option<InstantOf<RT>>>,
    /// The same, of leaders that keep records: a witness that leads in between says nothing of the sites.
    heard_data_leader: Mutex<Option<InstantOf<RT>>>,
    /// Highest term of a leader that has spoken.
    heard_term: AtomicU64,
    /// What leaders said of their frontier and their quorum.
    staleness: Mutex<staleness::Staleness<InstantOf<RT>>>,
    disk_free_bytes: AtomicU64,
    min_free_bytes: u64,
    keep_entries: u64,
    flush_every: Duration,
    log_keep_bytes: u64,
    log_keep_for: Duration,
    /// On a leader: what the log keeps for members that are dead.
    log_kept: Mutex<Vec<(NodeId, String)>>,
    collector: CollectorSettings,
    /// Revisions that this node has promised to keep readable.
    pub(crate) pins: Pins<InstantOf<RT>>,
    /// What this node, as leader, wants to have collected.
    announcement: Mutex<Announcement>,
    /// On a leader: why no quorum of voters has room for another write, if so.
    no_quorum_with_room: Mutex<Option<String>>,
    /// What is known of this node's copy of the records.
    pub(crate) copy: copy::CopyCell,
    stall: Mutex<stall::Stall>,
    /// Why this folder must not vote or acknowledge, if so.
    refused: Mutex<Option<String>>,
    /// What this node waits for before it takes part: other records, or word of its epoch. Unlike `refused` it ends by itself.
    waiting_for: Mutex<Option<String>>,
    stopped: watch::Sender<Option<String>>,
    /// When a message of a leader was sent at the earliest, and how long before that a quorum had confirmed it.
    quorum_heard: Mutex<Option<(InstantOf<RT>, Duration)>>,
    /// An operator lets this node take part although nobody has told it of its epoch.
    may_go_unasked: AtomicBool,
    /// Raft will run as soon as somebody has told this node that its epoch is the newest.
    asks_its_epoch: AtomicBool,
    /// The members that the log tells of, as long as Raft has not run.
    members_at_start: OnceLock<Vec<Member>>,
    /// The first command of this epoch has been applied, if a promotion began it.
    epoch_is_open: AtomicBool,
    /// What came when this node came back from a side that was left behind.
    shipped: Mutex<Option<Shipped>>,
    twin: Mutex<Option<former::Twin<InstantOf<RT>>>>,
    /// A peer of a later epoch is being asked for its record.
    asks_for_epoch: AtomicBool,
    /// This process should start anew on its folder, which says another epoch now.
    starts_anew: watch::Sender<bool>,
    proposals: mpsc::Sender<propose::Queued>,
    /// Held for reading while a batch of writes is proposed, for writing while leadership is handed over: then writes wait
    /// in the queue.
    proposing: Arc<tokio::sync::RwLock<()>>,
    /// One permit for each entry that may be proposed and not applied.
    in_flight: Arc<tokio::sync::Semaphore>,
    barriers: mpsc::Sender<barrier::Waiting>,
    status_source: RwLock<Option<StatusSource>>,
    /// Held by each step that changes what the folder says of epochs, from what it goes by until it is durable.
    lineage: tokio::sync::Mutex<()>,
    /// Held by each step that changes the membership, the leader, or what this node belongs to.
    admin: tokio::sync::Mutex<()>,
}

/// One node's part in the cluster. Clones share it.
pub struct Replica<RT: Runtime = TokioRuntime> {
    pub(crate) shared: Arc<Shared<RT>>,
}

impl<RT: Runtime> Clone for Replica<RT> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<RT: Runtime> Replica<RT> {
    /// Records, collections and key ring of this node. Views of it show applied state: read them at a revision from
    /// [`Replica::read_point`] or [`Replica::stale_point`].
    pub fn store(&self) -> &Arc<Store> {
        &self.shared.store
    }

    /// Who this node is: by its settings, and by what promotions and reinstatements made of it.
    pub fn claim(&self) -> &FolderClaim {
        &self.shared.claim
    }

    /// Promises that a collection can be read as of a revision for a minute from now, at this node and every other, so
    /// that a page token outlives a collection of old versions. Half of [`Timing`]'s 400 election maxima if that is less.
    ///
    /// # Errors
    /// [`PinError`] says why not.
    pub fn pin(&self, collection: &Collection, revision: u64) -> Result<(), PinError> {
        let shared = &self.shared;
        let silent = match shared.quorum_age() {
            Some(age) => age,
            None => shared.heard.lock().as_ref().map_or(Duration::MAX, |heard| heard.elapsed()),
        };
        let oldest = || {
            let now = shared.store.view().collection(&collection.name);
            now.filter(|now| now.incarnation == collection.incarnation).map_or(0, |now| now.collected_below)
        };
        shared.pins.pin(collection.number, revision, InstantOf::<RT>::now(), silent, oldest)
    }

    /// Answers peers; hand it to the transport's server.
    pub fn peer_service(&self) -> PeerService<RT> {
        PeerService::new(self.clone())
    }

    /// Resolves once more than the entry at `index` may be shown, or after `limit`.
    pub async fn shown_beyond(&self, index: u64, limit: Duration) {
        let reached = self.shared.frontier.reached(index.saturating_add(1));
        let _the_caller_looks_again = RT::timeout(limit, reached).await;
    }

    /// Sets what this node answers when a peer asks how it is.
    pub fn set_status_source(&self, source: StatusSource) {
        *self.shared.status_source.write() = Some(source);
    }
}

/// Keeps why this node takes no part; false: it was known.
fn is_news(cell: &Mutex<Option<String>>, reason: &str) -> bool {
    let mut known = cell.lock();
    let is_new = known.as_deref() != Some(reason);
    if is_new {
        *known = Some(reason.to_owned());
    }
    is_new
}

impl<RT: Runtime> Shared<RT> {
    pub(crate) fn raft(&self) -> Option<RaftOf<RT>> {
        if self.refused.lock().is_some() {
            return None;
        }
        self.raft.get().cloned()
    }

    pub(crate) fn identity(&self) -> Option<NodeIdentity> {
        self.identity.read().clone()
    }

    /// Reads Raft's metrics without holding them.
    fn with_metrics<T>(&self, read: impl FnOnce(&RaftMetrics<TypeConfig<RT>>) -> T) -> Option<T> {
        let metrics = self.raft.get()?.metrics();
        let borrowed = metrics.borrow_watched();
        Some(read(&borrowed))
    }

    /// Members as this node knows them: Raft's own once it runs, else those of the applied state.
    pub(crate) fn members(&self) -> Vec<Member> {
        let live = self.with_metrics(|metrics| members_of(metrics.membership_config.membership()));
        let live = live.filter(|members| !members.is_empty());
        live.or_else(|| self.members_while_away()).unwrap_or_else(|| {
            let applied = self.store.applied().membership;
            let record = applied.and_then(|(_, bytes)| MembershipRecord::decode(bytes).ok()).unwrap_or_default();
            record.seats.into_iter().filter_map(|seat| seat.member).collect()
        })
    }

    pub(crate) fn member(&self, node_id: NodeId) -> Option<Member> {
        self.with_metrics(|metrics| metrics.membership_config.membership().get_node(&node_id).cloned()).flatten()
    }

    /// The leader, if it is this node or has spoken lately. Raft itself goes on naming a silent one until another
    /// node's campaign succeeds, and pre-votes that fail leave no trace.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        // What Raft said last stays as it was when it is stopped.
        if self.refused.lock().is_some() {
            return None;
        }
        let leader = self.with_metrics(|metrics| metrics.current_leader).flatten()?;
        if leader == self.claim.node_id && self.is_superseded() {
            return None;
        }
        let silent = || self.heard.lock().as_ref().is_none_or(|heard| heard.elapsed() > self.silence());
        (leader == self.claim.node_id || !silent()).then_some(leader)
    }

    /// When a leader last spoke to this node.
    pub(crate) fn last_word(&self) -> Option<InstantOf<RT>> {
        *self.heard.lock()
    }

    /// After so long a silence a leader counts as lost.
    fn silence(&self) -> Duration {
        Duration::from_millis(self.timing.election_max_ms)
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.leader() == Some(self.claim.node_id)
    }

    /// Header of a message to `to`. `term` is the sender's leadership term, 0 when it does not speak as leader.
    pub(crate) fn header(&self, to: &Member, term: u64) -> Header {
        let cluster = self.identity();
        let (claim, folder_id) = (&self.claim, self.folder.lock().folder_id());
        Header {
            wire_version: WIRE_VERSION,
            group_id: cluster.as_ref().map_or(0, |own| own.group_id),
            cluster_id: cluster.as_ref().map(|own| Bytes::copy_from_slice(&own.cluster_id)).unwrap_or_default(),
            epoch: cluster.as_ref().map_or(0, |own| own.epoch),
            plan: cluster.map_or(0, |own| own.plan),
            from: claim.node_id,
            to: to.node_id,
            from_folder: Bytes::copy_from_slice(&folder_id),
            to_folder: to.folder_id.clone(),
            from_role: claim.role as i32,
            from_site: claim.site.clone(),
            from_name: claim.name.clone(),
            counted_next: if term == 0 { 0 } else { self.links.counted_next(to.node_id, term) },
            counted_term: term,
            member_at: self.member_at().map(Into::into),
            from_boot: Bytes::copy_from_slice(&self.boot_id),
            release: RELEASE.to_owned(),
        }
    }

    /// Entry that set the newest membership of this node's log that this node is in.
    fn member_at(&self) -> Option<LogId> {
        let own_id = self.claim.node_id;
        let newest = self.with_metrics(|metrics| {
            let in_it = metrics.membership_config.membership().get_node(&own_id).is_some();
            metrics.membership_config.log_id().as_ref().filter(|_| in_it).map(log_id_from::<RT>)
        });
        newest.flatten().or_else(|| {
            let (at, bytes) = self.store.applied().membership?;
            let record = MembershipRecord::decode(bytes).ok()?;
            record.seats.iter().any(|seat| seat.node_id == own_id).then_some(at)
        })
    }

    /// First index that this node's log does not reach.
    pub(crate) fn flushed_next(&self) -> u64 {
        let state = self.log.state();
        state.last.max(state.last_purged).map_or(0, |last: LogId| last.index + 1)
    }

    /// How long an append, or the opening of its stream, may stay unanswered before it is given up.
    pub(crate) fn stall_limit(&self) -> Duration {
        Duration::from_millis(5 * self.timing.election_max_ms)
    }

    /// This node's wall clock, microseconds since 1970.
    pub(crate) fn now_us(&self) -> u64 {
        (self.wall_clock)()
    }

    /// Time to stamp an entry with; raises or clears the alarm about this node's clock.
    fn stamp_us(&self) -> u64 {
        let voters = self.with_metrics(|metrics| metrics.membership_config.voter_ids().collect::<Vec<_>>());
        let others = voters.unwrap_or_default().into_iter().filter(|id| *id != self.claim.node_id);
        let stamp = clock::stamp(self.now_us(), &self.links.clock_offsets_us(others));
        let was_off = self.clock_off.swap(stamp.off_by_us.is_some(), Ordering::Relaxed);
        match stamp.off_by_us {
            Some(off_by_us) if !was_off => tracing::error!(
                off_by_us,
                "this leader's clock is far from the voters' median, which stamps entries instead: set this machine's clock"
            ),
            None if was_off => tracing::info!("this leader's clock agrees with the voters again"),
            _ => {}
        }
        stamp.stamp_us
    }

    /// `role`: the sender's.
    pub(crate) fn heard_leader(&self, role: i32, term: u64, frontier_next: u64, needed_from: u64) {
        let current = self.with_metrics(|metrics| metrics.current_term).unwrap_or(0);
        // A leader of an older term is about to be refused by Raft; what it says counts for nothing.
        if term >= current {
            self.heard_term.fetch_max(term, Ordering::AcqRel);
            let now = Some(InstantOf::<RT>::now());
            *self.heard.lock() = now;
            if role != Role::Witness as i32 {
                *self.heard_data_leader.lock() = now;
            }
            self.frontier.heard(frontier_next);
            self.links.set_needed_from(needed_from);
        }
    }

    pub(crate) fn set_refused(&self, reason: String) {
        if is_news(&self.refused, &reason) {
            tracing::error!("{reason}");
        }
    }

    fn set_waiting_for(&self, reason: String) {
        if is_news(&self.waiting_for, &reason) {
            tracing::warn!("{reason}");
        }
    }

    /// Takes this node out of Raft for good: its folder must not vote or acknowledge.
    pub(crate) fn refuse_to_run(&self, reason: String) {
        if self.refused.lock().is_some() {
            return;
        }
        self.set_refused(reason);
        if let Some(raft) = self.raft.get().cloned() {
            detach::<RT>(async move {
                if let Err(error) = raft.shutdown().await {
                    tracing::error!("stop Raft: {error}");
                }
            });
        }
    }

    pub(crate) fn status_bytes(&self) -> Bytes {
        match &*self.status_source.read() {
            Some(source) => source().into(),
            None => Bytes::new(),
        }
    }

    fn own_member(&self) -> Member {
        let folder = self.folder.lock();
        Member {
            node_id: self.claim.node_id,
            name: self.claim.name.clone(),
            site: self.claim.site.clone(),
            role: self.claim.role as i32,
            peer_address: String::new(),
            client_address: String::new(),
            folder_id: Bytes::copy_from_slice(&folder.folder_id()),
            demoted: false,
        }
    }

    pub(crate) fn describe_self(&self) -> Identity {
        let state = self.log.state();
        Identity {
            cluster_id: self.identity().map(|own| Bytes::copy_from_slice(&own.cluster_id)).unwrap_or_default(),
            member: Some(self.own_member()),
            fresh: state.last.is_none() && state.last_purged.is_none() && state.vote.is_none(),
            last: state.last.max(state.last_purged).map(Into::into),
            leader: self.leader().unwrap_or(0),
            boot_id: Bytes::copy_from_slice(&self.boot_id),
            runs: self.raft().is_some(),
            copy_is_bad: self.copy.is_bad(),
            // Read before it: what it says holds at least for that much.
            applied_next: Some(*self.applied_next.borrow()),
            holds_back_for: self.holds_back_for(),
        }
    }

    /// Resolves once this node has applied the entry at `index`.
    async fn applied(&self, index: u64) {
        let mut changes = self.applied_next.subscribe();
        // The sender lives in `self`, so waiting can only end with the condition.
        let _applied = changes.wait_for(|next| *next > index).await;
    }

    /// Runs `attempt` until it gives an answer or the deadline passes, with a short pause in between. It does not wait
    /// for news from Raft instead: a refused attempt is news too, and would start the next one at once.
    async fn until_deadline<T, F>(&self, deadline: InstantOf<RT>, mut attempt: impl FnMut() -> F) -> Option<T>
    where
        F: Future<Output = Option<T>>,
    {
        let pause = self.pause();
        loop {
            if let Some(answer) = attempt().await {
                return Some(answer);
            }
            let now = InstantOf::<RT>::now();
            if now >= deadline {
                return None;
            }
            RT::sleep(pause.min(deadline - now)).await;
        }
    }

    /// Between two attempts at what is expected to work in a moment.
    fn pause(&self) -> Duration {
        Duration::from_millis(self.timing.heartbeat_ms / 10 + 1)
    }

    pub(crate) fn election_min_ms(&self) -> u64 {
        self.timing.election_min_ms
    }

    pub(crate) fn election_max_ms(&self) -> u64 {
        self.timing.election_max_ms
    }

    pub(crate) fn has_stopped(&self) -> bool {
        self.stopped.borrow().is_some()
    }

    /// Highest index that `node_id` has flushed, as this leader knows; `None` when this node does not lead.
    pub(crate) fn matched_index(&self, node_id: NodeId) -> Option<Option<u64>> {
        self.matched()?.get(&node_id).copied()
    }

    fn matched(&self) -> Option<BTreeMap<NodeId, Option<u64>>> {
        self.with_metrics(|metrics| {
            metrics
                .replication
                .as_ref()
                .map(|replication| replication.iter().map(|(id, log_id)| (*id, log_id.map(|l| l.index))).collect())
        })
        .flatten()
    }
}

//! A replica's life: from a data folder to a running Raft, and back.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Duration;

use openraft::Instant as _;
use openraft::async_runtime::watch::WatchReceiver as _;
use parking_lot::{Mutex, RwLock};
use saola_storage::error::StoreError;
use saola_storage::log::Log;
use saola_storage::promotion::epoch_id;
use saola_storage::store::Store;
use tokio::sync::{mpsc, watch};

use super::admin::to_its_end;
use super::copy::{CopyCell, ScrubSettings};
use super::exports::Exports;
use super::staleness::Staleness;
use super::stall::{self, Stall};
use super::{
    AdminError, CollectorSettings, InstantOf, Replica, Shared, WallClock, Writes, barrier, changes, collector, compare,
    failover, former, maintenance, promote, propose, room, scrub, shrink, sites,
};
use crate::acknowledgements::Acknowledgements;
use crate::admission::{self, Processes};
use crate::folder::{DataFolder, FolderError, NodeIdentity};
use crate::frontier::FrontierCell;
use crate::heard_back::HeardBack;
use crate::links::Links;
use crate::log_store::LogStore;
use crate::member::Role;
use crate::network::Network;
use crate::pins::Pins;
use crate::repair::RepairError;
use crate::state_machine::StateMachine;
use crate::timing::Timing;
use crate::transport::Transport;
use crate::types::{Runtime, Takes, detach};
use crate::wire::{Adopt, Refusal, RefusalCode};
use crate::witness;

/// How a replica behaves.
#[derive(Clone)]
pub struct ReplicaSettings {
    /// Raft's timers.
    pub timing: Timing,
    /// Below this much free disk the node takes no writes.
    pub min_free_bytes: u64,
    /// Clock that stamps entries when this node leads.
    pub wall_clock: WallClock,
    /// The log keeps at least so many applied entries, so that a follower that was away for a moment needs no snapshot.
    pub keep_entries: u64,
    /// The state machine is flushed, and the log purged, at this interval.
    pub flush_every: Duration,
    /// The log may hold so many bytes for members that are dead; then those members need a snapshot.
    pub log_keep_bytes: u64,
    /// It holds them for so long.
    pub log_keep_for: Duration,
    /// Bytes of its records that this node sends to other nodes in a second, over all of them.
    pub snapshot_bytes_per_s: u64,
    /// How the copy of the records is checked.
    pub scrub: ScrubSettings,
    /// How old versions are removed when this node leads.
    pub collector: CollectorSettings,
}

/// What a replica is made of. [`Replica::start`] makes the production parts from a data folder; the simulator brings
/// its own.
pub struct ReplicaParts {
    /// Locked data folder.
    pub folder: DataFolder,
    /// The log; its writer must be running.
    pub log: Log,
    /// The state machine.
    pub store: Store,
    /// Way to the peers.
    pub transport: Arc<dyn Transport>,
    /// Free bytes of the disk that the log is on.
    pub free_bytes: Box<dyn Fn() -> std::io::Result<u64> + Send + Sync>,
}

/// Why a replica does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Data folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// Log.
    #[error("open log in {path}")]
    Log {
        /// Folder.
        path: PathBuf,
        /// Cause.
        source: RepairError,
    },
    /// State machine.
    #[error("open records in {path}")]
    Store {
        /// Folder.
        path: PathBuf,
        /// Cause.
        source: StoreError,
    },
    /// File system.
    #[error("{action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// Timers.
    #[error("{0}")]
    Timing(String),
    /// Nobody could give this node other records.
    #[error(
        "the records in {path} cannot be used: {why}; no other data node is known that has the same ones: keep the data \
         folder for inquiry (`saola offline` reads what can still be read) and restore a backup into an empty one, or, if \
         the cluster has other nodes, replace this one with `saola cluster replace`; if the disk had only failed for a \
         while, start again once it reads well: records that are whole are used again"
    )]
    Ruined {
        /// Folder.
        path: PathBuf,
        /// What is wrong with them.
        why: String,
    },
    /// openraft.
    #[error("start Raft: {0}")]
    Raft(String),
}

impl<RT: Runtime> Replica<RT> {
    /// Starts a replica from its parts. Raft runs at once if the folder belongs to a cluster, else once it is adopted. If
    /// the records cannot be used, other ones are pulled first: serve peers meanwhile, and see the status.
    pub async fn start_with(parts: ReplicaParts, settings: ReplicaSettings) -> Result<Self, StartError> {
        settings.timing.check().map_err(StartError::Timing)?;
        let ReplicaParts { folder, log, store, transport, free_bytes } = parts;
        let identity = folder.identity();
        let (proposals, proposal_queue) = mpsc::channel(propose::QUEUE);
        let (barriers, barrier_queue) = mpsc::channel(barrier::QUEUE);
        let first_free_bytes = free_bytes().map_err(|source| StartError::Io {
            action: "ask for the free space of",
            path: folder.path().to_owned(),
            source,
        })?;
        let no_record = folder.lineage().record.is_none();
        let shared = Arc::new(Shared {
            claim: folder.claim().clone(),
            store: Arc::new(store),
            log,
            frontier: Arc::new(FrontierCell::new(folder.claim().role.is_data().then_some(folder.claim().node_id))),
            links: Links::default(),
            acknowledgements: Mutex::new(Acknowledgements::new(Duration::from_millis(
                settings.timing.heartbeat_ms / 4,
            ))),
            acknowledged: Mutex::new(None),
            heard_back: Mutex::new(HeardBack::new(
                rand::RngExt::random(&mut RT::thread_rng()),
                Duration::from_millis(settings.timing.heartbeat_ms / 4),
            )),
            protection_seen: Mutex::new(None),
            is_moving: AtomicBool::new(false),
            told_to_campaign: AtomicBool::new(false),
            held_back: Mutex::new(None),
            processes: Processes::default(),
            exports: Exports::new(settings.snapshot_bytes_per_s),
            offers: Default::default(),
            boot_id: rand::RngExt::random(&mut RT::thread_rng()),
            transport,
            folder: Mutex::new(folder),
            identity: RwLock::new(identity.clone()),
            timing: settings.timing,
            wall_clock: settings.wall_clock,
            clock_off: AtomicBool::new(false),
            applied_next: watch::Sender::new(0),
            digest_taken: watch::Sender::new(0),
            raft: OnceLock::new(),
            heard: Mutex::new(None),
            heard_data_leader: Mutex::new(None),
            heard_term: AtomicU64::new(0),
            staleness: Mutex::new(Staleness::new()),
            disk_free_bytes: AtomicU64::new(first_free_bytes),
            min_free_bytes: settings.min_free_bytes,
            keep_entries: settings.keep_entries,
            flush_every: settings.flush_every,
            log_keep_bytes: settings.log_keep_bytes,
            log_keep_for: settings.log_keep_for,
            log_kept: Mutex::default(),
            collector: settings.collector,
            pins: Pins::new(InstantOf::<RT>::now(), settings.timing.dead_after()),
            announcement: Mutex::default(),
            no_quorum_with_room: Mutex::new(None),
            copy: CopyCell::new(settings.scrub),
            stall: Mutex::new(Stall::default()),
            refused: Mutex::new(None),
            waiting_for: Mutex::new(None),
            stopped: watch::Sender::new(None),
            quorum_heard: Mutex::new(None),
            may_go_unasked: AtomicBool::new(false),
            asks_its_epoch: AtomicBool::new(false),
            members_at_start: OnceLock::new(),
            shipped: Mutex::new(None),
            epoch_is_open: AtomicBool::new(no_record),
            twin: Mutex::new(None),
            asks_for_epoch: AtomicBool::new(false),
            starts_anew: watch::Sender::new(false),
            proposals,
            proposing: Arc::default(),
            in_flight: Arc::new(tokio::sync::Semaphore::new(propose::ENTRIES_IN_FLIGHT)),
            barriers,
            status_source: RwLock::new(None),
            lineage: tokio::sync::Mutex::new(()),
            admin: tokio::sync::Mutex::new(()),
        });
        detach::<RT>(propose::run(shared.clone(), proposal_queue));
        detach::<RT>(barrier::run(shared.clone(), barrier_queue));
        detach::<RT>(room::watch(shared.clone(), free_bytes));
        let replica = Self { shared };
        match (replica.unusable(), identity) {
            _ if replica.takes_no_part() => {}
            (_, Some(identity)) if replica.shared.lineage().reinstating.is_some() => replica.come_back(identity),
            (Some(why), identity) => replica.renew_first(identity, why)?,
            (None, Some(identity)) => replica.take_part(identity).await?,
            (None, None) => {}
        }
        Ok(replica)
    }

    pub(super) async fn run_raft(&self, identity: &NodeIdentity) -> Result<(), StartError> {
        let shared = &self.shared;
        let may_elect = identity.role == Role::Voter;
        let config = shared.timing.raft_config(may_elect);
        let config = config.validate().map_err(|error| StartError::Raft(error.to_string()))?;
        let news = (shared.applied_next.clone(), shared.digest_taken.clone());
        let site = shared.claim.site.clone();
        let machine = StateMachine::<RT>::new(shared.store.clone(), shared.frontier.clone(), site, news);
        let raft = openraft::Raft::new(
            identity.node_id,
            Arc::new(config),
            Network::new(shared.clone()),
            LogStore::<RT>::new(shared.log.clone()),
            machine,
        )
        .await
        .map_err(|error| StartError::Raft(error.to_string()))?;
        let mut metrics = raft.metrics();
        if shared.raft.set(raft.clone()).is_err() {
            return Err(StartError::Raft("Raft runs already".into()));
        }
        // Whoever refused this node meanwhile found no Raft to stop.
        if shared.refused.lock().is_some()
            && let Err(error) = raft.shutdown().await
        {
            tracing::error!("stop Raft: {error}");
        }
        let watched = shared.clone();
        detach::<RT>(async move {
            loop {
                let fatal = metrics.borrow_watched().running_state.as_ref().err().map(ToString::to_string);
                if fatal.is_some() {
                    watched.stopped.send_replace(fatal);
                    return;
                }
                if metrics.changed().await.is_err() {
                    watched.stopped.send_replace(Some("Raft has ended".into()));
                    return;
                }
            }
        });
        detach::<RT>(stall::watch(shared.clone()));
        detach::<RT>(maintenance::run(shared.clone()));
        if identity.role.is_data() {
            detach::<RT>(scrub::run(self.clone()));
            detach::<RT>(compare::run(self.clone()));
            detach::<RT>(sites::run(self.clone()));
            detach::<RT>(shrink::watch(self.clone()));
            detach::<RT>(promote::complete(self.clone()));
            detach::<RT>(former::watch(self.clone()));
        }
        if may_elect {
            detach::<RT>(failover::watch(self.clone()));
        }
        detach::<RT>(collector::run(self.clone()));
        detach::<RT>(changes::leave_joint_memberships(self.clone()));
        detach::<RT>(admission::greet(shared.clone()));
        if identity.role == Role::Witness {
            detach::<RT>(witness::run(self.clone()));
        }
        Ok(())
    }

    /// Becomes part of a cluster, if this node is fresh and set up to be what the cluster expects. Asked again, it
    /// agrees again; once begun, it ends.
    pub(crate) async fn adopt(&self, adopt: Adopt) -> Result<(), Refusal> {
        let replica = self.clone();
        let adopted = to_its_end::<RT, _>(async move {
            let _one_at_a_time = replica.shared.admin.lock().await;
            replica.adopt_here(adopt).await.map_err(AdminError::from)
        });
        adopted.await.map_err(Refusal::from)
    }

    /// See [`Replica::adopt`]; for callers that hold `Shared::admin`.
    pub(super) async fn adopt_here(&self, adopt: Adopt) -> Result<(), Refusal> {
        let shared = &self.shared;
        let invalid = |message: String| Refusal::new(RefusalCode::Invalid, message);
        let cluster_id: [u8; 16] =
            adopt.cluster_id.as_ref().try_into().map_err(|_| invalid("a cluster id has 16 bytes".into()))?;
        let member = adopt.member.ok_or_else(|| invalid("adoption without a member".into()))?;
        let claim = &shared.claim;
        if (member.node_id, &member.name, &member.site, member.role_value())
            != (claim.node_id, &claim.name, &claim.site, claim.role)
        {
            return Err(invalid(format!(
                "the topology calls the node at {} {} {} ({}, site {}), its own settings say {} {} ({}, site {}): \
                 correct one of them",
                member.peer_address,
                member.role_value().as_str(),
                member.node_id,
                member.name,
                member.site,
                claim.role.as_str(),
                claim.node_id,
                claim.name,
                claim.site
            )));
        }
        let own = shared.identity();
        let epoch = epoch_id(adopt.epoch, Some(&adopt.record));
        let is_in_it = |own: &NodeIdentity| own.epoch == epoch.number && !own.epoch_id().is_twin_of(epoch);
        let same = own.is_some_and(|own| own.cluster_id == cluster_id && is_in_it(&own));
        if same && shared.lineage().reinstating.is_some() {
            // It runs once it has the records.
            return Ok(());
        }
        if let Some(why) = self.keeps_out() {
            return Err(invalid(why));
        }
        if let Some(why) = self.unusable() {
            return Err(invalid(format!("this node waits for other records before it takes part: {why}")));
        }
        if same && shared.raft.get().is_some() {
            let refused = shared.refused.lock().clone();
            return refused.map_or(Ok(()), |reason| Err(invalid(reason)));
        }
        if !same && !shared.describe_self().fresh {
            return Err(invalid(format!(
                "node {} ({}) belongs to another cluster already: give it an empty data folder first",
                claim.node_id, claim.name
            )));
        }
        let record = Some(adopt.record).filter(|record| !record.is_empty());
        let adopted = shared.folder.lock().adopt(cluster_id, adopt.epoch, record);
        let identity = adopted.map_err(|error| invalid(error.to_string()))?;
        shared.log.set_epoch(identity.epoch_id());
        *shared.identity.write() = Some(identity.clone());
        *shared.refused.lock() = None;
        if shared.raft.get().is_none() {
            self.run_raft(&identity).await.map_err(|error| invalid(error.to_string()))?;
        }
        tracing::info!(node = claim.node_id, "adopted into a cluster");
        Ok(())
    }

    /// Hands leadership over if this node leads, then stops Raft.
    pub async fn shutdown(&self) {
        let shared = &self.shared;
        if let Some(reason) = shared.log_hangs() {
            tracing::error!("stopping without waiting for the disk: {reason}");
            return;
        }
        // A witness that leads does so to decide who may: see `witness`.
        if shared.is_leader()
            && shared.role().is_data()
            && let Some(to) = self.successor().await
            && let Err(error) = self.transfer_here(to, Writes::MayBeUnderWay).await
        {
            tracing::warn!("hand leadership over before stopping: {error}");
        }
        if let Some(raft) = shared.raft.get()
            && let Err(error) = raft.shutdown().await
        {
            tracing::error!("stop Raft: {error}");
        }
        let store = shared.store.clone();
        if let Err(error) = RT::disk(Takes::Long, move || store.flush()).await {
            tracing::error!("flush records before stopping: {error}");
        }
    }

    /// Resolves when Raft has stopped, with the reason.
    pub async fn stopped(&self) -> String {
        let mut changes = self.shared.stopped.subscribe();
        match changes.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the replica is gone".into(),
        }
    }

    /// Resolves once something could be waited for no longer than `limit`; false when the limit passed first.
    pub(crate) async fn within(&self, limit: Duration, mut condition: impl FnMut(&Shared<RT>) -> bool) -> bool {
        let until = super::InstantOf::<RT>::now() + limit;
        self.shared.until_deadline(until, || std::future::ready(condition(&self.shared).then_some(()))).await.is_some()
    }
}

#[cfg(feature = "rocksdb")]
pub use production::ReplicaLimits;

#[cfg(feature = "rocksdb")]
mod production {
    use std::time::{SystemTime, UNIX_EPOCH};

    use saola_storage::disk::{Disk, Hang, RealDisk};
    use saola_storage::engine::rocks::{RocksHome, RocksSettings};
    use saola_storage::log::LogSettings;
    use saola_storage::store::{Keeps, StoreSettings};

    use super::*;
    use crate::repair::{Repair, open_log};
    use crate::types::TokioRuntime;

    /// Some seconds of a busy cluster.
    const KEEP_ENTRIES: u64 = 100_000;
    /// What a start replays of the log is at most what came in so long, and a little more.
    const FLUSH_EVERY: Duration = Duration::from_secs(30);

    /// What an operator bounds.
    #[derive(Clone, Copy, Debug)]
    pub struct ReplicaLimits {
        /// See [`ReplicaSettings::min_free_bytes`].
        pub min_free_bytes: u64,
        /// See [`ReplicaSettings::log_keep_bytes`].
        pub log_keep_bytes: u64,
        /// See [`ReplicaSettings::log_keep_for`].
        pub log_keep_for: Duration,
        /// See [`ReplicaSettings::snapshot_bytes_per_s`].
        pub snapshot_bytes_per_s: u64,
    }

    impl Replica<TokioRuntime> {
        /// Opens log and records in the folder and starts. The log's writer has a thread of its own, which ends the
        /// process when the disk fails: nothing that a failed disk says afterwards can be trusted. `hang` holds the
        /// log's syncs up. `waits` is told what a start on a damaged log waits for.
        pub async fn start(
            folder: DataFolder,
            transport: Arc<dyn Transport>,
            timing: Timing,
            limits: ReplicaLimits,
            scrub: ScrubSettings,
            hang: Hang,
            waits: &watch::Sender<Option<String>>,
        ) -> Result<Self, StartError> {
            let log_path = folder.path().join("log");
            let db_path = folder.path().join("db");
            let (keeps, memory) = match folder.claim().role.is_data() {
                true => (Keeps::Records, RocksSettings::RECORDS),
                false => (Keeps::LogIdsOnly, RocksSettings::LOG_IDS_ONLY),
            };
            let open_folder = || {
                folder.put_aside()?;
                std::fs::create_dir_all(&log_path)?;
                std::fs::File::open(folder.path())?.sync_all()?;
                Ok(RealDisk::open(&log_path)?.held_up_by(hang))
            };
            let disk = Arc::new(open_folder().map_err(|source| StartError::Io {
                action: "open log folder",
                path: log_path.clone(),
                source,
            })?);
            let home = Arc::new(RocksHome::new(&db_path, memory).note_at(folder.path().join("members")));
            let store = Store::open(home, keeps, StoreSettings::default())
                .map_err(|source| StartError::Store { path: db_path, source })?;
            let repair = Repair { folder: &folder, store: &store, transport: transport.clone(), timing, waits };
            let (log, writer) = open_log::<TokioRuntime, _>(disk.clone(), LogSettings::default(), repair)
                .await
                .map_err(|source| StartError::Log { path: log_path, source })?;
            std::thread::Builder::new()
                .name("saola-log".into())
                .spawn(move || {
                    writer.run(|error| {
                        tracing::error!("the log has failed, this process ends: {error}");
                        std::process::exit(1);
                    })
                })
                .map_err(|source| StartError::Io {
                    action: "start the log's thread for",
                    path: folder.path().to_owned(),
                    source,
                })?;
            let parts = ReplicaParts { folder, log, store, transport, free_bytes: Box::new(move || disk.free_bytes()) };
            let settings = ReplicaSettings {
                timing,
                min_free_bytes: limits.min_free_bytes,
                wall_clock: wall_clock(),
                keep_entries: KEEP_ENTRIES,
                flush_every: FLUSH_EVERY,
                log_keep_bytes: limits.log_keep_bytes,
                log_keep_for: limits.log_keep_for,
                snapshot_bytes_per_s: limits.snapshot_bytes_per_s,
                scrub,
                collector: CollectorSettings::default(),
            };
            let replica = Self::start_with(parts, settings).await?;
            let watched = replica.clone();
            detach::<TokioRuntime>(async move {
                let reason = watched.stopped().await;
                if watched.shared.ended_by_stall() {
                    // Nothing may wait for the disk any more, so nothing is stopped in order.
                    tracing::error!("this process ends: {reason}");
                    std::process::exit(1);
                }
            });
            Ok(replica)
        }
    }

    /// The one place where the wall clock enters: entries are stamped with it.
    fn wall_clock() -> WallClock {
        Arc::new(|| {
            #[expect(clippy::disallowed_methods, reason = "production's wall clock; the simulator brings its own")]
            let now = SystemTime::now();
            now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
        })
    }
}

//! The state machine's owner: applies entries one call at a time and hands out views.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};

use crate::apply::{self, Applying, Machine};
use crate::command::Outcome;
use crate::digest::Buckets;
use crate::engine::{Batch, Engine, EngineError, EngineHome, EngineView, Kind};
use crate::epoch::{Approvers, Epoch};
use crate::error::StoreError;
use crate::export::Export;
use crate::failover::FailoverState;
use crate::failpoint::{Failpoint, reach};
use crate::goal::Goal;
use crate::import::{Import, ImportError};
use crate::keyspace::meta::{self, AppliedRow};
use crate::keyspace::{decode_value, encode_value, format};
use crate::orphan::{Head, OrphanWriter};
use crate::protection::ProtectionState;
use crate::quarantine::{Damage, Held, Quarantine, Watch};
use crate::read::ViewState;
use crate::scrub::Scrub;
use crate::types::LogId;

pub use crate::apply::{Applied, ApplyEntry, ApplyPayload, Counts, Keeps, SkipTo};
pub use crate::catalog::StoreInfo;
pub use crate::keyspace::collections::Collection;
pub use crate::keyspace::versions::VersionOp;
pub use crate::read::{At, StoredVersion, View};
pub use crate::ruin::SecondLook;

/// Applied entries whose revision is remembered.
const TRAIL: usize = 65_536;

/// What can be chosen. Equal on all nodes of a cluster: apply depends on it.
#[derive(Clone, Copy, Debug)]
pub struct StoreSettings {
    /// Most outcomes that the request table keeps over all clients.
    pub max_request_entries: usize,
}

impl Default for StoreSettings {
    fn default() -> StoreSettings {
        StoreSettings { max_request_entries: 100_000 }
    }
}

/// The replicated state of one node. Cheap to clone; clones share the state.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub home: Arc<dyn EngineHome>,
    pub keeps: Keeps,
    pub settings: StoreSettings,
    pub writer: Mutex<Writer>,
    published: ArcSwap<ViewState>,
    /// Entry that set the membership that was written down beside the engines.
    pub noted: Mutex<Option<LogId>>,
    /// Index and revision after each of the newest applied entries.
    trail: RwLock<VecDeque<(u64, u64)>>,
    flushed: Mutex<Option<LogId>>,
    catalog_version: AtomicU64,
    pub watch: Arc<Watch>,
}

pub(crate) struct Writer {
    pub engine: Arc<dyn Engine>,
    pub machine: Machine,
    /// Why nothing more may be applied.
    pub stopped: Option<String>,
    /// That is because the copy cannot be used any more: see `ruin`.
    pub ruined: bool,
}

impl Store {
    /// Opens the current state of a home; an empty home becomes an empty store. What has not been flushed is gone:
    /// [`Store::applied`] says from where the log must be applied again. Records that are too damaged to be opened give
    /// a store that can only take another node's: [`Store::ruined`].
    ///
    /// # Errors
    /// The engine cannot be opened, a witness's row is damaged, or the home belongs to a node of another role.
    pub fn open(home: Arc<dyn EngineHome>, keeps: Keeps, settings: StoreSettings) -> Result<Store, StoreError> {
        let shared = match Shared::open(Arc::clone(&home), keeps, settings) {
            // A witness has nothing that another node could give it.
            Err(damage) if damage.is_damage() && keeps == Keeps::Records => Shared::ruined(home, settings, &damage)?,
            opened => opened?,
        };
        Ok(Store { shared: Arc::new(shared) })
    }

    /// Why this copy of the records cannot be used, if so. Nothing of it is applied to, served or exported; a received
    /// state ([`Store::import`]) takes its place.
    pub fn ruined(&self) -> Option<String> {
        let writer = self.shared.writer.lock();
        writer.stopped.clone().filter(|_| writer.ruined)
    }

    /// Begins to read a copy that cannot be used ([`Store::ruined`]) through once more. It is of no use if it ends before
    /// `at_least`.
    ///
    /// # Errors
    /// It cannot be opened, or ends too early.
    pub fn look_again(&self, at_least: Option<LogId>) -> Result<SecondLook, StoreError> {
        SecondLook::new(Arc::clone(&self.shared), at_least)
    }

    /// How far the log has been applied.
    pub fn applied(&self) -> Applied {
        self.shared.published.load().applied.clone()
    }

    /// Applies committed entries in log order; one outcome list per entry, one outcome per command (none on a witness).
    ///
    /// # Errors
    /// The engine failed, a row is damaged, or the log holds what this release does not know. The store then refuses
    /// all further entries: the node must be restarted. Damage condemns the copy: [`Store::ruined`].
    pub fn apply(&self, entries: Vec<ApplyEntry>) -> Result<Vec<Vec<Outcome>>, StoreError> {
        self.advance(|machine, view| machine.apply(view, entries))
    }

    /// Has a witness go on behind an entry that it does not get, with what it is told instead; on stable storage when this
    /// returns. Nothing changes when it has applied that entry.
    ///
    /// # Errors
    /// As [`Store::apply`]; or this node keeps records, and nothing has changed.
    pub fn skip_to(&self, to: SkipTo) -> Result<Applied, StoreError> {
        let (found, asked) = (self.shared.keeps, Keeps::LogIdsOnly);
        if found != asked {
            return Err(StoreError::WrongRole { found: found.says(), asked: asked.says() });
        }
        self.advance(|machine, view| machine.skip_to(view, to))?;
        reach(Failpoint::WitnessSkips);
        self.flush()
    }

    fn advance(
        &self,
        by: impl FnOnce(&mut Machine, &dyn EngineView) -> Result<Applying, StoreError>,
    ) -> Result<Vec<Vec<Outcome>>, StoreError> {
        let mut writer = self.shared.writer.lock();
        if let Some(reason) = &writer.stopped {
            return Err(StoreError::Stopped { reason: reason.clone() });
        }
        let advanced = self.advance_locked(&mut writer, by);
        advanced.map_err(|error| self.shared.stop(&mut writer, error))
    }

    fn advance_locked(
        &self,
        writer: &mut Writer,
        by: impl FnOnce(&mut Machine, &dyn EngineView) -> Result<Applying, StoreError>,
    ) -> Result<Vec<Vec<Outcome>>, StoreError> {
        let shared = &*self.shared;
        let before = shared.published.load_full();
        let applying = by(&mut writer.machine, &*before.rows)?;
        reach(Failpoint::ApplyBeforeWrite);
        writer.engine.write(applying.batch)?;
        reach(Failpoint::ApplyAfterWrite);
        let after = view_state(writer.engine.view(), &writer.machine, Arc::clone(&before.quarantine));
        let catalog_changed = !Arc::ptr_eq(&before.catalog, &after.catalog);
        shared.published.store(Arc::new(after));
        if catalog_changed {
            shared.catalog_version.fetch_add(1, Ordering::Release);
        }
        let mut trail = shared.trail.write();
        trail.extend(applying.trail);
        let surplus = trail.len().saturating_sub(TRAIL);
        trail.drain(..surplus);
        Ok(applying.outcomes)
    }

    /// The state after the newest apply call.
    pub fn view(&self) -> View {
        View { state: self.shared.published.load_full() }
    }

    /// The store's revision after an entry; none when it has not been applied or lies too far back (the newest
    /// 65,536 entries since the store was opened are known, and the newest applied one always).
    pub fn revision_at_index(&self, index: u64) -> Option<u64> {
        let trail = self.shared.trail.read();
        let place = trail.binary_search_by_key(&index, |(index, _)| *index).ok()?;
        trail.get(place).map(|(_, revision)| *revision)
    }

    /// Brings everything applied so far to stable storage, and returns what stands there, read back.
    ///
    /// # Errors
    /// The engine failed. Damage condemns the copy: [`Store::ruined`].
    pub fn flush(&self) -> Result<Applied, StoreError> {
        let engine = Arc::clone(&self.shared.writer.lock().engine);
        reach(Failpoint::FlushBefore);
        let flushed = engine.flush().map_err(StoreError::from).and_then(|()| flushed_applied(&*engine));
        reach(Failpoint::FlushAfter);
        let mut writer = self.shared.writer.lock();
        let is_current = Arc::ptr_eq(&engine, &writer.engine);
        let flushed = match flushed {
            Err(error) if is_current && error.is_damage() => return Err(self.shared.stop(&mut writer, error)),
            flushed => flushed?,
        };
        if is_current {
            *self.shared.flushed.lock() = flushed.log_id;
        }
        drop(writer);
        self.shared.note_members(flushed.membership.as_ref());
        self.shared.discard_others();
        Ok(flushed)
    }

    /// Newest entry that is surely on stable storage here.
    pub fn flushed(&self) -> Option<LogId> {
        *self.shared.flushed.lock()
    }

    /// Changes whenever the key ring, the sites or the collections do: a cheap check for caches. Counts from 1 at
    /// every start.
    pub fn keyring_version(&self) -> u64 {
        self.shared.catalog_version.load(Ordering::Acquire)
    }

    /// What an acknowledgement waits for, as of the newest apply call.
    pub fn protection(&self) -> ProtectionState {
        self.shared.published.load().catalog.protection.clone().unwrap_or_default()
    }

    /// What is done when the site that leads is lost, as of the newest apply call.
    pub fn failover(&self) -> FailoverState {
        self.shared.published.load().catalog.failover.clone().unwrap_or_default()
    }

    /// What the cluster is declared to survive, as of the newest apply call.
    pub fn goal(&self) -> Option<Goal> {
        self.shared.published.load().catalog.goal.flatten()
    }

    /// Who may approve a forced promotion, in the applied state, since when; the newest last.
    pub fn approvers(&self) -> Vec<Approvers> {
        self.shared.published.load().catalog.approvers.clone()
    }

    /// The epochs that forced promotions began, in the applied state; the newest last.
    pub fn epochs(&self) -> Vec<Epoch> {
        self.shared.published.load().catalog.epochs.clone()
    }

    /// First index that the witness vouches for, as of the newest apply call; 0: for all that a data node lacks.
    pub fn released_next(&self) -> u64 {
        self.shared.published.load().catalog.released_next
    }

    /// The state digest that an entry took; the newest 64 are kept.
    pub fn digest_at(&self, index: u64) -> Option<[u8; 32]> {
        self.shared.published.load().digests.get(&index).copied()
    }

    /// All buckets as they were when an entry took the digest; the newest four since the start are kept.
    pub fn buckets_at(&self, index: u64) -> Option<Arc<Buckets>> {
        self.shared.published.load().buckets.get(&index).cloned()
    }

    /// Log index of the newest digest that was taken.
    pub fn newest_digest(&self) -> Option<u64> {
        self.shared.published.load().digests.last_key_value().map(|(index, _)| *index)
    }

    /// A check of every row, of the state as it is now.
    pub fn scrub(&self) -> Scrub {
        Scrub::new(self.view())
    }

    /// What of this copy is not served.
    pub fn held(&self) -> Option<Arc<Held>> {
        self.shared.published.load().quarantine.held()
    }

    /// Serves nothing of what is given, from now on and after a restart; with none, serves everything again. Views
    /// taken before are bound by it too.
    ///
    /// # Errors
    /// The engine failed; it holds all the same until a restart.
    pub fn hold(&self, held: Option<Held>) -> Result<(), StoreError> {
        let engine = {
            let writer = self.shared.writer.lock();
            if writer.ruined {
                // All of it is held, until another state takes its place.
                return Ok(());
            }
            reach(Failpoint::HoldBefore);
            let mut batch = Batch::default();
            match &held {
                Some(held) => batch.put(Kind::Meta, meta::QUARANTINE, encode_value(&held.row())),
                None => batch.delete(Kind::Meta, meta::QUARANTINE),
            }
            self.shared.published.load().quarantine.hold(held);
            writer.engine.write(batch)?;
            Arc::clone(&writer.engine)
        };
        Ok(engine.flush()?)
    }

    /// Damage that reads have met since the start.
    pub fn damage(&self) -> Damage {
        self.shared.watch.damage()
    }

    /// Has `hook` called whenever a read meets damage. It must only pass the news on.
    pub fn on_damage(&self, hook: Box<dyn Fn() + Send + Sync>) {
        self.shared.watch.on_damage(hook);
    }

    /// Bytes that the state takes, roughly.
    pub fn data_bytes(&self) -> u64 {
        let engine = Arc::clone(&self.shared.writer.lock().engine);
        engine.size_bytes()
    }

    /// Removes what came of received states that were given up.
    pub fn discard_unfinished(&self) {
        self.shared.discard_others();
    }

    /// The whole state as a stream of chunks, pinned at this moment.
    ///
    /// # Errors
    /// The state has stopped after a failure and may be behind the log, or a part of it is not served.
    pub fn export(&self) -> Result<Export, StoreError> {
        if let Some(reason) = &self.shared.writer.lock().stopped {
            return Err(StoreError::Stopped { reason: reason.clone() });
        }
        let view = self.view();
        view.state.quarantine.check_all()?;
        Ok(Export::new(view, self.shared.keeps))
    }

    /// Begins to receive another node's state; nothing changes here before [`Import::finish`].
    ///
    /// # Errors
    /// There is no room for a second engine.
    pub fn import(&self) -> Result<Import, StoreError> {
        Import::new(Arc::clone(&self.shared), None, None, false)
    }

    /// The same, where rows that both have need not come: those that are here are compared, unless they cannot be used.
    /// Writes that are here and do not come are kept as `orphans` says: in this folder, with this head.
    ///
    /// # Errors
    /// As [`Store::import`].
    pub fn import_difference(&self, orphans: Option<(&Path, Head)>) -> Result<Import, StoreError> {
        let view = self.view();
        let usable = self.ruined().is_none() && view.state.quarantine.held().is_none();
        if !usable && orphans.is_some() {
            let source = "they cannot be used, so nobody can say what they have that others lack".into();
            let what = "compare the own records: keep this node's data folder for inquiry (`saola offline`), and add the node \
                        with an empty one under a new id (saola cluster add)";
            return Err(EngineError { what: what.to_owned(), source, damage: false }.into());
        }
        let other_lineage = orphans.is_some();
        let old = Some(view).filter(|view| usable && view.state.applied.log_id.is_some());
        let orphans = match (&old, orphans) {
            (Some(old), Some((folder, head))) => Some(OrphanWriter::begin(folder, head, old)?),
            _ => None,
        };
        Import::new(Arc::clone(&self.shared), old, orphans, other_lineage)
    }
}

impl Shared {
    fn open(home: Arc<dyn EngineHome>, keeps: Keeps, settings: StoreSettings) -> Result<Shared, StoreError> {
        let engine = home.open_current()?;
        if let Some(batch) = format::stamp(format::read(&*engine.view())?) {
            engine.write(batch)?;
        }
        let machine = Machine::load(&*engine.view(), keeps, settings.max_request_entries)?;
        if keeps == Keeps::Records && machine.applied.log_id.is_none() && home.note()?.is_some() {
            let source = "there are none, although the note of the members says that there were".into();
            return Err(EngineError { what: "open the records".to_owned(), source, damage: true }.into());
        }
        let shared = Shared::new(home, keeps, settings, (engine, machine))?;
        shared.discard_others();
        Ok(shared)
    }

    /// Around an engine and the machine that was loaded from it.
    pub(crate) fn new(
        home: Arc<dyn EngineHome>,
        keeps: Keeps,
        settings: StoreSettings,
        (engine, machine): (Arc<dyn Engine>, Machine),
    ) -> Result<Shared, StoreError> {
        let (rows, watch) = (engine.view(), Arc::new(Watch::default()));
        let flushed = flushed_applied(&*engine)?;
        let quarantine = Arc::new(Quarantine::load(&*rows, Arc::clone(&watch))?);
        Ok(Shared {
            trail: RwLock::new(first_of_trail(&machine)),
            published: ArcSwap::from_pointee(view_state(rows, &machine, quarantine)),
            noted: Mutex::default(),
            watch,
            flushed: Mutex::new(flushed.log_id),
            catalog_version: AtomicU64::new(1),
            writer: Mutex::new(Writer { engine, machine, stopped: None, ruined: false }),
            home,
            keeps,
            settings,
        })
    }

    /// The state after the newest apply call.
    pub(crate) fn published(&self) -> Arc<ViewState> {
        self.published.load_full()
    }

    /// Makes a filled and flushed engine the current one, unless its state is older than the one it would replace, which
    /// cannot be said across lineages. Views of the old one stay valid.
    pub(crate) fn install(
        &self,
        generation: u64,
        engine: Arc<dyn Engine>,
        machine: Machine,
        other_lineage: bool,
    ) -> Result<Applied, StoreError> {
        let mut writer = self.writer.lock();
        let (received, applied) = (machine.applied.log_id, writer.machine.applied.log_id);
        if received < applied && !other_lineage {
            let index = |log_id: Option<LogId>| log_id.map_or(0, |log_id| log_id.index);
            return Err(ImportError::Older { received: index(received), applied: index(applied) }.into());
        }
        let applied = self.make_current(&mut writer, generation, engine, machine)?;
        drop(writer);
        self.discard_others();
        Ok(applied)
    }

    /// See [`Shared::install`]; what may become current has been decided.
    pub(crate) fn make_current(
        &self,
        writer: &mut Writer,
        generation: u64,
        engine: Arc<dyn Engine>,
        machine: Machine,
    ) -> Result<Applied, StoreError> {
        // Whatever was held back goes with the old database.
        let quarantine = Arc::new(Quarantine::load(&*engine.view(), Arc::clone(&self.watch))?);
        reach(Failpoint::StateBeforeSwitch);
        if let Err(error) = self.home.switch_to(generation) {
            // Which of the two a start would find is not known: what is applied from here on might not be there.
            writer.stopped = Some(error.to_string());
            return Err(error.into());
        }
        reach(Failpoint::StateAfterSwitch);
        Ok(self.go_on_with(writer, engine, machine, quarantine))
    }

    /// From now on this engine is read and written.
    pub(crate) fn go_on_with(
        &self,
        writer: &mut Writer,
        engine: Arc<dyn Engine>,
        machine: Machine,
        quarantine: Arc<Quarantine>,
    ) -> Applied {
        let applied = machine.applied.clone();
        *self.trail.write() = first_of_trail(&machine);
        *self.flushed.lock() = applied.log_id;
        self.published.store(Arc::new(view_state(engine.view(), &machine, quarantine)));
        self.catalog_version.fetch_add(1, Ordering::Release);
        *writer = Writer { engine, machine, stopped: None, ruined: false };
        applied
    }

    /// Old states only cost space: failing to remove one is told and tried again at the next flush or start.
    pub(crate) fn discard_others(&self) {
        if let Err(error) = self.home.discard_others() {
            tracing::warn!(%error, "an old state is still there; it will be removed later");
        }
    }
}

pub(crate) fn view_state(rows: Arc<dyn EngineView>, machine: &Machine, quarantine: Arc<Quarantine>) -> ViewState {
    ViewState {
        rows,
        applied: machine.applied.clone(),
        counts: machine.counts,
        catalog: Arc::clone(&machine.catalog),
        digests: Arc::clone(&machine.digests),
        buckets: Arc::clone(&machine.buckets),
        quarantine,
        was_held: None,
    }
}

fn first_of_trail(machine: &Machine) -> VecDeque<(u64, u64)> {
    let newest = machine.applied.log_id.map(|log_id| (log_id.index, machine.applied.revision));
    newest.into_iter().collect()
}

/// What stable storage holds. Rows are read one by one while a flush in the background may add to them, so the first
/// is read again until nothing has moved in between.
fn flushed_applied(engine: &dyn Engine) -> Result<Applied, StoreError> {
    let read = || -> Result<AppliedRow, StoreError> {
        match engine.get_flushed(Kind::Meta, meta::APPLIED)? {
            Some(value) => decode_value(Kind::Meta, meta::APPLIED, value),
            None => Ok(AppliedRow { revision: 1, ..AppliedRow::default() }),
        }
    };
    loop {
        let row = read()?;
        let membership = apply::membership(engine.get_flushed(Kind::Meta, meta::MEMBERSHIP)?)?;
        if row == read()? {
            return Ok(apply::applied(&row, membership));
        }
    }
}

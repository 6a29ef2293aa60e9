//! A node's disk between power cuts, and what must hold after each:
//! - the log opens, and holds every entry that it had called durable, as it was written;
//! - the records open, at an entry that the log holds or has purged, not before the newest flush that was called done;
//! - the log has all entries behind that one;
//! - the records are those that the ordered map has at that entry, to the byte, and so again once the rest was applied;
//! - every value opens, and none stands anywhere in clear.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use saola_storage::command::{Command, CommandBatch, Op};
use saola_storage::disk::Disk;
use saola_storage::disk::sim::SimDisk;
use saola_storage::engine::rocks::{RocksHome, RocksSettings};
use saola_storage::error::StoreError;
use saola_storage::log::{Log, LogEntry, LogOp, LogSettings, LogWriter};
use saola_storage::payload::{self, PayloadKind};
use saola_storage::store::{Applied, ApplyEntry, ApplyPayload, Keeps, Store, StoreSettings};
use saola_storage::types::{LeaderId, LogId};

use crate::fault_fs::FaultFs;
use crate::mirror::{Mirror, fingerprint};
use crate::work::{CANARY, Work};

/// So small that a life goes through many segments and RocksDB writes files by itself.
const LOG: LogSettings = LogSettings {
    group_id: 0,
    epoch: saola_storage::types::EpochId { number: 0, plan: 0 },
    segment_bytes: 32 << 10,
    tail_bytes: 8 << 10,
    reserve_bytes: 0,
};
const ROCKS: RocksSettings = RocksSettings { write_buffer_bytes: 64 << 10, block_cache_bytes: 1 << 20 };
/// Steps between two cuts at most.
const STEPS: u64 = 40;

/// What a life did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Power cuts.
    pub cuts: u64,
    /// Of these, in the middle of what the log was writing.
    pub in_log: u64,
    /// Of these, while RocksDB was at work.
    pub in_rocksdb: u64,
    /// Entries that the log called durable.
    pub entries: u64,
    /// Flushes that were called done.
    pub flushes: u64,
    /// Whole states that were received and took the place of the records.
    pub installs: u64,
    /// Purges of the log.
    pub purges: u64,
    /// Entries that were applied again after a cut.
    pub replayed: u64,
    /// Values that were opened.
    pub opened: u64,
}

impl Done {
    /// Both together.
    pub fn plus(self, other: Done) -> Done {
        Done {
            cuts: self.cuts + other.cuts,
            in_log: self.in_log + other.in_log,
            in_rocksdb: self.in_rocksdb + other.in_rocksdb,
            entries: self.entries + other.entries,
            flushes: self.flushes + other.flushes,
            installs: self.installs + other.installs,
            purges: self.purges + other.purges,
            replayed: self.replayed + other.replayed,
            opened: self.opened + other.opened,
        }
    }
}

/// What is done wrong on purpose, so that a life can be seen to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The log is purged up to what is applied, flushed or not.
    PurgesUnflushed,
    /// What was applied counts as flushed.
    FlushesNothing,
    /// What is applied counts as durable in the log before the log has written it.
    TrustsUnwritten,
    /// A moment is applied that is not the log's.
    AppliesOtherwise,
    /// Metadata of what is applied hold a value in clear.
    WritesClear,
}

impl Wrong {
    /// All of them, each with a part of what a life says that finds it.
    pub const ALL: [(Wrong, &str); 5] = [
        (Wrong::PurgesUnflushed, "and the log has"),
        (Wrong::FlushesNothing, "and a flush up to"),
        (Wrong::TrustsUnwritten, "durable"),
        (Wrong::AppliesOtherwise, "are not what the log says"),
        (Wrong::WritesClear, ".sst holds a value in clear"),
    ];
}

struct Running {
    log: Log,
    writer: LogWriter<SimDisk>,
    store: Store,
    /// A flush beside other work.
    flushing: Option<JoinHandle<Result<Applied, StoreError>>>,
}

/// A node's disk.
pub struct Life {
    rng: StdRng,
    wrong: Option<Wrong>,
    disk: Arc<SimDisk>,
    fs: FaultFs,
    folder: tempfile::TempDir,
    work: Work,
    mirror: Mirror,
    /// All entries, the first of which has index 1, as they were given to the log.
    entries: Vec<(LogEntry, ApplyEntry)>,
    /// The newest entry that the log has called durable.
    durable: u64,
    /// The newest entry that a flush that was called done covers.
    flushed: u64,
    /// Numbers of databases that there have been.
    databases: u64,
    done: Done,
}

/// Disks that live at a time: they mostly wait, since RocksDB rests for a second when a flush fails.
const AT_A_TIME: usize = 8;

/// Lives one life per seed, each through so many power cuts.
///
/// # Errors
/// What did not hold, and the line that lives it again.
pub fn live_all(seeds: Range<u64>, cuts: u64) -> Result<Done, String> {
    let (next, ended) = (AtomicU64::new(seeds.start), Mutex::new(Ok(Done::default())));
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || lock(&ended).is_err() {
                        return;
                    }
                    let lived = live(seed, cuts, None);
                    let mut ended = lock(&ended);
                    match (lived, &mut *ended) {
                        (Ok(done), Ok(sum)) => *sum = sum.plus(done),
                        (Err(what), Ok(_)) => {
                            let again = format!("replay: saola-power --from {seed} --disks 1 --cuts {cuts}");
                            *ended = Err(format!("seed {seed}: {what}\n{again}"));
                        }
                        (_, Err(_)) => {}
                    }
                }
            });
        }
    });
    ended.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn lock<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lives through so many power cuts.
///
/// # Errors
/// What did not hold.
pub fn live(seed: u64, cuts: u64, wrong: Option<Wrong>) -> Result<Done, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut life = Life {
        disk: Arc::new(SimDisk::new(rng.next_u64())),
        rng,
        wrong,
        fs: FaultFs::new(),
        folder: tempfile::tempdir().map_err(|error| error.to_string())?,
        work: Work::default(),
        mirror: Mirror::default(),
        entries: Vec::new(),
        durable: 0,
        flushed: 0,
        databases: 0,
        done: Done::default(),
    };
    for cut in 1..=cuts {
        life.round().map_err(|what| format!("cut {cut}: {what}"))?;
    }
    life.holds_no_clear_value()?;
    Ok(life.done)
}

fn id_of(index: u64) -> LogId {
    LogId { leader: LeaderId { term: 1, node_id: 1 }, index }
}

fn index_of(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index)
}

impl Life {
    /// Starts the node on what its disk kept, lets it work, and takes its power away.
    fn round(&mut self) -> Result<(), String> {
        let mut node = self.start()?;
        // Where the power goes: in the middle of a write of the log, beside RocksDB's work, or between two steps.
        let steps = self.rng.random_range(1..=STEPS);
        let (is_out, mut beside) = (Arc::new(AtomicBool::new(false)), None);
        match self.rng.random_range(0..3) {
            0 => self.disk.crash_at_op(self.rng.random_range(1..60)),
            1 => {
                let (fs, after) = (self.fs, Duration::from_micros(self.rng.random_range(1..30_000)));
                let is_out = is_out.clone();
                beside = Some(std::thread::spawn(move || {
                    std::thread::sleep(after);
                    is_out.store(true, Ordering::SeqCst);
                    fs.cut();
                }));
            }
            _ => {}
        }
        let mut failed = None;
        for _ in 0..steps {
            if let Err(error) = self.step(&mut node) {
                failed = Some(error);
                break;
            }
        }
        if let Some(error) = failed {
            match (self.disk.list().is_err(), is_out.load(Ordering::SeqCst)) {
                (true, _) => self.done.in_log += 1,
                (false, true) => self.done.in_rocksdb += 1,
                (false, false) => return Err(format!("the node failed although its power was on: {error}")),
            }
        }
        self.fs.cut();
        if let Some(cutter) = beside {
            cutter.join().map_err(|_| "the thread that takes the power away panicked")?;
        }
        if let Some(flushing) = node.flushing.take()
            && let Ok(Ok(applied)) = flushing.join()
        {
            self.flushed = self.flushed.max(index_of(applied.log_id));
        }
        drop(node);
        self.bring_folders_back()?;
        let settled = self.fs.settle();
        settled.map_err(|error| format!("while the power was out the real file system failed: {error}"))?;
        self.disk.crash(self.rng.next_u64());
        self.done.cuts += 1;
        Ok(())
    }

    /// Databases whose removal nobody synced may be there again, or what is left of them.
    fn bring_folders_back(&mut self) -> Result<(), String> {
        let home = self.folder.path().join("db");
        for entry in std::fs::read_dir(&home).map_err(|error| error.to_string())? {
            let name = entry.map_err(|error| error.to_string())?.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("db-")?.parse().ok());
            self.databases = self.databases.max(number.unwrap_or(0));
        }
        for database in 1..=self.databases {
            std::fs::create_dir_all(home.join(format!("db-{database}"))).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn start(&mut self) -> Result<Running, String> {
        let (log, writer) =
            Log::open(self.disk.clone(), LOG).map_err(|error| format!("the log does not open: {error}"))?;
        let home = RocksHome::new(self.folder.path().join("db"), ROCKS).in_env(self.fs.env());
        let store = Store::open(Arc::new(home), Keeps::Records, StoreSettings::default())
            .map_err(|error| format!("the records do not open: {error}"))?;
        if let Some(why) = store.ruined() {
            return Err(format!("the records are ruined: {why}"));
        }
        let state = log.state();
        let (last, purged, applied) =
            (index_of(state.last), index_of(state.last_purged), index_of(store.applied().log_id));
        if last < self.durable {
            return Err(format!("the log ends at {last}, and had called {} durable", self.durable));
        }
        // What was not called durable may be there or not.
        self.entries.truncate(last as usize);
        let kept = log.entries(purged + 1..last + 1, usize::MAX).map_err(|error| format!("the log: {error}"))?;
        let wrote = self.entries[purged as usize..].iter().map(|(entry, _)| entry);
        if kept.len() as u64 != last - purged || !kept.iter().eq(wrote) {
            return Err(format!("the log's entries {} to {last} are not those that were written", purged + 1));
        }
        if applied < self.flushed {
            return Err(format!("the records stand at {applied}, and a flush up to {} was done", self.flushed));
        }
        if applied > last || applied < purged {
            return Err(format!("the records stand at {applied}, and the log has {} to {last}", purged + 1));
        }
        self.is_mirrored(&store, applied)?;
        let rest: Vec<ApplyEntry> = self.entries[applied as usize..].iter().map(|(_, entry)| entry.clone()).collect();
        self.done.replayed += rest.len() as u64;
        if !rest.is_empty() {
            store.apply(rest).map_err(|error| format!("the rest of the log is not taken: {error}"))?;
            self.is_mirrored(&store, last)?;
        }
        self.done.opened += self.work.opens_all(&store)?;
        self.durable = last;
        Ok(Running { log, writer, store, flushing: None })
    }

    /// The records are the ordered map's at the same entry.
    fn is_mirrored(&mut self, store: &Store, index: u64) -> Result<(), String> {
        let found = fingerprint(store).map_err(|error| format!("the records do not read: {error}"))?;
        let entries: Vec<ApplyEntry> = self.entries.iter().map(|(_, entry)| entry.clone()).collect();
        match found == self.mirror.fingerprint_at(index, &entries) {
            true => Ok(()),
            false => Err(format!("the records at entry {index} are not what the log says")),
        }
    }

    fn step(&mut self, node: &mut Running) -> Result<(), String> {
        match self.rng.random_range(0..100) {
            0..70 => self.write(node),
            70..84 => self.flush(node),
            84..92 => self.purge(node),
            92..96 => self.install(node),
            _ => node.writer.idle_mark().map_err(|error| error.to_string()),
        }
    }

    /// A few entries into the log, and some of what is durable into the records.
    fn write(&mut self, node: &mut Running) -> Result<(), String> {
        for _ in 0..self.rng.random_range(1..4) {
            let first = self.entries.is_empty();
            let commands = match first {
                true => Work::first(),
                false => (0..self.rng.random_range(1..6)).map(|_| self.work.next(&mut self.rng)).collect(),
            };
            let entry = self.entry(commands);
            node.log.submit(LogOp::Append(vec![entry]), None);
        }
        if self.wrong != Some(Wrong::TrustsUnwritten) {
            node.writer.step().map_err(|error| error.to_string())?;
        }
        self.done.entries += self.entries.len() as u64 - self.durable;
        self.durable = self.entries.len() as u64;
        let applied = index_of(node.store.applied().log_id);
        let upto = self.rng.random_range(applied..=self.durable);
        let mut entries: Vec<ApplyEntry> =
            self.entries[applied as usize..upto as usize].iter().map(|(_, entry)| entry.clone()).collect();
        if self.wrong == Some(Wrong::AppliesOtherwise)
            && let Some(ApplyEntry { payload: ApplyPayload::Commands(batch), .. }) = entries.last_mut()
        {
            batch.stamp_us += 1;
        }
        if !entries.is_empty() {
            node.store.apply(entries).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn entry(&mut self, commands: Vec<Command>) -> LogEntry {
        let index = self.entries.len() as u64 + 1;
        let mut batch = CommandBatch { stamp_us: 1_700_000_000_000_000 + index, commands };
        let bytes = payload::encode(PayloadKind::Commands, &batch);
        if self.wrong == Some(Wrong::WritesClear) {
            for command in &mut batch.commands {
                if let Some(Op::Put(put)) = &mut command.op {
                    put.content_type = String::from_utf8_lossy(CANARY).into_owned();
                }
            }
        }
        let entry = LogEntry { log_id: id_of(index), payload: bytes };
        let applies = ApplyEntry { log_id: entry.log_id, payload: ApplyPayload::Commands(batch) };
        self.entries.push((entry.clone(), applies));
        entry
    }

    /// Begins a flush beside what follows, or waits for it.
    fn flush(&mut self, node: &mut Running) -> Result<(), String> {
        if let Some(flushing) = node.flushing.take() {
            let applied = flushing.join().map_err(|_| "a flush panicked".to_owned())?;
            self.flushed = self.flushed.max(index_of(applied.map_err(|error| error.to_string())?.log_id));
            self.done.flushes += 1;
            return Ok(());
        }
        let store = node.store.clone();
        if self.wrong == Some(Wrong::FlushesNothing) {
            self.flushed = index_of(store.applied().log_id);
            return Ok(());
        }
        node.flushing = Some(std::thread::spawn(move || store.flush()));
        Ok(())
    }

    fn purge(&mut self, node: &mut Running) -> Result<(), String> {
        let upto = match self.wrong == Some(Wrong::PurgesUnflushed) {
            true => index_of(node.store.applied().log_id),
            false => self.flushed,
        };
        if upto > index_of(node.log.state().last_purged) {
            node.log.submit(LogOp::Purge(id_of(upto)), None);
            node.writer.step().map_err(|error| error.to_string())?;
            self.done.purges += 1;
        }
        Ok(())
    }

    /// Another node's state, which is this one's, comes and takes the place of the records.
    fn install(&mut self, node: &mut Running) -> Result<(), String> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let install = || {
            let (mut export, mut import) = (node.store.export()?, node.store.import()?);
            while let Some(chunk) = export.next_chunk()? {
                import.write(&chunk)?;
            }
            import.finish()
        };
        let applied = install().map_err(|error: StoreError| error.to_string())?;
        node.store.discard_unfinished();
        self.flushed = self.flushed.max(index_of(applied.log_id));
        self.done.installs += 1;
        Ok(())
    }

    /// No file of the records or the log has a value in clear.
    fn holds_no_clear_value(&self) -> Result<(), String> {
        for name in self.disk.list().map_err(|error| error.to_string())? {
            let file = self.disk.open(&name, false).map_err(|error| error.to_string())?;
            let mut bytes = vec![0; file.len().map_err(|error| error.to_string())? as usize];
            file.read_at(0, &mut bytes).map_err(|error| error.to_string())?;
            is_clear_of_values(&name, &bytes)?;
        }
        files_below(self.folder.path(), &mut |path, bytes| is_clear_of_values(&path.display().to_string(), bytes))
    }
}

fn is_clear_of_values(name: &str, bytes: &[u8]) -> Result<(), String> {
    match bytes.windows(CANARY.len()).any(|window| window == CANARY) {
        true => Err(format!("{name} holds a value in clear")),
        false => Ok(()),
    }
}

fn files_below(folder: &Path, look: &mut impl FnMut(&Path, &[u8]) -> Result<(), String>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        match path.is_dir() {
            true => files_below(&path, look)?,
            false => look(&path, &std::fs::read(&path).map_err(failed)?)?,
        }
    }
    Ok(())
}

//! Rows in RocksDB: the engine of production.
//!
//! One column family per kind. RocksDB's own write-ahead log is off, because the Raft log is one; column families
//! flush together, so that stable storage is always at a batch boundary.
//! A home is a folder: databases `db-1`, `db-2`, … and the file `current`, which names one of them.

mod damage;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, FlushOptions, InfoLogger,
    IngestExternalFileOptions, IteratorMode, LogLevel, Options, ReadOptions, ReadTier, Snapshot, SstFileWriter,
    WriteBatch, WriteOptions,
};
use self_cell::self_cell;

use self::damage::is_damage;
use super::{Batch, Engine, EngineError, EngineHome, EngineView, KeyRange, Kind, Loader, Row, Rows};
use crate::keyspace::decode_value;
use crate::keyspace::format::{self, FormatRow};
use crate::release::RELEASE;

/// How much memory an engine may take.
#[derive(Clone, Copy, Debug)]
pub struct RocksSettings {
    /// Bytes of rows that each kind gathers in memory before it writes a file.
    pub write_buffer_bytes: usize,
    /// Bytes of file blocks kept in memory, over all kinds; the files' indexes and filters are among them.
    pub block_cache_bytes: usize,
}

impl RocksSettings {
    /// For a node that keeps records.
    pub const RECORDS: RocksSettings = RocksSettings { write_buffer_bytes: 32 << 20, block_cache_bytes: 128 << 20 };

    /// For a witness, which keeps two rows.
    pub const LOG_IDS_ONLY: RocksSettings = RocksSettings { write_buffer_bytes: 256 << 10, block_cache_bytes: 1 << 20 };

    fn options(&self) -> Options {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_atomic_flush(true);
        options.set_max_background_jobs(2);
        options.set_max_open_files(512);
        options.set_keep_log_file_num(2);
        options.set_log_level(LogLevel::Warn);
        options.set_stats_dump_period_sec(0);
        options
    }

    fn kind_options(&self, kind: Kind, cache: &Cache) -> Options {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(cache);
        // So that memory does not grow with the number of records; the newest files' are needed by every read.
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
        if matches!(kind, Kind::Heads | Kind::Versions) {
            blocks.set_bloom_filter(10.0, false);
        }
        blocks.set_block_size(match kind {
            Kind::Versions => 16 << 10,
            Kind::Heads => 8 << 10,
            _ => 4 << 10,
        });
        let rewrites = format!("bottommost_file_compaction_delay={REWRITE_AFTER_S}");
        let options = Options::default().get_options_from_string(rewrites);
        let mut options = options.expect("RocksDB has this option, and it takes a number of seconds");
        options.set_block_based_table_factory(&blocks);
        options.set_write_buffer_size(self.write_buffer_bytes);
        // With ten million records of 256 B there are two levels, the fewest merges.
        options.set_max_bytes_for_level_base(LEVEL_BASE_BUFFERS * self.write_buffer_bytes as u64);
        // Sealed values, digests and ids do not compress: trying cost a tenth of a merge.
        options.set_compression_type(DBCompressionType::None);
        options
    }
}

/// The first level is allowed so many write buffers before its files move on.
const LEVEL_BASE_BUFFERS: u64 = 16;

/// A file whose rows some view still needed when it was written is not written again, to shed what that view needed,
/// before it is so old. At once, which is RocksDB's way, means that every flushed file which overlaps no older one is
/// written twice, because there is always a view.
const REWRITE_AFTER_S: u32 = 24 * 3600;

/// A loader begins a new file once the current one holds so much: RocksDB's own target for the files of a level.
const LOADED_FILE_BYTES: u64 = 64 << 20;

struct RocksEngine {
    db: Arc<DB>,
    folder: PathBuf,
    settings: RocksSettings,
    cache: Cache,
}

impl RocksEngine {
    fn open(folder: &Path, settings: &RocksSettings) -> Result<RocksEngine, EngineError> {
        if folder.join("CURRENT").exists() {
            known_kinds(folder)?;
        }
        let cache = Cache::new_hyper_clock_cache(settings.block_cache_bytes, 0);
        let kinds = Kind::ALL
            .into_iter()
            .map(|kind| ColumnFamilyDescriptor::new(kind.name(), settings.kind_options(kind, &cache)));
        let db = DB::open_cf_descriptors(&settings.options(), folder, kinds).map_err(|source| {
            let next = "see that no other process uses it and that its files are whole and may be written";
            failed(format!("open database {}: {next}", folder.display()), source)
        })?;
        Ok(RocksEngine { db: Arc::new(db), folder: folder.to_owned(), settings: *settings, cache })
    }

    fn failed(&self, verb: &str, source: rocksdb::Error) -> EngineError {
        failed_write(verb, &self.folder, source)
    }
}

fn failed(what: String, source: rocksdb::Error) -> EngineError {
    let damage = is_damage(source.as_ref());
    EngineError { what, source: source.into(), damage }
}

fn failed_write(verb: &str, folder: &Path, source: rocksdb::Error) -> EngineError {
    let next = "see that the disk has space and is sound, then restart the node";
    failed(format!("{verb} database {}: {next}", folder.display()), source)
}

fn family(db: &DB, kind: Kind) -> &ColumnFamily {
    db.cf_handle(kind.name()).expect("every kind's column family is opened with the database")
}

/// The rows of a stopped node's current database. It is opened to be read only: nothing in `folder`, where its
/// databases are, is changed, made or locked.
///
/// # Errors
/// There is no database, it cannot be read, or it holds kinds of rows that this release does not know.
pub fn read_only(folder: &Path) -> Result<Arc<dyn EngineView>, EngineError> {
    let home = RocksHome::new(folder, RocksSettings::RECORDS);
    let generation = home.current().and_then(|current| {
        current.ok_or_else(|| io::Error::other("the file `current` is missing, so no node has written rows here"))
    });
    let folder = home.database(generation.map_err(home.failed("find"))?);
    let kinds = known_kinds(&folder)?;
    Ok(Arc::new(RocksView(Pinned::new(Arc::new(open_read_only(&folder, &kinds)?), |db| db.snapshot()))))
}

fn open_read_only(folder: &Path, kinds: &[Kind]) -> Result<DB, EngineError> {
    let settings = RocksSettings::RECORDS;
    let cache = Cache::new_hyper_clock_cache(settings.block_cache_bytes, 0);
    let mut options = Options::default();
    options.set_max_open_files(512);
    // RocksDB would write a file beside the rows even so; what matters comes back as an error.
    options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Warn, |level, line| {
        tracing::debug!(?level, line, "RocksDB");
    }));
    let kinds = kinds.iter().map(|kind| ColumnFamilyDescriptor::new(kind.name(), settings.kind_options(*kind, &cache)));
    DB::open_cf_descriptors_read_only(&options, folder, kinds, false).map_err(|source| {
        let next = "see that its files are whole and may be read";
        failed(format!("read database {}: {next}", folder.display()), source)
    })
}

/// The kinds of rows that a database has. An older one may lack some.
fn known_kinds(folder: &Path) -> Result<Vec<Kind>, EngineError> {
    let names = DB::list_cf(&Options::default(), folder).map_err(|source| {
        failed(format!("read database {}: see that its files are whole and may be read", folder.display()), source)
    })?;
    let known: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| names.iter().any(|name| name == kind.name())).collect();
    let other = |name: &&String| *name != "default" && !known.iter().any(|kind| kind.name() == *name);
    let Some(unknown) = names.iter().find(other) else { return Ok(known) };
    let meta = open_read_only(folder, &[Kind::Meta])?;
    let value =
        meta.cf_handle(Kind::Meta.name()).and_then(|meta_rows| meta.get_cf(meta_rows, format::KEY).ok().flatten());
    let row: Option<FormatRow> = value.and_then(|value| decode_value(Kind::Meta, format::KEY, value.into()).ok());
    let writer = row.map_or_else(|| "a newer release".to_owned(), |row| format!("Saola {}", row.last_release));
    Err(EngineError {
        what: format!("open database {}: install the release that wrote it or later", folder.display()),
        source: format!("it holds rows of kind {unknown:?}, written by {writer}; this is release {RELEASE}").into(),
        damage: false,
    })
}

impl Engine for RocksEngine {
    fn view(&self) -> Arc<dyn EngineView> {
        Arc::new(RocksView(Pinned::new(Arc::clone(&self.db), |db| db.snapshot())))
    }

    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        let families = Kind::ALL.map(|kind| family(&self.db, kind));
        let mut writes = WriteBatch::default();
        for change in &batch.changes {
            let family = families[usize::from(change.kind.tag()) - 1];
            match &change.value {
                Some(value) => writes.put_cf(family, &change.key, value),
                None => writes.delete_cf(family, &change.key),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(writes, &options).map_err(|source| self.failed("write to", source))
    }

    fn loader(&self) -> Box<dyn Loader> {
        let db = Arc::clone(&self.db);
        let (folder, settings, cache) = (self.folder.clone(), self.settings, self.cache.clone());
        Box::new(RocksLoader { db, folder, settings, cache, open: None, files: 0 })
    }

    fn flush(&self) -> Result<(), EngineError> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        let families = Kind::ALL.map(|kind| family(&self.db, kind));
        let families: Vec<&&ColumnFamily> = families.iter().collect();
        self.db.flush_cfs_opt(&families, &options).map_err(|source| self.failed("flush", source))
    }

    fn get_flushed(&self, kind: Kind, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        let value = self.db.get_cf_opt(family(&self.db, kind), key, &options);
        Ok(value.map_err(|source| self.failed("read flushed rows of", source))?.map(Bytes::from))
    }

    fn size_bytes(&self) -> u64 {
        let figures = ["rocksdb.live-sst-files-size", "rocksdb.cur-size-all-mem-tables"];
        let mut bytes = 0;
        for kind in Kind::ALL {
            for figure in figures {
                // A figure for people: one that RocksDB cannot tell counts as nothing.
                bytes += self.db.property_int_value_cf(family(&self.db, kind), figure).ok().flatten().unwrap_or(0);
            }
        }
        bytes
    }
}

self_cell!(
    /// A file that is being written, and its options, which must outlive the writer.
    struct OpenFile {
        owner: Options,
        #[covariant]
        dependent: SstFileWriter,
    }
);

/// Writes sorted files beside those of the database and hands each over when it is full. RocksDB syncs them: its
/// `SstFileWriter::Finish` syncs the content, and an ingestion syncs the file under its new name, the folder, and the
/// manifest entry (`external_sst_file_ingestion_job.cc`) before it returns.
struct RocksLoader {
    db: Arc<DB>,
    folder: PathBuf,
    settings: RocksSettings,
    cache: Cache,
    open: Option<(Kind, PathBuf, OpenFile)>,
    files: u64,
}

impl RocksLoader {
    fn begin(&mut self, kind: Kind) -> Result<(), EngineError> {
        self.files += 1;
        // No name that RocksDB gives a file, so it neither uses nor removes it before it is handed over.
        let path = self.folder.join(format!("load-{}.sst", self.files));
        let writer =
            OpenFile::new(self.settings.kind_options(kind, &self.cache), |options| SstFileWriter::create(options));
        writer.borrow_dependent().open(&path).map_err(|source| self.failed(source))?;
        self.open = Some((kind, path, writer));
        Ok(())
    }

    fn hand_over(&mut self) -> Result<(), EngineError> {
        let Some((kind, path, mut file)) = self.open.take() else {
            return Ok(());
        };
        file.with_dependent_mut(|_, writer| writer.finish()).map_err(|source| self.failed(source))?;
        let mut options = IngestExternalFileOptions::default();
        options.set_move_files(true);
        let ingested = self.db.ingest_external_file_cf_opts(family(&self.db, kind), &options, vec![path]);
        ingested.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: rocksdb::Error) -> EngineError {
        failed_write("load rows into", &self.folder, source)
    }
}

impl Loader for RocksLoader {
    fn add(&mut self, kind: Kind, key: Bytes, value: Bytes) -> Result<(), EngineError> {
        let full = |(of, _, file): &(Kind, PathBuf, OpenFile)| {
            *of != kind || file.borrow_dependent().file_size() >= LOADED_FILE_BYTES
        };
        if self.open.as_ref().is_some_and(full) {
            self.hand_over()?;
        }
        if self.open.is_none() {
            self.begin(kind)?;
        }
        let Some((_, _, file)) = &mut self.open else {
            return Ok(());
        };
        let added = file.with_dependent_mut(|_, writer| writer.put(&key, &value));
        added.map_err(|source| self.failed(source))
    }

    fn finish(mut self: Box<Self>) -> Result<(), EngineError> {
        self.hand_over()
    }
}

self_cell!(
    /// A snapshot that keeps its database open.
    struct Pinned {
        owner: Arc<DB>,
        #[covariant]
        dependent: Snapshot,
    }
);

struct RocksView(Pinned);

impl RocksView {
    fn failed(&self, kind: Kind, source: rocksdb::Error) -> EngineError {
        let folder = self.0.borrow_owner().path().display();
        let next = "see that the disk is sound; if rows are damaged, replace this node (saola cluster replace)";
        failed(format!("read {} from database {folder}: {next}", kind.name()), source)
    }
}

impl EngineView for RocksView {
    fn get(&self, kind: Kind, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        // A database that is only read may be from before there was this kind.
        let Some(family) = self.0.borrow_owner().cf_handle(kind.name()) else { return Ok(None) };
        let value = self.0.borrow_dependent().get_cf(family, key);
        Ok(value.map_err(|source| self.failed(kind, source))?.map(Bytes::from))
    }

    fn scan(&self, kind: Kind, range: KeyRange, reverse: bool) -> Rows<'_> {
        self.read(kind, range, reverse, ReadOptions::default())
    }

    fn sweep(&self, kind: Kind, range: KeyRange, reverse: bool) -> Rows<'_> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_verify_checksums(true);
        self.read(kind, range, reverse, options)
    }
}

impl RocksView {
    fn read(&self, kind: Kind, range: KeyRange, reverse: bool, mut options: ReadOptions) -> Rows<'_> {
        if range.end.as_ref().is_some_and(|end| *end <= range.start) {
            return Box::new(std::iter::empty());
        }
        options.set_iterate_lower_bound(range.start);
        if let Some(end) = range.end {
            options.set_iterate_upper_bound(end);
        }
        let mode = if reverse { IteratorMode::End } else { IteratorMode::Start };
        let Some(family) = self.0.borrow_owner().cf_handle(kind.name()) else {
            return Box::new(std::iter::empty());
        };
        let rows = self.0.borrow_dependent().iterator_cf_opt(family, options, mode);
        Box::new(rows.map(move |row| -> Result<Row, EngineError> {
            let (key, value) = row.map_err(|source| self.failed(kind, source))?;
            Ok((Bytes::from(key), Bytes::from(value)))
        }))
    }
}

/// Databases that may still be open, by number.
type OpenDatabases = BTreeMap<u64, Weak<DB>>;

/// In the folder of a database that must not be opened any more; says why. RocksDB leaves files that it does not know.
const CONDEMNED: &str = "condemned";
/// The disk does not give what it should hold.
const EIO: i32 = rustix::io::Errno::IO.raw_os_error();

/// What this module has written is not what it finds.
fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Replaces a file, whole and durably.
fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = File::create(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    sync_folder_of(path)
}

/// Makes a file's coming or going durable.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// What a file holds; none: it is not there.
fn read_file(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A folder of databases.
pub struct RocksHome {
    folder: PathBuf,
    note: PathBuf,
    settings: RocksSettings,
    /// Databases that may still be open, so that none is removed under a reader.
    open: Mutex<OpenDatabases>,
}

impl RocksHome {
    /// A home in `folder`, which is made when it is missing.
    pub fn new(folder: impl Into<PathBuf>, settings: RocksSettings) -> RocksHome {
        let folder = folder.into();
        RocksHome { note: folder.join("note"), folder, settings, open: Mutex::default() }
    }

    /// Keeps the note there: outside the folder it also survives the loss of all databases.
    pub fn note_at(self, note: PathBuf) -> RocksHome {
        RocksHome { note, ..self }
    }

    fn database(&self, generation: u64) -> PathBuf {
        self.folder.join(format!("db-{generation}"))
    }

    fn open_database(&self, open: &mut OpenDatabases, generation: u64) -> Result<Arc<dyn Engine>, EngineError> {
        let engine = RocksEngine::open(&self.database(generation), &self.settings)?;
        open.insert(generation, Arc::downgrade(&engine.db));
        Ok(Arc::new(engine))
    }

    /// Numbers of all databases in the folder.
    fn generations(&self) -> io::Result<Vec<u64>> {
        let mut generations = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let name = entry?.file_name();
            let number: Option<u64> = name.to_str().and_then(|name| name.strip_prefix("db-")?.parse().ok());
            generations.extend(number);
        }
        generations.sort_unstable();
        Ok(generations)
    }

    /// Number of the current database; none in a new home.
    fn current(&self) -> io::Result<Option<u64>> {
        let Some(text) = read_file(&self.folder.join("current"))? else { return Ok(None) };
        let text = String::from_utf8_lossy(&text);
        match text.strip_prefix("db-").and_then(|number| number.trim_end().parse().ok()) {
            Some(generation) => Ok(Some(generation)),
            None => Err(damaged(format!("the file `current` holds {text:?}, not the name of a database"))),
        }
    }

    fn set_current(&self, generation: u64) -> io::Result<()> {
        // The database's own directory entry is made durable by the same call.
        replace_file(&self.folder.join("current"), format!("db-{generation}\n").as_bytes())
    }

    /// Why a database must not be opened.
    fn condemned(&self, generation: u64) -> io::Result<Option<String>> {
        let why = read_file(&self.database(generation).join(CONDEMNED))?;
        Ok(why.map(|why| String::from_utf8_lossy(&why).into_owned()))
    }

    fn failed(&self, verb: &str) -> impl FnOnce(io::Error) -> EngineError {
        let what = format!("{verb} the databases in {}", self.folder.display());
        move |source| {
            let damage = source.kind() == io::ErrorKind::InvalidData || source.raw_os_error() == Some(EIO);
            EngineError { what, source: source.into(), damage }
        }
    }

    fn first(&self) -> io::Result<u64> {
        fs::create_dir_all(&self.folder)?;
        if let Some(generation) = self.current()? {
            if generation != 1 && !self.database(generation).exists() {
                return Err(damaged(format!("`current` names db-{generation}, which is missing")));
            }
            return Ok(generation);
        }
        if !self.generations()?.is_empty() {
            return Err(damaged("the file `current` is missing although there are databases".to_owned()));
        }
        // The pointer comes first, so that a database without one is always a sign of damage.
        self.set_current(1)?;
        Ok(1)
    }
}

impl EngineHome for RocksHome {
    fn open_current(&self) -> Result<Arc<dyn Engine>, EngineError> {
        let generation = self.first().map_err(self.failed("find"))?;
        if let Some(why) = self.condemned(generation).map_err(self.failed("read the marks of"))? {
            let what = format!("database {} is not used any more", self.database(generation).display());
            return Err(EngineError { what, source: why.into(), damage: true });
        }
        self.open_database(&mut self.open.lock(), generation)
    }

    fn create_new(&self) -> Result<(u64, Arc<dyn Engine>), EngineError> {
        // Held until the new one is known as open, so that nobody discards it or takes its number.
        let mut open = self.open.lock();
        let newest = self.generations().map_err(self.failed("list"))?.into_iter().max();
        let generation = newest.unwrap_or(0) + 1;
        Ok((generation, self.open_database(&mut open, generation)?))
    }

    fn switch_to(&self, generation: u64) -> Result<(), EngineError> {
        self.set_current(generation).map_err(self.failed("change the pointer to"))
    }

    fn discard_others(&self) -> Result<(), EngineError> {
        let mut open = self.open.lock();
        open.retain(|_, db| db.strong_count() > 0);
        let discard = || -> io::Result<()> {
            let Some(current) = self.current()? else {
                // Without the pointer nobody can say which one counts.
                return Ok(());
            };
            for generation in self.generations()? {
                if generation != current && !open.contains_key(&generation) {
                    fs::remove_dir_all(self.database(generation))?;
                }
            }
            Ok(())
        };
        discard().map_err(self.failed("discard old ones of"))
    }

    fn condemn(&self, why: &str) -> Result<(), EngineError> {
        let condemn = || match self.current()? {
            Some(generation) => replace_file(&self.database(generation).join(CONDEMNED), why.as_bytes()),
            None => Err(damaged("the file `current` is missing".to_owned())),
        };
        condemn().map_err(self.failed("mark the current one of"))
    }

    fn open_condemned(&self) -> Result<(u64, Arc<dyn Engine>), EngineError> {
        let generation = self.first().map_err(self.failed("find"))?;
        Ok((generation, self.open_database(&mut self.open.lock(), generation)?))
    }

    fn absolve(&self) -> Result<(), EngineError> {
        let absolve = || {
            let mark = self.database(self.first()?).join(CONDEMNED);
            match fs::remove_file(&mark) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => sync_folder_of(&mark),
            }
        };
        absolve().map_err(self.failed("take the mark off the current one of"))
    }

    fn keep_note(&self, note: &[u8]) -> Result<(), EngineError> {
        replace_file(&self.note, note).map_err(self.failed("write the note beside"))
    }

    fn note(&self) -> Result<Option<Bytes>, EngineError> {
        Ok(read_file(&self.note).map_err(self.failed("read the note beside"))?.map(Bytes::from))
    }
}

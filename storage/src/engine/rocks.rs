//! Rows in RocksDB: the engine of production.
//!
//! One column family per kind. RocksDB's own write-ahead log is off, because the Raft log is one; column families
//! flush together, so that stable storage is always at a batch boundary.
//! A home is a folder: databases `db-1`, `db-2`, … and the file `current`, which names one of them.

mod damage;
mod home;
mod loader;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, Env, FlushOptions,
    InfoLogger, IteratorMode, LogLevel, Options, ReadOptions, ReadTier, Snapshot, WriteBatch, WriteOptions,
};
use self_cell::self_cell;

use self::damage::is_damage;
pub use self::home::RocksHome;
use self::loader::RocksLoader;
use super::{Batch, Engine, EngineError, EngineView, KeyRange, Kind, Loader, Row, Rows};
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

    fn options(&self, env: Option<&Env>) -> Options {
        let mut options = Options::default();
        env.into_iter().for_each(|env| options.set_env(env));
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

struct RocksEngine {
    db: Arc<DB>,
    folder: PathBuf,
    settings: RocksSettings,
    cache: Cache,
    env: Option<Env>,
}

impl RocksEngine {
    fn open(folder: &Path, settings: &RocksSettings, env: Option<&Env>) -> Result<RocksEngine, EngineError> {
        if folder.join("CURRENT").exists() {
            known_kinds(folder)?;
        } else if holds_rows(folder) {
            // RocksDB would make a new database here and remove the files of the old one.
            let what = format!("open database {}", folder.display());
            return Err(EngineError { what, source: "its file CURRENT is missing".into(), damage: true });
        }
        let cache = Cache::new_hyper_clock_cache(settings.block_cache_bytes, 0);
        let kinds = Kind::ALL
            .into_iter()
            .map(|kind| ColumnFamilyDescriptor::new(kind.name(), settings.kind_options(kind, &cache)));
        let db = DB::open_cf_descriptors(&settings.options(env), folder, kinds).map_err(|source| {
            let next = match source.as_ref().contains("No space left") {
                true => "make room on its disk, then start the node again",
                false => "see that no other process uses it and that its files are whole and may be written",
            };
            failed(format!("open database {}: {next}", folder.display()), source)
        })?;
        let (folder, env) = (folder.to_owned(), env.cloned());
        Ok(RocksEngine { db: Arc::new(db), folder, settings: *settings, cache, env })
    }

    fn failed(&self, verb: &str, source: rocksdb::Error) -> EngineError {
        failed_write(verb, &self.folder, source)
    }
}

/// Whether there are files of rows. A folder that cannot be listed cannot be opened either, which says why.
fn holds_rows(folder: &Path) -> bool {
    let is_rows = |entry: io::Result<std::fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.path().extension().is_some_and(|extension| extension == "sst"))
    };
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.any(is_rows))
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
        Box::new(RocksLoader::new(self))
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

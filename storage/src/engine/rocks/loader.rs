//! Rows that come in order, as files that RocksDB takes over whole.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use rocksdb::{Cache, DB, Env, IngestExternalFileOptions, Options, SstFileWriter};
use self_cell::self_cell;

use super::{RocksEngine, RocksSettings, failed_write, family};
use crate::engine::{EngineError, Kind, Loader};

/// A loader begins a new file once the current one holds so much: RocksDB's own target for the files of a level.
const LOADED_FILE_BYTES: u64 = 64 << 20;

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
pub(super) struct RocksLoader {
    db: Arc<DB>,
    folder: PathBuf,
    settings: RocksSettings,
    cache: Cache,
    env: Option<Env>,
    open: Option<(Kind, PathBuf, OpenFile)>,
    files: u64,
}

impl RocksLoader {
    pub(super) fn new(engine: &RocksEngine) -> RocksLoader {
        let RocksEngine { db, folder, settings, cache, env } = engine;
        let (db, folder, cache, env) = (Arc::clone(db), folder.clone(), cache.clone(), env.clone());
        RocksLoader { db, folder, settings: *settings, cache, env, open: None, files: 0 }
    }

    fn begin(&mut self, kind: Kind) -> Result<(), EngineError> {
        self.files += 1;
        // No name that RocksDB gives a file, so it neither uses nor removes it before it is handed over.
        let path = self.folder.join(format!("load-{}.sst", self.files));
        let mut options = self.settings.kind_options(kind, &self.cache);
        self.env.iter().for_each(|env| options.set_env(env));
        let writer = OpenFile::new(options, |options| SstFileWriter::create(options));
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

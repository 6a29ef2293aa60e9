//! A folder of databases: which one counts, which ones are condemned, and the note beside them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;
use rocksdb::{DB, Env};

use super::{RocksEngine, RocksSettings};
use crate::engine::{Engine, EngineError, EngineHome};

/// Databases that may still be open, by number.
type OpenDatabases = BTreeMap<u64, Weak<DB>>;

/// In the folder of a database that must not be used any more; says why. RocksDB leaves files that it does not know.
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
    /// Through which RocksDB reaches its files; none: its own.
    env: Option<Env>,
    /// Databases that may still be open, so that none is removed under a reader.
    open: Mutex<OpenDatabases>,
}

impl RocksHome {
    /// A home in `folder`, which is made when it is missing.
    pub fn new(folder: impl Into<PathBuf>, settings: RocksSettings) -> RocksHome {
        let folder = folder.into();
        RocksHome { note: folder.join("note"), folder, settings, env: None, open: Mutex::default() }
    }

    /// Reaches its databases' files through `env`, for tests that take power away.
    #[cfg(feature = "sim")]
    pub fn in_env(self, env: Env) -> RocksHome {
        RocksHome { env: Some(env), ..self }
    }

    /// Keeps the note there: outside the folder it also survives the loss of all databases.
    pub fn note_at(self, note: PathBuf) -> RocksHome {
        RocksHome { note, ..self }
    }

    pub(super) fn database(&self, generation: u64) -> PathBuf {
        self.folder.join(format!("db-{generation}"))
    }

    fn open_database(&self, open: &mut OpenDatabases, generation: u64) -> Result<Arc<dyn Engine>, EngineError> {
        let engine = RocksEngine::open(&self.database(generation), &self.settings, self.env.as_ref())?;
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
    pub(super) fn current(&self) -> io::Result<Option<u64>> {
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

    pub(super) fn failed(&self, verb: &str) -> impl FnOnce(io::Error) -> EngineError {
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

    fn open_condemned(&self) -> Result<Arc<dyn Engine>, EngineError> {
        let exists = || match self.current()? {
            Some(generation) if self.database(generation).join("CURRENT").exists() => Ok(generation),
            _ => Err(damaged("there is none that could be read again".to_owned())),
        };
        let generation = exists().map_err(self.failed("find"))?;
        self.open_database(&mut self.open.lock(), generation)
    }

    fn absolve(&self) -> Result<(), EngineError> {
        let absolve = || {
            let current = self.current()?.ok_or_else(|| damaged("the file `current` is missing".to_owned()))?;
            let mark = self.database(current).join(CONDEMNED);
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

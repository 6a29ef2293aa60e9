//! A disk in memory that keeps only what the real one promises, and breaks on command.
//!
//! Every file has the content that programs see (the page cache) and the content that is durable; sectors of
//! 512 bytes move from the first to the second at a sync. Names work the same way. Everything is decided by
//! seeds, so a failing run can be repeated.
//!
//! - [`SimDisk::crash`] is a power loss: each unsynced sector is kept, dropped or torn, each unsynced change
//!   of a name is kept or lost, independently.
//! - [`SimDisk::kill`] is the death of a process: what it wrote stays visible, and stays unsynced.
//! - [`SimDisk::fail_nth`] (errors, and writes that the disk only says it did), [`SimDisk::crash_at_op`], [`SimDisk::set_capacity`], [`SimDisk::fill`],
//!   [`SimDisk::flip_bit`] and [`SimDisk::make_unreadable`] are the faults. A failed sync forgets which sectors were dirty, as Linux does: they remain visible but
//!   no later sync writes them.
//!
//! Handles from before a crash or kill answer with errors, so a forgotten thread cannot write on.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Disk, DiskFile};

const SECTOR: usize = 512;

/// What an injected error hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`DiskFile::read_at`].
    Read,
    /// [`DiskFile::write_at`].
    Write,
    /// [`DiskFile::sync_data`].
    Sync,
    /// [`Disk::sync_dir`].
    SyncDir,
    /// [`DiskFile::write_at`], and the disk says that it did it: programs see it until the power goes, and no sync keeps it
    /// (but a later write to the same sectors brings it along).
    LostWrite,
    /// The same, and what was written stands in the place of something else.
    MisdirectedWrite,
}

/// A simulated folder. Clones share it.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

struct State {
    files: BTreeMap<u64, Content>,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    unsynced_names: Vec<NameChange>,
    next_file: u64,
    capacity: u64,
    rng: SplitMix,
    /// Crashes and kills so far; a handle of an earlier life is dead.
    life: u64,
    /// Changing operations so far, and after how many the power goes.
    ops: u64,
    crash_at: Option<u64>,
    power: bool,
    failures: Vec<(Operation, u64)>,
    /// Every write and sync fails.
    is_dead: bool,
}

#[derive(Default)]
struct Content {
    visible: Vec<u8>,
    durable: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// Bad sectors.
    unreadable: Vec<Range<u64>>,
}

enum NameChange {
    Create { name: String, file: u64 },
    Remove { name: String },
    Rename { file: u64, from: String, to: String },
}

/// Steele, Lea and Flood's SplitMix64: small, and the same everywhere.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

impl SimDisk {
    /// An empty disk; `seed` decides what a failed write or sync leaves behind.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State {
            files: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            next_file: 1,
            capacity: u64::MAX,
            rng: SplitMix(seed),
            life: 0,
            ops: 0,
            crash_at: None,
            power: true,
            failures: Vec::new(),
            is_dead: false,
        })))
    }

    /// Power loss and return: `seed` decides what becomes of everything that was never synced. Pending
    /// injected errors are forgotten; the capacity stays.
    pub fn crash(&self, seed: u64) {
        let mut state = self.0.lock();
        let mut rng = SplitMix(seed);
        for content in state.files.values_mut() {
            content.lose_power(&mut rng);
        }
        let changes = std::mem::take(&mut state.unsynced_names);
        for change in changes {
            if rng.below(2) == 0 {
                change.apply(&mut state.durable_names);
            }
        }
        state.names = state.durable_names.clone();
        state.begin_life();
    }

    /// Death of the process alone: what it wrote stays visible and unsynced. Pending injected errors are
    /// forgotten; the capacity stays.
    pub fn kill(&self) {
        self.0.lock().begin_life();
    }

    /// Switches the power off at the `n`th changing operation from now (1 is the next): that one fails, half
    /// done, and so does every operation after it until [`SimDisk::crash`].
    pub fn crash_at_op(&self, n: u64) {
        let mut state = self.0.lock();
        state.crash_at = Some(state.ops + n);
    }

    /// How many changing operations (all but reads and listings) there have been.
    pub fn ops(&self) -> u64 {
        self.0.lock().ops
    }

    /// Makes the `n`th `operation` from now (1 is the next) fail with an I/O error, or go where it should not.
    pub fn fail_nth(&self, operation: Operation, n: u64) {
        self.0.lock().failures.push((operation, n));
    }

    /// Every write and sync fails from now on, also after a power loss.
    pub fn die(&self) {
        self.0.lock().is_dead = true;
    }

    /// Takes back what [`SimDisk::fail_nth`], [`SimDisk::die`] and [`SimDisk::crash_at_op`] said of operations to come.
    pub fn mend(&self) {
        let mut state = self.0.lock();
        state.failures.clear();
        state.is_dead = false;
        state.crash_at = None;
    }

    /// Limits the sum of all file lengths, in bytes.
    pub fn set_capacity(&self, bytes: u64) {
        self.0.lock().capacity = bytes;
    }

    /// Limits it so that `left` more bytes fit, as another program does that fills the disk.
    pub fn fill(&self, left: u64) {
        let mut state = self.0.lock();
        state.capacity = state.used() + left;
    }

    /// Flips one bit of a file, on the disk and in the page cache. False if there is no such byte.
    pub fn flip_bit(&self, name: &str, offset: u64, bit: u8) -> bool {
        let mut state = self.0.lock();
        let Some(content) = state.names.get(name).copied().and_then(|file| state.files.get_mut(&file)) else {
            return false;
        };
        let offset = offset as usize;
        if let Some(byte) = content.durable.get_mut(offset) {
            *byte ^= 1 << (bit % 8);
        }
        match content.visible.get_mut(offset) {
            Some(byte) => {
                *byte ^= 1 << (bit % 8);
                true
            }
            None => false,
        }
    }

    /// Makes the disk answer EIO to every read that touches these bytes of a file, for as long as there is that file.
    /// False if there is no such file.
    pub fn make_unreadable(&self, name: &str, bytes: Range<u64>) -> bool {
        let mut state = self.0.lock();
        let content = state.names.get(name).copied().and_then(|file| state.files.get_mut(&file));
        content.map(|content| content.unreadable.push(bytes)).is_some()
    }

    fn handle(&self, file: u64, life: u64) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), file, life })
    }
}

impl State {
    fn begin_life(&mut self) {
        self.life += 1;
        self.crash_at = None;
        self.power = true;
        self.failures.clear();
        // No handle of an earlier life works, so a file without a name, present or durable, is gone.
        let (names, durable) = (&self.names, &self.durable_names);
        let renamed: BTreeSet<u64> = self.unsynced_names.iter().filter_map(NameChange::file).collect();
        self.files
            .retain(|file, _| names.values().chain(durable.values()).any(|f| f == file) || renamed.contains(file));
    }

    fn powered(&self) -> io::Result<()> {
        if self.power { Ok(()) } else { Err(io::Error::other("simulated power loss")) }
    }

    /// Counts a changing operation. `Ok(true)`: the power fails during this one.
    fn count(&mut self) -> io::Result<bool> {
        self.powered()?;
        self.ops += 1;
        let last = self.crash_at.is_some_and(|at| self.ops >= at);
        self.power = !last;
        Ok(last)
    }

    fn fails(&mut self, operation: Operation) -> bool {
        let mut hit = self.is_dead && matches!(operation, Operation::Write | Operation::Sync | Operation::SyncDir);
        self.failures.retain_mut(|(op, n)| {
            if *op == operation {
                *n -= 1;
                hit |= *n == 0;
            }
            *n > 0
        });
        hit
    }

    fn change_name(&mut self, change: NameChange) -> io::Result<()> {
        let cut = self.count()?;
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
        if cut { self.powered() } else { Ok(()) }
    }

    fn used(&self) -> u64 {
        self.names.values().filter_map(|file| self.files.get(file)).map(|c| c.visible.len() as u64).sum()
    }

    fn grow(&mut self, file: u64, len: usize) -> io::Result<()> {
        let more = len.saturating_sub(content(self, file)?.0.visible.len());
        if more > 0 {
            if more as u64 > self.capacity.saturating_sub(self.used()) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            content(self, file)?.0.visible.resize(len, 0);
        }
        Ok(())
    }
}

impl Content {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = offset + bytes.len();
        if self.visible.len() < end {
            self.visible.resize(end, 0);
        }
        self.visible[offset..end].copy_from_slice(bytes);
        self.dirty.extend(offset / SECTOR..=(end - 1) / SECTOR);
    }

    /// No sync keeps what was written there.
    fn forget(&mut self, bytes: Range<usize>) {
        let sectors = bytes.start / SECTOR..bytes.end.div_ceil(SECTOR);
        self.dirty.retain(|sector| !sectors.contains(sector));
    }

    /// The beginning of what was written takes the place of a sector that is kept.
    fn write_astray(&mut self, bytes: &[u8], rng: &mut SplitMix) {
        let sectors = self.durable.len() / SECTOR;
        if sectors > 0 {
            let start = rng.below(sectors) * SECTOR;
            let count = bytes.len().min(SECTOR);
            self.durable[start..start + count].copy_from_slice(&bytes[..count]);
        }
    }

    fn sync(&mut self) {
        self.durable.resize(self.visible.len(), 0);
        for sector in std::mem::take(&mut self.dirty) {
            self.keep(sector, 0..SECTOR);
        }
    }

    /// Copies a part of one sector from the page cache to the disk.
    fn keep(&mut self, sector: usize, part: std::ops::Range<usize>) {
        let start = (sector * SECTOR + part.start).min(self.visible.len());
        let end = (sector * SECTOR + part.end).min(self.visible.len());
        if self.durable.len() < end {
            self.durable.resize(end, 0);
        }
        self.durable[start..end].copy_from_slice(&self.visible[start..end]);
    }

    /// Each dirty sector reaches the disk, does not, or does in part; then none is dirty.
    fn settle(&mut self, rng: &mut SplitMix) {
        for sector in std::mem::take(&mut self.dirty) {
            let cut = rng.below(SECTOR);
            match rng.below(4) {
                0 => {}
                1 => self.keep(sector, 0..cut),
                2 => self.keep(sector, cut..SECTOR),
                _ => self.keep(sector, 0..SECTOR),
            }
        }
    }

    fn lose_power(&mut self, rng: &mut SplitMix) {
        if rng.below(2) == 0 && self.durable.len() < self.visible.len() {
            self.durable.resize(self.visible.len(), 0);
        }
        self.settle(rng);
        self.visible = self.durable.clone();
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Create { name, file } => {
                names.insert(name.clone(), *file);
            }
            NameChange::Remove { name } => {
                names.remove(name);
            }
            NameChange::Rename { file, from, to } => {
                if names.get(from) == Some(file) {
                    names.remove(from);
                }
                names.insert(to.clone(), *file);
            }
        }
    }

    fn file(&self) -> Option<u64> {
        match self {
            NameChange::Create { file, .. } | NameChange::Rename { file, .. } => Some(*file),
            NameChange::Remove { .. } => None,
        }
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.0.lock();
        state.powered()?;
        let life = state.life;
        if let Some(file) = state.names.get(name).copied() {
            return Ok(self.handle(file, life));
        }
        if !create {
            return Err(io::ErrorKind::NotFound.into());
        }
        let file = state.next_file;
        state.next_file += 1;
        state.files.insert(file, Content::default());
        state.change_name(NameChange::Create { name: name.to_owned(), file })?;
        Ok(self.handle(file, life))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let state = self.0.lock();
        state.powered()?;
        Ok(state.names.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        if !state.names.contains_key(name) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.change_name(NameChange::Remove { name: name.to_owned() })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        let file = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        state.change_name(NameChange::Rename { file, from: from.to_owned(), to: to.to_owned() })
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.count()? {
            return state.powered();
        }
        if state.fails(Operation::SyncDir) {
            return Err(io::Error::other("injected folder sync error"));
        }
        state.unsynced_names.clear();
        state.durable_names = state.names.clone();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.0.lock();
        state.powered()?;
        Ok(state.capacity.saturating_sub(state.used()))
    }
}

struct SimFile {
    disk: SimDisk,
    file: u64,
    life: u64,
}

impl SimFile {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.0.lock();
        state.powered()?;
        if state.life != self.life {
            return Err(io::Error::other("the simulated process that opened this file is dead"));
        }
        act(&mut state)
    }
}

/// A handle of the present life keeps its content alive, name or no name.
fn content(state: &mut State, file: u64) -> io::Result<(&mut Content, &mut SplitMix)> {
    let State { files, rng, .. } = state;
    Ok((files.get_mut(&file).ok_or(io::ErrorKind::NotFound)?, rng))
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|state| {
            if state.fails(Operation::Read) {
                return Err(io::Error::other("injected read error"));
            }
            let (content, _) = content(state, self.file)?;
            let start = (offset as usize).min(content.visible.len());
            let n = buf.len().min(content.visible.len() - start);
            let read = start as u64..(start + n) as u64;
            if content.unreadable.iter().any(|bad| bad.start < read.end && read.start < bad.end) {
                return Err(rustix::io::Errno::IO.into());
            }
            buf[..n].copy_from_slice(&content.visible[start..start + n]);
            Ok(n)
        })
    }

    fn write_at(&self, offset: u64, bufs: &[IoSlice<'_>]) -> io::Result<()> {
        self.with(|state| {
            let cut = state.count()?;
            let failed = state.fails(Operation::Write);
            let astray = state.fails(Operation::MisdirectedWrite);
            let lost = state.fails(Operation::LostWrite) || astray;
            let mut bytes = Vec::with_capacity(bufs.iter().map(|buf| buf.len()).sum());
            bufs.iter().for_each(|buf| bytes.extend_from_slice(buf));
            let offset = offset as usize;
            state.grow(self.file, offset + bytes.len())?;
            let (content, rng) = content(state, self.file)?;
            if failed {
                content.write(offset, &bytes[..rng.below(bytes.len() + 1)]);
                return Err(io::Error::other("injected write error"));
            }
            content.write(offset, &bytes);
            if lost {
                content.forget(offset..offset + bytes.len());
            }
            if astray {
                content.write_astray(&bytes, rng);
            }
            if cut { state.powered() } else { Ok(()) }
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|state| {
            if state.count()? {
                return state.powered();
            }
            let failed = state.fails(Operation::Sync);
            let (content, rng) = content(state, self.file)?;
            if failed {
                content.settle(rng);
                return Err(io::Error::other("injected sync error"));
            }
            content.sync();
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state| Ok(content(state, self.file)?.0.visible.len() as u64))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.with(|state| {
            let cut = state.count()?;
            state.grow(self.file, len as usize)?;
            if cut { state.powered() } else { Ok(()) }
        })
    }
}

//! Rows in an ordered map: the engine of tests and of the simulation.
//!
//! Every row keeps the values that some open view, or stable storage, still needs, each with the number of the batch
//! that wrote it; a view is a batch number. `flush` pins the newest batch as durable, and [`MemoryHome::crash`]
//! goes back to it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::{Batch, Engine, EngineError, EngineHome, EngineView, KeyRange, Kind, Loader, Row, Rows};

/// Values of one row, oldest first, each with the batch that wrote it; none is a deletion.
type Values = Vec<(u64, Option<Bytes>)>;

#[derive(Default)]
struct Table {
    rows: [BTreeMap<Bytes, Values>; Kind::ALL.len()],
    /// Number of the newest batch.
    newest: u64,
    /// Batches that something still reads, and how many readers each has; the durable one is always here.
    pinned: BTreeMap<u64, usize>,
    /// Newest batch on what stands for stable storage.
    durable: u64,
    /// Of all rows, with the values that are read still.
    bytes: u64,
}

impl Table {
    fn pin(&mut self, batch: u64) {
        *self.pinned.entry(batch).or_insert(0) += 1;
    }

    fn unpin(&mut self, batch: u64) {
        if let Some(readers) = self.pinned.get_mut(&batch) {
            *readers -= 1;
            if *readers == 0 {
                self.pinned.remove(&batch);
            }
        }
    }

    fn rows(&self, kind: Kind) -> &BTreeMap<Bytes, Values> {
        &self.rows[usize::from(kind.tag()) - 1]
    }

    fn get(&self, kind: Kind, key: &[u8], batch: u64) -> Option<Bytes> {
        value_at(self.rows(kind).get(key)?, batch)
    }

    fn write(&mut self, batch: Batch) {
        self.newest += 1;
        let Table { rows, newest, pinned, bytes, .. } = self;
        for change in batch.changes {
            let rows = &mut rows[usize::from(change.kind.tag()) - 1];
            let values = rows.entry(change.key.clone()).or_default();
            let before = row_bytes(&change.key, values);
            if values.last().is_some_and(|(batch, _)| batch == newest) {
                values.pop();
            }
            let mut next = *newest;
            let mut kept: Values = vec![(*newest, change.value)];
            for (batch, value) in values.drain(..).rev() {
                if pinned.range(batch..next).next().is_some() {
                    kept.push((batch, value));
                }
                next = batch;
            }
            kept.reverse();
            *bytes = (*bytes + row_bytes(&change.key, &kept)).saturating_sub(before);
            if kept.iter().all(|(_, value)| value.is_none()) {
                rows.remove(&change.key);
            } else {
                *values = kept;
            }
        }
    }
}

/// What a row takes; nothing if it has no value.
fn row_bytes(key: &Bytes, values: &Values) -> u64 {
    let lengths = values.iter().filter_map(|(_, value)| value.as_ref()).map(Bytes::len);
    let sum: usize = lengths.sum();
    if sum == 0 { 0 } else { (key.len() + sum) as u64 }
}

fn value_at(values: &Values, batch: u64) -> Option<Bytes> {
    values.iter().rev().find(|(written, _)| *written <= batch)?.1.clone()
}

/// The ordered map.
pub struct MemoryEngine {
    table: Arc<RwLock<Table>>,
}

impl MemoryEngine {
    /// An empty engine.
    pub fn new() -> MemoryEngine {
        let mut table = Table::default();
        table.pin(0);
        MemoryEngine { table: Arc::new(RwLock::new(table)) }
    }

    /// What a crash would leave: the rows of the last flush.
    fn survivor(&self) -> MemoryEngine {
        let table = self.table.read();
        let mut batch = Batch::default();
        for kind in Kind::ALL {
            for (key, values) in table.rows(kind) {
                if let Some(value) = value_at(values, table.durable) {
                    batch.put(kind, key.clone(), value);
                }
            }
        }
        let survivor = MemoryEngine::new();
        {
            let mut table = survivor.table.write();
            table.write(batch);
            mark_durable(&mut table);
        }
        survivor
    }
}

fn mark_durable(table: &mut Table) {
    let (old, new) = (table.durable, table.newest);
    table.pin(new);
    table.unpin(old);
    table.durable = new;
}

impl Default for MemoryEngine {
    fn default() -> MemoryEngine {
        MemoryEngine::new()
    }
}

impl Engine for MemoryEngine {
    fn view(&self) -> Arc<dyn EngineView> {
        let mut table = self.table.write();
        let batch = table.newest;
        table.pin(batch);
        Arc::new(MemoryView { table: Arc::clone(&self.table), batch })
    }

    fn write(&self, batch: Batch) -> Result<(), EngineError> {
        self.table.write().write(batch);
        Ok(())
    }

    fn loader(&self) -> Box<dyn Loader> {
        Box::new(MemoryLoader { table: Arc::clone(&self.table) })
    }

    fn flush(&self) -> Result<(), EngineError> {
        mark_durable(&mut self.table.write());
        Ok(())
    }

    fn get_flushed(&self, kind: Kind, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let table = self.table.read();
        Ok(table.get(kind, key, table.durable))
    }

    fn size_bytes(&self) -> u64 {
        self.table.read().bytes
    }
}

struct MemoryLoader {
    table: Arc<RwLock<Table>>,
}

impl Loader for MemoryLoader {
    fn add(&mut self, kind: Kind, key: Bytes, value: Bytes) -> Result<(), EngineError> {
        let mut batch = Batch::default();
        batch.put(kind, key, value);
        self.table.write().write(batch);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), EngineError> {
        Ok(())
    }
}

struct MemoryView {
    table: Arc<RwLock<Table>>,
    batch: u64,
}

impl Drop for MemoryView {
    fn drop(&mut self) {
        self.table.write().unpin(self.batch);
    }
}

impl EngineView for MemoryView {
    fn get(&self, kind: Kind, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(self.table.read().get(kind, key, self.batch))
    }

    fn scan(&self, kind: Kind, range: KeyRange, reverse: bool) -> Rows<'_> {
        Box::new(MemoryRows { view: self, kind, range, reverse, at: None, ended: false })
    }
}

/// Holds the lock only for one step, so that a slow reader does not stop the writer.
struct MemoryRows<'a> {
    view: &'a MemoryView,
    kind: Kind,
    range: KeyRange,
    reverse: bool,
    at: Option<Bytes>,
    ended: bool,
}

impl Iterator for MemoryRows<'_> {
    type Item = Result<Row, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let mut low = Bound::Included(self.range.start.as_slice());
        let mut high = self.range.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        if let Some(at) = &self.at {
            *(if self.reverse { &mut high } else { &mut low }) = Bound::Excluded(at);
        }
        let row = if is_empty(low, high) {
            None
        } else {
            let table = self.view.table.read();
            let mut rows = table.rows(self.kind).range::<[u8], _>((low, high));
            let visible = |(key, values): (&Bytes, &Values)| Some((key.clone(), value_at(values, self.view.batch)?));
            if self.reverse { rows.rev().find_map(visible) } else { rows.find_map(visible) }
        };
        match row {
            Some(row) => {
                self.at = Some(row.0.clone());
                Some(Ok(row))
            }
            None => {
                self.ended = true;
                None
            }
        }
    }
}

/// The map panics on a range whose start lies behind its end, or on one excluded key.
fn is_empty(low: Bound<&[u8]>, high: Bound<&[u8]>) -> bool {
    let (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end)) = (low, high) else {
        return false;
    };
    start >= end
}

struct Engines {
    by_generation: BTreeMap<u64, Arc<MemoryEngine>>,
    current: u64,
    next: u64,
    /// What is wrong with engines that must not be opened.
    condemned: BTreeMap<u64, String>,
    note: Option<Bytes>,
}

impl Engines {
    fn current(&self) -> Result<Arc<dyn Engine>, EngineError> {
        match self.by_generation.get(&self.current) {
            Some(engine) => Ok(Arc::clone(engine) as Arc<dyn Engine>),
            None => Err(missing(self.current)),
        }
    }
}

/// Memory that outlives the process that is simulated.
pub struct MemoryHome {
    engines: Mutex<Engines>,
}

impl MemoryHome {
    /// An empty home.
    pub fn new() -> MemoryHome {
        let first = BTreeMap::from([(1, Arc::new(MemoryEngine::new()))]);
        let engines = Engines { by_generation: first, current: 1, next: 2, condemned: BTreeMap::new(), note: None };
        MemoryHome { engines: Mutex::new(engines) }
    }

    /// Takes every engine back to its last flush, as the end of the process would. Handles given out before keep
    /// working on the old rows, which nobody will see again.
    pub fn crash(&self) {
        for engine in self.engines.lock().by_generation.values_mut() {
            *engine = Arc::new(engine.survivor());
        }
    }
}

impl Default for MemoryHome {
    fn default() -> MemoryHome {
        MemoryHome::new()
    }
}

impl EngineHome for MemoryHome {
    fn open_current(&self) -> Result<Arc<dyn Engine>, EngineError> {
        let engines = self.engines.lock();
        if let Some(why) = engines.condemned.get(&engines.current) {
            let what = format!("engine {} in memory is not used any more", engines.current);
            return Err(EngineError { what, source: why.clone().into(), damage: true });
        }
        engines.current()
    }

    fn create_new(&self) -> Result<(u64, Arc<dyn Engine>), EngineError> {
        let mut engines = self.engines.lock();
        let generation = engines.next;
        engines.next += 1;
        let engine = Arc::new(MemoryEngine::new());
        engines.by_generation.insert(generation, Arc::clone(&engine));
        Ok((generation, engine))
    }

    fn switch_to(&self, generation: u64) -> Result<(), EngineError> {
        let mut engines = self.engines.lock();
        if !engines.by_generation.contains_key(&generation) {
            return Err(missing(generation));
        }
        engines.current = generation;
        Ok(())
    }

    fn discard_others(&self) -> Result<(), EngineError> {
        let mut engines = self.engines.lock();
        let current = engines.current;
        // One reference is this home's own; a second one is somebody at work.
        engines.by_generation.retain(|generation, engine| *generation == current || Arc::strong_count(engine) > 1);
        Ok(())
    }

    fn condemn(&self, why: &str) -> Result<(), EngineError> {
        let mut engines = self.engines.lock();
        let current = engines.current;
        engines.condemned.insert(current, why.to_owned());
        Ok(())
    }

    fn open_condemned(&self) -> Result<Arc<dyn Engine>, EngineError> {
        self.engines.lock().current()
    }

    fn absolve(&self) -> Result<(), EngineError> {
        let mut engines = self.engines.lock();
        let current = engines.current;
        engines.condemned.remove(&current);
        Ok(())
    }

    fn keep_note(&self, note: &[u8]) -> Result<(), EngineError> {
        self.engines.lock().note = Some(Bytes::copy_from_slice(note));
        Ok(())
    }

    fn note(&self) -> Result<Option<Bytes>, EngineError> {
        Ok(self.engines.lock().note.clone())
    }
}

fn missing(generation: u64) -> EngineError {
    EngineError {
        what: format!("open engine {generation} in memory"),
        source: "it was never made, or was discarded".into(),
        damage: false,
    }
}

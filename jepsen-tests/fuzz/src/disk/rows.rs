//! Rows of the store as an engine hands them over: loaded, read, exported.
//!
//! Mode bit 0: they stand beside the rows of a good store. Each two parts are a row: tag of the kind and key, value.

use std::sync::Arc;

use saola_storage::engine::memory::MemoryHome;
use saola_storage::engine::{Batch, EngineHome, KeyRange, Kind};
use saola_storage::store::{Keeps, Store, StoreSettings};

use crate::store::{entry, furnished, others, read_all};
use crate::{Seed, input};

const BESIDE_GOOD_ONES: u8 = 1;

/// See the module.
pub fn run(bytes: &[u8]) {
    let (mode, bytes) = input::mode(bytes);
    let home = Arc::new(MemoryHome::new());
    if mode & BESIDE_GOOD_ONES != 0 {
        furnished(&home);
    }
    let mut batch = Batch::default();
    for row in input::parts(bytes).chunks_exact(2) {
        let Some((tag, key)) = row[0].split_first() else { continue };
        let Some(kind) = Kind::from_tag(*tag) else { continue };
        batch.put(kind, key.to_vec(), row[1].to_vec());
    }
    home.open_current().and_then(|engine| engine.write(batch)).expect("memory writes");
    let Ok(store) = Store::open(home, Keeps::Records, StoreSettings::default()) else { return };
    if store.ruined().is_some() {
        return;
    }
    read_all(&store);
    let view = store.view();
    let _ = (view.kept_digest().is_ok(), view.recomputed_digest().is_ok());
    let mut export = store.export().expect("nothing was applied yet");
    while export.next_chunk().expect("memory reads").is_some() {}
    let commands = saola_storage::command::CommandBatch { stamp_us: 9, commands: others() };
    let next = store.applied().log_id.map_or(1, |last| last.index.saturating_add(1));
    let _ = store.apply(vec![entry(next, commands)]).is_ok();
}

/// All rows of a small store.
pub fn seeds() -> Vec<Seed> {
    let home = Arc::new(MemoryHome::new());
    furnished(&home);
    let view = home.open_current().expect("memory opens").view();
    let mut parts = Vec::new();
    for kind in Kind::ALL {
        for row in view.scan(kind, KeyRange::all(), false) {
            let (key, value) = row.expect("memory reads");
            parts.push([&[kind.tag()][..], &key].concat());
            parts.push(value.to_vec());
        }
    }
    parts = parts.chunks_exact(2).filter(|row| row[1].len() < 4096).flatten().cloned().collect();
    vec![("alone", input::join(0, &parts)), ("beside", input::join(BESIDE_GOOD_ONES, &parts[..8]))]
}

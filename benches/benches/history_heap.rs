//! Memory under steady updates of the same 1,000 records: the log and the state machine of one node, in this process.
//!
//! Printed after every tenth of the updates: bytes that Rust code holds on the heap, and resident memory, which adds
//! what RocksDB holds. Both must stay flat while the history grows. `SAOLA_UPDATES` sets the number (1,000,000).

use std::alloc::System;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cap::Cap;
use saola_benches::{asked_to_measure, first_entries, log_id, put_entry};
use saola_storage::disk::RealDisk;
use saola_storage::engine::rocks::{RocksHome, RocksSettings};
use saola_storage::log::{Log, LogEntry, LogOp, LogSettings, Wait};
use saola_storage::store::{Keeps, Store, StoreSettings};

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, usize::MAX);

const RECORDS: u64 = 1_000;
/// Puts of one entry.
const BATCH: u64 = 50;
const VALUE_BYTES: usize = 256;
/// The state machine is flushed and the log purged after so many entries, as a node does every 30 s.
const FLUSH_EVERY: u64 = 2_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if !asked_to_measure() {
        return Ok(());
    }
    let updates: u64 = match std::env::var("SAOLA_UPDATES") {
        Ok(text) => text.parse()?,
        Err(_) => 1_000_000,
    };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let log_folder = folder.path().join("log");
    std::fs::create_dir(&log_folder)?;
    let (log, mut writer) = Log::open(Arc::new(RealDisk::open(&log_folder)?), LogSettings::default())?;
    let home = RocksHome::new(folder.path().join("db"), RocksSettings::RECORDS);
    let store = Store::open(Arc::new(home), Keeps::Records, StoreSettings::default())?;
    let payload = Bytes::from(vec![7; BATCH as usize * (VALUE_BYTES + 150)]);
    store.apply(first_entries())?;
    let append = |index| LogOp::Append(vec![LogEntry { log_id: log_id(index), payload: payload.clone() }]);
    log.submit(append(0), None);
    log.submit(append(1), None);

    println!("  updates   versions    heap MiB    rss MiB    log MiB");
    let entries = updates / BATCH;
    for entry in 0..entries {
        let index = entry + 2;
        store.apply(vec![put_entry(index, entry * BATCH % RECORDS, BATCH, VALUE_BYTES)?])?;
        log.submit(append(index), None);
        if writer.wait(Duration::ZERO) == Wait::Work {
            writer.step()?;
        }
        if entry % FLUSH_EVERY == FLUSH_EVERY - 1 {
            store.flush()?;
            log.submit(LogOp::Purge(log_id(index)), None);
        }
        if (entry + 1) % (entries / 10).max(1) == 0 {
            let mib = |bytes: u64| bytes as f64 / (1 << 20) as f64;
            println!(
                "{:>9} {:>10} {:>11.1} {:>10.1} {:>10.1}",
                (entry + 1) * BATCH,
                store.view().counts().versions,
                mib(HEAP.allocated() as u64),
                mib(resident_bytes()?),
                mib(log.stats().segments * LogSettings::default().segment_bytes),
            );
        }
    }
    Ok(())
}

fn resident_bytes() -> std::io::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    Ok(pages.unwrap_or(0) * 4096)
}

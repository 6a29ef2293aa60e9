//! A state of 200,000 records of 256 B moved from one RocksDB to a new one, as a node that is rebuilt receives it; the
//! network left out.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use saola_benches::{first_entries, put_entry};
use saola_storage::engine::rocks::{RocksHome, RocksSettings};
use saola_storage::store::{Keeps, Store, StoreSettings};

const RECORDS: u64 = 200_000;
const VALUE_BYTES: usize = 256;
const PUTS: u64 = 64;
const ROUNDS: u32 = 3;

fn open(folder: &Path) -> Store {
    let home = Arc::new(RocksHome::new(folder, RocksSettings::RECORDS));
    Store::open(home, Keeps::Records, StoreSettings::default()).expect("a store opens")
}

fn main() {
    let folder = || tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build folder's disk takes a folder");
    let from = folder();
    let sender = open(from.path());
    let entries = first_entries();
    let next = entries.len() as u64;
    sender.apply(entries).expect("a collection is created");
    for (index, first) in (next..).zip((0..RECORDS).step_by(PUTS as usize)) {
        let entry = put_entry(index, first, PUTS, VALUE_BYTES).expect("short values can be sealed");
        sender.apply(vec![entry]).expect("applied");
    }
    sender.flush().expect("flushed");
    for _ in 0..ROUNDS {
        let to = folder();
        let receiver = open(to.path());
        let (mut export, mut import) = (sender.export().expect("exports"), receiver.import().expect("imports"));
        let (mut bytes, mut reading, mut writing) = (0, Duration::ZERO, Duration::ZERO);
        loop {
            let began = Instant::now();
            let Some(chunk) = export.next_chunk().expect("a chunk") else { break };
            reading += began.elapsed();
            bytes += chunk.len();
            let began = Instant::now();
            import.write(&chunk).expect("a good chunk");
            writing += began.elapsed();
        }
        let began = Instant::now();
        import.finish().expect("a whole state");
        writing += began.elapsed();
        let rate = |took: Duration| bytes as f64 / 1e6 / took.as_secs_f64();
        println!(
            "snapshot of {RECORDS} records of {VALUE_BYTES} B: {:.1} MB, read at {:.0} MB/s, written at {:.0} MB/s, \
             both in turn at {:.0} MB/s",
            bytes as f64 / 1e6,
            rate(reading),
            rate(writing),
            rate(reading + writing)
        );
    }
}

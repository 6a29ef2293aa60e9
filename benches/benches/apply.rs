//! Entries of 64 puts applied to RocksDB, as a data node does; flushes in the background included.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use saola_benches::{first_entries, put_entry};
use saola_storage::engine::rocks::{RocksHome, RocksSettings};
use saola_storage::store::{Keeps, Store, StoreSettings};

const PUTS: u64 = 64;

fn main() {
    let mut criterion = Criterion::default().configure_from_args().sample_size(20);
    let mut group = criterion.benchmark_group("apply");
    group.throughput(Throughput::Elements(PUTS));
    for bytes in [256, 1024] {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build folder's disk takes a folder");
        let home = Arc::new(RocksHome::new(folder.path(), RocksSettings::RECORDS));
        let store = Store::open(home, Keeps::Records, StoreSettings::default()).expect("an empty store opens");
        let entries = first_entries();
        let mut index = entries.len() as u64;
        store.apply(entries).expect("a collection is created");
        group.bench_function(BenchmarkId::new("64 puts", bytes), |bencher| {
            bencher.iter_custom(|batches| {
                let mut elapsed = Duration::ZERO;
                for _ in 0..batches {
                    let entry = put_entry(index, index * PUTS, PUTS, bytes).expect("short values can be sealed");
                    index += 1;
                    let start = Instant::now();
                    store.apply(vec![entry]).expect("applied");
                    elapsed += start.elapsed();
                }
                elapsed
            });
        });
    }
    group.finish();
    criterion.final_summary();
}

//! Appends of 1 KiB to the durable log on the real disk, one to 64 in flight, so that one sync serves many;
//! beside it what the disk gives at best: 4 KiB written over and synced.

use std::io::{Seek, SeekFrom, Write};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput};
use saola_benches::{log_id, value};
use saola_storage::disk::RealDisk;
use saola_storage::log::{Log, LogEntry, LogOp, LogSettings};

/// Entries after which older ones are purged, so that the bench fits any disk.
const PURGE_EVERY: u64 = 16_384;

fn main() {
    let mut criterion = Criterion::default().configure_from_args().sample_size(20);
    let mut group = criterion.benchmark_group("log_append");
    group.throughput(Throughput::Elements(1));
    group.bench_function("bare fdatasync of 4 KiB", |bencher| bencher.iter_custom(bare_syncs));
    for in_flight in [1, 16, 64] {
        group.bench_function(BenchmarkId::new("in flight", in_flight), |bencher| {
            bencher.iter_custom(|entries| appends(entries, in_flight));
        });
    }
    group.finish();
    criterion.final_summary();
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build folder's disk takes a folder")
}

fn bare_syncs(times: u64) -> Duration {
    let folder = folder();
    let mut file = std::fs::File::create(folder.path().join("bare")).expect("a file");
    let page = value(4096);
    let pages = 256;
    for _ in 0..pages {
        file.write_all(&page).expect("written");
    }
    file.sync_all().expect("synced");
    let start = Instant::now();
    for time in 0..times {
        file.seek(SeekFrom::Start(time % pages * 4096)).expect("in the file");
        file.write_all(&page).expect("written");
        file.sync_data().expect("synced");
    }
    start.elapsed()
}

fn appends(entries: u64, in_flight: u64) -> Duration {
    let folder = folder();
    let disk = Arc::new(RealDisk::open(folder.path()).expect("the folder was just made"));
    let (log, writer) = Log::open(disk, LogSettings::default()).expect("an empty log opens");
    let thread = std::thread::spawn(move || writer.run(|error| panic!("the log failed: {error}")));
    let payload = Bytes::from(value(1024));
    let (done, results) = mpsc::channel();
    let start = Instant::now();
    for index in 0..entries + in_flight {
        if index >= in_flight {
            let result: Result<(), _> = results.recv().expect("every append is answered");
            result.expect("every append is durable");
        }
        if index < entries {
            let entry = LogEntry { log_id: log_id(index), payload: payload.clone() };
            let done = done.clone();
            // The receiver lives until all answers are in.
            let answer = Box::new(move |result| done.send(result).unwrap_or_default());
            log.submit(LogOp::Append(vec![entry]), Some(answer));
        }
        if index < entries && index % PURGE_EVERY == PURGE_EVERY - 1 {
            log.submit(LogOp::Purge(log_id(index - PURGE_EVERY / 2)), None);
        }
    }
    let elapsed = start.elapsed();
    log.close();
    thread.join().expect("the writer ends when its log is closed");
    elapsed
}

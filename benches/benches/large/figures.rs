//! What is measured: latencies of puts and gets, bytes of folders.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use saola_benches::{COLLECTION, record_id, value};
use saola_client::{Client, Error};

/// Latencies of calls, and how long they went on.
pub struct Latencies {
    histogram: Histogram<u64>,
    elapsed: Duration,
}

impl Default for Latencies {
    fn default() -> Latencies {
        // From a microsecond to a minute, to three digits.
        let histogram =
            Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds and digits are within its limits");
        Latencies { histogram, elapsed: Duration::ZERO }
    }
}

impl Latencies {
    fn record(&mut self, latency: Duration) {
        self.histogram.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// Adds those of a client that ran beside.
    pub fn add(&mut self, other: &Latencies) {
        self.histogram += &other.histogram;
        self.elapsed = self.elapsed.max(other.elapsed);
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |part| self.histogram.value_at_quantile(part) as f64 / 1000.0;
        let rate = self.histogram.len() as f64 / self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        let max = self.histogram.max() as f64 / 1000.0;
        write!(f, "{rate:.0}/s, p50 {:.2} ms, p99 {:.2} ms, max {max:.1} ms", ms(0.5), ms(0.99))
    }
}

/// Puts new versions of records spread over all, one after another, until told to stop.
pub async fn puts(
    client: Client,
    number: u64,
    clients: u64,
    records: u64,
    bytes: usize,
    stop: Arc<AtomicBool>,
) -> Result<Latencies, Error> {
    let value = value(bytes);
    timed(number, clients, records, stop, |id| {
        let put = client.put(COLLECTION, id, value.clone());
        async { put.send().await.map(|_| ()) }
    })
    .await
}

/// Linearizable gets of records spread over all, one after another, until told to stop.
pub async fn gets(
    client: Client,
    number: u64,
    clients: u64,
    records: u64,
    stop: Arc<AtomicBool>,
) -> Result<Latencies, Error> {
    timed(number, clients, records, stop, |id| {
        let get = client.get(COLLECTION, id);
        async { get.send().await.map(|_| ()) }
    })
    .await
}

async fn timed<F: Future<Output = Result<(), Error>>>(
    number: u64,
    clients: u64,
    records: u64,
    stop: Arc<AtomicBool>,
    mut call: impl FnMut(String) -> F,
) -> Result<Latencies, Error> {
    // A stride that is prime to any round number of records spreads neighbours over the key space.
    const STRIDE: u64 = 7_919;
    let (mut latencies, begin) = (Latencies::default(), Instant::now());
    let mut n = number;
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        call(record_id(n.wrapping_mul(STRIDE) % records)).await?;
        latencies.record(start.elapsed());
        n += clients;
    }
    latencies.elapsed = begin.elapsed();
    Ok(latencies)
}

/// Bytes of all files below a folder; what vanishes while it is counted counts as nothing.
pub fn folder_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// Bytes as MiB.
pub fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1 << 20) as f64
}

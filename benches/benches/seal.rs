//! One value sealed and opened.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use saola_benches::{context, dek, value};
use saola_storage::seal::{open, seal};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("seal");
    let (dek, context) = (dek(), context(b"ward/00004"));
    for bytes in [256, 1024, 4096] {
        let value = value(bytes);
        let envelope = seal(&dek, &context, &value, &[7; 28]).expect("a short value can be sealed");
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::new("seal", bytes), |bencher| {
            bencher.iter(|| seal(&dek, &context, black_box(&value), &[7; 28]));
        });
        group.bench_function(BenchmarkId::new("open", bytes), |bencher| {
            bencher.iter(|| open(&dek, &context, black_box(&envelope)));
        });
    }
    group.finish();
    criterion.final_summary();
}

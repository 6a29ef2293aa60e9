//! Five real processes of a 2+2+w cluster on this machine: clients write and read through random nodes while nodes are
//! killed with SIGKILL and started again; then the history is judged.
//!
//! - `workload`: what the clients do;
//! - `verdict`: what is read back, and whether the run was a test at all.
//!
//! A run is not repeatable to the byte, its choices are: the line that it prints first runs the same choices again.

mod verdict;
mod workload;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use saola_client::{Client, CreateCollection};
use saola_jepsen::history::{self, Recorder};
use saola_ops::launch::LocalCluster;
use tokio::time::Instant;

use self::workload::{COLLECTION, Caller, DEADLINE};

const CLIENTS: u32 = 8;
const LOAD: Duration = Duration::from_secs(15);
/// How long all may take to come back once the faults end.
const HEAL: Duration = Duration::from_secs(60);

#[test]
fn killed_nodes_lose_nothing_and_show_nothing_wrong() {
    let seed = seed();
    println!("live: seed {seed}; the same choices again: SAOLA_SEED={seed} cargo test -p saola-jepsen --test it live");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(run(seed));
}

/// `SAOLA_SEED`, or a new one.
fn seed() -> u64 {
    match std::env::var("SAOLA_SEED") {
        Ok(seed) => seed.parse().expect("SAOLA_SEED is a number"),
        Err(_) => rand::random(),
    }
}

/// Where this run's history is kept, for a second look.
fn folder(seed: u64) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("live-{seed}"));
    fs::create_dir_all(&folder).expect("the build folder takes another");
    folder
}

//! Simulated clusters with a plot: each test is one promise, told over several seeds.
//!
//! - `reads`: linearizable reads from every data node;
//! - `witness`: the main site is lost while the witness alone holds the newest entry;
//! - `leadership`: transfer, shutdown, partitions, one-way cuts, once only;
//! - `init`: making a cluster, cut short and repeated;
//! - `membership`: adding, removing, replacing nodes;
//! - `disks`: disks that run full or fail;
//! - `hangs`: disks that complete no writes;
//! - `rot`: logs that are damaged while their node is down;
//! - `snapshots`: nodes that the log can no longer bring up to date;
//! - `scrub`: copies of the records that go bad;
//! - `ruin`: records that apply or a start cannot use;
//! - `folders`: empty folders and old copies under a known node id;
//! - `admission`: who may speak as which node;
//! - `protection`, `availability`: what an acknowledgement waits for, and what is done without the other site;
//! - `switchover`: leadership goes to the other site on purpose; `promotion`, `two_epochs`: a site goes on without the other by force;
//! - `table` with `load`: what each loss costs, as printed in `ops/README.md`;
//! - `failover`: who takes over when a site is lost, and where leadership belongs;
//! - `shrink`: a site that stays away loses its votes until it is back;
//! - `retention`: old versions go, and nothing that was promised goes with them.
//!
//! A failing run ends with the line that runs its seed again. All times are virtual.

mod admission;
mod availability;
mod disks;
mod failover;
mod folders;
mod goal;
mod hangs;
mod init;
mod latency;
mod leadership;
mod load;
mod membership;
mod promotion;
mod protection;
mod reads;
mod retention;
mod rot;
mod ruin;
mod scrub;
mod shrink;
mod snapshots;
mod switchover;
mod table;
mod topologies;
mod two_epochs;
mod witness;

use saola_jepsen::sim::act::{add, have_lead, ids, leader, leads, on, pick, remove, replicas_are_equal, status, until};
use saola_jepsen::sim::{Clerk, Cluster, PATIENCE, promote, sites};
use saola_raft::sim::run;

/// Seeds of a run, unless `SAOLA_SEEDS` asks for another number or `SAOLA_SEED` for one seed alone.
const SEEDS: u64 = 10;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Says how to run a failing seed again.
struct Replay<'a> {
    name: &'a str,
    seed: u64,
}

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (name, seed) = (self.name, self.seed);
            eprintln!(
                "replay: SAOLA_SEED={seed} SAOLA_LOG=info cargo test -p saola-jepsen --test it scenarios::{name}"
            );
        }
    }
}

/// Runs a scenario under many seeds.
fn under_seeds(name: &str, scenario: impl AsyncFn(u64)) {
    of_seeds(name, SEEDS, scenario);
}

/// What a scenario answers under each of so many seeds, or as many as were asked for, or under the one that was.
fn of_seeds<T>(name: &str, count: u64, scenario: impl AsyncFn(u64) -> T) -> Vec<T> {
    let seeds = match number("SAOLA_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SAOLA_SEEDS").unwrap_or(count),
    };
    if let Ok(filter) = std::env::var("SAOLA_LOG") {
        // A second scenario of the same process writes to the first one's subscriber.
        let _already_set = tracing_subscriber::fmt().with_env_filter(filter).without_time().with_ansi(false).try_init();
    }
    let one = |seed| {
        let _replay = Replay { name, seed };
        run(seed, scenario(seed))
    };
    seeds.map(one).collect()
}

/// Three voters at one site, and a clerk who has written a record.
async fn three_with_a_record() -> (Cluster, Clerk) {
    let mut cluster = Cluster::new(3, false);
    cluster.init().await;
    let mut clerk = Clerk::new(1);
    clerk.put_surely(&cluster, &[1, 2, 3], 0, PATIENCE).await;
    (cluster, clerk)
}

//! How long no write is acknowledged while something happens to a cluster under load.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use saola_client::{Client, Error};
use saola_ops::exit::Failure;
use saola_ops::launch::{LocalCluster, wait_until};

use crate::{COLLECTION, record_id, value};

/// Writing must be seen to go on within so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// When writes were acknowledged.
#[derive(Default)]
pub struct Acks(Mutex<Gap>);

#[derive(Default)]
struct Gap {
    count: u64,
    last: Option<Instant>,
    longest: Duration,
}

impl Acks {
    fn one_more(&self) {
        let mut gap = self.gap();
        let now = Instant::now();
        let since = gap.last.map_or(Duration::ZERO, |last| now - last);
        gap.longest = gap.longest.max(since);
        gap.last = Some(now);
        gap.count += 1;
    }

    /// Forgets the longest gap so far.
    fn reset(&self) {
        let mut gap = self.gap();
        gap.longest = Duration::ZERO;
        gap.count = 0;
    }

    fn gap(&self) -> std::sync::MutexGuard<'_, Gap> {
        // Each change under the lock is whole by itself.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of so many clients writes until it is aborted. A failed write is tried again as another one: only acknowledgements count here.
pub async fn write(client: Client, number: u64, clients: u64, acks: Arc<Acks>) {
    let value = value(256);
    for n in 0.. {
        match client.put(COLLECTION, record_id(n * clients + number), value.clone()).send().await {
            Ok(_) => acks.one_more(),
            Err(error @ (Error::Unavailable(_) | Error::UnknownOutcome { .. })) => {
                eprintln!("writer {number}: {error}")
            }
            Err(error) => {
                eprintln!("writer {number} stops: {error}");
                return;
            }
        }
    }
}

/// Name of the node that leads.
///
/// # Errors
/// None in time.
pub async fn leader(cluster: &LocalCluster) -> Result<String, Failure> {
    let status = cluster.wait_for_status("find the leader", |status| match status.leader {
        0 => Err("no leader".to_string()),
        _ => Ok(()),
    });
    let leader = status.await?.leader;
    let node = cluster.topology().node.iter().find(|node| node.node_id == leader);
    Ok(node.map(|node| node.name.clone()).unwrap_or_default())
}

/// Kills nodes under load and gives the longest time without an acknowledgement, while so many come before and after.
///
/// # Errors
/// Writing that does not go on.
pub async fn gap(cluster: &mut LocalCluster, names: &[&str], acks: &Acks, count: u64) -> Result<Duration, Failure> {
    pause(acks, count, cluster.kill(names)).await
}

/// The same for anything else that is done under load.
///
/// # Errors
/// Writing that does not go on; what is done fails.
pub async fn pause(
    acks: &Acks,
    count: u64,
    disturb: impl Future<Output = Result<(), Failure>>,
) -> Result<Duration, Failure> {
    acks.reset();
    wait_until("write before it", PATIENCE, || async { acknowledged(acks, count) }).await?;
    acks.reset();
    disturb.await?;
    wait_until("write after it", PATIENCE, || async { acknowledged(acks, count) }).await?;
    Ok(acks.gap().longest)
}

fn acknowledged(acks: &Acks, wanted: u64) -> Result<(), String> {
    match acks.gap().count {
        count if count >= wanted => Ok(()),
        count => Err(format!("{count} acknowledgements")),
    }
}

//! Writers that begin at each site, write all the time, and remember what they were told.
//!
//! The recovery time of a drill is the longest time in which none of them was acknowledged anything; what they were
//! acknowledged must be there afterwards, each write once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use saola_client::drill::WORK;
use saola_client::{Client, Error, Version};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Interval, interval};

use crate::exit::{Exit, Failure, doing};

/// A writer begins a write so long after the one before at the earliest: gaps are measured to about this.
pub const PACE: Duration = Duration::from_millis(20);
/// The same for a drill that may take a quarter of an hour and should cost nothing.
pub const SLOW_PACE: Duration = Duration::from_millis(250);
/// How long one write may take, a failover included.
pub const WRITE_LIMIT: Duration = Duration::from_secs(10);
/// A node gets so long for a write before another one is asked.
pub const ATTEMPT_LIMIT: Duration = Duration::from_millis(700);

/// A write that was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// Which writer.
    pub writer: usize,
    /// Counts the writes of that writer.
    pub number: u64,
    /// When the acknowledgement came, since the drill began.
    pub at: Duration,
}

/// All that the writers were told.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Acknowledged.
    pub acks: Vec<Ack>,
    /// When the newest acknowledgement came.
    pub last_ack: Duration,
    /// Refused as surely not written.
    pub refused: u64,
    /// Nobody could say.
    pub unknown: u64,
    /// The newest refusal or doubt.
    pub last_trouble: Option<String>,
}

/// What became of what was acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Acknowledged and not there.
    pub lost: u64,
    /// There more than once.
    pub doubled: u64,
    /// Writes that were read back, those without an acknowledgement included.
    pub found: u64,
}

/// Where a writer begins.
#[derive(Clone, Debug)]
struct Writer {
    site: String,
    id: String,
}

/// The writers of one drill, until they are told to stop.
pub struct Writers {
    writers: Vec<Writer>,
    told: Arc<watch::Sender<Told>>,
    stop: watch::Sender<bool>,
    running: JoinSet<()>,
}

impl Writers {
    /// Starts so many at each site, which write at this pace; `client_at` makes the client of a site's own.
    ///
    /// # Errors
    /// A client that cannot be made.
    pub fn start(
        drill: &str,
        sites: &[&str],
        (per_site, pace): (u32, Duration),
        began: Instant,
        client_at: impl Fn(&str) -> Result<Client, Failure>,
    ) -> Result<Writers, Failure> {
        let (told, stop) = (Arc::new(watch::Sender::new(Told::default())), watch::Sender::new(false));
        let (mut writers, mut running) = (Vec::new(), JoinSet::new());
        for site in sites {
            for nth in 1..=per_site {
                let writer = Writer { site: (*site).to_owned(), id: format!("canary/{drill}/{site}-{nth}") };
                let (client, number) = (client_at(site)?, writers.len());
                running.spawn(write(
                    client,
                    number,
                    writer.id.clone(),
                    interval(pace),
                    began,
                    told.clone(),
                    stop.subscribe(),
                ));
                writers.push(writer);
            }
        }
        Ok(Writers { writers, told, stop, running })
    }

    /// Follows what they are told.
    pub fn told(&self) -> watch::Receiver<Told> {
        self.told.subscribe()
    }

    /// The site at which each began.
    pub fn sites(&self) -> Vec<String> {
        self.writers.iter().map(|writer| writer.site.clone()).collect()
    }

    /// Lets each finish the write that it is at, and gives all that they were told.
    pub async fn stop(&mut self) -> Told {
        self.stop.send_replace(true);
        while self.running.join_next().await.is_some() {}
        self.told.borrow().clone()
    }

    /// Reads back what was acknowledged. `nodes`: clients pinned to a data node each, which give one attempt all the time
    /// that a long history takes.
    ///
    /// # Errors
    /// A record that no node can read.
    pub async fn audit(&self, nodes: &[Client], told: &Told) -> Result<Audit, Failure> {
        let mut audit = Audit::default();
        for (number, writer) in self.writers.iter().enumerate() {
            let versions = history(nodes, &writer.id).await?;
            let read = versions.iter().filter_map(|version| number_of(&version.value));
            let acked = told.acks.iter().filter(|ack| ack.writer == number).map(|ack| ack.number);
            let one = compare(acked, read);
            audit.lost += one.lost;
            audit.doubled += one.doubled;
            audit.found += one.found;
        }
        Ok(audit)
    }
}

/// All versions of a record, from the first node that can read them.
async fn history(nodes: &[Client], id: &str) -> Result<Vec<Version>, Failure> {
    let mut failed =
        Failure::new(Exit::Unreachable, format!("read back {id}: there is no data node"), "`saola status`");
    for node in nodes {
        match node.history(WORK, id.to_owned()).send().await {
            Ok(reply) => return Ok(reply.value),
            Err(Error::NotFound(_)) => return Ok(Vec::new()),
            Err(error) => failed = doing(format!("read back {id}"))(error),
        }
    }
    Err(failed)
}

fn value(number: u64) -> String {
    json!({ "number": number }).to_string()
}

fn number_of(value: &[u8]) -> Option<u64> {
    serde_json::from_slice::<serde_json::Value>(value).ok()?.get("number")?.as_u64()
}

fn compare(acked: impl Iterator<Item = u64>, read: impl Iterator<Item = u64>) -> Audit {
    let mut times: BTreeMap<u64, u64> = BTreeMap::new();
    for number in read {
        *times.entry(number).or_default() += 1;
    }
    Audit {
        lost: acked.filter(|number| !times.contains_key(number)).count() as u64,
        doubled: times.values().filter(|times| **times > 1).count() as u64,
        found: times.len() as u64,
    }
}

async fn write(
    client: Client,
    writer: usize,
    id: String,
    mut pace: Interval,
    began: Instant,
    told: Arc<watch::Sender<Told>>,
    mut stop: watch::Receiver<bool>,
) {
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in 1.. {
        tokio::select! {
            _ = pace.tick() => {}
            // An error means that nobody waits for the writers any more.
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let written = client.put(WORK, id.clone(), value(number)).content_type("application/json").send().await;
        let at = began.elapsed();
        told.send_modify(|told| match written {
            Ok(_) => {
                told.acks.push(Ack { writer, number, at });
                told.last_ack = told.last_ack.max(at);
            }
            Err(error) => {
                match error {
                    Error::UnknownOutcome { .. } => told.unknown += 1,
                    _ => told.refused += 1,
                }
                told.last_trouble = Some(error.to_string());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_lost_and_what_is_there_twice_is_doubled() {
        let audit = |acked: &[u64], read: &[u64]| compare(acked.iter().copied(), read.iter().copied());
        assert_eq!(audit(&[1, 2, 3], &[1, 2, 3, 4]), Audit { lost: 0, doubled: 0, found: 4 });
        assert_eq!(audit(&[1, 2, 3], &[1, 3, 3]), Audit { lost: 1, doubled: 1, found: 2 });
        assert_eq!(number_of(value(7).as_bytes()), Some(7));
    }
}

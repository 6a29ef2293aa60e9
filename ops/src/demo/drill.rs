//! Step 5: several clients write; the main site is killed under them; they go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use saola_client::{Client, CreateCollection, Error, TransferTo};
use serde_json::json;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;

use super::screen::Screen;
use super::setup::leader_name;
use crate::exit::{Exit, Failure};
use crate::gap::longest_gap;
use crate::launch::LocalCluster;
use crate::output::grouped;

/// The writers' own collection.
pub const DRILL: &str = "drill";
/// Record that holds the canary.
pub const CANARY_ID: &str = "canary";
/// The nodes that are killed.
pub const MAIN: [&str; 2] = ["main-1", "main-2"];

const WRITERS: usize = 8;
/// Each writer goes round so many records of its own, so that they have histories.
const RECORDS_EACH: u64 = 50;
/// The site is killed after so many acknowledgements.
const WARM_UP: usize = 1_000;
const WARM_UP_LIMIT: Duration = Duration::from_secs(30);
/// The writers go on for so long after the kill,
const GO_ON: Duration = Duration::from_secs(6);
/// and writes must be acknowledged again within this.
const FAILOVER_LIMIT: Duration = Duration::from_secs(30);
/// A writer that was refused waits so long before its next write, as a program would.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_millis(20);

/// One write, told from all others by the token in its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its record.
    pub id: String,
    /// The token in its value.
    pub token: String,
    /// When it was begun, since the start of the drill.
    pub begun: Duration,
    /// When its outcome came.
    pub ended: Duration,
}

/// A write that was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The write.
    pub attempt: Attempt,
    /// Generation that the acknowledgement named.
    pub generation: u64,
}

/// How a write ended.
#[derive(Clone, Debug)]
enum Ending {
    Acked(Ack),
    Unknown(Attempt),
    Refused(Attempt, String),
}

/// All that the writers saw.
#[derive(Clone, Debug, Default)]
pub struct Drill {
    /// Begins every token of this run; part of values only.
    pub token_prefix: String,
    /// Acknowledged writes.
    pub acks: Vec<Ack>,
    /// Writes whose outcome the clients could not learn.
    pub unknown: Vec<Attempt>,
    /// Writes that were refused as certainly not applied.
    pub refused: Vec<Attempt>,
    /// Why the last of these was refused.
    pub last_refusal: Option<String>,
    /// When the main site was killed, since the start of the drill.
    pub killed_at: Duration,
    /// When the writers were told to stop.
    pub ended_at: Duration,
}

impl Drill {
    /// The longest time around and after the kill in which no write was acknowledged, milliseconds.
    pub fn gap_ms(&self) -> u64 {
        let (_, gap) = longest_gap(self.acks.iter().map(|ack| ack.attempt.ended), self.killed_at, self.ended_at);
        u64::try_from(gap.as_millis()).unwrap_or(u64::MAX)
    }

    fn record(&mut self, ending: Ending) {
        match ending {
            Ending::Acked(ack) => self.acks.push(ack),
            Ending::Unknown(attempt) => self.unknown.push(attempt),
            Ending::Refused(attempt, why) => {
                self.refused.push(attempt);
                self.last_refusal = Some(why);
            }
        }
    }
}

/// Runs the step.
///
/// # Errors
/// Writers that get nowhere, a leader that cannot be moved, or no acknowledgement after the loss of the site.
pub async fn lose_main_site(screen: &Screen, cluster: &mut LocalCluster) -> Result<Drill, Failure> {
    screen.step(5, &format!("{WRITERS} clients write while the main site is killed"))?;
    let client = cluster.client().clone();
    client.create_collection(CreateCollection::new(DRILL)).await?;
    let mut drill = Drill { token_prefix: format!("drill-{:016x}-", rand::random::<u64>()), ..Drill::default() };
    client.put(DRILL, CANARY_ID, canary(&drill.token_prefix)).content_type("text/plain").send().await?;

    let started = Instant::now();
    let stop = Arc::new(AtomicBool::new(false));
    let (endings, mut seen) = mpsc::unbounded_channel();
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        let writer = Writer {
            client: cluster.new_client()?,
            number,
            prefix: drill.token_prefix.clone(),
            started,
            stop: Arc::clone(&stop),
            endings: endings.clone(),
        };
        writers.spawn(writer.run());
    }
    drop(endings);

    let warm = |drill: &Drill| drill.acks.len() >= WARM_UP;
    if !watch(&mut drill, &mut seen, started + WARM_UP_LIMIT, warm).await {
        return Err(stuck(&drill, "the writers did not get going"));
    }
    lead_from_main(screen, cluster).await?;
    drill.killed_at = started.elapsed();
    cluster.kill(&MAIN).await?;
    screen.line(format!(
        "{} killed with SIGKILL at {:.2} s; writing goes on",
        MAIN.join(" and "),
        drill.killed_at.as_secs_f64()
    ))?;

    let again = |drill: &Drill| drill.acks.iter().rev().any(|ack| ack.attempt.begun > drill.killed_at);
    let limit = started + drill.killed_at + FAILOVER_LIMIT;
    if !watch(&mut drill, &mut seen, limit, again).await {
        return Err(stuck(&drill, "no write was acknowledged after the loss of the main site"));
    }
    let until = started + drill.killed_at + GO_ON;
    watch(&mut drill, &mut seen, until, |_| false).await;
    drill.ended_at = started.elapsed();
    stop.store(true, Ordering::Relaxed);
    // The channel closes when the last writer has ended.
    while let Some(ending) = seen.recv().await {
        drill.record(ending);
    }
    while let Some(ended) = writers.join_next().await {
        ended
            .map_err(|error| Failure::new(Exit::Other, format!("a writer broke off: {error}"), "run the demo again"))?;
    }
    tell(screen, cluster, &drill).await?;
    Ok(drill)
}

/// Takes what the writers report until `enough` or until the time is over; tells which.
async fn watch(
    drill: &mut Drill,
    seen: &mut UnboundedReceiver<Ending>,
    until: Instant,
    enough: impl Fn(&Drill) -> bool,
) -> bool {
    while let Ok(Some(ending)) = tokio::time::timeout_at(until.into(), seen.recv()).await {
        drill.record(ending);
        if enough(drill) {
            return true;
        }
    }
    false
}

fn stuck(drill: &Drill, what: &str) -> Failure {
    let refusal = drill.last_refusal.as_deref().unwrap_or("none was refused");
    let what = format!(
        "{what}: {} acknowledged, {} refused, {} unknown; last refusal: {refusal}",
        drill.acks.len(),
        drill.refused.len(),
        drill.unknown.len()
    );
    Failure::new(Exit::Unreachable, what, "see node.log of the DR nodes and the witness")
}

/// Moves leadership to the main site if it is not there.
async fn lead_from_main(screen: &Screen, cluster: &LocalCluster) -> Result<(), Failure> {
    let at_main = |status: &saola_client::proto::StatusResponse| match leader_name(status) {
        Some(name) if MAIN.contains(&name) => Ok(()),
        Some(name) => Err(format!("{name} leads")),
        None => Err("no leader".to_owned()),
    };
    let status = cluster.wait_for_status("find the leader", |status| {
        if status.leader == 0 { Err("no leader".to_owned()) } else { Ok(()) }
    });
    let status = status.await?;
    let name = leader_name(&status).unwrap_or("nobody").to_owned();
    if at_main(&status).is_ok() {
        return screen.line(format!("{name} leads"));
    }
    cluster.client().transfer(TransferTo::Site("main".to_owned())).await?;
    let status = cluster.wait_for_status("move leadership to main", at_main).await?;
    screen.line(format!("leadership moved from {name} to {}", leader_name(&status).unwrap_or("nobody")))
}

async fn tell(screen: &Screen, cluster: &LocalCluster, drill: &Drill) -> Result<(), Failure> {
    let after = drill.acks.iter().filter(|ack| ack.attempt.begun > drill.killed_at).count();
    screen.line(format!(
        "acknowledged {} writes, {} of them begun after the kill; longest gap {} ms",
        grouped(drill.acks.len() as u64),
        grouped(after as u64),
        grouped(drill.gap_ms())
    ))?;
    screen.line(format!(
        "refused as certainly not applied: {}; unknown outcomes: {}",
        drill.refused.len(),
        drill.unknown.len()
    ))?;
    let status = cluster.client_at("dr-1")?.cluster_status(false).await?;
    screen.line(format!("{} leads now, in term {}", leader_name(&status).unwrap_or("nobody"), status.term))
}

/// The canary's value.
pub fn canary(token_prefix: &str) -> String {
    format!("{token_prefix}canary sings in no file")
}

struct Writer {
    client: Client,
    number: usize,
    prefix: String,
    started: Instant,
    stop: Arc<AtomicBool>,
    endings: UnboundedSender<Ending>,
}

impl Writer {
    async fn run(self) {
        let mut count = 0;
        while !self.stop.load(Ordering::Relaxed) {
            count += 1;
            let ending = self.write(count).await;
            let refused = matches!(ending, Ending::Refused(..));
            if self.endings.send(ending).is_err() {
                return;
            }
            if refused {
                tokio::time::sleep(PAUSE_AFTER_REFUSAL).await;
            }
        }
    }

    async fn write(&self, count: u64) -> Ending {
        let id = format!("writer-{}/{:02}", self.number, count % RECORDS_EACH);
        let token = format!("{}{}-{count}", self.prefix, self.number);
        let value = json!({"token": token, "writer": self.number, "count": count}).to_string();
        let begun = self.started.elapsed();
        let result = self.client.put(DRILL, id.clone(), value).content_type("application/json").send().await;
        let attempt = Attempt { id, token, begun, ended: self.started.elapsed() };
        match result {
            Ok(written) => Ending::Acked(Ack { attempt, generation: written.generation }),
            Err(Error::UnknownOutcome { .. }) => Ending::Unknown(attempt),
            Err(error) => Ending::Refused(attempt, error.to_string()),
        }
    }
}

//! What the clients do: conditional and plain writes, deletions and reads on a few records, through random nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use saola_client::{Client, Error, Expect, Reason, Reply, Version, Written};
use saola_jepsen::history::{Recorder, Route};
use saola_jepsen::operation::{Action, Fingerprint, Found, Outcome};
use saola_ops::topology::{Node, Role};
use tokio::sync::watch;
use tokio::time::Instant;

/// Collection of all records of the run.
pub const COLLECTION: &str = "jepsen";

/// Records that the clients share: few, so that they meet.
pub const RECORDS: u64 = 20;

/// How long a call may take: longer than an election, so that most calls outlive a kill.
pub const DEADLINE: Duration = Duration::from_secs(3);

/// One client: its way in, its chance, and the newest generations that it knows of.
pub struct Caller {
    number: u32,
    rng: SmallRng,
    /// Finds a node by itself and fails over.
    floating: Client,
    /// The members, as they are now.
    members: watch::Receiver<Vec<Node>>,
    /// One per data node: asks that node alone.
    pinned: BTreeMap<u64, Client>,
    known: Vec<u64>,
    /// Stands in every value.
    canary: String,
}

impl Caller {
    /// The client with this number in a run with this seed.
    pub fn new(number: u32, seed: u64, floating: Client, members: watch::Receiver<Vec<Node>>) -> Caller {
        let canary = canary(seed);
        let rng = SmallRng::seed_from_u64(seed ^ u64::from(number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Caller { number, rng, floating, members, pinned: BTreeMap::new(), known: vec![0; RECORDS as usize], canary }
    }

    /// Calls, one call at a time, until `end`.
    pub async fn run(mut self, recorder: &Recorder, end: Instant) {
        while Instant::now() < end {
            self.call(recorder).await;
            // Between calls a client thinks for a moment: otherwise a fast refusal fills the history with itself.
            let pause = Duration::from_millis(self.rng.random_range(0..20));
            tokio::time::sleep(pause).await;
        }
    }

    async fn call(&mut self, recorder: &Recorder) {
        let record = self.rng.random_range(0..RECORDS);
        let (node_asked, client) = self.choose_node();
        let call = recorder.begin();
        // The operation's number makes the value unique; the rest gives it a body.
        let value = format!("value {} of client {}, {}; ", call.op_id, self.number, self.canary).repeat(4);
        let action = self.choose_action(record, Fingerprint::of(value.as_bytes()));
        let id = record_id(record);
        let (outcome, answered) = match action {
            Action::Get => seen(client.get(COLLECTION, id.clone()).send().await),
            Action::Delete => written(client.delete(COLLECTION, id.clone()).send().await),
            Action::Put { .. } => written(client.put(COLLECTION, id.clone(), value).send().await),
            Action::Cas { expect, .. } => {
                let put = client.put(COLLECTION, id.clone(), value).expect(Expect::Generation(expect));
                written(put.send().await)
            }
        };
        self.learn(record, &outcome);
        let (node_answered, epoch) = answered.unzip();
        let route = Route { node_asked, node_answered, epoch };
        recorder.end(call, self.number, &format!("{COLLECTION}/{id}"), action, outcome, route);
    }

    fn choose_node(&mut self) -> (Option<u64>, Client) {
        let members = self.members.borrow();
        let data: Vec<&Node> = members.iter().filter(|node| node.role != Role::Witness).collect();
        let Some(node) = data.get(self.rng.random_range(0..2 * data.len())) else {
            return (None, self.floating.clone());
        };
        let at = || self.floating.at_endpoint(&node.client_address).expect("a node of the cluster has an address");
        (Some(node.node_id), self.pinned.entry(node.node_id).or_insert_with(at).clone())
    }

    fn choose_action(&mut self, record: u64, value: Fingerprint) -> Action {
        match self.rng.random_range(0..100) {
            0..30 => Action::Put { value },
            30..55 => Action::Cas { expect: self.known[record as usize], value },
            55..65 => Action::Delete,
            _ => Action::Get,
        }
    }

    fn learn(&mut self, record: u64, outcome: &Outcome) {
        let generation = match outcome {
            Outcome::Written { generation, .. } | Outcome::Seen { generation, .. } => *generation,
            Outcome::Refused { found: Some(Found::Live(generation) | Found::Gone(generation)), .. } => *generation,
            Outcome::Refused { .. } | Outcome::Unknown { .. } => return,
        };
        self.known[record as usize] = generation;
    }
}

/// What stands in every value of a run with this seed, and in nothing else on this machine.
pub fn canary(seed: u64) -> String {
    let mut rng = SmallRng::seed_from_u64(!seed);
    (0..4).map(|_| format!("{:016x}", rng.random::<u64>())).collect()
}

/// Id of a record of the run.
pub fn record_id(record: u64) -> String {
    format!("r{record:02}")
}

/// The fingerprint of a version's value; none for a deletion.
pub fn fingerprint(version: &Version) -> Option<Fingerprint> {
    (!version.is_deleted()).then(|| Fingerprint::of(&version.value))
}

/// A write's outcome, and the node and epoch that answered.
fn written(result: Result<Written, Error>) -> (Outcome, Option<(u64, u64)>) {
    let error = match result {
        Ok(done) => {
            let outcome = Outcome::Written { generation: done.generation, revision: done.revision };
            return (outcome, Some((done.node, done.epoch)));
        }
        Err(error) => error,
    };
    let reason = error.reason().to_string();
    let refused = |found| Outcome::Refused { reason: reason.clone(), found };
    let outcome = match &error {
        Error::Conflict { live: true, generation, .. } => refused(Some(Found::Live(*generation))),
        Error::Conflict { live: false, generation, .. } => refused(Some(Found::Gone(*generation))),
        Error::NotFound(_) if reason == Reason::NotFound.as_str() => refused(Some(Found::NotLive)),
        Error::UnknownOutcome { .. } | Error::Internal(_) => Outcome::Unknown { reason },
        // All others say that the write was certainly not applied.
        _ => refused(None),
    };
    (outcome, None)
}

/// A read's outcome, and the node and epoch that answered.
fn seen(result: Result<Reply<Option<Version>>, Error>) -> (Outcome, Option<(u64, u64)>) {
    match result {
        Ok(reply) => {
            let version = reply.value.as_ref();
            let outcome = Outcome::Seen {
                generation: version.map_or(0, |version| version.generation),
                seen: version.and_then(fingerprint),
                revision: reply.revision,
            };
            (outcome, Some((reply.node, reply.epoch)))
        }
        Err(error) => (Outcome::Unknown { reason: error.reason().to_string() }, None),
    }
}

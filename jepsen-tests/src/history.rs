//! Recording histories and keeping them as files.
//!
//! A history is a file of JSON Lines, one finished [`Operation`] a line, in the order in which the calls ended:
//!
//! ```json
//! {"op_id":7,"client":2,"record":"jepsen/r3","f":"put","value":"9f86d081884c7d65","inv_ns":1204,"ret_ns":98311,
//!  "type":"written","generation":4,"revision":61,"node_asked":1,"node_answered":1,"epoch":1}
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | `op_id`, `client`, `record` | which call, whose, on what |
//! | `f` | `put` (`value`), `cas` (`expect`, `value`), `delete`, `get` |
//! | `inv_ns`, `ret_ns` | just before the call and just after it, on the harness's one monotonic clock |
//! | `type` | `written` (`generation`, `revision`), `seen` (`generation`, `seen`, `revision`), `refused` (`reason`, `found`), `unknown` (`reason`) |
//! | `node_asked`, `node_answered`, `epoch` | where it went, who answered, in which lineage; left out when not known |
//!
//! Values stand as fingerprints. What was done to the cluster meanwhile stands in a second file of the same kind,
//! one [`Fault`] a line, on the same clock.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::operation::{Action, Operation, Outcome};

/// Something that the harness did to the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Harness clock, nanoseconds.
    pub at_ns: u64,
    /// What: `kill`, `start`.
    pub fault: String,
    /// To which node.
    pub node: u64,
}

/// Collects the operations of many clients, on one clock. Shared by reference.
#[derive(Debug)]
pub struct Recorder {
    started: Instant,
    next: AtomicU64,
    /// Newest time told: no two moments are the same, so that the order of all calls is known.
    newest_ns: AtomicU64,
    operations: Mutex<Vec<Operation>>,
    faults: Mutex<Vec<Fault>>,
}

/// A call that has been made and not answered yet.
#[derive(Debug)]
pub struct Call {
    /// Unique in the history; a workload may derive its value from it.
    pub op_id: u64,
    inv_ns: u64,
}

/// Where a call went and who answered.
#[derive(Clone, Copy, Debug, Default)]
pub struct Route {
    /// Node that the harness sent the call to.
    pub node_asked: Option<u64>,
    /// Node that answered.
    pub node_answered: Option<u64>,
    /// Epoch in the answer.
    pub epoch: Option<u64>,
}

impl Default for Recorder {
    fn default() -> Recorder {
        Recorder {
            started: Instant::now(),
            next: AtomicU64::new(0),
            newest_ns: AtomicU64::new(0),
            operations: Mutex::default(),
            faults: Mutex::default(),
        }
    }
}

impl Recorder {
    /// To be called just before a call is made.
    pub fn begin(&self) -> Call {
        Call { op_id: self.next.fetch_add(1, Ordering::Relaxed), inv_ns: self.now_ns() }
    }

    /// To be called as soon as the call has ended.
    pub fn end(&self, call: Call, client: u32, record: &str, action: Action, outcome: Outcome, route: Route) {
        let operation = Operation {
            op_id: call.op_id,
            client,
            record: record.to_string(),
            action,
            inv_ns: call.inv_ns,
            ret_ns: self.now_ns(),
            outcome,
            node_asked: route.node_asked,
            node_answered: route.node_answered,
            epoch: route.epoch,
        };
        lock(&self.operations).push(operation);
    }

    /// Writes down what was just done to a node.
    pub fn fault(&self, fault: &str, node: u64) {
        let at_ns = self.now_ns();
        lock(&self.faults).push(Fault { at_ns, fault: fault.to_string(), node });
    }

    /// All operations that have ended so far.
    pub fn operations(&self) -> Vec<Operation> {
        lock(&self.operations).clone()
    }

    /// All faults so far.
    pub fn faults(&self) -> Vec<Fault> {
        lock(&self.faults).clone()
    }

    fn now_ns(&self) -> u64 {
        // 2^64 ns are 584 years.
        let now = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let later = |newest: u64| Some(now.max(newest.saturating_add(1)));
        match self.newest_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later) {
            Ok(newest) | Err(newest) => now.max(newest.saturating_add(1)),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A client that panicked fails the run anyway; what others recorded is still worth saving.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Writes one value a line.
pub fn save<T: Serialize>(path: &Path, lines: &[T]) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for line in lines {
        serde_json::to_writer(&mut file, line)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

/// Reads what [`save`] wrote; the error names the line that is not understood.
pub fn load<T: DeserializeOwned>(path: &Path) -> io::Result<Vec<T>> {
    let mut values = Vec::new();
    for (number, line) in BufReader::new(File::open(path)?).lines().enumerate() {
        let value = serde_json::from_str(&line?).map_err(|error| {
            let path = path.display();
            io::Error::new(io::ErrorKind::InvalidData, format!("{path}:{}: {error}", number + 1))
        })?;
        values.push(value);
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::{Fingerprint, Found};

    #[test]
    fn saved_history_reads_back_equal() {
        let recorder = Recorder::default();
        let value = Fingerprint::of(b"a value");
        let written = Outcome::Written { generation: 1, revision: u64::MAX };
        let conflict = Outcome::Refused { reason: "CONFLICT".into(), found: Some(Found::Live(4)) };
        let missing = Outcome::Refused { reason: "NOT_FOUND".into(), found: Some(Found::NotLive) };
        let seen = Outcome::Seen { generation: 1, seen: Some(value), revision: 3 };
        let gone = Outcome::Seen { generation: 2, seen: None, revision: 4 };
        let unknown = Outcome::Unknown { reason: "TIMEOUT".into() };
        for (action, outcome) in [
            (Action::Put { value }, written),
            (Action::Cas { expect: 7, value }, conflict),
            (Action::Delete, missing),
            (Action::Get, seen),
            (Action::Get, gone),
            (Action::Delete, unknown),
        ] {
            let route = Route { node_asked: Some(1), ..Route::default() };
            recorder.end(recorder.begin(), 3, "c/r", action, outcome, route);
        }
        recorder.fault("kill", 2);
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("operations.jsonl");
        save(&path, &recorder.operations()).expect("saved");
        assert_eq!(load::<Operation>(&path).expect("read"), recorder.operations());
        let path = folder.path().join("faults.jsonl");
        save(&path, &recorder.faults()).expect("saved");
        assert_eq!(load::<Fault>(&path).expect("read"), recorder.faults());
    }

    #[test]
    fn unreadable_line_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("operations.jsonl");
        std::fs::write(&path, "{}\n").expect("written");
        let error = load::<Operation>(&path).expect_err("not an operation");
        assert!(error.to_string().contains("operations.jsonl:1:"), "{error}");
    }
}

//! The end of a life: everything is mended, the cluster must serve, and the history is judged.

use std::collections::BTreeMap;

use saola_raft::sim::spawn_on;

use super::Report;
use super::clients::{fingerprint, last_writes, path};
use super::world::World;
use crate::check::{Kept, durability, linearizable, once, revision};
use crate::operation::count;
use crate::sim::PATIENCE;
use crate::sim::records::{compare_digests, generation_as_of, versions_at};

impl World {
    /// Mends everything, and judges.
    pub(super) async fn end(mut self) -> Report {
        self.be_whole().await;
        self.stop_clients();
        for caller in std::mem::take(&mut self.callers) {
            caller.await.expect("a client does not panic; if it does, that was heard");
        }
        let mut wrong = last_writes(&self).await;
        if let Err(problem) = compare_digests(&self.cluster).await {
            wrong.push(problem);
        }
        self.watch.look(&self.cluster);
        let operations = self.recorder.operations();
        let mut accuse = |whose: &str, violations: Vec<crate::check::Violation>| {
            wrong.extend(violations.iter().map(|violation| format!("{whose}{violation}")));
        };
        accuse("", linearizable::check(&operations));
        accuse("", revision::check(&operations));
        let nodes = self.cluster.running();
        // Their rows are compared, and the same rows give the same past.
        let historian = nodes.get(self.life.seed as usize % nodes.len().max(1)).copied();
        for node in nodes {
            match self.kept_by(node, Some(node) == historian).await {
                Ok(kept) => {
                    accuse(&format!("node {node}: "), once::check(&operations, &kept));
                    accuse(&format!("node {node}: "), durability::check(&operations, &kept));
                }
                Err(problem) => accuse(
                    "",
                    vec![crate::check::Violation {
                        check: "reads",
                        record: String::new(),
                        op_ids: Vec::new(),
                        what: problem,
                    }],
                ),
            }
        }
        wrong.append(&mut self.watch.violations);
        let mut shown = self.shown.lock();
        wrong.append(&mut shown.violations);
        Report {
            violations: wrong,
            met: self.met.clone(),
            states: self.watch.states.clone(),
            calls: count(&operations),
            virtual_ms: self.lived_ms(),
            operations,
            ..Report::default()
        }
    }

    /// All versions of all records, as a linearizable read at a node shows them; `asks_past`: each must also be what the node
    /// shows as of the time that it was recorded at.
    async fn kept_by(&self, node: u64, asks_past: bool) -> Result<Vec<Kept>, String> {
        let replica = self.cluster.replica(node).ok_or_else(|| format!("node {node} does not run"))?;
        let reads = replica.clone();
        let point = spawn_on(node, async move { reads.read_point(PATIENCE).await }).await;
        let point = point.map_err(|_| format!("node {node} went away"))?;
        let point = point.map_err(|error| format!("node {node} serves no reads: {error}"))?;
        let (mut kept, mut recorded) = (Vec::new(), BTreeMap::new());
        for record in 0..self.life.records {
            for (version, value) in versions_at(&replica, record, point.revision)? {
                recorded.insert(version.revision, version.recorded_at_us);
                let (generation, at) = (version.generation, version.recorded_at_us);
                let then = if asks_past { generation_as_of(&replica, record, at)? } else { generation };
                if then != generation {
                    return Err(format!(
                        "node {node}: r{record} as of {at} us, when generation {generation} was recorded, is {then}"
                    ));
                }
                kept.push(Kept {
                    record: path(record),
                    generation: version.generation,
                    revision: version.revision,
                    value: value.map(fingerprint),
                });
            }
        }
        let times: Vec<(u64, u64)> = recorded.into_iter().collect();
        if let Some(pair) = times.windows(2).find(|pair| pair[1].1 <= pair[0].1) {
            return Err(format!("node {node}: later revisions are recorded earlier: {pair:?} (revision, us)"));
        }
        Ok(kept)
    }
}

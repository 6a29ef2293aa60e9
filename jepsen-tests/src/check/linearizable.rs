//! Linearizability of each record, decided by generations in O(n log n).
//!
//! Every answer carries the record's generation, so the order of the writes is known and nothing is searched for:
//! writes stand at their generation, reads right after the write of the version that they saw. It remains to check
//! that this order is possible:
//!
//! 1. a generation has one content, and one acknowledged writer at most;
//! 2. what a read saw was written, by a write that was acknowledged there or is unknown, and by none that was refused;
//! 3. a conditional write follows the version that it asked for, a deletion follows a value;
//! 4. real time: a call stands after every call that had ended before it began;
//! 5. a refused condition was truly false, a record "not there" was not there at some instant of that call;
//! 6. generations that nobody acknowledged are the work of unknown writes, each of one at most, and of one that began
//!    before that generation had been passed.
//!
//! Sound: a correct cluster is never accused. Complete, but for two things that histories hardly show: whether several
//! unobserved unknown writes could alternate so that every deletion among them follows a value, and whether a record
//! "not there" could only have become so by an unknown write that began later. An exhaustive search on short
//! histories confirms both halves (`tests/it/second_opinion.rs`).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Violation;
use super::before::Before;
use super::matching::unmatched;
use crate::operation::{Action, Fingerprint, Found, Operation, Outcome};

/// Where a call stands in its record's order: generation, then the write before its readers.
type Place = (u64, Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Write,
    Read,
}

/// Judges all records of a history.
pub fn check(history: &[Operation]) -> Vec<Violation> {
    let mut records: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    let mut violations = Vec::new();
    let mut op_ids = BTreeSet::new();
    for operation in history {
        if !op_ids.insert(operation.op_id) {
            violations.push(violation(
                &operation.record,
                &[operation.op_id],
                "stands twice in the history".to_string(),
            ));
        }
        records.entry(&operation.record).or_default().push(operation);
    }
    for (record, operations) in records {
        violations.extend(Judge::new(record, operations).verdict());
    }
    violations
}

fn violation(record: &str, op_ids: &[u64], what: String) -> Violation {
    Violation { check: "linearizable", record: record.to_string(), op_ids: op_ids.to_vec(), what }
}

/// What is known of a version from all calls together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Unseen,
    /// It has a value, no call told which.
    Live,
    Value(Fingerprint),
    /// A deletion, or (generation 0) a record that never existed.
    Gone,
}

impl Content {
    fn and(self, other: Content) -> Option<Content> {
        match (self, other) {
            (Content::Unseen, known) | (known, Content::Unseen) => Some(known),
            (Content::Live, Content::Value(value)) | (Content::Value(value), Content::Live) => {
                Some(Content::Value(value))
            }
            (a, b) => (a == b).then_some(a),
        }
    }
}

#[derive(Clone, Copy)]
struct Version {
    content: Content,
    /// The call from which the content is known.
    told_by: u64,
    writer: Option<u64>,
}

struct Judge<'a> {
    record: &'a str,
    operations: Vec<&'a Operation>,
    versions: BTreeMap<u64, Version>,
    /// Unknown writes whose value was seen, by op id: the generation at which they took effect.
    proven: HashMap<u64, u64>,
    violations: Vec<Violation>,
}

impl<'a> Judge<'a> {
    fn new(record: &'a str, operations: Vec<&'a Operation>) -> Judge<'a> {
        let never_existed = Version { content: Content::Gone, told_by: 0, writer: None };
        Judge {
            record,
            operations,
            versions: BTreeMap::from([(0, never_existed)]),
            proven: HashMap::new(),
            violations: Vec::new(),
        }
    }

    fn verdict(mut self) -> Vec<Violation> {
        for operation in self.operations.clone() {
            self.take_answer(operation);
        }
        self.find_writers();
        let before = self.check_real_time();
        self.check_not_live(&before);
        self.check_gaps(&before);
        self.violations
    }

    fn accuse(&mut self, op_ids: &[u64], what: String) {
        self.violations.push(violation(self.record, op_ids, what));
    }

    /// Rules 1, 3 and the first half of 5: what each answer says about versions.
    fn take_answer(&mut self, operation: &Operation) {
        let op_id = operation.op_id;
        match (&operation.action, &operation.outcome) {
            (Action::Get, Outcome::Seen { generation, seen, .. }) => {
                self.observe(*generation, seen.map_or(Content::Gone, Content::Value), op_id);
            }
            (Action::Get, Outcome::Written { .. }) => {
                self.accuse(&[op_id], "a read was answered as a write".to_string());
            }
            (_, Outcome::Seen { .. }) => {
                self.accuse(&[op_id], "a write was answered as a read".to_string());
            }
            (action, Outcome::Written { generation, .. }) => {
                self.take_write(op_id, action, *generation);
            }
            (action, Outcome::Refused { found: Some(found), .. }) => {
                let (generation, content) = match found {
                    Found::Live(generation) => (*generation, Content::Live),
                    Found::Gone(generation) => (*generation, Content::Gone),
                    Found::NotLive => return,
                };
                if matches!(action, Action::Cas { expect, .. } if *expect == generation) {
                    let what = format!("refused though generation {generation} is what it expected");
                    self.accuse(&[op_id], what);
                }
                self.observe(generation, content, op_id);
            }
            (_, Outcome::Refused { found: None, .. } | Outcome::Unknown { .. }) => {}
        }
    }

    fn take_write(&mut self, op_id: u64, action: &Action, generation: u64) {
        if generation == 0 {
            self.accuse(&[op_id], "a write made generation 0".to_string());
            return;
        }
        if let Action::Cas { expect, .. } = action
            && *expect != generation - 1
        {
            let what = format!("expected generation {expect} and made {generation}");
            self.accuse(&[op_id], what);
        }
        match action.value() {
            Some(value) => self.observe(generation, Content::Value(value), op_id),
            None => {
                self.observe(generation, Content::Gone, op_id);
                self.observe(generation - 1, Content::Live, op_id);
            }
        }
        if let Some(version) = self.versions.get_mut(&generation) {
            let other = version.writer.replace(op_id);
            if let Some(other) = other {
                let what = format!("two acknowledged writes made generation {generation}");
                self.accuse(&[other, op_id], what);
            }
        }
    }

    fn observe(&mut self, generation: u64, content: Content, op_id: u64) {
        let unseen = Version { content: Content::Unseen, told_by: op_id, writer: None };
        let version = self.versions.entry(generation).or_insert(unseen);
        match version.content.and(content) {
            Some(content) if content == version.content => {}
            Some(content) => {
                version.content = content;
                version.told_by = op_id;
            }
            None => {
                let (was, told_by) = (version.content, version.told_by);
                let what = format!("generation {generation} is {was:?} and {content:?}");
                self.accuse(&[told_by, op_id], what);
            }
        }
    }

    /// Rule 2: every value seen has its writer.
    fn find_writers(&mut self) {
        let mut writers: HashMap<Fingerprint, &Operation> = HashMap::new();
        for operation in self.operations.clone() {
            if let Some(value) = operation.action.value()
                && let Some(other) = writers.insert(value, operation)
            {
                let what = format!("value {value} was written by two calls: the history cannot be judged");
                self.accuse(&[other.op_id, operation.op_id], what);
            }
        }
        for (generation, version) in self.versions.clone() {
            let Content::Value(value) = version.content else {
                continue;
            };
            let Some(writer) = writers.get(&value) else {
                let what = format!("generation {generation} has value {value}, which nobody wrote");
                self.accuse(&[version.told_by], what);
                continue;
            };
            let both = [writer.op_id, version.told_by];
            match &writer.outcome {
                Outcome::Refused { reason, .. } => {
                    let what = format!("refused with {reason}, and took effect at generation {generation}");
                    self.accuse(&both, what);
                }
                Outcome::Unknown { .. } => {
                    if let Action::Cas { expect, .. } = writer.action
                        && expect.checked_add(1) != Some(generation)
                    {
                        let what = format!("expected generation {expect} and made {generation}");
                        self.accuse(&both, what);
                    }
                    if let Some(other) = self.proven.insert(writer.op_id, generation) {
                        let what = format!("took effect twice, at generations {other} and {generation}");
                        self.accuse(&both, what);
                    }
                    let known = self.versions.get_mut(&generation);
                    if let Some(version) = known {
                        version.writer.get_or_insert(writer.op_id);
                    }
                }
                Outcome::Written { generation: at, .. } if *at != generation => {
                    let what = format!("acknowledged at generation {at} and seen at {generation}");
                    self.accuse(&both, what);
                }
                Outcome::Written { .. } | Outcome::Seen { .. } => {}
            }
        }
    }

    /// Rule 4. Returns the latest place reached before any instant.
    fn check_real_time(&mut self) -> Before<Place> {
        let ended = self.operations.iter().filter_map(|o| Some((o.ret_ns, place(o)?, o.op_id))).collect();
        let before = Before::new(ended);
        for operation in self.operations.clone() {
            if let Some(here) = self.place(operation)
                && let Some((reached, earlier)) = before.at(operation.inv_ns)
                && reached > here
            {
                let what =
                    format!("stands at {here:?} though a call that had ended before it began stands at {reached:?}");
                self.accuse(&[earlier, operation.op_id], what);
            }
        }
        before
    }

    /// Second half of rule 5: some version without a value was the newest one during the call.
    fn check_not_live(&mut self, before: &Before<Place>) {
        // Time runs backwards here: the earliest place of the calls that began after an instant.
        let begun = self
            .operations
            .iter()
            .filter_map(|o| Some((u64::MAX - o.inv_ns, Reverse(self.place(o)?), o.op_id)))
            .collect();
        let after = Before::new(begun);
        let (gone, live): (Vec<_>, Vec<_>) = self
            .versions
            .iter()
            .filter(|(_, version)| version.content != Content::Unseen)
            .map(|(generation, version)| (*generation, version.content))
            .partition(|(_, content)| *content == Content::Gone);
        let within = |sorted: &[(u64, Content)], low: u64, high: u64| {
            let first = sorted.partition_point(|(generation, _)| *generation < low);
            let end = sorted.partition_point(|(generation, _)| *generation <= high);
            end.saturating_sub(first) as u64
        };
        // An unknown deletion may have made any version that nobody saw, or one after all that were seen.
        let deletion_open =
            self.operations.iter().any(|o| o.action == Action::Delete && matches!(o.outcome, Outcome::Unknown { .. }));
        let newest = self.newest().saturating_add(u64::from(deletion_open));
        for operation in self.operations.clone() {
            if !matches!(operation.outcome, Outcome::Refused { found: Some(Found::NotLive), .. }) {
                continue;
            }
            let low = before.at(operation.inv_ns).map_or(0, |((generation, _), _)| generation);
            let high = match after.at(u64::MAX - operation.ret_ns) {
                Some((Reverse((generation, Kind::Read)), _)) => generation,
                Some((Reverse((generation, Kind::Write)), _)) => generation.saturating_sub(1),
                None => newest,
            };
            let possible = low <= high
                && (within(&gone, low, high) > 0 || deletion_open && within(&live, low, high) <= high - low);
            if !possible {
                let what =
                    format!("refused because there is no such record, while generations {low} to {high} had values");
                self.accuse(&[operation.op_id], what);
            }
        }
    }

    /// Rule 6: generations without an acknowledged writer are matched with unknown writes.
    fn check_gaps(&mut self, before: &Before<Place>) {
        let free: Vec<&Operation> = self
            .operations
            .iter()
            .copied()
            .filter(|o| o.action.is_write() && matches!(o.outcome, Outcome::Unknown { .. }))
            .filter(|o| !self.proven.contains_key(&o.op_id))
            .collect();
        let newest = self.newest();
        let written = self.versions.values().filter(|v| v.writer.is_some()).count() as u64;
        if newest.saturating_sub(written) > free.len() as u64 {
            let told_by = self.versions.get(&newest).map_or(0, |v| v.told_by);
            let what =
                format!("generation {newest} was reached with {written} known writes and {} unknown ones", free.len());
            self.accuse(&[told_by], what);
            return;
        }
        let content = |generation: u64| {
            let version = self.versions.get(&generation);
            version.map_or(Content::Unseen, |v| v.content)
        };
        let missing: Vec<u64> =
            (1..=newest).filter(|g| self.versions.get(g).is_none_or(|v| v.writer.is_none())).collect();
        let could_make = |write: &Operation, generation: u64| {
            let passed = before.at(write.inv_ns).is_some_and(|((reached, _), _)| reached >= generation);
            let fits = match write.action {
                Action::Put { .. } => content(generation) != Content::Gone,
                Action::Cas { expect, .. } => content(generation) != Content::Gone && expect == generation - 1,
                Action::Delete => {
                    matches!(content(generation), Content::Unseen | Content::Gone)
                        && content(generation - 1) != Content::Gone
                }
                Action::Get => false,
            };
            !passed && fits
        };
        let unexplained = unmatched(missing.len(), free.len(), |gap, write| could_make(free[write], missing[gap]));
        for gap in unexplained {
            let generation = missing[gap];
            let told_by = self.versions.get(&generation).map_or(0, |v| v.told_by);
            let what = format!("no call can have made generation {generation}");
            self.accuse(&[told_by], what);
        }
    }

    /// Where a call stands. The effect of an unknown write comes after its beginning, at any time.
    fn place(&self, operation: &Operation) -> Option<Place> {
        let proven = self.proven.get(&operation.op_id);
        place(operation).or(proven.map(|generation| (*generation, Kind::Write)))
    }

    fn newest(&self) -> u64 {
        self.versions.keys().next_back().copied().unwrap_or(0)
    }
}

/// Where an answered call stands; an answer that says nothing about versions stands nowhere.
fn place(operation: &Operation) -> Option<Place> {
    match &operation.outcome {
        Outcome::Written { generation, .. } => Some((*generation, Kind::Write)),
        Outcome::Seen { generation, .. } => Some((*generation, Kind::Read)),
        Outcome::Refused { found, .. } => match found {
            Some(Found::Live(generation) | Found::Gone(generation)) => Some((*generation, Kind::Read)),
            Some(Found::NotLive) | None => None,
        },
        Outcome::Unknown { .. } => None,
    }
}

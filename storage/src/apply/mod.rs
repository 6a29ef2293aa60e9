//! The state machine itself: a pure function from log entries to rows and outcomes.
//!
//! - here: loading, the loop over entries and commands, what is written with every batch;
//! - [`records`]: put and delete;
//! - [`admin`]: bootstrap, collections, sites; [`protection`]: what an acknowledgement waits for; [`epochs`]: forced promotions;
//! - [`collect`]: policies, and what they remove; [`overlay`]: the rows that it walks over;
//! - [`requests`]: the request table;
//! - [`skip`]: how a witness goes on behind entries that it does not get;
//! - [`times`]: the time index;
//! - [`draft`]: the batch being built.
//!
//! It uses no clock, no randomness and no key, so that every replica comes to the same rows.

mod admin;
mod collect;
mod draft;
mod epochs;
mod overlay;
mod protection;
mod records;
mod requests;
mod skip;
mod times;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use self::draft::Draft;
use self::requests::{Known, RequestTable};
pub use self::skip::SkipTo;
use crate::catalog::Catalog;
use crate::command::{Command, CommandBatch, Decision, DigestTaken, Done, Op, Outcome, RequestExpired};
use crate::digest::{Buckets, StateDigest};
use crate::engine::{Batch, EngineView, KeyRange, Kind};
use crate::epoch::Approvers;
use crate::error::StoreError;
use crate::keyspace::meta::{self, AppliedRow, MembershipRow};
use crate::keyspace::{array, decode_value, encode_value};
use crate::protection::WaitsFor;
use crate::types::LogId;

/// Taken digests that are kept.
const KEPT_DIGESTS: usize = 64;
/// Of so many of the newest ones all buckets are kept, 64 KiB each, in memory alone: replicas that differ compare them.
const KEPT_BUCKETS: usize = 4;

/// What this node keeps of the log's commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// Everything: a data node.
    Records,
    /// Only how far the log goes, the membership, and who may approve a forced promotion: a witness. All other commands are
    /// dropped, and none has an outcome.
    LogIdsOnly,
}

impl Keeps {
    pub(crate) fn says(self) -> &'static str {
        match self {
            Keeps::Records => "keeps records",
            Keeps::LogIdsOnly => "is a witness",
        }
    }
}

/// A committed log entry.
#[derive(Clone, Debug)]
pub struct ApplyEntry {
    /// Its place in the log.
    pub log_id: LogId,
    /// What it carries.
    pub payload: ApplyPayload,
}

/// What a log entry carries.
#[derive(Clone, Debug)]
pub enum ApplyPayload {
    /// Nothing: a new leader's first entry.
    Blank,
    /// Commands, each with its own outcome.
    Commands(CommandBatch),
    /// A membership, opaque here.
    Membership(Bytes),
}

/// How far the log has been applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Newest applied entry.
    pub log_id: Option<LogId>,
    /// The membership in force, with the entry that set it.
    pub membership: Option<(LogId, Bytes)>,
    /// Store-wide revision; 1 in an empty store.
    pub revision: u64,
    /// Replicated clock, microseconds since 1970.
    pub clock_us: u64,
    /// Newest revision without a change row: 1, which nobody wrote, or the newest whose row has been removed.
    pub changes_floor: u64,
}

/// Store-wide counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Records that are live.
    pub records: u64,
    /// Versions that are kept.
    pub versions: u64,
    /// Versions that were removed by policy, ever.
    pub removed: u64,
}

/// Where the command being applied stands.
#[derive(Clone, Copy)]
struct Place {
    index: u64,
    stamp_us: u64,
}

/// The state that apply needs between batches.
pub(crate) struct Machine {
    pub keeps: Keeps,
    pub applied: Applied,
    pub counts: Counts,
    pub catalog: Arc<Catalog>,
    pub digests: Arc<BTreeMap<u64, [u8; 32]>>,
    pub buckets: Arc<BTreeMap<u64, Arc<Buckets>>>,
    pub digest: StateDigest,
    requests: RequestTable,
    newest: times::Newest,
}

/// What one apply call did.
pub(crate) struct Applying {
    pub batch: Batch,
    pub outcomes: Vec<Vec<Outcome>>,
    /// Index and revision after each entry.
    pub trail: Vec<(u64, u64)>,
}

impl Machine {
    /// Reads the state as an engine has it.
    pub fn load(view: &dyn EngineView, keeps: Keeps, max_request_entries: usize) -> Result<Machine, StoreError> {
        let row = match view.get(Kind::Meta, meta::APPLIED)? {
            Some(value) => decode_value(Kind::Meta, meta::APPLIED, value)?,
            None => AppliedRow { revision: 1, log_ids_only: keeps == Keeps::LogIdsOnly, ..AppliedRow::default() },
        };
        let found = if row.log_ids_only { Keeps::LogIdsOnly } else { Keeps::Records };
        if found != keeps {
            return Err(StoreError::WrongRole { found: found.says(), asked: keeps.says() });
        }
        let mut digests = BTreeMap::new();
        for row in view.scan(Kind::Meta, KeyRange::prefix(meta::DIGEST), false) {
            let (key, value) = row?;
            let index: [u8; 8] = array(Kind::Meta, &key, "the log index", &key[meta::DIGEST.len()..])?;
            digests.insert(u64::from_be_bytes(index), array(Kind::Meta, &key, "the digest", &value)?);
        }
        Ok(Machine {
            keeps,
            counts: Counts { records: row.records, versions: row.versions, removed: row.removed },
            catalog: Arc::new(Catalog::load(view)?),
            digests: Arc::new(digests),
            buckets: Arc::default(),
            digest: StateDigest::load(view)?,
            requests: RequestTable::load(view, max_request_entries, row.request_floor)?,
            newest: times::Newest::load(view, row.revision)?,
            applied: applied(&row, membership(view.get(Kind::Meta, meta::MEMBERSHIP)?)?),
        })
    }

    /// Applies entries in order. The rows are in the returned batch; after an error this state must not be used again.
    pub fn apply(&mut self, view: &dyn EngineView, entries: Vec<ApplyEntry>) -> Result<Applying, StoreError> {
        let mut digest = std::mem::take(&mut self.digest);
        let mut draft = Draft::new(view, &mut digest);
        let mut outcomes = Vec::with_capacity(entries.len());
        let mut trail = Vec::with_capacity(entries.len());
        for entry in entries {
            let index = entry.log_id.index;
            if let Some(last) = self.applied.log_id.filter(|last| last.index >= index) {
                return Err(StoreError::OutOfOrder { index, applied: last.index });
            }
            let mut decided = Vec::new();
            match entry.payload {
                ApplyPayload::Blank => {}
                ApplyPayload::Membership(membership) => {
                    draft.batch.put(Kind::Meta, meta::MEMBERSHIP, membership_value(entry.log_id, &membership));
                    self.applied.membership = Some((entry.log_id, membership));
                }
                ApplyPayload::Commands(batch) if self.keeps == Keeps::Records => {
                    let place = Place { index, stamp_us: batch.stamp_us };
                    for command in batch.commands {
                        decided.push(self.command(&mut draft, place, command)?);
                    }
                }
                // A witness must know by itself who may approve what fences it.
                ApplyPayload::Commands(batch) => {
                    for command in batch.commands {
                        if let Some(Op::SetApprovers(set)) = command.op {
                            self.learn_approvers(&mut draft, Approvers::of_command(set, index));
                        }
                    }
                }
            }
            self.applied.log_id = Some(entry.log_id);
            trail.push((index, self.applied.revision));
            outcomes.push(decided);
        }
        self.requests.settle(&mut draft);
        draft.batch.put(Kind::Meta, meta::APPLIED, self.applied_value());
        let batch = draft.finish();
        self.digest = digest;
        Ok(Applying { batch, outcomes, trail })
    }

    fn command(&mut self, draft: &mut Draft<'_>, place: Place, command: Command) -> Result<Outcome, StoreError> {
        let op = command.op.ok_or(StoreError::UnknownCommand { index: place.index })?;
        let Some(request) = command.request else {
            let decision = self.decide(draft, place, op)?;
            return Ok(self.outcome(place, decision));
        };
        match self.requests.look_up(&request, place.index) {
            Known::Decided(outcome) => Ok(Outcome { replayed: true, ..outcome }),
            Known::Expired => {
                let floor = self.requests.floor();
                Ok(self.outcome(place, Decision::RequestExpired(RequestExpired { floor })))
            }
            Known::New => {
                let decision = self.decide(draft, place, op)?;
                // The ingress node seals anew and asks again under the same id: that must run.
                let decided = !matches!(decision, Decision::Reseal(_));
                let outcome = self.outcome(place, decision);
                if decided {
                    self.requests.record(&request, outcome.clone());
                }
                Ok(outcome)
            }
        }
    }

    fn decide(&mut self, draft: &mut Draft<'_>, place: Place, op: Op) -> Result<Decision, StoreError> {
        match op {
            Op::Put(put) => self.put(draft, place, put),
            Op::Delete(delete) => self.delete(draft, place, delete),
            Op::CreateCollection(create) => Ok(self.create_collection(draft, create, place)),
            Op::Bootstrap(bootstrap) => self.bootstrap(draft, bootstrap, place),
            Op::AddSite(add) => Ok(self.add_site(draft, add)),
            Op::SetRetention(set) => Ok(self.set_retention(draft, set, place)),
            Op::Collect(collect) => self.collect(draft, collect),
            Op::CompactChanges(compact) => self.compact_changes(draft, compact),
            Op::ClaimNodeId(claim) => Ok(self.claim_node_id(draft, claim)),
            Op::SetProtection(set) => self.set_protection(draft, &set, place),
            Op::Degrade(change) => Ok(self.move_gate(draft, WaitsFor::Nobody, change, place)),
            Op::ReleaseFloor(release) => Ok(self.release_floor(draft, release)),
            Op::LeadFrom(lead) => Ok(self.lead_from(draft, lead, place)),
            Op::SetFailover(set) => self.set_failover(draft, set, place),
            Op::SetGoal(set) => self.set_goal(draft, set, place),
            Op::SetApprovers(set) => Ok(self.set_approvers(draft, set, place)),
            Op::BeginEpoch(begin) => Ok(self.begin_epoch(draft, begin, place)),
            Op::Synchronize(change) => Ok(self.move_gate(draft, WaitsFor::OtherSite, change, place)),
            Op::WaitForWitness(change) => Ok(self.move_gate(draft, WaitsFor::Witness, change, place)),
            Op::TimeMark(_) => {
                self.applied.clock_us = self.applied.clock_us.max(place.stamp_us);
                Ok(Decision::Done(Done {}))
            }
            Op::TakeDigest(_) => Ok(self.take_digest(draft, place)),
        }
    }

    fn take_digest(&mut self, draft: &mut Draft<'_>, place: Place) -> Decision {
        draft.settle();
        self.requests.settle(draft);
        let digest = draft.buckets().total();
        draft.batch.put(Kind::Meta, meta::digest_key(place.index), digest.to_vec());
        let kept = Arc::make_mut(&mut self.digests);
        kept.insert(place.index, digest);
        while kept.len() > KEPT_DIGESTS {
            if let Some((oldest, _)) = kept.pop_first() {
                draft.batch.delete(Kind::Meta, meta::digest_key(oldest));
            }
        }
        let buckets = Arc::make_mut(&mut self.buckets);
        buckets.insert(place.index, Arc::new(draft.buckets().clone()));
        if buckets.len() > KEPT_BUCKETS {
            buckets.pop_first();
        }
        Decision::DigestTaken(DigestTaken { digest: Bytes::copy_from_slice(&digest) })
    }

    fn outcome(&self, place: Place, decision: Decision) -> Outcome {
        Outcome {
            index: place.index,
            revision: self.applied.revision,
            recorded_at_us: self.applied.clock_us,
            replayed: false,
            decision: Some(decision),
        }
    }

    fn applied_value(&self) -> Bytes {
        encode_value(&AppliedRow {
            log_id: self.applied.log_id.map(Into::into),
            revision: self.applied.revision,
            clock_us: self.applied.clock_us,
            records: self.counts.records,
            versions: self.counts.versions,
            request_floor: self.requests.floor(),
            log_ids_only: self.keeps == Keeps::LogIdsOnly,
            changes_floor: self.applied.changes_floor,
            removed: self.counts.removed,
        })
    }
}

/// Value of the membership row.
pub(crate) fn membership_value(log_id: LogId, membership: &Bytes) -> Bytes {
    encode_value(&MembershipRow { log_id: log_id.into(), membership: membership.clone() })
}

/// Reads the membership row.
pub(crate) fn membership(value: Option<Bytes>) -> Result<Option<(LogId, Bytes)>, StoreError> {
    let Some(value) = value else { return Ok(None) };
    let row: MembershipRow = decode_value(Kind::Meta, meta::MEMBERSHIP, value)?;
    Ok(Some((row.log_id.into(), row.membership)))
}

/// How far the log has been applied, by its two rows.
pub(crate) fn applied(row: &AppliedRow, membership: Option<(LogId, Bytes)>) -> Applied {
    Applied {
        log_id: row.log_id.map(Into::into),
        membership,
        revision: row.revision,
        clock_us: row.clock_us,
        changes_floor: row.changes_floor.max(1),
    }
}

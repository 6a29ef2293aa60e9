//! What a node knows of its copy of the records, and what operators see and ask of it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use saola_storage::digest::BucketSet;
use saola_storage::quarantine::Held;
use saola_storage::scrub::ScrubReport;
use saola_storage::store::Store;
use saola_storage::types::NodeId;
use tokio::sync::watch;

use super::admin::{QUESTION_LIMIT, invalid};
use super::{AdminError, Replica};
use crate::types::Runtime;
use crate::wire::{Answer, CopyAsk, CopyState, CopyVerb, DigestAt, Nothing, Question, Refusal, RefusalCode};

/// How the copy of the records is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubSettings {
    /// The scrub reads so many bytes of rows a second.
    pub bytes_per_s: u64,
    /// A pass over all rows begins so long after the last one.
    pub every: Duration,
    /// A leader has the copies compared so often, if something was written.
    pub compare_every: Duration,
}

impl Default for ScrubSettings {
    fn default() -> Self {
        Self {
            bytes_per_s: 8 << 20,
            every: Duration::from_secs(24 * 60 * 60),
            compare_every: Duration::from_secs(10 * 60),
        }
    }
}

/// What a node says of its copy of the records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ScrubStatus {
    /// A pass is under way: so many bytes have been read, of about so many.
    pub running: Option<(u64, u64)>,
    /// Passes that came to their end since the start.
    pub passes: u64,
    /// What the last of them found.
    pub last: Option<ScrubReport>,
    /// Rows that passes and reads have found damaged since the start.
    pub damaged_rows: u64,
    /// The copy is bad: nothing of it is served, and it is being replaced.
    pub bad: bool,
    /// Buckets that are not served; all when the copy is held back as a whole.
    pub quarantined_buckets: u64,
    /// The node from which the copy is being replaced.
    pub repairing_from: Option<NodeId>,
    /// How often the copy was replaced since the start.
    pub repairs: u64,
    /// What is wrong, and with which records; none when nothing is known to be.
    pub alarm: Option<String>,
}

/// Progress and findings, written by the tasks of this module's neighbours.
#[derive(Default)]
pub(super) struct Known {
    /// Why the copy is bad, if it is: it must be replaced.
    pub(super) bad: Option<String>,
    /// Copies that the last comparison found wrong.
    pub(super) accused: BTreeSet<NodeId>,
    /// Copies differed when they were last compared.
    pub(super) differs: bool,
    /// Buckets with rows that fail their own checks, once they were checked since copies differ.
    pub(super) checked: Option<BucketSet>,
    pub(super) running: Option<(u64, u64)>,
    pub(super) passes: u64,
    pub(super) last: Option<ScrubReport>,
    pub(super) damaged_by_passes: u64,
    pub(super) repairing_from: Option<NodeId>,
    pub(super) repairs: u64,
}

/// What the tasks share.
pub(crate) struct CopyCell {
    pub(super) settings: ScrubSettings,
    pub(super) known: Mutex<Known>,
    /// Bumped to have a pass begin at once.
    pub(super) scrub_now: watch::Sender<u64>,
    /// Bumped when a read has met damage.
    pub(super) damage_met: watch::Sender<u64>,
    /// Bumped to have the copies compared again.
    pub(super) compare_now: watch::Sender<u64>,
    repair_from: AtomicU64,
}

pub(super) fn bump(sender: &watch::Sender<u64>) {
    sender.send_modify(|count| *count += 1);
}

impl CopyCell {
    pub(super) fn new(settings: ScrubSettings) -> CopyCell {
        CopyCell {
            settings,
            known: Mutex::default(),
            scrub_now: watch::Sender::new(0),
            damage_met: watch::Sender::new(0),
            compare_now: watch::Sender::new(0),
            repair_from: AtomicU64::new(u64::MAX),
        }
    }

    /// The copy is known to be bad.
    pub(crate) fn is_bad(&self) -> bool {
        self.known.lock().bad.is_some()
    }

    /// First index that a repair under way may need from the log.
    pub(crate) fn repair_from(&self) -> u64 {
        self.repair_from.load(Ordering::Relaxed)
    }

    pub(super) fn keep_log_from(&self, index: u64) {
        self.repair_from.store(index, Ordering::Relaxed);
    }

    pub(super) fn status(&self, store: &Store) -> ScrubStatus {
        let known = self.known.lock();
        let (held, damage) = (store.held(), store.damage());
        let quarantined = |held: &Held| if held.whole { 4096 } else { u64::from(held.buckets.len()) };
        let reads = (damage.reads > 0).then(|| format!("reads met damaged rows: {}", damage.rows.join(", ")));
        let alarm = match (&known.bad, &held, &known.last) {
            (Some(why), ..) => Some(why.clone()),
            (None, Some(held), _) => Some(held.why.clone()),
            // A sound pass since then has the last word.
            (None, None, Some(last)) if last.damaged > 0 => Some(last.to_string()),
            (None, None, Some(_)) => None,
            (None, None, None) => reads,
        };
        ScrubStatus {
            running: known.running,
            passes: known.passes,
            last: known.last.clone(),
            damaged_rows: known.damaged_by_passes + damage.reads,
            bad: known.bad.is_some(),
            quarantined_buckets: held.as_deref().map_or(0, quarantined),
            repairing_from: known.repairing_from,
            repairs: known.repairs,
            alarm,
        }
    }
}

impl<RT: Runtime> Replica<RT> {
    /// Has a data node read all its rows now.
    pub async fn start_scrub(&self, node_id: NodeId) -> Result<(), AdminError> {
        self.ask_about_copy(node_id, CopyVerb::Scrub(Nothing {})).await
    }

    /// Has a data node replace its copy of the records by another node's, because an operator says that it is bad.
    pub async fn replace_copy(&self, node_id: NodeId) -> Result<(), AdminError> {
        self.ask_about_copy(node_id, CopyVerb::Replace(Nothing {})).await
    }

    async fn ask_about_copy(&self, node_id: NodeId, verb: CopyVerb) -> Result<(), AdminError> {
        let ask = CopyAsk { verb: Some(verb) };
        if node_id == self.shared.claim.node_id {
            return self.answer_about_copy(ask).map(|_| ()).map_err(AdminError::from);
        }
        let member = self.known_member(node_id)?;
        self.ask(&member, Question::Copy(ask), QUESTION_LIMIT).await.map(|_| ())
    }

    pub(crate) fn answer_about_copy(&self, ask: CopyAsk) -> Result<Answer, Refusal> {
        let (shared, copy) = (&self.shared, &self.shared.copy);
        if !shared.claim.role.is_data() {
            return Err(Refusal::new(RefusalCode::Invalid, "a witness has no records: name a data node"));
        }
        match ask.verb {
            Some(CopyVerb::At(at)) => return Ok(Answer::Copy(self.own_copy(at.index))),
            Some(CopyVerb::Scrub(Nothing {})) => bump(&copy.scrub_now),
            Some(CopyVerb::Replace(Nothing {})) => {
                let others = shared.members().into_iter().filter(|member| member.role_value().is_data()).count();
                if others < 2 {
                    return Err(
                        invalid("there is no other data node that could replace this copy: add one first").into()
                    );
                }
                copy.known.lock().bad = Some("an operator has named this copy as the bad one".into());
                tracing::warn!("an operator has named this node's copy as the bad one: it will be replaced");
                bump(&copy.scrub_now);
            }
            None => return Err(Refusal::new(RefusalCode::BadMessage, "a question about a copy without its content")),
        }
        Ok(Answer::Done(Nothing {}))
    }

    /// What this node says of its copy at the log index of a DIGEST entry.
    pub(super) fn own_copy(&self, index: u64) -> CopyState {
        let sums = self.shared.store.buckets_at(index);
        let known = self.shared.copy.known.lock();
        let checked = known.checked.as_ref().filter(|_| known.differs);
        CopyState {
            sums: sums.map_or(Bytes::new(), |sums| sums.to_bytes().into()),
            bad: known.bad.is_some(),
            checked: checked.map_or(Bytes::new(), |damaged| damaged.to_bytes().into()),
        }
    }

    /// What another node says of its copy.
    pub(super) async fn peer_copy(&self, node_id: NodeId, index: u64) -> Result<CopyState, AdminError> {
        let member = self.known_member(node_id)?;
        let ask = CopyAsk { verb: Some(CopyVerb::At(DigestAt { index })) };
        match self.ask(&member, Question::Copy(ask), QUESTION_LIMIT).await? {
            Answer::Copy(state) => Ok(state),
            _ => Err(super::admin::wrong_kind(&member)),
        }
    }
}

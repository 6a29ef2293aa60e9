//! What a damaged log still says for certain, and which entries must come from peers. `rebuild` makes the whole log of both.
//!
//! Damage may hide anything: votes, entries, and a truncation that was followed by other entries. But a truncation
//! never reaches what was committed, so entries at or below the last `committed` before the damage are certain, and those
//! at or below the applied entry if that is the one which stands there. Those above are suspect up to the next good record
//! that says where the log stood: an entry's own index, or a head. From there on the log is certain again. The vote is
//! certain if a vote, a mark or a head after the last damage says it. (Protocol-aware recovery: Alagappan et al., FAST 2018.)

use std::collections::BTreeMap;
use std::ops::Range;

use super::examine::{Damage, DamageKind, Item, examine};
use super::format::{RECORD_BYTES, Record};
use super::memory::later;
use super::{LogError, LogState};
use crate::disk::Disk;
use crate::types::{LogId, Vote};

/// No more records fit into the segment whose end a damaged head has hidden: it is 1 GiB long at most.
const MAX_HIDDEN: u64 = (1 << 30) / RECORD_BYTES as u64;

/// What is certain of a damaged log, and what is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvage {
    /// The vote in force, as far as it is known.
    pub vote: Option<Vote>,
    /// No damage hides a later vote. Otherwise the node must not run again: it could vote twice in one term.
    pub vote_certain: bool,
    /// The last entry that is not needed any more.
    pub purged: Option<LogId>,
    /// What is known to be committed.
    pub committed: Option<LogId>,
    /// Indexes whose entries are suspect or gone. All that this node may have acknowledged is in there or in the log.
    pub missing: Option<Range<u64>>,
    /// Where the log is damaged; the first few places.
    pub damage: Vec<Damage>,
    /// The certain entries: all from the one after `purged`, but for those that are missing.
    pub(super) kept: BTreeMap<u64, Kept>,
    /// The newest segment.
    pub(super) newest: u64,
}

/// How many places of damage are remembered.
const PLACES: usize = 8;

/// A good entry and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub log_id: LogId,
    pub segment: u64,
    pub offset: u32,
    /// Of the payload.
    pub bytes: u32,
}

impl Salvage {
    /// Reads what a damaged log still says; changes nothing. `applied`: all entries up to this one are in the flushed
    /// state machine, and are not asked for again: the log begins after the last of them that is damaged. A node that
    /// keeps the log for others gives `None`.
    pub fn read<D: Disk + ?Sized>(disk: &D, group_id: u64, applied: Option<LogId>) -> Result<Salvage, LogError> {
        let mut fold = Fold { group_id, applied, ..Fold::default() };
        let found = examine(disk, Some(group_id), |item| fold.add(item))?;
        if let Some(error) = fold.refused {
            return Err(error);
        }
        Ok(fold.finish(found.newest))
    }

    /// The log id at an index outside of what is missing.
    pub fn log_id_at(&self, index: u64) -> Option<LogId> {
        self.kept.get(&index).map(|kept| kept.log_id)
    }
}

/// Follows the good records and the damage of a log.
#[derive(Default)]
struct Fold {
    group_id: u64,
    applied: Option<LogId>,
    salvage: Salvage,
    /// The log as the records so far say.
    state: LogState,
    /// What the first segment says lies before it.
    before: Option<LogId>,
    began: bool,
    /// Since the last damage nothing said where the log stood; it ended before this index.
    open: Option<u64>,
    refused: Option<LogError>,
}

impl Fold {
    fn add(&mut self, item: Item<'_>) {
        match item {
            Item::Head { state, .. } => self.head(state),
            Item::Record { segment, offset, record, .. } => self.record(segment, offset as u32, record),
            Item::Damage(damage) => self.damage(damage),
        }
    }

    fn head(&mut self, state: LogState) {
        if !self.began {
            self.before = state.last;
        }
        self.began = true;
        let next = state.last.map_or(0, next_after);
        self.pin(next);
        self.state = state;
        (self.salvage.vote, self.salvage.vote_certain) = (state.vote, true);
        self.purge(state.last_purged);
    }

    fn record(&mut self, segment: u64, offset: u32, record: Record<&[u8]>) {
        self.state.follow(&record);
        match record {
            Record::Entry(log_id, payload) => {
                self.pin(log_id.index);
                let kept = Kept { log_id, segment, offset, bytes: payload.len() as u32 };
                self.salvage.kept.insert(log_id.index, kept);
            }
            Record::TruncateAfter(last) => self.cut(last.map_or(0, next_after)),
            Record::Purge(upto) => self.purge(Some(upto)),
            Record::Vote(vote) | Record::Mark(Some(vote)) => {
                (self.salvage.vote, self.salvage.vote_certain) = (Some(vote), true);
            }
            Record::Committed(_) | Record::Mark(None) => {}
        }
    }

    /// Here the log ended just before `next`.
    fn pin(&mut self, next: u64) {
        if self.open.take().is_some() {
            self.salvage.kept.split_off(&next);
            if let Some(missing) = &mut self.salvage.missing {
                missing.end = next;
            }
            self.settle();
        }
    }

    /// All entries from `next` on are gone.
    fn cut(&mut self, next: u64) {
        self.salvage.kept.split_off(&next);
        if let Some(missing) = &mut self.salvage.missing {
            missing.end = missing.end.min(next);
        }
        self.open = self.open.map(|bound| bound.min(next));
        self.settle();
    }

    fn purge(&mut self, upto: Option<LogId>) {
        let Some(upto) = upto else { return };
        self.salvage.purged = later(self.salvage.purged, Some(upto));
        self.salvage.kept = self.salvage.kept.split_off(&next_after(upto));
        if let Some(missing) = &mut self.salvage.missing {
            missing.start = missing.start.max(next_after(upto));
        }
        self.settle();
    }

    /// Nothing is missing any more once truncations or purges have taken all of it.
    fn settle(&mut self) {
        if self.salvage.missing.as_ref().is_some_and(|missing| missing.start >= missing.end) {
            (self.salvage.missing, self.open) = (None, None);
        }
    }

    fn damage(&mut self, damage: Damage) {
        let Damage { segment, from_offset, to_offset, .. } = damage;
        let hidden = match damage.what {
            DamageKind::Rot => (to_offset - from_offset) / u64::from(RECORD_BYTES),
            DamageKind::Head => MAX_HIDDEN,
            DamageKind::TornTail | DamageKind::Unused => return,
            // What is missing shows in the indexes.
            DamageKind::Missing => 0,
            DamageKind::Foreign { found_segment, found_group } => {
                let error = LogError::Foreign { segment, group: self.group_id, found_segment, found_group };
                self.refused.get_or_insert(error);
                return;
            }
            DamageKind::UnknownVersion { version, ref release } => {
                let error = LogError::UnknownVersion { segment, version, release: release.clone() };
                self.refused.get_or_insert(error);
                return;
            }
        };
        let missing_file = damage.what == DamageKind::Missing;
        if self.salvage.damage.len() < PLACES {
            self.salvage.damage.push(damage);
        }
        if missing_file {
            return;
        }
        let LogState { last, committed, .. } = self.state;
        // What stands where the applied entry does is that one, and so all before it is what was committed.
        let applied = self.applied.filter(|applied| self.salvage.log_id_at(applied.index) == Some(*applied));
        let certain = later(committed, applied).map_or(0, next_after).min(last.map_or(0, next_after));
        let start = certain.max(self.salvage.purged.map_or(0, next_after));
        let end = self.open.unwrap_or(0).max(last.map_or(0, next_after)).max(start).saturating_add(hidden.max(1));
        let missing = self.salvage.missing.get_or_insert(start..end);
        missing.end = end;
        self.open = Some(end);
        self.salvage.vote_certain = false;
        self.began = true;
    }

    fn finish(mut self, newest: u64) -> Salvage {
        let Salvage { purged, missing, kept, .. } = &mut self.salvage;
        if let Some(missing) = missing {
            kept.retain(|index, _| !missing.contains(index));
        }
        // A log of which nothing was purged may begin anywhere.
        let first_there = kept.keys().next().copied().into_iter().chain(missing.as_ref().map(|m| m.start)).min();
        let first =
            if purged.or(self.before).is_some() { purged.map_or(0, next_after) } else { first_there.unwrap_or(0) };
        let end = missing.as_ref().map_or(0, |missing| missing.end);
        let end = if self.open.is_some() { end } else { end.max(self.state.last.map_or(0, next_after)) };
        // All that is not there: what damage hides, and segment files that are gone.
        let (mut next, mut gone, mut begin) = (first, None::<Range<u64>>, None);
        for index in kept.keys().copied().chain([end]) {
            if index > next {
                match self.applied.filter(|applied| next <= applied.index) {
                    None => gone = Some(gone.map_or(next, |gone: Range<u64>| gone.start)..index),
                    // What is applied is not asked for: the log begins behind it, or behind the next entry that is there.
                    Some(applied) => {
                        let there = kept.get(&index).map(|kept| kept.log_id).filter(|id| id.index <= applied.index);
                        begin = Some(there.unwrap_or(applied));
                        let rest = next_after(applied)..index;
                        gone = (!rest.is_empty()).then_some(rest);
                    }
                }
            }
            next = next.max(index.saturating_add(1));
        }
        *missing = gone;
        if let Some(missing) = missing {
            kept.retain(|index, _| !missing.contains(index));
        }
        self.purge(begin);
        let last = later(self.salvage.purged, self.salvage.kept.values().next_back().map(|kept| kept.log_id));
        let reaches = self.salvage.missing.as_ref().map_or(0, |missing| missing.end).max(last.map_or(0, next_after));
        // As at a start: a mark ahead of the log is not believed.
        self.salvage.committed = match self.state.committed {
            Some(committed) if committed.index < reaches => Some(committed),
            _ => self.salvage.purged,
        };
        self.salvage.newest = newest;
        self.salvage
    }
}

fn next_after(id: LogId) -> u64 {
    id.index.saturating_add(1)
}

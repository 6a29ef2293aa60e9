//! What a damaged log still says for certain, which entries must come from peers, and the whole log made of both.
//!
//! Damage may hide anything: votes, entries, and a truncation that was followed by other entries. But a truncation
//! never reaches what was committed, so entries at or below the last `committed` before the damage are certain; those
//! above it are suspect up to the next good record that says where the log stood: an entry's own index, or a head.
//! From there on the log is certain again. The vote is certain if a vote, a mark or a head after the last damage says
//! it. (Protocol-aware recovery: Alagappan et al., FAST 2018.)

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::examine::{Damage, DamageKind, Item, examine};
use super::format::{HEAD_BYTES, Head, RECORD_BYTES, Record, decode_record, encode_record, record_bytes};
use super::memory::later;
use super::segment::{Files, segment_name};
use super::{LogEntry, LogError, LogSettings, LogState};
use crate::disk::{Disk, DiskFile};
use crate::release::RELEASE;
use crate::types::{LogId, Vote};

/// A rebuilt log is one segment, no longer than the longest that settings allow.
const MAX_BYTES: u64 = 1 << 30;
/// No more records fit into the segment whose end a damaged head has hidden.
const MAX_HIDDEN: u64 = MAX_BYTES / RECORD_BYTES as u64;
/// Entries are written in pieces of about so many bytes.
const PIECE_BYTES: usize = 1 << 20;

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
    kept: BTreeMap<u64, Kept>,
    newest: u64,
}

/// How many places of damage are remembered.
const PLACES: usize = 8;

/// A good entry and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    log_id: LogId,
    segment: u64,
    offset: u32,
    bytes: u32,
}

impl Salvage {
    /// Reads what a damaged log still says; changes nothing. `applied`: all entries up to this one are in the flushed
    /// state machine, and are not asked for again; a node that keeps the log for others gives `None`.
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

    /// Writes the whole log as one new segment, made of what is certain and of `fetched`, and puts it in the place of
    /// all others in one step: a crash before leaves the damaged log, after it the whole one. The damaged segments
    /// are kept under another name while there is room. Answers where the log stands.
    ///
    /// `fetched` are the entries from the beginning of [`Salvage::missing`] on, as one peer gave them: up to its end,
    /// and if the peer has it the entry that follows there, by which it is seen whether this log goes on as the peer's
    /// does. If they end earlier, then because a present leader's log does: what it lacks was never committed.
    pub fn rebuild<D: Disk>(
        mut self,
        disk: &Arc<D>,
        settings: LogSettings,
        fetched: Vec<LogEntry>,
    ) -> Result<LogState, LogError> {
        if !self.vote_certain {
            return Err(LogError::repair("its vote is not certain, and it could vote twice"));
        }
        let fetched_last = self.join(&fetched)?;
        let first = self.missing.as_ref().map_or(u64::MAX, |missing| missing.start);
        let fetched_end = first.saturating_add(fetched_last as u64);
        let last_kept = self.kept.values().next_back().map(|kept| kept.log_id);
        let last_fetched = fetched_last.checked_sub(1).map(|last| fetched[last].log_id);
        let last = later(self.purged, later(last_kept, last_fetched));
        if self.committed.map(|id| id.index) > last.map(|id| id.index) {
            return Err(LogError::repair("peers lack what it knows to be committed"));
        }
        // A leader whose entry stands here was elected: to hold its entry is to know it, as after an append.
        let elected = last.map(|id| Vote { leader: id.leader, committed: true });
        let vote = if elected.map(|v| v.leader) > self.vote.map(|v| v.leader) { elected } else { self.vote };
        let committed = later(self.purged, self.committed);
        let mut log = Vec::with_capacity(self.kept.len() + fetched_last);
        log.extend(self.kept.values().filter(|kept| kept.log_id.index < first).map(|kept| Source::Kept(*kept)));
        log.extend(fetched[..fetched_last].iter().map(Source::Fetched));
        log.extend(self.kept.values().filter(|kept| kept.log_id.index >= fetched_end).map(|kept| Source::Kept(*kept)));

        let bytes: u64 = log.iter().map(|source| u64::from(record_bytes(source.bytes()))).sum();
        let len = u64::from(HEAD_BYTES) + bytes + 2 * u64::from(RECORD_BYTES);
        if len > MAX_BYTES {
            return Err(LogError::repair("more entries must be kept than one segment holds"));
        }
        let mut files = Files::find(disk.clone(), settings.segment_bytes, settings.reserve_bytes)?;
        // A gap: the segments that were there are no part of the new run, and the next start removes them.
        let segment = self.newest + 2;
        let purged = self.purged;
        let state = LogState { last_purged: purged, last: purged, vote, committed: purged };
        let head = Head { group_id: settings.group_id, segment, previous_end: 0, state, release: RELEASE.into() };
        files.supersede(segment, len, |file| {
            let mut out = Out { file, name: segment_name(segment), segment, buffer: head.encode(), written: 0 };
            for source in &log {
                match source {
                    Source::Fetched(entry) => out.record(&Record::Entry(entry.log_id, &entry.payload), HEAD_BYTES)?,
                    Source::Kept(kept) => {
                        let payload = kept.read(&**disk)?;
                        out.record(&Record::Entry(kept.log_id, &payload), HEAD_BYTES)?;
                    }
                }
            }
            out.record(&Record::Committed(committed), HEAD_BYTES)?;
            let end = out.end();
            out.record(&Record::Mark(vote), end)?;
            out.flush()
        })?;
        let damaged: Vec<u64> = self.damage.iter().map(|damage| damage.segment).collect();
        files.set_aside(&damaged)?;
        Ok(LogState { last_purged: purged, last, vote, committed })
    }

    /// Removes the kept entries that do not go on from the fetched ones, and answers how many of those are used.
    fn join(&mut self, fetched: &[LogEntry]) -> Result<usize, LogError> {
        let Some(missing) = self.missing.clone() else {
            return if fetched.is_empty() {
                Ok(0)
            } else {
                Err(LogError::repair("entries came that nobody asked for"))
            };
        };
        let follow = (missing.start..).zip(fetched).all(|(index, entry)| entry.log_id.index == index);
        let rising = fetched.windows(2).all(|pair| pair[0].log_id.leader <= pair[1].log_id.leader);
        let before = missing.start.checked_sub(1).and_then(|index| self.log_id_at(index)).or(self.purged);
        let fits = fetched.first().is_none_or(|first| before.map(|id| id.leader) <= Some(first.log_id.leader));
        if !follow || !rising || !fits {
            return Err(LogError::repair("the entries that came do not follow the ones that are certain"));
        }
        let wanted = (missing.end - missing.start) as usize;
        let used = fetched.len().min(wanted);
        let next = self.log_id_at(missing.end);
        let goes_on = match fetched.get(wanted) {
            Some(peers) => next == Some(peers.log_id),
            // An entry of an older leader than the one before it cannot stand there: another one was committed.
            None => {
                fetched.len() >= wanted && next.map(|id| id.leader) >= fetched.last().map(|last| last.log_id.leader)
            }
        };
        if !goes_on {
            self.kept.split_off(&missing.end);
        }
        Ok(used)
    }
}

/// An entry of the rebuilt log.
enum Source<'a> {
    Kept(Kept),
    Fetched(&'a LogEntry),
}

impl Source<'_> {
    fn bytes(&self) -> u32 {
        match self {
            Source::Kept(kept) => kept.bytes,
            Source::Fetched(entry) => entry.payload.len() as u32,
        }
    }
}

impl Kept {
    fn read<D: Disk + ?Sized>(&self, disk: &D) -> Result<Bytes, LogError> {
        let Kept { log_id, segment, offset, bytes } = *self;
        let name = segment_name(segment);
        let file = disk.open(&name, false).map_err(LogError::io("open log segment", &name))?;
        let mut record = vec![0; (RECORD_BYTES + bytes) as usize];
        let read = file.read_at(offset.into(), &mut record).map_err(LogError::io("read log segment", &name))?;
        match decode_record(segment, offset, &record[..read]) {
            Some(decoded) if decoded.record == Record::Entry(log_id, bytes) => {
                Ok(Bytes::from(record).slice(RECORD_BYTES as usize..))
            }
            _ => Err(LogError::Rot { segment, offset: offset.into(), index: log_id.index }),
        }
    }
}

/// A segment being written from its beginning.
struct Out<'a> {
    file: &'a dyn DiskFile,
    name: String,
    segment: u64,
    buffer: Vec<u8>,
    written: u64,
}

impl Out<'_> {
    fn end(&self) -> u32 {
        (self.written + self.buffer.len() as u64) as u32
    }

    fn record(&mut self, record: &Record<&Bytes>, synced: u32) -> Result<(), LogError> {
        let record = record.with_payload(|payload| payload.as_ref());
        let head = encode_record(self.segment, self.end(), synced, &record);
        self.buffer.extend_from_slice(&head);
        if let Record::Entry(_, payload) = record {
            self.buffer.extend_from_slice(payload);
            self.buffer.resize(self.buffer.len().next_multiple_of(8), 0);
        }
        if self.buffer.len() >= PIECE_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), LogError> {
        self.file
            .write_at(self.written, &[IoSlice::new(&self.buffer)])
            .map_err(LogError::io("write log segment", &self.name))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
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
                if self.applied.is_none_or(|applied| applied.index < log_id.index) {
                    self.salvage.kept.insert(log_id.index, kept);
                }
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
            DamageKind::TornTail => return,
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
        let certain = committed.map_or(0, next_after).min(last.map_or(0, next_after));
        let start = certain.max(self.salvage.purged.map_or(0, next_after));
        let end = self.open.unwrap_or(0).max(last.map_or(0, next_after)).max(start).saturating_add(hidden.max(1));
        let missing = self.salvage.missing.get_or_insert(start..end);
        missing.end = end;
        self.open = Some(end);
        self.salvage.vote_certain = false;
        self.began = true;
    }

    fn finish(mut self, newest: u64) -> Salvage {
        self.purge(self.applied);
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
        let (mut next, mut gone) = (first, None::<Range<u64>>);
        for index in kept.keys().copied().chain([end]) {
            if index > next {
                gone = Some(gone.map_or(next, |gone| gone.start)..index);
            }
            next = next.max(index.saturating_add(1));
        }
        *missing = gone;
        if let Some(missing) = missing {
            kept.retain(|index, _| !missing.contains(index));
        }
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

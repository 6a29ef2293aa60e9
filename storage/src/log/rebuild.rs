//! The whole log, made of what is certain of a damaged one and of the entries that peers gave, as one new segment.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;

use super::format::{HEAD_BYTES, Head, RECORD_BYTES, Record, encode_record, record_bytes};
use super::memory::{Location, later};
use super::raw::read_entry;
use super::salvage::{Kept, MAX_BYTES, Salvage};
use super::segment::{Files, segment_name};
use super::{LogEntry, LogError, LogSettings, LogState};
use crate::disk::{Disk, DiskFile};
use crate::release::RELEASE;
use crate::types::Vote;

/// Entries are written in pieces of about so many bytes.
const PIECE_BYTES: usize = 1 << 20;

impl Salvage {
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
        read_entry(&*file, Location { segment, offset }, log_id, bytes)
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

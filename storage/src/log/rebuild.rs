//! The whole log, made of what is certain of a damaged one and of the entries that peers gave, as new segments.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;

use super::format::{HEAD_BYTES, Head, RECORD_BYTES, Record, encode_record, record_bytes};
use super::memory::{Location, later};
use super::raw::read_entry;
use super::salvage::{Kept, Salvage};
use super::segment::{Files, segment_name};
use super::writer::MARK_EVERY_BYTES;
use super::{LogEntry, LogError, LogSettings, LogState};
use crate::disk::{Disk, DiskFile};
use crate::release::RELEASE;
use crate::types::{LogId, Vote};

/// Entries are written in pieces of about so many bytes.
const PIECE_BYTES: usize = 1 << 20;

impl Salvage {
    /// Writes the whole log as new segments, made of what is certain and of `fetched`, and puts them in the place of
    /// all others in one step: a crash before leaves the damaged log, after it the whole one. Until then both need room.
    /// The damaged segments are kept under another name while there is room. Answers where the log stands.
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

        let mut files = Files::find(disk.clone(), settings.segment_bytes, settings.reserve_bytes)?;
        files.discard_unfinished()?;
        // A gap: the segments that were there are no part of the new run, and the next start removes them.
        let ids = self.newest + 2..;
        let purged = self.purged;
        let state = LogState { last_purged: purged, last: purged, vote, committed: purged };
        let written = write(&mut files, &**disk, settings, ids.start, state, committed, &log);
        if let Err(LogError::Full { .. }) = written {
            files.discard_unfinished()?;
        }
        files.switch(ids.start..=written?)?;
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

/// Writes the log as new segments from `segment` on, and answers the last one's id. `before` is where it begins.
fn write<D: Disk>(
    files: &mut Files<D>,
    disk: &D,
    settings: LogSettings,
    segment: u64,
    before: LogState,
    committed: Option<LogId>,
    log: &[Source<'_>],
) -> Result<u64, LogError> {
    let entries: u64 = log.iter().map(|source| u64::from(record_bytes(source.bytes()))).sum();
    // With each mark, and at the end, comes what is committed.
    let others = (entries / u64::from(MARK_EVERY_BYTES) + 2) * 2 * u64::from(RECORD_BYTES);
    let mut out = Out::begin(files, settings, segment, before, entries + others)?;
    let (mut reader, mut unmarked) = (Reader { disk, open: None }, 0);
    for source in log {
        let (log_id, payload) = match source {
            Source::Fetched(entry) => (entry.log_id, entry.payload.clone()),
            Source::Kept(kept) => (kept.log_id, reader.payload(kept)?),
        };
        out.record(&Record::Entry(log_id, &payload))?;
        unmarked += record_bytes(source.bytes());
        if unmarked >= MARK_EVERY_BYTES {
            unmarked = 0;
            let known = committed.filter(|committed| committed.index < log_id.index);
            out.mark(known.or(committed.map(|_| log_id)), before.vote)?;
        }
    }
    out.mark(committed, before.vote)?;
    out.sync()?;
    Ok(out.head.segment)
}

/// Reads kept entries, which mostly follow each other in one file.
struct Reader<'a, D> {
    disk: &'a D,
    open: Option<(u64, Arc<dyn DiskFile>)>,
}

impl<D: Disk> Reader<'_, D> {
    fn payload(&mut self, kept: &Kept) -> Result<Bytes, LogError> {
        let Kept { log_id, segment, offset, bytes } = *kept;
        let file = match &self.open {
            Some((open, file)) if *open == segment => file.clone(),
            _ => {
                let name = segment_name(segment);
                self.disk.open(&name, false).map_err(LogError::io("open log segment", &name))?
            }
        };
        self.open = Some((segment, file.clone()));
        read_entry(&*file, Location { segment, offset }, log_id, bytes)
    }
}

/// The new segments, one after the other.
struct Out<'a, D> {
    files: &'a mut Files<D>,
    segment_bytes: u64,
    /// Of the segment that is being written.
    head: Head,
    file: Arc<dyn DiskFile>,
    capacity: u64,
    /// The log as the records so far say.
    state: LogState,
    /// Bytes of records that are still to come, at most.
    left: u64,
    buffer: Vec<u8>,
    written: u64,
}

impl<'a, D: Disk> Out<'a, D> {
    fn begin(
        files: &'a mut Files<D>,
        settings: LogSettings,
        segment: u64,
        state: LogState,
        left: u64,
    ) -> Result<Out<'a, D>, LogError> {
        let LogSettings { group_id, epoch, segment_bytes, .. } = settings;
        let head = Head { group_id, segment, previous_end: 0, state, epoch, release: RELEASE.into() };
        let capacity = segment_bytes.min(u64::from(HEAD_BYTES) + left);
        let file = files.create_new(segment, capacity)?;
        let buffer = head.encode();
        Ok(Out { files, segment_bytes, head, file, capacity, state, left, buffer, written: 0 })
    }

    fn end(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// All before it is synced once the segment counts, so a mark proves it; it also says again what is committed.
    fn mark(&mut self, committed: Option<LogId>, vote: Option<Vote>) -> Result<(), LogError> {
        self.record(&Record::Committed(committed))?;
        self.record(&Record::Mark(vote))
    }

    fn record(&mut self, record: &Record<&Bytes>) -> Result<(), LogError> {
        let record = record.with_payload(|payload| payload.as_ref());
        let bytes = match record {
            Record::Entry(_, payload) => record_bytes(payload.len() as u32),
            _ => RECORD_BYTES,
        };
        if self.end() + u64::from(bytes) > self.capacity {
            self.rotate(bytes)?;
        }
        let at = self.end() as u32;
        self.buffer.extend_from_slice(&encode_record(self.head.segment, at, at, &record));
        if let Record::Entry(_, payload) = record {
            self.buffer.extend_from_slice(payload);
            self.buffer.resize(self.buffer.len().next_multiple_of(8), 0);
        }
        self.state.follow(&record);
        self.left = self.left.saturating_sub(bytes.into());
        if self.buffer.len() >= PIECE_BYTES { self.flush() } else { Ok(()) }
    }

    fn rotate(&mut self, room: u32) -> Result<(), LogError> {
        self.sync()?;
        self.head.segment += 1;
        self.head.previous_end = self.written as u32;
        self.head.state = self.state;
        let records = self.left.min(self.segment_bytes - u64::from(HEAD_BYTES)).max(room.into());
        self.capacity = u64::from(HEAD_BYTES) + records;
        self.file = self.files.create_new(self.head.segment, self.capacity)?;
        self.buffer = self.head.encode();
        self.written = 0;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LogError> {
        self.file
            .write_at(self.written, &[IoSlice::new(&self.buffer)])
            .map_err(LogError::io("write log segment", &segment_name(self.head.segment)))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogError> {
        self.flush()?;
        self.file.sync_data().map_err(LogError::io("sync log segment", &segment_name(self.head.segment)))
    }
}

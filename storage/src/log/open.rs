//! What a start trusts: heads, then records in order, up to the first that is not one.
//!
//! In all segments but the newest that must be exactly the end that the next head names. In the newest it is
//! a torn tail, which was never acknowledged, or damage: damage if any later record says that this place was
//! synced, or if the disk does not give what stands there. Then the newest segment is copied, synced and put in its own place, so that nothing which was only
//! in the page cache (a process was killed, or a sync failed before it) is ever reported as durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::batch::Batch;
use super::format::{HEAD_BYTES, Head, Record, encode_record};
use super::handle::Shared;
use super::memory::{Index, Location};
use super::raw::Raw;
use super::segment::Files;
use super::writer::LogWriter;
use super::{LogError, LogSettings, LogState};
use crate::disk::Disk;
use crate::failpoint::{Failpoint, reach};
use crate::planted::{self, Bug};
use crate::release::RELEASE;
use crate::types::{EpochId, Vote};

const FIRST_SEGMENT: u64 = 1;

pub(super) fn open<D: Disk>(disk: Arc<D>, settings: LogSettings) -> Result<(Arc<Shared>, LogWriter<D>), LogError> {
    let LogSettings { group_id, epoch, segment_bytes, tail_bytes, reserve_bytes } = settings;
    if !(8 << 10..=1 << 30).contains(&segment_bytes) {
        return Err(LogError::Settings { segment_bytes });
    }
    let mut files = Files::find(disk, segment_bytes, reserve_bytes)?;
    let heads = read_heads(&files, group_id)?;
    check_epochs(&files, &heads, epoch)?;
    let (mut index, batch, file) = match heads.first() {
        None => {
            files.discard_strays()?;
            let state = LogState::default();
            let release = RELEASE.into();
            let head = Head { group_id, segment: FIRST_SEGMENT, previous_end: 0, state, epoch, release };
            let file = files.create(&head, 0)?;
            (Index::new(state, tail_bytes), Batch::at(FIRST_SEGMENT, HEAD_BYTES), file)
        }
        Some(first) => {
            let mut index = Index::new(first.state, tail_bytes);
            let mut newest = replay(&mut files, &heads, &mut index)?;
            if let Some(missing) = index.missing() {
                return Err(LogError::Missing { segment: first.segment.saturating_sub(1), index: missing });
            }
            files.discard_strays()?;
            let segment = first.segment + (heads.len() - 1) as u64;
            newest.seal(segment, index.state().vote);
            newest.written_in(&heads[heads.len() - 1], epoch);
            reach(Failpoint::TailBeforeCopy);
            let file = match files.live().back() {
                Some(newest) if planted::is(Bug::TailTrusted) => (newest.file.clone(), segment_bytes as u32),
                _ => files.replace_newest(segment, &newest.0)?,
            };
            reach(Failpoint::TailCopied);
            (index, Batch::at(segment, newest.end()), file)
        }
    };
    settle_committed(&mut index);

    let readable: BTreeMap<_, _> = files.live().iter().map(|s| (s.id, s.file.clone())).collect();
    let written = index.state();
    let shared = Shared::new(index, readable, epoch);
    let mut writer = LogWriter::new(shared.clone(), files, group_id, file, batch, written);
    writer.release()?;
    Ok((shared, writer))
}

fn read_heads<D: Disk>(files: &Files<D>, group_id: u64) -> Result<Vec<Head>, LogError> {
    let mut heads: Vec<Head> = Vec::with_capacity(files.live().len());
    for segment in files.live() {
        // All that a damaged head lets us say is what the head before it knew.
        let last = heads.last().and_then(|head| head.state.last);
        heads.push(files.head(segment, group_id, last.map_or(0, |id| id.index.saturating_add(1)))?);
    }
    Ok(heads)
}

/// Refuses segments of an epoch that the node has not begun by what its identity says: it would go back to a former one.
fn check_epochs<D: Disk>(files: &Files<D>, heads: &[Head], own: EpochId) -> Result<(), LogError> {
    let is_other = |found: EpochId| found.number > own.number || found.is_twin_of(own);
    let other = files.live().iter().zip(heads).find(|(_, head)| own.number > 0 && is_other(head.epoch));
    other.map_or(Ok(()), |(it, head)| Err(LogError::OtherEpoch { segment: it.id, found: head.epoch, own }))
}

/// The good part of the newest segment, head and records.
#[derive(Default)]
struct Content(Vec<u8>);

impl Content {
    fn end(&self) -> u32 {
        self.0.len() as u32
    }

    /// Adds a mark: once this content is in place under its name, all of it is synced.
    fn seal(&mut self, segment: u64, vote: Option<Vote>) {
        let end = self.end();
        self.0.extend_from_slice(&encode_record(segment, end, end, &Record::Mark(vote)));
    }

    /// Its head says who writes it anew, and in which epoch.
    fn written_in(&mut self, head: &Head, epoch: EpochId) {
        let epoch = if epoch.number == 0 { head.epoch } else { epoch };
        let head = Head { epoch, release: RELEASE.into(), ..head.clone() };
        self.0[..HEAD_BYTES as usize].copy_from_slice(&head.encode());
    }
}

/// Replays all records into `index` and returns what is good of the newest segment.
fn replay<D: Disk>(files: &mut Files<D>, heads: &[Head], index: &mut Index) -> Result<Content, LogError> {
    let mut content = Vec::new();
    for position in 0..heads.len() {
        let segment = files.live()[position].id;
        // Only the newest one is of use later: two at a time would be most of the memory that a witness needs.
        drop(std::mem::take(&mut content));
        let mut raw = Raw::read(&*files.live()[position].file, segment)?;
        let known_end = heads.get(position + 1).map(|next| next.previous_end as usize);
        if let Some(end) = known_end {
            raw.truncate(end);
        }
        let good = replay_segment(files, segment, &raw, index)?;
        let damaged = match known_end {
            Some(end) => good != end,
            None => raw.may_hide_record(good) || raw.proves(segment, good),
        };
        if damaged && !planted::is(Bug::RotTakenForTail) {
            return Err(rot(&raw, segment, good, index));
        }
        content = raw.into_bytes();
        content.truncate(good);
    }
    Ok(Content(content))
}

/// Replays one segment up to the first place where no record stands, and returns that place.
fn replay_segment<D: Disk>(
    files: &mut Files<D>,
    segment: u64,
    raw: &Raw,
    index: &mut Index,
) -> Result<usize, LogError> {
    let mut at = HEAD_BYTES as usize;
    while let Some(decoded) = raw.record_at(segment, at) {
        match decoded.record {
            Record::Entry(id, bytes) => {
                let location = Location { segment, offset: at as u32 };
                index.restore(id, bytes, location).map_err(|_| rot(raw, segment, at, index))?;
                files.note_entry(segment, id.index);
            }
            Record::Vote(vote) => index.set_vote(vote),
            Record::TruncateAfter(last) => index.truncate_after(last),
            Record::Purge(upto) => index.purge(upto),
            Record::Committed(committed) => index.set_committed(committed),
            Record::Mark(_) => {}
        }
        at += decoded.bytes() as usize;
    }
    Ok(at)
}

fn rot(raw: &Raw, segment: u64, offset: usize, index: &Index) -> LogError {
    let (index, unreadable) = (index.next_index().unwrap_or(0), raw.may_hide_record(offset));
    LogError::Rot { segment, offset: offset as u64, index, unreadable }
}

/// A committed mark beyond the last entry would let a node answer for what it does not hold: all that is
/// surely committed then is what was purged.
fn settle_committed(index: &mut Index) {
    let LogState { last_purged, last, committed, .. } = index.state();
    if committed.map(|id| id.index) > last.map(|id| id.index) {
        index.set_committed(last_purged);
    }
}

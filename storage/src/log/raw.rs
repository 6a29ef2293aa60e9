//! A segment file as the disk gives it: a bad sector answers an error (EIO) for its whole page and may hide anything.
//!
//! What cannot be read counts neither as a record nor as unused space. Records follow one another without a gap, so the
//! log has ended where the first bytes of the next record can be read and begin none; where they cannot be read, or begin
//! one that reaches into what cannot be read, a record that was synced may stand, [`Raw::may_hide_record`].

use std::io;
use std::ops::Range;

use bytes::Bytes;

use super::LogError;
use super::format::{Decoded, HEAD_BYTES, RECORD_BYTES, Record, begins_record, decode_record};
use super::memory::Location;
use super::segment::segment_name;
use crate::disk::{DiskFile, is_unreadable};
use crate::types::LogId;

/// Read at once as long as nothing fails.
const PIECE_BYTES: usize = 1 << 20;
/// What is given up when it cannot be read: the kernel answers for whole pages.
const PAGE_BYTES: usize = 4096;

/// The bytes of a segment file, with zeros where the disk gives none.
pub(super) struct Raw {
    bytes: Vec<u8>,
    /// Where the disk gives none, in order.
    unreadable: Vec<Range<usize>>,
}

impl Raw {
    /// Reads a whole segment file.
    pub fn read(file: &dyn DiskFile, segment: u64) -> Result<Raw, LogError> {
        let len = file.len().map_err(LogError::io("measure log segment", &segment_name(segment)))?;
        Raw::read_first(file, segment, len.min(u64::from(u32::MAX)) as usize)
    }

    /// Reads the page of a segment's head.
    pub fn read_head(file: &dyn DiskFile, segment: u64) -> Result<Raw, LogError> {
        Raw::read_first(file, segment, HEAD_BYTES as usize)
    }

    fn read_first(file: &dyn DiskFile, segment: u64, len: usize) -> Result<Raw, LogError> {
        let failed = |error| LogError::io("read log segment", &segment_name(segment))(error);
        let mut raw = Raw { bytes: vec![0; len], unreadable: Vec::new() };
        for from in (0..len).step_by(PIECE_BYTES) {
            let to = len.min(from + PIECE_BYTES);
            match raw.fill(file, from..to) {
                Err(error) if is_unreadable(&error) => {}
                Err(error) => return Err(failed(error)),
                Ok(read) if from + read < to => {
                    raw.truncate(from + read);
                    return Ok(raw);
                }
                Ok(_) => continue,
            }
            for page in (from..to).step_by(PAGE_BYTES) {
                let page = page..to.min(page + PAGE_BYTES);
                match raw.fill(file, page.clone()) {
                    Ok(_) => {}
                    Err(error) if is_unreadable(&error) => raw.give_up(page),
                    Err(error) => return Err(failed(error)),
                }
            }
        }
        Ok(raw)
    }

    fn fill(&mut self, file: &dyn DiskFile, range: Range<usize>) -> io::Result<usize> {
        file.read_at(range.start as u64, &mut self.bytes[range])
    }

    fn give_up(&mut self, page: Range<usize>) {
        // A read that failed half way may have left something.
        self.bytes[page.clone()].fill(0);
        match self.unreadable.last_mut() {
            Some(last) if last.end == page.start => last.end = page.end,
            _ => self.unreadable.push(page),
        }
    }

    /// All bytes, zeros where the disk gives none.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets all from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
        self.unreadable.retain_mut(|range| {
            range.end = range.end.min(len);
            range.start < range.end
        });
    }

    /// What cannot be read of `range`: from its first byte to its last, whatever lies between. `None`: all can be.
    pub fn unreadable_in(&self, range: Range<usize>) -> Option<Range<usize>> {
        let mut hit = self.unreadable.iter().filter(|bad| bad.start < range.end && range.start < bad.end);
        let first = hit.next()?;
        let last = hit.next_back().unwrap_or(first);
        Some(first.start.max(range.start)..last.end.min(range.end))
    }

    /// The record that stands at `at`, if one does and all of it can be read.
    pub fn record_at(&self, segment: u64, at: usize) -> Option<Decoded> {
        let decoded = decode_record(segment, at as u32, self.bytes.get(at..)?)?;
        let whole = at..at + decoded.bytes() as usize;
        // The zeros after a payload are not under the CRC, but a record without them was not written whole.
        (whole.end <= self.len() && self.unreadable_in(whole).is_none()).then_some(decoded)
    }

    /// Where no record can be read: whether one may stand there all the same, in what the disk does not give.
    pub fn may_hide_record(&self, at: usize) -> bool {
        let Some(bad) = self.unreadable_in(at..self.len()) else { return false };
        begins_record(&self.bytes[at..bad.start]).is_some_and(|bytes| at + bytes as usize > bad.start)
    }

    /// Whether some record after `damage` says that this place was synced before it was written.
    pub fn proves(&self, segment: u64, damage: usize) -> bool {
        let mut later = (damage..self.len()).step_by(8).filter_map(|at| self.record_at(segment, at));
        later.any(|decoded| decoded.synced as usize > damage)
    }
}

/// Reads the payload of an entry whose place is known; a bad sector there is rot.
pub(super) fn read_entry(file: &dyn DiskFile, at: Location, log_id: LogId, bytes: u32) -> Result<Bytes, LogError> {
    let Location { segment, offset } = at;
    let rot = |unreadable| LogError::Rot { segment, offset: offset.into(), index: log_id.index, unreadable };
    let mut record = vec![0; (RECORD_BYTES + bytes) as usize];
    let read = file.read_at(offset.into(), &mut record).map_err(|error| match is_unreadable(&error) {
        true => rot(true),
        false => LogError::io("read log segment", &segment_name(segment))(error),
    })?;
    match decode_record(segment, offset, &record[..read]) {
        Some(decoded) if decoded.record == Record::Entry(log_id, bytes) => {
            Ok(Bytes::from(record).slice(RECORD_BYTES as usize..))
        }
        _ => Err(rot(false)),
    }
}

//! Records of one step on their way to the disk, as one vectored write.

use std::io::IoSlice;

use bytes::Bytes;

use super::format::{self, Record};
use super::memory::Location;

/// Payloads from here on are handed to the disk where they are; copying shorter ones costs less than a slice.
const LARGE_PAYLOAD: usize = 4096;

/// Records that follow one another in one segment.
pub(super) struct Batch {
    segment: u64,
    /// Where the batch begins. All before it was synced, and every record says so.
    start: u32,
    /// Bytes of all records.
    bytes: u32,
    /// Everything but the large payloads, and before which of its bytes those belong.
    small: Vec<u8>,
    large: Vec<(usize, Bytes)>,
}

impl Batch {
    /// An empty batch at a place below which everything is synced.
    pub fn at(segment: u64, start: u32) -> Batch {
        Batch { segment, start, bytes: 0, small: Vec::new(), large: Vec::new() }
    }

    pub fn segment(&self) -> u64 {
        self.segment
    }

    pub fn start(&self) -> u32 {
        self.start
    }

    /// Where the next record goes.
    pub fn end(&self) -> u32 {
        self.start + self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    pub fn push(&mut self, record: &Record<&Bytes>) -> Location {
        let offset = self.end();
        let payload = match *record {
            Record::Entry(_, payload) => Some(payload),
            _ => None,
        };
        let head = record.with_payload(|payload| payload.as_ref());
        self.small.extend_from_slice(&format::encode_record(self.segment, offset, self.start, &head));
        let payload_bytes = payload.map_or(0, Bytes::len);
        match payload {
            Some(payload) if payload.len() >= LARGE_PAYLOAD => self.large.push((self.small.len(), payload.clone())),
            Some(payload) => self.small.extend_from_slice(payload),
            None => {}
        }
        let bytes = format::record_bytes(payload_bytes as u32);
        let padding = bytes as usize - format::RECORD_BYTES as usize - payload_bytes;
        self.small.extend_from_slice(&[0; 8][..padding]);
        self.bytes += bytes;
        Location { segment: self.segment, offset }
    }

    pub fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut slices = Vec::with_capacity(2 * self.large.len() + 1);
        let mut from = 0;
        for (before, payload) in &self.large {
            slices.push(IoSlice::new(&self.small[from..*before]));
            slices.push(IoSlice::new(payload));
            from = *before;
        }
        slices.push(IoSlice::new(&self.small[from..]));
        slices
    }

    /// The batch is synced; the next one begins where it ends.
    pub fn synced(&mut self) {
        self.start = self.end();
        self.bytes = 0;
        self.small.clear();
        self.large.clear();
    }
}

//! What a state consists of, as sums over ranges of its rows: whoever has a similar state learns from it which rows to
//! ask for, and nothing else is sent.
//!
//! The range of keys is the unit, as in range-based set reconciliation (A. Meyer, 2023), with one round: the sender cuts
//! its rows, in order, into ranges of about 4 KiB; a range begins behind the last key of the one before it, or at the
//! beginning of its kind, and ends with its own last key. A sum is the first 16 bytes of SHA-256 over all keys and
//! values of the range, each with its length, u32 little-endian. Of a range that differs the receiver asks for the rows
//! with the sums of its own ones there, the first 8 bytes of the same SHA-256 over one row; those that the sender has too do
//! not come.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::engine::{EngineError, EngineView, KeyRange, Kind};
use crate::export::{ExportedRow, RowList};

/// A range is closed once its keys and values have so many bytes. An entry of the outline takes about 70, so that the outline
/// of a state is a sixtieth of it.
const RANGE_BYTES: u64 = 4 << 10;
/// A part of an outline is about so many bytes of rows: as many are in memory at once if all of them differ.
const PART_BYTES: u64 = 8 << 20;

/// Consecutive ranges of one kind.
#[derive(Clone, PartialEq, Message)]
pub struct Outline {
    /// Tag of the kind.
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    /// In key order.
    #[prost(message, repeated, tag = "2")]
    pub ranges: Vec<RangeSum>,
}

/// One range.
#[derive(Clone, PartialEq, Message)]
pub struct RangeSum {
    /// Its last key.
    #[prost(bytes = "bytes", tag = "1")]
    pub last: Bytes,
    /// Its rows.
    #[prost(uint64, tag = "2")]
    pub rows: u64,
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub sum: Bytes,
}

/// Rows that are asked for: those behind one key, up to another.
#[derive(Clone, PartialEq, Message)]
pub struct Span {
    /// Tag of the kind.
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    /// The key before the first row; empty: from the beginning of the kind.
    #[prost(bytes = "bytes", tag = "2")]
    pub behind: Bytes,
    /// The last key.
    #[prost(bytes = "bytes", tag = "3")]
    pub last: Bytes,
    /// Sums of rows that the receiver has there, 8 bytes each.
    #[prost(bytes = "bytes", tag = "4")]
    pub known: Bytes,
}

/// The sum of one row.
pub(crate) type RowSum = [u8; 8];

pub(crate) fn row_sum(key: &[u8], value: &[u8]) -> RowSum {
    let mut row = Summing::default();
    row.add(key, value);
    let mut sum = RowSum::default();
    sum.copy_from_slice(&row.hash.finalize()[..8]);
    sum
}

/// Sums as they are sent; what is left over is none.
pub(crate) fn row_sums(bytes: &[u8]) -> impl Iterator<Item = RowSum> {
    bytes.as_chunks().0.iter().copied()
}

/// Keys behind one, up to and with another; an empty first one: from the beginning, no last one: to the end.
pub(crate) fn between(behind: &[u8], last: Option<&[u8]>) -> KeyRange {
    let next = |key: &[u8]| [key, &[0][..]].concat();
    let start = if behind.is_empty() { Vec::new() } else { next(behind) };
    KeyRange { start, end: last.map(next) }
}

/// The sum of the rows that are added.
#[derive(Clone, Default)]
pub(crate) struct Summing {
    hash: Sha256,
    pub rows: u64,
    bytes: u64,
}

impl Summing {
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        for part in [key, value] {
            self.hash.update((part.len() as u32).to_le_bytes());
            self.hash.update(part);
            self.bytes += part.len() as u64;
        }
        self.rows += 1;
    }

    fn is_full(&self) -> bool {
        self.bytes >= RANGE_BYTES
    }

    pub fn sum(self) -> Bytes {
        Bytes::copy_from_slice(&self.hash.finalize()[..16])
    }
}

/// The outline of the rows behind a key, as far as one part of it goes; none: there are no such rows.
pub(crate) fn next_part(rows: &dyn EngineView, kind: Kind, behind: &[u8]) -> Result<Option<Outline>, EngineError> {
    let mut outline = Outline { kind: u32::from(kind.tag()), ranges: Vec::new() };
    let (mut open, mut last) = (Summing::default(), Bytes::new());
    let mut part_bytes = 0;
    let mut close = |open: &mut Summing, last: &Bytes| {
        let Summing { rows, bytes, .. } = *open;
        outline.ranges.push(RangeSum { last: last.clone(), rows, sum: std::mem::take(open).sum() });
        part_bytes += bytes;
        part_bytes >= PART_BYTES
    };
    for row in rows.sweep(kind, between(behind, None), false) {
        let (key, value) = row?;
        open.add(&key, &value);
        last = key;
        if open.is_full() && close(&mut open, &last) {
            break;
        }
    }
    if open.rows > 0 {
        close(&mut open, &last);
    }
    Ok((!outline.ranges.is_empty()).then_some(outline))
}

/// Rows of the first spans, about `limit_bytes` of them and all of one kind; takes off `spans` what was read. None: no
/// span is left.
pub(crate) fn next_rows(
    rows: &dyn EngineView,
    spans: &mut VecDeque<Span>,
    limit_bytes: usize,
) -> Result<Option<RowList>, EngineError> {
    let Some(tag) = spans.front().map(|span| span.kind) else { return Ok(None) };
    let (mut list, mut same) = (RowList { kind: tag, ..RowList::default() }, Vec::new());
    let Some(kind) = u8::try_from(tag).ok().and_then(Kind::from_tag) else {
        // Nothing of that kind is here.
        spans.retain(|span| span.kind != tag);
        return Ok(Some(list));
    };
    let mut bytes = 0;
    while let Some(span) = spans.front_mut().filter(|span| span.kind == tag && bytes < limit_bytes) {
        let known: BTreeSet<RowSum> = row_sums(&span.known).collect();
        for row in rows.scan(kind, between(&span.behind, Some(&span.last)), false) {
            let (key, value) = row?;
            span.behind = key.clone();
            let sum = (!known.is_empty()).then(|| row_sum(&key, &value)).filter(|sum| known.contains(sum));
            match sum {
                Some(sum) => {
                    bytes += sum.len();
                    same.extend_from_slice(&sum);
                }
                None => {
                    bytes += key.len() + value.len();
                    list.rows.push(ExportedRow { key, value });
                }
            }
            if bytes >= limit_bytes {
                break;
            }
        }
        // The rest of a span that did not fit comes next.
        if bytes < limit_bytes || span.behind >= span.last {
            spans.pop_front();
        }
    }
    let is_end = list.rows.is_empty() && same.is_empty() && spans.is_empty();
    list.same = same.into();
    Ok((!is_end).then_some(list))
}

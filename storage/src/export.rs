//! The whole state as a stream: for a node that is too far behind the log, for backups and copies.
//!
//! A stream is a sequence of chunks of about 256 KiB. A chunk is the length of its body and the body's CRC-32, both
//! u32 little-endian, and the body, a prost [`Chunk`]. The first one says what the stream holds; then come all rows
//! by kind and key; the last one, the manifest, has the number of chunks before it and the SHA-256 of their bytes.
//! [`crate::import`] receives it. A receiver that has a similar state is sent outlines ([`crate::outline`]) in the place of
//! rows, and asks for the rows of those ranges that it lacks.

use std::collections::VecDeque;

use bytes::Bytes;
use prost::{Message, Oneof};
use sha2::{Digest, Sha256};

use crate::apply::{Applied, Keeps};
use crate::engine::{KeyRange, Kind};
use crate::error::StoreError;
use crate::keyspace::meta::{LogIdRow, MembershipRow};
use crate::outline::{self, Outline, Span};
use crate::planted::{self, Bug};
use crate::read::View;
use crate::release::RELEASE;
use crate::types::EpochId;

/// Rows are gathered into a chunk until it is this long.
const CHUNK_BYTES: usize = 256 << 10;

/// So many of the newest chunks can be read again: all that a connection can have under way (8 MiB) and more.
const RESUMABLE: usize = 256;

/// Format version of the stream.
pub const FORMAT: u32 = 1;

/// A part of the stream.
#[derive(Clone, PartialEq, Message)]
pub struct Chunk {
    /// Counts from 0.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// What it holds.
    #[prost(oneof = "Body", tags = "2, 3, 4, 5")]
    pub body: Option<Body>,
}

/// What a chunk holds.
#[derive(Clone, PartialEq, Oneof)]
pub enum Body {
    /// First chunk.
    #[prost(message, tag = "2")]
    Start(Start),
    /// Rows of one kind.
    #[prost(message, tag = "3")]
    Rows(RowList),
    /// Last chunk.
    #[prost(message, tag = "4")]
    Manifest(Manifest),
    /// In the place of rows, for a receiver that asked for it.
    #[prost(message, tag = "5")]
    Outline(Outline),
}

/// What the stream holds.
#[derive(Clone, PartialEq, Message)]
pub struct Start {
    /// Format version of the stream.
    #[prost(uint32, tag = "1")]
    pub format: u32,
    /// True when it comes from a witness.
    #[prost(bool, tag = "2")]
    pub log_ids_only: bool,
    /// Release of the sender.
    #[prost(string, tag = "3")]
    pub release: String,
}

/// Rows of one kind, in key order.
#[derive(Clone, PartialEq, Message)]
pub struct RowList {
    /// Tag of the kind.
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    /// The rows.
    #[prost(message, repeated, tag = "2")]
    pub rows: Vec<ExportedRow>,
    /// Sums of rows that the receiver said it has ([`Span::known`]), which do not come for that.
    #[prost(bytes = "bytes", tag = "3")]
    pub same: Bytes,
}

/// One row.
#[derive(Clone, PartialEq, Message)]
pub struct ExportedRow {
    /// Key.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// Value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// Closes the stream.
#[derive(Clone, PartialEq, Message)]
pub struct Manifest {
    /// SHA-256 of all bytes before this chunk.
    #[prost(bytes = "bytes", tag = "1")]
    pub sha256: Bytes,
    /// Chunks before this one.
    #[prost(uint64, tag = "2")]
    pub chunks: u64,
    /// Newest applied entry.
    #[prost(message, optional, tag = "3")]
    pub log_id: Option<LogIdRow>,
    /// Membership in force.
    #[prost(message, optional, tag = "4")]
    pub membership: Option<MembershipRow>,
    /// Store-wide revision.
    #[prost(uint64, tag = "5")]
    pub revision: u64,
    /// Replicated clock, microseconds since 1970.
    #[prost(uint64, tag = "6")]
    pub clock_us: u64,
    /// The newest epoch that its rows tell of; 0: it comes from a witness.
    #[prost(uint64, tag = "7")]
    pub epoch: u64,
    /// See [`EpochId::plan`].
    #[prost(fixed64, tag = "8")]
    pub plan: u64,
}

impl Manifest {
    pub(crate) fn new(sha256: Bytes, chunks: u64, applied: &Applied, epoch: EpochId) -> Manifest {
        let membership = applied.membership.clone();
        Manifest {
            sha256,
            chunks,
            log_id: applied.log_id.map(Into::into),
            membership: membership.map(|(log_id, bytes)| MembershipRow { log_id: log_id.into(), membership: bytes }),
            revision: applied.revision,
            clock_us: applied.clock_us,
            epoch: epoch.number,
            plan: epoch.plan,
        }
    }
}

/// Where a chunk begins: all that is needed to read on from there.
#[derive(Clone)]
struct Place {
    sequence: u64,
    /// The kind that is being read, as its place in [`Kind::ALL`], and its last key that was sent.
    kind: usize,
    last_key: Option<Bytes>,
    /// Over all chunks before.
    hash: Sha256,
}

/// The state at one moment, read as it is pulled. Holds a view until it is dropped.
pub struct Export {
    view: View,
    keeps: Keeps,
    /// Outlines are sent in the place of rows.
    outlined: bool,
    next: Place,
    /// Where the newest chunks began, oldest first.
    behind: VecDeque<Place>,
    ended: bool,
}

impl Export {
    pub(crate) fn new(view: View, keeps: Keeps) -> Export {
        let next = Place { sequence: 0, kind: 0, last_key: None, hash: Sha256::new() };
        Export { view, keeps, outlined: false, next, behind: VecDeque::new(), ended: false }
    }

    /// For a receiver that has a similar state: outlines come in the place of rows, which it asks for.
    pub fn outlined(self) -> Export {
        Export { outlined: true, ..self }
    }

    /// The rows of the first of these spans, as a chunk; takes off `spans` what was read. None: no span is left.
    ///
    /// # Errors
    /// The engine failed, or the state has been found bad meanwhile.
    pub fn rows_of(&self, spans: &mut VecDeque<Span>) -> Result<Option<Bytes>, StoreError> {
        self.view.state.quarantine.check_all()?;
        let rows = outline::next_rows(&*self.view.state.rows, spans, CHUNK_BYTES)?;
        Ok(rows.map(|rows| frame(&Chunk { sequence: 0, body: Some(Body::Rows(rows)) })))
    }

    /// The point of the log whose state this is.
    pub fn applied(&self) -> &Applied {
        &self.view.state.applied
    }

    /// Goes on at chunk `sequence`, whose bytes and those after it come again as they were; what is before it counts
    /// as received. False when that chunk has not been read yet, or lies more than 256 chunks back: then only a new
    /// export helps.
    pub fn resume_at(&mut self, sequence: u64) -> bool {
        let Some(at) = self.behind.iter().position(|place| place.sequence == sequence) else {
            return sequence == self.next.sequence;
        };
        self.behind.drain(..at);
        if let Some(place) = self.behind.pop_front() {
            self.next = place;
            self.behind.clear();
            self.ended = false;
        }
        true
    }

    /// The next chunk; none after the manifest.
    ///
    /// # Errors
    /// The engine failed, or the state has been found bad meanwhile.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        self.view.state.quarantine.check_all()?;
        let begins = self.next.clone();
        let body = if begins.sequence == 0 {
            let log_ids_only = self.keeps == Keeps::LogIdsOnly;
            Body::Start(Start { format: FORMAT, log_ids_only, release: RELEASE.to_owned() })
        } else if let Some(body) = self.next_body()? {
            body
        } else {
            self.ended = true;
            let sha256: [u8; 32] = begins.hash.clone().finalize().into();
            let (sha256, state) = (Bytes::copy_from_slice(&sha256), &self.view.state);
            let epoch = if self.keeps == Keeps::Records { state.catalog.epoch() } else { EpochId::default() };
            Body::Manifest(Manifest::new(sha256, begins.sequence, &state.applied, epoch))
        };
        let chunk = frame(&Chunk { sequence: begins.sequence, body: Some(body) });
        self.next.hash.update(&chunk);
        self.next.sequence += 1;
        if self.behind.len() == RESUMABLE {
            self.behind.pop_front();
        }
        self.behind.push_back(begins);
        Ok(Some(chunk))
    }

    /// True once the manifest has been read.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Rows of one kind, or their outline; none when all have been sent.
    fn next_body(&mut self) -> Result<Option<Body>, StoreError> {
        while let Some(kind) = Kind::ALL.get(self.next.kind) {
            if self.outlined {
                let behind = self.next.last_key.clone().unwrap_or_default();
                if let Some(outline) = outline::next_part(&*self.view.state.rows, *kind, &behind)? {
                    self.next.last_key = outline.ranges.last().map(|range| range.last.clone());
                    return Ok(Some(Body::Outline(outline)));
                }
                self.next.kind += 1;
                self.next.last_key = None;
                continue;
            }
            let mut range = KeyRange::all();
            if let Some(last) = &self.next.last_key {
                range.start = [last, &[0][..]].concat();
            }
            let mut list = RowList { kind: u32::from(kind.tag()), ..RowList::default() };
            let mut bytes = 0;
            for row in self.view.state.rows.scan(*kind, range, false) {
                let (key, value) = row?;
                if planted::is(Bug::RequestsNotShipped) && *kind == Kind::Requests {
                    continue;
                }
                bytes += key.len() + value.len();
                list.rows.push(ExportedRow { key, value });
                if bytes >= CHUNK_BYTES {
                    break;
                }
            }
            if let Some(last) = list.rows.last() {
                self.next.last_key = Some(last.key.clone());
                return Ok(Some(Body::Rows(list)));
            }
            self.next.kind += 1;
            self.next.last_key = None;
        }
        Ok(None)
    }
}

fn frame(chunk: &Chunk) -> Bytes {
    let body = chunk.encode_to_vec();
    let mut bytes = Vec::with_capacity(8 + body.len());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    bytes.extend_from_slice(&body);
    Bytes::from(bytes)
}

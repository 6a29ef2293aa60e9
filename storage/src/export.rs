//! The whole state as a stream: for a node that is too far behind the log, for backups and copies.
//!
//! A stream is a sequence of chunks of about 256 KiB. A chunk is the length of its body and the body's CRC-32, both
//! u32 little-endian, and the body, a prost [`Chunk`]. The first one says what the stream holds; then come all rows
//! by kind and key; the last one, the manifest, has the number of chunks before it and the SHA-256 of their bytes.
//! The receiver fills a new engine beside the current one, computes the state digest from the rows that came and
//! compares it with the one that came, and only then makes the new engine the current one.

use std::sync::Arc;

use bytes::Bytes;
use prost::{Message, Oneof};
use sha2::{Digest, Sha256};

use crate::apply::{self, Applied, Keeps, Machine};
use crate::digest::{Buckets, Item};
use crate::engine::{Batch, Engine, KeyRange, Kind};
use crate::error::StoreError;
use crate::keyspace::{encode_value, format};
use crate::keyspace::meta::{self, AppliedRow, LogIdRow, MembershipRow};
use crate::read::View;
use crate::release::{RELEASE, UnknownFormat};
use crate::store::Shared;

/// Rows are gathered into a chunk until it is this long.
const CHUNK_BYTES: usize = 256 << 10;

/// Format version of the stream.
pub const FORMAT: u32 = 1;

/// A part of the stream.
#[derive(Clone, PartialEq, Message)]
pub struct Chunk {
    /// Counts from 0.
    #[prost(uint64, tag = "1")]
    pub sequence: u64,
    /// What it holds.
    #[prost(oneof = "Body", tags = "2, 3, 4")]
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
}

impl Manifest {
    fn new(sha256: Bytes, chunks: u64, applied: &Applied) -> Manifest {
        let membership = applied.membership.clone();
        Manifest {
            sha256,
            chunks,
            log_id: applied.log_id.map(Into::into),
            membership: membership.map(|(log_id, bytes)| MembershipRow { log_id: log_id.into(), membership: bytes }),
            revision: applied.revision,
            clock_us: applied.clock_us,
        }
    }
}

/// A received stream was refused. The state that was there stays.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A chunk's bytes are not what was sent.
    #[error("chunk {sequence} of a received state is damaged: {why}; ask for the state again")]
    Damaged {
        /// Which chunk, from 0.
        sequence: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The stream ended before its manifest.
    #[error("a received state ended after {chunks} chunks without its manifest; ask for the state again")]
    Incomplete {
        /// Chunks that came.
        chunks: u64,
    },
    /// The parts came whole, but do not fit together.
    #[error("a received state does not hold together: {why}; take it from another node and check the sender's disk")]
    Inconsistent {
        /// What does not fit.
        why: String,
    },
    /// A newer release sent it.
    #[error("a received state {format}")]
    UnknownFormat {
        /// What was found, and who reads it.
        format: UnknownFormat,
    },
    /// A witness sent it to a data node.
    #[error("a received state comes from a witness and holds no records; take it from a data node")]
    FromWitness,
    /// What is here has gone further.
    #[error("a received state ends at log index {received}, but {applied} has been applied here; nothing is installed")]
    Older {
        /// Last index of the received state; 0 when it is empty.
        received: u64,
        /// Last index applied here.
        applied: u64,
    },
    /// An earlier chunk was refused.
    #[error("an earlier chunk of this received state was refused; ask for the state again")]
    Ended,
}

/// The state at one moment, read as it is pulled. Holds a view until it is dropped.
pub struct Export {
    view: View,
    keeps: Keeps,
    hash: Sha256,
    sequence: u64,
    /// The kind that is being read, as its place in [`Kind::ALL`], and its last key that was sent.
    kind: usize,
    last_key: Option<Bytes>,
    ended: bool,
}

impl Export {
    pub(crate) fn new(view: View, keeps: Keeps) -> Export {
        Export { view, keeps, hash: Sha256::new(), sequence: 0, kind: 0, last_key: None, ended: false }
    }

    /// The point of the log whose state this is.
    pub fn applied(&self) -> &Applied {
        &self.view.state.applied
    }

    /// The next chunk; none after the manifest.
    ///
    /// # Errors
    /// The engine failed.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        if self.ended {
            return Ok(None);
        }
        let body = if self.sequence == 0 {
            let log_ids_only = self.keeps == Keeps::LogIdsOnly;
            Body::Start(Start { format: FORMAT, log_ids_only, release: RELEASE.to_owned() })
        } else if let Some(rows) = self.next_rows()? {
            Body::Rows(rows)
        } else {
            self.ended = true;
            let sha256: [u8; 32] = self.hash.clone().finalize().into();
            Body::Manifest(Manifest::new(Bytes::copy_from_slice(&sha256), self.sequence, &self.view.state.applied))
        };
        let chunk = frame(&Chunk { sequence: self.sequence, body: Some(body) });
        self.hash.update(&chunk);
        self.sequence += 1;
        Ok(Some(chunk))
    }

    /// Rows of one kind; none when all have been sent.
    fn next_rows(&mut self) -> Result<Option<RowList>, StoreError> {
        while let Some(kind) = Kind::ALL.get(self.kind) {
            let mut range = KeyRange::all();
            if let Some(last) = &self.last_key {
                range.start = [last, &[0][..]].concat();
            }
            let mut list = RowList { kind: u32::from(kind.tag()), rows: Vec::new() };
            let mut bytes = 0;
            for row in self.view.state.rows.scan(*kind, range, false) {
                let (key, value) = row?;
                bytes += key.len() + value.len();
                list.rows.push(ExportedRow { key, value });
                if bytes >= CHUNK_BYTES {
                    break;
                }
            }
            if let Some(last) = list.rows.last() {
                self.last_key = Some(last.key.clone());
                return Ok(Some(list));
            }
            self.kind += 1;
            self.last_key = None;
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

/// Reads a chunk; the message says what is wrong with it.
fn unframe(bytes: &[u8]) -> Result<Chunk, String> {
    let Some((head, body)) = bytes.split_first_chunk::<8>() else {
        return Err("it is too short".to_owned());
    };
    let [l0, l1, l2, l3, c0, c1, c2, c3] = *head;
    if u32::from_le_bytes([l0, l1, l2, l3]) as usize != body.len() {
        return Err("its length is not the one it states".to_owned());
    }
    if u32::from_le_bytes([c0, c1, c2, c3]) != crc32fast::hash(body) {
        return Err("its CRC-32 is not the one it states".to_owned());
    }
    Chunk::decode(Bytes::copy_from_slice(body)).map_err(|error| error.to_string())
}

/// Receives a state into a new engine. Dropped before [`Import::finish`], it leaves everything as it was.
pub struct Import {
    shared: Arc<Shared>,
    generation: u64,
    engine: Arc<dyn Engine>,
    hash: Sha256,
    sequence: u64,
    last: Option<(Kind, Bytes)>,
    buckets: Buckets,
    manifest: Option<Manifest>,
    refused: bool,
}

impl Import {
    pub(crate) fn new(shared: Arc<Shared>) -> Result<Import, StoreError> {
        let (generation, engine) = shared.home.create_new()?;
        Ok(Import {
            shared,
            generation,
            engine,
            hash: Sha256::new(),
            sequence: 0,
            last: None,
            buckets: Buckets::default(),
            manifest: None,
            refused: false,
        })
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// The chunk is damaged or out of place, or the engine failed; then this import is over.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), StoreError> {
        if self.refused {
            return Err(ImportError::Ended.into());
        }
        self.refused = true;
        let sequence = self.sequence;
        let damaged = |why: String| ImportError::Damaged { sequence, why };
        let parsed = unframe(chunk).map_err(damaged)?;
        if parsed.sequence != sequence || self.manifest.is_some() {
            return Err(damaged(format!("chunk {} came in its place", parsed.sequence)).into());
        }
        match (sequence, parsed.body) {
            (0, Some(Body::Start(start))) => self.start(&start)?,
            (1.., Some(Body::Rows(list))) => self.rows(list)?,
            (1.., Some(Body::Manifest(manifest))) => self.close(manifest)?,
            _ => return Err(damaged("it is not the part that belongs here".to_owned()).into()),
        }
        self.hash.update(chunk);
        self.sequence += 1;
        self.refused = false;
        Ok(())
    }

    fn start(&mut self, start: &Start) -> Result<(), ImportError> {
        if start.format != FORMAT {
            let format = UnknownFormat::new(start.format.into(), &start.release, FORMAT.into());
            return Err(ImportError::UnknownFormat { format });
        }
        if start.log_ids_only && self.shared.keeps == Keeps::Records {
            return Err(ImportError::FromWitness);
        }
        Ok(())
    }

    fn rows(&mut self, list: RowList) -> Result<(), StoreError> {
        let inconsistent = |why: String| ImportError::Inconsistent { why };
        let kind = u8::try_from(list.kind).ok().and_then(Kind::from_tag);
        let kind = kind.ok_or_else(|| inconsistent(format!("there is no row kind {}", list.kind)))?;
        let mut batch = Batch::default();
        for ExportedRow { key, value } in list.rows {
            let place = (kind, key.clone());
            if self.last.as_ref().is_some_and(|last| *last >= place) {
                return Err(inconsistent(format!("the {} rows are not in order", kind.name())).into());
            }
            self.last = Some(place);
            // Which releases wrote the sender's database is its own affair.
            if kind == Kind::Meta && key == format::KEY {
                continue;
            }
            // A witness keeps no rows but the two that `close` gives it.
            if self.shared.keeps == Keeps::Records {
                if kind != Kind::Meta {
                    self.buckets.add(Item::new(kind, &key, &value));
                }
                batch.put(kind, key, value);
            }
        }
        Ok(self.engine.write(batch)?)
    }

    fn close(&mut self, manifest: Manifest) -> Result<(), StoreError> {
        let sha256: [u8; 32] = self.hash.clone().finalize().into();
        if manifest.chunks != self.sequence || manifest.sha256 != sha256[..] {
            let why = "its manifest is about other chunks".to_owned();
            return Err(ImportError::Inconsistent { why }.into());
        }
        if self.shared.keeps == Keeps::LogIdsOnly {
            let mut batch = Batch::default();
            let row = AppliedRow { log_id: manifest.log_id, revision: 1, log_ids_only: true, ..AppliedRow::default() };
            batch.put(Kind::Meta, meta::APPLIED, encode_value(&row));
            if let Some(row) = &manifest.membership {
                batch.put(Kind::Meta, meta::MEMBERSHIP, apply::membership_value(row.log_id.into(), &row.membership));
            }
            self.engine.write(batch)?;
        }
        self.manifest = Some(manifest);
        Ok(())
    }

    /// What the stream says of itself, once all of it has come. [`Import::finish`] checks that it is true.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.manifest.as_ref()
    }

    /// Checks the whole state, brings it to stable storage and makes it the current one. Views taken before stay as
    /// they are.
    ///
    /// # Errors
    /// The stream is incomplete or does not hold together, its state is older than the one that is here, or the engine
    /// failed; the old state stays.
    pub fn finish(self) -> Result<Applied, StoreError> {
        if self.refused {
            return Err(ImportError::Ended.into());
        }
        let Some(manifest) = self.manifest else {
            return Err(ImportError::Incomplete { chunks: self.sequence }.into());
        };
        let machine = Machine::load(&*self.engine.view(), self.shared.keeps, self.shared.settings.max_request_entries)?;
        if *machine.digest.buckets() != self.buckets {
            let why = "its rows do not give the state digest that came with them".to_owned();
            return Err(ImportError::Inconsistent { why }.into());
        }
        let mut expected = Manifest::new(manifest.sha256.clone(), manifest.chunks, &machine.applied);
        if self.shared.keeps == Keeps::LogIdsOnly {
            // A witness counts no revisions.
            (expected.revision, expected.clock_us) = (manifest.revision, manifest.clock_us);
        }
        if expected != manifest {
            let why = "its rows stand at another point of the log than its manifest says".to_owned();
            return Err(ImportError::Inconsistent { why }.into());
        }
        self.engine.write(format::stamp(None).unwrap_or_default())?;
        self.engine.flush()?;
        self.shared.install(self.generation, self.engine, machine)
    }
}

//! Receives a state as [`crate::export`] sends it.
//!
//! The receiver fills a new engine beside the current one, computes the state digest from the rows that came and
//! compares it with the one that came, and only then makes the new engine the current one. With a similar state beside it,
//! rows that both have are copied from there ([`crate::outline`]).

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use sha2::{Digest, Sha256};

use crate::apply::{self, Applied, Keeps, Machine};
use crate::difference::Difference;
use crate::digest::{Buckets, Item};
use crate::engine::{Engine, Kind, Loader};
use crate::error::StoreError;
use crate::export::{Body, Chunk, ExportedRow, FORMAT, Manifest, RowList, Start};
use crate::failpoint::{Failpoint, reach};
use crate::keyspace::meta::{self, AppliedRow};
use crate::keyspace::{encode_value, format};
use crate::orphan::OrphanWriter;
use crate::outline::Span;
use crate::read::View;
use crate::release::UnknownFormat;
use crate::store::Shared;

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
    /// What is here has not come as far.
    #[error(
        "a received state ends at log index {received}, and only {applied} has been applied here; a damaged copy is \
         replaced once it has come as far"
    )]
    Newer {
        /// Last index of the received state.
        received: u64,
        /// Last index applied here; 0 when nothing has been.
        applied: u64,
    },
    /// The log does not lead from the received state to the one here.
    #[error(
        "a received state ends at log index {received}, and entry {missing} is not in this node's log any more; ask for \
         a newer state"
    )]
    LogGone {
        /// Last index of the received state; 0 when it is empty.
        received: u64,
        /// The entry that is needed.
        missing: u64,
    },
    /// An earlier chunk was refused.
    #[error("an earlier chunk of this received state was refused; ask for the state again")]
    Ended,
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
    /// Takes the rows; none once all have come.
    loader: Option<Box<dyn Loader>>,
    hash: Sha256,
    sequence: u64,
    /// Compares what comes with what is here.
    difference: Option<Difference>,
    /// What comes is of another lineage: how far either log goes says nothing of the other.
    other_lineage: bool,
    last: Option<(Kind, Bytes)>,
    buckets: Buckets,
    shipped: Shipped,
    whole: Option<(Manifest, Machine)>,
    refused: bool,
}

/// What has come, beside what it amounts to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shipped {
    /// Bytes of all chunks, and of what was told of the own rows.
    pub bytes: u64,
    /// Bytes of the keys and values of all rows: what would have come without a similar state here.
    pub of_bytes: u64,
    /// Writes that are here and not in the state that came, if they were to be kept.
    pub orphans: u64,
}

impl Import {
    /// `old`: a similar state.
    pub(crate) fn new(
        shared: Arc<Shared>,
        old: Option<View>,
        orphans: Option<OrphanWriter>,
        other_lineage: bool,
    ) -> Result<Import, StoreError> {
        let (generation, engine) = shared.home.create_new()?;
        Ok(Import {
            shared,
            generation,
            loader: Some(engine.loader()),
            engine,
            hash: Sha256::new(),
            sequence: 0,
            other_lineage,
            difference: old.map(|old| Difference::new(old, orphans)),
            last: None,
            buckets: Buckets::default(),
            shipped: Shipped::default(),
            whole: None,
            refused: false,
        })
    }

    /// Chunks taken so far, which is the number of the one that must come next.
    pub fn received(&self) -> u64 {
        self.sequence
    }

    /// Whether outlines can be taken: there is a similar state here.
    pub fn takes_outlines(&self) -> bool {
        self.difference.is_some()
    }

    /// What has come so far.
    pub fn shipped(&self) -> Shipped {
        self.shipped
    }

    /// Rows that have come of those that were lacking, of the outline that came last.
    pub fn filled(&self) -> usize {
        self.difference.as_ref().map_or(0, Difference::came)
    }

    /// Rows that have to be asked for before the next chunk can be taken.
    pub fn lacking(&self) -> Vec<Span> {
        self.difference.as_ref().map(Difference::lacking).unwrap_or_default()
    }

    /// Takes a chunk of rows that were [lacking](Import::lacking).
    ///
    /// # Errors
    /// As [`Import::write`].
    pub fn fill(&mut self, chunk: &[u8]) -> Result<(), StoreError> {
        if self.refused {
            return Err(ImportError::Ended.into());
        }
        self.refused = true;
        let sequence = self.sequence;
        let parsed = unframe(chunk).map_err(|why| ImportError::Damaged { sequence, why })?;
        self.shipped.bytes += chunk.len() as u64;
        match (&mut self.difference, parsed.body) {
            (Some(difference), Some(Body::Rows(list))) => difference.fill(list)?,
            _ => {
                let why = "it is not the part that was asked for".to_owned();
                return Err(ImportError::Damaged { sequence, why }.into());
            }
        }
        self.take_when_there()?;
        self.refused = false;
        Ok(())
    }

    /// Takes the next chunk; what it [lacks](Import::lacking) comes before the one after that.
    ///
    /// # Errors
    /// The chunk is damaged or out of place, the last one closes a state that does not hold together, or the engine
    /// failed; then this import is over.
    pub fn write(&mut self, chunk: &[u8]) -> Result<(), StoreError> {
        if self.refused {
            return Err(ImportError::Ended.into());
        }
        self.refused = true;
        reach(Failpoint::ImportChunk);
        let sequence = self.sequence;
        let damaged = |why: String| ImportError::Damaged { sequence, why };
        let parsed = unframe(chunk).map_err(damaged)?;
        if parsed.sequence != sequence || self.whole.is_some() {
            return Err(damaged(format!("chunk {} came in its place", parsed.sequence)).into());
        }
        match (sequence, parsed.body) {
            (0, Some(Body::Start(start))) => self.start(&start)?,
            (1.., Some(Body::Rows(list))) => self.rows(list)?,
            (1.., Some(Body::Outline(outline))) => {
                let unasked = || damaged("it is an outline, which nobody had asked for".to_owned());
                let difference = self.difference.as_mut().ok_or_else(unasked)?;
                difference.outline(outline)?;
                self.shipped.bytes += difference.told_bytes();
                self.take_when_there()?;
            }
            (1.., Some(Body::Manifest(manifest))) => self.close(manifest)?,
            _ => return Err(damaged("it is not the part that belongs here".to_owned()).into()),
        }
        self.hash.update(chunk);
        self.shipped.bytes += chunk.len() as u64;
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
        list.rows.into_iter().try_for_each(|ExportedRow { key, value }| self.row(kind, key, value))
    }

    /// Takes the rows of the outline that came last, once all of them are there.
    fn take_when_there(&mut self) -> Result<(), StoreError> {
        if !self.lacking().is_empty() {
            return Ok(());
        }
        let Some(mut difference) = self.difference.take() else { return Ok(()) };
        difference.take(|kind, key, value| self.row(kind, key, value))?;
        self.difference = Some(difference);
        Ok(())
    }

    fn row(&mut self, kind: Kind, key: Bytes, value: Bytes) -> Result<(), StoreError> {
        let place = (kind, key.clone());
        if self.last.as_ref().is_some_and(|last| *last >= place) {
            let why = format!("the {} rows are not in order", kind.name());
            return Err(ImportError::Inconsistent { why }.into());
        }
        self.last = Some(place);
        self.shipped.of_bytes += (key.len() + value.len()) as u64;
        // Which releases wrote the sender's database is its own affair.
        if kind == Kind::Meta && key == format::KEY {
            return Ok(());
        }
        // A witness keeps no rows but the two that `close` gives it.
        if self.shared.keeps == Keeps::Records {
            if kind != Kind::Meta {
                self.buckets.add(Item::new(kind, &key, &value));
            }
            self.load(kind, key, value)?;
        }
        Ok(())
    }

    fn load(&mut self, kind: Kind, key: Bytes, value: Bytes) -> Result<(), StoreError> {
        let loader = self.loader.as_mut().ok_or(ImportError::Ended)?;
        Ok(loader.add(kind, key, value)?)
    }

    /// All rows have come: brings them to stable storage and checks the whole state.
    fn close(&mut self, manifest: Manifest) -> Result<(), StoreError> {
        let inconsistent = |why: &str| ImportError::Inconsistent { why: why.to_owned() };
        let sha256: [u8; 32] = self.hash.clone().finalize().into();
        if manifest.chunks != self.sequence || manifest.sha256 != sha256[..] {
            return Err(inconsistent("its manifest is about other chunks").into());
        }
        if let Some(difference) = &mut self.difference {
            difference.end()?;
        }
        let log_ids_only = self.shared.keeps == Keeps::LogIdsOnly;
        if log_ids_only {
            let row = AppliedRow { log_id: manifest.log_id, revision: 1, log_ids_only: true, ..AppliedRow::default() };
            self.load(Kind::Meta, Bytes::from_static(meta::APPLIED), encode_value(&row))?;
            if let Some(row) = &manifest.membership {
                let value = apply::membership_value(row.log_id.into(), &row.membership);
                self.load(Kind::Meta, Bytes::from_static(meta::MEMBERSHIP), value)?;
            }
        }
        self.loader.take().ok_or(ImportError::Ended)?.finish()?;
        self.engine.write(format::stamp(None).unwrap_or_default())?;
        reach(Failpoint::ImportBeforeFlush);
        self.engine.flush()?;
        let machine = Machine::load(&*self.engine.view(), self.shared.keeps, self.shared.settings.max_request_entries)?;
        if *machine.digest.buckets() != self.buckets {
            return Err(inconsistent("its rows do not give the state digest that came with them").into());
        }
        let epoch = machine.catalog.epoch();
        let mut expected = Manifest::new(manifest.sha256.clone(), manifest.chunks, &machine.applied, epoch);
        if log_ids_only {
            // A witness counts no revisions, and its rows tell of no epoch.
            (expected.revision, expected.clock_us) = (manifest.revision, manifest.clock_us);
            (expected.epoch, expected.plan) = (manifest.epoch, manifest.plan);
        }
        if expected != manifest {
            return Err(inconsistent(
                "its rows stand at another point of the log, or in another epoch, than its manifest says",
            )
            .into());
        }
        // Only now is it certain that this state takes the place of the old one.
        if let Some(mut difference) = self.difference.take() {
            self.shipped.orphans = difference.keep_orphans(&*self.engine.view())?;
        }
        self.whole = Some((manifest, machine));
        Ok(())
    }

    /// What the stream says of itself, once all of it has come, is checked and on stable storage.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.whole.as_ref().map(|(manifest, _)| manifest)
    }

    /// Makes the received state the current one. Views taken before stay as they are.
    ///
    /// # Errors
    /// The stream is incomplete, its state is older than the one that is here, or the engine failed; the old state
    /// stays.
    pub fn finish(self) -> Result<Applied, StoreError> {
        let other_lineage = self.other_lineage;
        let whole = self.whole()?;
        whole.shared.install(whole.generation, whole.engine, whole.machine, other_lineage)
    }

    /// The received state, if all of it has come.
    pub(crate) fn whole(self) -> Result<Whole, StoreError> {
        if self.refused {
            return Err(ImportError::Ended.into());
        }
        let Some((_, machine)) = self.whole else {
            return Err(ImportError::Incomplete { chunks: self.sequence }.into());
        };
        let Import { shared, generation, engine, .. } = self;
        Ok(Whole { shared, generation, engine, machine })
    }
}

/// A received state that is complete, checked and on stable storage.
pub(crate) struct Whole {
    pub shared: Arc<Shared>,
    pub generation: u64,
    pub engine: Arc<dyn Engine>,
    pub machine: Machine,
}

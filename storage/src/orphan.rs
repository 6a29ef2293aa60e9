//! Orphan bundles: what a side that was left behind by a forced promotion had written, and the side that goes on has not.
//!
//! A bundle (format version 1) is a file of frames: length of the body and its CRC-32, both u32 little-endian, and the body, a
//! prost [`Frame`]. The first one is the [`Head`]; then come the collections and the wrapped data keys as that side had
//! them, then the writes in the order of their revisions, then the [`End`]. Values stay sealed as they were: whoever has
//! a site's KEK opens them. Ids and provenance are clear, as everywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::{Message, Oneof};
use sha2::{Digest, Sha256};

use crate::command::{Decision, RequestId, WrappedDek};
use crate::engine::{EngineError, EngineView, KeyRange, Kind};
use crate::error::StoreError;
use crate::failpoint::{Failpoint, reach};
use crate::keyspace::collections::{self, Collection};
use crate::keyspace::heads;
use crate::keyspace::meta::LogIdRow;
use crate::keyspace::requests::RequestRow;
use crate::keyspace::versions::{self, VersionRow};
use crate::keyspace::{decode_value, encode_value};
use crate::read::{StoredVersion, View, decode_version};
use crate::release::{RELEASE, UnknownFormat};

/// Format version of bundles that this release writes and reads.
pub const FORMAT: u32 = 1;
/// Ends the names of bundles.
pub const SUFFIX: &str = ".orphans";
/// No frame is longer: a value has 1 MiB by default, and the largest that can be asked for is far below this.
const FRAME_MAX_BYTES: usize = 256 << 20;

/// A part of a bundle.
#[derive(Clone, PartialEq, Message)]
pub struct Frame {
    /// The part.
    #[prost(oneof = "Part", tags = "1, 2, 3, 4, 5")]
    pub part: Option<Part>,
}

/// See [`Frame`].
#[derive(Clone, PartialEq, Oneof)]
pub enum Part {
    /// First frame.
    #[prost(message, tag = "1")]
    Head(Head),
    /// A collection.
    #[prost(message, tag = "2")]
    Collection(NumberedCollection),
    /// A data key that values may be sealed with, for each site.
    #[prost(message, tag = "3")]
    DataKey(WrappedDek),
    /// A write.
    #[prost(message, tag = "4")]
    Orphan(Orphan),
    /// Last frame.
    #[prost(message, tag = "5")]
    End(End),
}

/// Where a bundle comes from.
#[derive(Clone, PartialEq, Message)]
pub struct Head {
    /// Always [`FORMAT`].
    #[prost(uint32, tag = "1")]
    pub format: u32,
    /// Release that wrote it.
    #[prost(string, tag = "2")]
    pub release: String,
    /// 16 bytes.
    #[prost(bytes = "bytes", tag = "3")]
    pub cluster_id: Bytes,
    /// 16 bytes: part of what values are sealed with.
    #[prost(bytes = "bytes", tag = "4")]
    pub store_uuid: Bytes,
    /// The epoch in which these writes were made.
    #[prost(uint64, tag = "5")]
    pub epoch: u64,
    /// The epoch that went on without them.
    #[prost(uint64, tag = "6")]
    pub left_by_epoch: u64,
    /// The node that had them, and its number then.
    #[prost(string, tag = "7")]
    pub node: String,
    /// See `node`.
    #[prost(uint64, tag = "8")]
    pub node_id: u64,
    /// Its site.
    #[prost(string, tag = "9")]
    pub site: String,
    /// All up to this entry goes on.
    #[prost(message, optional, tag = "10")]
    pub base: Option<LogIdRow>,
    /// Store-wide revision there.
    #[prost(uint64, tag = "11")]
    pub base_revision: u64,
    /// The node knew that writes up to this revision were committed; what comes later may have been acknowledged by another one.
    #[prost(uint64, tag = "12")]
    pub committed_revision: u64,
}

/// A collection, as its row.
#[derive(Clone, PartialEq, Message)]
pub struct NumberedCollection {
    /// Its number.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// The row, as it was stored.
    #[prost(bytes = "bytes", tag = "2")]
    pub row: Bytes,
}

/// A write that the side which goes on does not have.
#[derive(Clone, PartialEq, Message)]
pub struct Orphan {
    /// Its revision, on the side that was left behind.
    #[prost(uint64, tag = "1")]
    pub revision: u64,
    /// Number of its collection, on that side.
    #[prost(uint32, tag = "2")]
    pub collection: u32,
    /// The record's id.
    #[prost(bytes = "bytes", tag = "3")]
    pub id: Bytes,
    /// The generation that it wrote.
    #[prost(uint64, tag = "4")]
    pub generation: u64,
    /// The version.
    #[prost(message, required, tag = "5")]
    pub version: VersionRow,
    /// The call that it came with, if its outcome was still remembered.
    #[prost(message, optional, tag = "6")]
    pub request: Option<RequestId>,
    /// Generation of the version before it, as that side had it; 0: there was none, or policy had removed it.
    #[prost(uint64, tag = "7")]
    pub follows: u64,
}

/// Closes a bundle.
#[derive(Clone, PartialEq, Message)]
pub struct End {
    /// Writes in it.
    #[prost(uint64, tag = "1")]
    pub orphans: u64,
    /// SHA-256 of all bytes before this frame.
    #[prost(bytes = "bytes", tag = "2")]
    pub sha256: Bytes,
}

/// Why a bundle cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OrphanError {
    /// File system.
    #[error("{action} {path}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Cause.
        source: io::Error,
    },
    /// Not a whole bundle.
    #[error("{path} is no whole orphan bundle: {why}; use the copy of another node of that site", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A newer release's.
    #[error("orphan bundle {path} {format}", path = path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// What was found, and who reads it.
        format: UnknownFormat,
    },
}

/// Writes a bundle beside its place, and puts it there when it is whole.
pub(crate) struct OrphanWriter {
    path: PathBuf,
    file: Option<BufWriter<File>>,
    hash: Sha256,
    base_revision: u64,
    /// The calls whose outcomes are remembered, by the revision that they wrote.
    requests: BTreeMap<u64, RequestId>,
    /// Revisions and keys of the versions that go into it, which are found in the order of their keys.
    found: BTreeSet<(u64, Bytes)>,
    /// Those from before the base: policy may have removed them on the side that goes on.
    doubtful: BTreeSet<(u64, Bytes)>,
}

impl OrphanWriter {
    /// Begins a bundle of what `old` has beyond the base. `head` says where it comes from; its name is made of that, so
    /// that one which is written again takes the place of the first attempt.
    ///
    /// # Errors
    /// The rows cannot be read, or the file cannot be written.
    pub(crate) fn begin(folder: &Path, head: Head, old: &View) -> Result<OrphanWriter, StoreError> {
        let base = head.base.map_or(0, |base| base.index);
        let path = folder.join(format!("epoch-{}-{}-{}{SUFFIX}", head.epoch, head.node, head.node_id));
        let failed = failed(&path);
        fs::create_dir_all(folder).map_err(&failed)?;
        let file = BufWriter::new(File::create(path.with_extension("new")).map_err(&failed)?);
        let (base_revision, requests) = (head.base_revision, calls(old, base)?);
        let mut writer = OrphanWriter {
            path,
            file: Some(file),
            hash: Sha256::new(),
            base_revision,
            requests,
            found: BTreeSet::new(),
            doubtful: BTreeSet::new(),
        };
        writer.write(Part::Head(Head { format: FORMAT, release: RELEASE.to_owned(), ..head }))?;
        for row in old.state.rows.scan(Kind::Collections, KeyRange::all(), false) {
            let (key, value) = row?;
            let number = collections::decode(&key, value.clone())?.number;
            writer.write(Part::Collection(NumberedCollection { number, row: value }))?;
        }
        for key in old.deks() {
            writer.write(Part::DataKey(key))?;
        }
        Ok(writer)
    }

    /// A version that the state which comes does not have; `taken`: it has another one of that generation.
    pub(crate) fn note(&mut self, revision: u64, key: &Bytes, taken: bool) {
        let is_beyond = revision > self.base_revision || taken;
        let place = if is_beyond { &mut self.found } else { &mut self.doubtful };
        place.insert((revision, key.clone()));
    }

    /// What policy has removed on the side that goes on has had a successor there. What has none was never there: up to the
    /// base both logs have as many revisions, but where a leader was lost just before they need not be the same.
    fn settle(&mut self, new: &dyn EngineView) -> Result<(), StoreError> {
        for (revision, key) in std::mem::take(&mut self.doubtful) {
            let (collection, id, generation) = versions::decode_key(&key)?;
            let place = heads::key(collection, &id);
            let newest = match new.get(Kind::Heads, &place)? {
                Some(row) => decode_value::<heads::Head>(Kind::Heads, &place, row)?.generation,
                None => 0,
            };
            if newest < generation {
                self.found.insert((revision, key));
            }
        }
        Ok(())
    }

    /// Writes the bundle and puts it in its place, durably; answers how many writes are in it. Without a single one there
    /// is none. `new`: the rows that take the place of the old ones.
    pub(crate) fn finish(&mut self, old: &View, new: &dyn EngineView) -> Result<u64, StoreError> {
        self.settle(new)?;
        let draft = self.path.with_extension("new");
        let failed = failed(&self.path);
        let found = std::mem::take(&mut self.found);
        for (revision, key) in &found {
            let orphan = self.orphan(old, *revision, key)?;
            self.write(Part::Orphan(orphan))?;
        }
        let orphans = found.len() as u64;
        let sha256: [u8; 32] = self.hash.clone().finalize().into();
        self.write(Part::End(End { orphans, sha256: Bytes::copy_from_slice(&sha256) }))?;
        let Some(file) = self.file.take() else { return Ok(orphans) };
        let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
        if orphans == 0 {
            return fs::remove_file(&draft).map(|()| 0).map_err(failed);
        }
        let place = || -> io::Result<()> {
            reach(Failpoint::OrphansBeforeSync);
            file.sync_all()?;
            fs::rename(&draft, &self.path)?;
            self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        };
        place().map(|()| orphans).map_err(failed)
    }

    fn orphan(&mut self, old: &View, revision: u64, key: &Bytes) -> Result<Orphan, StoreError> {
        let (collection, id, generation) = versions::decode_key(key)?;
        let rows = &old.state.rows;
        let value = rows.get(Kind::Versions, key)?;
        let value = value.ok_or_else(|| StoreError::corrupt(Kind::Versions, key, "the row is missing"))?;
        let version = decode_value(Kind::Versions, key, value)?;
        let before = KeyRange { start: versions::prefix(collection, &id), end: Some(key.to_vec()) };
        let follows = match rows.scan(Kind::Versions, before, true).next() {
            Some(row) => versions::decode_key(&row?.0)?.2,
            None => 0,
        };
        let request = self.requests.remove(&revision);
        Ok(Orphan { revision, collection, id: id.into(), generation, version, request, follows })
    }

    fn write(&mut self, part: Part) -> Result<(), StoreError> {
        let failed = failed(&self.path);
        let Some(file) = &mut self.file else { return Ok(()) };
        let body = Frame { part: Some(part) }.encode_to_vec();
        let head = [(body.len() as u32).to_le_bytes(), crc32fast::hash(&body).to_le_bytes()].concat();
        for bytes in [&head, &body] {
            self.hash.update(bytes);
            file.write_all(bytes).map_err(&failed)?;
        }
        Ok(())
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> StoreError + use<> {
    let what = format!("write the orphan bundle {}: see that the disk has room and is sound", path.display());
    move |source| EngineError { what: what.clone(), source: source.into(), damage: false }.into()
}

/// The calls that wrote something. What a client said that it had seen is cut to the base: the log that goes on has other
/// entries behind that.
fn calls(old: &View, base_index: u64) -> Result<BTreeMap<u64, RequestId>, StoreError> {
    let mut calls = BTreeMap::new();
    for row in old.state.rows.scan(Kind::Requests, KeyRange::all(), false) {
        let (client, value) = row?;
        let row: RequestRow = decode_value(Kind::Requests, &client, value)?;
        for call in row.calls {
            if matches!(call.outcome.decision, Some(Decision::Written(_))) {
                let (since, done_below) = (row.since.min(base_index), row.done_below);
                let request = RequestId { client: client.clone(), since, sequence: call.sequence, done_below };
                calls.insert(call.outcome.revision, request);
            }
        }
    }
    Ok(calls)
}

/// A bundle that is read.
pub struct OrphanBundle {
    /// Where it comes from.
    pub head: Head,
    /// The collections of that side, by number.
    pub collections: BTreeMap<u32, Collection>,
    /// Its data keys.
    pub data_keys: Vec<WrappedDek>,
    /// Bytes of the file.
    pub bytes: u64,
    reader: FrameReader,
    next: Option<Part>,
}

impl OrphanBundle {
    /// Opens a bundle; its writes come after that ([`OrphanBundle::next_orphan`]).
    ///
    /// # Errors
    /// It cannot be read, is damaged so far, or of a newer format.
    pub fn open(path: &Path) -> Result<OrphanBundle, OrphanError> {
        let io = |source| OrphanError::Io { action: "read", path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        let mut reader =
            FrameReader { path: path.to_owned(), file: BufReader::new(file), hash: Sha256::new(), orphans: 0 };
        let Part::Head(head) = reader.next()? else { return Err(reader.damaged("it does not begin with its head")) };
        if head.format != FORMAT {
            let format = UnknownFormat::new(head.format.into(), &head.release, FORMAT.into());
            return Err(OrphanError::Newer { path: path.to_owned(), format });
        }
        let (mut collections, mut data_keys) = (BTreeMap::new(), Vec::new());
        let next = loop {
            match reader.next()? {
                Part::Collection(NumberedCollection { number, row }) => {
                    let decoded = collections::decode(&collections::key(number), row);
                    let decoded = decoded.map_err(|error| reader.damaged(&error.to_string()))?;
                    collections.insert(number, decoded);
                }
                Part::DataKey(key) => data_keys.push(key),
                other => break other,
            }
        };
        Ok(OrphanBundle { head, collections, data_keys, bytes, reader, next: Some(next) })
    }

    /// The next write, in the order of their revisions; none after the last one, once all of the bundle has proved whole.
    ///
    /// # Errors
    /// It cannot be read, or is damaged.
    pub fn next_orphan(&mut self) -> Result<Option<Orphan>, OrphanError> {
        let Some(part) = self.next.take() else { return Ok(None) };
        match part {
            Part::Orphan(orphan) => {
                self.next = Some(self.reader.next()?);
                Ok(Some(orphan))
            }
            Part::End(_) => Ok(None),
            _ => Err(self.reader.damaged("its parts are not in order")),
        }
    }

    /// The collection of a write, as that side had it.
    pub fn collection(&self, orphan: &Orphan) -> Option<&Collection> {
        self.collections.get(&orphan.collection)
    }

    /// What it wrote, still sealed.
    ///
    /// # Errors
    /// The version cannot be read.
    pub fn version(&self, orphan: &Orphan) -> Result<StoredVersion, OrphanError> {
        let key = versions::key(orphan.collection, &orphan.id, orphan.generation);
        let read = decode_version(&key, encode_value(&orphan.version), &orphan.id, orphan.generation);
        read.map_err(|error| self.reader.damaged(&error.to_string()))
    }
}

struct FrameReader {
    path: PathBuf,
    file: BufReader<File>,
    hash: Sha256,
    orphans: u64,
}

impl FrameReader {
    fn damaged(&self, why: &str) -> OrphanError {
        OrphanError::Damaged { path: self.path.clone(), why: why.to_owned() }
    }

    fn next(&mut self) -> Result<Part, OrphanError> {
        let before = self.hash.clone();
        let mut head = [0; 8];
        self.exact(&mut head)?;
        let [l0, l1, l2, l3, c0, c1, c2, c3] = head;
        let (length, crc) = (u32::from_le_bytes([l0, l1, l2, l3]) as usize, u32::from_le_bytes([c0, c1, c2, c3]));
        if length > FRAME_MAX_BYTES {
            return Err(self.damaged(&format!("a part says that it has {length} bytes")));
        }
        let mut body = Vec::new();
        let io = |source| OrphanError::Io { action: "read", path: self.path.clone(), source };
        // Not as much room at once as a damaged length says.
        (&mut self.file).take(length as u64).read_to_end(&mut body).map_err(io)?;
        if body.len() != length || crc32fast::hash(&body) != crc {
            return Err(self.damaged("a part is not as it was written"));
        }
        self.hash.update(head);
        self.hash.update(&body);
        let part = Frame::decode(Bytes::from(body)).map_err(|error| self.damaged(&error.to_string()))?.part;
        match part.ok_or_else(|| self.damaged("it holds a part that this release does not know"))? {
            Part::End(end) => {
                let sha256: [u8; 32] = before.finalize().into();
                match end.orphans == self.orphans && end.sha256 == sha256[..] {
                    true => Ok(Part::End(end)),
                    false => Err(self.damaged("its end is about other writes")),
                }
            }
            part => {
                self.orphans += u64::from(matches!(part, Part::Orphan(_)));
                Ok(part)
            }
        }
    }

    fn exact(&mut self, bytes: &mut [u8]) -> Result<(), OrphanError> {
        self.file.read_exact(bytes).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged("it ends in the middle"),
            _ => OrphanError::Io { action: "read", path: self.path.clone(), source },
        })
    }
}

/// The bundles in a folder, by name; none where there is no such folder.
///
/// # Errors
/// The folder cannot be listed.
pub fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(SUFFIX) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

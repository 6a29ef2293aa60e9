//! The scrub: reads every row of one view from the disk, and says what is not as it was written.
//!
//! It adds up the buckets of the state digest anew and compares them with those that apply has kept, in the same view.
//! That finds every row that has changed, came or went. What a row itself can tell names it: a version's digest is that
//! of its envelope, its chain follows from the version before it, a record's head is its newest version.
//!
//! It goes in steps, so that the caller decides how fast. Blocks of files that are in RocksDB's cache already are not
//! read from the disk again; what is read here stays out of that cache. Where the engine cannot read on, the rest of
//! that kind of rows is read from its end backwards, and what lies between is reported as one finding.

use std::iter::Peekable;
use std::sync::Arc;

use bytes::Bytes;

use crate::catalog::Catalog;
use crate::chain::Link;
use crate::digest::{BucketSet, Buckets, Item, StateDigest, bucket_of};
use crate::engine::{EngineView, KeyRange, Kind, Row, Rows};
use crate::keyspace::{heads, versions};
use crate::quarantine::{Held, MOST_NAMED, name_row};
use crate::read::{View, decode_version};

/// What a scrub found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// Last log index of the state that was read; 0 when nothing has been applied.
    pub index: u64,
    /// Rows read.
    pub rows: u64,
    /// Their bytes, keys included.
    pub bytes: u64,
    /// Buckets whose rows do not give the sums that apply has kept.
    pub differing: BucketSet,
    /// Rows that are not as they were written by what they say themselves, and places that could not be read.
    pub damaged: u64,
    /// The first of them: which, and what is wrong.
    pub named: Vec<String>,
    /// Buckets of the damaged rows.
    pub damaged_buckets: BucketSet,
}

impl ScrubReport {
    /// Whether this copy must not be served: its rows are not those that it was made of. A damaged row that its own
    /// sums cover was written so: all copies have it, and another copy would not mend it.
    pub fn is_bad(&self) -> bool {
        !self.differing.is_empty()
    }

    /// What to hold back of a bad copy.
    pub fn held(&self, whole: bool) -> Held {
        Held { whole, buckets: self.differing.clone(), why: self.to_string() }
    }
}

impl std::fmt::Display for ScrubReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut said = Vec::new();
        if self.is_bad() || self.damaged == 0 {
            said.push(format!("rows on disk do not give the kept sums of {} of 4096 buckets", self.differing.len()));
        }
        if self.damaged > 0 {
            said.push(format!("{} rows damaged: {}", self.damaged, self.named.join("; ")));
        }
        f.write_str(&said.join("; "))
    }
}

/// What is known of the record whose versions are being read.
struct Record {
    head_key: Vec<u8>,
    generation: u64,
    /// Chain of its newest version read so far; none when that version is damaged.
    chain: Option<[u8; 32]>,
}

/// Where a kind of rows is being read.
enum Place {
    /// Upwards, behind the last key that was read.
    Up(Option<Bytes>),
    /// Downwards, from the end or the last key that was read, to where reading upwards failed.
    Down { above: Option<Bytes>, below: Option<Bytes>, why: String },
}

/// A scrub under way. Holds a view until it is dropped.
pub struct Scrub {
    view: View,
    /// Buckets as apply has kept them; none when they cannot be read.
    kept: Option<Buckets>,
    sums: Buckets,
    kind: usize,
    place: Place,
    record: Option<Record>,
    /// The last head that versions were compared with.
    head_after: Option<Bytes>,
    /// False once there is a gap in the versions or heads that were read.
    compares_heads: bool,
    report: ScrubReport,
}

impl Scrub {
    pub(crate) fn new(view: View) -> Scrub {
        let report =
            ScrubReport { index: view.state.applied.log_id.map_or(0, |last| last.index), ..ScrubReport::default() };
        let mut scrub = Scrub {
            view,
            kept: None,
            sums: Buckets::default(),
            kind: 0,
            place: Place::Up(None),
            record: None,
            head_after: None,
            compares_heads: true,
            report,
        };
        match StateDigest::load(&*scrub.view.state.rows) {
            Ok(kept) => scrub.kept = Some(kept.buckets().clone()),
            Err(error) => scrub.note(None, format!("the kept sums: {error}")),
        }
        scrub
    }

    /// Reads about so many bytes more. Answers the report once everything has been read.
    pub fn step(&mut self, max_bytes: usize) -> Option<ScrubReport> {
        let rows = Arc::clone(&self.view.state.rows);
        let until = self.report.bytes + max_bytes as u64;
        while self.report.bytes < until {
            let Some(kind) = Kind::ALL.get(self.kind).copied() else {
                return Some(self.finish());
            };
            if self.read(&*rows, kind, until) {
                self.kind += 1;
                self.place = Place::Up(None);
            }
        }
        None
    }

    /// Rows and bytes read so far.
    pub fn progress(&self) -> (u64, u64) {
        (self.report.rows, self.report.bytes)
    }

    fn finish(&mut self) -> ScrubReport {
        self.report.differing = match &self.kept {
            Some(kept) => self.sums.differing(kept),
            None => BucketSet::all(),
        };
        self.report.clone()
    }

    fn note(&mut self, row: Option<(Kind, &[u8])>, what: String) {
        self.report.damaged += 1;
        if let Some((kind, key)) = row {
            self.report.damaged_buckets.insert(bucket_of(kind, key));
        }
        if self.report.named.len() < MOST_NAMED {
            self.report.named.push(what);
        }
    }

    fn damaged(&mut self, kind: Kind, key: &[u8], why: &dyn std::fmt::Display) {
        let what = format!("{}: {why}", name_row(&self.view.state.catalog, kind, key));
        self.note(Some((kind, key)), what);
    }

    /// Reads on in one kind; true when it has been read to its end.
    fn read(&mut self, rows: &dyn EngineView, kind: Kind, until: u64) -> bool {
        let (range, down) = match &self.place {
            Place::Up(after) => (behind(after.as_ref()), false),
            Place::Down { above, below, .. } => {
                (KeyRange { end: above.as_ref().map(|key| key.to_vec()), ..behind(below.as_ref()) }, true)
            }
        };
        let mut heads = rows.sweep(Kind::Heads, behind(self.head_after.as_ref()), false).peekable();
        for row in rows.sweep(kind, range, down) {
            match row {
                Ok((key, value)) => {
                    self.take(kind, &key, value, &mut heads, down);
                    match &mut self.place {
                        Place::Up(after) => *after = Some(key),
                        Place::Down { above, .. } => *above = Some(key),
                    }
                }
                Err(error) => return self.unreadable(kind, error.to_string()),
            }
            if self.report.bytes >= until {
                return false;
            }
        }
        if let Place::Down { below, why, .. } = std::mem::replace(&mut self.place, Place::Up(None)) {
            // A place that could be read now: it is a finding all the same.
            self.hole(kind, below, None, &why);
        } else if kind == Kind::Versions {
            self.close_record(&mut heads, None);
        }
        true
    }

    /// The engine cannot read on; true when nothing is left to be tried in this kind.
    fn unreadable(&mut self, kind: Kind, why: String) -> bool {
        if matches!(kind, Kind::Heads | Kind::Versions) {
            self.compares_heads = false;
            self.record = None;
        }
        match std::mem::replace(&mut self.place, Place::Up(None)) {
            Place::Up(below) => {
                self.place = Place::Down { above: None, below, why };
                false
            }
            Place::Down { above, below, why } => {
                self.hole(kind, below, above, &why);
                true
            }
        }
    }

    fn hole(&mut self, kind: Kind, below: Option<Bytes>, above: Option<Bytes>, why: &str) {
        let catalog = &self.view.state.catalog;
        let name = |key: Option<Bytes>, none: &str| key.map_or(none.to_owned(), |key| name_row(catalog, kind, &key));
        let (from, to) = (name(below, "their beginning"), name(above, "their end"));
        self.note(None, format!("{} between {from} and {to} cannot be read: {why}", kind.name()));
    }

    fn take<'h>(&mut self, kind: Kind, key: &Bytes, value: Bytes, heads: &mut Peekable<Rows<'h>>, down: bool) {
        self.report.rows += 1;
        self.report.bytes += (key.len() + value.len()) as u64;
        if kind != Kind::Meta {
            self.sums.add(Item::new(kind, key, &value));
        }
        match kind {
            Kind::Heads => {
                let decoded = heads::decode_key(key).and_then(|_| heads::decode(key, value));
                if let Err(error) = decoded {
                    self.damaged(kind, key, &error);
                }
            }
            Kind::Versions => self.take_version(key, value, heads, down),
            _ => {}
        }
    }

    fn take_version(&mut self, key: &Bytes, value: Bytes, heads: &mut Peekable<Rows<'_>>, down: bool) {
        let (number, id, generation) = match versions::decode_key(key) {
            Ok(parts) => parts,
            Err(error) => return self.damaged(Kind::Versions, key, &error),
        };
        let version = decode_version(key, value, &id, generation);
        if let Err(error) = &version {
            self.damaged(Kind::Versions, key, error);
        }
        if down {
            return;
        }
        let head_key = heads::key(number, &id);
        if self.record.as_ref().is_some_and(|record| record.head_key != head_key) {
            self.close_record(heads, Some(&head_key));
        }
        let mut chain = None;
        if let Ok(version) = version {
            let catalog: &Catalog = &self.view.state.catalog;
            let collection = catalog.collections.values().find(|collection| collection.number == number);
            // The chain before this version, as far as it is known.
            let before = match &self.record {
                Some(record) if record.generation + 1 == generation => record.chain,
                None if generation == 1 => Some([0; 32]),
                _ => None,
            };
            let link = collection.zip(before).map(|(collection, before)| {
                let link = Link {
                    incarnation: &collection.incarnation,
                    id: &id,
                    generation,
                    revision: version.revision,
                    recorded_at_us: version.recorded_at_us,
                    op: version.op,
                    content_type: &version.content_type,
                    provenance: version.provenance.as_ref(),
                    digest: &version.digest,
                };
                link.after(&before)
            });
            let orphan = collection.is_none();
            let missing = self.record.as_ref().is_some_and(|record| record.generation + 1 != generation);
            if orphan {
                self.damaged(Kind::Versions, key, &"there is no such collection");
            } else if missing {
                self.damaged(Kind::Versions, key, &"the version before it is missing");
            } else if link.is_some_and(|link| link != version.chain) {
                self.damaged(Kind::Versions, key, &"its chain does not follow from the version before it");
            }
            chain = Some(version.chain);
        }
        self.record = Some(Record { head_key, generation, chain });
    }

    /// All versions of a record have been read, and of all before `next`: compares them with the heads.
    fn close_record(&mut self, heads: &mut Peekable<Rows<'_>>, next: Option<&[u8]>) {
        let mut record = self.record.take().filter(|_| self.compares_heads);
        while self.compares_heads {
            let is_next = |row: &Result<Row, _>| match row {
                Ok((key, _)) => next.is_none_or(|next| &key[..] < next),
                Err(_) => true,
            };
            let (key, value) = match heads.next_if(is_next) {
                None => break,
                Some(Ok(row)) => row,
                // Found when the heads themselves were read.
                Some(Err(_)) => {
                    self.compares_heads = false;
                    return;
                }
            };
            self.head_after = Some(key.clone());
            match record.take_if(|record| record.head_key == key) {
                None => self.damaged(Kind::Heads, &key, &"the record has no version"),
                Some(record) => {
                    let Ok(head) = heads::decode(&key, value) else { continue };
                    let same = record.chain.is_none_or(|chain| head.chain == chain[..]);
                    if head.generation != record.generation || !same {
                        let why = format!(
                            "it names generation {} as newest, its newest version is g{} {}",
                            head.generation,
                            record.generation,
                            if same { "" } else { "with another chain" }
                        );
                        self.damaged(Kind::Heads, &key, &why.trim_end());
                    }
                }
            }
        }
        if let Some(record) = record {
            self.damaged(Kind::Heads, &record.head_key, &"the record has versions and no head");
        }
    }
}

/// All keys behind one, or all.
fn behind(key: Option<&Bytes>) -> KeyRange {
    KeyRange { start: key.map_or_else(Vec::new, |key| [key, &[0][..]].concat()), end: None }
}

//! A look at every record of a log and at all its damage. Changes nothing, needs no writer, and goes on after damage:
//! segment id and offset are under each record's CRC, so the next bytes that are a record there are one.
//!
//! What is rot and what a torn tail is decided exactly as a start does (`open`).

use std::ops::Range;
use std::sync::Arc;

use super::format::{HEAD_BYTES, Head, HeadError, RECORD_BYTES, Record, record_bytes};
use super::raw::Raw;
use super::segment::{newest_run, segment_name};
use super::{LogError, LogState};
use crate::disk::{Disk, DiskFile};
use crate::types::EpochId;

/// A place where the log is not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Segment id.
    pub segment: u64,
    /// First damaged byte of the segment file.
    pub from_offset: u64,
    /// Where the next good record stands, or the segment ends. Equal to `from_offset`: a record is good in itself, but
    /// cannot follow the one before it.
    pub to_offset: u64,
    /// The first log index that cannot be trusted.
    pub first_index: u64,
    /// What kind of damage.
    pub what: DamageKind,
    /// The disk does not give some of these bytes: a bad sector (EIO).
    pub unreadable: bool,
}

/// Kinds of [`Damage`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// Records that were synced, or may have been: nobody can tell what stood where the disk gives nothing.
    Rot,
    /// The head of a segment, and with it the place where the segment before it ends.
    Head,
    /// What was being written when the power went: never acknowledged, and cut off by the next start. Good records may
    /// stand behind it; they count for nothing. A tail without such a record is not reported: it looks like unused space.
    TornTail,
    /// Bytes behind the end of the log, which the next start leaves behind: a warning that the disk fails.
    Unused,
    /// Segment files up to this one, which hold entries that are not purged.
    Missing,
    /// The file belongs to another place or Raft group. Its records are passed over.
    Foreign {
        /// Segment id in the head.
        found_segment: u64,
        /// Group id in the head.
        found_group: u64,
    },
    /// The segment was written by a release that knows more. Its records are passed over.
    UnknownVersion {
        /// Format version.
        version: u32,
        /// The release that wrote it.
        release: String,
    },
}

/// What an examination comes upon, in the order of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item<'a> {
    /// A segment begins, with a good head.
    Head {
        /// Segment id.
        segment: u64,
        /// Raft group.
        group_id: u64,
        /// Length of the file.
        file_bytes: u64,
        /// The log as it was when the segment began.
        state: LogState,
        /// The epoch in which it was written.
        epoch: EpochId,
        /// The release that wrote it.
        release: String,
    },
    /// A good record.
    Record {
        /// Segment id.
        segment: u64,
        /// Where it stands in the segment file.
        offset: u64,
        /// Offset below which everything was synced before it was written.
        synced: u64,
        /// What it says.
        record: Record<&'a [u8]>,
    },
    /// Damage.
    Damage(Damage),
}

/// What was found in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Examination {
    /// Segments that count: the newest unbroken run of ids.
    pub segments: u64,
    /// Good records.
    pub records: u64,
    /// Good records that are entries.
    pub entries: u64,
    /// Places of damage, a torn tail and unused bytes not among them.
    pub damaged: u64,
    /// The log ends with a torn tail, followed by good records.
    pub torn: bool,
    /// Where the log stands. After damage: as the records after it say, which may be too little.
    pub state: LogState,
    /// The newest segment that counts; 0: there is none.
    pub newest: u64,
    /// Files of the log folder that do not count: spares, unfinished copies, older segments, damaged ones set aside.
    pub others: Vec<String>,
}

/// Examines the log in a folder and shows `visit` each record and each place of damage. With `group_id` segments of
/// other groups are named as foreign, else those whose group is not the first good segment's. Memory: one segment.
pub fn examine<D: Disk + ?Sized>(
    disk: &D,
    group_id: Option<u64>,
    visit: impl FnMut(Item<'_>),
) -> Result<Examination, LogError> {
    let mut names = disk.list().map_err(LogError::io("list", "the log folder"))?;
    names.sort();
    let (run, others) = newest_run(names);
    let newest = run.back().map_or(0, |(id, _)| *id);
    let found = Examination { segments: run.len() as u64, newest, others, ..Examination::default() };
    let mut look = Look { found, follows: false, visit };
    let heads = run.iter().map(|(id, name)| read_head(disk, *id, name)).collect::<Result<Vec<_>, _>>()?;
    let good = heads.iter().find_map(|(head, _)| head.as_ref().ok());
    let group_id = group_id.or_else(|| good.map(|head| head.group_id));
    for (position, (id, name)) in run.iter().enumerate() {
        let end = match heads.get(position + 1).map(|(head, _)| head) {
            None => End::Newest,
            Some(Ok(next)) if next.segment == id + 1 => End::At(next.previous_end),
            Some(_) => End::Lost,
        };
        let file = open_segment(disk, name)?;
        if look.head(&*file, *id, group_id, &heads[position])? {
            look.records(*id, Raw::read(&*file, *id)?, end);
        }
    }
    // As at a start: entries before the first segment must have been purged.
    if let Some((Ok(first), _)) = heads.first() {
        let purged = look.found.state.last_purged.map(|id| id.index);
        if first.state.last.map(|id| id.index) > purged {
            let (segment, what) = (first.segment.saturating_sub(1), DamageKind::Missing);
            let first_index = purged.map_or(0, |index| index.saturating_add(1));
            look.damage(Damage { segment, from_offset: 0, to_offset: 0, first_index, what, unreadable: false });
        }
    }
    Ok(look.found)
}

/// Where the records of a segment end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// Where the next head says.
    At(u32),
    /// All of them were synced, but the next head, which says how many, is damaged.
    Lost,
    /// It is the newest segment.
    Newest,
}

struct Look<V> {
    found: Examination,
    /// The next entry must follow the last one: nothing was damaged since that one.
    follows: bool,
    visit: V,
}

impl<V: FnMut(Item<'_>)> Look<V> {
    /// Shows a segment's head, good or not; answers whether its records can be read.
    fn head(
        &mut self,
        file: &dyn DiskFile,
        segment: u64,
        group: Option<u64>,
        (head, unreadable): &FoundHead,
    ) -> Result<bool, LogError> {
        let what = match head {
            Ok(head) if head.segment == segment && group.is_none_or(|group| group == head.group_id) => {
                let file_bytes = file.len().map_err(LogError::io("measure log segment", &segment_name(segment)))?;
                self.found.state = head.state;
                self.follows = true;
                let Head { group_id, state, epoch, .. } = *head;
                let release = head.release.clone();
                (self.visit)(Item::Head { segment, group_id, file_bytes, state, epoch, release });
                return Ok(true);
            }
            Ok(head) => DamageKind::Foreign { found_segment: head.segment, found_group: head.group_id },
            Err(HeadError::Damaged) => DamageKind::Head,
            Err(HeadError::UnknownVersion { version, release }) => {
                DamageKind::UnknownVersion { version: *version, release: release.clone() }
            }
        };
        let readable = what == DamageKind::Head;
        let (from_offset, to_offset, first_index) = (0, HEAD_BYTES.into(), self.next_index());
        self.damage(Damage { segment, from_offset, to_offset, first_index, what, unreadable: *unreadable });
        Ok(readable)
    }

    fn records(&mut self, segment: u64, mut raw: Raw, end: End) {
        if let End::At(end) = end {
            raw.truncate(end as usize);
        }
        // A record proves what was synced before it; what it says of places behind itself is no proof.
        let proven = match end {
            End::Newest => Scan::new(segment, &raw).map(|step| step.proves()).max().unwrap_or(0),
            End::At(_) | End::Lost => usize::MAX,
        };
        let mut at = HEAD_BYTES as usize;
        for step in Scan::new(segment, &raw) {
            match step {
                Step::Record { offset, synced, record } => self.record(segment, offset, synced, record),
                // Unused space, or a tail that was torn within one record, unless a bad sector hides what it is.
                Step::Gap { from, to } if to >= raw.len() && !matches!(end, End::At(_)) => {
                    let what = if raw.may_hide_record(from) { DamageKind::Rot } else { DamageKind::Unused };
                    if let Some(bad) = raw.unreadable_in(from..to) {
                        let from = if what == DamageKind::Rot { from } else { bad.start };
                        self.gap(segment, &raw, from..bad.end, what);
                    }
                    return;
                }
                Step::Gap { from, to } => {
                    let rotten = from < proven || raw.may_hide_record(from);
                    self.gap(segment, &raw, from..to, if rotten { DamageKind::Rot } else { DamageKind::TornTail });
                    if !rotten {
                        return;
                    }
                }
            }
            at = step.end();
        }
        // A file that is too short, or a next head that names no end of records.
        if let End::At(end) = end
            && at != end as usize
        {
            self.gap(segment, &raw, at..at.max(end as usize), DamageKind::Rot);
        }
    }

    fn gap(&mut self, segment: u64, raw: &Raw, gap: Range<usize>, what: DamageKind) {
        let (from_offset, to_offset, first_index) = (gap.start as u64, gap.end as u64, self.next_index());
        let unreadable = raw.unreadable_in(gap).is_some();
        self.damage(Damage { segment, from_offset, to_offset, first_index, what, unreadable });
    }

    fn record(&mut self, segment: u64, offset: usize, synced: u32, record: Record<&[u8]>) {
        if let Record::Entry(id, _) = record {
            let expected = self.found.state.last.filter(|_| self.follows).map(|last| last.index.saturating_add(1));
            if expected.is_some_and(|expected| expected != id.index) || id.index == u64::MAX {
                let (from_offset, to_offset, first_index) = (offset as u64, offset as u64, self.next_index());
                let what = DamageKind::Rot;
                self.damage(Damage { segment, from_offset, to_offset, first_index, what, unreadable: false });
            }
            self.follows = true;
            self.found.entries += 1;
        }
        self.found.state.follow(&record);
        self.found.records += 1;
        (self.visit)(Item::Record { segment, offset: offset as u64, synced: synced.into(), record });
    }

    fn damage(&mut self, damage: Damage) {
        match damage.what {
            DamageKind::TornTail => self.found.torn = true,
            DamageKind::Unused => {}
            _ => {
                self.found.damaged += 1;
                self.follows = false;
            }
        }
        (self.visit)(Item::Damage(damage));
    }

    fn next_index(&self) -> u64 {
        self.found.state.last.map_or(0, |last| last.index.saturating_add(1))
    }
}

/// Goes over the records of a segment, and over what lies between them.
struct Scan<'a> {
    segment: u64,
    raw: &'a Raw,
    at: usize,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Record { offset: usize, synced: u32, record: Record<&'a [u8]> },
    Gap { from: usize, to: usize },
}

impl Step<'_> {
    /// Offset below which this step proves that everything was synced.
    fn proves(&self) -> usize {
        match *self {
            Step::Record { offset, synced, .. } => offset.min(synced as usize),
            Step::Gap { .. } => 0,
        }
    }

    fn end(&self) -> usize {
        match *self {
            Step::Record { offset, record: Record::Entry(_, payload), .. } => {
                offset + record_bytes(payload.len() as u32) as usize
            }
            Step::Record { offset, .. } => offset + RECORD_BYTES as usize,
            Step::Gap { to, .. } => to,
        }
    }
}

impl<'a> Scan<'a> {
    fn new(segment: u64, raw: &'a Raw) -> Scan<'a> {
        Scan { segment, raw, at: HEAD_BYTES as usize }
    }

    fn record_at(&self, at: usize) -> Option<Step<'a>> {
        let decoded = self.raw.record_at(self.segment, at)?;
        let payload: &'a [u8] = &self.raw.bytes()[at + RECORD_BYTES as usize..];
        let record = decoded.record.with_payload(|len| &payload[..len as usize]);
        Some(Step::Record { offset: at, synced: decoded.synced, record })
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        if self.at >= self.raw.len() {
            return None;
        }
        let step = self.record_at(self.at).unwrap_or_else(|| {
            let mut later = (self.at..self.raw.len()).step_by(8).skip(1);
            let to = later.find(|at| self.record_at(*at).is_some()).unwrap_or(self.raw.len());
            Step::Gap { from: self.at, to }
        });
        self.at = step.end();
        Some(step)
    }
}

fn open_segment<D: Disk + ?Sized>(disk: &D, name: &str) -> Result<Arc<dyn DiskFile>, LogError> {
    disk.open(name, false).map_err(LogError::io("open log segment", name))
}

/// A segment's head, and whether it stands on a bad sector.
type FoundHead = (Result<Head, HeadError>, bool);

fn read_head<D: Disk + ?Sized>(disk: &D, segment: u64, name: &str) -> Result<FoundHead, LogError> {
    let page = Raw::read_head(&*open_segment(disk, name)?, segment)?;
    Ok((Head::decode(page.bytes()), page.unreadable_in(0..page.len()).is_some()))
}

//! The files of the log, and the order in which they come and go.
//!
//! A segment gets its name only when its head is synced, and the folder is synced before its first record: a
//! segment that can be found is whole, so a head that cannot be read is damage and never a crash.
//!
//! | name | what it is |
//! |---|---|
//! | `<id>.seg` | a segment |
//! | `<id>.spare` | a segment whose entries are all purged, kept to be overwritten: blocks that were written once sync faster; or one being made |
//! | `<id>.copy` | the newest segment, being copied at a start; worthless if found |
//! | `<id>.new` | a segment of a log that a repair writes anew; worthless, unless its id goes on from a segment's or leads up to one: then its renaming was cut short |
//! | `<id>.rot` | a damaged segment that a repair has replaced, kept for inquiry; never read, at most two |
//! | `reserve` | room for one more segment or copy, taken when the disk gives none; all zeros |
//!
//! When the disk is full, a new file is shorter, and at last the reserve under another name: so nobody else can
//! take its blocks in between. It is made again by the writer once twice its size is free, which leaves as much to
//! others on that disk; a start does not make it, so that what its copy has freed is there for them.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::LogError;
use super::format::{HEAD_BYTES, Head, HeadError};
use super::raw::Raw;
use crate::disk::{Disk, DiskFile};
use crate::failpoint::{Failpoint, reach};
use crate::planted::{self, Bug};
use crate::types::LogId;

/// Purged segments kept for reuse; one is taken each time a segment is full.
const MAX_SPARES: usize = 2;
/// On a full disk a segment has this part of its usual length for records to come.
const SHORT_PART: u64 = 64;

/// Damaged segments kept for inquiry.
const MAX_ROTTEN: usize = 2;

const RESERVE: &str = "reserve";

/// A file that has not become a segment yet, under its present name.
type Named = (String, Arc<dyn DiskFile>);

/// A live segment.
pub(super) struct Segment {
    pub id: u64,
    pub file: Arc<dyn DiskFile>,
    /// The highest index of its entries.
    last_entry: Option<u64>,
}

/// All files of one log.
pub(super) struct Files<D> {
    disk: Arc<D>,
    segment_bytes: u64,
    /// Oldest first; the last one is being written.
    live: VecDeque<Segment>,
    spares: Vec<u64>,
    reserve_bytes: u64,
    /// The reserve is there, or none is wanted.
    reserved: bool,
    /// Found at the start and of no use: see [`Files::discard_strays`].
    strays: Vec<String>,
    /// Copies and new segments that do not count: see [`Files::discard_unfinished`].
    unfinished: Vec<String>,
}

pub(super) fn segment_name(id: u64) -> String {
    format!("{id:016x}.seg")
}

fn spare_name(id: u64) -> String {
    format!("{id:016x}.spare")
}

fn rot_name(id: u64) -> String {
    format!("{id:016x}.rot")
}

fn copy_name(id: u64) -> String {
    format!("{id:016x}.copy")
}

fn new_name(id: u64) -> String {
    format!("{id:016x}.new")
}

/// The newest unbroken run of segments, oldest first, with their files; and all other names. The segments of a repaired log
/// belong to the run under either name, once one of them has its own.
pub(super) fn newest_run(names: Vec<String>) -> (VecDeque<(u64, String)>, Vec<String>) {
    let mut named: BTreeMap<u64, String> = BTreeMap::new();
    let mut run = VecDeque::new();
    for (id, kind) in names.iter().filter_map(|name| parse_name(name)) {
        match kind {
            "seg" => drop(named.insert(id, segment_name(id))),
            "new" => drop(named.entry(id).or_insert_with(|| new_name(id))),
            _ => {}
        }
    }
    if let Some(newest) = named.iter().rev().find(|(id, name)| **name == segment_name(**id)).map(|(id, _)| *id) {
        let mut up = newest;
        while let Some(found) = named.remove_entry(&up) {
            run.push_back(found);
            up = up.wrapping_add(1);
        }
        let mut down = newest.wrapping_sub(1);
        while let Some(found) = named.remove_entry(&down) {
            run.push_front(found);
            down = down.wrapping_sub(1);
        }
    }
    let others = names.into_iter().filter(|name| !run.iter().any(|(_, live)| live == name)).collect();
    (run, others)
}

pub(super) fn parse_name(name: &str) -> Option<(u64, &str)> {
    let (id, kind) = name.split_once('.')?;
    Some((u64::from_str_radix(id, 16).ok().filter(|_| id.len() == 16)?, kind))
}

impl<D: Disk> Files<D> {
    /// Takes stock of the folder and opens the newest unbroken run of segments. Changes nothing, but goes on with a
    /// [`Files::switch`] that was cut short.
    pub fn find(disk: Arc<D>, segment_bytes: u64, reserve_bytes: u64) -> Result<Files<D>, LogError> {
        let mut names = disk.list().map_err(LogError::io("list", "the log folder"))?;
        names.sort();
        let (run, others) = newest_run(names);
        let (live, spares, strays, unfinished) = Default::default();
        let reserved = reserve_bytes == 0;
        let mut files = Files { disk, segment_bytes, live, spares, reserve_bytes, reserved, strays, unfinished };
        let renaming = run.iter().filter(|(id, name)| *name != segment_name(*id)).map(|(id, _)| *id);
        files.rename_new(renaming.collect())?;
        for (id, _) in run {
            let name = segment_name(id);
            let file = files.disk.open(&name, false).map_err(LogError::io("open log segment", &name))?;
            files.live.push_back(Segment { id, file, last_entry: None });
        }
        for name in others.into_iter().rev() {
            if name == RESERVE {
                // One that was cut short, or is of other settings, is made anew.
                files.reserved |= files.file_len(RESERVE)? >= reserve_bytes;
                continue;
            }
            match parse_name(&name) {
                Some((id, "spare")) if files.spares.len() < MAX_SPARES => files.spares.push(id),
                Some((_, "seg" | "spare")) => files.strays.push(name),
                Some((_, "copy" | "new")) => files.unfinished.push(name),
                _ => {}
            }
        }
        Ok(files)
    }

    /// Removes unfinished copies and segments before the unbroken run. Only once it is known that nothing is
    /// missing, for then those are purged ones whose removal was cut short.
    pub fn discard_strays(&mut self) -> Result<(), LogError> {
        self.discard_unfinished()?;
        std::mem::take(&mut self.strays).iter().try_for_each(|name| self.remove(name))
    }

    /// Removes what a start or a repair did not finish, for good.
    pub fn discard_unfinished(&mut self) -> Result<(), LogError> {
        if self.unfinished.is_empty() {
            return Ok(());
        }
        std::mem::take(&mut self.unfinished).iter().try_for_each(|name| self.remove(name))?;
        self.disk.sync_dir().map_err(LogError::io("sync folder of", "the log"))
    }

    pub fn live(&self) -> &VecDeque<Segment> {
        &self.live
    }

    /// Reads a segment's head and checks that it belongs here. `next_index` names the place in an error.
    pub fn head(&self, segment: &Segment, group: u64, next_index: u64) -> Result<Head, LogError> {
        let page = Raw::read_head(&*segment.file, segment.id)?;
        let unreadable = page.unreadable_in(0..page.len()).is_some();
        let head = Head::decode(page.bytes()).map_err(|e| match e {
            HeadError::Damaged => LogError::Rot { segment: segment.id, offset: 0, index: next_index, unreadable },
            HeadError::UnknownVersion { version, release } => {
                LogError::UnknownVersion { segment: segment.id, version, release }
            }
        })?;
        if (head.segment, head.group_id) != (segment.id, group) {
            let (found_segment, found_group) = (head.segment, head.group_id);
            return Err(LogError::Foreign { segment: segment.id, group, found_segment, found_group });
        }
        Ok(head)
    }

    /// Makes the next segment, ready for its first record, and returns its file and length. All segments
    /// before it must be synced.
    pub fn create(&mut self, head: &Head, room: u32) -> Result<(Arc<dyn DiskFile>, u32), LogError> {
        let id = head.segment;
        let len = self.segment_bytes.max(u64::from(HEAD_BYTES) + u64::from(room));
        let (spare, file) = match self.take_spare(len)? {
            Some(found) => found,
            None => {
                let name = spare_name(id);
                let file = self.new_file(&name, len, u64::from(HEAD_BYTES) + u64::from(room))?;
                (name, file)
            }
        };
        self.install(id, &spare, &file, &head.encode())?;
        self.live.push_back(Segment { id, file: file.clone(), last_entry: None });
        let len = length(&*file, id)?;
        Ok((file, len))
    }

    /// Puts a new file with this content in the place of the newest segment and returns it with its length.
    /// Nothing that the old file had only in the page cache is relied upon afterwards.
    pub fn replace_newest(&mut self, id: u64, content: &[u8]) -> Result<(Arc<dyn DiskFile>, u32), LogError> {
        let name = copy_name(id);
        let needed = content.len() as u64;
        let file = self.new_file(&name, self.segment_bytes.max(needed), needed)?;
        self.install(id, &name, &file, content)?;
        let len = length(&*file, id)?;
        if let Some(newest) = self.live.back_mut() {
            newest.file = file.clone();
        }
        Ok((file, len))
    }

    /// A file of so many bytes for a segment of a repaired log, which counts for nothing before [`Files::switch`].
    pub fn create_new(&mut self, id: u64, len: u64) -> Result<Arc<dyn DiskFile>, LogError> {
        let name = new_name(id);
        let file = self.new_file(&name, len, len)?;
        self.unfinished.push(name);
        Ok(file)
    }

    /// Puts new segments, whose content is synced, in the place of all others; their ids leave a gap after those. As soon
    /// as one of them has its name, all of them count, for all are on stable storage by then.
    pub fn switch(&mut self, ids: RangeInclusive<u64>) -> Result<(), LogError> {
        self.unfinished.clear();
        reach(Failpoint::RepairBeforeSwitch);
        self.disk.sync_dir().map_err(LogError::io("sync folder of", "the new log segments"))?;
        self.rename_new(ids.collect())
    }

    /// Gives new segments their names, for good.
    fn rename_new(&self, ids: Vec<u64>) -> Result<(), LogError> {
        if ids.is_empty() {
            return Ok(());
        }
        for id in ids {
            let name = new_name(id);
            self.disk.rename(&name, &segment_name(id)).map_err(LogError::io("rename log segment", &name))?;
            reach(Failpoint::RepairInSwitch);
        }
        self.disk.sync_dir().map_err(LogError::io("sync folder of", "the new log segments"))
    }

    /// Keeps damaged segments that do not count any more under a name of their own, while the disk has ample room.
    pub fn set_aside(&mut self, damaged: &[u64]) -> Result<(), LogError> {
        let names = self.disk.list().map_err(LogError::io("list", "the log folder"))?;
        let free = self.disk.free_bytes().map_err(LogError::io("ask for free space of", "the log folder"))?;
        let mut kept: Vec<u64> =
            names.iter().filter_map(|name| parse_name(name)).filter(|n| n.1 == "rot").map(|n| n.0).collect();
        kept.sort_unstable();
        for id in damaged {
            let name = segment_name(*id);
            if free >= 2 * self.reserve_bytes && names.contains(&name) && !kept.contains(id) {
                self.disk.rename(&name, &rot_name(*id)).map_err(LogError::io("set aside log segment", &name))?;
                kept.push(*id);
            }
        }
        let too_many = if free >= 2 * self.reserve_bytes { kept.len().saturating_sub(MAX_ROTTEN) } else { kept.len() };
        kept[..too_many].iter().try_for_each(|id| self.remove(&rot_name(*id)))?;
        self.disk.sync_dir().map_err(LogError::io("sync folder of", "the log"))
    }

    /// Content first, then the name: see the top of this file.
    fn install(&self, id: u64, from: &str, file: &Arc<dyn DiskFile>, content: &[u8]) -> Result<(), LogError> {
        reach(Failpoint::SegmentBeforeHead);
        file.write_at(0, &[IoSlice::new(content)]).map_err(LogError::io("write log segment", from))?;
        file.sync_data().map_err(LogError::io("sync log segment", from))?;
        reach(Failpoint::SegmentBeforeRename);
        self.disk.rename(from, &segment_name(id)).map_err(LogError::io("rename log segment", from))?;
        reach(Failpoint::SegmentBeforeFolderSync);
        match planted::is(Bug::FolderNotSynced) {
            true => Ok(()),
            false => self.disk.sync_dir().map_err(LogError::io("sync folder of log segment", &segment_name(id))),
        }
    }

    /// A new file of `wanted` bytes. If the disk has no room for that: one that takes `needed` bytes and a little more,
    /// then the place of a spare, then the reserve.
    fn new_file(&mut self, name: &str, wanted: u64, needed: u64) -> Result<Arc<dyn DiskFile>, LogError> {
        let short = wanted.min(needed + self.segment_bytes / SHORT_PART);
        loop {
            for len in [wanted, short] {
                if let Some(file) = self.allocated(name, len)? {
                    return Ok(file);
                }
            }
            match self.spares.pop() {
                Some(id) => self.remove(&spare_name(id))?,
                None => break,
            }
        }
        let full = LogError::Full { file: name.to_owned(), bytes: needed };
        if self.reserve_bytes == 0 || !std::mem::take(&mut self.reserved) {
            return Err(full);
        }
        self.disk.rename(RESERVE, name).map_err(LogError::io("take log reserve as", name))?;
        self.allocated(name, needed)?.ok_or(full)
    }

    /// Opens a file and gives it at least so many bytes; `None`, and no file, if there is no room.
    fn allocated(&self, name: &str, len: u64) -> Result<Option<Arc<dyn DiskFile>>, LogError> {
        let file = self.disk.open(name, true).map_err(LogError::io("create log segment", name))?;
        match file.allocate(len) {
            Ok(()) => Ok(Some(file)),
            Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                // What it did get would be missing elsewhere.
                self.remove(name)?;
                Ok(None)
            }
            Err(error) => Err(LogError::io("allocate log segment", name)(error)),
        }
    }

    /// Makes the reserve if it is not there and the disk has ample room.
    pub fn make_reserve(&mut self) -> Result<(), LogError> {
        if self.reserved {
            return Ok(());
        }
        let free = self.disk.free_bytes().map_err(LogError::io("ask for free space of", "the log folder"))?;
        if free < 2 * self.reserve_bytes {
            return Ok(());
        }
        if let Some(file) = self.allocated(RESERVE, self.reserve_bytes)? {
            file.sync_data().map_err(LogError::io("sync log reserve", RESERVE))?;
            self.disk.sync_dir().map_err(LogError::io("sync folder of log reserve", RESERVE))?;
            self.reserved = true;
        }
        Ok(())
    }

    fn file_len(&self, name: &str) -> Result<u64, LogError> {
        let file = self.disk.open(name, false).map_err(LogError::io("open", name))?;
        file.len().map_err(LogError::io("measure", name))
    }

    fn take_spare(&mut self, len: u64) -> Result<Option<Named>, LogError> {
        while let Some(id) = self.spares.pop() {
            let name = spare_name(id);
            let file = self.disk.open(&name, false).map_err(LogError::io("open spare log segment", &name))?;
            if file.len().map_err(LogError::io("measure spare log segment", &name))? >= len {
                return Ok(Some((name, file)));
            }
            self.remove(&name)?;
        }
        Ok(None)
    }

    /// An entry was put into this segment: until it is purged, so the segment stays, even if the entry has
    /// been truncated meanwhile.
    pub fn note_entry(&mut self, segment: u64, index: u64) {
        if let Some(segment) = self.live.iter_mut().rev().find(|s| s.id == segment) {
            segment.last_entry = segment.last_entry.max(Some(index));
        }
    }

    /// Gives up the oldest segments whose entries are all purged, by a record that is synced. Returns their ids.
    pub fn release(&mut self, purged: Option<LogId>) -> Result<Vec<u64>, LogError> {
        let purged = purged.map(|id| id.index);
        let mut released = Vec::new();
        while self.live.len() > 1 && self.live.front().is_some_and(|oldest| oldest.last_entry <= purged) {
            let Some(Segment { id, .. }) = self.live.pop_front() else { break };
            let name = segment_name(id);
            if self.spares.len() < MAX_SPARES {
                self.disk.rename(&name, &spare_name(id)).map_err(LogError::io("set aside log segment", &name))?;
                self.spares.push(id);
            } else {
                self.remove(&name)?;
            }
            released.push(id);
        }
        if !released.is_empty() {
            reach(Failpoint::SegmentsReleased);
            // A spare must not come back under its old name once it is overwritten.
            self.disk.sync_dir().map_err(LogError::io("sync folder of", "the log"))?;
        }
        Ok(released)
    }

    fn remove(&self, name: &str) -> Result<(), LogError> {
        self.disk.remove(name).map_err(LogError::io("remove log segment", name))
    }
}

fn length(file: &dyn DiskFile, id: u64) -> Result<u32, LogError> {
    let len = file.len().map_err(LogError::io("measure log segment", &segment_name(id)))?;
    Ok(u32::try_from(len).unwrap_or(u32::MAX))
}

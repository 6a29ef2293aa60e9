//! Reads the log of a stopped node record by record and changes nothing: what is damaged is named, and the walk goes on.
//!
//! It judges as [`super::open`] does: in all segments but the newest the records end where the next head says; in the
//! newest, what follows the last record is a torn tail, unless a later record says that this place was synced.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;

use super::format::{HEAD_BYTES, Head, HeadError, RECORD_BYTES, Record, decode_record};
use super::open::synced_beyond;
use super::segment::{parse_name, segment_name};
use super::{LogEntry, LogError, LogState};
use crate::types::{LogId, Vote};

/// Longest segment file that is read; the writer makes none that is longer.
const MOST_BYTES: u64 = u32::MAX as u64;

/// A record of the log, as it stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogRecord {
    /// An entry.
    Entry(LogEntry),
    /// The vote from here on.
    Vote(Vote),
    /// All entries after this one are gone.
    TruncateAfter(Option<LogId>),
    /// All entries up to this one are gone.
    Purge(LogId),
    /// What is known to be committed.
    Committed(Option<LogId>),
    /// All before this place is synced.
    SyncMark,
}

/// What a walk meets, in the order of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Met {
    /// The head of a segment.
    Segment {
        /// Segment id.
        segment: u64,
        /// Length of its file.
        bytes: u64,
        /// The log before its first record.
        state: LogState,
    },
    /// A whole record.
    Record {
        /// Segment id.
        segment: u64,
        /// Byte in the segment file.
        offset: u64,
        /// What it says.
        record: LogRecord,
    },
    /// The newest segment ends with what was being written when the power went; a start cuts it off.
    TornTail {
        /// Segment id.
        segment: u64,
        /// Byte in the segment file.
        offset: u64,
    },
    /// Something that was synced is damaged or missing.
    Damage {
        /// Segment id.
        segment: u64,
        /// Byte in the segment file.
        offset: u64,
        /// The first log index that cannot be trusted there.
        index: u64,
        /// What is wrong.
        what: String,
    },
}

/// Walks the newest unbroken run of segments, as a start would, and returns where the log stands after it.
///
/// # Errors
/// The folder or a file cannot be read, or a segment is of a newer release. Damage is no error: `see` hears of it.
pub fn walk(folder: &Path, see: &mut dyn FnMut(Met)) -> Result<LogState, LogError> {
    let run = newest_run(folder).map_err(LogError::io("list", "the log folder"))?;
    let mut walk = Walk { see, state: LogState::default() };
    let mut began: Option<LogState> = None;
    let mut segment = run.first().copied().map(|id| read_segment(folder, id)).transpose()?;
    for (place, id) in run.iter().enumerate() {
        let next = run.get(place + 1).map(|id| read_segment(folder, *id)).transpose()?;
        let Some(content) = segment.take() else { break };
        if let Some(head) = walk.head(*id, &content)? {
            began.get_or_insert(head.state);
            let known_end = next.as_deref().and_then(|next| Head::decode(next).ok()).map(|next| next.previous_end);
            walk.records(*id, &content, known_end, next.is_none());
        }
        segment = next;
    }
    if let (Some(began), Some(first)) = (began, run.first()) {
        let (had, purged) = (began.last.map(|id| id.index), walk.state.last_purged.map(|id| id.index));
        if had > purged {
            let index = purged.map_or(0, |index| index + 1);
            let what = "the segments before it are missing".to_owned();
            (walk.see)(Met::Damage { segment: *first, offset: 0, index, what });
        }
    }
    Ok(walk.state)
}

/// Ids of the segments that follow one another up to the newest; older ones were purged.
fn newest_run(folder: &Path) -> io::Result<Vec<u64>> {
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        ids.extend(name.to_str().and_then(parse_name).filter(|(_, kind)| *kind == "seg").map(|(id, _)| id));
    }
    ids.sort_unstable();
    let broken = ids.windows(2).rposition(|pair| pair[0].checked_add(1) != Some(pair[1]));
    ids.drain(..broken.map_or(0, |place| place + 1));
    Ok(ids)
}

fn read_segment(folder: &Path, id: u64) -> Result<Vec<u8>, LogError> {
    let name = segment_name(id);
    let read = || {
        let mut content = Vec::new();
        File::open(folder.join(&name))?.take(MOST_BYTES).read_to_end(&mut content).map(|_| content)
    };
    read().map_err(LogError::io("read log segment", &name))
}

struct Walk<'a> {
    see: &'a mut dyn FnMut(Met),
    state: LogState,
}

impl Walk<'_> {
    fn damage(&mut self, segment: u64, offset: u64, what: String) {
        let index = self.state.last.map_or(0, |last| last.index.saturating_add(1));
        (self.see)(Met::Damage { segment, offset, index, what });
    }

    fn head(&mut self, segment: u64, content: &[u8]) -> Result<Option<Head>, LogError> {
        match Head::decode(content) {
            Ok(head) if head.segment == segment => {
                self.state = head.state;
                (self.see)(Met::Segment { segment, bytes: content.len() as u64, state: head.state });
                Ok(Some(head))
            }
            Ok(head) => {
                self.damage(segment, 0, format!("its head says that it is segment {:016x}", head.segment));
                Ok(None)
            }
            Err(HeadError::UnknownVersion(version)) => Err(LogError::UnknownVersion { segment, version }),
            Err(HeadError::Damaged) => {
                self.damage(segment, 0, "its head is damaged, so its records are not read".to_owned());
                Ok(None)
            }
        }
    }

    fn records(&mut self, segment: u64, content: &[u8], known_end: Option<u32>, newest: bool) {
        let end = known_end.map_or(content.len(), |end| content.len().min(end as usize));
        let content = &content[..end];
        let mut at = HEAD_BYTES as usize;
        while let Some(decoded) = content.get(at..).and_then(|bytes| decode_record(segment, at as u32, bytes)) {
            let next = at + decoded.bytes() as usize;
            if next > content.len() {
                break;
            }
            let payload = &content[at + RECORD_BYTES as usize..];
            let record = self.take(segment, at as u64, decoded.record, payload);
            (self.see)(Met::Record { segment, offset: at as u64, record });
            at = next;
        }
        let offset = at as u64;
        match known_end {
            Some(known) if at != known as usize => {
                let what = format!("no record stands here, and the next segment says that they end at {known}");
                self.damage(segment, offset, what);
            }
            Some(_) => {}
            None if !newest || synced_beyond(segment, content, at) => {
                self.damage(segment, offset, "no record stands here although it was synced".to_owned());
            }
            // Room that was never written, or was by a segment before it, looks the same as a torn record.
            None => (self.see)(Met::TornTail { segment, offset }),
        }
    }

    fn take(&mut self, segment: u64, offset: u64, record: Record<u32>, payload: &[u8]) -> LogRecord {
        match record {
            Record::Entry(log_id, bytes) => {
                let expected = self.state.last.map(|last| last.index.saturating_add(1));
                if expected.is_some_and(|expected| expected != log_id.index) {
                    self.damage(segment, offset, format!("entry {} does not follow the one before it", log_id.index));
                }
                self.state.last = Some(log_id);
                let payload = Bytes::copy_from_slice(payload.get(..bytes as usize).unwrap_or_default());
                LogRecord::Entry(LogEntry { log_id, payload })
            }
            Record::Vote(vote) => {
                self.state.vote = Some(vote);
                LogRecord::Vote(vote)
            }
            Record::TruncateAfter(last) => {
                self.state.last = last.or(self.state.last_purged);
                LogRecord::TruncateAfter(last)
            }
            Record::Purge(upto) => {
                self.state.last_purged = Some(upto);
                if self.state.last.is_none_or(|last| last.index < upto.index) {
                    self.state.last = Some(upto);
                }
                LogRecord::Purge(upto)
            }
            Record::Committed(committed) => {
                self.state.committed = committed;
                LogRecord::Committed(committed)
            }
            Record::Mark => LogRecord::SyncMark,
        }
    }
}

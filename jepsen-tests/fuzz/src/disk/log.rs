//! A folder of log segments, opened, read, written to and opened again.
//!
//! Each part is a segment: the 160 bytes of its head that are used, then its records. Mode bit 0: magic, version, ids
//! and checksums are put right, as `storage/src/log/format.rs` lays them out, so that the records are replayed.

use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use saola_storage::disk::Disk;
use saola_storage::disk::sim::SimDisk;
use saola_storage::log::{Log, LogEntry, LogOp, LogSettings, LogState, examine};
use saola_storage::types::{EpochId, LeaderId, LogId, Vote};

use crate::{Seed, input};

const CHECKSUMS: u8 = 1;
const HEAD_USED: usize = 160;
const HEAD_BYTES: usize = 4096;
const RECORD_BYTES: usize = 40;
const SETTINGS: LogSettings = LogSettings {
    group_id: 0,
    // A forged head may name any epoch.
    epoch: EpochId { number: 0, plan: 0 },
    segment_bytes: 8 << 10,
    tail_bytes: 64,
    reserve_bytes: 0,
};

/// A log of one segment that opens must say the same when it is opened again, and take one more entry.
///
/// # Panics
/// It does not.
pub fn run(bytes: &[u8]) {
    let (mode, bytes) = input::mode(bytes);
    let segments: Vec<_> = input::parts(bytes).into_iter().take(4).collect();
    let disk = folder_of(segments.iter().copied(), |id, content| {
        if mode & CHECKSUMS != 0 {
            put_right(id, content);
        }
    });
    let found = examine(&*disk, Some(SETTINGS.group_id), |_| {}).expect("nothing fails here");
    let opened = Log::open(disk.clone(), SETTINGS);
    assert_eq!(opened.is_ok(), found.damaged == 0, "an examination and a start agree on {found:?}");
    let Ok((log, writer)) = opened else { return };
    let (state, entries) = (log.state(), entries(&log));
    drop((log, writer));

    let again = Log::open(disk.clone(), SETTINGS);
    // Purged segments are gone now, and what the next head says counts: a forged one may say anything.
    if segments.len() > 1 {
        return;
    }
    let (log, mut writer) = again.expect("a log that opened opens again");
    assert_eq!((log.state(), self::entries(&log)), (state, entries), "a log says the same each time it is opened");
    let Some(next) = log.state().last.map_or(Some(1), |last| last.index.checked_add(1)) else { return };
    if next == u64::MAX {
        return;
    }
    let leader = log.state().last.unwrap_or_default().leader;
    let added = LogEntry { log_id: LogId { leader, index: next }, payload: Bytes::from_static(b"added") };
    log.submit(LogOp::Append(vec![added.clone()]), None);
    writer.step().expect("nothing fails here");
    drop((log, writer));

    let (log, _writer) = Log::open(disk, SETTINGS).expect("a log that was written to opens again");
    assert_eq!(log.state().last, Some(added.log_id));
    assert_eq!(log.entries(next..next + 1, 1 << 10).expect("nothing fails here"), [added]);
}

fn write(disk: &SimDisk, id: u64, content: &[u8]) {
    let file = disk.open(&format!("{id:016x}.seg"), true).expect("nothing fails here");
    file.write_at(0, &[IoSlice::new(content)]).expect("nothing fails here");
    file.sync_data().expect("nothing fails here");
}

fn entries(log: &Log) -> Vec<LogEntry> {
    log.entries(log.first_within(u64::MAX)..u64::MAX, 1 << 20).expect("what was just replayed is read")
}

fn put_right(id: u64, content: &mut [u8]) {
    let (head, _) = content.split_at_mut(HEAD_USED);
    head[..12].copy_from_slice(b"SAOLALOG\x01\0\0\0");
    head[16..24].copy_from_slice(&SETTINGS.group_id.to_le_bytes());
    head[24..32].copy_from_slice(&id.to_le_bytes());
    let crc = crc_of(&[&head[..12], &head[16..]]);
    head[12..16].copy_from_slice(&crc);

    let mut at = HEAD_BYTES;
    while let Some(bytes) = content.get_mut(at..).filter(|bytes| bytes.len() >= RECORD_BYTES) {
        let (head, rest) = bytes.split_at_mut(RECORD_BYTES);
        head[8] = 1 + (head[8].wrapping_sub(1) % 6);
        head[9] &= 1;
        head[10..12].fill(0);
        if head[8] != 1 {
            head[..4].fill(0);
        }
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let length = length % (rest.len() + 1);
        head[..4].copy_from_slice(&(length as u32).to_le_bytes());
        let place = [id.to_le_bytes(), (at as u64).to_le_bytes()].concat();
        let crc = crc_of(&[&place, &head[..4], &head[8..], &rest[..length]]);
        head[4..8].copy_from_slice(&crc);
        at += (RECORD_BYTES + length).next_multiple_of(8);
    }
}

fn crc_of(parts: &[&[u8]]) -> [u8; 4] {
    let mut crc = crc32fast::Hasher::new();
    parts.iter().for_each(|part| crc.update(part));
    crc.finalize().to_le_bytes()
}

/// Logs as their writer leaves them: one segment, and several.
pub fn seeds() -> Vec<Seed> {
    let (one, several) = (written(1, 20), written(2, 1200));
    vec![
        ("as_written", input::join(0, &one)),
        ("checksums", input::join(CHECKSUMS, &one)),
        ("two_as_written", input::join(0, &several)),
        ("two_checksums", input::join(CHECKSUMS, &several)),
    ]
}

fn written(segments: usize, payload: usize) -> Vec<Vec<u8>> {
    let disk = Arc::new(SimDisk::new(1));
    // Of an epoch whose bytes are not zero, as those behind what is kept of a head are.
    let settings = LogSettings { epoch: EpochId { number: 2, plan: 0x0123_4567_89ab_cdef }, ..SETTINGS };
    let (log, mut writer) = Log::open(disk.clone(), settings).expect("an empty log opens");
    let id = |index| LogId { leader: LeaderId { term: 1, node_id: 2 }, index };
    let entry = |index| LogEntry { log_id: id(index), payload: vec![b'p'; payload].into() };
    let steps = [
        LogOp::Vote(Vote { leader: id(0).leader, committed: true }),
        LogOp::Append(vec![entry(0), entry(1), entry(2)]),
        LogOp::TruncateAfter(Some(id(1))),
        LogOp::Committed(Some(id(1))),
        LogOp::Append(vec![entry(2)]),
        LogOp::Purge(id(0)),
    ];
    for step in steps {
        log.submit(step, None);
        writer.step().expect("nothing fails here");
    }
    let LogState { last, .. } = log.state();
    assert_eq!(last, Some(id(2)));
    let mut names = disk.list().expect("nothing fails here");
    names.retain(|name| name.ends_with(".seg"));
    names.sort();
    assert!(names.len() >= segments, "{names:?}");
    let parts: Vec<_> = names.iter().map(|name| part(&disk, name)).collect();
    assert_is_all_of_it(&parts, &log);
    parts
}

/// A seed that has lost part of a head opens as no log at all, and then nothing behind it is ever reached.
fn assert_is_all_of_it(parts: &[Vec<u8>], log: &Log) {
    let disk = folder_of(parts.iter().map(Vec::as_slice), |_, _| {});
    let (again, _writer) = Log::open(disk, SETTINGS).expect("what the writer left opens");
    assert_eq!((again.state(), entries(&again)), (log.state(), entries(log)), "HEAD_USED is not what the format uses");
}

fn folder_of<'a>(parts: impl Iterator<Item = &'a [u8]>, put_right: impl Fn(u64, &mut [u8])) -> Arc<SimDisk> {
    let disk = Arc::new(SimDisk::new(1));
    for (part, id) in parts.zip(1..) {
        let mut content = part.to_vec();
        let records = content.split_off(HEAD_USED.min(content.len()));
        content.resize(HEAD_BYTES, 0);
        content.extend_from_slice(&records);
        put_right(id, &mut content);
        write(&disk, id, &content);
    }
    disk.sync_dir().expect("nothing fails here");
    disk
}

fn part(disk: &SimDisk, name: &str) -> Vec<u8> {
    let file = disk.open(name, false).expect("nothing fails here");
    let mut bytes = vec![0; file.len().expect("nothing fails here") as usize];
    let read = file.read_at(0, &mut bytes).expect("nothing fails here");
    let end = bytes[..read].iter().rposition(|byte| *byte != 0).map_or(0, |last| (last + 1).next_multiple_of(8));
    [&bytes[..HEAD_USED], &bytes[HEAD_BYTES.min(end)..end]].concat()
}

//! The bytes of the log, format version 1. All numbers are little-endian.
//!
//! A log is a folder of segment files `<id, 16 hex digits>.seg` with ids that follow one another. A segment is
//! a head of 4,096 bytes and then records, each starting at a multiple of 8, up to the first place where no
//! valid record stands. The log is what its records say in order: nothing is ever overwritten.
//!
//! Head (160 bytes used, the rest zero). It repeats what the records before it add up to, so older segments
//! can go as soon as their entries are purged:
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `SAOLALOG` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | CRC-32 of bytes 0–11 and 16–159 |
//! | 16 | 8 | group id |
//! | 24 | 8 | segment id |
//! | 32 | 4 | where the records of the segment before this one end; all of them were synced before this one existed |
//! | 36 | 4 | flags: 1 vote present, 2 vote committed, 4 purged present, 8 last present, 16 committed present |
//! | 40 | 16 | live vote: term, node id |
//! | 56 | 24 | last purged log id: term, node id, index |
//! | 80 | 24 | last log id, likewise |
//! | 104 | 24 | committed log id, likewise |
//! | 128 | 16 | release that wrote the segment, ASCII, padded with zeros |
//! | 144 | 8 | epoch in which the segment was written; a start writes the newest one anew |
//! | 152 | 8 | first 8 bytes of the hash of the plan that began it, as a big-endian number; 0: none did |
//!
//! Magic, format version and release keep their places in every later format, so that a release which does not know
//! a version can still name the one that does. What the CRC covers may change with the version.
//!
//! Record (40 bytes and the payload, then zeros up to a multiple of 8):
//!
//! | at | bytes | field |
//! |---|---|---|
//! | 0 | 4 | payload length, at most 2^30 |
//! | 4 | 4 | CRC-32 of: segment id (8), offset of the record in the segment (8), bytes 0–3, bytes 8–39, payload |
//! | 8 | 1 | kind: 1 entry, 2 vote, 3 truncate after, 4 purge, 5 committed, 6 sync mark |
//! | 9 | 1 | flag: vote and mark: the vote is committed; truncate after and committed: a log id follows (else: none); otherwise 0 |
//! | 10 | 2 | zero |
//! | 12 | 4 | offset in this segment below which everything was synced before this record was written |
//! | 16 | 8 | index; in a vote 0; in a mark 1: it repeats the live vote, 0: it says nothing of one |
//! | 24 | 16 | leader id: term, node id; in a mark those of the live vote |
//! | 40 | | payload (entries only) |
//!
//! Because segment id and offset are under the CRC, the bytes of a recycled file, or of a record that landed
//! in the wrong place, are never taken for records. Kinds are never reused for another meaning.

use crc32fast::Hasher;

use super::LogState;
use crate::release::RELEASE;
use crate::types::{EpochId, LeaderId, LogId, Vote};

/// Bytes before the first record: a page of its own, so that a torn first record cannot hurt the head.
pub(super) const HEAD_BYTES: u32 = 4096;
/// Bytes of a record before its payload.
pub(super) const RECORD_BYTES: u32 = 40;
/// Largest payload of one entry, in bytes.
pub(super) const MAX_PAYLOAD: u32 = 1 << 30;

const MAGIC: [u8; 8] = *b"SAOLALOG";
/// Format version of the log that this release writes and reads.
pub const VERSION: u32 = 1;
const HEAD_USED: usize = 160;
const RELEASE_AT: usize = 128;
const EPOCH_AT: usize = 144;

const VOTE: u32 = 1;
const VOTE_COMMITTED: u32 = 2;
const PURGED: u32 = 4;
const LAST: u32 = 8;
const COMMITTED: u32 = 16;

/// The first page of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub group_id: u64,
    pub segment: u64,
    /// Where the records of the segment before this one end.
    pub previous_end: u32,
    /// The log as it was when this segment began.
    pub state: LogState,
    /// The epoch in which it was written.
    pub epoch: EpochId,
    /// The release that wrote the segment.
    pub release: String,
}

/// Why a page is not a head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HeadError {
    Damaged,
    UnknownVersion { version: u32, release: String },
}

impl Head {
    pub fn encode(&self) -> Vec<u8> {
        let LogState { vote, last_purged, last, committed } = self.state;
        let mut flags = 0;
        let mut set = |present: bool, flag: u32| flags |= if present { flag } else { 0 };
        set(vote.is_some(), VOTE);
        set(vote.is_some_and(|v| v.committed), VOTE_COMMITTED);
        set(last_purged.is_some(), PURGED);
        set(last.is_some(), LAST);
        set(committed.is_some(), COMMITTED);

        let mut page = Vec::with_capacity(HEAD_BYTES as usize);
        page.extend_from_slice(&MAGIC);
        page.extend_from_slice(&VERSION.to_le_bytes());
        page.extend_from_slice(&[0; 4]);
        page.extend_from_slice(&self.group_id.to_le_bytes());
        page.extend_from_slice(&self.segment.to_le_bytes());
        page.extend_from_slice(&self.previous_end.to_le_bytes());
        page.extend_from_slice(&flags.to_le_bytes());
        put_leader(&mut page, vote.unwrap_or_default().leader);
        for id in [last_purged, last, committed] {
            let id = id.unwrap_or_default();
            put_leader(&mut page, id.leader);
            page.extend_from_slice(&id.index.to_le_bytes());
        }
        page.extend_from_slice(&self.release.as_bytes()[..self.release.len().min(EPOCH_AT - RELEASE_AT)]);
        page.resize(EPOCH_AT, 0);
        page.extend_from_slice(&self.epoch.number.to_le_bytes());
        page.extend_from_slice(&self.epoch.plan.to_le_bytes());
        let crc = head_crc(&page);
        page[12..16].copy_from_slice(&crc.to_le_bytes());
        page.resize(HEAD_BYTES as usize, 0);
        page
    }

    pub fn decode(page: &[u8]) -> Result<Head, HeadError> {
        let page = page.get(..HEAD_USED).ok_or(HeadError::Damaged)?;
        let sound = u32_at(page, 12) == head_crc(page);
        let version = u32_at(page, 8);
        // Versions count up one by one: a number this high is damage.
        let plausible = version <= u32::from(u16::MAX) && version != VERSION;
        if page[..8] == MAGIC && plausible && !is_first_version(page) {
            // This release writes no other version: such a head has rotted.
            let release = release_at(&page[RELEASE_AT..EPOCH_AT]).filter(|release| release != RELEASE);
            let release = release.ok_or(HeadError::Damaged)?;
            return Err(HeadError::UnknownVersion { version, release });
        }
        if page[..8] != MAGIC || version != VERSION || !sound {
            return Err(HeadError::Damaged);
        }
        let flags = u32_at(page, 36);
        let log_id = |at: usize, flag: u32| {
            let id = LogId { leader: leader_at(page, at), index: u64_at(page, at + 16) };
            (flags & flag != 0).then_some(id)
        };
        let vote = Vote { leader: leader_at(page, 40), committed: flags & VOTE_COMMITTED != 0 };
        Ok(Head {
            group_id: u64_at(page, 16),
            segment: u64_at(page, 24),
            previous_end: u32_at(page, 32),
            state: LogState {
                vote: (flags & VOTE != 0).then_some(vote),
                last_purged: log_id(56, PURGED),
                last: log_id(80, LAST),
                committed: log_id(104, COMMITTED),
            },
            epoch: EpochId { number: u64_at(page, EPOCH_AT), plan: u64_at(page, EPOCH_AT + 8) },
            release: release_at(&page[RELEASE_AT..EPOCH_AT]).unwrap_or_default(),
        })
    }
}

fn head_crc(page: &[u8]) -> u32 {
    let mut crc = Hasher::new();
    crc.update(&page[..12]);
    crc.update(&page[16..HEAD_USED]);
    crc.finalize()
}

/// Whether a head of another version is one of version 1 in which that number alone has changed: damage, not news.
fn is_first_version(page: &[u8]) -> bool {
    let mut repaired = page.to_vec();
    repaired[8..12].copy_from_slice(&VERSION.to_le_bytes());
    u32_at(page, 12) == head_crc(&repaired)
}

/// The name of a release: printable ASCII, then zeros.
fn release_at(bytes: &[u8]) -> Option<String> {
    let len = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let (name, padding) = bytes.split_at(len);
    let plausible = !name.is_empty() && name.iter().all(u8::is_ascii_graphic) && padding.iter().all(|byte| *byte == 0);
    plausible.then(|| String::from_utf8_lossy(name).into_owned())
}

/// One record; `P` is the payload of an entry: its bytes, or how many they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<P> {
    /// An entry.
    Entry(LogId, P),
    /// The vote from now on.
    Vote(Vote),
    /// All entries after this one are gone; `None`: all.
    TruncateAfter(Option<LogId>),
    /// All entries up to and including this one are gone.
    Purge(LogId),
    /// What is known to be committed.
    Committed(Option<LogId>),
    /// With the live vote; `None`: it says nothing of one.
    Mark(Option<Vote>),
}

impl<P> Record<P> {
    /// The same with another form of the payload.
    pub(super) fn with_payload<Q>(self, payload: impl FnOnce(P) -> Q) -> Record<Q> {
        match self {
            Record::Entry(id, p) => Record::Entry(id, payload(p)),
            Record::Vote(vote) => Record::Vote(vote),
            Record::TruncateAfter(id) => Record::TruncateAfter(id),
            Record::Purge(id) => Record::Purge(id),
            Record::Committed(id) => Record::Committed(id),
            Record::Mark(vote) => Record::Mark(vote),
        }
    }
}

/// Bytes that a record with this much payload takes.
pub(super) fn record_bytes(payload: u32) -> u32 {
    (RECORD_BYTES + payload).next_multiple_of(8)
}

/// The 40 bytes that go before the payload.
pub(super) fn encode_record(
    segment: u64,
    offset: u32,
    synced: u32,
    record: &Record<&[u8]>,
) -> [u8; RECORD_BYTES as usize] {
    let none = LogId::default();
    let (kind, flag, log_id, payload): (u8, bool, LogId, &[u8]) = match *record {
        Record::Entry(id, payload) => (1, false, id, payload),
        Record::Vote(vote) => (2, vote.committed, LogId { leader: vote.leader, index: 0 }, &[]),
        Record::TruncateAfter(id) => (3, id.is_some(), id.unwrap_or(none), &[]),
        Record::Purge(id) => (4, false, id, &[]),
        Record::Committed(id) => (5, id.is_some(), id.unwrap_or(none), &[]),
        Record::Mark(None) => (6, false, none, &[]),
        Record::Mark(Some(vote)) => (6, vote.committed, LogId { leader: vote.leader, index: 1 }, &[]),
    };
    let mut head = [0; RECORD_BYTES as usize];
    head[0..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    head[8] = kind;
    head[9] = flag.into();
    head[12..16].copy_from_slice(&synced.to_le_bytes());
    head[16..24].copy_from_slice(&log_id.index.to_le_bytes());
    head[24..32].copy_from_slice(&log_id.leader.term.to_le_bytes());
    head[32..40].copy_from_slice(&log_id.leader.node_id.to_le_bytes());
    let crc = record_crc(segment, offset, &head, payload);
    head[4..8].copy_from_slice(&crc.to_le_bytes());
    head
}

/// A record that was read, whose payload lies at `RECORD_BYTES..RECORD_BYTES + payload` of the bytes given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    /// Entries carry their payload's length.
    pub record: Record<u32>,
    /// Offset below which everything was synced before this record was written.
    pub synced: u32,
}

impl Decoded {
    /// Bytes from this record to the next.
    pub fn bytes(&self) -> u32 {
        match self.record {
            Record::Entry(_, len) => record_bytes(len),
            _ => RECORD_BYTES,
        }
    }
}

/// How long a record is that begins with these bytes, as far as they tell; `None`: no record begins like this. Says
/// nothing of its checksum.
pub(super) fn begins_record(bytes: &[u8]) -> Option<u32> {
    let Some(begin) = bytes.first_chunk::<12>() else { return Some(RECORD_BYTES) };
    let len = u32_at(begin, 0);
    let [kind @ 1..=6, 0..=1, 0, 0] = begin[8..12] else { return None };
    (len <= MAX_PAYLOAD && (kind == 1 || len == 0)).then(|| record_bytes(len))
}

/// The record that `bytes` begin with, if they are one, written for this segment and offset.
pub(super) fn decode_record(segment: u64, offset: u32, bytes: &[u8]) -> Option<Decoded> {
    let (head, rest) = bytes.split_first_chunk::<{ RECORD_BYTES as usize }>()?;
    begins_record(head)?;
    let (len, kind, flag) = (u32_at(head, 0), head[8], head[9]);
    let payload = rest.get(..len as usize)?;
    if u32_at(head, 4) != record_crc(segment, offset, head, payload) {
        return None;
    }
    let leader = leader_at(head, 24);
    let log_id = LogId { leader, index: u64_at(head, 16) };
    let present = (flag == 1).then_some(log_id);
    let record = match kind {
        1 => Record::Entry(log_id, len),
        2 => Record::Vote(Vote { leader, committed: flag == 1 }),
        3 => Record::TruncateAfter(present),
        4 => Record::Purge(log_id),
        5 => Record::Committed(present),
        _ => Record::Mark((log_id.index == 1).then_some(Vote { leader, committed: flag == 1 })),
    };
    Some(Decoded { record, synced: u32_at(head, 12) })
}

fn record_crc(segment: u64, offset: u32, head: &[u8; RECORD_BYTES as usize], payload: &[u8]) -> u32 {
    let mut crc = Hasher::new();
    crc.update(&segment.to_le_bytes());
    crc.update(&u64::from(offset).to_le_bytes());
    crc.update(&head[0..4]);
    crc.update(&head[8..]);
    crc.update(payload);
    crc.finalize()
}

fn put_leader(out: &mut Vec<u8>, leader: LeaderId) {
    out.extend_from_slice(&leader.term.to_le_bytes());
    out.extend_from_slice(&leader.node_id.to_le_bytes());
}

fn leader_at(bytes: &[u8], at: usize) -> LeaderId {
    LeaderId { term: u64_at(bytes, at), node_id: u64_at(bytes, at + 8) }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(raw)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(raw)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn log_id() -> impl Strategy<Value = LogId> {
        any::<(u64, u64, u64)>().prop_map(|(term, node_id, index)| LogId { leader: LeaderId { term, node_id }, index })
    }

    fn vote() -> impl Strategy<Value = Vote> {
        (log_id(), any::<bool>()).prop_map(|(id, committed)| Vote { leader: id.leader, committed })
    }

    fn record() -> impl Strategy<Value = Record<Vec<u8>>> {
        prop_oneof![
            (log_id(), prop::collection::vec(any::<u8>(), 0..100)).prop_map(|(id, p)| Record::Entry(id, p)),
            vote().prop_map(Record::Vote),
            prop::option::of(log_id()).prop_map(Record::TruncateAfter),
            log_id().prop_map(Record::Purge),
            prop::option::of(log_id()).prop_map(Record::Committed),
            prop::option::of(vote()).prop_map(Record::Mark),
        ]
    }

    fn bytes_of(record: &Record<Vec<u8>>, segment: u64, offset: u32, synced: u32) -> Vec<u8> {
        let payload = match record {
            Record::Entry(_, payload) => payload.as_slice(),
            _ => &[],
        };
        let mut bytes = encode_record(segment, offset, synced, &record.clone().with_payload(|_| payload)).to_vec();
        bytes.extend_from_slice(payload);
        bytes
    }

    #[test]
    fn first_format_keeps_its_bytes() {
        let id = LogId { leader: LeaderId { term: 3, node_id: 2 }, index: 7 };
        let entry = bytes_of(&Record::Entry(id, b"saola".to_vec()), 5, 4096, 4096);
        assert_eq!(
            hex(&entry),
            concat!(
                "05000000",
                "efee94cd",
                "01",
                "00",
                "0000",
                "00100000",
                "0700000000000000",
                "0300000000000000",
                "0200000000000000",
                "73616f6c61"
            )
        );
        let mark = bytes_of(&Record::Mark(Some(Vote { leader: id.leader, committed: true })), 5, 4144, 4144);
        assert_eq!(
            hex(&mark),
            concat!(
                "00000000",
                "f91c0827",
                "06",
                "01",
                "0000",
                "30100000",
                "0100000000000000",
                "0300000000000000",
                "0200000000000000"
            )
        );
        let head = Head {
            group_id: 1,
            segment: 5,
            previous_end: 4136,
            state: LogState {
                vote: Some(Vote { leader: id.leader, committed: true }),
                last_purged: None,
                last: Some(id),
                committed: None,
            },
            epoch: EpochId { number: 2, plan: 0x0102 },
            release: "0.1.0".into(),
        };
        assert_eq!(
            hex(&head.encode()[..HEAD_USED]),
            concat!(
                "53414f4c414c4f47",
                "01000000",
                "36754878",
                "0100000000000000",
                "0500000000000000",
                "28100000",
                "0b000000",
                "0300000000000000",
                "0200000000000000",
                "000000000000000000000000000000000000000000000000",
                "030000000000000002000000000000000700000000000000",
                "000000000000000000000000000000000000000000000000",
                "302e312e300000000000000000000000",
                "02000000000000000201000000000000"
            )
        );
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    proptest! {
        #[test]
        fn records_come_back_as_written(record in record(), segment: u64, offset: u32, synced: u32) {
            let bytes = bytes_of(&record, segment, offset, synced);
            let decoded = decode_record(segment, offset, &bytes).unwrap();
            let expected = record.with_payload(|payload| payload.len() as u32);
            prop_assert_eq!(decoded, Decoded { record: expected, synced });
        }

        #[test]
        fn a_record_counts_only_in_its_own_segment_and_place(record in record(), segment: u64, offset in 0..u32::MAX) {
            let bytes = bytes_of(&record, segment, offset, 0);
            prop_assert_eq!(decode_record(segment ^ 1, offset, &bytes), None);
            prop_assert_eq!(decode_record(segment, offset + 1, &bytes), None);
        }

        #[test]
        fn one_flipped_bit_is_always_seen(record in record(), bit: prop::sample::Index) {
            let mut bytes = bytes_of(&record, 9, 4096, 4096);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode_record(9, 4096, &bytes), None);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), segment: u64, offset: u32) {
            let _: Option<Decoded> = decode_record(segment, offset, &bytes);
            let _: Result<Head, HeadError> = Head::decode(&bytes);
        }

        #[test]
        fn heads_come_back_as_written(
            group_id: u64, segment: u64, previous_end: u32, number: u64, plan: u64, vote in prop::option::of(vote()),
            ids in prop::array::uniform3(prop::option::of(log_id())),
        ) {
            let [last_purged, last, committed] = ids;
            let state = LogState { vote, last_purged, last, committed };
            let epoch = EpochId { number, plan };
            let head = Head { group_id, segment, previous_end, state, epoch, release: RELEASE.into() };
            prop_assert_eq!(Head::decode(&head.encode()), Ok(head));
        }

        #[test]
        fn a_damaged_head_is_never_taken(group_id: u64, bit in 0..HEAD_USED * 8) {
            let (state, release) = (LogState::default(), RELEASE.into());
            let epoch = EpochId { number: 1, plan: 0 };
            let head = Head { group_id, segment: 1, previous_end: 0, state, epoch, release };
            let mut page = head.encode();
            page[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(Head::decode(&page), Err(HeadError::Damaged));
        }
    }
}

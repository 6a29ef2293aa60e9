//! Bad sectors: what the disk does not give is never taken for the end of the log.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use proptest::prelude::*;
use saola_storage::disk::Disk;
use saola_storage::disk::sim::SimDisk;
use saola_storage::log::{Damage, DamageKind, Item, LogEntry, LogError, LogOp, LogSettings, Salvage, examine};
use saola_storage::types::LogId;

use crate::log_support::{History, Model, Running, append, change, entry, id, vote};

/// Segments of eight pages.
const SETTINGS: LogSettings = LogSettings { segment_bytes: 32 << 10, ..crate::log_support::SETTINGS };
const FIRST: &str = "0000000000000001.seg";
const SECOND: &str = "0000000000000002.seg";
const PAGE: u64 = 4096;
/// A record with 40 bytes of payload.
const RECORD_BYTES: u64 = 80;

/// A log with the vote of term 2 and `entries` entries of term 2.
fn written(entries: u64) -> (SimDisk, Running) {
    let disk = SimDisk::new(1);
    let mut running = Running::open_with(&disk, SETTINGS).unwrap();
    running.write(LogOp::Vote(vote(2)));
    for index in 0..entries {
        running.write(append(2, index..index + 1, 40));
    }
    (disk, running)
}

fn lose_page(disk: &SimDisk, name: &str, page: u64) {
    assert!(disk.make_unreadable(name, page * PAGE + 700..page * PAGE + 800));
}

fn open(disk: &SimDisk) -> Result<Running, LogError> {
    Running::open_with(disk, SETTINGS)
}

fn damage(disk: &SimDisk) -> Vec<Damage> {
    let mut found = Vec::new();
    examine(disk, None, |item| {
        if let Item::Damage(damage) = item {
            found.push(damage);
        }
    })
    .unwrap();
    found
}

fn entries(indexes: std::ops::Range<u64>) -> Vec<LogEntry> {
    indexes.map(|index| entry(2, index, 40)).collect()
}

fn salvage(disk: &SimDisk) -> Salvage {
    Salvage::read(disk, SETTINGS.group_id, None).unwrap()
}

#[test]
fn a_bad_sector_below_the_newest_mark_is_named_and_repaired() {
    // 500 entries fill one segment and a part of the next.
    let whole = entries(0..500);
    for (name, page, (offset, index)) in
        [(FIRST, 0, (0, 0)), (FIRST, 3, (2 * PAGE, 0)), (SECOND, 0, (0, 0)), (SECOND, 1, (PAGE, 0))]
    {
        let (disk, mut running) = written(500);
        running.writer.idle_mark().unwrap();
        drop(running);
        disk.kill();
        lose_page(&disk, name, page);
        let refused = open(&disk).map(drop).unwrap_err();
        let LogError::Rot { unreadable: true, offset: at, index: near, .. } = refused else { panic!("{refused}") };
        assert!(at >= offset && at <= page * PAGE && near >= index, "{refused}");
        for part in ["log segment 000000000000000", "unreadable (EIO) at byte", "log index", "repairs it"] {
            assert!(refused.to_string().contains(part), "{part:?} in: {refused}");
        }
        let named = damage(&disk);
        assert!(named.iter().any(|found| found.unreadable && found.from_offset == at), "{named:?}");

        let found = salvage(&disk);
        // The head of the first segment hides no entry: all that it says stands behind it too.
        let missing = found.missing.clone().unwrap_or(0..0);
        assert_eq!((found.vote_certain, missing.is_empty()), (true, (name, page) == (FIRST, 0)), "{name} {page}");
        let fetched = whole.iter().filter(|e| missing.contains(&e.log_id.index)).cloned().collect();
        found.rebuild(&Arc::new(disk.clone()), SETTINGS, fetched).unwrap();
        assert_eq!(open(&disk).unwrap().entries(), whole);
    }
}

#[test]
fn a_bad_sector_where_flushed_records_may_stand_is_never_a_torn_tail() {
    // Nothing marks what comes after the start. Entry 50 reaches into the second page of records, and 51 begins there;
    // 102 entries end a little before the third page, and with 28 bytes more at its beginning.
    for (count, page) in [(60, 1), (60, 2), (51, 2), (300, 4)] {
        let (disk, running) = written(count);
        drop(running);
        disk.kill();
        lose_page(&disk, FIRST, page);
        let refused = open(&disk).map(drop).unwrap_err();
        assert!(matches!(refused, LogError::Rot { unreadable: true, .. }), "{count} {page}: {refused}");
        let found = salvage(&disk);
        assert!(found.missing.is_some(), "{found:?}");
        if page * PAGE + PAGE > PAGE + 40 + count * RECORD_BYTES {
            assert!(!found.vote_certain, "a later vote may have stood there: {found:?}");
            let refused = found.rebuild(&Arc::new(disk.clone()), SETTINGS, Vec::new()).unwrap_err();
            assert!(refused.to_string().contains("vote"), "{refused}");
        }
    }
    // The last record ends with the page: what would follow it cannot be read.
    let (disk, mut running) = written(0);
    running.write(append(2, 0..1, PAGE as usize - 80));
    drop(running);
    disk.kill();
    lose_page(&disk, FIRST, 2);
    let refused = open(&disk).map(drop).unwrap_err();
    assert!(
        matches!(refused, LogError::Rot { offset, index: 1, unreadable: true, .. } if offset == 2 * PAGE),
        "{refused}"
    );
    assert!(!salvage(&disk).vote_certain);
}

#[test]
fn a_bad_sector_behind_the_end_is_named_and_does_no_harm() {
    let (disk, running) = written(20);
    drop(running);
    disk.kill();
    for page in [2, 7] {
        lose_page(&disk, FIRST, page);
    }
    let named = damage(&disk);
    assert!(
        matches!(&named[..], [Damage { what: DamageKind::Unused, unreadable: true, from_offset, .. }] if *from_offset == 2 * PAGE),
        "{named:?}"
    );
    assert_eq!(open(&disk).unwrap().entries(), entries(0..20));
    assert_eq!(damage(&disk), [], "the start has left it behind");
}

#[test]
fn a_bad_sector_that_held_zeros_alone_is_named_at_the_start_and_not_by_each_reader() {
    let disk = SimDisk::new(1);
    let mut running = open(&disk).unwrap();
    let zeros = LogEntry { log_id: id(2, 0), payload: vec![0; 3 * PAGE as usize].into() };
    running.write(LogOp::Append(vec![zeros]));
    running.writer.idle_mark().unwrap();
    drop(running);
    disk.kill();
    lose_page(&disk, FIRST, 2);
    assert!(matches!(open(&disk), Err(LogError::Rot { index: 0, unreadable: true, .. })));
}

#[test]
fn a_bad_sector_that_a_reader_meets_ends_the_log() {
    let (disk, mut running) = written(300);
    lose_page(&disk, FIRST, 2);
    let error = running.log.entries(0..300, usize::MAX).unwrap_err();
    assert!(matches!(error, LogError::Rot { segment: 1, unreadable: true, .. }), "{error}");
    assert!(matches!(running.writer.step(), Err(LogError::Rot { unreadable: true, .. })));
    drop(running);
    disk.kill();
    assert!(matches!(open(&disk), Err(LogError::Rot { unreadable: true, .. })), "the next start repairs it");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn bad_sectors_anywhere_lose_nothing_acknowledged(
        changes in prop::collection::vec(change(), 1..120),
        pages in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 1..4),
        torn in prop::option::of((1..6u64, any::<u64>())),
        mark: bool,
    ) {
        let disk = SimDisk::new(5);
        let mut running = open(&disk).unwrap();
        let mut history = History::new(&mut running);
        changes.iter().for_each(|change| history.add(&mut running, change));
        if mark {
            running.writer.idle_mark().unwrap();
        }
        // Beyond what is acknowledged: a batch that was being written when the power went.
        let mut beyond = history.all.clone();
        if let Some((count, seed)) = torn {
            let op = history.next(count, 900);
            let LogOp::Append(entries) = &op else { unreachable!() };
            beyond.extend(entries.iter().map(|e| (e.log_id.index, e.clone())));
            disk.crash_at_op(1);
            running.submit(op);
            prop_assert!(running.writer.step().is_err());
            drop(running);
            disk.crash(seed);
        } else {
            drop(running);
            disk.kill();
        }
        let names: Vec<String> = disk.list().unwrap().into_iter().filter(|name| name.ends_with(".seg")).collect();
        for (name, page) in pages {
            lose_page(&disk, &names[name.index(names.len())], page.index((SETTINGS.segment_bytes / PAGE) as usize) as u64);
        }
        // Damage may hide that entries were purged.
        let next = |purged: Option<LogId>| purged.map_or(0, |purged| purged.index + 1);
        let first = next(history.model.purged);
        let holds_all = |found: &Model| {
            let kept: Vec<_> = found.entries.iter().filter(|e| e.log_id.index >= first).cloned().collect();
            found.vote == history.model.vote
                && next(found.purged) <= first
                && kept.starts_with(&history.model.entries)
                && found.entries.iter().all(|entry| beyond.get(&entry.log_id.index) == Some(entry))
        };
        match open(&disk).map(|running| Model::of(&running.log)) {
            Ok(found) => prop_assert!(holds_all(&found)),
            Err(LogError::Rot { unreadable, .. }) => {
                prop_assert!(unreadable);
                let found = salvage(&disk);
                let missing = found.missing.clone().unwrap_or(0..0);
                let fetched = beyond.range(missing.start..missing.end.max(missing.start)).map(|(_, e)| e.clone()).collect();
                match found.clone().rebuild(&Arc::new(disk.clone()), SETTINGS, fetched) {
                    Ok(_) => {
                        prop_assert!(found.vote_certain);
                        let rebuilt = Model::of(&open(&disk).unwrap().log);
                        prop_assert!(holds_all(&rebuilt), "{:?} {:?}", found.missing, found.damage);
                    }
                    Err(refused) => prop_assert!(!found.vote_certain, "{}", refused),
                }
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

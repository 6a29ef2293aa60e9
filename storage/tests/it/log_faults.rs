//! One promise of the log per test, each against the fault that would break it.

#![allow(clippy::unwrap_used)]

use std::io::IoSlice;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use proptest::prelude::*;
use saola_storage::disk::Disk;
use saola_storage::disk::sim::{Operation, SimDisk};
use saola_storage::log::{Item, Log, LogError, LogOp, LogSettings, Record, Wait, examine};
use saola_storage::types::EpochId;

use crate::log_support::{Model, Running, SETTINGS, append, entry, id, vote};

const FIRST: &str = "0000000000000001.seg";
const HEAD_BYTES: u64 = 4096;
/// A record with 40 bytes of payload.
const RECORD_BYTES: u64 = 80;

fn contents(disk: &SimDisk, name: &str) -> Vec<u8> {
    let file = disk.open(name, false).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

/// A disk with `entries` entries of 40 bytes, each written by a step of its own.
fn written(entries: u64) -> (SimDisk, Running) {
    written_by_seed(entries, 1)
}

fn written_by_seed(entries: u64, seed: u64) -> (SimDisk, Running) {
    let disk = SimDisk::new(seed);
    let mut running = Running::open(&disk).unwrap();
    for index in 0..entries {
        running.write(append(1, index..index + 1, 40));
    }
    (disk, running)
}

#[test]
fn one_step_syncs_once_however_many_operations_wait() {
    let (_disk, mut running) = written(1);
    let before = running.log.stats().syncs;
    for index in 1..20 {
        running.submit(append(1, index..index + 1, 40));
        running.submit(LogOp::Vote(vote(index)));
    }
    assert_eq!(running.log.stats().queued, 38);
    assert_eq!(running.log.stats().flushed_index, Some(0));
    assert_eq!(running.writer.step().unwrap(), 38);
    assert_eq!(running.acknowledged(), 39);
    assert_eq!(running.log.stats().syncs, before + 1);
    assert_eq!(running.log.stats().flushed_index, Some(19));
}

#[test]
fn readers_see_an_entry_before_it_is_durable() {
    let (_disk, running) = written(2);
    running.submit(append(1, 2..5, 40));
    assert_eq!(running.entries().len(), 5);
    assert_eq!(running.acknowledged(), 2);
}

#[test]
fn an_old_entry_is_read_from_the_disk_as_it_was_written() {
    let (_disk, running) = written(100);
    let expected: Vec<_> = (0..100).map(|index| entry(1, index, 40)).collect();
    assert_eq!(running.entries(), expected);
    assert_eq!(running.log.entries(3..9, 100).unwrap(), expected[3..5]);
    assert_eq!(running.log.entries(3..9, 0).unwrap(), expected[3..4]);
    assert_eq!(running.log.entries(98..200, usize::MAX).unwrap(), expected[98..]);
    assert!(running.log.entries(100..200, usize::MAX).unwrap().is_empty());
    // The tail holds the last 15; whoever may not wait for the disk learns that it would have to.
    assert_eq!(running.log.entries_in_memory(98..200, usize::MAX).unwrap(), expected[98..]);
    assert_eq!(running.log.entries_in_memory(3..100, usize::MAX), None);
    assert_eq!(running.log.entries_in_memory(100..200, usize::MAX), Some(Vec::new()));
}

#[test]
fn an_old_entry_that_has_changed_on_the_disk_is_named_and_not_served_and_ends_the_log() {
    let (disk, mut running) = written(40);
    disk.fail_nth(Operation::Read, 1);
    assert!(matches!(running.log.entries(0..1, 1), Err(LogError::Io { .. })));
    let damage = HEAD_BYTES + 3 * RECORD_BYTES;
    assert!(disk.flip_bit(FIRST, damage + 50, 3));
    assert_eq!(running.log.entries(0..3, usize::MAX).unwrap().len(), 3);
    let error = running.log.entries(0..9, usize::MAX).unwrap_err();
    assert!(matches!(error, LogError::Rot { segment: 1, offset, index: 3, .. } if offset == damage), "{error}");
    // The writer ends with it, so that the process is started again and repairs it.
    assert_eq!(running.writer.wait(Duration::ZERO), Wait::Work);
    assert!(matches!(running.writer.step(), Err(LogError::Rot { index: 3, .. })));
}

#[test]
fn a_torn_tail_above_the_newest_mark_is_cut() {
    for torn in HEAD_BYTES + 4 * RECORD_BYTES..HEAD_BYTES + 5 * RECORD_BYTES {
        let (disk, running) = written(5);
        drop(running);
        disk.kill();
        assert!(disk.flip_bit(FIRST, torn, 0));
        let mut running = Running::open(&disk).unwrap();
        assert_eq!(running.log.state().last, Some(id(1, 3)));
        running.write(append(2, 4..5, 40));
        drop(running);
        disk.crash(torn);
        assert_eq!(Running::open(&disk).unwrap().log.state().last, Some(id(2, 4)));
    }
}

#[test]
fn damage_at_or_below_the_newest_mark_is_refused_and_named() {
    for damage in HEAD_BYTES..HEAD_BYTES + 5 * RECORD_BYTES {
        let (disk, mut running) = written(5);
        running.writer.idle_mark().unwrap();
        drop(running);
        disk.kill();
        assert!(disk.flip_bit(FIRST, damage, 7));
        let Err(error) = Running::open(&disk) else { panic!("damage at {damage} was not seen") };
        let hit = (damage - HEAD_BYTES) / RECORD_BYTES;
        let at = HEAD_BYTES + hit * RECORD_BYTES;
        assert!(
            matches!(error, LogError::Rot { segment: 1, offset, index, .. } if offset == at && index == hit),
            "{error}"
        );
        assert!(error.to_string().contains("a start of this node repairs it"));
        // A refusal changes nothing: with the bit put right everything is there.
        disk.flip_bit(FIRST, damage, 7);
        assert_eq!(Running::open(&disk).unwrap().entries().len(), 5);
    }
}

#[test]
fn damage_after_a_start_is_rot_even_if_nothing_was_written_since() {
    let (disk, running) = written(5);
    drop(running);
    disk.kill();
    drop(Running::open(&disk).unwrap());
    assert!(disk.flip_bit(FIRST, HEAD_BYTES + 4 * RECORD_BYTES + 44, 1));
    assert!(matches!(Running::open(&disk), Err(LogError::Rot { index: 4, .. })));
}

#[test]
fn damage_in_a_full_segment_or_in_a_head_is_refused() {
    let (disk, running) = written(120);
    assert!(running.log.stats().segments > 2);
    drop(running);
    let last_record = HEAD_BYTES + 50 * RECORD_BYTES;
    for (name, offset) in [(FIRST, last_record), (FIRST, 20), ("0000000000000002.seg", 60), ("0000000000000003.seg", 0)]
    {
        assert!(disk.flip_bit(name, offset, 2));
        assert!(matches!(Running::open(&disk), Err(LogError::Rot { .. })), "{name} {offset}");
        disk.flip_bit(name, offset, 2);
    }
    assert_eq!(Running::open(&disk).unwrap().entries().len(), 120);
}

#[test]
fn a_damaged_vote_at_the_end_of_a_full_segment_is_not_overlooked() {
    // 50 entries of 80 bytes and a vote of 40 fill the first segment.
    let (disk, mut running) = written(50);
    running.write(LogOp::Vote(vote(3)));
    running.write(append(3, 50..60, 40));
    drop(running);
    let at = HEAD_BYTES + 50 * RECORD_BYTES;
    assert!(disk.flip_bit(FIRST, at + 24, 0));
    let Err(error) = Running::open(&disk) else { panic!("the vote was forgotten") };
    assert!(matches!(error, LogError::Rot { segment: 1, offset, index: 50, .. } if offset == at), "{error}");
}

#[test]
fn a_missing_segment_is_refused_and_can_be_put_back() {
    let (disk, running) = written(160);
    assert!(running.log.stats().segments > 3);
    drop(running);
    for (name, index) in [(FIRST, 0), ("0000000000000002.seg", 0)] {
        disk.rename(name, "lost").unwrap();
        let Err(error) = Running::open(&disk) else { panic!("{name} was not missed") };
        assert!(matches!(error, LogError::Missing { index: i, .. } if i == index), "{error}");
        disk.rename("lost", name).unwrap();
    }
    assert_eq!(Running::open(&disk).unwrap().entries().len(), 160);
}

#[test]
fn a_segment_of_another_group_or_place_is_refused() {
    let (disk, running) = written(5);
    drop(running);
    let other = LogSettings { group_id: 8, ..SETTINGS };
    assert!(matches!(Running::open_with(&disk, other), Err(LogError::Foreign { group: 8, found_group: 7, .. })));
    disk.rename(FIRST, "0000000000000002.seg").unwrap();
    assert!(matches!(Running::open(&disk), Err(LogError::Foreign { segment: 2, found_segment: 1, .. })));
}

/// Heads say in which epoch a segment was written: an identity file of before does not go with what came after.
#[test]
fn an_older_identity_beside_a_newer_log_is_refused() {
    let epoch = |number, plan| LogSettings { epoch: EpochId { number, plan }, ..SETTINGS };
    let disk = SimDisk::new(0);
    let mut running = Running::open_with(&disk, epoch(1, 0)).unwrap();
    running.write(append(1, 0..20, 800));
    drop(running);
    // A start writes the newest segment anew, whether or not it adds anything.
    drop(Running::open_with(&disk, epoch(2, 7)).unwrap());
    let error = Running::open_with(&disk, epoch(1, 0)).err().unwrap();
    assert!(matches!(error, LogError::OtherEpoch { own: EpochId { number: 1, .. }, .. }), "{error}");
    assert!(error.to_string().contains("epoch 2 (plan 0000000000000007)"), "{error}");
    let twin = Running::open_with(&disk, epoch(2, 8)).err().unwrap();
    assert!(matches!(twin, LogError::OtherEpoch { found: EpochId { plan: 7, .. }, .. }), "{twin}");
    // A node that has just been made part of a cluster says so in the next segment.
    let mut running = Running::open_with(&disk, epoch(2, 7)).unwrap();
    running.log.set_epoch(EpochId { number: 3, plan: 9 });
    running.write(append(1, 20..40, 800));
    drop(running);
    assert!(Running::open_with(&disk, epoch(2, 7)).is_err());
    assert_eq!(Running::open_with(&disk, epoch(3, 9)).unwrap().entries().len(), 40);
    let mut epochs = Vec::new();
    let heads = |item: Item<'_>| {
        if let Item::Head { epoch, .. } = item {
            epochs.push(epoch.number)
        }
    };
    examine(&disk, None, heads).unwrap();
    assert!(epochs.first() == Some(&1) && epochs.contains(&2) && epochs.last() == Some(&3), "{epochs:?}");
}

#[test]
fn a_failed_sync_ends_the_log_and_its_leftovers_are_synced_by_the_next_start() {
    for seed in 0..200 {
        let disk = SimDisk::new(seed);
        let mut running = Running::open(&disk).unwrap();
        running.write(append(1, 0..3, 300));
        disk.fail_nth(Operation::Sync, 1);
        running.submit(append(1, 3..8, 300));
        assert!(matches!(running.writer.step(), Err(LogError::Io { .. })));
        // A second sync would succeed and prove nothing, so there is none.
        running.submit(LogOp::Vote(vote(9)));
        assert!(matches!(running.writer.step(), Err(LogError::Io { .. })));
        assert_eq!((running.acknowledged(), running.ended()), (1, 3));
        drop(running);

        disk.kill();
        let reported = Model::of(&Running::open(&disk).unwrap().log);
        assert!(reported.entries.len() >= 3);
        disk.crash(seed);
        assert_eq!(Model::of(&Running::open(&disk).unwrap().log), reported);
    }
}

#[test]
fn what_a_killed_process_left_in_the_page_cache_survives_a_power_loss_once_reported() {
    for seed in 0..50 {
        let (disk, mut running) = written_by_seed(3, seed);
        disk.fail_nth(Operation::Sync, 1);
        running.submit(append(1, 3..9, 500));
        running.writer.step().unwrap_err();
        drop(running);
        disk.kill();
        let reported = Model::of(&Running::open(&disk).unwrap().log);
        disk.kill();
        assert_eq!(Model::of(&Running::open(&disk).unwrap().log), reported);
        disk.crash(seed);
        assert_eq!(Model::of(&Running::open(&disk).unwrap().log), reported);
    }
}

#[test]
fn a_truncation_never_takes_the_vote_beside_it() {
    for op in 1..=2 {
        for seed in 0..100 {
            let disk = SimDisk::new(seed);
            let mut running = Running::open(&disk).unwrap();
            running.write(LogOp::Vote(vote(1)));
            running.write(append(1, 0..10, 200));
            running.write(LogOp::Vote(vote(3)));
            disk.crash_at_op(op);
            running.submit(LogOp::TruncateAfter(Some(id(1, 4))));
            running.submit(append(3, 5..7, 200));
            running.submit(LogOp::Vote(vote(5)));
            running.writer.step().unwrap_err();
            disk.crash(seed);
            let state = Running::open(&disk).unwrap().log.state();
            let expected = [
                (Some(vote(3)), id(1, 9)),
                (Some(vote(3)), id(1, 4)),
                (Some(vote(3)), id(3, 5)),
                (Some(vote(3)), id(3, 6)),
                (Some(vote(5)), id(3, 6)),
            ];
            assert!(expected.contains(&(state.vote, state.last.unwrap())), "{state:?}");
        }
    }
}

#[test]
fn the_vote_outlives_the_segment_that_it_was_written_in() {
    let disk = SimDisk::new(1);
    let mut running = Running::open(&disk).unwrap();
    running.write(LogOp::Vote(vote(4)));
    for index in 0..300 {
        running.write(append(4, index..index + 1, 40));
    }
    running.write(LogOp::Purge(id(4, 250)));
    assert!(disk.open(FIRST, false).is_err(), "the first segment is gone");
    drop(running);
    disk.crash(1);
    let running = Running::open(&disk).unwrap();
    assert_eq!(running.log.state().vote, Some(vote(4)));
    assert_eq!(running.log.state().last_purged, Some(id(4, 250)));
    assert_eq!(running.entries().len(), 49);
}

#[test]
fn bytes_of_a_recycled_segment_are_never_read_as_records() {
    // All records have one size, so those of the old life stand exactly where the new ones end.
    let (disk, mut running) = written(250);
    running.write(LogOp::Purge(id(1, 240)));
    assert!(disk.list().unwrap().iter().any(|name| name.ends_with(".spare")));
    let mut next = 250;
    while disk.list().unwrap().iter().filter(|name| name.ends_with(".spare")).count() > 0 {
        running.write(append(2, next..next + 1, 40));
        next += 1;
    }
    let newest = disk.list().unwrap().into_iter().filter(|name| name.ends_with(".seg")).max().unwrap();
    let used = HEAD_BYTES as usize + RECORD_BYTES as usize;
    assert!(contents(&disk, &newest)[used..].iter().any(|byte| *byte != 0), "the old bytes are still there");
    drop(running);
    disk.kill();
    let running = Running::open(&disk).unwrap();
    assert_eq!(running.log.state().last, Some(id(2, next - 1)));
    assert_eq!(running.entries().len() as u64, next - 241);
}

#[test]
fn a_start_that_was_cut_short_leaves_nothing_that_a_later_one_could_take_for_records() {
    for op in 1..=8 {
        for seed in 0..100 {
            let (disk, mut running) = written_by_seed(210, seed);
            running.write(LogOp::Purge(id(1, 204)));
            // Records of 344 bytes that only the page cache has.
            disk.fail_nth(Operation::Sync, 1);
            running.submit(append(1, 210..213, 304));
            running.writer.step().unwrap_err();
            drop(running);
            disk.kill();
            disk.crash_at_op(op);
            let cut_short = Running::open(&disk).map(drop);
            disk.crash(seed);

            let mut running = Running::open(&disk).unwrap();
            let next = running.log.state().last.unwrap().index + 1;
            assert!(next >= 210 && (cut_short.is_err() || next == 213));
            // With the mark of the start before it, this ends where the first of those records ended.
            running.write(append(2, next..next + 1, 264));
            drop(running);
            disk.kill();
            assert_eq!(Running::open(&disk).unwrap().log.state().last, Some(id(2, next)));
        }
    }
}

#[test]
fn a_reader_that_meets_a_purge_gets_a_prefix_and_no_error() {
    let (_disk, mut running) = written(250);
    running.write(LogOp::Purge(id(1, 240)));
    assert!(running.log.entries(200..250, usize::MAX).unwrap().is_empty());
    assert_eq!(running.log.entries(241..250, usize::MAX).unwrap().len(), 9);
    assert_eq!(running.log.log_id_at(240), Some(id(1, 240)));
    assert_eq!(running.log.log_id_at(239), None);
}

#[test]
fn purged_segments_are_used_again_and_the_folder_does_not_grow() {
    let (disk, mut running) = written(1);
    for index in 1..3000 {
        running.write(append(1, index..index + 1, 40));
        if index % 50 == 0 {
            running.write(LogOp::Purge(id(1, index - 20)));
        }
    }
    assert!(disk.list().unwrap().len() <= 5, "{:?}", disk.list());
}

#[test]
fn many_restarts_do_not_grow_the_folder() {
    let (disk, running) = written(60);
    drop(running);
    let files = disk.list().unwrap();
    for _ in 0..50 {
        drop(Running::open(&disk).unwrap());
        disk.kill();
    }
    assert_eq!(disk.list().unwrap(), files);
}

#[test]
fn a_purge_beyond_the_last_entry_is_kept_and_the_log_goes_on_after_it() {
    let (disk, mut running) = written(5);
    running.write(LogOp::Purge(id(2, 90)));
    drop(running);
    disk.crash(3);
    let mut running = Running::open(&disk).unwrap();
    assert_eq!(running.log.state().last, Some(id(2, 90)));
    running.write(append(2, 91..95, 40));
    assert_eq!(running.entries().len(), 4);
}

#[test]
fn a_hole_is_refused_and_ends_the_log() {
    let (_disk, mut running) = written(3);
    running.submit(append(1, 4..5, 40));
    assert!(matches!(running.writer.step(), Err(LogError::Hole { expected: 3, got: 4 })));
    running.submit(append(1, 3..4, 40));
    assert_eq!((running.acknowledged(), running.ended()), (3, 5));
}

#[test]
fn committed_needs_no_sync_of_its_own_and_is_never_ahead_of_the_log() {
    let (disk, mut running) = written(3);
    let syncs = running.log.stats().syncs;
    running.log.submit(LogOp::Committed(Some(id(1, 2))), None);
    assert_eq!(running.writer.step().unwrap(), 1);
    assert_eq!(running.log.stats().syncs, syncs);
    assert_eq!(running.log.state().committed, Some(id(1, 2)));
    running.write(append(1, 3..4, 40));
    assert_eq!(running.log.stats().syncs, syncs + 1);
    running.submit(LogOp::Committed(Some(id(1, 3))));
    running.writer.step().unwrap();
    running.log.submit(LogOp::Committed(Some(id(9, 99))), None);
    running.writer.idle_mark().unwrap();
    drop(running);
    disk.crash(1);
    let state = Running::open(&disk).unwrap().log.state();
    assert_eq!((state.last, state.committed), (Some(id(1, 3)), None), "a mark ahead of the log is not believed");
}

#[test]
fn committed_comes_back_after_a_crash() {
    let (disk, mut running) = written(3);
    running.submit(LogOp::Committed(Some(id(1, 1))));
    running.writer.step().unwrap();
    drop(running);
    disk.crash(5);
    assert_eq!(Running::open(&disk).unwrap().log.state().committed, Some(id(1, 1)));
}

#[test]
fn an_idle_log_is_marked_once() {
    let (_disk, mut running) = written(3);
    let syncs = running.log.stats().syncs;
    running.writer.idle_mark().unwrap();
    running.writer.idle_mark().unwrap();
    assert_eq!(running.log.stats().syncs, syncs + 1);
    assert_eq!(running.writer.wait(Duration::ZERO), Wait::Idle);
}

#[test]
fn a_busy_log_repeats_its_vote_in_a_mark_after_each_256_kib() {
    let disk = SimDisk::new(1);
    let settings = LogSettings { segment_bytes: 4 << 20, ..SETTINGS };
    let mut running = Running::open_with(&disk, settings).unwrap();
    running.write(LogOp::Vote(vote(4)));
    let syncs = running.log.stats().syncs;
    for index in 0..30 {
        running.write(append(4, 100 * index..100 * (index + 1), 300));
    }
    assert_eq!(running.log.stats().syncs, syncs + 30, "marks ride with the batches");
    let (mut marks, mut unmarked, mut longest) = (0, 0, 0);
    let found = examine(&disk, None, |item| {
        if let Item::Record { record, .. } = item {
            unmarked += if let Record::Entry(..) = record { 344 } else { 40 };
            longest = longest.max(unmarked);
            if record == Record::Mark(Some(vote(4))) {
                (marks, unmarked) = (marks + 1, 0);
            }
        }
    });
    assert_eq!((found.unwrap().damaged, marks), (0, 3));
    assert!(longest <= (256 << 10) + 400, "{longest} bytes without a mark");
}

#[test]
fn the_writer_hears_of_work_and_of_the_end() {
    let (_disk, mut running) = written(1);
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = calls.clone();
    running.log.on_work(Box::new(move || {
        seen.fetch_add(1, Ordering::SeqCst);
    }));
    running.log.submit(LogOp::Committed(None), None);
    assert_eq!((calls.load(Ordering::SeqCst), running.writer.wait(Duration::ZERO)), (0, Wait::Idle));
    running.submit(LogOp::Vote(vote(1)));
    assert_eq!((calls.load(Ordering::SeqCst), running.writer.wait(Duration::ZERO)), (1, Wait::Work));
    running.log.close();
    assert_eq!(running.writer.wait(Duration::MAX), Wait::Work, "what was submitted before is still written");
    running.writer.step().unwrap();
    assert_eq!(running.writer.wait(Duration::MAX), Wait::Closed);
    running.submit(LogOp::Vote(vote(2)));
    assert_eq!((running.acknowledged(), running.ended()), (2, 3));
}

#[test]
fn nobody_waits_for_a_writer_that_is_gone() {
    let (_disk, Running { log, writer, .. }) = written(1);
    let (tell, heard) = mpsc::channel();
    for _ in 0..2 {
        let tell = tell.clone();
        log.submit(LogOp::Vote(vote(2)), Some(Box::new(move |result| tell.send(result).unwrap())));
    }
    drop((writer, tell));
    assert!(heard.iter().all(|result| matches!(result, Err(LogError::Closed))));
}

#[test]
fn segment_sizes_that_cannot_work_are_refused() {
    for segment_bytes in [0, 8191, (1 << 30) + 1] {
        let settings = LogSettings { segment_bytes, ..SETTINGS };
        let result = Log::open(Arc::new(SimDisk::new(0)), settings);
        assert!(matches!(result, Err(LogError::Settings { .. })));
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_in_the_folder_never_panic(
        chunks in prop::collection::vec((0..3usize, 0..9000u64, prop::collection::vec(any::<u8>(), 1..200)), 1..6),
    ) {
        let (disk, running) = written(120);
        drop(running);
        let names = [FIRST, "0000000000000002.seg", "0000000000000003.seg"];
        for (name, offset, bytes) in chunks {
            disk.open(names[name], false).unwrap().write_at(offset, &[IoSlice::new(&bytes)]).unwrap();
        }
        let found = examine(&disk, Some(SETTINGS.group_id), |_| {}).unwrap();
        let opened = Running::open(&disk);
        prop_assert_eq!(opened.is_ok(), found.damaged == 0, "an examination and a start agree: {:?}", found);
        if let Ok(running) = opened {
            prop_assert!(running.entries().len() <= 120);
            prop_assert_eq!(running.log.state().last, found.state.last);
            prop_assert_eq!(running.log.state().vote, found.state.vote);
        }
    }
}

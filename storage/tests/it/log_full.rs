//! The log on a disk that others fill, up to the last byte.

#![allow(clippy::unwrap_used)]

use saola_storage::disk::sim::SimDisk;
use saola_storage::disk::{Disk, RealDisk};
use saola_storage::log::{Log, LogError, LogOp, LogSettings};

use crate::log_support::{Model, Running, SETTINGS, append, id, vote};

const RESERVE: &str = "reserve";
/// A record with 40 bytes of payload.
const RECORD_BYTES: u64 = 80;

fn has_reserve(disk: &SimDisk) -> bool {
    disk.list().unwrap().iter().any(|name| name == RESERVE)
}

/// A log with some entries in more than one segment, and how many there are.
fn written() -> (SimDisk, Running, u64) {
    let disk = SimDisk::new(1);
    let mut running = Running::open(&disk).unwrap();
    for index in 0..70 {
        running.write(append(1, index..index + 1, 40));
    }
    (disk, running, 70)
}

/// Appends entries of 40 bytes until the log ends; answers the index that failed and the error.
fn append_until_the_end(running: &mut Running, mut index: u64) -> (u64, LogError) {
    loop {
        running.submit(append(1, index..index + 1, 40));
        match running.writer.step() {
            Ok(_) => index += 1,
            Err(error) => return (index, error),
        }
    }
}

#[test]
fn a_full_disk_ends_the_log_when_the_reserve_is_used_up_and_loses_nothing_acknowledged() {
    let (disk, mut running, count) = written();
    assert!(has_reserve(&disk));
    disk.fill(0);
    let (failed, error) = append_until_the_end(&mut running, count);
    assert!((failed - count) * RECORD_BYTES > SETTINGS.reserve_bytes - 4096, "{} entries", failed - count);
    assert!(matches!(error, LogError::Full { .. }), "{error}");
    for part in ["disk is full", "nothing acknowledged is lost", "make room", "start the node again"] {
        assert!(error.to_string().contains(part), "{part:?} in: {error}");
    }
    drop(running);
    disk.kill();
    assert!(matches!(Running::open(&disk), Err(LogError::Full { .. })), "a start needs room for a copy");
    disk.kill();
    disk.fill(64 << 10);
    let mut running = Running::open(&disk).unwrap();
    assert_eq!(running.log.state().last, Some(id(1, failed - 1)));
    running.write(append(1, failed..failed + 1, 40));
    assert!(has_reserve(&disk), "it is made again once there is room");
}

#[test]
fn a_log_without_a_reserve_ends_with_the_disk() {
    let disk = SimDisk::new(1);
    let settings = LogSettings { reserve_bytes: 0, ..SETTINGS };
    let mut running = Running::open_with(&disk, settings).unwrap();
    running.write(append(1, 0..1, 40));
    assert!(!has_reserve(&disk));
    disk.fill(0);
    let (failed, error) = append_until_the_end(&mut running, 1);
    assert!(failed < 60 && matches!(error, LogError::Full { .. }), "{failed}: {error}");
}

#[test]
fn a_log_on_a_full_disk_starts_again_and_again_and_takes_votes() {
    let (disk, running, count) = written();
    drop(running);
    disk.fill(0);
    for start in 0..40 {
        disk.kill();
        let mut running = Running::open(&disk).unwrap_or_else(|error| panic!("start {start}: {error}"));
        assert_eq!(running.entries().len() as u64, count);
        for round in 0..3 {
            running.write(LogOp::Vote(vote(start * 3 + round)));
        }
        if start % 2 == 1 {
            drop(running);
            disk.crash(start);
        }
    }
    assert_eq!(Running::open(&disk).unwrap().log.state().vote, Some(vote(119)));
}

#[test]
fn a_start_on_a_full_disk_leaves_what_its_copy_has_freed_to_others() {
    let (disk, running, _) = written();
    drop(running);
    disk.fill(0);
    disk.kill();
    let mut running = Running::open(&disk).unwrap();
    assert!(!has_reserve(&disk));
    assert!(disk.free_bytes().unwrap() >= SETTINGS.segment_bytes, "{}", disk.free_bytes().unwrap());
    running.write(LogOp::Vote(vote(9)));
    assert!(!has_reserve(&disk), "less than twice its size is free");
    disk.fill(2 * SETTINGS.reserve_bytes);
    running.writer.idle_mark().unwrap();
    assert!(has_reserve(&disk));
}

#[test]
fn a_full_disk_costs_spares_before_the_reserve() {
    let (disk, mut running, _) = written();
    running.write(LogOp::Purge(id(1, 68)));
    assert!(disk.list().unwrap().iter().any(|name| name.ends_with(".spare")));
    drop(running);
    disk.fill(0);
    disk.kill();
    drop(Running::open(&disk).unwrap());
    let names = disk.list().unwrap();
    assert!(has_reserve(&disk) && !names.iter().any(|name| name.ends_with(".spare")), "{names:?}");
}

#[test]
fn a_reserve_that_was_cut_short_is_made_whole() {
    let (disk, running, _) = written();
    drop(running);
    disk.remove(RESERVE).unwrap();
    disk.open(RESERVE, true).unwrap().allocate(100).unwrap();
    disk.kill();
    let mut running = Running::open(&disk).unwrap();
    running.write(LogOp::Vote(vote(2)));
    assert_eq!(disk.open(RESERVE, false).unwrap().len().unwrap(), SETTINGS.reserve_bytes);
}

#[test]
fn a_power_loss_at_any_disk_operation_of_a_start_on_a_full_disk_loses_nothing() {
    let prepare = || {
        let (disk, mut running, _) = written();
        running.write(LogOp::Vote(vote(4)));
        let model = Model::of(&running.log);
        drop(running);
        disk.fill(0);
        disk.kill();
        (disk, model)
    };
    let (disk, _) = prepare();
    let before = disk.ops();
    drop(Running::open(&disk).unwrap());
    let operations = disk.ops() - before;
    for op in 1..=operations {
        for seed in 0..16 {
            let (disk, model) = prepare();
            disk.crash_at_op(op);
            assert!(Running::open(&disk).is_err());
            disk.crash(op * 31 + seed);
            let running = Running::open(&disk).unwrap_or_else(|error| panic!("operation {op}, seed {seed}: {error}"));
            assert_eq!(Model::of(&running.log), model);
        }
    }
}

#[test]
fn the_real_disk_holds_the_reserve() {
    let folder = tempfile::tempdir().unwrap();
    let disk = std::sync::Arc::new(RealDisk::open(folder.path()).unwrap());
    let (log, mut writer) = Log::open(disk, SETTINGS).unwrap();
    log.submit(LogOp::Vote(vote(2)), None);
    writer.step().unwrap();
    assert_eq!(std::fs::metadata(folder.path().join(RESERVE)).unwrap().len(), SETTINGS.reserve_bytes);
}

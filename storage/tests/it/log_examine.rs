//! An examination shows every record and every place of damage, and calls rot what a start calls rot.

#![allow(clippy::unwrap_used)]

use std::io::IoSlice;

use saola_storage::disk::Disk;
use saola_storage::disk::sim::SimDisk;
use saola_storage::log::{Damage, DamageKind, Examination, Item, LogError, LogOp, Record, examine};

use crate::log_support::{Running, SETTINGS, append, entry, id, vote};

const FIRST: &str = "0000000000000001.seg";
const HEAD_BYTES: u64 = 4096;
/// A record with 40 bytes of payload.
const RECORD_BYTES: u64 = 80;

fn written(entries: u64) -> (SimDisk, Running) {
    let disk = SimDisk::new(1);
    let mut running = Running::open(&disk).unwrap();
    for index in 0..entries {
        running.write(append(1, index..index + 1, 40));
    }
    (disk, running)
}

/// What was found in all, the indexes of the good entries, and the damage.
fn look(disk: &SimDisk) -> (Examination, Vec<u64>, Vec<Damage>) {
    let (mut indexes, mut damage) = (Vec::new(), Vec::new());
    let found = examine(disk, Some(SETTINGS.group_id), |item| match item {
        Item::Record { record: Record::Entry(log_id, payload), .. } => {
            assert_eq!(payload, &entry(log_id.leader.term, log_id.index, payload.len()).payload[..]);
            indexes.push(log_id.index);
        }
        Item::Damage(found) => damage.push(found),
        _ => {}
    });
    (found.unwrap(), indexes, damage)
}

fn overwrite(disk: &SimDisk, name: &str, offset: u64, bytes: &[u8]) {
    disk.open(name, false).unwrap().write_at(offset, &[IoSlice::new(bytes)]).unwrap();
}

#[test]
fn an_examination_shows_every_record_and_changes_nothing() {
    let (disk, mut running) = written(120);
    running.write(LogOp::Vote(vote(4)));
    running.log.submit(LogOp::Committed(Some(id(1, 119))), None);
    running.writer.idle_mark().unwrap();
    let state = running.log.state();
    let (operations, files) = (disk.ops(), disk.list().unwrap());
    let (found, indexes, damage) = look(&disk);
    assert_eq!((found.state, found.entries, found.damaged, found.torn), (state, 120, 0, false));
    assert_eq!((indexes, damage), ((0..120).collect(), Vec::new()));
    assert!(found.segments > 2 && found.newest == found.segments, "{found:?}");
    assert_eq!(found.others, ["reserve"]);
    assert_eq!((disk.ops(), disk.list().unwrap()), (operations, files));
}

#[test]
fn an_examination_names_the_damage_that_a_start_refuses_and_goes_on_after_it() {
    let (disk, mut running) = written(30);
    running.writer.idle_mark().unwrap();
    drop(running);
    disk.kill();
    for hit in [0, 7, 29] {
        let from = HEAD_BYTES + hit * RECORD_BYTES;
        disk.flip_bit(FIRST, from + 50, 1);
        let (found, indexes, damage) = look(&disk);
        let (to_offset, what) = (from + RECORD_BYTES, DamageKind::Rot);
        assert_eq!(
            damage,
            [Damage { segment: 1, from_offset: from, to_offset, first_index: hit, what, unreadable: false }]
        );
        assert_eq!(indexes, (0..30).filter(|index| *index != hit).collect::<Vec<_>>());
        assert_eq!(found.damaged, 1);
        let refused = Running::open(&disk).map(drop).unwrap_err();
        assert!(matches!(refused, LogError::Rot { segment: 1, offset, index, .. } if (offset, index) == (from, hit)));
        disk.flip_bit(FIRST, from + 50, 1);
    }
}

#[test]
fn a_torn_tail_is_no_rot_and_what_stands_behind_it_does_not_count() {
    let (disk, running) = written(5);
    running.submit(append(1, 5..10, 40));
    let Running { mut writer, .. } = running;
    writer.step().unwrap();
    let torn = HEAD_BYTES + 6 * RECORD_BYTES;
    disk.flip_bit(FIRST, torn + 44, 0);
    let (found, indexes, damage) = look(&disk);
    assert_eq!((found.damaged, found.torn, found.state.last), (0, true, Some(id(1, 5))));
    assert_eq!(indexes, [0, 1, 2, 3, 4, 5]);
    assert!(matches!(&damage[..], [Damage { what: DamageKind::TornTail, from_offset, .. }] if *from_offset == torn));
    drop(writer);
    disk.kill();
    assert_eq!(Running::open(&disk).unwrap().log.state().last, Some(id(1, 5)));
}

#[test]
fn damaged_heads_and_missing_and_foreign_segments_are_named() {
    let (disk, running) = written(160);
    drop(running);
    let second = "0000000000000002.seg";
    disk.flip_bit(second, 60, 1);
    let (found, indexes, damage) = look(&disk);
    assert_eq!((indexes.len(), found.damaged), (160, 1), "{damage:?}");
    assert!(matches!(damage[..], [Damage { segment: 2, what: DamageKind::Head, .. }]), "{damage:?}");
    disk.flip_bit(second, 60, 1);

    disk.rename(FIRST, "lost").unwrap();
    let (_, _, damage) = look(&disk);
    let [Damage { segment: 1, first_index: 0, what: DamageKind::Missing, .. }] = damage[..] else {
        panic!("{damage:?}")
    };
    disk.rename("lost", FIRST).unwrap();

    let mut foreign = Vec::new();
    examine(&disk, Some(8), |item| {
        if let Item::Damage(damage) = item {
            foreign.push(damage.what);
        }
    })
    .unwrap();
    assert!(matches!(foreign[0], DamageKind::Foreign { found_segment: 1, found_group: 7 }), "{foreign:?}");
}

#[test]
fn a_segment_of_a_newer_release_names_that_release_whatever_its_checksum_covers() {
    let (disk, running) = written(5);
    drop(running);
    disk.kill();
    overwrite(&disk, FIRST, 8, &2u32.to_le_bytes());
    overwrite(&disk, FIRST, 128, b"3.14.0\0\0\0\0\0\0\0\0\0\0");
    let refused = Running::open(&disk).map(drop).unwrap_err();
    assert!(matches!(&refused, LogError::UnknownVersion { segment: 1, version: 2, release } if release == "3.14.0"));
    let text = refused.to_string();
    for part in ["written by Saola 3.14.0", env!("CARGO_PKG_VERSION"), "install Saola 3.14.0 or newer"] {
        assert!(text.contains(part), "{part:?} in: {text}");
    }
    let (_, indexes, damage) = look(&disk);
    assert!(indexes.is_empty());
    let newer = DamageKind::UnknownVersion { version: 2, release: "3.14.0".into() };
    assert_eq!(damage[0].what, newer);
}

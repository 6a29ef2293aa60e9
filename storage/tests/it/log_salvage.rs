//! A damaged log, made whole with entries of others, is the log that it was; nothing is shortened in silence.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::sync::Arc;

use proptest::prelude::*;
use saola_storage::disk::Disk;
use saola_storage::disk::sim::SimDisk;
use saola_storage::log::{Item, LogEntry, LogError, LogOp, LogState, Salvage, examine};
use saola_storage::types::LogId;

use crate::log_support::{History, Model, Running, SETTINGS, append, change, entry, id, vote};

const FIRST: &str = "0000000000000001.seg";
const HEAD_BYTES: u64 = 4096;
/// A record with 40 bytes of payload.
const RECORD_BYTES: u64 = 80;

/// Entries 0 to 29 of term 1, the vote of term 2, committed up to 20; all of it marked, in one segment.
fn written() -> SimDisk {
    written_with(30)
}

fn written_with(entries: u64) -> SimDisk {
    let disk = SimDisk::new(1);
    let mut running = Running::open(&disk).unwrap();
    running.write(LogOp::Vote(vote(2)));
    for index in 0..entries {
        running.write(append(1, index..index + 1, 40));
        if index == 20 {
            running.write(LogOp::Committed(Some(id(1, 20))));
        }
    }
    running.writer.idle_mark().unwrap();
    drop(running);
    disk.kill();
    disk
}

/// Where entry 0 to 29 of [`written`] stands.
fn place(index: u64) -> u64 {
    HEAD_BYTES + 40 + index * RECORD_BYTES + if index > 20 { 40 } else { 0 }
}

fn salvage(disk: &SimDisk, applied: Option<LogId>) -> Salvage {
    Salvage::read(disk, SETTINGS.group_id, applied).unwrap()
}

fn rebuild(disk: &SimDisk, salvage: Salvage, fetched: Vec<LogEntry>) -> Result<LogState, LogError> {
    salvage.rebuild(&Arc::new(disk.clone()), SETTINGS, fetched)
}

fn entries(term: u64, indexes: std::ops::Range<u64>) -> Vec<LogEntry> {
    indexes.map(|index| entry(term, index, 40)).collect()
}

#[test]
fn what_was_committed_before_the_damage_is_certain_and_what_follows_it_too() {
    let disk = written();
    disk.flip_bit(FIRST, place(25) + 44, 1);
    let found = salvage(&disk, None);
    assert_eq!((found.missing.clone(), found.vote, found.vote_certain), (Some(21..26), Some(vote(2)), true));
    assert_eq!(
        (found.committed, found.log_id_at(20), found.log_id_at(26)),
        (Some(id(1, 20)), Some(id(1, 20)), Some(id(1, 26)))
    );
    assert_eq!(found.log_id_at(24), None, "a truncation may be hidden in the damage");
    assert_eq!(salvage(&disk, Some(id(1, 23))).missing, Some(24..26), "what is applied is not asked for");
    assert_eq!(salvage(&disk, Some(id(1, 27))).missing, None);
    assert_eq!((found.damage[0].segment, found.damage[0].from_offset, found.damage[0].first_index), (1, place(25), 25));
}

#[test]
fn damage_up_to_the_last_mark_leaves_the_end_open_as_far_as_records_fit() {
    let disk = written();
    disk.flip_bit(FIRST, place(29) + 44, 1);
    assert_eq!(salvage(&disk, None).missing, Some(21..31), "80 bytes may have been two records");
}

#[test]
fn a_vote_that_damage_may_hide_is_not_certain_and_nothing_is_rebuilt() {
    let disk = written();
    let mut running = Running::open(&disk).unwrap();
    running.write(LogOp::Vote(vote(3)));
    running.write(append(3, 30..31, 40));
    running.write(append(3, 31..32, 40));
    drop(running);
    disk.kill();
    let name = disk.list().unwrap().into_iter().find(|name| name.ends_with(".seg")).unwrap();
    // After the mark of the first life and that of the second start.
    disk.flip_bit(&name, place(30) + 2 * 40 + 24, 1);
    let found = salvage(&disk, None);
    assert!(!found.vote_certain, "{found:?}");
    let refused = rebuild(&disk, found, entries(1, 21..30)).unwrap_err();
    assert!(refused.to_string().contains("vote") && refused.to_string().contains("saola cluster replace"), "{refused}");
}

#[test]
fn entries_of_a_peer_that_goes_on_differently_end_this_log_where_it_does() {
    for (peers, last) in [
        (entries(1, 21..27), id(1, 29)),
        (entries(1, 21..26), id(1, 29)),
        ([entries(1, 21..26), entries(2, 26..27)].concat(), id(1, 25)),
        ([entries(1, 21..24), entries(2, 24..26)].concat(), id(2, 25)),
        (entries(1, 21..24), id(1, 23)),
        (Vec::new(), id(1, 20)),
    ] {
        let disk = written();
        disk.flip_bit(FIRST, place(25) + 44, 1);
        let state = rebuild(&disk, salvage(&disk, None), peers.clone()).unwrap();
        let running = Running::open(&disk).unwrap();
        assert_eq!((state.last, running.log.state().last), (Some(last), Some(last)), "{} entries", peers.len());
        assert_eq!(running.entries().len() as u64, last.index + 1);
        assert_eq!((running.log.state().vote, running.log.state().committed), (Some(vote(2)), Some(id(1, 20))));
    }
    let disk = written();
    disk.flip_bit(FIRST, place(25) + 44, 1);
    for wrong in [entries(1, 22..26), entries(0, 21..26), [entries(2, 21..24), entries(1, 24..26)].concat()] {
        assert!(matches!(rebuild(&disk, salvage(&disk, None), wrong), Err(LogError::Unrepaired { .. })));
    }
}

#[test]
fn a_power_loss_at_any_disk_operation_of_a_rebuild_leaves_the_damaged_log_or_the_whole_one() {
    // One segment, and five.
    for count in [30, 200] {
        let prepare = || {
            let disk = written_with(count);
            disk.flip_bit(FIRST, place(25) + 44, 1);
            disk
        };
        let disk = prepare();
        let before = disk.ops();
        rebuild(&disk, salvage(&disk, None), entries(1, 21..27)).unwrap();
        let (operations, mut damaged, mut whole) = (disk.ops() - before, 0, 0);
        let found = examine(&disk, None, |_| {}).unwrap();
        assert_eq!((found.damaged, found.entries, found.segments), (0, count, count.div_ceil(50)));
        for op in 1..=operations {
            for seed in 0..32 {
                let disk = prepare();
                disk.crash_at_op(op);
                let found = salvage(&disk, None);
                assert!(rebuild(&disk, found, entries(1, 21..27)).is_err());
                disk.crash(op * 31 + seed);
                let looked = examine(&disk, None, |_| {}).unwrap();
                if matches!(Running::open(&disk).map(drop), Err(LogError::Rot { index: 25, .. })) {
                    assert_ne!(looked.damaged, 0, "an examination looks at the same segments as a start");
                    damaged += 1;
                    // What the first one left half done must not show behind the end of a shorter log.
                    rebuild(&disk, salvage(&disk, None), entries(1, 21..24)).unwrap();
                    assert_eq!(Running::open(&disk).unwrap().entries(), entries(1, 0..24));
                } else {
                    assert_eq!((looked.damaged, looked.entries), (0, count));
                    whole += 1;
                    assert_eq!(Running::open(&disk).unwrap().entries(), entries(1, 0..count));
                    disk.crash(seed);
                    assert_eq!(Running::open(&disk).unwrap().entries(), entries(1, 0..count));
                }
            }
        }
        assert!(damaged > 0 && whole > 0, "{damaged} {whole}");
        eprintln!("{} power losses in {operations} disk operations of a rebuild", damaged + whole);
    }
}

#[test]
fn a_rebuilt_log_keeps_every_sound_entry_that_follows_the_damage_or_comes_before_what_is_missing() {
    // Damaged at, applied, what is asked for, and the entries then.
    for (hit, applied, missing, kept) in [
        (5, None, Some(0..6), 0..200),
        (5, Some(15), None, 7..200),
        (5, Some(5), None, 6..200),
        (25, Some(23), Some(24..26), 0..200),
        (25, Some(24), Some(25..26), 0..200),
        (25, Some(25), None, 26..200),
        (25, Some(199), None, 27..200),
    ] {
        let disk = written_with(200);
        disk.flip_bit(FIRST, place(hit) + 44, 1);
        let found = salvage(&disk, applied.map(|index| id(1, index)));
        assert_eq!((found.vote_certain, found.missing.clone()), (true, missing.clone()), "{hit} {applied:?}");
        rebuild(&disk, found, entries(1, missing.unwrap_or(0..0))).unwrap();
        let running = Running::open(&disk).unwrap();
        assert_eq!(running.entries(), entries(1, kept.clone()), "{hit} {applied:?}");
        let state = running.log.state();
        assert_eq!((state.vote, state.last), (Some(vote(2)), Some(id(1, 199))));
        assert_eq!(state.last_purged, kept.start.checked_sub(1).map(|index| id(1, index)));
    }
}

#[test]
fn a_disk_without_room_for_a_rebuilt_log_keeps_the_damaged_one_and_its_room() {
    let disk = written_with(200);
    disk.flip_bit(FIRST, place(25) + 44, 1);
    disk.fill(12 << 10);
    let free = disk.free_bytes().unwrap();
    let refused = rebuild(&disk, salvage(&disk, None), entries(1, 21..27)).unwrap_err();
    assert!(matches!(refused, LogError::Full { .. }), "{refused}");
    assert!(disk.free_bytes().unwrap() >= free);
    assert!(!disk.list().unwrap().iter().any(|name| name.ends_with(".new")), "{:?}", disk.list());
    disk.fill(64 << 10);
    rebuild(&disk, salvage(&disk, None), entries(1, 21..27)).unwrap();
    assert_eq!(Running::open(&disk).unwrap().entries(), entries(1, 0..200));
}

#[test]
fn damaged_segments_are_kept_for_inquiry_two_at_most() {
    let disk = written();
    for round in 0..4 {
        let name = disk.list().unwrap().into_iter().find(|name| name.ends_with(".seg")).unwrap();
        let at = if round == 0 { place(25) } else { HEAD_BYTES + 25 * RECORD_BYTES };
        disk.flip_bit(&name, at + 44, 1);
        let found = salvage(&disk, None);
        let fetched = entries(1, found.missing.clone().unwrap());
        rebuild(&disk, found, fetched).unwrap();
        drop(Running::open(&disk).unwrap());
        disk.kill();
        let names = disk.list().unwrap();
        let rotten = names.iter().filter(|name| name.ends_with(".rot")).count();
        assert_eq!(rotten, (round + 1).min(2), "{names:?}");
        assert_eq!(names.iter().filter(|name| name.ends_with(".seg")).count(), 1, "{names:?}");
    }
}

#[derive(Clone, Debug)]
enum Fault {
    Flip { segment: prop::sample::Index, at: prop::sample::Index, bytes: usize },
    Lose { segment: prop::sample::Index },
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        9 => (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..600usize)
            .prop_map(|(segment, at, bytes)| Fault::Flip { segment, at, bytes }),
        1 => any::<prop::sample::Index>().prop_map(|segment| Fault::Lose { segment }),
    ]
}

fn segments(disk: &SimDisk) -> Vec<String> {
    let mut names = disk.list().unwrap();
    names.retain(|name| name.ends_with(".seg"));
    names.sort();
    names
}

fn contents(disk: &SimDisk, name: &str) -> Vec<u8> {
    let file = disk.open(name, false).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn a_damaged_log_with_the_entries_of_others_is_the_log_that_it_was(
        changes in prop::collection::vec(change(), 5..80),
        faults in prop::collection::vec(fault(), 1..4),
        applied in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let disk = SimDisk::new(3);
        let mut running = Running::open(&disk).unwrap();
        let mut history = History::new(&mut running);
        changes.iter().for_each(|change| history.add(&mut running, change));
        let History { model, all, committed, .. } = history;
        running.log.submit(LogOp::Committed(committed), None);
        running.writer.idle_mark().unwrap();
        drop(running);
        disk.kill();

        let mut ends = BTreeMap::new();
        let found = examine(&disk, None, |item| {
            if let Item::Record { segment, synced, .. } = item {
                ends.insert(format!("{segment:016x}.seg"), synced as usize);
            }
        });
        prop_assert_eq!(found.unwrap().damaged, 0);
        for fault in faults {
            let names = segments(&disk);
            match fault {
                Fault::Flip { segment, at, bytes } => {
                    let name = &names[segment.index(names.len())];
                    let mut content = contents(&disk, name);
                    // Only what the last mark proves: damage behind looks like a torn tail.
                    let used = ends[name];
                    let from = at.index(used);
                    let to = (from + bytes).min(used);
                    content[from..to].iter_mut().for_each(|byte| *byte ^= 0x5a);
                    disk.open(name, false).unwrap().write_at(0, &[IoSlice::new(&content)]).unwrap();
                }
                Fault::Lose { segment } if names.len() > 1 => {
                    disk.rename(&names[segment.index(names.len() - 1)], "lost").unwrap();
                }
                Fault::Lose { .. } => {}
            }
        }
        let (purged, last) = (model.purged.map_or(0, |p| p.index + 1), model.last());
        let applied = applied.and_then(|at| {
            let count = committed.map_or(0, |c| c.index + 1).saturating_sub(purged);
            (count > 0).then(|| all[&(purged + at.index(count as usize) as u64)].log_id)
        });
        match Running::open(&disk).map(|running| Model::of(&running.log)) {
            Ok(found) => prop_assert_eq!(found, model, "damage of what counts is never overlooked"),
            Err(LogError::Rot { .. } | LogError::Missing { .. }) => {
                let found = salvage(&disk, applied);
                prop_assert!(found.vote_certain, "the last mark says it: {:?}", found);
                let missing = found.missing.clone().unwrap_or(0..0);
                let upto = missing.end.saturating_add(u64::from(!missing.is_empty()));
                let fetched = (missing.start..upto).map_while(|index| all.get(&index));
                let state = rebuild(&disk, found.clone(), fetched.cloned().collect());
                prop_assert!(state.is_ok(), "{:?} with {:?}", state, found);
                let running = Running::open(&disk).unwrap();
                let rebuilt = Model::of(&running.log);
                prop_assert_eq!(rebuilt.vote, model.vote);
                prop_assert_eq!(rebuilt.last(), last);
                prop_assert!(running.log.state().committed.map(|c| c.index) <= committed.map(|c| c.index));
                let from = applied.map_or(0, |a| a.index + 1).max(purged);
                let above = |model: &Model| model.entries.iter().filter(|e| e.log_id.index >= from).cloned().collect::<Vec<_>>();
                prop_assert_eq!(above(&rebuilt), above(&model));
                prop_assert!(rebuilt.entries.iter().all(|entry| all.get(&entry.log_id.index) == Some(entry)));
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
    }
}

//! Promises about bringing a similar state up to another one: only what differs is sent, and what only the old one had is
//! kept for people.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use saola_storage::command::{Command, CompactChanges, Op};
use saola_storage::error::StoreError;
use saola_storage::export::Export;
use saola_storage::import::Import;
use saola_storage::orphan::{Head, Orphan, OrphanBundle, OrphanError, list};
use saola_storage::store::{At, Store};
use saola_storage::types::{LeaderId, LogId};

use crate::state_support::*;

/// Brings the import to its end, and says how many rows had to be asked for.
fn pull(import: &mut Import, export: &mut Export) -> Result<(), StoreError> {
    while let Some(chunk) = export.next_chunk()? {
        import.write(&chunk)?;
        // Asked again for what is left, as after a connection that was cut.
        while !import.lacking().is_empty() {
            let mut spans = VecDeque::from(import.lacking());
            let rows = export.rows_of(&mut spans)?.expect("there are spans");
            import.fill(&rows)?;
        }
    }
    Ok(())
}

/// The same over connections that are never cut: each answer is read to its end.
fn pull_to_each_end(import: &mut Import, export: &mut Export) -> Result<(), StoreError> {
    while let Some(chunk) = export.next_chunk()? {
        import.write(&chunk)?;
        let mut spans = VecDeque::from(import.lacking());
        while let Some(rows) = export.rows_of(&mut spans)? {
            import.fill(&rows)?;
        }
        assert!(import.lacking().is_empty(), "all that was asked for has come");
    }
    Ok(())
}

/// Applies what another epoch's leader wrote behind what has been applied.
fn apply_later(store: &Store, command: Command) {
    let index = store.applied().log_id.map_or(0, |last| last.index + 1);
    let mut entry = entry(index, 1_700_000_000_000_000, vec![command]);
    entry.log_id = LogId { leader: LeaderId { term: 1000, node_id: 4 }, index };
    store.apply(vec![entry]).expect("a log entry is applied");
}

/// Receives a state of the epoch that goes on; what was written since the base is kept.
fn receive(store: &Store, folder: &Path, base_revision: u64) -> Import {
    let head = Head { epoch: 1, left_by_epoch: 2, node: "main-1".into(), node_id: 1, base_revision, ..Head::default() };
    store.import_difference(Some((folder, head))).expect("it begins")
}

fn orphans(folder: &Path) -> Vec<Orphan> {
    let Some(path) = list(folder).expect("the folder lists").pop() else { return Vec::new() };
    let mut bundle = OrphanBundle::open(&path).expect("a whole bundle");
    std::iter::from_fn(|| bundle.next_orphan().expect("a whole bundle")).collect()
}

fn is_same(one: &Store, other: &Store) {
    assert_eq!(one.applied(), other.applied());
    assert_eq!(one.view().counts(), other.view().counts());
    assert_eq!(one.view().kept_digest().expect("a digest"), other.view().recomputed_digest().expect("a digest"));
    assert_eq!(one.view().recomputed_digest().expect("a digest"), other.view().kept_digest().expect("a digest"));
}

/// Two stores with the same 3,000 records.
fn twins(one: &TestHome, other: &TestHome) -> (Store, Store) {
    let stores = (started(one), started(other));
    for store in [&stores.0, &stores.1] {
        for number in 0..3_000_u32 {
            apply(store, vec![put("agency", 1, &number.to_be_bytes(), &[7; 300], None)]);
        }
    }
    stores
}

#[test]
fn only_what_differs_is_sent_and_what_only_the_old_state_had_is_kept() {
    for (from, to) in homes().into_iter().zip(homes()) {
        let (here, there) = twins(&from, &to);
        let base_revision = here.applied().revision;
        let seen = here.applied().log_id.expect("entries were applied").index;
        for (sequence, number) in (1..).zip([5_u32, 1_000, 5]) {
            let written = put("agency", 1, &number.to_be_bytes(), b"left behind", None);
            apply(&here, vec![by(9, seen, sequence, 1, written)]);
        }
        apply(&here, vec![delete("agency", &7_u32.to_be_bytes(), None)]);
        apply_later(&there, put("agency", 1, &5_u32.to_be_bytes(), b"goes on", None));
        apply_later(&there, put("person", 2, b"new", b"goes on", None));

        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut import = receive(&here, folder.path(), base_revision);
        let mut export = there.export().expect("an export begins").outlined();
        pull(&mut import, &mut export).expect("all of it comes");
        let shipped = import.shipped();
        println!("{} of {} bytes were sent, outline included", shipped.bytes, shipped.of_bytes);
        assert!(shipped.bytes * 10 < shipped.of_bytes, "{shipped:?}");
        assert_eq!((shipped.orphans, here.applied().revision), (4, base_revision + 4), "nothing has changed yet");
        let kept = orphans(folder.path());
        import.finish().expect("it is newer, though it has fewer entries");
        is_same(&here, &there);

        let ids: Vec<u32> = kept.iter().map(|it| u32::from_be_bytes(it.id[..].try_into().expect("4 bytes"))).collect();
        assert_eq!(ids, [5, 1_000, 5, 7], "in the order in which they were written");
        assert_eq!(kept.iter().map(|it| it.generation).collect::<Vec<_>>(), [2, 2, 3, 2]);

        assert_eq!(kept[0].version.envelope, envelope(1, b"left behind"));
        assert_eq!(kept.iter().map(|it| it.follows).collect::<Vec<_>>(), [1, 1, 2, 1], "what each was written onto");
        let sequences: Vec<Option<u64>> = kept.iter().map(|it| it.request.as_ref().map(|it| it.sequence)).collect();
        assert_eq!(sequences, [Some(1), Some(2), Some(3), None]);
        assert_eq!(
            kept[0].request.as_ref().expect("it came with one").since,
            0,
            "cut to the base, of which none is said"
        );
        let agency = here.view().collection("agency").expect("it was created");
        let five = here
            .view()
            .get(&agency, &5_u32.to_be_bytes(), At::Revision(u64::MAX))
            .expect("a read")
            .expect("it is live");
        assert_eq!(five.envelope, envelope(1, b"goes on"));
        // It goes on from there, and survives a restart.
        apply_later(&here, put("agency", 1, b"next", b"v", None));
        here.flush().expect("a flush");
        let applied = here.applied();
        drop((here, agency));
        assert_eq!(open(&from).applied(), applied);
    }
}

#[test]
fn what_was_written_is_kept_though_the_change_feed_has_forgotten_it() {
    let (one, other) = (memory_home(), memory_home());
    let (here, there) = twins(&one, &other);
    let base_revision = here.applied().revision;
    apply(&here, vec![put("agency", 1, &5_u32.to_be_bytes(), b"left behind", None)]);
    apply(&here, vec![put("agency", 1, &6_u32.to_be_bytes(), b"left behind", None)]);
    let floor = here.applied().revision;
    apply(&here, vec![command(Op::CompactChanges(CompactChanges { up_to_revision: floor, max_rows: 1_000_000 }))]);
    assert!(here.view().oldest_change() > base_revision + 1);
    apply_later(&there, put("agency", 1, b"new", b"goes on", None));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut import = receive(&here, folder.path(), base_revision);
    pull(&mut import, &mut there.export().expect("an export begins").outlined()).expect("all of it comes");
    assert_eq!(orphans(folder.path()).len(), 2);
}

#[test]
fn a_state_of_another_lineage_takes_the_place_of_one_with_a_greater_log_id() {
    let (one, other) = (memory_home(), memory_home());
    let (here, there) = (started(&one), started(&other));
    apply_later(&here, put("agency", 1, b"a", b"left behind", None));
    apply(&there, vec![put("agency", 1, b"b", b"goes on", None)]);
    let pulled = |mut import: Import| {
        pull(&mut import, &mut there.export().expect("an export begins").outlined()).expect("all of it comes");
        import.finish().map(drop)
    };
    assert!(pulled(here.import_difference(None).expect("it begins")).is_err(), "of one lineage it is older");
    let folder = tempfile::tempdir().expect("a temporary folder");
    pulled(receive(&here, folder.path(), 1)).expect("across lineages log ids say nothing");
    is_same(&here, &there);
}

#[test]
fn equal_states_send_their_outline_alone_and_leave_no_bundle() {
    let (one, other) = (memory_home(), memory_home());
    let (here, there) = twins(&one, &other);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut import = receive(&here, folder.path(), 1);
    pull(&mut import, &mut there.export().expect("an export begins").outlined()).expect("all of it comes");
    assert!(import.shipped().bytes * 20 < import.shipped().of_bytes, "{:?}", import.shipped());
    import.finish().expect("it is whole");
    is_same(&here, &there);
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder lists").count(), 0);
}

#[test]
fn of_a_range_that_differs_only_the_rows_that_differ_come() {
    let (one, other) = (memory_home(), memory_home());
    let (here, there) = twins(&one, &other);
    // In nearly every range of the heads and of the versions one of many.
    for number in (0..3_000_u32).step_by(20) {
        apply_later(&there, put("agency", 1, &number.to_be_bytes(), b"goes on", None));
    }
    let mut import = here.import_difference(None).expect("it begins");
    pull(&mut import, &mut there.export().expect("an export begins").outlined()).expect("all of it comes");
    println!("{:?}", import.shipped());
    assert!(import.shipped().bytes * 4 < import.shipped().of_bytes, "{:?}", import.shipped());
    import.finish().expect("it is whole");
    is_same(&here, &there);
}

#[test]
fn a_row_that_fills_a_chunk_at_the_end_of_what_is_asked_for_ends_it() {
    let (one, other) = (memory_home(), memory_home());
    let (here, there) = twins(&one, &other);
    // The last version in key order, and the last of what differs.
    let last = 5_000_u32.to_be_bytes();
    for store in [&here, &there] {
        apply(store, vec![put("agency", 1, &last, &[1; 400_000], None)]);
    }
    apply_later(&there, put("agency", 1, &last, &[2; 400_000], None));
    apply_later(&there, put("agency", 1, &2_999_u32.to_be_bytes(), b"beside it", None));
    let mut import = here.import_difference(None).expect("it begins");
    let mut export = there.export().expect("an export begins").outlined();
    pull_to_each_end(&mut import, &mut export).expect("all of it comes");
    assert!(import.shipped().bytes < 600_000, "the large version that both have does not come: {:?}", import.shipped());
    import.finish().expect("it is whole");
    is_same(&here, &there);
}

#[test]
fn a_sender_that_knows_no_outlines_sends_rows_which_are_taken() {
    let (one, other) = (memory_home(), memory_home());
    let (here, there) = twins(&one, &other);
    apply_later(&there, put("agency", 1, b"more", b"v", None));
    let mut import = here.import_difference(None).expect("it begins");
    pull(&mut import, &mut there.export().expect("an export begins")).expect("all of it comes");
    import.finish().expect("it is whole");
    is_same(&here, &there);
}

#[test]
fn rows_that_nobody_asked_for_or_that_are_not_as_outlined_are_refused() {
    let (one, other) = (memory_home(), memory_home());
    let (here, there) = twins(&one, &other);
    apply_later(&there, put("agency", 1, &1_000_u32.to_be_bytes(), b"goes on", None));
    let begin = || {
        let mut import = here.import_difference(None).expect("it begins");
        let mut export = there.export().expect("an export begins").outlined();
        while import.lacking().is_empty() {
            import.write(&export.next_chunk().expect("a chunk").expect("there is one")).expect("a part of the outline");
        }
        (import, export)
    };
    let (mut import, mut export) = begin();
    let early = export.next_chunk().expect("a chunk").expect("there is one");
    assert!(import.write(&early).is_err(), "the rows come first");
    let (mut import, export) = begin();
    let span = import.lacking().pop().expect("something is lacking");
    let mut others = VecDeque::from([saola_storage::outline::Span { behind: Bytes::new(), ..span }]);
    let rows = export.rows_of(&mut others).expect("they are read").expect("there are some");
    assert!(import.fill(&rows).is_err(), "these rows are here");
    let (mut import, _) = begin();
    let stale = here.export().expect("an export begins");
    let mut spans = VecDeque::from(import.lacking());
    let rows = stale.rows_of(&mut spans).expect("they are read").expect("there are some");
    assert!(import.fill(&rows).is_err(), "the rows of another state");
    assert!(import.finish().is_err());
    assert!(there.import().expect("it begins").write(&early).is_err());
}

#[test]
fn a_bundle_that_is_cut_or_changed_is_refused() {
    let home = memory_home();
    let (here, other) = (started(&home), memory_home());
    let there = started(&other);
    apply(&here, vec![put("agency", 1, b"a", b"left behind", None)]);
    apply_later(&there, put("agency", 1, b"b", b"goes on", None));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut import = receive(&here, folder.path(), 1);
    pull(&mut import, &mut there.export().expect("an export begins").outlined()).expect("all of it comes");
    let path = list(folder.path()).expect("the folder lists").pop().expect("a bundle");
    let whole = std::fs::read(&path).expect("a bundle");
    let read = || -> Result<usize, OrphanError> {
        let mut bundle = OrphanBundle::open(&path)?;
        let mut count = 0;
        while bundle.next_orphan()?.is_some() {
            count += 1;
        }
        Ok(count)
    };
    assert_eq!(read().expect("it is whole"), 1);
    for at in 0..whole.len() {
        std::fs::write(&path, &whole[..at]).expect("a write");
        assert!(matches!(read(), Err(OrphanError::Damaged { .. })), "cut at {at}");
        let mut changed = whole.clone();
        changed[at] ^= 1;
        std::fs::write(&path, &changed).expect("a write");
        assert!(matches!(read(), Err(OrphanError::Damaged { .. })), "changed at {at}");
    }
}

/// What happens to a record.
#[derive(Clone, Debug)]
enum Step {
    Put(u8, u16),
    Delete(u8),
}

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (any::<u8>(), 0..3_000_u16).prop_map(|(id, length)| Step::Put(id, length)),
        1 => any::<u8>().prop_map(Step::Delete),
    ];
    prop::collection::vec(step, 0..most)
}

fn command_of(step: &Step) -> Command {
    match step {
        Step::Put(id, length) => put("agency", 1, &[*id], &vec![*id; usize::from(*length)], None),
        Step::Delete(id) => delete("agency", &[*id], None),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_two_sides_have_written_since_they_parted_one_becomes_the_other_and_nothing_is_forgotten(
        common in steps(60), left in steps(40), goes_on in steps(40), beyond in 0..40_u64,
    ) {
        let (one, other) = (memory_home(), memory_home());
        let (here, there) = (started(&one), started(&other));
        for step in &common {
            apply(&here, vec![command_of(step)]);
            apply(&there, vec![command_of(step)]);
        }
        let base_revision = here.applied().revision;
        left.iter().for_each(|step| drop(apply(&here, vec![command_of(step)])));
        goes_on.iter().for_each(|step| apply_later(&there, command_of(step)));
        apply_later(&there, digest());
        let written: BTreeSet<u64> = (base_revision + 1..=here.applied().revision).collect();
        let folder = tempfile::tempdir().expect("a temporary folder");
        // A leader that was lost may have left entries at one side alone: then they part before the base of the other.
        let mut import = receive(&here, folder.path(), base_revision + beyond);
        pull(&mut import, &mut there.export().expect("an export begins").outlined()).expect("all of it comes");
        let kept: BTreeSet<u64> = orphans(folder.path()).iter().map(|it| it.revision).collect();
        import.finish().expect("it is whole");
        is_same(&here, &there);
        prop_assert_eq!(kept, written);
    }
}

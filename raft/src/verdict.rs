//! Which of several copies of the records is wrong, decided from what each has kept and what it knows of itself.
//!
//! Apply keeps the sums of a copy's rows, so copies that applied the same log have equal sums whatever became of their
//! disks; the rows themselves are read by each copy's own scrub. In this order:
//! 1. a copy that knows itself to be bad is: its rows do not give its own sums, or an operator has named it;
//! 2. of the others, those that are not of one mind with more than half of all members' copies are bad, copies that did
//!    not answer counted as unknown;
//! 3. where there is no such half, a copy whose rows fail their own checks in the buckets that differ is bad, if another
//!    one's do not. Until all have been checked, and if that does not tell, it stays open.

use std::collections::BTreeSet;
use std::sync::Arc;

use saola_storage::digest::{BucketSet, Buckets};
use saola_storage::types::NodeId;

/// One copy, at the log index of a DIGEST entry.
#[derive(Clone, Debug)]
pub(crate) struct CopyView {
    pub(crate) node_id: NodeId,
    /// What apply has kept.
    pub(crate) sums: Arc<Buckets>,
    /// It knows itself to be bad.
    pub(crate) bad: bool,
    /// Buckets with rows that fail their own checks; none while they have not been checked since copies differ.
    pub(crate) checked: Option<BucketSet>,
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Copies that must not be served.
    pub(crate) bad: BTreeSet<NodeId>,
    /// Buckets of which no copy may be served, because it is open which one is right.
    pub(crate) open: BucketSet,
}

/// Compares the copies that answered, of so many data members. One alone says nothing of others.
pub(crate) fn judge(copies: &[CopyView], members: usize) -> Verdict {
    let mut verdict = Verdict::default();
    verdict.bad.extend(copies.iter().filter(|copy| copy.bad).map(|copy| copy.node_id));
    loop {
        let sound: Vec<&CopyView> = copies.iter().filter(|copy| !verdict.bad.contains(&copy.node_id)).collect();
        let like = |copy: &CopyView| sound.iter().filter(|other| other.sums == copy.sums).count();
        // One that is silent may be of either mind; one that is bad has no say.
        let say = members.max(copies.len()) - verdict.bad.len();
        if let Some(most) = sound.iter().find(|copy| 2 * like(copy) > say) {
            verdict.bad.extend(sound.iter().filter(|copy| copy.sums != most.sums).map(|copy| copy.node_id));
            return verdict;
        }
        let Some((first, rest)) = sound.split_first() else { return verdict };
        let mut open = BucketSet::default();
        for copy in rest {
            open.extend(&first.sums.differing(&copy.sums));
        }
        let fails = |copy: &&CopyView| copy.checked.as_ref().is_some_and(|damaged| damaged.meets(&open));
        let failing: Vec<NodeId> = sound.iter().copied().filter(fails).map(|copy| copy.node_id).collect();
        let all_checked = sound.iter().all(|copy| copy.checked.is_some());
        if !all_checked || failing.is_empty() || failing.len() == sound.len() {
            verdict.open = open;
            return verdict;
        }
        verdict.bad.extend(failing);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use saola_storage::digest::Item;
    use saola_storage::engine::Kind;

    use super::*;

    /// Sums of one row, whose bucket goes by the row alone.
    fn sums(value: u8) -> Arc<Buckets> {
        let mut sums = Buckets::default();
        sums.add(Item::new(Kind::Heads, b"row", &[value]));
        Arc::new(sums)
    }

    fn bucket() -> BucketSet {
        BucketSet::from_iter([saola_storage::digest::bucket_of(Kind::Heads, b"row")])
    }

    fn copy(node_id: NodeId, value: u8) -> CopyView {
        CopyView { node_id, sums: sums(value), bad: false, checked: None }
    }

    fn bad(copy: CopyView) -> CopyView {
        CopyView { bad: true, ..copy }
    }

    fn checked(copy: CopyView, damaged: BucketSet) -> CopyView {
        CopyView { checked: Some(damaged), ..copy }
    }

    fn judged(copies: &[CopyView]) -> (Vec<NodeId>, bool) {
        let verdict = judge(copies, copies.len());
        (verdict.bad.into_iter().collect(), !verdict.open.is_empty())
    }

    #[test]
    fn a_copy_that_does_not_answer_may_be_of_either_mind() {
        let three = [copy(1, 1), copy(2, 1), copy(3, 2)];
        assert_eq!(judge(&three, 4), Verdict { bad: BTreeSet::new(), open: bucket() });
        assert_eq!(judge(&three, 3).bad, BTreeSet::from([3]));
        assert_eq!(judge(&three, 4 + 1).open, bucket());
    }

    #[test]
    fn equal_copies_and_one_alone_are_not_accused() {
        assert_eq!(judge(&[], 0), Verdict::default());
        assert_eq!(judged(&[copy(1, 1)]), (vec![], false));
        assert_eq!(judged(&[copy(1, 1), copy(2, 1), copy(3, 1), copy(4, 1)]), (vec![], false));
    }

    #[test]
    fn a_copy_that_knows_itself_to_be_bad_is_bad_and_has_no_say() {
        assert_eq!(judged(&[bad(copy(1, 1)), copy(2, 1), copy(3, 1)]), (vec![1], false));
        assert_eq!(judged(&[bad(copy(1, 1)), copy(2, 2)]), (vec![1], false));
        assert_eq!(judged(&[bad(copy(1, 1)), copy(2, 1), copy(3, 2), copy(4, 2)]), (vec![1, 2], false));
        assert_eq!(judged(&[bad(copy(1, 1)), bad(copy(2, 1)), copy(3, 2)]), (vec![1, 2], false));
        assert_eq!(judged(&[bad(copy(1, 1)), bad(copy(2, 2))]), (vec![1, 2], false));
    }

    #[test]
    fn the_minority_is_bad() {
        assert_eq!(judged(&[copy(1, 1), copy(2, 2), copy(3, 1)]), (vec![2], false));
        assert_eq!(judged(&[copy(1, 1), copy(2, 1), copy(3, 1), copy(4, 2)]), (vec![4], false));
        assert_eq!(judged(&[copy(1, 1), copy(2, 2), copy(3, 1), copy(4, 3), copy(5, 1)]), (vec![2, 4], false));
    }

    #[test]
    fn a_tie_stays_open_until_all_rows_are_checked_and_tell() {
        for tie in [vec![copy(1, 1), copy(2, 2)], vec![copy(1, 1), copy(2, 1), copy(3, 2), copy(4, 2)]] {
            assert_eq!(judge(&tie, 4), Verdict { bad: BTreeSet::new(), open: bucket() });
        }
        let none = BucketSet::default();
        let one = checked(copy(1, 1), bucket());
        assert_eq!(judged(&[one.clone(), copy(2, 2)]), (vec![], true), "the other has not been checked");
        assert_eq!(judged(&[one.clone(), checked(copy(2, 2), none.clone())]), (vec![1], false));
        assert_eq!(judged(&[one.clone(), checked(copy(2, 2), bucket())]), (vec![], true), "both fail");
        let sound = [checked(copy(1, 1), none.clone()), checked(copy(2, 2), none.clone())];
        assert_eq!(judged(&sound), (vec![], true), "neither fails");
        let elsewhere = BucketSet::from_iter([0, 1, 2]);
        assert_eq!(judged(&[checked(copy(1, 1), elsewhere), sound[1].clone()]), (vec![], true), "other rows fail");
        // One of two that agree fails: the rest has a majority.
        let four =
            [one, checked(copy(2, 1), none.clone()), checked(copy(3, 2), none.clone()), checked(copy(4, 2), none)];
        assert_eq!(judged(&four), (vec![1, 2], false));
    }

    #[test]
    fn a_majority_needs_no_checks() {
        assert_eq!(judged(&[checked(copy(1, 1), bucket()), copy(2, 1), copy(3, 2)]), (vec![3], false));
    }

    proptest! {
        #[test]
        fn some_copy_stays_sound_and_what_is_served_agrees(
            copies in proptest::collection::vec((0..3_u8, prop::option::of(any::<bool>())), 1..7),
        ) {
            let copies: Vec<CopyView> = (1..).zip(&copies).map(|(id, (value, fails))| CopyView {
                checked: fails.map(|fails| if fails { bucket() } else { BucketSet::default() }),
                ..copy(id, *value)
            }).collect();
            let verdict = judge(&copies, copies.len());
            prop_assert!(verdict.bad.len() < copies.len());
            let served: Vec<&CopyView> = copies.iter().filter(|copy| !verdict.bad.contains(&copy.node_id)).collect();
            let agree = served.windows(2).all(|pair| pair[0].sums == pair[1].sums);
            prop_assert_eq!(agree, verdict.open.is_empty());
        }
    }
}

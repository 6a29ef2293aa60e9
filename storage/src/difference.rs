//! The receiving side of an outline ([`crate::outline`]): which of its ranges the own state has, and which have to come.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::engine::{EngineError, EngineView, KeyRange, Kind, Row};
use crate::error::StoreError;
use crate::export::{ExportedRow, RowList};
use crate::import::ImportError;
use crate::keyspace::decode_value;
use crate::keyspace::versions::VersionRow;
use crate::orphan::OrphanWriter;
use crate::outline::{Outline, RangeSum, RowSum, Span, Summing, between, row_sum, row_sums};
use crate::planted::{self, Bug};
use crate::read::View;

/// Of an own row the sum is told if it has so many bytes: that of a smaller one is hardly less than the row.
const WORTH_BYTES: usize = 64;
/// Own rows of a range that are held until it is known whether it differs: the largest record, and many of the usual size.
const HELD_BYTES: usize = 4 << 20;
/// Of one range the sums of so many own rows are told at most: eight times what a range has as a rule.
const TOLD_OF_RANGE: usize = 512;
/// Of one part of the outline: half a mebibyte, which a request bears beside its spans.
const TOLD_OF_PART: usize = 64 << 10;

/// Compares the outline of a state that comes with the own one.
pub(crate) struct Difference {
    old: View,
    /// Kind and last key of what has been outlined so far.
    reached: (Kind, Bytes),
    pending: Option<Pending>,
    /// Takes the writes that the state which comes does not have.
    pub orphans: Option<OrphanWriter>,
}

/// A part of the outline, until all its rows are there.
struct Pending {
    kind: Kind,
    /// The key before its first range.
    behind: Bytes,
    ranges: Vec<(RangeSum, Own)>,
    /// Keys of own rows in the ranges whose rows have to come, by the sums that are told.
    known: HashMap<RowSum, Bytes>,
    came: BTreeMap<Bytes, Bytes>,
}

/// What is here of a range.
enum Own {
    /// All of it, and nothing else.
    Same,
    /// Something else: its rows have to come, but for those that have these sums.
    Other(Bytes),
}

impl Own {
    fn lacks(&self) -> bool {
        matches!(self, Own::Other(_))
    }
}

impl Pending {
    /// All ranges, each with the key before it and what is here of it.
    fn ranges(&self) -> impl Iterator<Item = (&Bytes, &RangeSum, &Own)> {
        let behind = std::iter::once(&self.behind).chain(self.ranges.iter().map(|(range, _)| &range.last));
        behind.zip(&self.ranges).map(|(behind, (range, own))| (behind, range, own))
    }

    fn come(&self, behind: &Bytes, range: &RangeSum) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        use std::ops::Bound::{Excluded, Included};
        // No row has an empty key.
        self.came.range::<Bytes, _>((Excluded(behind), Included(&range.last)))
    }
}

fn inconsistent(why: impl Into<String>) -> StoreError {
    ImportError::Inconsistent { why: why.into() }.into()
}

impl Difference {
    pub fn new(old: View, orphans: Option<OrphanWriter>) -> Difference {
        Difference { old, reached: (Kind::ALL[0], Bytes::new()), pending: None, orphans }
    }

    /// Takes the next part of the outline.
    pub fn outline(&mut self, outline: Outline) -> Result<(), StoreError> {
        let kind = u8::try_from(outline.kind).ok().and_then(Kind::from_tag);
        let kind = kind.ok_or_else(|| inconsistent(format!("there is no row kind {}", outline.kind)))?;
        let last = outline.ranges.last().map(|range| range.last.clone());
        let (Some(last), None) = (last, &self.pending) else {
            return Err(inconsistent("a part of its outline is empty, or came before its time"));
        };
        let behind = if self.reached.0 == kind { self.reached.1.clone() } else { Bytes::new() };
        let all_behind = std::iter::once(&behind).chain(outline.ranges.iter().map(|range| &range.last));
        let in_order = all_behind.zip(&outline.ranges).all(|(behind, range)| *behind < range.last);
        if self.reached.0 > kind || !in_order {
            return Err(inconsistent("its outline is not in order"));
        }
        self.leave(kind)?;
        let (own, known) = self.compare(kind, &behind, &outline.ranges);
        let ranges = outline.ranges.into_iter().zip(own).collect();
        self.reached = (kind, last);
        self.pending = Some(Pending { kind, behind, ranges, known, came: BTreeMap::new() });
        Ok(())
    }

    /// What is here of each range, and the rows whose sums are told. Own rows that cannot be read are none.
    fn compare(&self, kind: Kind, behind: &[u8], ranges: &[RangeSum]) -> (Vec<Own>, HashMap<RowSum, Bytes>) {
        let end = ranges.last().map(|range| &range.last[..]);
        let (mut all, mut known, mut open) = (Vec::new(), HashMap::<RowSum, Bytes>::new(), Summing::default());
        let mut own = self.old.state.rows.sweep(kind, between(behind, end), false).map_while(Result::ok).peekable();
        for range in ranges {
            let (mut rows, mut bytes) = (Vec::new(), 0);
            while let Some((key, value)) = own.next_if(|(key, _)| *key <= range.last) {
                open.add(&key, &value);
                let row_bytes = key.len() + value.len();
                bytes += row_bytes;
                if row_bytes >= WORTH_BYTES && bytes <= HELD_BYTES && rows.len() < TOLD_OF_RANGE {
                    rows.push((key, value));
                }
            }
            let found = std::mem::take(&mut open);
            if found.rows == range.rows && found.sum() == range.sum {
                all.push(Own::Same);
                continue;
            }
            let mut sums = Vec::with_capacity(rows.len() * size_of::<RowSum>());
            for (key, value) in rows.into_iter().take(TOLD_OF_PART.saturating_sub(known.len())) {
                let sum = row_sum(&key, &value);
                sums.extend_from_slice(&sum);
                known.insert(sum, key);
            }
            all.push(Own::Other(sums.into()));
        }
        (all, known)
    }

    /// Rows that have to be asked for, of what has been outlined.
    pub fn lacking(&self) -> Vec<Span> {
        let Some(pending) = &self.pending else { return Vec::new() };
        let lacking = pending
            .ranges()
            .filter(|(behind, range, own)| own.lacks() && pending.come(behind, range).count() as u64 != range.rows);
        let span = |(behind, range, own): (&Bytes, &RangeSum, &Own)| Span {
            kind: u32::from(pending.kind.tag()),
            behind: behind.clone(),
            last: range.last.clone(),
            known: match own {
                Own::Other(sums) => sums.clone(),
                Own::Same => Bytes::new(),
            },
        };
        lacking.map(span).collect()
    }

    /// Takes rows that were asked for, and those of the own ones that the sender has too.
    pub fn fill(&mut self, list: RowList) -> Result<(), StoreError> {
        if list.rows.is_empty() && list.same.is_empty() {
            // Earlier releases say so that there is nothing more.
            return Ok(());
        }
        let Some(pending) = self.pending.as_mut().filter(|pending| u32::from(pending.kind.tag()) == list.kind) else {
            return Err(inconsistent("rows came that nobody had asked for"));
        };
        for ExportedRow { key, value } in list.rows {
            let at = pending.ranges.partition_point(|(range, _)| range.last < key);
            if key <= pending.behind || !pending.ranges.get(at).is_some_and(|(_, own)| own.lacks()) {
                return Err(inconsistent("rows came that nobody had asked for"));
            }
            pending.came.insert(key, value);
        }
        for sum in row_sums(&list.same) {
            let key = pending.known.get(&sum).ok_or_else(|| inconsistent("it says that a row is here which is not"))?;
            let value = self.old.state.rows.get(pending.kind, key)?;
            let value = value.ok_or_else(|| inconsistent("a row that was here cannot be read any more"))?;
            pending.came.insert(key.clone(), value);
        }
        let too_many =
            |(behind, range, _): (&Bytes, &RangeSum, &Own)| pending.come(behind, range).count() as u64 > range.rows;
        match pending.ranges().any(too_many) {
            true => Err(inconsistent("more rows came for a range than its outline says")),
            false => Ok(()),
        }
    }

    /// Bytes of the sums that were told of the part that came last.
    pub fn told_bytes(&self) -> u64 {
        let told = |own: &Own| match own {
            Own::Other(sums) => sums.len() as u64,
            Own::Same => 0,
        };
        self.pending.as_ref().map_or(0, |pending| pending.ranges.iter().map(|(_, own)| told(own)).sum())
    }

    /// Rows that have come for what has been outlined last.
    pub fn came(&self) -> usize {
        self.pending.as_ref().map_or(0, |pending| pending.came.len())
    }

    /// The rows of what has been outlined, in order, once all of them are there.
    pub fn take(
        &mut self,
        mut row: impl FnMut(Kind, Bytes, Bytes) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let Some(pending) = self.pending.take() else { return Ok(()) };
        for (behind, range, own) in pending.ranges() {
            if !own.lacks() {
                for own in self.own(pending.kind, between(behind, Some(&range.last))) {
                    let (key, value) = own?;
                    row(pending.kind, key, value)?;
                }
                continue;
            }
            let mut came = Summing::default();
            pending.come(behind, range).for_each(|(key, value)| came.add(key, value));
            if came.rows != range.rows || came.sum() != range.sum {
                return Err(inconsistent("the rows of a range are not those that its outline says"));
            }
            self.drop_own(pending.kind, between(behind, Some(&range.last)), &pending.came)?;
            for (key, value) in pending.come(behind, range) {
                row(pending.kind, key.clone(), value.clone())?;
            }
        }
        Ok(())
    }

    /// Puts the writes that the state which came does not have in their place, durably.
    pub fn keep_orphans(&mut self, new: &dyn EngineView) -> Result<u64, StoreError> {
        let Some(orphans) = &mut self.orphans else { return Ok(0) };
        if planted::is(Bug::OrphansNotKept) {
            return Ok(0);
        }
        orphans.finish(&self.old, new)
    }

    /// All of the outline has come.
    pub fn end(&mut self) -> Result<(), StoreError> {
        if self.pending.is_some() {
            return Err(inconsistent("its end came before its rows"));
        }
        self.leave(Kind::Protection)
    }

    fn own(&self, kind: Kind, range: KeyRange) -> impl Iterator<Item = Result<Row, EngineError>> {
        self.old.state.rows.sweep(kind, range, false)
    }

    /// The outline goes on with this kind: what the own state has of earlier ones behind what was outlined is gone.
    fn leave(&mut self, kind: Kind) -> Result<(), StoreError> {
        if self.reached.0 > Kind::Versions || kind <= Kind::Versions {
            return Ok(());
        }
        // The state that comes may have no version at all.
        let behind = if self.reached.0 == Kind::Versions { self.reached.1.clone() } else { Bytes::new() };
        self.drop_own(Kind::Versions, between(&behind, None), &BTreeMap::new())
    }

    /// Own rows of a range that the state which comes does not have, or has others in their place.
    fn drop_own(&mut self, kind: Kind, range: KeyRange, came: &BTreeMap<Bytes, Bytes>) -> Result<(), StoreError> {
        let Some(orphans) = self.orphans.as_mut().filter(|_| kind == Kind::Versions) else { return Ok(()) };
        for row in self.old.state.rows.sweep(kind, range, false) {
            let (key, value) = row?;
            if came.get(&key) == Some(&value) {
                continue;
            }
            let version: VersionRow = decode_value(kind, &key, value)?;
            orphans.note(version.revision, &key, came.contains_key(&key));
        }
        Ok(())
    }
}

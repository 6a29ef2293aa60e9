//! The lineage of the cluster that a client has seen: it goes on in that one, and in none that is older or another one of the
//! same number.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tonic::metadata::MetadataMap;

use crate::proto::Header;
use crate::reason::Reason;

/// Request metadata in which a client sends the highest epoch that it has seen, in decimal.
pub const EPOCH_METADATA: &str = "saola-epoch";
/// Request metadata with `Header.epoch_plan` of that epoch, 16 hex digits; missing: no plan began it, as far as it knows.
pub const EPOCH_PLAN_METADATA: &str = "saola-epoch-plan";

/// An epoch, told from others of its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epoch {
    /// 1 for the first one; 0: none.
    pub number: u64,
    /// `Header.epoch_plan`.
    pub plan: u64,
}

impl Epoch {
    /// What a client has said in its request that it has seen.
    pub fn from_metadata(metadata: &MetadataMap) -> Option<Epoch> {
        let text = |key| metadata.get(key).and_then(|value| value.to_str().ok());
        let number = text(EPOCH_METADATA)?.parse().ok()?;
        let plan = text(EPOCH_PLAN_METADATA).and_then(|plan| u64::from_str_radix(plan, 16).ok());
        Some(Epoch { number, plan: plan.unwrap_or(0) })
    }

    /// Whether two promotions began these two, of one number.
    pub fn is_twin_of(self, other: Epoch) -> bool {
        self.number == other.number && self.plan != 0 && other.plan != 0 && self.plan != other.plan
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.plan {
            0 => write!(f, "epoch {}", self.number),
            plan => write!(f, "epoch {} (plan {plan:016x})", self.number),
        }
    }
}

/// An answer of another lineage than the one that was seen.
#[derive(Debug)]
pub(crate) struct Older {
    pub reason: Reason,
    /// Both, in words.
    pub says: String,
}

/// The highest epoch seen.
#[derive(Default)]
pub(crate) struct EpochSeen(Mutex<Epoch>);

impl EpochSeen {
    /// It is one value: whole, whoever panicked.
    fn lock(&self) -> MutexGuard<'_, Epoch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells a node of it.
    pub fn tell(&self, metadata: &mut MetadataMap) {
        let seen = *self.lock();
        if seen.number > 0 {
            metadata.insert(EPOCH_METADATA, seen.number.into());
        }
        if let Some(plan) = format!("{:016x}", seen.plan).parse().ok().filter(|_| seen.plan != 0) {
            metadata.insert(EPOCH_PLAN_METADATA, plan);
        }
    }

    /// Takes note of an answer's.
    pub fn see(&self, header: &Header) -> Result<(), Older> {
        let came = Epoch { number: header.epoch, plan: header.epoch_plan };
        let mut seen = self.lock();
        let older = |reason| Err(Older { reason, says: format!("{came}, {} was seen", *seen) });
        if came.number < seen.number {
            return older(Reason::LowerEpoch);
        }
        if came.is_twin_of(*seen) {
            return older(Reason::TwinEpoch);
        }
        if came.number > seen.number || came.plan != 0 {
            *seen = came;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_epoch(epoch: u64, epoch_plan: u64) -> Header {
        Header { epoch, epoch_plan, ..Header::default() }
    }

    #[test]
    fn a_client_goes_on_in_the_epoch_that_it_has_seen_or_in_a_later_one() {
        let seen = EpochSeen::default();
        let reason = |epoch, plan| seen.see(&in_epoch(epoch, plan)).err().map(|older| older.reason);
        assert_eq!(reason(1, 0), None);
        assert_eq!(reason(2, 0), None, "a node that does not know the plan yet");
        assert_eq!(reason(1, 0), Some(Reason::LowerEpoch));
        assert_eq!((reason(2, 7), reason(2, 0), reason(2, 7)), (None, None, None));
        assert_eq!(reason(2, 8), Some(Reason::TwinEpoch));
        assert_eq!((reason(3, 8), reason(2, 7)), (None, Some(Reason::LowerEpoch)));
    }

    #[test]
    fn a_node_reads_what_a_client_tells() {
        let (seen, mut metadata) = (EpochSeen::default(), MetadataMap::new());
        seen.tell(&mut metadata);
        assert_eq!(Epoch::from_metadata(&metadata), None);
        for (epoch, plan) in [(1, 0), (2, 0xabc), (3, u64::MAX)] {
            seen.see(&in_epoch(epoch, plan)).expect("it is later");
            seen.tell(&mut metadata);
            assert_eq!(Epoch::from_metadata(&metadata), Some(Epoch { number: epoch, plan }));
        }
        metadata.insert(EPOCH_METADATA, "two".parse().expect("plain text"));
        assert_eq!(Epoch::from_metadata(&metadata), None);
    }
}

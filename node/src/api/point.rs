//! At which point a read reads: the node's view of the store and the revision up to which it may be shown.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use saola_client::proto::{At, Consistency, Header, at, consistency};
use saola_raft::ReadPoint;
use saola_storage::command::{Command, Op, TimeMark};
use saola_storage::store::{self, Collection, View};
use saola_storage::types::EpochId;

use super::deadline::Deadline;
use super::errors::{Reason, Refusal};
use crate::node::Node;

/// A view and how much of it may be shown.
pub struct Point {
    /// The node's state; may have applied more than `revision`.
    pub view: View,
    /// Newest log index that may be shown.
    pub log_index: u64,
    /// Newest revision that may be shown.
    pub revision: u64,
    /// Lineage.
    pub epoch: EpochId,
    /// For stale reads, how old the answer is at most, milliseconds.
    pub age_ms: Option<u64>,
    node: u64,
}

impl Point {
    /// Of a node that has just reached `point`.
    pub fn new(node: &Node, point: ReadPoint, stale: bool) -> Point {
        let view = node.store().view();
        Point {
            log_index: point.index,
            // What is collected may have gone past the point meanwhile; it never goes past what may be shown.
            revision: point.revision.max(view.collected_below()),
            view,
            epoch: point.epoch,
            age_ms: point.age_ms.filter(|_| stale),
            node: node.id(),
        }
    }

    /// The collection of that name.
    ///
    /// # Errors
    /// UNKNOWN_COLLECTION.
    pub fn collection(&self, name: &str) -> Result<Collection, Refusal> {
        self.view.collection_at(name, self.log_index).ok_or_else(|| Refusal::unknown_collection(name))
    }

    /// All collections.
    pub fn collections(&self) -> Vec<Collection> {
        self.view.collections_at(self.log_index)
    }

    /// What stands in the answer.
    pub fn header(&self) -> Header {
        let EpochId { number: epoch, plan: epoch_plan } = self.epoch;
        Header { revision: self.revision, epoch, epoch_plan, node: self.node, log_index: self.log_index }
    }
}

/// Reaches the point that a call asks for, without looking at a selector.
///
/// # Errors
/// No leader, no quorum, or staler than asked.
pub async fn reach(node: &Node, consistency: Option<Consistency>, deadline: Deadline) -> Result<Point, Refusal> {
    node.check_serves_records()?;
    let within_ms = match consistency.and_then(|c| c.kind) {
        None | Some(consistency::Kind::Linearizable(_)) => return node.read_point(deadline).await,
        Some(consistency::Kind::StaleWithinMs(ms)) => ms,
    };
    let Some(point) = node.replica().stale_point() else {
        return Err(Refusal::new(
            Reason::StaleTooOld,
            "this node has not caught up with a leader since it started".into(),
            "ask another node, or wait until this one has found its leader",
        ));
    };
    match point.age_ms {
        Some(age) if within_ms > 0 && age > within_ms => Err(Refusal::new(
            Reason::StaleTooOld,
            format!("what this node has is up to {age} ms old, the call allows {within_ms} ms"),
            "ask another node, or allow more",
        )),
        _ => Ok(Point::new(node, point, true)),
    }
}

/// Reaches the point that a call asks for and turns its selector into a generation or a revision.
///
/// # Errors
/// As [`reach`], and FUTURE_REVISION or FUTURE_TIME.
pub async fn select(
    node: &Node,
    at: Option<At>,
    consistency: Option<Consistency>,
    deadline: Deadline,
) -> Result<(Point, store::At), Refusal> {
    let point = reach(node, consistency, deadline).await?;
    match at.and_then(|a| a.kind) {
        None => {
            let newest = store::At::Revision(point.revision);
            Ok((point, newest))
        }
        Some(at::Kind::Generation(generation)) => Ok((point, store::At::Generation(generation))),
        Some(at::Kind::Revision(revision)) => {
            check_revision(&point, revision)?;
            Ok((point, store::At::Revision(revision)))
        }
        Some(at::Kind::TimeUs(time_us)) => {
            let mut point = reach_time(node, point, time_us, consistency, deadline).await?;
            let revision = point.view.revision_at_time(time_us)?;
            while let Shown::NotYet = shown(revision, &point, deadline)? {
                node.replica().shown_beyond(point.log_index, deadline.left()).await;
                point = reach(node, consistency, deadline).await?;
            }
            Ok((point, store::At::Revision(revision)))
        }
    }
}

/// As [`select`], for calls over many records, which have no generation in common.
///
/// # Errors
/// As [`select`], and INVALID_ARGUMENT for a generation.
pub async fn select_revision(
    node: &Node,
    at: Option<At>,
    consistency: Option<Consistency>,
    deadline: Deadline,
) -> Result<(Point, u64), Refusal> {
    match select(node, at, consistency, deadline).await? {
        (point, store::At::Revision(revision)) => Ok((point, revision)),
        (_, store::At::Generation(_)) => Err(Refusal::invalid(
            "a generation selects a version of one record, this call reads many".into(),
            "select by revision or time",
        )),
    }
}

/// Refuses revisions that do not exist or may not be shown yet.
///
/// # Errors
/// FUTURE_REVISION or INVALID_ARGUMENT.
pub fn check_revision(point: &Point, revision: u64) -> Result<(), Refusal> {
    match revision {
        0 => Err(Refusal::invalid("there is no revision 0".into(), "an empty store is at revision 1")),
        r if r > point.revision => Err(Refusal::new(
            Reason::FutureRevision,
            format!("revision {r} does not exist yet, this answer would be complete up to {}", point.revision),
            "leave the selector out to read the newest, or read without a staleness bound",
        )),
        _ => Ok(()),
    }
}

/// Whether the state at some time may be shown.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    Now,
    /// This node has applied it, the frontier has not reached it: another point is needed.
    NotYet,
}

/// An earlier state is no answer, for the same question would have another one a moment later.
fn shown(revision: u64, point: &Point, deadline: Deadline) -> Result<Shown, Refusal> {
    if revision <= point.revision {
        return Ok(Shown::Now);
    }
    let reached = point.revision;
    if point.age_ms.is_some() {
        return Err(Refusal::new(
            Reason::FutureTime,
            format!("the state at that time is later than what a stale read may show here, revision {reached}"),
            "read an earlier time, or read without a staleness bound",
        ));
    }
    if deadline.left().is_zero() {
        return Err(Refusal::new(
            Reason::Busy,
            format!(
                "the state at that time is later than what reads have reached within the deadline, revision {reached}"
            ),
            "ask another node, or raise --timeout",
        ));
    }
    Ok(Shown::NotYet)
}

/// Makes sure that no later write can be recorded at or before `time_us`, so that the answer stays true.
async fn reach_time(
    node: &Node,
    point: Point,
    time_us: u64,
    consistency: Option<Consistency>,
    deadline: Deadline,
) -> Result<Point, Refusal> {
    if time_us <= point.view.applied().clock_us {
        return Ok(point);
    }
    if point.age_ms.is_some() {
        return Err(Refusal::new(
            Reason::FutureTime,
            "the time is later than what this node has of the replicated clock, and a stale read cannot move it".into(),
            "read an earlier time, or read without a staleness bound",
        ));
    }
    let now_us = now_us();
    if time_us > now_us {
        return Err(in_the_future(time_us, now_us));
    }
    let mark = Command { request: None, op: Some(Op::TimeMark(TimeMark {})) };
    let marked = node.propose(mark, deadline).await.map_err(|refusal| match refusal.reason() {
        // A read has no outcome that could be unknown.
        Reason::GateWait | Reason::GateBusy => Refusal::new(
            Reason::Busy,
            "the state at that time cannot be fixed while the other site does not answer".into(),
            "read an earlier time, or leave the time out; `saola status` shows the sites",
        ),
        _ => refusal,
    })?;
    if time_us > marked.recorded_at_us {
        // The leader's clock is behind this node's.
        return Err(in_the_future(time_us, marked.recorded_at_us));
    }
    reach(node, consistency, deadline).await
}

fn in_the_future(time_us: u64, clock_us: u64) -> Refusal {
    let ahead = Duration::from_micros(time_us.saturating_sub(clock_us));
    let ahead = match ahead.as_secs() {
        0..10 => format!("{} ms", ahead.as_micros().div_ceil(1000)),
        seconds @ 10..7_200 => format!("{seconds} s"),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3_600),
        seconds => format!("{} days", seconds / 86_400),
    };
    Refusal::new(
        Reason::FutureTime,
        format!("{} has not come yet: it is {ahead} ahead of the cluster's clock, {}", utc(time_us), utc(clock_us)),
        "ask for an earlier time, or leave the time out to read the newest; if that time has passed, check the clocks \
         of this machine and of the nodes",
    )
}

/// A moment in RFC 3339; a time so far off that it cannot be written so stays a number.
fn utc(time_us: u64) -> String {
    let moment = i64::try_from(time_us).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
    moment.map_or_else(|| format!("{time_us} µs after 1970"), |moment| moment.to_string())
}

fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use saola_storage::engine::memory::MemoryHome;
    use saola_storage::store::{Keeps, Store, StoreSettings};
    use tonic::metadata::MetadataMap;

    use super::*;

    fn point(revision: u64, age_ms: Option<u64>) -> Point {
        let store = Store::open(Arc::new(MemoryHome::new()), Keeps::Records, StoreSettings::default()).expect("memory");
        let epoch = EpochId { number: 1, plan: 0 };
        Point { view: store.view(), log_index: 1, revision, epoch, age_ms, node: 1 }
    }

    fn deadline(timeout: &str) -> Deadline {
        let mut metadata = MetadataMap::new();
        metadata.insert("grpc-timeout", timeout.parse().expect("ascii"));
        Deadline::of(&metadata)
    }

    #[test]
    fn a_state_that_may_not_be_shown_yet_is_waited_for_and_never_replaced_by_an_earlier_one() {
        let (soon, over) = (deadline("60S"), deadline("0m"));
        assert_eq!(shown(7, &point(7, None), over).expect("it may be shown"), Shown::Now);
        assert_eq!(shown(7, &point(9, Some(50)), over).expect("it may be shown"), Shown::Now);
        assert_eq!(shown(8, &point(7, None), soon).expect("there is time"), Shown::NotYet);
        assert_eq!(shown(8, &point(7, None), over).expect_err("no time").reason(), Reason::Busy);
        assert_eq!(shown(8, &point(7, Some(50)), soon).expect_err("stale").reason(), Reason::FutureTime);
    }
}

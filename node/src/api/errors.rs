//! Why a call is refused, as the client hears it: reason code, message, next step.

use saola_client::reason::{NEXT, RETRY, Retry};
use saola_raft::{AdminError, PinError, ProposeError, ReadError};
use saola_storage::command::Conflict;
use saola_storage::error::StoreError;
use tonic::Status;

pub use saola_client::Reason;

/// What a node says that waits to be made part of a cluster.
const NOT_ADOPTED: &str = "this node is not part of a cluster yet";
/// What a witness says when it is asked for records.
pub const WITNESS: &str = "this node is a witness: it keeps no records";

/// A refused call.
#[derive(Debug)]
pub struct Refusal {
    reason: Reason,
    message: String,
    details: Vec<(&'static str, String)>,
}

impl Refusal {
    /// With the next step for this very case.
    pub fn new(reason: Reason, message: String, next: &str) -> Refusal {
        Refusal { reason, message, details: vec![(NEXT, next.into())] }
    }

    /// With the next step that the register gives for the reason.
    pub fn plain(reason: Reason, message: String) -> Refusal {
        Refusal { reason, message, details: Vec::new() }
    }

    /// The same, for a call that the client shall not send again by itself: a human decides.
    pub fn never_again(mut self) -> Refusal {
        self.details.push((RETRY, Retry::Never.as_str().into()));
        self
    }

    /// From a sentence of the replica, which ends with its next step behind the last colon or semicolon.
    fn from_replica(reason: Reason, sentence: &str) -> Refusal {
        match [": ", "; "].iter().filter_map(|mark| sentence.rfind(mark)).max() {
            Some(at) => Refusal::new(reason, sentence[..at].into(), &sentence[at + 2..]),
            None => Refusal::plain(reason, sentence.into()),
        }
    }

    /// INVALID_ARGUMENT.
    pub fn invalid(message: String, next: &str) -> Refusal {
        Refusal::new(Reason::InvalidArgument, message, next)
    }

    /// UNKNOWN_COLLECTION.
    pub fn unknown_collection(name: &str) -> Refusal {
        Refusal::plain(Reason::UnknownCollection, format!("there is no collection {name:?}"))
    }

    /// CONFLICT: says what is there.
    pub fn conflict(there: Conflict) -> Refusal {
        let Conflict { live, generation, revision } = there;
        let message = match (generation, live) {
            (0, _) => "the condition does not hold: the record never existed".into(),
            (_, true) => {
                format!(
                    "the condition does not hold: the record is live at generation {generation}, revision {revision}"
                )
            }
            (_, false) => format!(
                "the condition does not hold: the record was deleted as generation {generation}, revision {revision}"
            ),
        };
        let details = vec![
            ("live", live.to_string()),
            ("generation", generation.to_string()),
            ("revision", revision.to_string()),
        ];
        Refusal { reason: Reason::Conflict, message, details }
    }

    /// INTERNAL, and a line in the log: nothing that a client sends should cause it.
    pub fn internal(error: impl std::fmt::Display) -> Refusal {
        tracing::error!(%error, "call failed inside the node");
        Refusal::plain(Reason::Internal, error.to_string())
    }

    /// The reason code.
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// What is wrong, without the next step.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        refusal.reason.status(refusal.message, &refusal.details)
    }
}

impl From<ProposeError> for Refusal {
    fn from(error: ProposeError) -> Refusal {
        let message = error.to_string();
        match error {
            ProposeError::NotAdopted => Refusal::plain(Reason::NotAdopted, NOT_ADOPTED.into()),
            ProposeError::NoLeader { waited_ms, reason } => Refusal::plain(
                Reason::NoLeader,
                format!("not written: no leader took it within {waited_ms} ms ({reason})"),
            ),
            ProposeError::WritesRefused { reason } => Refusal::from_replica(Reason::DiskFull, &reason),
            ProposeError::DiskHangs { reason } => Refusal::from_replica(Reason::DiskHangs, &reason),
            ProposeError::Busy => Refusal::plain(Reason::Busy, "the leader has too many writes waiting".into()),
            ProposeError::Unknown { reason } => Refusal::plain(Reason::OutcomeUnknown, reason),
            ProposeError::GateBusy { reason } => Refusal::from_replica(Reason::GateBusy, &reason),
            ProposeError::GateWait { reason } => Refusal::from_replica(Reason::GateWait, &reason),
            ProposeError::Refused(_) => Refusal::from_replica(Reason::InvalidArgument, &message),
            ProposeError::Stopped(_) => Refusal::plain(Reason::Stopping, message),
        }
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Refusal {
        let message = error.to_string();
        match error {
            ReadError::NotAdopted => Refusal::plain(Reason::NotAdopted, NOT_ADOPTED.into()),
            ReadError::NoLeader { waited_ms, reason } => {
                Refusal::plain(Reason::NoQuorum, format!("no leader with a quorum within {waited_ms} ms: {reason}"))
            }
            ReadError::Timeout { waited_ms } => Refusal::new(
                Reason::Busy,
                format!("this node lags: it has not caught up with the leader within {waited_ms} ms"),
                "ask another node; `saola status` shows how far this one lags",
            ),
            ReadError::Ahead { waited_ms } => Refusal::new(
                Reason::Busy,
                format!(
                    "this node started with records that may not be shown yet, and still may not after {waited_ms} ms"
                ),
                "ask another node; `saola status` shows how far each has come, and whether the other site is waited for",
            ),
            ReadError::WitnessNode => Refusal::plain(Reason::Witness, WITNESS.into()),
            ReadError::Stopped(_) => Refusal::plain(Reason::Stopping, message),
        }
    }
}

impl From<PinError> for Refusal {
    fn from(error: PinError) -> Refusal {
        let message = format!("the next page could not show the same revision: {error}");
        match error {
            PinError::Gone { .. } => {
                Refusal::new(Reason::RevisionGone, message, "begin the listing anew, without a page token")
            }
            PinError::BeingCollected | PinError::TooMany | PinError::CutOff => {
                Refusal::new(Reason::Busy, message, "try again in a moment, or list a later revision")
            }
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        match &error {
            StoreError::RevisionGone { oldest, .. } => {
                let next = format!("list as of revision {oldest} or later; single records may be readable earlier");
                Refusal::new(Reason::RevisionGone, error.to_string(), &next)
            }
            StoreError::RecordGone { oldest, .. } => {
                let next =
                    format!("read as of revision {oldest} or later; `saola history` shows the versions that are kept");
                Refusal::new(Reason::RevisionGone, error.to_string(), &next)
            }
            StoreError::GenerationGone { oldest, .. } => {
                let next =
                    format!("read generation {oldest} or later; `saola history` shows the versions that are kept");
                Refusal::new(Reason::RevisionGone, error.to_string(), &next)
            }
            StoreError::Corrupt { .. } => Refusal::plain(Reason::Corrupt, error.to_string()),
            StoreError::Quarantined { .. } => Refusal::from_replica(Reason::Corrupt, &error.to_string()),
            _ => Refusal::internal(error),
        }
    }
}

impl From<AdminError> for Refusal {
    fn from(error: AdminError) -> Refusal {
        let message = error.to_string();
        match error {
            AdminError::Invalid(_) | AdminError::PeerUnreachable { .. } => {
                Refusal::from_replica(Reason::MembershipRefused, &message)
            }
            AdminError::AlreadyMade(_) => Refusal::from_replica(Reason::AlreadyAdopted, &message),
            AdminError::NoLeader(reason) => {
                Refusal::plain(Reason::NoLeader, format!("nothing was changed: no leader ({reason})"))
            }
            AdminError::Unknown(reason) => Refusal::new(
                Reason::OutcomeUnknown,
                reason,
                "see `saola status` for the members and the leader; the command can be repeated: it finishes what is left",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use saola_client::Retry;

    use super::*;

    #[test]
    fn a_write_that_may_have_been_applied_is_never_reported_as_certain() {
        let errors = [
            ProposeError::NotAdopted,
            ProposeError::NoLeader { waited_ms: 1, reason: "none".into() },
            ProposeError::WritesRefused { reason: "disk".into() },
            ProposeError::DiskHangs { reason: "disk".into() },
            ProposeError::Busy,
            ProposeError::Unknown { reason: "timeout".into() },
            ProposeError::Refused("witness".into()),
            ProposeError::Stopped("fatal".into()),
        ];
        for error in errors {
            let certain = error.certainly_not_applied();
            let retry = Refusal::from(error).reason().retry();
            assert_eq!(certain, retry != Retry::UnknownOutcome);
        }
    }

    #[test]
    fn a_change_of_members_that_may_have_happened_is_never_reported_as_refused() {
        let unknown = Refusal::from(AdminError::Unknown("timeout".into()));
        assert_eq!(unknown.reason().retry(), Retry::UnknownOutcome);
        let refused = Refusal::from(AdminError::Invalid("no such node".into()));
        assert_eq!(refused.reason().retry(), Retry::Never);
    }

    #[test]
    fn the_next_step_of_a_refused_change_is_the_one_of_its_cause() {
        for (sentence, what, next) in [
            ("node 1 (a) leads: hand it over first", "node 1 (a) leads", "hand it over first"),
            (
                "node 2 at h:1 does not answer: connection refused; start it",
                "node 2 at h:1 does not answer: connection refused",
                "start it",
            ),
            ("node 9 is not a member", "node 9 is not a member", Reason::MembershipRefused.next_step()),
        ] {
            let refusal = Refusal::from(AdminError::Invalid(sentence.into()));
            let given = refusal.details.first().map_or(refusal.reason.next_step(), |(_, given)| given.as_str());
            assert_eq!((refusal.message.as_str(), given), (what, next));
        }
    }

    #[test]
    fn what_policy_has_removed_is_gone_and_not_unknown_and_names_what_is_left() {
        let collection = || "agency".to_owned();
        for error in [
            StoreError::RevisionGone { collection: collection(), asked: 3, oldest: 7 },
            StoreError::RecordGone { collection: collection(), asked: 3, oldest: 7 },
            StoreError::GenerationGone { collection: collection(), asked: 3, oldest: 7 },
        ] {
            let refusal = Refusal::from(error);
            assert_eq!(refusal.reason(), Reason::RevisionGone);
            assert!(refusal.message.contains('7') && refusal.details[0].1.contains('7'), "{refusal:?}");
        }
        let pinned = Refusal::from(PinError::BeingCollected);
        assert_eq!(pinned.reason().retry(), Retry::Elsewhere, "another node may have promised it");
    }

    #[test]
    fn a_conflict_says_what_is_there() {
        for (there, expected) in [
            (Conflict { live: false, generation: 0, revision: 0 }, "never existed"),
            (Conflict { live: true, generation: 3, revision: 9 }, "live at generation 3, revision 9"),
            (Conflict { live: false, generation: 4, revision: 10 }, "deleted as generation 4, revision 10"),
        ] {
            let status = Status::from(Refusal::conflict(there));
            assert!(status.message().contains(expected), "{}", status.message());
            assert_eq!(status.code(), Reason::Conflict.code());
        }
    }
}

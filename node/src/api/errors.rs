//! Why a call is refused, as the client hears it: reason code, message, next step.

use saola_client::reason::NEXT;
use saola_raft::{AdminError, ProposeError, ReadError};
use saola_storage::command::Conflict;
use saola_storage::error::StoreError;
use tonic::Status;

pub use saola_client::Reason;

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
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        refusal.reason.status(refusal.message, &refusal.details)
    }
}

impl From<ProposeError> for Refusal {
    fn from(error: ProposeError) -> Refusal {
        let reason = match &error {
            ProposeError::NotAdopted => Reason::NotAdopted,
            ProposeError::NoLeader { .. } => Reason::NoLeader,
            ProposeError::WritesRefused { .. } => Reason::DiskFull,
            ProposeError::Busy => Reason::Busy,
            ProposeError::Unknown { .. } => Reason::OutcomeUnknown,
            ProposeError::Refused(_) => Reason::InvalidArgument,
            ProposeError::Stopped(_) => Reason::Stopping,
        };
        Refusal::plain(reason, error.to_string())
    }
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Refusal {
        let reason = match &error {
            ReadError::NotAdopted => Reason::NotAdopted,
            ReadError::NoLeader { .. } => Reason::NoQuorum,
            ReadError::Timeout { .. } => Reason::Busy,
            ReadError::WitnessNode => Reason::Witness,
            ReadError::Stopped(_) => Reason::Stopping,
        };
        Refusal::plain(reason, error.to_string())
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Refusal {
        match &error {
            StoreError::Corrupt { .. } => {
                tracing::error!(%error, "stored bytes do not verify");
                Refusal::plain(Reason::Corrupt, error.to_string())
            }
            _ => Refusal::internal(error),
        }
    }
}

impl From<AdminError> for Refusal {
    fn from(error: AdminError) -> Refusal {
        let reason = match &error {
            AdminError::Invalid(_) | AdminError::PeerUnreachable { .. } => Reason::MembershipRefused,
            AdminError::NoLeader(_) => Reason::NoLeader,
            AdminError::Unknown(_) => Reason::OutcomeUnknown,
        };
        Refusal::plain(reason, error.to_string())
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

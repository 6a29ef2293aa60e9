//! How the command ends: an exit code that scripts can rely on, and one message with the next step.

use std::fmt;
use std::io;

use saola_client::{Error, Reason};

/// Exit codes. Stable: scripts decide on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or healthy.
    Done = 0,
    /// Any failure without a code of its own.
    Other = 1,
    /// The command line or an input file is wrong.
    Usage = 2,
    /// No node can be reached, or the cluster has no leader or no quorum.
    Unreachable = 3,
    /// A condition does not hold, or the thing is not there.
    Precondition = 4,
    /// A check found something that wants attention.
    Degraded = 5,
    /// A check found something that cannot wait.
    Critical = 6,
    /// The nodes cannot open their keys.
    Sealed = 7,
    /// A hash, a digest or a proof does not verify.
    Verification = 8,
    /// The caller may not do this.
    Permission = 9,
    /// A write may or may not have been applied.
    Unknown = 10,
    /// Ended by a signal.
    Interrupted = 130,
}

impl Exit {
    /// The code of a failure that has no reason of a node's or the client library's.
    fn code(self) -> &'static str {
        match self {
            Exit::Done => "DONE",
            Exit::Other => "OTHER",
            Exit::Usage => "USAGE",
            Exit::Unreachable => "UNREACHABLE",
            Exit::Precondition => "PRECONDITION",
            Exit::Degraded => "DEGRADED",
            Exit::Critical => "CRITICAL",
            Exit::Sealed => "SEALED",
            Exit::Verification => "VERIFICATION",
            Exit::Permission => "PERMISSION",
            Exit::Unknown => "UNKNOWN",
            Exit::Interrupted => "INTERRUPTED",
        }
    }
}

/// Why the command failed, on what, and what to do next.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    code: String,
    what: String,
    next: String,
}

impl Failure {
    /// A failure with its exit code, what failed on what, and the next step.
    pub fn new(exit: Exit, what: impl Into<String>, next: impl Into<String>) -> Failure {
        Failure { exit, code: exit.code().to_owned(), what: what.into(), next: next.into() }
    }

    /// The command line or an input file is wrong.
    pub fn usage(what: impl Into<String>, next: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, what, next)
    }

    /// A file cannot be read or written; `doing` says what was tried, as in `read topology.toml`.
    pub fn file(doing: impl fmt::Display, source: &io::Error) -> Failure {
        Failure::new(Exit::Other, format!("{doing}: {source}"), "check the path, its permissions and the free space")
    }

    /// A file that the command line names cannot be read; `doing` as in [`Failure::file`].
    pub fn input(doing: impl fmt::Display, source: &io::Error) -> Failure {
        Failure::usage(format!("{doing}: {source}"), "check the path and that you may read it")
    }

    /// The same failure seen from further out: `doing: what`.
    pub fn while_doing(mut self, doing: impl fmt::Display) -> Failure {
        self.what = format!("{doing}: {}", self.what);
        self
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    /// What a program reads of it: one line, schema `saola/error/v1`.
    pub fn to_json(&self) -> String {
        let Failure { exit, code, what, next } = self;
        let exit = *exit as u8;
        let schema = "saola/error/v1";
        serde_json::json!({ "schema": schema, "code": code, "exit": exit, "message": what, "next": next }).to_string()
    }

    /// What failed, on what, without the next step.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The next step.
    pub fn next(&self) -> &str {
        &self.next
    }
}

/// Turns a client's error into the failure of what was tried, as in `put agency/x`: for `map_err`.
pub fn doing(what: impl fmt::Display) -> impl FnOnce(Error) -> Failure {
    move |error| Failure::from(error).while_doing(what)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}\nnext: {}", self.what, self.next)
    }
}

impl std::error::Error for Failure {}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let exit = match &error {
            Error::Unavailable(_) => Exit::Unreachable,
            Error::Conflict { .. } | Error::NotFound(_) | Error::AlreadyExists(_) => Exit::Precondition,
            Error::Invalid(details) if details.reason == Reason::MembershipRefused.as_str() => Exit::Precondition,
            Error::Invalid(_) => Exit::Usage,
            Error::NotAllowed(_) => Exit::Permission,
            Error::Sealed(_) => Exit::Sealed,
            Error::UnknownOutcome { .. } => Exit::Unknown,
            Error::Internal(details) if details.reason == Reason::Corrupt.as_str() => Exit::Verification,
            Error::Internal(_) => Exit::Other,
        };
        let details = error.details();
        let what = match &error {
            Error::UnknownOutcome { request: Some(request), .. } => {
                format!(
                    "outcome unknown, the write may have been applied: {} [{}], request {request}",
                    details.message, details.reason
                )
            }
            Error::UnknownOutcome { request: None, .. } => {
                format!("outcome unknown, the change may have been made: {} [{}]", details.message, details.reason)
            }
            _ => format!("{} [{}]", details.message, details.reason),
        };
        Failure { exit, code: details.reason.clone(), what, next: details.next.clone() }
    }
}

#[cfg(test)]
mod tests {
    use saola_client::{Details, RequestId};

    use super::*;

    fn details(reason: Reason) -> Details {
        Details { reason: reason.as_str().into(), message: "put agency/x".into(), next: reason.next_step().into() }
    }

    #[test]
    fn every_kind_of_error_has_its_exit_code() {
        let conflict = Error::Conflict { live: true, generation: 3, revision: 9, details: details(Reason::Conflict) };
        let request = RequestId { client: [1; 16], since: 1, sequence: 7 };
        let unknown = Error::UnknownOutcome { request: Some(request), details: details(Reason::OutcomeUnknown) };
        let expected = [
            (Error::Unavailable(details(Reason::NoQuorum)), 3),
            (conflict, 4),
            (Error::NotFound(details(Reason::UnknownCollection)), 4),
            (Error::AlreadyExists(details(Reason::CollectionExists)), 4),
            (Error::Invalid(details(Reason::InvalidId)), 2),
            (Error::Invalid(details(Reason::MembershipRefused)), 4),
            (Error::Sealed(details(Reason::Sealed)), 7),
            (Error::Internal(details(Reason::Corrupt)), 8),
            (Error::NotAllowed(details(Reason::NotAllowed)), 9),
            (unknown, 10),
            (Error::Internal(details(Reason::Internal)), 1),
        ];
        for (error, code) in expected {
            let failure = Failure::from(error.clone());
            assert_eq!(failure.exit() as u8, code, "{error:?}");
            assert!(!failure.next().is_empty());
        }
    }

    #[test]
    fn programs_read_the_reason_of_a_failure_and_its_next_step() {
        let failure = Failure::from(Error::Unavailable(details(Reason::NoQuorum))).while_doing("get \"x\"");
        let object: serde_json::Value = serde_json::from_str(&failure.to_json()).expect("an object");
        let expected = serde_json::json!({
            "schema": "saola/error/v1", "code": "NO_QUORUM", "exit": 3,
            "message": "get \"x\": put agency/x [NO_QUORUM]", "next": Reason::NoQuorum.next_step(),
        });
        assert_eq!(object, expected);
        let plain: serde_json::Value = serde_json::from_str(&Failure::usage("a", "b").to_json()).expect("an object");
        assert_eq!((&plain["code"], &plain["exit"]), (&"USAGE".into(), &2.into()));
    }

    #[test]
    fn a_failure_is_one_message_and_one_next_step() {
        let conflict = Error::Conflict { live: false, generation: 3, revision: 9, details: details(Reason::Conflict) };
        let text = Failure::from(conflict).while_doing("import a.ndjson").to_string();
        assert_eq!(
            text,
            "error: import a.ndjson: put agency/x [CONFLICT]\n\
             next: read the record and decide again with its present generation"
        );
    }
}

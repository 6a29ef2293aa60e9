//! Failures, sorted by what the caller does next, and how statuses from nodes become them.

use std::collections::HashMap;
use std::error::Error as _;
use std::fmt;

use thiserror::Error;
use tonic::{Code, ConnectError, Status};
use tonic_types::StatusExt;

use crate::reason::{DOMAIN, NEXT, RETRY, Reason, Retry};
use crate::types::RequestId;

/// What failed, why, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Details {
    /// Stable code, see [`crate::reason`].
    pub reason: String,
    /// What failed, on what.
    pub message: String,
    /// The next step.
    pub next: String,
}

impl Details {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Details {
        let (reason, next) = (reason.as_str().to_owned(), reason.next_step().to_owned());
        Details { reason, message: message.into(), next }
    }
}

impl fmt::Display for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]; next: {}", self.message, self.reason, self.next)
    }
}

/// Why a call failed. Each kind asks for another next action.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// No node could serve the call within the deadline. A write was certainly not applied: it may be sent anew.
    #[error("{0}")]
    Unavailable(Details),
    /// `expect` did not hold: decide again on what is there now.
    #[error("{details}")]
    Conflict {
        /// True when the record is live.
        live: bool,
        /// Newest generation; 0 when the record never existed.
        generation: u64,
        /// Revision of that generation.
        revision: u64,
        /// Reason, message, next step.
        details: Details,
    },
    /// There is no such record or collection.
    #[error("{0}")]
    NotFound(Details),
    /// It is there already.
    #[error("{0}")]
    AlreadyExists(Details),
    /// The request itself is wrong, or asks for something that cannot be: correct it.
    #[error("{0}")]
    Invalid(Details),
    /// The caller may not do this.
    #[error("{0}")]
    NotAllowed(Details),
    /// The nodes that could be reached cannot open their keys. A write was certainly not applied.
    #[error("{0}")]
    Sealed(Details),
    /// A write may or may not have been applied: read the record's history before sending it anew.
    #[error("outcome unknown{}: {details}", .request.map(|id| format!(" of request {id}")).unwrap_or_default())]
    UnknownOutcome {
        /// Id under which it was sent; none for changes of the cluster, which carry none.
        request: Option<RequestId>,
        /// The last failure.
        details: Details,
    },
    /// A fault in a node or in an answer.
    #[error("{0}")]
    Internal(Details),
}

impl Error {
    /// Reason, message and next step.
    pub fn details(&self) -> &Details {
        match self {
            Error::Unavailable(details)
            | Error::NotFound(details)
            | Error::AlreadyExists(details)
            | Error::Invalid(details)
            | Error::NotAllowed(details)
            | Error::Sealed(details)
            | Error::Internal(details)
            | Error::Conflict { details, .. }
            | Error::UnknownOutcome { details, .. } => details,
        }
    }

    /// The stable reason code.
    pub fn reason(&self) -> &str {
        &self.details().reason
    }

    /// What to do next.
    pub fn next_step(&self) -> &str {
        &self.details().next
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Error {
        Error::Invalid(Details::new(Reason::InvalidArgument, message))
    }
}

/// One failed attempt.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub details: Details,
    pub retry: Retry,
    code: Code,
    metadata: HashMap<String, String>,
}

impl Failure {
    /// A failure that the client found itself.
    pub fn local(reason: Reason, message: impl Into<String>) -> Failure {
        Failure {
            details: Details::new(reason, message),
            retry: reason.retry(),
            code: reason.code(),
            metadata: HashMap::new(),
        }
    }

    /// Reads a status from `endpoint`.
    pub fn from_status(status: &Status, endpoint: &str) -> Failure {
        let Some(info) = status.get_details_error_info().filter(|info| info.domain == DOMAIN) else {
            return Failure::without_info(status, endpoint);
        };
        let known = Reason::parse(&info.reason);
        let word = info.metadata.get(RETRY).and_then(|word| Retry::parse(word));
        let next = info.metadata.get(NEXT).cloned();
        Failure {
            // A refusal that this release cannot classify may have come after the write was proposed.
            retry: word.or(known.map(Reason::retry)).unwrap_or(Retry::UnknownOutcome),
            details: Details {
                next: next.or(known.map(|reason| reason.next_step().to_owned())).unwrap_or_default(),
                message: status.message().to_owned(),
                reason: info.reason,
            },
            code: status.code(),
            metadata: info.metadata,
        }
    }

    /// Statuses that no node of ours made: the transport broke, or something stands in between.
    fn without_info(status: &Status, endpoint: &str) -> Failure {
        let message = format!("call {endpoint}: {}", chain(status));
        let reason = match status.code() {
            // Nothing was sent over a connection that was never made.
            Code::Unavailable if never_connected(status) => Reason::Unreachable,
            Code::InvalidArgument | Code::OutOfRange | Code::ResourceExhausted | Code::FailedPrecondition => {
                Reason::InvalidArgument
            }
            Code::PermissionDenied | Code::Unauthenticated => Reason::NotAllowed,
            Code::NotFound => Reason::NotFound,
            Code::Unimplemented => Reason::Internal,
            _ => {
                return Failure { retry: Retry::UnknownOutcome, ..Failure::local(Reason::Unreachable, message) };
            }
        };
        Failure::local(reason, message)
    }

    /// The same, found after the node had acted.
    pub fn after_acting(self) -> Failure {
        Failure { retry: Retry::UnknownOutcome, ..self }
    }

    /// True for decisions that were made by applying the request, so that they settle every attempt of it.
    pub fn settles(&self) -> bool {
        let decided = [Reason::Conflict, Reason::NotFound, Reason::CollectionExists];
        decided.iter().any(|reason| reason.as_str() == self.details.reason)
    }

    pub fn is(&self, reason: Reason) -> bool {
        self.details.reason == reason.as_str()
    }

    /// The error of a call that ends with this failure and was certainly not applied.
    pub fn into_error(self) -> Error {
        let number = |key: &str| self.metadata.get(key).and_then(|text| text.parse().ok()).unwrap_or(0);
        match Reason::parse(&self.details.reason) {
            Some(Reason::Conflict) => {
                return Error::Conflict {
                    live: self.metadata.get("live").is_some_and(|live| live == "true"),
                    generation: number("generation"),
                    revision: number("revision"),
                    details: self.details,
                };
            }
            Some(Reason::Sealed) => return Error::Sealed(self.details),
            _ => {}
        }
        match self.code {
            _ if self.retry == Retry::Elsewhere => Error::Unavailable(self.details),
            Code::NotFound => Error::NotFound(self.details),
            Code::AlreadyExists => Error::AlreadyExists(self.details),
            Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition => Error::Invalid(self.details),
            Code::PermissionDenied | Code::Unauthenticated => Error::NotAllowed(self.details),
            Code::Unavailable | Code::DeadlineExceeded | Code::Unknown => Error::Unavailable(self.details),
            _ => Error::Internal(self.details),
        }
    }
}

fn sources(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(status.source(), |&error| error.source())
}

fn never_connected(status: &Status) -> bool {
    sources(status).any(|error| error.is::<ConnectError>())
}

/// The message with its causes, each once.
fn chain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    for cause in sources(status).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = if text.is_empty() { cause } else { format!("{text}: {cause}") };
        }
    }
    text
}

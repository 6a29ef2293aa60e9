//! Failures, sorted by what the caller does next, and how statuses from nodes become them.

use std::collections::HashMap;
use std::error::Error as _;
use std::fmt;
use std::io;

use rustls::{AlertDescription, CertificateError};
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

    /// Statuses that no node of ours made: the transport broke, or something stands in between. Whatever their code
    /// says, only a connection that was never made is proof that the node did not act.
    fn without_info(status: &Status, endpoint: &str) -> Failure {
        if let Some(failure) = tls_failure(status, endpoint) {
            return failure;
        }
        let message = format!("call {endpoint}: {}", chain(status));
        let reason = match status.code() {
            // Nothing was sent over a connection that was never made.
            Code::Unavailable if never_connected(status) => return Failure::local(Reason::Unreachable, message),
            // A stream or connection that broke off comes as any of these.
            Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled => Reason::Unreachable,
            Code::DeadlineExceeded => Reason::NoAnswer,
            _ => Reason::ForeignAnswer,
        };
        let code = if reason == Reason::ForeignAnswer { status.code() } else { reason.code() };
        Failure { retry: Retry::UnknownOutcome, code, ..Failure::local(reason, message) }
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

    /// True when the two sides do not trust each other's certificates, which no further attempt changes.
    pub fn is_distrust(&self) -> bool {
        self.is(Reason::NodeUntrusted) || self.is(Reason::CertificateRefused)
    }

    /// How much it tells of why the cluster does not serve, next to failures of other nodes.
    pub fn weight(&self) -> u8 {
        match Reason::parse(&self.details.reason) {
            Some(Reason::Unreachable) => 0,
            Some(Reason::NoAnswer) => 1,
            // They say that this node is none to ask, not why the others do not serve.
            Some(
                Reason::Witness | Reason::Stopping | Reason::Repairing | Reason::NotAdopted | Reason::ForeignAnswer,
            ) => 2,
            Some(Reason::NodeUntrusted | Reason::CertificateRefused) => 2,
            _ => 3,
        }
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
    std::iter::successors(status.source(), |&error| inner(error).or_else(|| error.source()))
}

/// An I/O error hides the error that it was made of from `source`, which goes on behind it.
fn inner<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e (dyn std::error::Error + 'static)> {
    let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
    Some(inner)
}

/// A handshake that failed over a certificate: the node has seen no call. (In TLS 1.3 the refusal of a client's
/// certificate arrives when the client already takes the connection for made.)
fn tls_failure(status: &Status, endpoint: &str) -> Option<Failure> {
    let (reason, what, next) = match sources(status).find_map(|error| error.downcast_ref::<rustls::Error>())? {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => (
            Reason::NodeUntrusted,
            "the node's certificate is signed by another authority".to_owned(),
            Reason::NodeUntrusted.next_step(),
        ),
        rustls::Error::InvalidCertificate(error) => (
            Reason::NodeUntrusted,
            format!("the node's certificate is not valid: {error}"),
            "renew the node's certificate; check the endpoint and this machine's clock",
        ),
        rustls::Error::AlertReceived(
            alert @ (AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRequired
            | AlertDescription::UnknownCA
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied),
        ) => (
            Reason::CertificateRefused,
            format!("the node refused this client's certificate ({alert:?})"),
            Reason::CertificateRefused.next_step(),
        ),
        _ => return None,
    };
    let mut failure = Failure::local(reason, format!("call {endpoint}: {what}"));
    failure.details.next = next.to_owned();
    Some(failure)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Ended;

    /// Every code of gRPC; 0 is OK.
    const CODES: std::ops::RangeInclusive<i32> = 0..=16;

    #[test]
    fn a_status_that_no_node_of_ours_made_is_never_taken_for_certainly_not_applied() {
        for code in CODES.map(Code::from) {
            let failure = Failure::from_status(&Status::new(code, "made elsewhere"), "127.0.0.1:7001");
            assert_eq!(failure.retry, Retry::UnknownOutcome, "{code:?}");
            assert!(!failure.settles(), "{code:?}: {failure:?}");
            let error = Ended { failure, maybe: true }.into_error(None);
            assert!(matches!(error, Error::UnknownOutcome { .. }), "{code:?}: {error}");
            assert!(error.details().message.contains("127.0.0.1:7001"), "{error}");
        }
    }

    #[test]
    fn only_a_connection_that_was_never_made_is_certain_without_a_reason() {
        for code in CODES.map(Code::from) {
            let mut status = Status::new(code, "transport error");
            status.set_source(std::sync::Arc::new(ConnectError("refused".into())));
            let certain = Failure::from_status(&status, "127.0.0.1:7001").retry == Retry::Elsewhere;
            assert_eq!(certain, code == Code::Unavailable, "{code:?}");
        }
    }

    #[test]
    fn certificates_that_are_not_trusted_are_told_from_other_failures() {
        let fails = |error: rustls::Error| {
            let mut status = Status::unknown("transport error");
            status.set_source(std::sync::Arc::new(io::Error::new(io::ErrorKind::InvalidData, error)));
            Failure::from_status(&status, "127.0.0.1:7001")
        };
        let cases = [
            (rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer), "NODE_UNTRUSTED", "--ca"),
            (rustls::Error::InvalidCertificate(CertificateError::BadSignature), "NODE_UNTRUSTED", "--ca"),
            (rustls::Error::InvalidCertificate(CertificateError::Expired), "NODE_UNTRUSTED", "renew"),
            (rustls::Error::AlertReceived(AlertDescription::UnknownCA), "CERTIFICATE_REFUSED", "--cert"),
            (rustls::Error::AlertReceived(AlertDescription::CertificateExpired), "CERTIFICATE_REFUSED", "--cert"),
        ];
        for (error, reason, next) in cases {
            let failure = fails(error.clone());
            assert_eq!((failure.details.reason.as_str(), failure.retry), (reason, Retry::Elsewhere), "{error}");
            assert!(failure.is_distrust() && failure.details.next.contains(next), "{failure:?}");
        }
        for error in [rustls::Error::AlertReceived(AlertDescription::InternalError), rustls::Error::DecryptError] {
            assert_eq!(fails(error).retry, Retry::UnknownOutcome);
        }
    }
}

//! The register of reason codes: why a call was refused, whether to retry, and what to do next.
//!
//! A node answers a refused call with a gRPC status that carries a `google.rpc.ErrorInfo`: `reason` is the code below,
//! `domain` is [`DOMAIN`], `metadata` holds `retry` and `next` and, for `CONFLICT`, `live`, `generation` and
//! `revision`. Codes are stable: they are never renamed and never reused. A client that does not know a code goes by
//! its `retry`.

use std::collections::HashMap;
use std::fmt;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// `domain` of every `ErrorInfo` of ours.
pub const DOMAIN: &str = "saola";
/// Metadata key: the [`Retry`] class.
pub const RETRY: &str = "retry";
/// Metadata key: what to do next.
pub const NEXT: &str = "next";

/// Whether a call that failed may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Certainly not applied: send it to another node, or to the same one later.
    Elsewhere,
    /// The answer stands: the same call would get it again.
    Never,
    /// May have been applied: only the same request id may be sent again.
    UnknownOutcome,
}

impl Retry {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Retry::Elsewhere => "elsewhere",
            Retry::Never => "never",
            Retry::UnknownOutcome => "unknown_outcome",
        }
    }

    /// Reads the word on the wire.
    pub fn parse(word: &str) -> Option<Retry> {
        [Retry::Elsewhere, Retry::Never, Retry::UnknownOutcome].into_iter().find(|retry| retry.as_str() == word)
    }
}

macro_rules! register {
    ($($(#[$doc:meta])* $name:ident, $text:literal, $code:ident, $retry:ident, $next:literal;)*) => {
        /// Why a call was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// Every code, in the order of the register.
            pub const ALL: &[Reason] = &[$(Reason::$name),*];

            /// The code on the wire and in logs.
            pub fn as_str(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }

            /// The gRPC status code that goes with it.
            pub fn code(self) -> Code {
                match self { $(Reason::$name => Code::$code,)* }
            }

            /// Whether the call may be sent again.
            pub fn retry(self) -> Retry {
                match self { $(Reason::$name => Retry::$retry,)* }
            }

            /// What to do next, when the message does not know better.
            pub fn next_step(self) -> &'static str {
                match self { $(Reason::$name => $next,)* }
            }
        }
    };
}

register! {
    /// `expect` does not hold; the metadata says what is there.
    Conflict, "CONFLICT", FailedPrecondition, Never, "read the record and decide again with its present generation";
    /// No such record.
    NotFound, "NOT_FOUND", NotFound, Never, "check the id; `saola history` shows whether it was deleted";
    /// No collection of that name.
    UnknownCollection, "UNKNOWN_COLLECTION", NotFound, Never, "create it with `saola collection create`, or see `saola collection list`";
    /// The collection is there already.
    CollectionExists, "COLLECTION_EXISTS", AlreadyExists, Never, "use it, or choose another name";
    /// The record id is not allowed in its collection.
    InvalidId, "INVALID_ID", InvalidArgument, Never, "correct the id";
    /// A field of the request is missing or wrong.
    InvalidArgument, "INVALID_ARGUMENT", InvalidArgument, Never, "correct the request";
    /// The value is over its collection's limit.
    ValueTooLarge, "VALUE_TOO_LARGE", InvalidArgument, Never, "store a smaller value";
    /// Asked as of a time that has not come.
    FutureTime, "FUTURE_TIME", InvalidArgument, Never, "ask for a time in the past, or leave the time out";
    /// Asked for a revision that does not exist yet.
    FutureRevision, "FUTURE_REVISION", OutOfRange, Never, "ask for a revision that a reply has shown";
    /// Asked for a revision or generation that policy has removed.
    RevisionGone, "REVISION_GONE", OutOfRange, Never, "ask for a later one; `saola collection list` shows from which revision on a collection can be listed, `saola history` what is kept of a record";
    /// No leader is known.
    NoLeader, "NO_LEADER", Unavailable, Elsewhere, "wait for the election; if it lasts, see `saola status`";
    /// The leader cannot reach a quorum.
    NoQuorum, "NO_QUORUM", Unavailable, Elsewhere, "see `saola status` for the nodes that are missing; stale reads still work when asked for";
    /// The node is not part of a cluster yet.
    NotAdopted, "NOT_ADOPTED", Unavailable, Elsewhere, "run `saola cluster init`, or check that the endpoint is the right node";
    /// The node is part of a cluster already.
    AlreadyAdopted, "ALREADY_ADOPTED", AlreadyExists, Never, "see `saola status`; only fresh nodes are made into a cluster";
    /// The node cannot open its keys.
    Sealed, "SEALED", Unavailable, Elsewhere, "give the node its KEK; `saola status` says what is wrong with it";
    /// The node is a witness: it keeps no records.
    Witness, "WITNESS", Unavailable, Elsewhere, "use the endpoint of a data node";
    /// The node waits for its peers to repair its log.
    Repairing, "REPAIRING", Unavailable, Elsewhere, "use another node; `saola status` says what this one waits for";
    /// The node is shutting down.
    Stopping, "STOPPING", Unavailable, Elsewhere, "use another node";
    /// The node has more to do than it can.
    Busy, "BUSY", Unavailable, Elsewhere, "send less at a time";
    /// Free space is below the node's mark.
    DiskFull, "DISK_FULL", Unavailable, Elsewhere, "free space on the node's disk; reads go on meanwhile";
    /// The leader's disk completes no writes.
    DiskHangs, "DISK_HANGS", Unavailable, Elsewhere, "retry: another node takes over; see the drive of the node that is named";
    /// A stale read asked for a bound that the node cannot keep.
    StaleTooOld, "STALE_TOO_OLD", Unavailable, Elsewhere, "allow a larger age, or ask another node";
    /// Refused before proposing: the other site is behind.
    GateBusy, "GATE_BUSY", Unavailable, Elsewhere, "retry; `saola status` shows the sites' protection";
    /// Proposed, but the other site has not confirmed it within the deadline.
    GateWait, "GATE_WAIT", DeadlineExceeded, UnknownOutcome, "read the record's history, or retry under the same request id";
    /// Proposed, but the outcome was not learnt.
    OutcomeUnknown, "OUTCOME_UNKNOWN", Unknown, UnknownOutcome, "read the record's history, or retry under the same request id";
    /// The cluster has forgotten this client.
    RequestExpired, "REQUEST_EXPIRED", FailedPrecondition, Never, "start a new client; for a call sent before, read the record's history";
    /// The answer or the node belongs to an older lineage of the cluster than one already seen.
    LowerEpoch, "LOWER_EPOCH", FailedPrecondition, Elsewhere, "use a node of the present lineage; see `saola status`";
    /// The answer or the node belongs to another epoch of the number that was seen: two promotions began one.
    TwinEpoch, "TWIN_EPOCH", FailedPrecondition, Elsewhere, "use a node of the epoch that this client knows; `saola status` says that there are two; once people have decided that the other one goes on, start the client anew";
    /// A change of members that the cluster cannot make.
    MembershipRefused, "MEMBERSHIP_REFUSED", FailedPrecondition, Never, "see `saola status` for the present members";
    /// The caller may not do this.
    NotAllowed, "NOT_ALLOWED", PermissionDenied, Never, "use a certificate that may";
    /// What is stored does not verify.
    Corrupt, "CORRUPT", DataLoss, Elsewhere, "compare the replicas with `saola cluster digest`";
    /// A fault inside the node.
    Internal, "INTERNAL", Internal, Never, "see the node's log";
    /// Made by the client: the node could not be reached or broke off.
    Unreachable, "UNREACHABLE", Unavailable, Elsewhere, "check that the node runs and its address; a node also hangs up on a client certificate that is expired or not of its CA";
    /// Made by the client: the node's certificate is not to be trusted.
    NodeUntrusted, "NODE_UNTRUSTED", Unavailable, Elsewhere, "check --ca: it must be the authority that signed the nodes' certificates; and check the endpoint";
    /// Made by the client: the node does not take the client's certificate.
    CertificateRefused, "CERTIFICATE_REFUSED", Unavailable, Elsewhere, "check --cert and --key: the certificate must be valid today and signed by the authority in the node's tls.ca";
    /// Made by the client: an answer came that no node makes.
    ForeignAnswer, "FOREIGN_ANSWER", Unknown, UnknownOutcome, "check that the endpoint is a node's client address and what stands in between; ask for less, or send less, in one call";
    /// Made by the client: the node was asked and did not answer in time.
    NoAnswer, "NO_ANSWER", DeadlineExceeded, UnknownOutcome, "see `saola status`; give a longer timeout if the cluster is slow";
}

impl Reason {
    /// Reads a code; none when this release does not know it.
    pub fn parse(code: &str) -> Option<Reason> {
        Reason::ALL.iter().copied().find(|reason| reason.as_str() == code)
    }

    /// The status that a node answers with. `extra` adds to the metadata, or replaces `next`.
    pub fn status(self, message: impl Into<String>, extra: &[(&str, String)]) -> Status {
        let fixed = [(RETRY, self.retry().as_str().to_owned()), (NEXT, self.next_step().to_owned())];
        let metadata: HashMap<String, String> =
            fixed.iter().chain(extra).map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        let details = ErrorDetails::with_error_info(self.as_str(), DOMAIN, metadata);
        Status::with_error_details(self.code(), message, details)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_code_reads_back_and_is_unique() {
        let codes: HashSet<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
            assert_eq!(Retry::parse(reason.retry().as_str()), Some(reason.retry()));
            assert!(!reason.next_step().is_empty());
        }
        assert_eq!(Reason::parse("NO_SUCH_CODE"), None);
    }

    #[test]
    fn a_status_carries_code_retry_and_next_step() {
        let status = Reason::Sealed.status("node 3 is sealed", &[("next", "chmod 600 main.kek".to_owned())]);
        let info = status.get_details_error_info().expect("error info");
        assert_eq!((status.code(), status.message()), (Code::Unavailable, "node 3 is sealed"));
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("SEALED", DOMAIN));
        assert_eq!(info.metadata["retry"], "elsewhere");
        assert_eq!(info.metadata["next"], "chmod 600 main.kek");
    }
}

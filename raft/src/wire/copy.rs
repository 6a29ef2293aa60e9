//! Comparing and repairing copies of the records.

use bytes::Bytes;
use prost::{Message, Oneof};

use super::{DigestAt, Nothing};

/// See [`super::Question::Copy`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct CopyAsk {
    /// What.
    #[prost(oneof = "CopyVerb", tags = "1, 2, 3")]
    pub verb: Option<CopyVerb>,
}

/// See [`CopyAsk`].
#[derive(Clone, Copy, PartialEq, Oneof)]
pub enum CopyVerb {
    /// Your buckets at this log index, and what you know of your copy?
    #[prost(message, tag = "1")]
    At(DigestAt),
    /// Read all your rows now.
    #[prost(message, tag = "2")]
    Scrub(Nothing),
    /// An operator says that your copy is the bad one: replace it.
    #[prost(message, tag = "3")]
    Replace(Nothing),
}

/// Answer to [`CopyVerb::At`].
#[derive(Clone, PartialEq, Message)]
pub struct CopyState {
    /// 64 KiB: 4,096 sums of 16 bytes, big-endian. Empty: not applied up to there, or no longer kept.
    #[prost(bytes = "bytes", tag = "1")]
    pub sums: Bytes,
    /// The node knows its copy to be bad.
    #[prost(bool, tag = "2")]
    pub bad: bool,
    /// 512 bytes: buckets with rows that fail their own checks, bit by bit. Empty: they have not been checked since
    /// copies differ.
    #[prost(bytes = "bytes", tag = "3")]
    pub checked: Bytes,
}

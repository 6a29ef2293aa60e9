//! Who may approve a forced promotion, and the epochs that such promotions began; a row each, beside the protection.

use bytes::Bytes;
use prost::Message;

use super::{decode_value, encode_value};
use crate::command::SetApprovers;
use crate::engine::Kind;
use crate::epoch::{Approvers, Epoch};
use crate::error::StoreError;

/// Key of the row of approvers.
pub const APPROVERS: &[u8] = b"approvers";
/// Key of the row of epochs.
pub const EPOCHS: &[u8] = b"epochs";

/// Value of the row of approvers.
#[derive(Clone, PartialEq, Message)]
pub struct ApproversRow {
    /// The newest lists, the newest last.
    #[prost(message, repeated, tag = "1")]
    pub lists: Vec<ApproverList>,
}

/// One list.
#[derive(Clone, PartialEq, Message)]
pub struct ApproverList {
    /// As the command that set it.
    #[prost(message, optional, tag = "1")]
    pub set: Option<SetApprovers>,
    /// Entry that it came with.
    #[prost(uint64, tag = "2")]
    pub at_index: u64,
}

/// Value of the row of epochs.
#[derive(Clone, PartialEq, Message)]
pub struct EpochsRow {
    /// All of them but the first, the newest last.
    #[prost(message, repeated, tag = "1")]
    pub epochs: Vec<EpochRow>,
}

/// See [`Epoch`].
#[derive(Clone, PartialEq, Message)]
pub struct EpochRow {
    /// See [`Epoch::number`].
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// See [`Epoch::record`].
    #[prost(bytes = "bytes", tag = "2")]
    pub record: Bytes,
    /// See [`Epoch::at_index`].
    #[prost(uint64, tag = "3")]
    pub at_index: u64,
    /// See [`Epoch::revision`].
    #[prost(uint64, tag = "4")]
    pub revision: u64,
    /// See [`Epoch::began_us`].
    #[prost(uint64, tag = "5")]
    pub began_us: u64,
}

impl From<&Approvers> for ApproverList {
    fn from(it: &Approvers) -> ApproverList {
        ApproverList { set: Some(it.to_command()), at_index: it.at_index }
    }
}

impl From<ApproverList> for Approvers {
    fn from(it: ApproverList) -> Approvers {
        Approvers::of_command(it.set.unwrap_or_default(), it.at_index)
    }
}

/// Value of the row of approvers.
pub fn encode_approvers(lists: &[Approvers]) -> Bytes {
    encode_value(&ApproversRow { lists: lists.iter().map(ApproverList::from).collect() })
}

/// Reads it.
pub fn decode_approvers(value: Bytes) -> Result<Vec<Approvers>, StoreError> {
    let row: ApproversRow = decode_value(Kind::Protection, APPROVERS, value)?;
    Ok(row.lists.into_iter().map(Approvers::from).collect())
}

/// Value of the row of epochs.
pub fn encode_epochs(epochs: &[Epoch]) -> Bytes {
    let row = |it: &Epoch| {
        let Epoch { number, record, at_index, revision, began_us } = it.clone();
        EpochRow { number, record, at_index, revision, began_us }
    };
    encode_value(&EpochsRow { epochs: epochs.iter().map(row).collect() })
}

/// Reads it.
pub fn decode_epochs(value: Bytes) -> Result<Vec<Epoch>, StoreError> {
    let row: EpochsRow = decode_value(Kind::Protection, EPOCHS, value)?;
    let epoch = |it: EpochRow| {
        let EpochRow { number, record, at_index, revision, began_us } = it;
        Epoch { number, record, at_index, revision, began_us }
    };
    Ok(row.epochs.into_iter().map(epoch).collect())
}

//! What clients call. A handler reads as check, seal, propose, convert.
//!
//! Reading order: [`records`], [`collections`], [`cluster`], [`dr`] and [`drill`] are the services; [`write`] and [`read`] do the work of
//! the first, from the [`point`] at which a read reads; [`limits`] and [`convert`] stand between the contract and
//! storage; [`errors`] gives every refusal its reason; [`deadline`] ends calls in time, [`stream`] those whose readers do not.

pub mod cluster;
pub mod collections;
pub mod convert;
pub mod deadline;
pub mod dr;
pub mod drill;
pub mod errors;
pub mod limits;
pub mod orphans;
pub mod page_token;
pub mod point;
pub mod read;
pub mod records;
pub mod stream;
pub mod write;

use saola_client::epoch::Epoch;
use tonic::metadata::MetadataMap;

use crate::node::Node;
use deadline::Deadline;
use errors::{Reason, Refusal};

/// Lets a call in, unless its client has seen a later lineage of the cluster than this node belongs to.
///
/// # Errors
/// LOWER_EPOCH, TWIN_EPOCH.
pub fn admit(node: &Node, metadata: &MetadataMap) -> Result<Deadline, Refusal> {
    if let Some(seen) = Epoch::from_metadata(metadata) {
        let own = node.epoch();
        let says = || format!("this node is in {own}, the client has seen {seen}");
        if own.number > 0 && seen.number > own.number {
            // A number fences nobody: this node's peers may have the record of that epoch.
            node.replica().look_for_later_epoch();
            return Err(Refusal::plain(Reason::LowerEpoch, says()));
        }
        if seen.is_twin_of(own) {
            return Err(Refusal::plain(Reason::TwinEpoch, says()));
        }
    }
    Ok(Deadline::of(metadata))
}

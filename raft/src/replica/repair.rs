//! What becomes of a bad copy: it does not lead, and is not served.

use std::time::Duration;

use super::Replica;
use crate::types::Runtime;

/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(5);

impl<RT: Runtime> Replica<RT> {
    /// One attempt to get rid of a bad copy.
    pub(super) async fn repair(&self) {
        self.lead_no_more().await;
        RT::sleep(PAUSE).await;
    }

    /// Hands leadership to a node whose copy is right, if this one leads: apply is right everywhere, but linearizable
    /// reads and snapshots should not depend on a leader that serves neither.
    async fn lead_no_more(&self) {
        if !self.shared.is_leader() {
            return;
        }
        let Some(to) = self.successor().await else { return };
        tracing::warn!("this leader's copy of the records is bad, node {to} has a sound one: handing over");
        if let Err(error) = self.transfer_here(to).await {
            tracing::error!("hand over to node {to}, whose copy is sound: {error}");
        }
    }
}

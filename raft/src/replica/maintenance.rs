//! Background duties of a replica: free space, flushing the state machine, purging the log.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Shared;
use crate::member::Role;
use crate::types::Runtime;

/// The state machine is flushed, and the log purged up to what no one needs, at this interval.
const FLUSH_EVERY: Duration = Duration::from_secs(30);
/// Free space is looked at this often.
const FREE_SPACE_EVERY: Duration = Duration::from_secs(1);

/// First index to keep: nothing is purged that is not in the flushed state machine, that a member may still need, or
/// that is recent.
pub(crate) fn purge_below(flushed_next: u64, needed_from: u64, last_next: u64, keep_entries: u64) -> u64 {
    flushed_next.min(needed_from).min(last_next.saturating_sub(keep_entries))
}

pub(super) async fn watch_free_space<RT: Runtime>(
    shared: Arc<Shared<RT>>,
    free_bytes: Box<dyn Fn() -> io::Result<u64> + Send + Sync>,
) {
    let mut refused = false;
    loop {
        match free_bytes() {
            Ok(bytes) => shared.disk_free_bytes.store(bytes, Ordering::Relaxed),
            Err(error) => tracing::error!("ask for free disk space: {error}"),
        }
        let now_refused = shared.writes_refused();
        if now_refused.is_some() != refused {
            refused = now_refused.is_some();
            match now_refused {
                Some(reason) => tracing::error!("writes are refused: {reason}"),
                None => tracing::info!("disk has room again, writes are taken"),
            }
        }
        RT::sleep(FREE_SPACE_EVERY).await;
        if shared.stopped.borrow().is_some() {
            return;
        }
    }
}

pub(super) async fn run<RT: Runtime>(shared: Arc<Shared<RT>>) {
    loop {
        RT::sleep(FLUSH_EVERY).await;
        let Some(raft) = shared.raft() else { return };
        if shared.stopped.borrow().is_some() {
            return;
        }
        if let Err(error) = raft.trigger().snapshot().await {
            tracing::error!("flush the state machine: {error}");
            return;
        }
        if shared.is_leader() {
            let needed = shared.needed_by_members();
            shared.links.set_needed_from(needed);
        }
        if shared.claim.role == Role::Witness {
            // It may be the only holder of an entry outside a lost site.
            continue;
        }
        let flushed_next = shared.store.flushed().map_or(0, |log_id| log_id.index + 1);
        let keep_from =
            purge_below(flushed_next, shared.links.needed_from(), shared.flushed_next(), shared.keep_entries);
        if let Some(last) = keep_from.checked_sub(1)
            && let Err(error) = raft.trigger().purge_log(last).await
        {
            tracing::error!("purge the log: {error}");
            return;
        }
    }
}

impl<RT: Runtime> Shared<RT> {
    /// First index that some other member has not flushed, as far as this leader knows.
    fn needed_by_members(&self) -> u64 {
        let Some(matched) = self.matched() else { return 0 };
        matched
            .iter()
            .filter(|(id, _)| **id != self.claim.node_id)
            .map(|(_, index)| index.map_or(0, |index| index + 1))
            .min()
            .unwrap_or(self.flushed_next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purge_never_overtakes_flush_members_or_the_recent_log() {
        assert_eq!(purge_below(500, 900, 10_000, 100), 500);
        assert_eq!(purge_below(900, 500, 10_000, 100), 500);
        assert_eq!(purge_below(9_990, 9_995, 10_000, 100), 9_900);
        assert_eq!(purge_below(9, 9, 10, 100), 0);
    }
}

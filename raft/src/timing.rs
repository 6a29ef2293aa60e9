//! Timers of Raft: presets and their relations.

use std::time::Duration;

use saola_storage::planted::{self, Bug};

/// Heartbeat and election timers, in milliseconds. Equal on all nodes of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Interval between heartbeats.
    pub heartbeat_ms: u64,
    /// Shortest election timeout.
    pub election_min_ms: u64,
    /// Longest election timeout; also how long voters stand by a leader they have heard.
    pub election_max_ms: u64,
    /// Under maximum availability writes wait so long for another site that does not answer, unless the replicated rule
    /// says otherwise.
    pub degrade_ms: u64,
}

impl Timing {
    /// For round trips of a few milliseconds.
    pub const LAN: Timing = Timing { heartbeat_ms: 50, election_min_ms: 150, election_max_ms: 300, degrade_ms: 800 };
    /// For round trips of up to 50 ms.
    pub const WAN: Timing = Timing { heartbeat_ms: 100, election_min_ms: 500, election_max_ms: 1000, degrade_ms: 2000 };

    /// Checks the relations that Raft needs; the error says which one does not hold.
    pub fn check(&self) -> Result<(), String> {
        if self.heartbeat_ms == 0 {
            return Err("timing: heartbeat_ms must be at least 1".into());
        }
        if self.election_min_ms < 3 * self.heartbeat_ms {
            return Err(format!(
                "timing: election_min_ms ({}) must be at least three times heartbeat_ms ({})",
                self.election_min_ms, self.heartbeat_ms
            ));
        }
        if self.election_max_ms <= self.election_min_ms {
            return Err(format!(
                "timing: election_max_ms ({}) must be greater than election_min_ms ({})",
                self.election_max_ms, self.election_min_ms
            ));
        }
        self.check_degrade(self.degrade_ms)
    }

    /// Whether writes may wait so long for another site: a leader that is lost must not look like a site that is.
    pub fn check_degrade(&self, degrade_ms: u64) -> Result<(), String> {
        match 2 * degrade_ms < 3 * self.election_max_ms {
            true => Err(format!(
                "timing: degrade_ms ({degrade_ms}) must be at least one and a half times election_max_ms ({})",
                self.election_max_ms
            )),
            false => Ok(()),
        }
    }

    /// A member that is silent for so long counts as dead: the log is kept for it within its budget only. Two minutes
    /// with the LAN preset, less than seven with the WAN preset.
    pub(crate) fn dead_after(&self) -> Duration {
        Duration::from_millis(400 * self.election_max_ms)
    }

    pub(crate) fn raft_config(&self, may_elect: bool) -> openraft::Config {
        openraft::Config {
            cluster_name: "saola".into(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            // Per chunk; a snapshot may take long, its sender honours cancellation.
            install_snapshot_timeout: 30_000,
            max_payload_entries: 1024,
            snapshot_policy: openraft::SnapshotPolicy::Never,
            // After a flush openraft would purge all but this many entries by itself, on the witness too. What is kept is
            // decided by the purge floor (`maintenance`) alone.
            max_in_snapshot_log_to_keep: u64::MAX,
            // A node that is added counts as caught up when it lags so little. With the default, 5,000 entries, one
            // that has nothing at all gets its vote in a young cluster, or before its snapshot has arrived.
            replication_lag_threshold: 64,
            enable_elect: may_elect,
            enable_pre_vote: Some(true),
            quorum_loss_probe_interval: Some(4 * self.election_max_ms),
            // With the default a leader that lost its unsynced tail resumes its term, and replicas diverge.
            enable_leader_restore: Some(planted::is(Bug::LeaderRestored)),
            ..Default::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_hold_their_relations() {
        for timing in [Timing::LAN, Timing::WAN] {
            timing.check().unwrap();
            timing.raft_config(true).validate().unwrap();
        }
    }

    #[test]
    fn bad_relations_are_named() {
        assert!(Timing { heartbeat_ms: 100, ..Timing::LAN }.check().unwrap_err().contains("election_min_ms (150)"));
        assert!(Timing { election_max_ms: 150, ..Timing::LAN }.check().unwrap_err().contains("election_max_ms (150)"));
        assert!(Timing { degrade_ms: 449, ..Timing::LAN }.check().unwrap_err().contains("degrade_ms (449)"));
        Timing { degrade_ms: 450, ..Timing::LAN }.check().unwrap();
    }
}

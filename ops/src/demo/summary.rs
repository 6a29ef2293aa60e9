//! Step 9: a table of the nodes, and the last line.

use std::collections::HashMap;

use saola_client::proto::NodeStatus;

use super::screen::Screen;
use crate::exit::{Exit, Failure};
use crate::launch::LocalCluster;
use crate::output::{grouped, hex, size, table};
use crate::verbs::status::{lag, role};

/// Live records after the reform.
const RECORDS: u64 = 3_355;

/// What the last line tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Live records of the agency collection.
    pub records: u64,
    /// Store revision at the end.
    pub revisions: u64,
    /// Acknowledged writes of the drill.
    pub acked: u64,
    /// Those of them that are not in their record's history.
    pub lost: u64,
    /// Requests with more than one version.
    pub duplicated: u64,
    /// Longest time in which no write was acknowledged, milliseconds.
    pub gap_ms: u64,
    /// Planted values found in the nodes' files.
    pub plaintext_hits: u64,
}

impl Totals {
    /// Whether all is as it must be.
    ///
    /// # Errors
    /// What is not.
    pub fn verdict(&self) -> Result<(), Failure> {
        let wrong = match self {
            Totals { records, .. } if *records != RECORDS => format!("{records} live records, not {RECORDS}"),
            Totals { acked: 0, .. } => "no write was acknowledged".to_owned(),
            Totals { lost, .. } if *lost > 0 => format!("{lost} acknowledged writes are lost"),
            Totals { duplicated, .. } if *duplicated > 0 => format!("{duplicated} writes took effect twice"),
            Totals { plaintext_hits, .. } if *plaintext_hits > 0 => format!("{plaintext_hits} plaintext hits"),
            _ => return Ok(()),
        };
        Err(Failure::new(Exit::Other, format!("{wrong}: {self}"), "see the nodes' logs and folders"))
    }

    /// The last line when all is well.
    pub fn line(&self) -> String {
        format!("demo: OK {self}")
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "records={} revisions={} acked={} lost={} duplicated={} gap_ms={} plaintext_hits={}",
            self.records, self.revisions, self.acked, self.lost, self.duplicated, self.gap_ms, self.plaintext_hits
        )
    }
}

/// Prints the table; returns the store's revision.
///
/// # Errors
/// A failed call.
pub async fn show(screen: &Screen, cluster: &LocalCluster) -> Result<u64, Failure> {
    screen.step(9, "The nodes")?;
    let digests = cluster.client().digest().await?;
    let digests: HashMap<u64, String> =
        digests.digests.iter().map(|it| (it.node_id, hex(&it.digest).chars().take(12).collect())).collect();
    let status = cluster.client().cluster_status(false).await?;
    let row = |node: &NodeStatus| {
        let member = node.member.clone().unwrap_or_default();
        let digest = digests.get(&member.node_id).cloned().unwrap_or_else(|| "-".to_owned());
        vec![
            member.name.clone(),
            member.site.clone(),
            role(&member).to_owned(),
            node.state.clone(),
            grouped(node.applied_index),
            grouped(lag(&status, node)),
            grouped(node.revision),
            digest,
            size(node.data_bytes),
            size(node.rss_bytes),
        ]
    };
    let heading = ["NODE", "SITE", "ROLE", "STATE", "APPLIED", "LAG", "REVISION", "DIGEST", "DISK", "RSS"];
    screen.line(table(&heading, &[4, 5, 6, 8, 9], status.nodes.iter().map(row).collect()))?;
    screen.line("")?;
    Ok(status.header.map_or(0, |header| header.revision))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Totals =
        Totals { records: 3_355, revisions: 30_000, acked: 9, lost: 0, duplicated: 0, gap_ms: 412, plaintext_hits: 0 };

    #[test]
    fn the_last_line_is_what_scripts_look_for() {
        assert!(GOOD.verdict().is_ok());
        assert_eq!(
            GOOD.line(),
            "demo: OK records=3355 revisions=30000 acked=9 lost=0 duplicated=0 gap_ms=412 plaintext_hits=0"
        );
    }

    #[test]
    fn anything_lost_doubled_or_readable_fails_the_demo() {
        let bad = [
            Totals { records: 3_354, ..GOOD },
            Totals { acked: 0, ..GOOD },
            Totals { lost: 1, ..GOOD },
            Totals { duplicated: 1, ..GOOD },
            Totals { plaintext_hits: 1, ..GOOD },
        ];
        assert!(bad.iter().all(|totals| totals.verdict().is_err()));
    }
}

//! Step 6: every acknowledged write is read back through the DR site.

use std::collections::{BTreeSet, HashMap};

use futures::stream::{self, StreamExt, TryStreamExt};
use saola_client::Client;
use serde::Deserialize;

use super::drill::{Ack, Attempt, DRILL, Drill};
use super::screen::Screen;
use crate::exit::{Exit, Failure};
use crate::launch::LocalCluster;
use crate::output::grouped;

/// The nodes that are asked.
const DR: [&str; 2] = ["dr-1", "dr-2"];
/// Histories read at a time.
const CONCURRENCY: usize = 16;

/// One version as the audit sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its generation.
    pub generation: u64,
    /// The token in its value.
    pub token: String,
}

/// Versions of each record.
pub type Histories = HashMap<String, Vec<Seen>>;

/// What the comparison says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Acknowledged writes that are not in their record's history under the generation that was acknowledged.
    pub lost: u64,
    /// Writes with more than one version.
    pub duplicated: u64,
    /// Writes that were refused as certainly not applied and yet took effect.
    pub refused_but_applied: u64,
    /// Writes of unknown outcome that took effect; the others did not.
    pub unknown_applied: u64,
    /// Versions that no writer wrote, or generations that are not 1, 2, 3 …
    pub foreign: u64,
}

/// Reads the histories and compares; prints what it found.
///
/// # Errors
/// A read that fails, or writes that took effect although they were refused.
pub async fn read_back(screen: &Screen, cluster: &LocalCluster, drill: &Drill) -> Result<Audit, Failure> {
    screen.step(6, "Every acknowledged write, read back through the DR site")?;
    let histories = histories(cluster, drill).await?;
    let audit = compare(&drill.acks, &drill.unknown, &drill.refused, &histories);
    let versions: usize = histories.values().map(Vec::len).sum();
    screen.line(format!(
        "{} records with {} versions; {} acknowledged writes: {} lost, {} duplicated",
        grouped(histories.len() as u64),
        grouped(versions as u64),
        grouped(drill.acks.len() as u64),
        audit.lost,
        audit.duplicated
    ))?;
    screen.line(format!(
        "of {} unknown outcomes {} took effect; none of these is counted above",
        drill.unknown.len(),
        audit.unknown_applied
    ))?;
    if audit.refused_but_applied > 0 || audit.foreign > 0 {
        return Err(Failure::new(
            Exit::Verification,
            format!(
                "{} refused writes took effect, {} versions are nobody's",
                audit.refused_but_applied, audit.foreign
            ),
            "see `saola history drill writer-0/00`",
        ));
    }
    Ok(audit)
}

async fn histories(cluster: &LocalCluster, drill: &Drill) -> Result<Histories, Failure> {
    let acked = drill.acks.iter().map(|ack| &ack.attempt);
    let ids: BTreeSet<&str> =
        acked.chain(&drill.unknown).chain(&drill.refused).map(|attempt| attempt.id.as_str()).collect();
    let clients = DR.iter().map(|name| cluster.client_at(name)).collect::<Result<Vec<Client>, Failure>>()?;
    stream::iter(ids.into_iter().zip(clients.iter().cycle()))
        .map(|(id, client)| async move {
            let versions = client.history(DRILL, id.to_owned()).send().await?.value;
            let seen = versions
                .iter()
                .map(|version| Ok(Seen { generation: version.generation, token: token(id, &version.value)? }));
            Ok((id.to_owned(), seen.collect::<Result<Vec<Seen>, Failure>>()?))
        })
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await
}

fn token(id: &str, value: &[u8]) -> Result<String, Failure> {
    #[derive(Deserialize)]
    struct Value {
        token: String,
    }
    let value: Value = serde_json::from_slice(value).map_err(|error| {
        Failure::new(Exit::Verification, format!("value of {DRILL}/{id}: {error}"), "see `saola history drill`")
    })?;
    Ok(value.token)
}

/// Compares what the writers were told with what is there.
pub fn compare(acks: &[Ack], unknown: &[Attempt], refused: &[Attempt], histories: &Histories) -> Audit {
    let mut versions: HashMap<&str, u64> = HashMap::new();
    for seen in histories.values().flatten() {
        *versions.entry(&seen.token).or_default() += 1;
    }
    let applied = |attempt: &&Attempt| versions.contains_key(attempt.token.as_str());
    let attempts = || acks.iter().map(|ack| &ack.attempt).chain(unknown).chain(refused);
    let known: BTreeSet<&str> = attempts().map(|attempt| attempt.token.as_str()).collect();
    let foreign = versions.keys().filter(|token| !known.contains(*token)).count()
        + histories.values().filter(|history| !counts_up(history)).count();
    Audit {
        lost: acks.iter().filter(|ack| !is_there(ack, histories)).count() as u64,
        duplicated: versions.values().filter(|count| **count > 1).count() as u64,
        refused_but_applied: refused.iter().filter(applied).count() as u64,
        unknown_applied: unknown.iter().filter(applied).count() as u64,
        foreign: foreign as u64,
    }
}

fn is_there(ack: &Ack, histories: &Histories) -> bool {
    let history = histories.get(&ack.attempt.id);
    history.is_some_and(|history| {
        history.iter().any(|seen| seen.generation == ack.generation && seen.token == ack.attempt.token)
    })
}

fn counts_up(history: &[Seen]) -> bool {
    history.iter().zip(1..).all(|(seen, generation)| seen.generation == generation)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn attempt(token: &str) -> Attempt {
        Attempt { id: "r".into(), token: token.into(), begun: Duration::ZERO, ended: Duration::ZERO }
    }

    fn ack(token: &str, generation: u64) -> Ack {
        Ack { attempt: attempt(token), generation }
    }

    fn history(tokens: &[&str]) -> Histories {
        let seen = tokens.iter().zip(1..).map(|(token, generation)| Seen { generation, token: (*token).into() });
        Histories::from([("r".to_owned(), seen.collect())])
    }

    #[test]
    fn writes_that_are_all_there_once_are_neither_lost_nor_duplicated() {
        let audit = compare(&[ack("a", 1), ack("b", 2)], &[], &[], &history(&["a", "b"]));
        assert_eq!(audit, Audit::default());
    }

    #[test]
    fn an_acknowledged_write_that_is_missing_or_renumbered_is_lost() {
        assert_eq!(compare(&[ack("a", 1), ack("b", 2)], &[], &[], &history(&["a"])).lost, 1);
        assert_eq!(compare(&[ack("a", 2)], &[attempt("x")], &[], &history(&["a", "x"])).lost, 1);
        assert_eq!(compare(&[ack("a", 1)], &[], &[], &Histories::new()).lost, 1);
    }

    #[test]
    fn a_request_with_two_versions_is_duplicated_even_if_its_outcome_is_unknown() {
        let audit = compare(&[ack("a", 1)], &[attempt("u")], &[], &history(&["a", "a", "u", "u"]));
        assert_eq!((audit.lost, audit.duplicated, audit.unknown_applied), (0, 2, 1));
    }

    #[test]
    fn unknown_outcomes_count_apart_whether_they_took_effect_or_not() {
        let audit = compare(&[ack("a", 1)], &[attempt("u"), attempt("v")], &[], &history(&["a", "v"]));
        assert_eq!(audit, Audit { unknown_applied: 1, ..Audit::default() });
    }

    #[test]
    fn a_refused_write_that_took_effect_and_a_foreign_version_are_found() {
        let audit = compare(&[], &[], &[attempt("r")], &history(&["r", "z"]));
        assert_eq!((audit.refused_but_applied, audit.foreign), (1, 1));
        let gap = Histories::from([("r".to_owned(), vec![Seen { generation: 2, token: "a".into() }])]);
        assert_eq!(compare(&[ack("a", 2)], &[], &[], &gap).foreign, 1);
    }
}

//! Reports as the cluster keeps them, and when drills are due.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use saola_client::{Client, Error, Expect, Provenance};
use saola_storage::promotion::ApproverKey;
use serde::{Deserialize, Serialize};

use super::checks::Verdict;
use super::lock::DRILLS;
use super::report::{Earlier, Report};
use super::signed::{SignedReport, Verified};
use crate::exit::{Exit, Failure, doing};
use crate::time::{self, now_us};
use crate::verbs::findings::{Finding, Level};

const REPORTS: &str = "report/";
const SCHEDULE: &str = "schedule";
/// A glance is not worth more time.
const GLANCE_LIMIT: Duration = Duration::from_millis(1_500);
/// So many earlier drills stand in a report.
pub const EARLIER: usize = 10;

fn id_of(number: u64) -> String {
    format!("{REPORTS}{number:06}")
}

/// A stored report as far as it can be believed.
pub type Stored = Result<Verified, (String, String)>;

/// All reports in the order of their numbers; one that is not to be believed is its id and why. None yet: empty.
///
/// # Errors
/// They cannot be read.
pub async fn reports(client: &Client) -> Result<Vec<Stored>, Failure> {
    let versions = match client.list(DRILLS).prefix(REPORTS).all().collect().await {
        Ok(versions) => versions,
        Err(Error::NotFound(_)) => return Ok(Vec::new()),
        Err(error) => return Err(doing("read the reports of drills")(error)),
    };
    let read = versions.iter().map(|version| {
        let (id, text) = (String::from_utf8_lossy(&version.id).into_owned(), String::from_utf8_lossy(&version.value));
        match SignedReport::verify(&text) {
            Ok(verified) if id_of(verified.report.number) == id => Ok(verified),
            Ok(verified) => Err((id, format!("it is report {}", verified.report.number))),
            Err(why) => Err((id, why)),
        }
    });
    Ok(read.collect())
}

/// The text of one report.
///
/// # Errors
/// There is none of that number.
pub async fn report(client: &Client, number: u64) -> Result<String, Failure> {
    let missing =
        || Failure::new(Exit::Precondition, format!("there is no report {number}"), "`saola drill history` lists them");
    match client.get(DRILLS, id_of(number)).send().await {
        Ok(reply) => match reply.value.filter(|version| !version.is_deleted()) {
            Some(version) => Ok(String::from_utf8_lossy(&version.value).into_owned()),
            None => Err(missing()),
        },
        Err(Error::NotFound(_)) => Err(missing()),
        Err(error) => Err(doing(format!("read report {number}"))(error)),
    }
}

/// Stores a report behind all others, signed; `place` makes it of its number, the hash of the one before and the earlier
/// ones.
///
/// # Errors
/// It cannot be stored.
pub async fn append(
    client: &Client,
    key: &ApproverKey,
    place: impl Fn(u64, Option<String>, Vec<Earlier>) -> Report,
) -> Result<SignedReport, Failure> {
    loop {
        let known = reports(client).await?;
        let believed: Vec<&Verified> = known.iter().filter_map(|it| it.as_ref().ok()).collect();
        let last = believed.last();
        let mut number = last.map_or(0, |it| it.report.number).max(known.len() as u64) + 1;
        // A number that was ever given is not given again, whatever has become of that report.
        while was_given(client, number).await? {
            number += 1;
        }
        // Behind a report that cannot be read the chain is broken, and whoever verifies it sees that.
        let previous = last.map(|it| it.sha256.clone()).or_else(|| (number > 1).then(String::new));
        let earlier = believed.iter().rev().map(|it| it.report.in_short()).collect();
        let report = place(number, previous, earlier);
        let signed = SignedReport::sign(&report, key)?;
        let short = serde_json::to_string(&report.in_short()).map_err(|error| unwritten(&error))?;
        let provenance = Provenance { actor: report.by, reason: short, ..Provenance::default() };
        let put = client.put(DRILLS, id_of(number), signed.to_text()?).provenance(provenance);
        match put.content_type("application/json").expect(Expect::Absent).send().await {
            Ok(_) => return Ok(signed),
            // Another drill has just stored its own.
            Err(Error::Conflict { .. }) => {}
            Err(error) => return Err(doing(format!("store report {number}"))(error)),
        }
    }
}

/// How often which scenario is to be held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Days by the name of the scenario.
    pub every_days: BTreeMap<String, u32>,
}

/// The schedule, and the generation of its record, 0 if there is none.
///
/// # Errors
/// It cannot be read.
pub async fn schedule(client: &Client) -> Result<(Schedule, u64), Failure> {
    match client.get(DRILLS, SCHEDULE).send().await {
        Ok(reply) => match reply.value {
            Some(version) if !version.is_deleted() => {
                let schedule = serde_json::from_slice(&version.value).map_err(|error| {
                    let next = format!("write it anew: `saola drill schedule SCENARIO --every 90d`, or see `saola history {DRILLS} {SCHEDULE}`");
                    Failure::new(Exit::Verification, format!("read the schedule of drills: {error}"), next)
                })?;
                Ok((schedule, version.generation))
            }
            version => Ok((Schedule::default(), version.map_or(0, |it| it.generation))),
        },
        Err(Error::NotFound(_)) => Ok((Schedule::default(), 0)),
        Err(error) => Err(doing("read the schedule of drills")(error)),
    }
}

/// Replaces the schedule, which must still be at that generation.
///
/// # Errors
/// Somebody else has changed it, or it cannot be written.
pub async fn set_schedule(client: &Client, schedule: &Schedule, generation: u64) -> Result<(), Failure> {
    let text = serde_json::to_string(schedule).map_err(|error| unwritten(&error))?;
    let expect = if generation == 0 { Expect::Absent } else { Expect::Generation(generation) };
    let put = client.put(DRILLS, SCHEDULE, text).content_type("application/json").expect(expect);
    put.send().await.map(drop).map_err(doing("change the schedule of drills"))
}

async fn was_given(client: &Client, number: u64) -> Result<bool, Failure> {
    match client.history(DRILLS, id_of(number)).keys_only().send().await {
        Ok(reply) => Ok(!reply.value.is_empty()),
        Err(Error::NotFound(_)) => Ok(false),
        Err(error) => Err(doing(format!("look for report {number}"))(error)),
    }
}

fn unwritten(error: &serde_json::Error) -> Failure {
    Failure::new(Exit::Other, format!("write JSON: {error}"), "report this")
}

/// What can be told of drills at once: from what a node has, without reading a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Glance {
    /// The newest one that was held.
    pub last: Option<Earlier>,
    /// The newest one that took a copy of the records, opened it and compared it.
    pub exported: Option<Earlier>,
    /// When which is due.
    pub due: Vec<Due>,
}

/// A glance at what the cluster knows of drills; none: it cannot be had now.
pub async fn glance(client: &Client) -> Option<Glance> {
    let client = client.with_deadline(GLANCE_LIMIT);
    let listed = client.list(DRILLS).prefix(REPORTS).keys_only().stale(Duration::ZERO).all().collect().await;
    let listed = match listed {
        Ok(listed) => listed,
        Err(Error::NotFound(_)) => return Some(Glance::default()),
        Err(_) => return None,
    };
    let held: Vec<Earlier> =
        listed.iter().filter_map(|version| serde_json::from_str(&version.provenance.reason).ok()).collect();
    let (schedule, _) = schedule(&client).await.ok()?;
    let due = due(&schedule, &held, now_us());
    // One that was stored late has a later number than drills after it.
    let exported = held.iter().filter(|it| it.exported_revision.is_some()).max_by_key(|it| it.began_us).cloned();
    Some(Glance { last: held.into_iter().max_by_key(|it| it.began_us), exported, due })
}

impl Glance {
    /// What is to be said of drills when somebody asks whether a failover or a drill would go well.
    pub fn findings(&self) -> Vec<Finding> {
        let warns = |code, what: String, next: &str| Finding { code, level: Level::Warns, what, next: next.into() };
        let mut found = Vec::new();
        match &self.last {
            None => {
                let next = "`saola drill list`, then `saola drill plan`";
                found.push(warns("NO_DRILL", "no drill was ever held on this cluster".into(), next));
            }
            Some(last) if last.verdict != Verdict::Passed => {
                let what = format!("the last drill, {}, ended {}", last.scenario, last.verdict.as_str());
                found.push(warns("DRILL_FAILED", what, "`saola drill history`; mend what failed, and hold it again"));
            }
            Some(_) if self.exported.is_none() => {
                let next = "`saola drill run promote-copy` does, on a copy that is thrown away";
                found.push(warns("NO_EXPORT", "the records were never copied and opened elsewhere".into(), next));
            }
            Some(_) => {}
        }
        let overdue = self.due.iter().filter(|due| due.is_due());
        found.extend(overdue.map(|due| warns("DRILL_OVERDUE", due.to_string(), "`saola drill run`")));
        found
    }

    /// For `saola status`.
    pub fn line(&self) -> String {
        let last = self.last.as_ref().map_or("none was held yet".to_owned(), |last| {
            let ago = now_us().saturating_sub(last.began_us) / 1_000_000;
            format!("last {} {} {} ago", last.scenario, last.verdict.as_str(), time::span(ago))
        });
        match self.due.iter().filter(|due| due.is_due()).count() {
            0 => last,
            overdue => format!("{last}; OVERDUE: {overdue}, see `saola drill schedule`"),
        }
    }
}

/// A scenario that should be held from time to time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// Its name.
    pub scenario: String,
    /// How often.
    pub every_days: u32,
    /// When it was last passed, microseconds since 1970; none: never.
    pub last_passed_us: Option<u64>,
    /// So many days it is late; negative: so many are left.
    pub late_days: i64,
}

const DAY_US: u64 = Duration::from_secs(86_400).as_micros() as u64;

/// When each scheduled scenario is due, what is latest first. One that was never passed is due now.
pub fn due(schedule: &Schedule, held: &[Earlier], now_us: u64) -> Vec<Due> {
    let one = |(name, every_days): (&String, &u32)| {
        let passed = held.iter().filter(|it| it.scenario == *name && it.verdict == Verdict::Passed);
        let last_passed_us = passed.map(|it| it.began_us).max();
        let next_us = last_passed_us.map_or(now_us, |last| last + u64::from(*every_days) * DAY_US);
        let late_us = i128::from(now_us) - i128::from(next_us);
        let late_days = i64::try_from(late_us.div_euclid(DAY_US.into())).unwrap_or(i64::MAX);
        Due { scenario: name.clone(), every_days: *every_days, last_passed_us, late_days }
    };
    let mut all: Vec<Due> = schedule.every_days.iter().map(one).collect();
    all.sort_by_key(|it| std::cmp::Reverse(it.late_days));
    all
}

/// The day of a moment.
fn day(us: u64) -> String {
    time::iso(us).chars().take(10).collect()
}

impl fmt::Display for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Due { scenario, every_days, last_passed_us, late_days } = self;
        let last = last_passed_us.map_or("never passed".to_owned(), |us| format!("last passed {}", day(us)));
        write!(f, "{scenario} every {every_days} days, {last}, ")?;
        match late_days {
            ..0 => write!(f, "due in {} days", late_days.unsigned_abs()),
            0 => f.write_str("due today"),
            _ => write!(f, "{late_days} days late"),
        }
    }
}

impl Due {
    /// Whether its day has come.
    pub fn is_due(&self) -> bool {
        self.late_days >= 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drill_is_due_so_long_after_it_was_last_passed() {
        let schedule =
            Schedule { every_days: BTreeMap::from([("a".into(), 90), ("b".into(), 30), ("never".into(), 365)]) };
        let held = |scenario: &str, day: u64, verdict| Earlier {
            number: day,
            scenario: scenario.into(),
            began_us: day * DAY_US,
            rto_ms: None,
            lost: None,
            verdict,
            exported_revision: None,
        };
        let all = [held("a", 100, Verdict::Passed), held("a", 150, Verdict::Failed), held("b", 120, Verdict::Passed)];
        let due = due(&schedule, &all, 160 * DAY_US);
        let shown: Vec<(&str, i64, bool)> =
            due.iter().map(|it| (it.scenario.as_str(), it.late_days, it.is_due())).collect();
        assert_eq!(shown, [("b", 10, true), ("never", 0, true), ("a", -30, false)]);
        assert_eq!(due[2].last_passed_us, Some(100 * DAY_US), "a drill that failed does not count");

        let codes = |last: &Earlier, exported| {
            let glance = Glance { last: Some(last.clone()), exported, due: Vec::new() };
            glance.findings().iter().map(|finding| finding.code).collect::<Vec<_>>()
        };
        let copied = Earlier { exported_revision: Some(7), ..all[0].clone() };
        assert_eq!(codes(&all[0], None), ["NO_EXPORT"]);
        assert_eq!(codes(&all[0], Some(copied.clone())), [""; 0]);
        assert_eq!(codes(&all[1], None), ["DRILL_FAILED"]);
    }
}

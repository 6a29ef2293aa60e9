//! Whether a drill was passed: decided from the rest of its report. Nobody types a verdict, and whoever verifies a report
//! decides it again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::report::{Fork, PROTECTED, Report, Standing};
use super::scenario::Language;

/// Something that has to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What: stable.
    pub code: Code,
    /// Whether it held.
    pub held: bool,
    /// What was measured.
    pub measured: String,
    /// What was asked.
    pub target: String,
}

/// What has to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    /// It was not broken off.
    ToTheEnd,
    /// Every step was done, and what it waited for came in time.
    StepsDone,
    /// A check of everything found nothing.
    NothingFound,
    /// The longest time without an acknowledged write.
    Rto,
    /// The sites protected each other all the time.
    ProtectedThroughout,
    /// The copy was promoted: from the last approval until its first write.
    CopyPromoted,
    /// Records of the copy that are not those of the cluster.
    CopySame,
    /// The writers of every site were acknowledged something.
    WritersAtAllSites,
    /// No acknowledged write is lost.
    NothingLost,
    /// No write is there twice.
    NothingDoubled,
    /// All data nodes hold the same afterwards.
    CopiesEqual,
    /// The same site leads as before, the sites stand to each other as before, and nothing is wrong.
    AsBefore,
    /// Nothing of the drill is left on the cluster.
    NothingLeft,
}

/// How a drill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Verdict {
    /// All that had to hold held.
    Passed,
    /// Something did not.
    Failed,
    /// It was not held to its end.
    BrokenOff,
}

impl Verdict {
    /// As it is shown and stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Passed => "PASSED",
            Verdict::Failed => "FAILED",
            Verdict::BrokenOff => "BROKEN_OFF",
        }
    }
}

impl Report {
    /// Decides checks and verdict.
    pub fn judged(mut self) -> Report {
        self.checks = checks(&self);
        self.verdict = verdict(&self);
        self
    }
}

/// What had to hold and whether it did, from all of a report but `checks` and `verdict`.
pub fn checks(report: &Report) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut check = |code, held, measured: String, target: String| checks.push(Check { code, held, measured, target });
    let none_or = |list: &[String]| if list.is_empty() { "0".to_owned() } else { list.join("; ") };
    let done = report.steps.iter().filter(|it| it.failed.is_none()).count();
    let planned = report.scenario.steps.len();
    if let Some(why) = &report.broken_off {
        check(Code::ToTheEnd, false, why.describe(Language::En), String::new());
    }
    check(Code::StepsDone, done == planned, done.to_string(), planned.to_string());
    if !report.scenario.acts() {
        let found: Vec<String> = report.findings.iter().map(|it| it.code.clone()).collect();
        check(Code::NothingFound, found.is_empty(), none_or(&found), "0".into());
        return checks;
    }
    let (rto_ms, target_ms) = (report.rto_ms(), report.scenario.targets.as_ref().map_or(0, |targets| targets.rto_ms));
    let measured = rto_ms.map_or("?".to_owned(), |rto_ms| format!("{rto_ms} ms"));
    check(Code::Rto, rto_ms.is_some_and(|rto_ms| rto_ms <= target_ms), measured, format!("{target_ms} ms"));
    if report.scenario.forks() {
        let states = report.unprotected_states();
        let held = report.before.protection == PROTECTED && states.is_empty();
        let measured = if states.is_empty() { report.before.protection.clone() } else { states.join(", ") };
        check(Code::ProtectedThroughout, held, measured, PROTECTED.into());
        let promotion = report.fork.as_ref().and_then(|fork| fork.promotion.as_ref());
        let target_ms = report.scenario.targets.as_ref().and_then(|targets| targets.promotion_ms);
        let in_time = |took_ms: u64| target_ms.is_none_or(|target_ms| took_ms <= target_ms);
        let measured = promotion.map_or("?".to_owned(), |it| format!("{} ms", it.took_ms));
        let target = target_ms.map_or(String::new(), |target_ms| format!("{target_ms} ms"));
        check(Code::CopyPromoted, promotion.is_some_and(|it| in_time(it.took_ms)), measured, target);
        let is_like = report.fork.as_ref().is_some_and(Fork::is_like_its_cluster);
        let measured = report
            .fork
            .as_ref()
            .and_then(|fork| fork.compared)
            .map_or("?".to_owned(), |it| format!("{} / {}", it.different, it.records));
        check(Code::CopySame, is_like, measured, "0".into());
    }
    let none = BTreeMap::new();
    let by_site = report.writes.as_ref().map_or(&none, |writes| &writes.acked_since_by_site);
    let counts: Vec<String> = by_site.iter().map(|(site, acked)| format!("{site} {acked}")).collect();
    let all = !by_site.is_empty() && by_site.values().all(|acked| *acked > 0);
    check(Code::WritersAtAllSites, all, counts.join(", "), "1".into());
    let audit = report.writes.as_ref().and_then(|writes| writes.audit);
    for (code, found) in
        [(Code::NothingLost, audit.map(|audit| audit.lost)), (Code::NothingDoubled, audit.map(|audit| audit.doubled))]
    {
        let measured = found.map_or("?".to_owned(), |found| found.to_string());
        check(code, found == Some(0), measured, "0".into());
    }
    let equal = match report.after.equal {
        Some(true) => "=",
        Some(false) => "≠",
        None => "?",
    };
    check(Code::CopiesEqual, report.after.equal == Some(true), equal.into(), "=".into());
    let standing = |it: &Standing| {
        let faults = if it.faults.is_empty() { String::new() } else { format!("; {}", it.faults.join("; ")) };
        format!("{} {}{faults}", it.site, it.protection)
    };
    let (before, after) = (standing(&report.before), standing(&report.after));
    check(Code::AsBefore, before == after && report.after.faults.is_empty(), after, before);
    check(Code::NothingLeft, report.left.is_empty(), none_or(&report.left), "0".into());
    checks
}

fn verdict(report: &Report) -> Verdict {
    match () {
        () if report.broken_off.is_some() => Verdict::BrokenOff,
        () if report.checks.iter().all(|check| check.held) => Verdict::Passed,
        () => Verdict::Failed,
    }
}

/// Whether checks and verdict are those that follow from the rest.
pub fn follows(report: &Report) -> bool {
    let again = report.clone().judged();
    (again.checks, again.verdict) == (report.checks.clone(), report.verdict)
}

#[cfg(test)]
mod tests {
    use super::super::canary::Audit;
    use super::super::report::tests::{passed, rehearsed};
    use super::super::report::{Compared, Event, Fork, What, Why};
    use super::*;

    fn audit_of(report: &mut Report) -> &mut Audit {
        report.writes.as_mut().and_then(|writes| writes.audit.as_mut()).expect("it was read back")
    }

    #[test]
    fn whatever_did_not_hold_fails_the_drill() {
        assert_eq!(passed().verdict, Verdict::Passed);
        type Harm = fn(&mut Report);
        let harms: [(Harm, Code); 8] = [
            (|it| it.steps[2].failed = Some("it did not come".into()), Code::StepsDone),
            (|it| it.outages[0].rto_ms = 5_001, Code::Rto),
            (|it| *it.writes.as_mut().unwrap().acked_since_by_site.get_mut("dr").unwrap() = 0, Code::WritersAtAllSites),
            (|it| audit_of(it).lost = 1, Code::NothingLost),
            (|it| audit_of(it).doubled = 1, Code::NothingDoubled),
            (|it| it.after.equal = None, Code::CopiesEqual),
            (|it| it.after.site = "dr".into(), Code::AsBefore),
            (|it| it.left.push("node dr-1 is still cut off".into()), Code::NothingLeft),
        ];
        for (harm, code) in harms {
            let mut report = passed();
            harm(&mut report);
            assert!(!follows(&report), "{code:?}");
            let report = report.judged();
            let failed: Vec<Code> = report.checks.iter().filter(|it| !it.held).map(|it| it.code).collect();
            assert_eq!((failed, report.verdict), (vec![code], Verdict::Failed));
        }
        type HarmCopy = fn(&mut Fork);
        let harms: [(HarmCopy, Code); 4] = [
            (|it| it.promotion = None, Code::CopyPromoted),
            (|it| it.promotion.as_mut().unwrap().took_ms = 30_001, Code::CopyPromoted),
            (|it| it.compared.as_mut().unwrap().different = 1, Code::CopySame),
            (|it| *it.compared.as_mut().unwrap() = Compared::default(), Code::CopySame),
        ];
        for (harm, code) in harms {
            let mut report = rehearsed();
            assert_eq!(report.verdict, Verdict::Passed);
            harm(report.fork.as_mut().unwrap());
            let report = report.judged();
            let failed: Vec<Code> = report.checks.iter().filter(|it| !it.held).map(|it| it.code).collect();
            assert_eq!((failed, report.verdict), (vec![code], Verdict::Failed));
        }
        let mut exposed = rehearsed();
        let state = What::Protection { state: "UNSYNCHRONIZED".into() };
        exposed.timeline.events.push(Event { at_ms: 5_000, what: state });
        let mut never = rehearsed();
        (never.before.protection, never.after.protection) = ("UNSYNCHRONIZED".into(), "UNSYNCHRONIZED".into());
        let failed = never.judged().checks.into_iter().find(|it| !it.held).map(|it| it.code);
        assert_eq!(failed, Some(Code::ProtectedThroughout));
        let failed = exposed.judged().checks.into_iter().find(|it| !it.held).map(|it| (it.code, it.measured));
        assert_eq!(failed, Some((Code::ProtectedThroughout, "UNSYNCHRONIZED".into())));
        let broken_off = Report { broken_off: Some(Why::LockTaken), ..passed() }.judged();
        assert_eq!(broken_off.verdict, Verdict::BrokenOff);
    }
}

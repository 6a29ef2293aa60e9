//! What a drill leaves behind: what was tried, by whom, on what, and what was measured.
//!
//! Checks and verdict follow from the rest: [`super::checks`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::canary::Audit;
use super::checks::{Check, Verdict};
use super::scenario::{Language, Scenario};

/// The state in which the sites protect each other.
pub const PROTECTED: &str = "SYNCHRONIZED";
/// States in which no write is acknowledged that only one site has.
const SAFE: [&str; 5] = [PROTECTED, "SUSPECT", "DEGRADING", "STALLED", "WITNESS_LOST"];
/// Of the report's JSON.
pub const SCHEMA: &str = "saola/drill-report/v1";

/// A drill that was held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// Counts the reports of a cluster from 1; 0: it could not be stored there.
    pub number: u64,
    /// Hash of the report before it; none: it is the first.
    pub previous_sha256: Option<String>,
    /// Id of the drill.
    pub drill: String,
    /// What was planned.
    pub scenario: Scenario,
    /// Who held it.
    pub by: String,
    /// What people say about it.
    pub notes: Vec<String>,
    /// On which cluster.
    pub cluster: Cluster,
    /// When it began, microseconds since 1970 by the clock of the machine it was held from.
    pub began_us: u64,
    /// How long it took, clean-up included.
    pub took_ms: u64,
    /// How the cluster stood before.
    pub before: Standing,
    /// How it stood afterwards.
    pub after: Standing,
    /// What was done, in order; steps that are missing were not begun.
    pub steps: Vec<StepRun>,
    /// Why it was broken off, if it was.
    pub broken_off: Option<Why>,
    /// What each thing that was done cost.
    pub outages: Vec<Outage>,
    /// What the writers were told, and what was there afterwards; none: nothing was written.
    pub writes: Option<Writes>,
    /// The copy that it was held on, if it was held on one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork: Option<Fork>,
    /// How it went.
    pub timeline: Timeline,
    /// What a check of everything has found.
    pub findings: Vec<Noted>,
    /// What could not be cleaned up.
    pub left: Vec<String>,
    /// What had to hold.
    pub checks: Vec<Check>,
    /// What follows from the checks.
    pub verdict: Verdict,
    /// Earlier drills of this scenario, the newest first.
    pub earlier: Vec<Earlier>,
}

/// The cluster that a drill was held on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Its id, hexadecimal.
    pub id: String,
    /// Its lineage.
    pub epoch: u64,
    /// Its nodes.
    pub nodes: Vec<Node>,
}

/// A node of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its site.
    pub site: String,
    /// `voter`, `learner` or `witness`.
    pub role: String,
    /// The release it runs.
    pub release: String,
}

/// How a cluster stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Who leads; empty: nobody.
    pub leader: String,
    /// The site of the leader.
    pub site: String,
    /// State of the protection.
    pub protection: String,
    /// Term of the leader.
    pub term: u64,
    /// What is wrong with nodes.
    pub faults: Vec<String>,
    /// Whether all data nodes hold the same; none: it was not compared, or not every one answered.
    pub equal: Option<bool>,
}

/// A step that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRun {
    /// Which one, from 0.
    pub step: usize,
    /// When, since the drill began.
    pub began_ms: u64,
    /// When it ended.
    pub ended_ms: u64,
    /// Why it failed, if it did.
    pub failed: Option<String>,
}

/// What a step that does something cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// Which step.
    pub step: usize,
    /// When the longest time without an acknowledged write for the writers of one site began that reaches beyond the step's
    /// beginning, up to the next such step.
    pub from_ms: u64,
    /// How long it was.
    pub rto_ms: u64,
    /// The same for the writers of each site.
    pub sites: BTreeMap<String, u64>,
    /// From its beginning until another node was seen to lead; none: no other was.
    pub next_leader_ms: Option<u64>,
}

/// A copy of a node, in a lineage of its own, on which a promotion was rehearsed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    /// The node that was copied.
    pub node: String,
    /// Its site, which was promoted.
    pub site: String,
    /// Revision of the copy.
    pub revision: u64,
    /// Log index of the copy.
    pub index: u64,
    /// State digest of the copy, hexadecimal: computed from its rows, and the one that the node's apply had kept.
    pub digest: String,
    /// Bytes that were copied.
    pub bytes: u64,
    /// How long that took.
    pub copied_ms: u64,
    /// The promotion; none: it was not carried out.
    pub promotion: Option<Promotion>,
    /// Records of the copy beside those of the cluster; none: they were not compared.
    pub compared: Option<Compared>,
}

impl Fork {
    /// Its records were compared, and are the cluster's.
    pub fn is_like_its_cluster(&self) -> bool {
        self.compared.as_ref().is_some_and(|it| it.different == 0 && it.records > 0)
    }
}

/// A promotion of a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// Beginning of the plan's hash.
    pub plan: String,
    /// The epoch that began.
    pub epoch: u64,
    /// What the plan said of the loss: `PROVEN ZERO`, `BOUNDED` or `UNKNOWN`.
    pub loss: String,
    /// With `BOUNDED`, at most so many revisions.
    pub lost_revisions: u64,
    /// Who approved.
    pub approved_by: Vec<String>,
    /// So many had to.
    pub needed: u32,
    /// How long they took.
    pub approvals_ms: u64,
    /// From the last approval until the copy took its first write.
    pub took_ms: u64,
}

/// Records of a copy beside those of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compared {
    /// Collections of which some were read.
    pub collections: u64,
    /// Records that were read and opened.
    pub records: u64,
    /// Those that were not the same at the copy's revision.
    pub different: u64,
}

/// All writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Writes {
    /// Acknowledged.
    pub acked: u64,
    /// Refused as surely not written.
    pub refused: u64,
    /// Nobody could say.
    pub unknown: u64,
    /// What of it was there when all was over; none: it could not be read back.
    pub audit: Option<Audit>,
    /// Acknowledged since something was last done to the cluster, by the site at which the writer began.
    pub acked_since_by_site: BTreeMap<String, u64>,
    /// The newest refusal or doubt.
    pub last_trouble: Option<String>,
}

/// How it went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// Length of one span of `acked`.
    pub span_ms: u64,
    /// Acknowledgements per span since the drill began, by the site at which the writer began.
    pub acked: BTreeMap<String, Vec<u32>>,
    /// What was seen.
    pub events: Vec<Event>,
}

/// Something that was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, since the drill began.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "kebab-case")]
pub enum What {
    /// A step began.
    Step {
        /// Which one.
        step: usize,
    },
    /// Another node leads.
    Leader {
        /// Its name.
        node: String,
        /// Its site.
        site: String,
        /// In this term.
        term: u64,
    },
    /// Nobody says that it leads.
    NoLeader,
    /// The sites stand to each other in another way.
    Protection {
        /// How.
        state: String,
    },
    /// The drill was broken off.
    BrokenOff {
        /// Why.
        why: Why,
    },
}

/// Why a drill was broken off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "why", rename_all = "kebab-case")]
pub enum Why {
    /// Something is wrong that the drill does not do.
    Alarm {
        /// Code of the fault.
        code: String,
        /// What is wrong.
        said: String,
    },
    /// No write was acknowledged for as long as the drill was allowed.
    Outage {
        /// So long.
        allowed_ms: u64,
    },
    /// Somebody has taken its lock away.
    LockTaken,
    /// Whoever held it asked for its end.
    Asked,
    /// A node does not do any more what the drill asks.
    Refused {
        /// Which.
        node: String,
        /// What it said.
        said: String,
    },
}

impl Why {
    /// In a sentence.
    pub fn describe(&self, language: Language) -> String {
        let say = |en: String, vi: String| if language == Language::Vi { vi } else { en };
        match self {
            Why::Alarm { code, said } => {
                say(format!("a real alarm: {code}: {said}"), format!("có sự cố thật: {code}: {said}"))
            }
            Why::Outage { allowed_ms } => say(
                format!("no write was acknowledged for {allowed_ms} ms, the outage that the drill was allowed"),
                format!("không có ghi nào được xác nhận trong {allowed_ms} ms, hết thời gian gián đoạn cho phép"),
            ),
            Why::LockTaken => say(
                "its lock was taken away (`saola drill abort`)".into(),
                "khóa diễn tập đã bị thu hồi (`saola drill abort`)".into(),
            ),
            Why::Asked => say("whoever held it asked for its end".into(), "người thực hiện yêu cầu dừng".into()),
            Why::Refused { node, said } => {
                say(format!("node {node} refuses: {said}"), format!("nút {node} từ chối: {said}"))
            }
        }
    }
}

/// A finding of `saola validate`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// Its code.
    pub code: String,
    /// What was found.
    pub what: String,
    /// The next step.
    pub next: String,
}

/// An earlier drill in a few figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Earlier {
    /// Number of its report.
    pub number: u64,
    /// Which scenario.
    pub scenario: String,
    /// When it began, microseconds since 1970.
    pub began_us: u64,
    /// Longest time without an acknowledged write; none: nothing was done.
    pub rto_ms: Option<u64>,
    /// Acknowledged writes that were lost; none: nothing was written.
    pub lost: Option<u64>,
    /// How it ended.
    pub verdict: Verdict,
    /// Revision up to which a copy of all records was taken, and compared with the cluster's; none: it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exported_revision: Option<u64>,
}

impl Report {
    /// The longest time without an acknowledged write; none: nothing was done.
    pub fn rto_ms(&self) -> Option<u64> {
        self.outages.iter().map(|outage| outage.rto_ms).max()
    }

    /// For how long the sites did not protect each other although they did before; none: that was not looked at.
    pub fn unprotected_ms(&self) -> Option<u64> {
        if self.before.protection != PROTECTED {
            return None;
        }
        let (mut total, mut open_since) = (0, None);
        for event in &self.timeline.events {
            let What::Protection { state } = &event.what else { continue };
            match (state == PROTECTED, open_since) {
                (false, None) => open_since = Some(event.at_ms),
                (true, Some(since)) => {
                    total += event.at_ms.saturating_sub(since);
                    open_since = None;
                }
                _ => {}
            }
        }
        Some(total + open_since.map_or(0, |since| self.took_ms.saturating_sub(since)))
    }

    /// States in which a loss of the other site would have cost something, although the sites protected each other before.
    pub fn unprotected_states(&self) -> Vec<&str> {
        let states = self.timeline.events.iter().filter_map(|event| match &event.what {
            What::Protection { state } => Some(state.as_str()),
            _ => None,
        });
        states.filter(|state| !SAFE.contains(state)).collect()
    }

    /// In a few figures.
    pub fn in_short(&self) -> Earlier {
        Earlier {
            number: self.number,
            scenario: self.scenario.name.clone(),
            began_us: self.began_us,
            rto_ms: self.rto_ms(),
            lost: self.writes.as_ref().and_then(|writes| writes.audit).map(|audit| audit.lost),
            verdict: self.verdict,
            exported_revision: self.fork.as_ref().filter(|it| it.is_like_its_cluster()).map(|it| it.revision),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A drill that was passed.
    pub(in crate::drill) fn passed() -> Report {
        let scenario = Scenario::find("main-site-lost").expect("it is ours");
        let steps = (0..scenario.steps.len())
            .map(|step| StepRun {
                step,
                began_ms: step as u64 * 3_000,
                ended_ms: step as u64 * 3_000 + 2_900,
                failed: None,
            })
            .collect();
        let standing = Standing {
            leader: "main-1".into(),
            site: "main".into(),
            protection: "SYNCHRONIZED".into(),
            term: 4,
            faults: Vec::new(),
            equal: Some(true),
        };
        let node = |name: &str, site: &str, role: &str| Node {
            name: name.into(),
            site: site.into(),
            role: role.into(),
            release: "0.1.0".into(),
        };
        let by_site = |main, dr| BTreeMap::from([("main".to_owned(), main), ("dr".to_owned(), dr)]);
        Report {
            schema: SCHEMA.into(),
            number: 3,
            previous_sha256: Some("ab".repeat(32)),
            drill: "d-0001".into(),
            scenario,
            by: "on duty".into(),
            notes: vec!["agreed with <operations> & security".into()],
            cluster: Cluster {
                name: "registry".into(),
                id: "00".repeat(16),
                epoch: 1,
                nodes: vec![
                    node("main-1", "main", "voter"),
                    node("dr-1", "dr", "voter"),
                    node("witness", "third", "witness"),
                ],
            },
            began_us: 1_790_000_000_000_000,
            took_ms: 30_000,
            before: standing.clone(),
            after: Standing { term: 6, ..standing },
            steps,
            broken_off: None,
            outages: vec![Outage {
                step: 1,
                from_ms: 2_990,
                rto_ms: 1_210,
                sites: by_site(1_110, 1_210),
                next_leader_ms: Some(900),
            }],
            writes: Some(Writes {
                acked: 4_000,
                refused: 3,
                unknown: 2,
                audit: Some(Audit { lost: 0, doubled: 0, found: 4_001 }),
                acked_since_by_site: by_site(1_900, 2_100),
                last_trouble: None,
            }),
            fork: None,
            timeline: Timeline {
                span_ms: 1_000,
                acked: BTreeMap::from([
                    ("main".to_owned(), (0..30).map(|n| if n == 3 { 0 } else { 60 + n % 7 }).collect()),
                    ("dr".to_owned(), (0..30).map(|n| if n == 3 { 0 } else { 70 + n % 5 }).collect()),
                ]),
                events: vec![
                    Event { at_ms: 3_000, what: What::Step { step: 1 } },
                    Event { at_ms: 3_900, what: What::Leader { node: "dr-1".into(), site: "dr".into(), term: 5 } },
                    Event { at_ms: 4_100, what: What::Protection { state: "UNSYNCHRONIZED".into() } },
                    Event { at_ms: 20_000, what: What::Protection { state: "SYNCHRONIZED".into() } },
                ],
            },
            findings: Vec::new(),
            left: Vec::new(),
            checks: Vec::new(),
            verdict: Verdict::Failed,
            earlier: vec![Earlier {
                number: 1,
                scenario: "main-site-lost".into(),
                began_us: 1_780_000_000_000_000,
                rto_ms: Some(2_050),
                lost: Some(0),
                verdict: Verdict::Passed,
                exported_revision: None,
            }],
        }
        .judged()
    }

    /// A promotion that was rehearsed on a copy, and passed.
    pub(in crate::drill) fn rehearsed() -> Report {
        let scenario = Scenario::find("promote-copy").expect("it is ours");
        let run = |step| StepRun { step, began_ms: step as u64 * 3_000, ended_ms: 3_000, failed: None };
        let promotion = Promotion {
            plan: "346e0cbb55ac337f".into(),
            epoch: 2,
            loss: "BOUNDED".into(),
            lost_revisions: 0,
            approved_by: vec!["director".into(), "registrar".into()],
            needed: 2,
            approvals_ms: 95_000,
            took_ms: 1_300,
        };
        let fork = Fork {
            node: "dr-1".into(),
            site: "dr".into(),
            revision: 34_027,
            index: 11_081,
            digest: "cd".repeat(32),
            bytes: 11_892_486,
            copied_ms: 269,
            promotion: Some(promotion),
            compared: Some(Compared { collections: 4, records: 205, different: 0 }),
        };
        let passed = passed();
        Report {
            steps: (0..scenario.steps.len()).map(run).collect(),
            scenario,
            fork: Some(fork),
            timeline: Timeline { events: Vec::new(), ..passed.timeline.clone() },
            earlier: Vec::new(),
            ..passed
        }
        .judged()
    }

    #[test]
    fn the_time_without_protection_is_that_of_all_other_states_together() {
        assert_eq!(passed().unprotected_ms(), Some(15_900));
        let mut open = passed();
        open.timeline.events.pop();
        assert_eq!(open.unprotected_ms(), Some(25_900), "up to the end");
        open.before.protection = String::new();
        assert_eq!(open.unprotected_ms(), None);
    }

    #[test]
    fn a_report_is_read_back_as_it_was_written() {
        let text = serde_json::to_string(&passed()).expect("it can be written");
        assert_eq!(serde_json::from_str::<Report>(&text).expect("it can be read"), passed());
    }
}

//! What a drill does, step by step: a file in TOML.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::stage::Stage;
use crate::exit::Failure;
use crate::output::grouped;

/// The drills that come with the command.
const OURS: [&str; 8] = [
    include_str!("../../drills/checklist.toml"),
    include_str!("../../drills/promote-copy.toml"),
    include_str!("../../drills/leader-crash.toml"),
    include_str!("../../drills/disk-hangs.toml"),
    include_str!("../../drills/witness-lost.toml"),
    include_str!("../../drills/link-cut.toml"),
    include_str!("../../drills/switchover-and-back.toml"),
    include_str!("../../drills/main-site-lost.toml"),
];

/// A plan expires after 15 minutes, and has to be carried out before that.
const LONGEST_CEREMONY_MS: u64 = 14 * 60 * 1_000;

/// A language of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// English.
    En,
    /// Vietnamese.
    Vi,
}

/// A text in the languages of the report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// English.
    pub en: String,
    /// Vietnamese.
    pub vi: String,
}

impl Text {
    /// In one of them.
    pub fn in_language(&self, language: Language) -> &str {
        match language {
            Language::En => &self.en,
            Language::Vi => &self.vi,
        }
    }
}

/// Kinds of drills, by how much of the real thing they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// Checklist: nothing is changed.
    L0,
    /// A forced promotion on a copy: the cluster goes on as it is.
    L3,
    /// One component fails.
    L4,
    /// Planned switchover and back, under load.
    L5,
    /// A site is really cut off.
    L6,
}

/// What a scenario asks of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Needs {
    /// There is a witness.
    #[serde(default)]
    pub witness: bool,
}

/// What must be reached for a drill to be passed; no write may ever be lost or doubled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Targets {
    /// The longest time without an acknowledged write.
    pub rto_ms: u64,
    /// From the last approval until the promoted copy takes its first write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotion_ms: Option<u64>,
}

/// What is borne before the drill is broken off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The outage that the drill was allowed: so long no write may be acknowledged.
    pub outage_ms: u64,
}

/// A node, by what it does or by its name.
pub type NodeWord = String;
/// A site: `leading` and `other`, as they were when the drill began, or its name.
pub type SiteWord = String;

/// One thing that a drill does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Step {
    /// Looks, as `saola validate drill --strict`.
    Validate {},
    /// Lets the writers write.
    Observe {
        /// For so long.
        for_ms: u64,
    },
    /// The process of a node ends as by SIGKILL, and starts again.
    Crash {
        /// `leader`, or its name.
        node: NodeWord,
        /// It stays down for so long.
        down_ms: u32,
    },
    /// The disk of a node's log completes no write.
    HangDisk {
        /// `leader`, or its name.
        node: NodeWord,
    },
    /// Two sites do not reach each other.
    CutLink {
        /// One.
        site: SiteWord,
        /// The other one.
        from: SiteWord,
    },
    /// Nobody hears the witness.
    LoseWitness {},
    /// A site is cut off from all others.
    Isolate {
        /// The site.
        site: SiteWord,
    },
    /// Whatever was done to nodes ends.
    Heal {},
    /// Leadership goes to a site.
    Switchover {
        /// The site.
        to: SiteWord,
    },
    /// Copies a data node, and starts a node on the copy, in a lineage of its own.
    Fork {},
    /// Plans the promotion of the copy's site, has it approved, and carries it out on the copy.
    PromoteFork {
        /// The approvers have so long.
        approved_within_ms: u64,
    },
    /// Reads records from the promoted copy and from the cluster.
    CompareFork {},
    /// Ends the copy's node and removes all of it.
    DiscardFork {},
    /// Waits for something that the cluster should do by itself.
    Await {
        /// What.
        until: Until,
        /// The step fails if it has not come by then.
        within_ms: u64,
    },
}

/// What a step waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// Another node leads than when the last trouble was made, and writes are acknowledged.
    AnotherLeader,
    /// A node of another site leads than when the drill began, and writes are acknowledged.
    OtherSiteLeads,
    /// Each site has everything, and acknowledgements wait for both; with one site: all nodes take part.
    Synchronized,
    /// The site that leads goes on without the other one, and says so.
    Unsynchronized,
    /// The cluster says that it misses the witness.
    WitnessMissed,
}

/// A drill as it is planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it is called on the command line.
    pub name: String,
    /// Its kind.
    pub level: Level,
    /// So many writers begin at each site with records.
    #[serde(default = "two")]
    pub writers_per_site: u32,
    /// What it is.
    pub title: Text,
    /// What it is to show.
    pub purpose: Text,
    /// When it can be held.
    #[serde(default)]
    pub needs: Needs,
    /// What must be reached; only where something is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub targets: Option<Targets>,
    /// What is borne; only where something is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// What is done.
    #[serde(rename = "step")]
    pub steps: Vec<Step>,
}

fn two() -> u32 {
    2
}

impl Step {
    /// Whether it does something to the cluster.
    pub fn acts(&self) -> bool {
        !matches!(self, Step::Validate {} | Step::Observe { .. } | Step::Await { .. })
    }

    /// Whether it does something to nodes that lasts until it is ended.
    fn troubles(&self) -> bool {
        matches!(self, Step::HangDisk { .. } | Step::CutLink { .. } | Step::LoseWitness {} | Step::Isolate { .. })
    }

    /// In a sentence.
    pub fn describe(&self, language: Language) -> String {
        let vi = language == Language::Vi;
        let say = |en: String, in_vi: String| if vi { in_vi } else { en };
        match self {
            Step::Validate {} => say(
                "check everything, as `saola validate drill --strict`".into(),
                "kiểm tra mọi điều kiện, như `saola validate drill --strict`".into(),
            ),
            Step::Observe { for_ms } => say(
                format!("let the writers write for {} ms", grouped(*for_ms)),
                format!("để các tiến trình ghi hoạt động trong {} ms", grouped(*for_ms)),
            ),
            Step::Crash { node, down_ms } => say(
                format!(
                    "kill the process of {}; it starts again after {} ms",
                    node_word(node, language),
                    grouped((*down_ms).into())
                ),
                format!(
                    "dừng đột ngột tiến trình của {}; khởi động lại sau {} ms",
                    node_word(node, language),
                    grouped((*down_ms).into())
                ),
            ),
            Step::HangDisk { node } => say(
                format!("hang the log's disk of {}", node_word(node, language)),
                format!("treo ổ đĩa nhật ký của {}", node_word(node, language)),
            ),
            Step::CutLink { site, from } => say(
                format!("cut the link between {site} and {from}"),
                format!("cắt đường truyền giữa {site} và {from}"),
            ),
            Step::LoseWitness {} => {
                say("let nobody hear the witness".into(), "không nút nào nghe được nút chứng kiến".into())
            }
            Step::Isolate { site } => {
                say(format!("cut site {site} off from all others"), format!("cô lập địa điểm {site} khỏi mọi nơi khác"))
            }
            Step::Heal {} => say("end what was done to the nodes".into(), "chấm dứt mọi tác động lên các nút".into()),
            Step::Switchover { to } => {
                say(format!("hand leadership over to site {to}"), format!("chuyển quyền lãnh đạo sang địa điểm {to}"))
            }
            Step::Fork {} => say(
                "copy a data node, and start a node on the copy, apart from the cluster".into(),
                "sao chép một nút dữ liệu và chạy một nút trên bản sao, tách khỏi cụm".into(),
            ),
            Step::PromoteFork { approved_within_ms } => say(
                format!(
                    "promote the copy by force: plan, approvals ({} ms at most), first write",
                    grouped(*approved_within_ms)
                ),
                format!(
                    "chuyển quyền cưỡng bức trên bản sao: kế hoạch, phê duyệt (tối đa {} ms), lần ghi đầu tiên",
                    grouped(*approved_within_ms)
                ),
            ),
            Step::CompareFork {} => say(
                "read records from the promoted copy and compare them with the cluster's".into(),
                "đọc bản ghi từ bản sao đã chuyển quyền và so với dữ liệu của cụm".into(),
            ),
            Step::DiscardFork {} => say("remove the copy".into(), "xóa bản sao".into()),
            Step::Await { until, within_ms } => {
                let (en, in_vi) = match until {
                    Until::AnotherLeader => {
                        ("another node leads and writes are acknowledged", "một nút khác lãnh đạo và ghi được xác nhận")
                    }
                    Until::OtherSiteLeads => (
                        "the other site leads and writes are acknowledged",
                        "địa điểm kia lãnh đạo và ghi được xác nhận",
                    ),
                    Until::Synchronized => ("every site has everything again", "mọi địa điểm lại có đầy đủ dữ liệu"),
                    Until::Unsynchronized => (
                        "the site that leads goes on alone and says so",
                        "địa điểm lãnh đạo tiếp tục một mình và thông báo điều đó",
                    ),
                    Until::WitnessMissed => {
                        ("the cluster says that it misses the witness", "cụm thông báo thiếu nút chứng kiến")
                    }
                };
                let within = grouped(*within_ms);
                say(format!("wait until {en}, {within} ms at most"), format!("chờ đến khi {in_vi}, tối đa {within} ms"))
            }
        }
    }
}

/// The leader in words, or the name of a node.
fn node_word(node: &str, language: Language) -> &str {
    match (node, language) {
        ("leader", Language::En) => "the leader",
        ("leader", Language::Vi) => "nút lãnh đạo",
        (name, _) => name,
    }
}

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or is no scenario.
    pub fn read(path: &Path) -> Result<Scenario, Failure> {
        let doing = format!("read scenario {}", path.display());
        let text = std::fs::read_to_string(path).map_err(|source| Failure::input(&doing, &source))?;
        Scenario::parse(&text).map_err(|why| {
            Failure::usage(
                format!("{doing}: {why}"),
                "`saola drill plan NAME --toml` shows one that comes with the command",
            )
        })
    }

    fn parse(text: &str) -> Result<Scenario, String> {
        let scenario: Scenario = toml::from_str(text).map_err(|error| error.to_string())?;
        scenario.check().map(|()| scenario)
    }

    /// Those that come with the command.
    pub fn ours() -> Vec<Scenario> {
        OURS.iter().map(|text| Scenario::parse(text).expect("a test reads each of them")).collect()
    }

    /// One of ours by its name, or a file.
    ///
    /// # Errors
    /// Neither.
    pub fn find(word: &str) -> Result<Scenario, Failure> {
        let ours = Scenario::ours();
        let names: Vec<String> = ours.iter().map(|it| it.name.clone()).collect();
        match ours.into_iter().find(|it| it.name == word) {
            Some(found) => Ok(found),
            None if word.contains(['/', '.']) => {
                let read = Scenario::read(Path::new(word))?;
                // Whoever reads that name in a history must be able to trust that it was ours.
                match Scenario::ours().into_iter().find(|it| it.name == read.name && *it != read) {
                    None => Ok(read),
                    Some(_) => {
                        let what = format!("scenario {word} has the name {:?} of one of the command's own", read.name);
                        Err(Failure::usage(what, "give it another name"))
                    }
                }
            }
            None => {
                let next = format!("one of {}, or the path of a file", names.join(", "));
                Err(Failure::usage(format!("there is no drill {word:?}"), next))
            }
        }
    }

    /// Whether it does something to the cluster.
    pub fn acts(&self) -> bool {
        self.steps.iter().any(Step::acts)
    }

    /// Whether it works on a copy of a node.
    pub fn forks(&self) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Fork {}))
    }

    /// The same with the names of the sites that its words mean on a stage.
    ///
    /// # Errors
    /// A site that is not there.
    pub fn on(mut self, stage: &Stage) -> Result<Scenario, String> {
        for step in &mut self.steps {
            let words = match step {
                Step::CutLink { site, from } => vec![site, from],
                Step::Isolate { site } | Step::Switchover { to: site } => vec![site],
                _ => Vec::new(),
            };
            for word in words {
                *word = stage.site(word)?.to_owned();
            }
        }
        Ok(self)
    }

    fn check(&self) -> Result<(), String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.name.is_empty() || self.name.len() > 64 || !self.name.chars().all(plain) {
            return Err(format!("name {:?}: use up to 64 of a-z, 0-9 and -", self.name));
        }
        if self.steps.is_empty() {
            return Err("it has no step".into());
        }
        if self.acts() && (self.targets.is_none() || self.limits.is_none()) {
            return Err("it does something to the cluster: say `targets` and `limits`".into());
        }
        let validates = self.steps.iter().filter(|step| matches!(step, Step::Validate {})).count();
        let is_checklist = validates == self.steps.len();
        if is_checklist != (self.level == Level::L0) || (validates > 0 && !is_checklist) {
            return Err("a checklist (L0) only validates, and nothing else does".into());
        }
        if !is_checklist && !self.acts() {
            return Err("it does nothing to the cluster".into());
        }
        self.check_copy()?;
        let mut troubled = false;
        for step in &self.steps {
            match step {
                Step::Heal {} => troubled = false,
                _ if step.troubles() && troubled => {
                    return Err("one trouble at a time: `heal` before the next one".into());
                }
                _ => troubled |= step.troubles(),
            }
        }
        if self.acts() && !(1..=64).contains(&self.writers_per_site) {
            return Err("writers_per_site is 1 to 64".into());
        }
        Ok(())
    }

    /// A drill on a copy does nothing else, leaves no copy behind, and waits no longer than a plan holds.
    fn check_copy(&self) -> Result<(), String> {
        use Step::{CompareFork, DiscardFork, Fork, PromoteFork};
        let acting: Vec<&Step> = self.steps.iter().filter(|step| step.acts()).collect();
        let too_long =
            |it: &&&Step| matches!(it, PromoteFork { approved_within_ms } if *approved_within_ms > LONGEST_CEREMONY_MS);
        if acting.iter().any(|it| too_long(&it)) {
            return Err(format!("approved_within_ms is {LONGEST_CEREMONY_MS} at most: a plan holds for 15 minutes"));
        }
        let in_order = matches!(acting[..], [Fork {}, PromoteFork { .. }, CompareFork {}, DiscardFork {}]);
        let is_of_copy = |step: &&&Step| matches!(step, Fork {} | PromoteFork { .. } | CompareFork {} | DiscardFork {});
        match (self.level == Level::L3, in_order, acting.iter().find(is_of_copy)) {
            (true, true, _) | (false, _, None) => Ok(()),
            _ => Err("a drill on a copy (L3) has the steps fork, promote-fork, compare-fork and discard-fork, in this order, \
                      and no other that acts"
                .into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stage::tests::stage;
    use super::*;

    #[test]
    fn all_that_come_with_the_command_can_be_read_and_be_held_on_two_sites_and_a_witness() {
        for scenario in Scenario::ours() {
            stage().bears(&scenario).unwrap_or_else(|why| panic!("{}: {why}", scenario.name));
            assert!(!scenario.title.vi.is_empty() && !scenario.purpose.vi.is_empty(), "{}", scenario.name);
            let again = toml::to_string(&scenario).expect("it can be written");
            assert_eq!(Scenario::parse(&again).as_ref(), Ok(&scenario));
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        let head = "name = \"x\"\nlevel = \"L4\"\n[title]\nen=\"\"\nvi=\"\"\n[purpose]\nen=\"\"\nvi=\"\"\n";
        let refused = |rest: &str| Scenario::parse(&format!("{head}{rest}")).expect_err("it makes no sense");
        assert!(refused("[[step]]\ndo = \"heal\"").contains("targets"));
        assert!(refused("[[step]]\ndo = \"observe\"\nfor_ms = 3").contains("does nothing"));
        assert!(refused("[[step]]\ndo = \"validate\"").contains("only validates"));
        let cut = "[[step]]\ndo = \"lose-witness\"\n";
        let bounds = "[targets]\nrto_ms = 1\n[limits]\noutage_ms = 1\n";
        assert!(refused(&format!("{bounds}{cut}{cut}")).contains("one trouble at a time"));
        assert!(refused("[[step]]\ndo = \"explode\"").contains("unknown variant"));
        assert!(refused("[[step]]\ndo = \"observe\"\nfor = 3").contains("unknown field"));
        assert!(refused(&format!("{bounds}[[step]]\ndo = \"fork\"")).contains("a drill on a copy (L3) has the steps"));
        let left = Scenario::find("promote-copy").expect("it is ours");
        let left = Scenario { steps: left.steps[..4].to_vec(), ..left };
        assert!(left.check().expect_err("the copy would be left").contains("discard-fork"));
        let mut scenario = Scenario::find("main-site-lost").expect("it is ours");
        scenario.steps[1] = Step::Isolate { site: "third".into() };
        assert!(stage().bears(&scenario).expect_err("no quorum would be left").contains("no quorum"));
        assert!(Scenario::find("nothing").expect_err("there is none").next().contains("leader-crash"));
    }
}

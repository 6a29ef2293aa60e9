//! What would be lost if a site were lost now: pure functions of what the nodes say of themselves.
//!
//! With the gate off an acknowledged write is on a quorum of voters, with the gate on also on data nodes of other sites.
//! A site is protected when every quorum reaches beyond it and the nodes beyond it can go on by themselves.

use saola_client::proto::{Member, Role};
use saola_storage::protection::{Mode, Protection};

/// A data node that lags by no more than this many log entries counts as current.
pub const CURRENT_LAG: u64 = 1000;

/// One node as the report sees it.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// Who it is.
    pub member: Member,
    /// It answered, as a node of this cluster whose Raft runs.
    pub takes_part: bool,
    /// A data node that cannot open its keys.
    pub sealed: bool,
    /// Last log entry that it has applied.
    pub applied_index: u64,
}

impl NodeView {
    fn votes(&self) -> bool {
        matches!(self.member.role(), Role::Voter | Role::Witness)
    }

    fn keeps_records(&self) -> bool {
        self.member.role() != Role::Witness
    }

    /// A data node that takes part and is close to `committed_index`.
    pub fn is_current(&self, committed_index: u64) -> bool {
        self.keeps_records() && self.takes_part && self.applied_index.saturating_add(CURRENT_LAG) >= committed_index
    }
}

/// `protected`, or a sentence that says why the loss of `site` would hurt.
pub fn of_site(site: &str, nodes: &[NodeView], committed_index: u64) -> String {
    match threat(site, nodes, committed_index) {
        None => "protected".into(),
        Some(reason) => reason,
    }
}

/// One sentence: what the loss of the site that leads (`main_site`) would mean now.
pub fn of_cluster(main_site: &str, nodes: &[NodeView], committed_index: u64, rule: Option<Protection>) -> String {
    let threat = threat(main_site, nodes, committed_index);
    let Some(rule) = rule else {
        return "a witness does not know what acknowledgements wait for: ask a data node".into();
    };
    if rule.mode == Mode::MaximumPerformance {
        let arithmetic = || format!("protected by arithmetic: every commit has a copy outside {main_site}");
        return format!("{} (gate off)", threat.unwrap_or_else(arithmetic));
    }
    let (up, silent): (Vec<_>, Vec<_>) =
        nodes.iter().filter(|n| n.member.site != main_site && n.keeps_records()).partition(|n| n.takes_part);
    let acks = rule.acks as usize;
    let statement = match threat {
        _ if up.len() + silent.len() < acks => format!(
            "WRITES WAIT: there are {} data nodes outside {main_site}, and {acks} must store each write; add nodes there \
             (`saola cluster add`), or lower the protection (`saola protection set`)",
            up.len() + silent.len()
        ),
        _ if up.len() < acks => format!(
            "WRITES WAIT: {} of the {acks} data nodes outside {main_site} that must store each write take part; bring back \
             {}, or lower the protection (`saola protection set`)",
            up.len(),
            names(silent.into_iter())
        ),
        None => format!("protected: every acknowledged write is stored outside {main_site}"),
        Some(reason) => format!(
            "every acknowledged write is stored outside {main_site}, but the rest would not go on by itself: {reason}"
        ),
    };
    format!("{statement} (gate on: {acks})")
}

fn threat(site: &str, nodes: &[NodeView], committed_index: u64) -> Option<String> {
    let (here, beyond): (Vec<_>, Vec<_>) = nodes.iter().partition(|n| n.member.site == site);
    if !beyond.iter().any(|n| n.keeps_records()) {
        return Some("ONE SITE: nothing survives the loss of this site".into());
    }
    let voters = nodes.iter().filter(|n| n.votes()).count();
    let quorum = voters / 2 + 1;
    let voters_here = here.iter().filter(|n| n.votes()).count();
    if voters_here >= quorum {
        return Some(format!(
            "NOT PROTECTED: {voters_here} of {voters} voters are at {site}, so a commit may have no copy elsewhere \
             and the rest cannot go on by itself"
        ));
    }
    let up = beyond.iter().filter(|n| n.votes() && n.takes_part).count();
    if up < quorum {
        let silent = names(beyond.iter().copied().filter(|n| n.votes() && !n.takes_part));
        let next = match silent.is_empty() {
            true => format!("add a voter outside site {site} with `saola cluster add`"),
            false => format!("bring back {silent}"),
        };
        return Some(format!(
            "NOT PROTECTED: without {site} {up} voters would be left and {quorum} are needed; {next}"
        ));
    }
    let current = |n: &&&NodeView| n.votes() && n.is_current(committed_index);
    if !beyond.iter().any(|n| current(&n)) {
        let behind = names(beyond.iter().copied().filter(|n| n.keeps_records()));
        return Some(format!("NOT PROTECTED: no data voter outside {site} is current; wait for {behind} to catch up"));
    }
    if !beyond.iter().any(|n| current(&n) && !n.sealed) {
        let sealed = names(beyond.iter().copied().filter(|n| n.sealed));
        return Some(format!(
            "NOT PROTECTED: the current data nodes outside {site} are sealed; give {sealed} their key"
        ));
    }
    None
}

fn names<'a>(nodes: impl Iterator<Item = &'a NodeView>) -> String {
    nodes.map(|n| n.member.name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::super::topology::tests::{five, member};
    use super::*;

    const OFF: Protection = Protection { mode: Mode::MaximumPerformance, acks: 1 };

    fn view(members: Vec<Member>) -> Vec<NodeView> {
        members
            .into_iter()
            .map(|member| NodeView { member, takes_part: true, sealed: false, applied_index: 5000 })
            .collect()
    }

    #[test]
    fn two_plus_two_and_a_witness_bear_the_loss_of_any_site() {
        let nodes = view(five());
        for site in ["main", "dr", "third"] {
            assert_eq!(of_site(site, &nodes, 5000), "protected");
        }
        let sentence = of_cluster("main", &nodes, 5000, Some(OFF));
        assert_eq!(sentence, "protected by arithmetic: every commit has a copy outside main (gate off)");
    }

    #[test]
    fn a_silent_witness_takes_the_protection_away() {
        let mut nodes = view(five());
        nodes[4].takes_part = false;
        assert!(of_site("main", &nodes, 5000).contains("bring back witness"));
        assert_eq!(of_site("third", &nodes, 5000), "protected");
    }

    #[test]
    fn too_few_voters_elsewhere_ask_for_another_when_none_is_silent() {
        let voter = |id, name, site| member(id, name, site, Role::Voter);
        let nodes = view(vec![voter(1, "a", "main"), voter(2, "b", "dr")]);
        let threat = of_site("main", &nodes, 5000);
        assert!(threat.ends_with("; add a voter outside site main with `saola cluster add`"), "{threat}");
    }

    #[test]
    fn data_nodes_elsewhere_must_be_current_and_open() {
        let mut nodes = view(five());
        nodes[2].applied_index = 5000 - CURRENT_LAG - 1;
        nodes[3].sealed = true;
        assert!(of_site("main", &nodes, 5000).contains("give dr-2 their key"));
        nodes[3].applied_index = 0;
        assert!(of_site("main", &nodes, 5000).contains("dr-1, dr-2 to catch up"));
    }

    #[test]
    fn one_site_says_so() {
        let nodes = view(five().into_iter().take(2).collect());
        assert!(of_cluster("main", &nodes, 5000, Some(OFF)).starts_with("ONE SITE: nothing survives"));
    }

    #[test]
    fn with_the_gate_on_acknowledged_writes_are_elsewhere_or_wait() {
        let on = |acks| Protection { mode: Mode::MaximumProtection, acks };
        let mut nodes = view(five());
        let sentence = of_cluster("main", &nodes, 5000, Some(on(2)));
        assert_eq!(sentence, "protected: every acknowledged write is stored outside main (gate on: 2)");
        nodes[3].takes_part = false;
        let sentence = of_cluster("main", &nodes, 5000, Some(on(2)));
        assert!(sentence.starts_with("WRITES WAIT: 1 of the 2 data nodes outside main"), "{sentence}");
        assert!(sentence.contains("bring back dr-2, or lower the protection"), "{sentence}");
        let learners = view(vec![member(1, "a", "main", Role::Voter), member(2, "b", "dr", Role::Learner)]);
        let sentence = of_cluster("main", &learners, 5000, Some(on(1)));
        assert!(sentence.contains("but the rest would not go on by itself: "), "{sentence}");
    }

    #[test]
    fn learners_elsewhere_do_not_protect_the_voters_site() {
        let nodes = view(vec![member(1, "a", "main", Role::Voter), member(2, "b", "dr", Role::Learner)]);
        assert!(of_site("main", &nodes, 5000).contains("1 of 1 voters are at main"));
        assert_eq!(of_site("dr", &nodes, 5000), "protected");
    }
}

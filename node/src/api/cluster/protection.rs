//! What would be lost if a site were lost now: pure functions of what the nodes say of themselves.
//!
//! With the gate off an acknowledged write is on a quorum of voters, with the gate on also on data nodes of other sites.
//! A site is protected when every quorum reaches beyond it and the nodes beyond it can go on by themselves.

use saola_client::proto::{Loss, Member, Missing, Protection, ProtectionMode as Mode, ProtectionStatus, Role};

/// A data node that lags by no more than this many log entries counts as current.
pub const CURRENT_LAG: u64 = 1000;

/// One node as the report sees it.
#[derive(Debug, Clone)]
pub struct NodeView {
    /// Who it is.
    pub member: Member,
    /// If its role votes, it has a vote.
    pub has_vote: bool,
    /// It had one, which was taken because its site was lost.
    pub vote_taken: bool,
    /// It answered, as a node of this cluster whose Raft runs.
    pub takes_part: bool,
    /// A data node that cannot open its keys.
    pub sealed: bool,
    /// Last log entry that it has applied.
    pub applied_index: u64,
}

impl NodeView {
    fn votes(&self) -> bool {
        self.has_vote && matches!(self.member.role(), Role::Voter | Role::Witness)
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

/// What one glance must tell.
#[derive(Debug, Default, PartialEq)]
pub struct Glance {
    /// The state, what it means, and what comes next.
    pub sentence: String,
    /// What the loss of the site that leads would cost; none: it cannot be told.
    pub rpo: Option<Loss>,
}

/// What the loss of the site that leads (`main_site`) would mean now. `stand`: how the sites stand to each other, as the
/// leader says, or only what is replicated; none on a witness.
pub fn of_cluster(
    main_site: &str,
    nodes: &[NodeView],
    committed_index: u64,
    stand: Option<&ProtectionStatus>,
) -> Glance {
    let threat = threat(main_site, nodes, committed_index);
    let Some((stand, rule)) = stand.and_then(|stand| Some((stand, stand.rule?))) else {
        let sentence = "a witness does not know what acknowledgements wait for: ask a data node".into();
        return Glance { sentence, rpo: None };
    };
    if !nodes.iter().any(|n| n.member.site != main_site && n.keeps_records()) {
        return Glance { sentence: threat.unwrap_or_default(), rpo: None };
    }
    let rpo = rpo(main_site, nodes, stand);
    let goes_on = threat.map_or(String::new(), |why| format!(", but the rest would not go on by itself: {why}"));
    let meaning = meaning(main_site, nodes, stand, rule, &loss_in_words(main_site, rpo.as_ref()), &goes_on);
    let Some(meaning) = meaning else {
        return Glance {
            sentence: "no leader says how the sites stand to each other: see the nodes".into(),
            rpo: None,
        };
    };
    let released = match stand.witness_released {
        true => {
            "; the witness had no room and has forgotten entries that a data node lacks: bring that node back or remove it"
        }
        false => "",
    };
    Glance { sentence: format!("{}: {meaning}{released}", stand.state), rpo }
}

/// What the state means and what comes next; none: nobody says.
fn meaning(
    main_site: &str,
    nodes: &[NodeView],
    stand: &ProtectionStatus,
    rule: Protection,
    lost: &str,
    goes_on: &str,
) -> Option<String> {
    let acks = rule.acks as usize;
    let (up, silent): (Vec<_>, Vec<_>) =
        nodes.iter().filter(|n| n.member.site != main_site && n.keeps_records()).partition(|n| n.takes_part);
    let needs = match silent.is_empty() {
        true if up.len() < acks => format!(
            "there are {} data nodes outside {main_site}, and {acks} must store each write: add nodes there (`saola cluster add`)",
            up.len()
        ),
        true => format!(
            "its {} data nodes answer, and do not store what they are sent: see their disks and links",
            up.len()
        ),
        false => format!("bring back {}", names(silent.iter().copied())),
    };
    let (whom, quiet, without) = match stand.waits_for_witness {
        true => {
            ("the witness".to_owned(), span(stand.witness_acknowledged_ago_ms), format!("it, at {main_site} alone"))
        }
        false => (format!("outside {main_site}"), span(stand.acknowledged_ago_ms), "the other site".to_owned()),
    };
    let single = single_site(main_site, nodes, stand);
    let stored = format!("every acknowledged write is stored at {acks} data node{} outside {main_site}", plural(acks));
    let may_degrade = rule.mode() == Mode::MaximumAvailability;
    Some(match stand.state.as_str() {
        "SYNCHRONIZED" => format!("{stored}{goes_on}"),
        "WITNESS_LOST" => {
            format!("{stored}; without the witness the loss of a site would stop the cluster: bring it back")
        }
        "SUSPECT" | "STALLED" if !stand.has_quorum => {
            "WRITES WAIT: no quorum of voters answers this leader; bring back voters".to_owned()
        }
        "SUSPECT" if may_degrade => format!(
            "writes wait: no acknowledgement from {whom} for {quiet}; after {} the cluster goes on without {without}",
            span(rule.degrade_ms)
        ),
        "SUSPECT" => format!("writes wait: no acknowledgement from {whom} for {quiet}; {needs}"),
        "DEGRADING" => format!("writes wait for a moment: the cluster is about to go on without {without}"),
        "STALLED" => format!(
            "WRITES WAIT: no acknowledgement from {whom} for {quiet}; {needs}, or lower the protection \
             (`saola protection set`)"
        ),
        "RESYNCHRONIZING" if stand.gate_closed => {
            format!(
                "acknowledgements wait for the other site again, which is about to store the entry that says so; {lost}"
            )
        }
        "RESYNCHRONIZING" => format!(
            "{}the data nodes outside {main_site} get what they lack and must have everything for {}; {lost}",
            single.map_or(String::new(), |single| single + "; "),
            span(rule.parity_ms)
        ),
        "UNSYNCHRONIZED" if rule.mode() == Mode::MaximumPerformance => {
            format!("acknowledgements wait for no other site, by choice; {lost}{goes_on}")
        }
        "UNSYNCHRONIZED" => {
            let have = if acks == 1 { "has" } else { "have" };
            let by_itself = format!(
                "it synchronizes by itself once {acks} of them {have} answered for {} and have everything",
                span(stand.return_after_ms)
            );
            let waits = single.unwrap_or_else(|| "acknowledgements wait for no other site".to_owned());
            match silent.is_empty() && up.len() >= acks {
                true => format!("{waits}; {lost}; {by_itself}"),
                false => format!("{waits}; {lost}; {needs}; {by_itself}"),
            }
        }
        _ => return None,
    })
}

/// What is to be said when the site that leads could commit alone, or is about to, without the votes of another one.
fn single_site(main_site: &str, nodes: &[NodeView], stand: &ProtectionStatus) -> Option<String> {
    let names = names(nodes.iter().filter(|n| n.member.site != main_site && n.vote_taken));
    let whom = match stand.waits_for_witness {
        true => "acknowledgements wait for the witness, which keeps the sealed log".to_owned(),
        false => {
            let steady = span(stand.rule.map_or(0, |rule| rule.return_ms));
            format!("acknowledgements wait for nobody outside it until the witness has answered for {steady}")
        }
    };
    match stand.needs_witness && !names.is_empty() {
        false => stand.waits_for_witness.then_some(whom),
        true => Some(format!(
            "SINGLE-SITE DATA: {names} stayed away and have no votes until they have everything again, so that \
             {main_site} may lose a node; {whom}"
        )),
    }
}

fn loss_in_words(main_site: &str, rpo: Option<&Loss>) -> String {
    match rpo {
        Some(Loss { entries: 0, .. }) => {
            format!(
                "losing {main_site} now would lose nothing that was acknowledged: every commit has a copy outside it"
            )
        }
        Some(Loss { revisions, ms, .. }) => format!(
            "losing {main_site} now would lose up to {revisions} acknowledged revisions, of the last {} at most",
            span(*ms)
        ),
        None => format!("what losing {main_site} now would cost is not known"),
    }
}

/// What the loss of a site would cost, of what has been acknowledged.
fn rpo(main_site: &str, nodes: &[NodeView], stand: &ProtectionStatus) -> Option<Loss> {
    if stand.state.is_empty() {
        return None;
    }
    let witness_elsewhere = nodes.iter().any(|n| !n.keeps_records() && n.member.site != main_site);
    let in_its_log = stand.witness_has_all && witness_elsewhere;
    if stand.in_force || ((stand.needs_two_sites || in_its_log) && !stand.witness_released) {
        return Some(Loss::default());
    }
    let Missing { entries, revisions, ms } = stand.missing_elsewhere?;
    Some(Loss { entries, revisions, ms: if entries == 0 { 0 } else { ms } })
}

fn votes<'n>(nodes: impl Iterator<Item = &'n NodeView>) -> usize {
    nodes.filter(|n| n.votes()).count()
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn span(ms: u64) -> String {
    match ms {
        0..10_000 => format!("{ms} ms"),
        10_000..600_000 => format!("{} s", ms / 1000),
        _ => format!("{} min", ms / 60_000),
    }
}

/// What a cluster with records at one site says first.
pub(super) const ONE_SITE: &str = "ONE SITE";

/// The same where a forced promotion has left that site.
pub(super) fn promoted(epoch: u64) -> String {
    format!(
        "PROMOTED_UNPROTECTED: this site goes on alone in epoch {epoch}, and nothing survives its loss; bring the other \
         site back (saola dr reinstate), or add data nodes elsewhere (saola cluster add)"
    )
}

fn threat(site: &str, nodes: &[NodeView], committed_index: u64) -> Option<String> {
    let (here, beyond): (Vec<_>, Vec<_>) = nodes.iter().partition(|n| n.member.site == site);
    if !beyond.iter().any(|n| n.keeps_records()) {
        return Some(format!("{ONE_SITE}: nothing survives the loss of this site"));
    }
    let (voters, voters_here) = (votes(nodes.iter()), votes(here.iter().copied()));
    let quorum = voters / 2 + 1;
    if voters_here >= quorum {
        let without_vote = names(beyond.iter().copied().filter(|n| n.vote_taken));
        let they = match without_vote.is_empty() {
            true => String::new(),
            false => format!("; {without_vote} have no vote now, see `saola why`"),
        };
        return Some(format!(
            "NOT PROTECTED: {voters_here} of {voters} voters are at {site}, so a commit may have no copy elsewhere \
             and the rest cannot go on by itself{they}"
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

    fn stand(state: &str, mode: Mode, acks: u32) -> ProtectionStatus {
        let times = Protection { degrade_ms: 800, return_ms: 30_000, parity_ms: 10_000, ..Protection::default() };
        let rule = Protection { mode: mode.into(), acks, ..times };
        ProtectionStatus {
            rule: Some(rule),
            gate_closed: matches!(state, "SYNCHRONIZED" | "SUSPECT" | "DEGRADING" | "STALLED" | "WITNESS_LOST"),
            in_force: matches!(state, "SYNCHRONIZED" | "SUSPECT" | "DEGRADING" | "STALLED" | "WITNESS_LOST"),
            state: state.into(),
            acknowledged_ago_ms: 400,
            missing_elsewhere: Some(Missing { entries: 8, revisions: 7, ms: 400 }),
            has_quorum: true,
            return_after_ms: 30_000,
            ..ProtectionStatus::default()
        }
    }

    fn glance(nodes: &[NodeView], stand: &ProtectionStatus) -> (String, Option<Loss>) {
        let here = votes(nodes.iter().filter(|n| n.member.site == "main"));
        let stand = ProtectionStatus { needs_two_sites: here <= votes(nodes.iter()) / 2, ..stand.clone() };
        let Glance { sentence, rpo } = of_cluster("main", nodes, 5000, Some(&stand));
        (sentence, rpo)
    }

    fn view(members: Vec<Member>) -> Vec<NodeView> {
        members
            .into_iter()
            .map(|member| NodeView {
                member,
                has_vote: true,
                vote_taken: false,
                takes_part: true,
                sealed: false,
                applied_index: 5000,
            })
            .collect()
    }

    #[test]
    fn two_plus_two_and_a_witness_bear_the_loss_of_any_site() {
        let nodes = view(five());
        for site in ["main", "dr", "third"] {
            assert_eq!(of_site(site, &nodes, 5000), "protected");
        }
    }

    #[test]
    fn a_site_without_votes_leaves_its_data_at_one_site_and_that_is_said_first() {
        let mut nodes = view(five());
        for dr in &mut nodes[2..4] {
            (dr.has_vote, dr.vote_taken, dr.takes_part) = (false, true, false);
        }
        let stands_in = ProtectionStatus {
            waits_for_witness: true,
            witness_has_all: true,
            needs_witness: true,
            witness_acknowledged_ago_ms: 500,
            ..stand("UNSYNCHRONIZED", Mode::MaximumAvailability, 1)
        };
        let (sentence, rpo) = glance(&nodes, &stands_in);
        for part in [
            "UNSYNCHRONIZED: SINGLE-SITE DATA: dr-1, dr-2 stayed away and have no votes until they have everything again",
            "acknowledgements wait for the witness, which keeps the sealed log",
            "losing main now would lose nothing that was acknowledged",
            "bring back dr-1, dr-2; it synchronizes by itself",
        ] {
            assert!(sentence.contains(part), "{part:?} in: {sentence}");
        }
        assert_eq!(rpo, Some(Loss::default()));
        let threat = of_site("main", &nodes, 5000);
        assert!(
            threat.contains("2 of 3 voters are at main") && threat.contains("dr-1, dr-2 have no vote now"),
            "{threat}"
        );
        assert_eq!(of_site("dr", &nodes, 5000), "protected", "it is lost already");
        let suspect = ProtectionStatus { state: "SUSPECT".into(), ..stands_in.clone() };
        let expected = "writes wait: no acknowledgement from the witness for 500 ms; after 800 ms the cluster goes on without \
                        it, at main alone";
        assert!(glance(&nodes, &suspect).0.contains(expected), "{}", glance(&nodes, &suspect).0);
        nodes[4].takes_part = false;
        let alone = ProtectionStatus { waits_for_witness: false, witness_has_all: false, ..stands_in };
        let (sentence, rpo) = glance(&nodes, &alone);
        assert!(sentence.contains("wait for nobody outside it until the witness has answered for 30 s"), "{sentence}");
        assert_eq!(rpo, Some(Loss { entries: 8, revisions: 7, ms: 400 }));
        // One that is being added has no vote either, and nothing was taken from it.
        let mut nodes = view(five());
        nodes[3].has_vote = false;
        let (sentence, _) = glance(&nodes, &stand("UNSYNCHRONIZED", Mode::MaximumAvailability, 1));
        assert!(sentence.starts_with("UNSYNCHRONIZED: acknowledgements wait for no other site"), "{sentence}");
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
        let (sentence, rpo) = glance(&nodes, &stand("UNSYNCHRONIZED", Mode::MaximumAvailability, 1));
        assert!(sentence.starts_with("ONE SITE: nothing survives") && rpo.is_none(), "{sentence}");
    }

    #[test]
    fn each_state_says_what_a_loss_would_cost_and_what_comes_next() {
        let none = Some(Loss::default());
        let mut nodes = view(five());
        let on = |state| stand(state, Mode::MaximumAvailability, 1);
        let (sentence, rpo) = glance(&nodes, &on("SYNCHRONIZED"));
        assert_eq!(sentence, "SYNCHRONIZED: every acknowledged write is stored at 1 data node outside main");
        assert_eq!(rpo, none);
        let says = |nodes: &[NodeView], stand: &ProtectionStatus, what: &str| {
            let (sentence, rpo) = glance(nodes, stand);
            assert!(sentence.starts_with(&format!("{}: ", stand.state)) && sentence.contains(what), "{sentence}");
            rpo
        };
        assert_eq!(says(&nodes, &on("SUSPECT"), "after 800 ms the cluster goes on without"), none);
        let unprotected = on("UNSYNCHRONIZED");
        assert_eq!(
            says(&nodes, &unprotected, "would lose nothing that was acknowledged: every commit has a copy"),
            none
        );
        nodes[3].takes_part = false;
        let stalls = stand("STALLED", Mode::MaximumProtection, 2);
        assert_eq!(
            says(&nodes, &stalls, "WRITES WAIT: no acknowledgement from outside main for 400 ms; bring back dr-2"),
            none
        );
        nodes[4].takes_part = false;
        says(&nodes, &on("SYNCHRONIZED"), "but the rest would not go on by itself: NOT PROTECTED");
        says(&nodes, &on("WITNESS_LOST"), "without the witness the loss of a site would stop the cluster");
        says(&nodes, &stand("UNSYNCHRONIZED", Mode::MaximumPerformance, 1), "by choice");
    }

    #[test]
    fn a_witness_that_had_to_forget_protects_nothing_by_arithmetic() {
        let nodes = view(five());
        let open = ProtectionStatus { witness_released: true, ..stand("UNSYNCHRONIZED", Mode::MaximumAvailability, 1) };
        let (sentence, rpo) = glance(&nodes, &open);
        assert_eq!(rpo, Some(Loss { entries: 8, revisions: 7, ms: 400 }));
        assert!(sentence.contains("has forgotten entries that a data node lacks"), "{sentence}");
        let closed = ProtectionStatus { witness_released: true, ..stand("SYNCHRONIZED", Mode::MaximumAvailability, 1) };
        assert_eq!(glance(&nodes, &closed).1, Some(Loss::default()));
    }

    #[test]
    fn without_a_witness_what_the_other_site_lacks_is_what_would_be_lost() {
        let nodes = view(vec![member(1, "a", "main", Role::Voter), member(2, "b", "dr", Role::Learner)]);
        let at_risk = Some(Loss { entries: 8, revisions: 7, ms: 400 });
        for state in ["UNSYNCHRONIZED", "RESYNCHRONIZING"] {
            let (sentence, rpo) = glance(&nodes, &stand(state, Mode::MaximumAvailability, 1));
            assert!(
                sentence.contains("would lose up to 7 acknowledged revisions, of the last 400 ms at most"),
                "{sentence}"
            );
            assert_eq!(rpo, at_risk);
        }
        let (_, rpo) = glance(&nodes, &stand("SUSPECT", Mode::MaximumAvailability, 1));
        assert_eq!(rpo, Some(Loss::default()), "what is missing there has not been acknowledged");
        let young = ProtectionStatus { in_force: false, ..stand("SUSPECT", Mode::MaximumAvailability, 1) };
        let unheard = ProtectionStatus { missing_elsewhere: None, ..young.clone() };
        let (sentence, rpo) = glance(&nodes, &ProtectionStatus { state: "UNSYNCHRONIZED".into(), ..unheard });
        assert!(rpo.is_none() && sentence.contains("what losing main now would cost is not known"), "{sentence}");
        let no_quorum = ProtectionStatus { has_quorum: false, ..young.clone() };
        assert!(glance(&nodes, &no_quorum).0.starts_with("SUSPECT: WRITES WAIT: no quorum of voters"));
        assert_eq!(glance(&nodes, &young).1, at_risk, "what was acknowledged before the gate closed may be missing");
        let (sentence, rpo) = glance(&nodes, &stand("", Mode::MaximumAvailability, 1));
        assert!(sentence.contains("no leader says") && rpo.is_none(), "{sentence}");
    }

    #[test]
    fn learners_elsewhere_do_not_protect_the_voters_site() {
        let nodes = view(vec![member(1, "a", "main", Role::Voter), member(2, "b", "dr", Role::Learner)]);
        assert!(of_site("main", &nodes, 5000).contains("1 of 1 voters are at main"));
        assert_eq!(of_site("dr", &nodes, 5000), "protected");
    }
}

//! `saola topology explain`: what happens when a node, a site, the witness or a link is lost, for the cluster as it is now.
//!
//! Decided by arithmetic over the members, where they are, and which of them take part: see [`losses`].

use std::collections::BTreeSet;

use saola_client::Client;
use saola_client::proto::{ProtectionMode, Role, StatusResponse};
use serde_json::{Value, json};

use super::verdict::is_out;
use super::view::cluster_view;
use crate::exit::{Exit, Failure};
use crate::output::{Format, print_json, print_line, table};

/// What is lost, and what that means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What is lost.
    pub lost: String,
    /// Whether the rest goes on without anyone doing anything.
    pub goes_on: bool,
    /// What happens.
    pub happens: String,
    /// What of the acknowledged writes may be gone.
    pub rpo: String,
    /// What an operator has to do.
    pub to_do: String,
}

/// A member as the arithmetic sees it.
#[derive(Clone, Debug)]
struct Seat {
    id: u64,
    name: String,
    site: String,
    votes: bool,
    keeps_records: bool,
    takes_part: bool,
}

struct View {
    seats: Vec<Seat>,
    leader: u64,
    leader_site: String,
    acks: usize,
    mode: ProtectionMode,
    degrade_ms: u64,
    is_closed: bool,
    in_force: bool,
    /// The leader's site could commit alone, as another one has lost its votes.
    needs_witness: bool,
    /// The witness stands in for that one.
    waits_for_witness: bool,
    /// It does, and has all that is acknowledged.
    witness_has_all: bool,
    witness_released: bool,
    /// No other site takes over by itself.
    is_held: bool,
}

impl View {
    fn of(status: &StatusResponse) -> View {
        let seat = |node: &saola_client::proto::NodeStatus| {
            let member = node.member.clone().unwrap_or_default();
            let (role, takes_part) = (member.role(), node.reachable && !is_out(node));
            Seat {
                id: member.node_id,
                name: member.name,
                site: member.site,
                votes: matches!(role, Role::Voter | Role::Witness) && node.without_vote.is_empty(),
                keeps_records: role != Role::Witness,
                takes_part,
            }
        };
        let seats: Vec<Seat> = status.nodes.iter().map(seat).collect();
        let leader_site = seats.iter().find(|seat| seat.id == status.leader).map(|seat| seat.site.clone());
        let rule = status.rule.unwrap_or_default();
        View {
            leader: status.leader,
            leader_site: leader_site.unwrap_or_default(),
            acks: rule.acks as usize,
            mode: rule.mode(),
            degrade_ms: rule.degrade_ms,
            is_closed: status.protection_status.as_ref().is_some_and(|stand| stand.gate_closed),
            in_force: status.protection_status.as_ref().is_some_and(|stand| stand.in_force),
            waits_for_witness: status.protection_status.as_ref().is_some_and(|stand| stand.waits_for_witness),
            witness_has_all: status.protection_status.as_ref().is_some_and(|stand| stand.witness_has_all),
            witness_released: status.protection_status.as_ref().is_some_and(|stand| stand.witness_released),
            is_held: status.failover.as_ref().is_some_and(|known| !known.held.is_empty()),
            needs_witness: status.protection_status.as_ref().is_some_and(|stand| stand.needs_witness),
            seats,
        }
    }

    fn sites(&self) -> Vec<&str> {
        let mut sites: Vec<&str> = Vec::new();
        for seat in &self.seats {
            if !sites.contains(&seat.site.as_str()) {
                sites.push(&seat.site);
            }
        }
        sites
    }

    fn quorum(&self) -> usize {
        self.seats.iter().filter(|seat| seat.votes).count() / 2 + 1
    }

    /// These nodes can elect a leader that keeps records.
    fn can_lead(&self, alive: &BTreeSet<u64>) -> bool {
        let here = || self.seats.iter().filter(|seat| alive.contains(&seat.id) && seat.votes);
        here().count() >= self.quorum() && here().any(|seat| seat.keeps_records)
    }

    fn names(&self, of: impl Fn(&&Seat) -> bool) -> String {
        self.seats.iter().filter(of).map(|seat| seat.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// Nodes of other sites than the leader's that would still acknowledge.
    fn gate_members(&self, alive: &BTreeSet<u64>, leader_site: &str) -> usize {
        self.seats.iter().filter(|it| it.keeps_records && it.site != leader_site && alive.contains(&it.id)).count()
    }

    /// While the gate is closed: among these nodes is one that has everything that was acknowledged. Of the leader's own
    /// site any does not; of the others so many that one of them must be among those that acknowledged.
    fn have_all(&self, alive: &BTreeSet<u64>) -> bool {
        let elsewhere = |it: &&Seat| it.keeps_records && it.site != self.leader_site;
        let all = self.seats.iter().filter(elsewhere).count();
        let left = self.seats.iter().filter(elsewhere).filter(|it| alive.contains(&it.id)).count();
        left + self.acks > all
    }

    /// Writes would wait for a site that is gone, for as long as it is.
    fn stalls(&self, alive: &BTreeSet<u64>, site: &str) -> bool {
        let lacks = self.has_two_sites() && self.gate_members(alive, site) < self.acks;
        lacks && self.mode == ProtectionMode::MaximumProtection
    }

    fn has_two_sites(&self) -> bool {
        self.seats.iter().filter(|seat| seat.keeps_records).map(|seat| &seat.site).collect::<BTreeSet<_>>().len() > 1
    }

    fn has_witness(&self, alive: &BTreeSet<u64>) -> bool {
        self.seats.iter().any(|it| !it.keeps_records && alive.contains(&it.id))
    }

    /// What writes wait for when the rest goes on under a leader at `site`.
    fn waiting(&self, alive: &BTreeSet<u64>, site: &str) -> String {
        let lacks = self.has_two_sites() && self.gate_members(alive, site) < self.acks;
        match self.mode {
            ProtectionMode::MaximumProtection if lacks => {
                "writes WAIT (maximum protection) until the other site is back; reads go on".to_owned()
            }
            ProtectionMode::MaximumAvailability if lacks => match self.is_closed {
                true if self.needs_witness && self.has_witness(alive) => {
                    format!("writes wait {} ms once, then go on and wait for the witness alone", self.degrade_ms)
                }
                true => format!("writes wait {} ms once, then go on unprotected", self.degrade_ms),
                false if !self.waits_for_witness => "writes go on unprotected".to_owned(),
                false if self.has_witness(alive) => "writes go on and wait for the witness alone".to_owned(),
                false => format!("writes wait {} ms once, then go on at {site} alone", self.degrade_ms),
            },
            _ => "writes go on".to_owned(),
        }
    }

    fn case(&self, lost: String, gone: &dyn Fn(&Seat) -> bool) -> Case {
        let alive: BTreeSet<u64> = self.seats.iter().filter(|it| it.takes_part && !gone(it)).map(|it| it.id).collect();
        let votes = self.seats.iter().filter(|it| it.votes && alive.contains(&it.id)).count();
        let all = self.seats.iter().filter(|it| it.votes).count();
        if self.can_lead(&alive) {
            let leader_gone = !alive.contains(&self.leader);
            let may_lead = |it: &&Seat| alive.contains(&it.id) && it.votes && it.keeps_records;
            let site = match leader_gone {
                false => self.leader_site.clone(),
                true => {
                    let at_home = self.seats.iter().filter(may_lead).find(|it| it.site == self.leader_site);
                    let next = at_home.or_else(|| self.seats.iter().find(may_lead));
                    next.map(|it| it.site.clone()).unwrap_or_default()
                }
            };
            if self.is_held && leader_gone && site != self.leader_site {
                return Case {
                    lost,
                    goes_on: false,
                    happens: format!("STOPS: {site} could take over and holds back; stale reads go on"),
                    rpo: "0".into(),
                    to_do: format!("bring it back, or `saola auto-failover override --site {site}`"),
                };
            }
            let who = if leader_gone { format!("a new leader at {site}") } else { "the leader stays".to_owned() };
            let spare = votes - self.quorum();
            return Case {
                lost,
                goes_on: !self.stalls(&alive, &site),
                happens: format!("{who}; {}", self.waiting(&alive, &site)),
                rpo: match self.witness_released && !self.in_force && leader_gone {
                    true => "what only the lost nodes have: the witness had to forget".into(),
                    false => "0".into(),
                },
                to_do: match spare {
                    0 => "bring it back: the next loss stops the cluster".into(),
                    _ => "bring it back".into(),
                },
            };
        }
        let left = self.names(|it| it.keeps_records && alive.contains(&it.id));
        let missing = self.names(|it| it.votes && !alive.contains(&it.id));
        let lack = self.quorum().saturating_sub(votes);
        let protected = self.in_force && self.have_all(&alive);
        let in_its_log = self.witness_has_all && !self.witness_released && self.has_witness(&alive);
        Case {
            lost,
            goes_on: false,
            happens: match left.is_empty() {
                true => "STOPS: no data node is left".into(),
                false => {
                    format!("STOPS: {votes} of {all} votes are left, {} are needed; stale reads go on", self.quorum())
                }
            },
            rpo: match (left.is_empty(), protected) {
                (_, false) if in_its_log => "0: the witness's log has it".into(),
                (true, _) => "not known before a data node is back".into(),
                (false, true) => "0: the gate is closed".into(),
                (false, false) => "what only the lost nodes have, unless they come back".into(),
            },
            to_do: match lack {
                0 => format!("bring back a data node of {missing}"),
                _ => format!("bring back {lack} of {missing}"),
            },
        }
    }

    /// Both sites live and do not hear each other.
    fn link(&self, one: &str, other: &str) -> Case {
        let lost = format!("link {one} - {other}");
        let near = |site: &str, it: &Seat| it.takes_part && (it.site == site || (it.site != one && it.site != other));
        let side =
            |site: &str| -> BTreeSet<u64> { self.seats.iter().filter(|it| near(site, it)).map(|it| it.id).collect() };
        let cut_off = |site: &str| match self.seats.iter().any(|it| it.site == site && it.keeps_records) {
            true => format!("{site} serves stale reads only"),
            false => format!("{site} sees less"),
        };
        let rpo = "0".to_owned();
        let to_do = "mend the link".to_owned();
        if self.leader == 0 {
            let goes_on = self.can_lead(&side(one)) || self.can_lead(&side(other));
            let happens = if goes_on { "one of the sides elects a leader" } else { "STOPS: neither side has a quorum" };
            return Case { lost, goes_on, happens: happens.to_owned(), rpo, to_do };
        }
        if self.leader_site != one && self.leader_site != other {
            let happens = "nothing: the leader reaches both".to_owned();
            return Case { lost, goes_on: true, happens, rpo, to_do };
        }
        let (near, far) = if self.leader_site == one { (one, other) } else { (other, one) };
        for (leads, other) in [(near, far), (far, near)] {
            let here = side(leads);
            if self.can_lead(&here) {
                let who =
                    if leads == near { "the leader stays".to_owned() } else { format!("a new leader at {leads}") };
                let happens = format!("{who}; {}; {}", self.waiting(&here, leads), cut_off(other));
                return Case { lost, goes_on: !self.stalls(&here, leads), happens, rpo, to_do };
            }
        }
        let happens = "STOPS: neither side has a quorum; stale reads go on".to_owned();
        Case { lost, goes_on: false, happens, rpo, to_do }
    }
}

/// What the loss of a site would mean now.
pub fn site_loss(status: &StatusResponse, site: &str) -> Case {
    View::of(status).case(format!("site {site}"), &|it| it.site == site)
}

/// What the loss of each part would mean now.
pub fn losses(status: &StatusResponse) -> Vec<Case> {
    let view = View::of(status);
    let mut cases = vec![view.case("nothing more".into(), &|_| false)];
    let of_cases = cases.first_mut();
    if let Some(case) = of_cases.filter(|case| case.goes_on) {
        case.to_do = match view.names(|it| !it.takes_part).as_str() {
            "" => "nothing".into(),
            missing => format!("bring back {missing}"),
        };
    }
    for seat in &view.seats {
        let what = if seat.keeps_records { format!("node {}", seat.name) } else { "the witness".into() };
        cases.push(view.case(what, &|it| it.id == seat.id));
    }
    let sites = view.sites();
    for site in &sites {
        let nodes: Vec<&Seat> = view.seats.iter().filter(|it| it.site == *site).collect();
        if nodes.len() > 1 {
            cases.push(view.case(format!("site {site}"), &|it| it.site == *site));
        }
    }
    if let Some(witness) = view.seats.iter().find(|it| !it.keeps_records) {
        for site in sites.iter().filter(|site| **site != witness.site) {
            let both = |it: &Seat| it.site == *site || !it.keeps_records;
            cases.push(view.case(format!("site {site} and the witness"), &both));
        }
    }
    for (position, one) in sites.iter().enumerate() {
        for other in &sites[position + 1..] {
            cases.push(view.link(one, other));
        }
    }
    cases
}

/// Prints the cases.
///
/// # Errors
/// No node that answers.
pub async fn explain(client: &Client, format: Format) -> Result<Exit, Failure> {
    let status = cluster_view(client).await?;
    let cases = losses(&status);
    match format {
        Format::Json => {
            let document = |case: &Case| {
                json!({
                    "lost": case.lost, "automatic": case.goes_on, "happens": case.happens, "rpo": case.rpo,
                    "to_do": case.to_do,
                })
            };
            print_json(
                "topology",
                json!({
                    "topology": status.topology, "cases": cases.iter().map(document).collect::<Vec<Value>>(),
                }),
            )?;
        }
        Format::Table => {
            print_line(format!("topology {} of cluster {}, as it is now", status.topology, status.cluster_name))?;
            let heading = ["LOST", "BY ITSELF", "WHAT HAPPENS", "ACKNOWLEDGED WRITES LOST", "WHAT TO DO"];
            let row = |case: &Case| {
                let by_itself = if case.goes_on { "yes" } else { "NO" };
                vec![case.lost.clone(), by_itself.into(), case.happens.clone(), case.rpo.clone(), case.to_do.clone()]
            };
            print_line(table(&heading, &[], cases.iter().map(row).collect()))?;
        }
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use saola_client::proto::{FailoverStatus, Member, NodeStatus, Protection, ProtectionStatus};

    use super::*;

    fn cluster(seats: &[(&str, &str, Role)], mode: ProtectionMode) -> StatusResponse {
        let node = |(id, (name, site, role)): (u64, &(&str, &str, Role))| NodeStatus {
            member: Some(Member {
                node_id: id,
                name: (*name).into(),
                site: (*site).into(),
                role: (*role).into(),
                ..Member::default()
            }),
            reachable: true,
            ..NodeStatus::default()
        };
        let rule = Protection { mode: mode.into(), acks: 1, degrade_ms: 800, ..Protection::default() };
        StatusResponse {
            leader: 1,
            nodes: (1..).zip(seats).map(node).collect(),
            rule: Some(rule),
            protection_status: Some(ProtectionStatus {
                gate_closed: true,
                in_force: true,
                ..ProtectionStatus::default()
            }),
            ..StatusResponse::default()
        }
    }

    fn two_two_w() -> StatusResponse {
        let seats = [
            ("main-1", "main", Role::Voter),
            ("main-2", "main", Role::Voter),
            ("dr-1", "dr", Role::Voter),
            ("dr-2", "dr", Role::Voter),
            ("witness", "third", Role::Witness),
        ];
        cluster(&seats, ProtectionMode::MaximumAvailability)
    }

    fn three_two_l() -> StatusResponse {
        let mut seats: Vec<(&str, &str, Role)> = vec![("a", "main", Role::Voter); 3];
        (seats[1].0, seats[2].0) = ("b", "c");
        seats.extend([("d", "dr", Role::Learner), ("e", "dr", Role::Learner)]);
        cluster(&seats, ProtectionMode::MaximumAvailability)
    }

    fn case(status: &StatusResponse, lost: &str) -> Case {
        let found = losses(status).into_iter().find(|case| case.lost == lost);
        found.unwrap_or_else(|| panic!("{lost} is not among {:?}", losses(status)))
    }

    #[test]
    fn two_plus_two_and_a_witness_go_on_after_any_site_and_any_link() {
        let status = two_two_w();
        for lost in
            ["node main-1", "node dr-2", "the witness", "site main", "site dr", "link main - dr", "link dr - third"]
        {
            let case = case(&status, lost);
            assert!(case.goes_on && case.rpo == "0", "{case:?}");
        }
        assert_eq!(
            case(&status, "site main").happens,
            "a new leader at dr; writes wait 800 ms once, then go on unprotected"
        );
        assert_eq!(case(&status, "node main-1").happens, "a new leader at main; writes go on");
        assert!(case(&status, "link main - dr").happens.contains("the leader stays; writes wait 800 ms once"));
        assert!(case(&status, "link main - dr").happens.ends_with("dr serves stale reads only"));
        assert!(case(&status, "site dr").to_do.contains("the next loss stops the cluster"));
        let both = case(&status, "site main and the witness");
        assert!(!both.goes_on && both.happens.starts_with("STOPS: 2 of 5 votes are left, 3 are needed"), "{both:?}");
        assert_eq!(
            (both.rpo.as_str(), both.to_do.as_str()),
            ("0: the gate is closed", "bring back 1 of main-1, main-2, witness")
        );
    }

    #[test]
    fn what_is_down_already_counts() {
        let mut status = two_two_w();
        status.nodes[4].reachable = false;
        assert!(case(&status, "nothing more").goes_on);
        assert_eq!(case(&status, "nothing more").to_do, "bring back witness");
        assert!(!case(&status, "site main").goes_on);
        status.nodes[2].reachable = false;
        assert!(!case(&status, "node dr-2").goes_on);
    }

    #[test]
    fn a_site_without_votes_leaves_a_cluster_that_bears_the_loss_of_a_node() {
        let mut status = two_two_w();
        for dr in &mut status.nodes[2..4] {
            (dr.reachable, dr.vote_taken, dr.without_vote) = (false, true, "its site was lost".into());
        }
        status.protection_status =
            Some(ProtectionStatus { waits_for_witness: true, witness_has_all: true, ..ProtectionStatus::default() });
        assert_eq!(
            case(&status, "node main-2").happens,
            "the leader stays; writes go on and wait for the witness alone"
        );
        assert!(case(&status, "node main-1").goes_on);
        let witness = case(&status, "the witness");
        assert_eq!(
            (witness.goes_on, &*witness.happens),
            (true, "the leader stays; writes wait 800 ms once, then go on at main alone")
        );
        let main = case(&status, "site main");
        assert_eq!((main.goes_on, &*main.rpo), (false, "0: the witness's log has it"));
    }

    #[test]
    fn two_sites_without_a_witness_stop_with_the_site_of_the_voters() {
        let status = three_two_l();
        assert!(case(&status, "site dr").goes_on && case(&status, "node a").goes_on);
        let main = case(&status, "site main");
        assert!(!main.goes_on && main.rpo == "0: the gate is closed", "{main:?}");
        let mut open = status.clone();
        open.protection_status = None;
        assert!(case(&open, "site main").rpo.starts_with("what only the lost nodes have"));
        // Of two nodes one has acknowledged each write; which of them is not known.
        let mut one_down = status.clone();
        one_down.nodes[4].reachable = false;
        assert!(case(&one_down, "site main").rpo.starts_with("what only the lost nodes have"));
        let mut held = two_two_w();
        held.failover = Some(FailoverStatus { held: "observe-only".into(), ..FailoverStatus::default() });
        let main = case(&held, "site main");
        assert!(!main.goes_on && main.to_do.contains("auto-failover override --site dr"), "{main:?}");
        assert!(case(&held, "node main-1").goes_on, "a node is replaced all the same");
        let leaderless = StatusResponse { leader: 0, ..status.clone() };
        assert_eq!(case(&leaderless, "link main - dr").happens, "one of the sides elects a leader");
        let link = case(&status, "link main - dr");
        assert!(link.goes_on && link.happens.contains("writes wait 800 ms once"), "{link:?}");
    }

    #[test]
    fn maximum_protection_waits_and_one_node_has_nothing() {
        let mut status = two_two_w();
        status.rule =
            Some(Protection { mode: ProtectionMode::MaximumProtection.into(), acks: 1, ..Protection::default() });
        assert!(case(&status, "site dr").happens.contains("writes WAIT (maximum protection)"));
        assert!(!case(&status, "site dr").goes_on && !case(&status, "link main - dr").goes_on);
        let one = cluster(&[("a", "main", Role::Voter)], ProtectionMode::MaximumAvailability);
        let lost = case(&one, "node a");
        assert_eq!((lost.goes_on, lost.happens.as_str()), (false, "STOPS: no data node is left"));
    }
}

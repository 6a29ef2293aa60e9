//! Whether a site may be promoted by force, how, and what that would lose: a pure function of what all nodes say.
//!
//! The base of the new epoch is the greatest log id over all survivors, the witness and fenced nodes included. The
//! verdict (`reference`: DESIGN §7) is PROVEN ZERO in two cases alone:
//! - every quorum of every membership that a survivor knows has a survivor in it, so each commit is in a survivor's log,
//!   and so in the greatest one;
//! - the gate was closed until the other side stopped: each acknowledged write is at `acks` of its data nodes, so it is
//!   at one of any `n - acks + 1` of them. People have to vouch that nobody changed the rule or the data nodes on the other
//!   side meanwhile. That the gate did not open by itself follows from maximum protection, or, where the degrade time runs
//!   from a leader's own election, from a moment at which the other side had stopped, if that is earlier than the newest
//!   acknowledgement plus the degrade time, less 2 % for the drift of clocks.
//!
//! Neither holds once an earlier plan may have begun at a node that does not answer: then that one may have acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use saola_storage::command::SetApprovers;
use saola_storage::keyspace::meta::LogIdRow;
use saola_storage::planted::{self, Bug};
use saola_storage::promotion::{Attested, FORMAT, Plan, SignedPlan, Survivor, Verdict, epoch_id, is_same_plan};
use saola_storage::types::{LogId, NodeId};

use crate::member::{Member, MembershipRecord, Role, VoterSet, is_quorum, needs_two_sites};
use crate::wire::{GateSeen, Standing};

/// A plan that is not begun within fifteen minutes has to be made anew.
const VALID_US: u64 = 15 * 60 * 1_000_000;
/// Terms of the new epoch begin so far above those of the former one that nobody takes one for the other.
const TERMS_APART: u64 = 1000;

/// What a plan is made of.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// Epoch of the node that makes the plan.
    pub epoch: u64,
    /// The site to promote.
    pub site: &'a str,
    /// Nodes that answered, the one that makes the plan among them.
    pub standings: &'a [Standing],
    /// What people vouch for.
    pub attested: &'a Attested,
    /// Clock of the node that makes the plan before it asked, microseconds since 1970.
    pub now_us: u64,
    /// Bytes of the signed plan that is being carried out: that some have promised it is no reason for another epoch.
    pub carried_out: &'a [u8],
}

/// Why no plan is made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPlan {
    /// The cluster can go on by itself.
    #[error(
        "a quorum of voters answers ({names}): nothing has to be forced; move leadership with `saola switchover --to \
         {site}`, and see `saola why` if writes do not go on"
    )]
    Quorum {
        /// Who answers.
        names: String,
        /// The site.
        site: String,
    },
    /// Somebody of another site could acknowledge.
    #[error(
        "{names} of another site answer and are not fenced: they could acknowledge writes beside the promoted site; fence \
         them with `saola site fence {site}`"
    )]
    NotFenced {
        /// Who.
        names: String,
        /// Their site.
        site: String,
    },
    /// It is done.
    #[error(
        "node {node} ({name}) is in epoch {epoch} already, which goes on without this one: see `saola epoch history` there"
    )]
    GoesOn {
        /// Number of the node.
        node: NodeId,
        /// Its name.
        name: String,
        /// Its epoch.
        epoch: u64,
    },
    /// Two promotions began this epoch.
    #[error(
        "{name} is in another epoch {epoch} than the others, which another plan began: have the one fenced that is to give \
         way (`saola site fence`), and brought back by the other (`saola dr reinstate`)"
    )]
    TwoEpochs {
        /// A node that is in another one.
        name: String,
        /// The number of both.
        epoch: u64,
    },
    /// Nobody knows who belongs to the cluster.
    #[error("no node that answers knows the members of the cluster")]
    NoMembership,
    /// Nobody to promote.
    #[error("no sound data node of site {site} answers: bring one back, or promote another site")]
    NobodyThere {
        /// The site.
        site: String,
    },
    /// Nobody vouches for the silent ones.
    #[error(
        "{names} do not answer, and nobody vouches that they take no part any more: see to it that they cannot (power, \
         network), and say so with `--attest TEXT`, which the approvers sign"
    )]
    NotAttested {
        /// Who.
        names: String,
    },
    /// The newest entries cannot be shipped.
    #[error(
        "{holder} has the newest entries and has purged what {base} lacks: promote with a node of the site that has more, or \
         bring {holder}'s records to the site first"
    )]
    TailGone {
        /// Who has them.
        holder: String,
        /// Who needs them.
        base: String,
    },
}

/// A node that answered, with what every step needs of it.
struct Answered<'a> {
    member: &'a Member,
    standing: &'a Standing,
}

impl Answered<'_> {
    fn last(&self) -> Option<LogId> {
        self.standing.last.map(LogId::from)
    }

    /// It may vote and acknowledge, now or once its Raft runs.
    fn may_take_part(&self) -> bool {
        self.standing.fenced.is_empty() && self.standing.promised.is_empty()
    }
}

/// Makes the plan.
///
/// # Errors
/// [`NoPlan`] says why there is none, and what to do.
pub fn plan(view: &View<'_>) -> Result<Plan, NoPlan> {
    let site = view.site.to_owned();
    let ahead = view.standings.iter().find(|it| it.epoch > view.epoch);
    if let Some((standing, member)) = ahead.and_then(|it| Some((it, it.member.as_ref()?))) {
        let (node, name) = (member.node_id, member.name.clone());
        return Err(NoPlan::GoesOn { node, name, epoch: standing.epoch });
    }
    let mut here = view.standings.iter().filter(|it| it.epoch == view.epoch);
    let id = |it: &Standing| epoch_id(it.epoch, Some(&it.record));
    if let Some(own) = here.clone().map(id).find(|id| id.plan != 0)
        && let Some(twin) = here.find(|it| id(it).is_twin_of(own))
    {
        let name = twin.member.as_ref().map_or("a node".to_owned(), |member| member.name.clone());
        return Err(NoPlan::TwoEpochs { name, epoch: view.epoch });
    }
    let known =
        view.standings.iter().filter_map(|it| Some((it.membership_at.map(LogId::from)?, it.membership.as_ref()?)));
    let newest: &MembershipRecord =
        known.max_by_key(|(at, _)| *at).map(|(_, record)| record).ok_or(NoPlan::NoMembership)?;
    let members: Vec<&Member> = newest.seats.iter().filter_map(|seat| seat.member.as_ref()).collect();
    let standing_of = |member: &&Member| {
        let own = |it: &&Standing| it.member.as_ref().is_some_and(|said| said.folder_id == member.folder_id);
        view.standings.iter().find(|it| own(it) && it.epoch == view.epoch)
    };
    let answered: Vec<Answered<'_>> = members
        .iter()
        .filter_map(|member| Some(Answered { member, standing: standing_of(member)? }))
        // One that comes back has nothing of this epoch yet: no log that counts, and no records to go on with.
        .filter(|it| !it.standing.reinstating)
        .collect();
    let is_lost = |member: &&&Member| answered.iter().all(|it| it.member.node_id != member.node_id);
    let lost: Vec<Member> = members.iter().filter(is_lost).map(|member| (*member).clone()).collect();

    check_nobody_goes_on(view, newest, &answered)?;
    let silent: Vec<&str> =
        members.iter().filter(|member| standing_of(member).is_none()).map(|it| it.name.as_str()).collect();
    if !silent.is_empty() && view.attested.fenced.trim().is_empty() {
        return Err(NoPlan::NotAttested { names: list(silent.into_iter()) });
    }
    let at_site = |it: &&Answered<'_>| it.member.site == view.site && it.standing.fenced.is_empty();
    let sound = |it: &&Answered<'_>| it.member.role_value().is_data() && !it.standing.copy_is_bad;
    let candidates: Vec<&Answered<'_>> = answered.iter().filter(at_site).filter(sound).collect();
    let by_log = |it: &&Answered<'_>| (it.last(), std::cmp::Reverse(it.member.node_id));
    let base = candidates.into_iter().max_by_key(by_log).ok_or(NoPlan::NobodyThere { site: site.clone() })?;
    let newest_log = answered.iter().max_by_key(by_log).filter(|_| !planted::is(Bug::TailNotShipped));
    let holder = newest_log.filter(|it| it.last() > base.last()).unwrap_or(base);
    let base_next = base.last().map_or(0, |last| last.index + 1);
    if holder.standing.purged.map(LogId::from).is_some_and(|purged| purged.index >= base_next) {
        let (holder, base) = (holder.member.name.clone(), base.member.name.clone());
        return Err(NoPlan::TailGone { holder, base });
    }
    let verdict = verdict(view, &members, &answered, base, holder);
    let terms = answered.iter().map(|it| it.standing.vote_term.max(it.last().map_or(0, |last| last.leader.term)));
    let earlier = earlier_plans(view, &answered).into_iter().map(|plan| plan.epoch);
    let given_up = answered.iter().map(|it| it.standing.given_up);
    let newest_epoch = earlier.chain(given_up).chain([view.epoch]).max().unwrap_or(view.epoch);
    // All data nodes of the site vote from now on, and a witness that answers goes along.
    let goes_along = |it: &&Answered<'_>| at_site(it) || it.member.role_value() == Role::Witness;
    let in_new_epoch = |it: &Answered<'_>| {
        let role = if it.member.role_value() == Role::Learner { Role::Voter } else { it.member.role_value() };
        Member { role: role as i32, demoted: false, ..it.member.clone() }
    };
    let approvers = approvers_at_base(&answered, holder.last().map_or(0, |last| last.index));
    Ok(Plan {
        format: FORMAT,
        cluster_id: base.standing.cluster_id.clone(),
        cluster_name: base.standing.cluster_name.clone(),
        epoch: newest_epoch + 1,
        former_epoch: view.epoch,
        site,
        made_us: view.now_us,
        expires_us: view.now_us.saturating_add(VALID_US),
        base: holder.last().map(LogIdRow::from),
        base_node: base.member.node_id,
        holder: holder.member.node_id,
        term: terms.max().unwrap_or(0) + TERMS_APART,
        members: answered.iter().filter(goes_along).map(in_new_epoch).collect(),
        left: answered.iter().filter(|it| !goes_along(it)).map(|it| it.member.clone()).collect(),
        survivors: answered.iter().map(survivor).collect(),
        lost,
        attested: Some(view.attested.clone()),
        verdict: verdict.verdict.into(),
        lost_revisions: verdict.lost_revisions,
        because: verdict.because,
        approvers: approvers.approvers,
        needed: approvers.needed,
        revision: base.standing.revision,
    })
}

/// Who may approve, as the newest log says that is kept.
fn approvers_at_base(answered: &[Answered<'_>], base_index: u64) -> SetApprovers {
    let known = answered.iter().filter_map(|it| Some((it.standing.approvers_at, it.standing.approvers.as_ref()?)));
    let at_base = known.filter(|(at, _)| *at <= base_index).max_by_key(|(at, _)| *at);
    at_base.map(|(_, list)| list.clone()).unwrap_or_default()
}

fn survivor(it: &Answered<'_>) -> Survivor {
    Survivor {
        node_id: it.member.node_id,
        name: it.member.name.clone(),
        site: it.member.site.clone(),
        last: it.last().map(LogIdRow::from),
        fenced: !it.standing.fenced.is_empty(),
        role: it.member.role_value().as_str().to_owned(),
    }
}

/// Whether two plans do the same with the same nodes. What is said of the loss and its reasons may differ.
pub fn is_same(one: &Plan, other: &Plan) -> bool {
    let what = |plan: &Plan| {
        let survivors: BTreeMap<NodeId, (Option<LogIdRow>, bool)> =
            plan.survivors.iter().map(|it| (it.node_id, (it.last, it.fenced))).collect();
        let members: BTreeSet<NodeId> = plan.members.iter().map(|it| it.node_id).collect();
        (plan.epoch, plan.base, plan.base_node, plan.holder, survivors, members)
    };
    what(one) == what(other)
}

/// No quorum may be there, nor anybody who could acknowledge beside the promoted site.
fn check_nobody_goes_on(view: &View<'_>, newest: &MembershipRecord, answered: &[Answered<'_>]) -> Result<(), NoPlan> {
    let site = view.site.to_owned();
    let able: BTreeSet<NodeId> = answered.iter().filter(|it| it.may_take_part()).map(|it| it.member.node_id).collect();
    if is_quorum(&sets(&newest.configs), |id| able.contains(&id)) {
        let names =
            list(answered.iter().filter(|it| able.contains(&it.member.node_id)).map(|it| it.member.name.as_str()));
        return Err(NoPlan::Quorum { names, site });
    }
    let elsewhere = |it: &&Answered<'_>| it.member.site != view.site && it.member.role_value().is_data();
    let unfenced: Vec<&Answered<'_>> =
        answered.iter().filter(elsewhere).filter(|it| it.standing.fenced.is_empty()).collect();
    match unfenced.first() {
        None => Ok(()),
        Some(first) => {
            let (names, site) = (list(unfenced.iter().map(|it| it.member.name.as_str())), first.member.site.clone());
            Err(NoPlan::NotFenced { names, site })
        }
    }
}

fn sets(configs: &[VoterSet]) -> Vec<BTreeSet<NodeId>> {
    configs.iter().map(|set| set.node_ids.iter().copied().collect()).collect()
}

fn list<'n>(names: impl Iterator<Item = &'n str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// What would be lost, and why that is so.
struct Judged {
    verdict: Verdict,
    lost_revisions: u64,
    because: Vec<String>,
}

fn verdict(
    view: &View<'_>,
    members: &[&Member],
    answered: &[Answered<'_>],
    base: &Answered<'_>,
    holder: &Answered<'_>,
) -> Judged {
    let mut because = Vec::new();
    let proven = !may_have_begun(view, answered, &mut because)
        && (every_quorum_has_a_survivor(answered, &mut because)
            || gate_was_closed(view, members, answered, (base, holder), &mut because));
    if proven {
        return Judged { verdict: Verdict::ProvenZero, lost_revisions: 0, because };
    }
    match view.attested.last_revision {
        Some(last_revision) => {
            let mut lost_revisions = last_revision.saturating_sub(base.standing.revision);
            if planted::is(Bug::BoundTooLow) {
                lost_revisions /= 2;
            }
            because.push(format!(
                "the other side's newest revision is vouched to be {last_revision}, {} has revision {}: at most \
                 {lost_revisions} revisions are lost",
                base.member.name, base.standing.revision
            ));
            Judged { verdict: Verdict::Bounded, lost_revisions, because }
        }
        None => {
            because.push(
                "nobody vouches for the other side's newest revision (--last-revision): how many acknowledged writes it has \
                 beyond the base is not known"
                    .into(),
            );
            Judged { verdict: Verdict::Unknown, lost_revisions: 0, because }
        }
    }
}

/// All plans that some node has promised, outbid ones too, but for the one that is being carried out.
fn earlier_plans(view: &View<'_>, answered: &[Answered<'_>]) -> Vec<Plan> {
    let all = answered.iter().flat_map(|it| it.standing.outbid.iter().chain([&it.standing.promised]));
    let others = all.filter(|it| !is_same_plan(it, view.carried_out));
    others.filter_map(|it| SignedPlan::from_bytes(it).ok()).map(|(_, plan)| plan).collect()
}

/// Whether an epoch between this one and the planned one may have begun at a node that does not answer.
fn may_have_begun(view: &View<'_>, answered: &[Answered<'_>], because: &mut Vec<String>) -> bool {
    let silent = |plan: &Plan| answered.iter().all(|it| it.member.node_id != plan.base_node);
    let Some(plan) = earlier_plans(view, answered).into_iter().find(silent) else { return false };
    let base = plan.member(plan.base_node).map_or("?", |member| member.name.as_str());
    because.push(format!(
        "epoch {} may have begun at {base} by an earlier plan, and {base} does not answer: it may have acknowledged writes",
        plan.epoch
    ));
    true
}

fn every_quorum_has_a_survivor(answered: &[Answered<'_>], because: &mut Vec<String>) -> bool {
    let known = answered.iter().flat_map(|it| {
        let newest = it.standing.membership.as_ref().map(|record| sets(&record.configs)).unwrap_or_default();
        newest.into_iter().chain(sets(&it.standing.applied_voters))
    });
    let known: BTreeSet<BTreeSet<NodeId>> = known.filter(|set| !set.is_empty()).collect();
    let answers = |id: &NodeId| answered.iter().any(|it| it.member.node_id == *id);
    for set in &known {
        let (lost, majority) = (set.iter().filter(|id| !answers(id)).count(), set.len() / 2 + 1);
        let (voters, here) = (set.len(), set.len() - lost);
        if lost >= majority {
            because.push(format!(
                "{here} of {voters} voters answered: the {lost} others are a quorum ({majority}) and may have committed \
                 without them"
            ));
            return false;
        }
        because.push(format!(
            "{here} of {voters} voters answered: no quorum ({majority}) is without one of them, so every commit is in a \
             log that is kept"
        ));
    }
    !known.is_empty()
}

fn gate_was_closed(
    view: &View<'_>,
    members: &[&Member],
    answered: &[Answered<'_>],
    (base, holder): (&Answered<'_>, &Answered<'_>),
    because: &mut Vec<String>,
) -> bool {
    let Some(gate) = &base.standing.gate else { return false };
    if !gate.is_closed {
        because
            .push("acknowledgements did not wait for this site (the gate was open) when it last heard of them".into());
        return false;
    }
    if !gate.is_newest || holder.member.node_id != base.member.node_id {
        because.push("what the newest entries say of the gate is not applied, so it counts as open".into());
        return false;
    }
    if !enough_at_gate(view, members, answered, gate, because) {
        return false;
    }
    if !view.attested.unchanged {
        because.push(
            "nobody vouches that the protection and the data nodes were not changed on the other side since it was cut off \
             (--unchanged)"
                .into(),
        );
        return false;
    }
    if gate.is_maximum {
        because.push("maximum protection was in force, and nobody changed it, as is vouched".into());
        return true;
    }
    stopped_in_time(view, members, answered, gate, because)
}

/// Whichever other site led, enough of the nodes that had to acknowledge answered.
fn enough_at_gate(
    view: &View<'_>,
    members: &[&Member],
    answered: &[Answered<'_>],
    gate: &GateSeen,
    because: &mut Vec<String>,
) -> bool {
    let data = || members.iter().filter(|it| it.role_value().is_data());
    let answers = |it: &&&Member| answered.iter().any(|other| other.member.node_id == it.node_id);
    // A leader of this site did not wait for it: its own log has to be here.
    if data().filter(|it| it.site == view.site && it.role_value().votes()).any(|it| !answers(&it)) {
        because.push(format!("a voter of site {} does not answer, and may have led", view.site));
        return false;
    }
    let led_from: BTreeSet<&str> = data().map(|it| it.site.as_str()).filter(|site| *site != view.site).collect();
    let waited_for_here = !led_from.is_empty();
    let enough_of = |site: &str| {
        let asked = data().filter(|it| it.site != site).count();
        let here = data().filter(|it| it.site != site).filter(answers).count();
        let enough = (asked + 1).saturating_sub(gate.acks as usize);
        because.push(format!(
            "every write that site {site} acknowledged was at {} of {asked} nodes elsewhere while the gate was closed; {here} \
             of them answered, {enough} are enough",
            gate.acks
        ));
        here >= enough
    };
    waited_for_here && led_from.into_iter().all(enough_of)
}

/// The other side had stopped before it could open the gate by itself.
fn stopped_in_time(
    view: &View<'_>,
    members: &[&Member],
    answered: &[Answered<'_>],
    gate: &GateSeen,
    because: &mut Vec<String>,
) -> bool {
    let known = answered.iter().filter_map(|it| it.standing.membership.as_ref());
    let all: Vec<Member> = members.iter().map(|it| (*it).clone()).collect();
    if known.into_iter().any(|record| needs_two_sites(&sets(&record.configs), &all)) {
        because.push(
            "the gate opens by itself, and in this topology its time may run from before the last acknowledgement"
                .into(),
        );
        return false;
    }
    let ages = answered.iter().filter_map(|it| it.standing.gate.as_ref()?.acknowledged_age_ms);
    let Some(age_ms) = ages.min() else {
        because.push(
            "no node remembers when the other side last counted an acknowledgement: it may have opened the gate".into(),
        );
        return false;
    };
    let acknowledged_us = view.now_us.saturating_sub(age_ms.saturating_mul(1000));
    let open_us = acknowledged_us.saturating_add(gate.degrade_ms.saturating_mul(980));
    let Some(stopped_us) = view.attested.stopped_us else {
        because.push(format!(
            "the gate stayed closed until {} ms after the newest acknowledgement at least, and nobody vouches when the other \
             side stopped (--stopped-at)",
            gate.degrade_ms * 98 / 100
        ));
        return false;
    };
    let in_time = stopped_us <= open_us || planted::is(Bug::ZeroClaimed);
    because.push(match in_time {
        true => format!(
            "the other side stopped {} ms before it could open the gate, as is vouched",
            (open_us - stopped_us) / 1000
        ),
        false => format!("the other side stopped {} ms after it could open the gate", (stopped_us - open_us) / 1000),
    });
    in_time
}

#[cfg(test)]
mod tests;

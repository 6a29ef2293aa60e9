use super::*;
use crate::member::Seat;
use crate::wire::WireLogId;

const DEGRADE_MS: u64 = 1_000;
const NOW_US: u64 = 2_000_000_000;
const AGE_MS: u64 = 300_000;
const ACKNOWLEDGED_US: u64 = NOW_US - AGE_MS * 1000;

fn member(node_id: NodeId, site: &str, role: Role) -> Member {
    let folder_id = vec![node_id as u8; 16].into();
    Member {
        node_id,
        name: format!("{site}-{node_id}"),
        site: site.into(),
        role: role as i32,
        folder_id,
        ..Member::default()
    }
}

fn at(term: u64, index: u64) -> Option<WireLogId> {
    Some(WireLogId { term, node_id: 1, index })
}

/// 3+2l: voters 1 to 3 at main, learners 4 and 5 at dr.
fn two_sites() -> Vec<Member> {
    let main = (1..=3).map(|id| member(id, "main", Role::Voter));
    main.chain((4..=5).map(|id| member(id, "dr", Role::Learner))).collect()
}

/// 2+2+w: voters 1, 2 at main, 3, 4 at dr, witness 5.
fn with_witness() -> Vec<Member> {
    let main = (1..=2).map(|id| member(id, "main", Role::Voter));
    let dr = (3..=4).map(|id| member(id, "dr", Role::Voter));
    main.chain(dr).chain([member(5, "third", Role::Witness)]).collect()
}

fn record(members: &[Member]) -> MembershipRecord {
    let voters = members.iter().filter(|it| it.role_value().votes()).map(|it| it.node_id).collect();
    MembershipRecord {
        configs: vec![VoterSet { node_ids: voters }],
        seats: members.iter().map(|it| Seat { node_id: it.node_id, member: Some(it.clone()) }).collect(),
    }
}

/// Synchronized, with its log at index 10 of term 3.
fn standing(members: &[Member], node_id: NodeId) -> Standing {
    let own = members.iter().find(|it| it.node_id == node_id).unwrap().clone();
    let gate = GateSeen {
        is_closed: true,
        is_maximum: false,
        acks: 1,
        degrade_ms: DEGRADE_MS,
        is_newest: true,
        acknowledged_age_ms: Some(AGE_MS),
    };
    Standing {
        gate: own.role_value().is_data().then_some(gate),
        member: Some(own),
        cluster_id: vec![9; 16].into(),
        epoch: 1,
        last: at(3, 10),
        vote_term: 3,
        membership: Some(record(members)),
        membership_at: at(1, 1),
        applied_voters: record(members).configs,
        revision: 100,
        ..Standing::default()
    }
}

fn vouched() -> Attested {
    Attested { fenced: "without power".into(), ..Attested::default() }
}

fn planned(standings: &[Standing], attested: &Attested) -> Result<Plan, NoPlan> {
    plan(&View { epoch: 1, site: "dr", standings, attested, now_us: NOW_US, carried_out: &[] })
}

fn of(members: &[Member], ids: &[NodeId]) -> Vec<Standing> {
    ids.iter().map(|id| standing(members, *id)).collect()
}

fn verdict_of(standings: &[Standing], attested: &Attested) -> (Verdict, String) {
    let plan = planned(standings, attested).unwrap();
    (plan.verdict(), plan.because.join("; "))
}

#[test]
fn a_site_goes_on_with_its_newest_node_and_all_its_data_nodes_vote() {
    let members = two_sites();
    let mut standings = of(&members, &[4, 5]);
    standings[0].last = at(3, 9);
    let plan = planned(&standings, &vouched()).unwrap();
    assert_eq!((plan.epoch, plan.former_epoch, plan.base_node, plan.holder), (2, 1, 5, 5));
    assert_eq!((plan.base, plan.term), (at(3, 10).map(|id| LogId::from(id).into()), 1003));
    assert!(plan.members.iter().all(|it| it.role_value() == Role::Voter && it.site == "dr") && plan.members.len() == 2);
    let lost: Vec<_> = plan.lost.iter().map(|it| it.node_id).collect();
    assert_eq!((lost, plan.expires_us - plan.made_us), (vec![1, 2, 3], 900_000_000));
}

#[test]
fn one_that_comes_back_and_has_not_got_its_records_is_no_survivor_and_no_member() {
    let members = two_sites();
    let mut standings = of(&members, &[4, 5]);
    standings[1].reinstating = true;
    standings[1].last = at(9, 99);
    let plan = planned(&standings, &vouched()).unwrap();
    assert_eq!((plan.base_node, plan.holder, plan.members.len(), plan.survivors.len()), (4, 4, 1, 1));
    assert!(plan.lost.iter().any(|it| it.node_id == 5), "the epoch goes on without it, and it comes back later");
    standings[0].reinstating = true;
    assert!(matches!(planned(&standings, &vouched()), Err(NoPlan::NobodyThere { .. })));
}

#[test]
fn nothing_is_forced_while_a_quorum_answers_or_somebody_could_acknowledge_beside_it() {
    let members = with_witness();
    let refused = |ids: &[NodeId]| planned(&of(&members, ids), &vouched()).unwrap_err();
    assert!(matches!(refused(&[3, 4, 5]), NoPlan::Quorum { .. }), "dr and the witness elect by themselves");
    assert!(matches!(refused(&[1, 3]), NoPlan::NotFenced { names, .. } if names == "main-1"));
    let mut fenced = of(&members, &[1, 3]);
    fenced[0].fenced = "by an operator".into();
    assert!(planned(&fenced, &vouched()).is_ok());
    let mut fenced = of(&members, &[1, 3, 4]);
    fenced[0].fenced = "by an operator".into();
    assert!(planned(&fenced, &vouched()).is_ok(), "a fenced node is no part of a quorum");
    let learners = two_sites();
    let silent = Attested::default();
    let unvouched = planned(&of(&learners, &[4, 5]), &silent).unwrap_err();
    assert!(matches!(unvouched, NoPlan::NotAttested { names } if names == "main-1, main-2, main-3"));
    assert!(matches!(refused(&[5]), NoPlan::NobodyThere { .. }));
    let mut later = of(&members, &[3, 4]);
    later[1].epoch = 2;
    assert!(matches!(planned(&later, &vouched()), Err(NoPlan::GoesOn { node: 4, epoch: 2, .. })));
    let began = |plan: &'static [u8]| SignedPlan { plan: plan.into(), approvals: Vec::new() }.to_bytes();
    let mut twins = of(&members, &[3, 4]);
    twins[0].record = began(b"this");
    assert!(planned(&twins, &vouched()).is_ok(), "one that joined later may not know how its epoch began");
    twins[1].record = began(b"other");
    assert!(matches!(planned(&twins, &vouched()), Err(NoPlan::TwoEpochs { name, .. }) if name == "dr-4"));
}

#[test]
fn a_witness_or_a_fenced_node_with_more_gives_its_tail() {
    let members = with_witness();
    let mut standings = of(&members, &[3, 5]);
    standings[1].last = at(4, 12);
    let plan = planned(&standings, &vouched()).unwrap();
    assert_eq!((plan.base_node, plan.holder, plan.base), (3, 5, at(4, 12).map(|id| LogId::from(id).into())));
    assert_eq!(plan.term, 1004);
    let members_then: Vec<_> = plan.members.iter().map(|it| (it.node_id, it.role_value())).collect();
    assert_eq!(members_then, [(3, Role::Voter), (5, Role::Witness)]);
    standings[1].purged = at(4, 11);
    assert!(matches!(planned(&standings, &vouched()), Err(NoPlan::TailGone { .. })));
}

#[test]
fn a_plan_that_some_have_promised_gives_way_to_one_for_a_later_epoch() {
    let members = two_sites();
    let mut standings = of(&members, &[4, 5]);
    let first = planned(&standings, &vouched()).unwrap();
    let signed = saola_storage::promotion::SignedPlan {
        plan: prost::Message::encode_to_vec(&first).into(),
        approvals: Vec::new(),
    };
    standings[0].promised = signed.to_bytes();
    assert_eq!(planned(&standings, &vouched()).unwrap().epoch, 3);
    let attested = vouched();
    let carried_out = signed.to_bytes();
    let view = View {
        epoch: 1,
        site: "dr",
        standings: &standings,
        attested: &attested,
        now_us: NOW_US,
        carried_out: &carried_out,
    };
    assert!(is_same(&plan(&view).unwrap(), &first), "it is carried on");
}

#[test]
fn zero_is_proven_where_no_quorum_is_without_a_survivor() {
    let members = with_witness();
    let mut standings = of(&members, &[2, 3, 4]);
    standings[0].fenced = "by an operator".into();
    let (verdict, because) = verdict_of(&standings, &vouched());
    assert_eq!(verdict, Verdict::ProvenZero, "{because}");
    assert!(because.contains("3 of 5 voters answered: no quorum (3) is without one of them"), "{because}");
    let (verdict, because) = verdict_of(&of(&members, &[3, 4]), &vouched());
    assert_eq!(verdict, Verdict::Unknown, "main and the witness are a quorum: {because}");
}

#[test]
fn zero_is_not_proven_by_a_membership_that_has_been_changed_since() {
    let members = with_witness();
    let mut standings = of(&members, &[2, 3, 4]);
    standings[0].fenced = "by an operator".into();
    // One survivor knows that main and the witness have become the voters.
    let shrunk = VoterSet { node_ids: vec![1, 2, 5] };
    standings[0].membership.as_mut().unwrap().configs = vec![shrunk];
    assert_eq!(verdict_of(&standings, &vouched()).0, Verdict::Unknown);
}

#[test]
fn without_a_witness_zero_is_proven_if_the_other_side_stopped_before_it_could_open_the_gate() {
    let members = two_sites();
    let standings = of(&members, &[4, 5]);
    let stopped_at = |stopped_us| Attested { stopped_us, unchanged: true, ..vouched() };
    assert_eq!(verdict_of(&standings, &stopped_at(None)).0, Verdict::Unknown, "nobody vouches for it");
    let latest = ACKNOWLEDGED_US + DEGRADE_MS * 980;
    assert_eq!(verdict_of(&standings, &stopped_at(Some(latest))).0, Verdict::ProvenZero);
    let (verdict, because) = verdict_of(&standings, &stopped_at(Some(latest + 1_000)));
    assert_eq!(verdict, Verdict::Unknown);
    assert!(because.contains("1 ms after it could open the gate"), "{because}");
    let in_time = stopped_at(Some(ACKNOWLEDGED_US));
    let changed = Attested { unchanged: false, ..in_time.clone() };
    assert_eq!(verdict_of(&standings, &changed).0, Verdict::Unknown, "another rule may have been in force");
    assert_eq!(verdict_of(&of(&members, &[4]), &in_time).0, Verdict::Unknown, "one of two is not enough");
    let but = |change: fn(&mut GateSeen)| {
        let mut changed = of(&members, &[4, 5]);
        changed.iter_mut().for_each(|it| change(it.gate.as_mut().unwrap()));
        verdict_of(&changed, &in_time).0
    };
    assert_eq!(but(|_| {}), Verdict::ProvenZero);
    assert_eq!(but(|gate| gate.acks = 2), Verdict::ProvenZero);
    assert_eq!(but(|gate| gate.is_closed = false), Verdict::Unknown);
    assert_eq!(but(|gate| gate.is_newest = false), Verdict::Unknown);
    assert_eq!(but(|gate| gate.acknowledged_age_ms = None), Verdict::Unknown);
    let two_of_two = |change: fn(&mut GateSeen)| {
        let mut one = of(&members, &[5]);
        one.iter_mut().for_each(|it| change(it.gate.as_mut().unwrap()));
        verdict_of(&one, &in_time).0
    };
    assert_eq!(two_of_two(|gate| gate.acks = 2), Verdict::ProvenZero, "both have every write");
}

#[test]
fn maximum_protection_proves_zero_if_nobody_changed_it() {
    let members = two_sites();
    let mut standings = of(&members, &[4, 5]);
    standings.iter_mut().for_each(|it| it.gate.as_mut().unwrap().is_maximum = true);
    assert_eq!(verdict_of(&standings, &vouched()).0, Verdict::Unknown);
    let stopped = Attested { stopped_us: Some(ACKNOWLEDGED_US), ..vouched() };
    assert_eq!(verdict_of(&standings, &stopped).0, Verdict::Unknown, "the timer is not what keeps it closed");
    let unchanged = Attested { unchanged: true, ..vouched() };
    assert_eq!(verdict_of(&standings, &unchanged).0, Verdict::ProvenZero);
}

#[test]
fn with_a_witness_that_is_lost_time_proves_nothing() {
    let members = with_witness();
    let attested = Attested { stopped_us: Some(ACKNOWLEDGED_US), unchanged: true, ..vouched() };
    let (verdict, because) = verdict_of(&of(&members, &[3, 4]), &attested);
    assert!(verdict == Verdict::Unknown && because.contains("2 of 5 voters answered"), "{because}");
}

#[test]
fn a_loss_is_bounded_where_the_other_sides_revision_is_vouched_for() {
    let standings = of(&two_sites(), &[4, 5]);
    let bounded = |last_revision| {
        let attested = Attested { last_revision: Some(last_revision), ..vouched() };
        let plan = planned(&standings, &attested).unwrap();
        (plan.verdict(), plan.lost_revisions)
    };
    assert_eq!(bounded(130), (Verdict::Bounded, 30));
    assert_eq!(bounded(90), (Verdict::Bounded, 0));
}

#[test]
fn nothing_is_proven_where_an_earlier_plan_may_have_begun_at_a_silent_node() {
    let members = two_sites();
    let earlier = planned(&of(&members, &[4, 5]), &vouched()).unwrap();
    assert_eq!(earlier.base_node, 4);
    let signed = SignedPlan { plan: prost::Message::encode_to_vec(&earlier).into(), approvals: Vec::new() };
    let mut standings = of(&members, &[1, 2, 3, 5]);
    standings.iter_mut().take(3).for_each(|it| it.fenced = "by an operator".into());
    assert_eq!(verdict_of(&standings, &vouched()).0, Verdict::ProvenZero);
    standings[3].promised = signed.to_bytes();
    let (verdict, because) = verdict_of(&standings, &vouched());
    assert_eq!(verdict, Verdict::Unknown);
    assert!(because.contains("epoch 2 may have begun at dr-4"), "{because}");
    (standings[3].outbid, standings[3].promised) = (vec![signed.to_bytes()], Default::default());
    assert_eq!(verdict_of(&standings, &vouched()).0, Verdict::Unknown, "another plan has outbid it since");
    standings[0].given_up = 6;
    assert_eq!(planned(&standings, &vouched()).unwrap().epoch, 7);
}

#[test]
fn the_newest_list_of_approvers_at_or_below_the_base_decides() {
    let mut standings = of(&two_sites(), &[4, 5]);
    let list = |needed| SetApprovers { approvers: Vec::new(), needed };
    (standings[0].approvers, standings[0].approvers_at) = (Some(list(1)), 5);
    (standings[1].approvers, standings[1].approvers_at) = (Some(list(2)), 8);
    assert_eq!(planned(&standings, &vouched()).unwrap().needed, 2);
    standings[1].approvers_at = 11;
    assert_eq!(planned(&standings, &vouched()).unwrap().needed, 1, "that one was never kept");
}

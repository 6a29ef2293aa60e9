//! What a node goes by that asks how its epoch stands, before it takes part again.

use bytes::Bytes;
use saola_storage::promotion::{Plan, SignedPlan, epoch_id, is_same_plan};

use crate::folder::NodeIdentity;
use crate::member::Member;
use crate::wire::Standing;

/// What a node that asks before it takes part has heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing has gone on without it.
    Clear,
    /// This record says otherwise.
    Record(Bytes),
    /// Nobody has said who could.
    Nobody(String),
}

/// Decides what the answers of all other members say; `record`: how this node's epoch began; `quorum_ms`: a leader whose quorum
/// was confirmed within this time has one.
pub fn heard(
    own: &NodeIdentity,
    record: &Bytes,
    answers: &[(Member, Result<Standing, String>)],
    quorum_ms: u64,
) -> Heard {
    let said = || answers.iter().filter_map(|(member, answer)| Some((member, answer.as_ref().ok()?)));
    if let Some((_, later)) = said().find(|(_, it)| it.epoch > own.epoch && !it.record.is_empty()) {
        return Heard::Record(later.record.clone());
    }
    if let Some((member, it)) = said().find(|(_, it)| it.epoch > own.epoch) {
        return Heard::Nobody(format!("{} is in epoch {} and shows no record of it", member.name, it.epoch));
    }
    // One that waits for this epoch knows that nobody has ended it, as long as nobody has joined whom the plan does not name.
    let waits_for_it = |it: &Standing| is_same_plan(&it.promised, record);
    let has_joined = |plan: &Plan| answers.iter().any(|(member, _)| plan.member(member.node_id).is_none());
    let has_none_joined = SignedPlan::from_bytes(record).is_ok_and(|(_, plan)| !has_joined(&plan));
    let is_here = |it: &Standing| {
        let is_twin = epoch_id(it.epoch, Some(&it.record)).is_twin_of(own.epoch_id());
        it.epoch == own.epoch && !is_twin && it.fenced.is_empty() && it.promised.is_empty()
    };
    let clears = |(member, it): (&Member, &Standing)| {
        let has_quorum = it.runs && it.leader != 0 && it.quorum_age_ms <= quorum_ms;
        // Others may have gone on without asking one that has nothing of its epoch yet.
        let takes_part = is_here(it) && !it.reinstating;
        has_none_joined && waits_for_it(it) || takes_part && (member.site != own.site || has_quorum)
    };
    // Any quorum, and whoever could be promoted, is among those whom one of its nodes asks that knows the newest members; that
    // one takes part only if not one of them has gone on. The others may, for without it they are no quorum.
    let is_all_there = |(member, answer): &(Member, Result<Standing, String>)| {
        let answers_for_itself = |it: &Standing| {
            it.member.as_ref().is_some_and(|own| (own.node_id, &own.folder_id) == (member.node_id, &member.folder_id))
        };
        answer.as_ref().is_ok_and(|it| answers_for_itself(it) && (is_here(it) || waits_for_it(it)))
    };
    if said().any(clears) || !answers.is_empty() && answers.iter().all(is_all_there) {
        return Heard::Clear;
    }
    let says = answers.iter().map(|(member, answer)| match answer {
        Ok(it) if !it.fenced.is_empty() => format!("{} is fenced", member.name),
        Ok(it) if !it.promised.is_empty() => format!("{} waits for another epoch", member.name),
        Ok(it) if it.reinstating => format!("{} comes back and has no records yet", member.name),
        Ok(it) => format!("{} is in {}", member.name, epoch_id(it.epoch, Some(&it.record))),
        Err(reason) => format!("{}: {reason}", member.name),
    });
    Heard::Nobody(says.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
pub(crate) mod tests {
    use prost::Message;

    use super::*;
    use crate::member::Role;

    pub(crate) fn own() -> NodeIdentity {
        NodeIdentity {
            cluster_id: [1; 16],
            epoch: 2,
            plan: 0,
            node_id: 1,
            folder_id: [1; 16],
            role: Role::Voter,
            site: "main".into(),
            name: "main-1".into(),
            group_id: 0,
        }
    }

    fn at(site: &str, standing: Result<Standing, String>) -> (Member, Result<Standing, String>) {
        (Member { name: format!("{site}-x"), site: site.into(), ..Member::default() }, standing)
    }

    fn in_epoch(epoch: u64) -> Standing {
        Standing { epoch, quorum_age_ms: u64::MAX, ..Standing::default() }
    }

    #[test]
    fn a_node_that_was_away_goes_by_other_sites_or_by_a_live_quorum() {
        let of = |answers: &[(Member, Result<Standing, String>)]| heard(&own(), &Bytes::new(), answers, 300);
        let silent = || Err("no answer".to_owned());
        assert_eq!(of(&[at("dr", Ok(in_epoch(2))), at("main", silent())]), Heard::Clear);
        assert!(matches!(of(&[at("main", Ok(in_epoch(2))), at("dr", silent())]), Heard::Nobody(_)), "it was away too");
        let follows = |quorum_age_ms| Standing { runs: true, leader: 3, quorum_age_ms, ..in_epoch(2) };
        assert_eq!(of(&[at("main", Ok(follows(300)))]), Heard::Clear);
        assert!(matches!(of(&[at("main", Ok(follows(301)))]), Heard::Nobody(_)), "its leader may be alone");
        assert!(matches!(of(&[at("dr", Ok(in_epoch(1)))]), Heard::Nobody(_)), "an older side knows nothing");
    }

    #[test]
    fn a_node_that_waits_for_another_epoch_or_is_fenced_clears_nobody_of_its_own() {
        let promised = Standing { promised: Bytes::from_static(b"plan"), ..in_epoch(2) };
        let fenced = Standing { fenced: "why".into(), ..in_epoch(2) };
        let comes_back = Standing { reinstating: true, ..in_epoch(2) };
        for standing in [promised, fenced, comes_back] {
            assert!(matches!(heard(&own(), &Bytes::new(), &[at("dr", Ok(standing))], 300), Heard::Nobody(_)));
        }
    }

    #[test]
    fn a_node_that_waits_for_this_very_epoch_clears_it_until_somebody_has_joined_whom_its_plan_does_not_name() {
        let member = |node_id| Member { node_id, ..Member::default() };
        let plan = Plan {
            format: 1,
            cluster_id: Bytes::from_static(&[1; 16]),
            epoch: 2,
            former_epoch: 1,
            base_node: 1,
            members: vec![member(1), member(2), member(3)],
            ..Plan::default()
        };
        let plan = SignedPlan { plan: plan.encode_to_vec().into(), approvals: Vec::new() }.to_bytes();
        let of = |answers: &[_]| heard(&own(), &plan, answers, 300);
        let waits = |node_id| {
            let standing = Standing { promised: plan.clone(), member: Some(member(node_id)), ..in_epoch(1) };
            (member(node_id), Ok(standing))
        };
        let silent = |node_id| (member(node_id), Err("no answer".to_owned()));
        assert_eq!(of(&[waits(2), silent(3)]), Heard::Clear);
        assert!(matches!(of(&[waits(2), silent(3), silent(7)]), Heard::Nobody(_)), "7 may have gone on without it");
        let back = Standing { reinstating: true, member: Some(member(7)), record: plan.clone(), ..in_epoch(2) };
        let own = NodeIdentity { plan: epoch_id(2, Some(&plan)).plan, ..own() };
        assert_eq!(
            heard(&own, &plan, &[waits(2), waits(3), (member(7), Ok(back))], 300),
            Heard::Clear,
            "all are there"
        );
    }

    #[test]
    fn nodes_whose_others_are_all_there_and_have_not_gone_on_wait_for_nobody() {
        let plan = SignedPlan { plan: Bytes::from_static(b"plan"), approvals: Vec::new() }.to_bytes();
        let own = NodeIdentity { plan: epoch_id(2, Some(&plan)).plan, ..own() };
        let standing = |site| {
            let (member, _) = at(site, Err(String::new()));
            Standing { record: plan.clone(), member: Some(member), ..in_epoch(2) }
        };
        let back = || Standing { reinstating: true, ..standing("dr") };
        let asks_too = || at("main", Ok(standing("main")));
        let of = |answers: &[_]| heard(&own, &plan, answers, 300);
        let waits = |answers: &[_]| matches!(of(answers), Heard::Nobody(_));
        assert_eq!(of(&[at("dr", Ok(back())), at("dr", Ok(back()))]), Heard::Clear);
        assert_eq!(of(&[asks_too(), at("dr", Ok(back()))]), Heard::Clear);
        assert!(waits(&[]), "it does not know who the others are");
        for other in [Err("no answer".to_owned()), Ok(in_epoch(2)), Ok(in_epoch(1))] {
            assert!(waits(&[asks_too(), at("dr", Ok(back())), at("main", other)]));
        }
        let other = SignedPlan { plan: Bytes::from_static(b"other"), approvals: Vec::new() }.to_bytes();
        let by_another_number = Member { node_id: 9, ..at("dr", Err(String::new())).0 };
        for standing in [
            Standing { promised: Bytes::from_static(b"plan"), ..back() },
            Standing { fenced: "why".into(), ..back() },
            Standing { record: other, ..back() },
            Standing { member: Some(by_another_number), ..back() },
        ] {
            assert!(waits(&[asks_too(), at("dr", Ok(standing))]));
        }
    }

    #[test]
    fn a_node_of_another_epoch_with_the_same_number_clears_nobody() {
        let record =
            |plan: &'static [u8]| SignedPlan { plan: Bytes::from_static(plan), approvals: Vec::new() }.to_bytes();
        let own = NodeIdentity { plan: epoch_id(2, Some(&record(b"this"))).plan, ..own() };
        let by = |plan| Standing { record: record(plan), ..in_epoch(2) };
        assert_eq!(heard(&own, &record(b"this"), &[at("dr", Ok(by(b"this")))], 300), Heard::Clear);
        let Heard::Nobody(says) = heard(&own, &record(b"this"), &[at("dr", Ok(by(b"other")))], 300) else {
            panic!("it takes part in another epoch");
        };
        assert!(says.contains("dr-x is in epoch 2 (plan "), "{says}");
    }

    #[test]
    fn one_that_shows_the_record_of_a_later_epoch_outweighs_all_others() {
        let later = Standing { record: Bytes::from_static(b"record"), ..in_epoch(3) };
        let answers = [at("third", Ok(in_epoch(2))), at("dr", Ok(later))];
        assert_eq!(heard(&own(), &Bytes::new(), &answers, 300), Heard::Record(Bytes::from_static(b"record")));
        let without = [at("third", Ok(in_epoch(2))), at("dr", Ok(in_epoch(3)))];
        assert!(
            matches!(heard(&own(), &Bytes::new(), &without, 300), Heard::Nobody(_)),
            "a number alone fences nobody, nor clears it"
        );
    }
}

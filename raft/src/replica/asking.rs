//! What a node goes by that asks how its epoch stands, before it takes part again.

use bytes::Bytes;
use saola_storage::promotion::{epoch_id, is_same_plan};

use crate::folder::NodeIdentity;
use crate::member::Member;
use crate::wire::Standing;

/// What a node that asks before it takes part has heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing has gone on without it.
    Clear,
    /// This record says otherwise.
    Record(Bytes),
    /// Nobody has said who could.
    Nobody(String),
}

/// Decides what the answers say; `record`: how this node's epoch began; `quorum_ms`: a leader whose quorum was confirmed
/// within this time has one; `votes_alone`: this node is a quorum of its newest membership.
pub(super) fn heard(
    own: &NodeIdentity,
    (record, votes_alone): (&Bytes, bool),
    answers: &[(Member, Result<Standing, String>)],
    quorum_ms: u64,
) -> Heard {
    let said = || answers.iter().filter_map(|(member, answer)| Some((member, answer.as_ref().ok()?)));
    if let Some((_, later)) = said().find(|(_, it)| it.epoch > own.epoch && !it.record.is_empty()) {
        return Heard::Record(later.record.clone());
    }
    let clears = |(member, it): &(&Member, &Standing)| {
        let has_quorum = it.runs && it.leader != 0 && it.quorum_age_ms <= quorum_ms;
        // One that waits for another epoch says nothing for this one, unless it is this one that it waits for.
        // Nor does one that has nothing of its epoch yet: others may have gone on without asking it.
        let is_free = it.fenced.is_empty() && it.promised.is_empty() && !it.reinstating;
        let is_twin = epoch_id(it.epoch, Some(&it.record)).is_twin_of(own.epoch_id());
        let takes_part = it.epoch == own.epoch && is_free && !is_twin;
        let waits_for_this = is_same_plan(&it.promised, record);
        waits_for_this || takes_part && (member.site != own.site || has_quorum)
    };
    if let Some((member, it)) = said().find(|(_, it)| it.epoch > own.epoch) {
        return Heard::Nobody(format!("{} is in epoch {} and shows no record of it", member.name, it.epoch));
    }
    // Nobody has changed the membership without this node, so these are all, and none of them has records to go on with.
    let has_nothing = |(member, it): (&Member, &Standing)| {
        let answers_for_itself =
            it.member.as_ref().is_some_and(|own| (own.node_id, &own.folder_id) == (member.node_id, &member.folder_id));
        let comes_back = it.reinstating && it.fenced.is_empty() && it.promised.is_empty();
        answers_for_itself && comes_back && it.epoch == own.epoch && is_same_plan(&it.record, record)
    };
    let nobody_else_has_anything = votes_alone
        && !answers.is_empty()
        && answers.iter().all(|(member, answer)| answer.as_ref().is_ok_and(|it| has_nothing((member, it))));
    if nobody_else_has_anything || said().any(|it| clears(&it)) {
        return Heard::Clear;
    }
    let says = answers.iter().filter(|(member, _)| member.site != own.site).map(|(member, answer)| match answer {
        Ok(it) if !it.fenced.is_empty() => format!("{} is fenced", member.name),
        Ok(it) if !it.promised.is_empty() => format!("{} waits for another epoch", member.name),
        Ok(it) => format!("{} is in {}", member.name, epoch_id(it.epoch, Some(&it.record))),
        Err(reason) => format!("{}: {reason}", member.name),
    });
    Heard::Nobody(says.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
pub(super) mod tests {
    use saola_storage::promotion::SignedPlan;

    use super::*;
    use crate::member::Role;

    pub(in crate::replica) fn own() -> NodeIdentity {
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
        let of = |answers: &[(Member, Result<Standing, String>)]| heard(&own(), (&Bytes::new(), false), answers, 300);
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
            assert!(matches!(heard(&own(), (&Bytes::new(), false), &[at("dr", Ok(standing))], 300), Heard::Nobody(_)));
        }
        // It waits for the very epoch that this node is in.
        let plan = SignedPlan { plan: Bytes::from_static(b"plan"), approvals: Vec::new() }.to_bytes();
        let waits = Standing { promised: plan.clone(), ..in_epoch(1) };
        assert_eq!(heard(&own(), (&plan, false), &[at("third", Ok(waits))], 300), Heard::Clear);
    }

    #[test]
    fn a_node_whose_others_all_come_back_and_have_nothing_waits_for_none_of_them() {
        let plan = SignedPlan { plan: Bytes::from_static(b"plan"), approvals: Vec::new() }.to_bytes();
        let back = || {
            let (member, _) = at("dr", Err(String::new()));
            Standing { reinstating: true, record: plan.clone(), member: Some(member), ..in_epoch(2) }
        };
        let of = |votes_alone, answers: &[_]| heard(&own(), (&plan, votes_alone), answers, 300);
        let waits = |answers: &[_]| matches!(of(true, answers), Heard::Nobody(_));
        assert_eq!(of(true, &[at("dr", Ok(back())), at("dr", Ok(back()))]), Heard::Clear);
        assert!(matches!(of(false, &[at("dr", Ok(back()))]), Heard::Nobody(_)), "others may have admitted somebody");
        for other in [Err("no answer".to_owned()), Ok(in_epoch(2)), Ok(in_epoch(1))] {
            assert!(waits(&[at("dr", Ok(back())), at("main", other)]));
        }
        assert!(waits(&[]), "it does not know who the others are");
        let other = SignedPlan { plan: Bytes::from_static(b"other"), approvals: Vec::new() }.to_bytes();
        let by_another_number = Member { node_id: 9, ..at("dr", Err(String::new())).0 };
        for standing in [
            Standing { promised: Bytes::from_static(b"plan"), ..back() },
            Standing { fenced: "why".into(), ..back() },
            Standing { record: other, ..back() },
            Standing { member: Some(by_another_number), ..back() },
        ] {
            assert!(waits(&[at("dr", Ok(standing))]));
        }
    }

    #[test]
    fn a_node_of_another_epoch_with_the_same_number_clears_nobody() {
        let record =
            |plan: &'static [u8]| SignedPlan { plan: Bytes::from_static(plan), approvals: Vec::new() }.to_bytes();
        let own = NodeIdentity { plan: epoch_id(2, Some(&record(b"this"))).plan, ..own() };
        let by = |plan| Standing { record: record(plan), ..in_epoch(2) };
        assert_eq!(heard(&own, (&record(b"this"), false), &[at("dr", Ok(by(b"this")))], 300), Heard::Clear);
        let Heard::Nobody(says) = heard(&own, (&record(b"this"), false), &[at("dr", Ok(by(b"other")))], 300) else {
            panic!("it takes part in another epoch");
        };
        assert!(says.contains("dr-x is in epoch 2 (plan "), "{says}");
    }

    #[test]
    fn one_that_shows_the_record_of_a_later_epoch_outweighs_all_others() {
        let later = Standing { record: Bytes::from_static(b"record"), ..in_epoch(3) };
        let answers = [at("third", Ok(in_epoch(2))), at("dr", Ok(later))];
        assert_eq!(heard(&own(), (&Bytes::new(), false), &answers, 300), Heard::Record(Bytes::from_static(b"record")));
        let without = [at("third", Ok(in_epoch(2))), at("dr", Ok(in_epoch(3)))];
        assert!(
            matches!(heard(&own(), (&Bytes::new(), false), &without, 300), Heard::Nobody(_)),
            "a number alone fences nobody, nor clears it"
        );
    }
}

//! A promotion plan as people and programs read it.

use std::path::Path;

use saola_storage::member::Member;
use saola_storage::promotion::{Plan, SignedPlan, Verdict, plan_hash, short_hash};
use serde_json::{Value, json};

use crate::output::{hex, table};
use crate::time;

/// What would be lost, in one line.
pub fn verdict(plan: &Plan) -> String {
    match plan.verdict() {
        Verdict::ProvenZero => "PROVEN ZERO: no acknowledged write is lost".into(),
        Verdict::Bounded => format!("BOUNDED: at most {} revisions are lost", plan.lost_revisions),
        Verdict::Unknown => "UNKNOWN: acknowledged writes may be lost, nobody can say how many".into(),
    }
}

/// The same in a word.
pub fn loss(plan: &Plan) -> &'static str {
    match plan.verdict() {
        Verdict::ProvenZero => "PROVEN ZERO",
        Verdict::Bounded => "BOUNDED",
        Verdict::Unknown => "UNKNOWN",
    }
}

/// Who has approved, and how many must.
fn approvals(signed: &SignedPlan, plan: &Plan) -> String {
    if plan.needed == 0 {
        return "none needed: nobody was ever named as approver".into();
    }
    let who: Vec<&str> = plan.approvers.iter().map(|it| it.name.as_str()).collect();
    let need = format!("{} of {} ({})", plan.needed, who.len(), who.join(", "));
    match signed.check(&plan.approvers, plan.needed) {
        Ok(names) => format!("{need} are needed; approved by {}", names.join(", ")),
        Err(_) if signed.approvals.is_empty() => format!("{need} are needed; nobody has approved yet"),
        Err(error) => format!("{need} are needed; {error}"),
    }
}

/// The whole plan.
pub fn in_words(signed: &SignedPlan, plan: &Plan) -> String {
    let attested = plan.attested.clone().unwrap_or_default();
    let mut vouched = Vec::new();
    if !attested.fenced.is_empty() {
        vouched.push(format!("the silent nodes take no part any more: {}", attested.fenced));
    }
    if let Some(stopped_us) = attested.stopped_us {
        vouched.push(format!("the other side had stopped by {}", time::iso(stopped_us)));
    }
    if let Some(revision) = attested.last_revision {
        vouched.push(format!("its newest revision was {revision}"));
    }
    if attested.unchanged {
        vouched.push("nobody changed the protection or the data nodes there".into());
    }
    let row = |it: &saola_storage::promotion::Survivor| {
        let last = it.last.map_or("empty".into(), |last| format!("{} (term {})", last.index, last.term));
        let part = match (it.fenced, it.node_id == plan.base_node, plan.member(it.node_id)) {
            (true, _, _) => "fenced; its log counts",
            (false, true, _) => "begins the epoch",
            (false, false, Some(_)) => "goes along",
            (false, false, None) => "stays behind",
        };
        let holds = if it.node_id == plan.holder && plan.holder != plan.base_node { ", gives its tail" } else { "" };
        vec![it.name.clone(), it.site.clone(), it.role.clone(), last, format!("{part}{holds}")]
    };
    let survivors =
        table(&["ANSWERS", "SITE", "ROLE", "LOG ENDS", "PART"], &[], plan.survivors.iter().map(row).collect());
    let lost: Vec<String> = plan.lost.iter().map(|it| format!("{} ({})", it.name, it.site)).collect();
    let unaware = names(plan.lost.iter().filter(|it| it.site == plan.site));
    let unaware = match unaware.is_empty() {
        true => String::new(),
        false => format!(
            "\n  of these, {} will not know of the epoch before meeting {}: start it where it reaches them, for among the others it \
             lets the old epoch go on",
            unaware.join(", "),
            names(&plan.members).join(" or ")
        ),
    };
    let list = |lines: &[String]| lines.iter().map(|line| format!("\n  - {line}")).collect::<String>();
    format!(
        "plan {} of cluster {}: site {} goes on alone in epoch {}, from index {} on\n\nloss: {}{}\n\n{survivors}\nno answer \
         from: {}{unaware}\nvouched for:{}\napprovals: {}\nmade {}, to be begun before {}",
        short_hash(&signed.plan),
        plan.cluster_name,
        plan.site,
        plan.epoch,
        plan.base.map_or(0, |base| base.index),
        verdict(plan),
        list(&plan.because),
        if lost.is_empty() { "nobody".into() } else { lost.join(", ") },
        if vouched.is_empty() { " nothing".into() } else { list(&vouched) },
        approvals(signed, plan),
        time::iso(plan.made_us),
        time::iso(plan.expires_us),
    )
}

fn names<'a>(members: impl IntoIterator<Item = &'a Member>) -> Vec<&'a str> {
    members.into_iter().map(|it| it.name.as_str()).collect()
}

/// What comes after the plan.
pub fn next(plan: &Plan, file: &Path) -> String {
    match plan.needed {
        0 => format!("saola dr apply {}", file.display()),
        needed => format!("{needed} approvers run `saola dr approve {} --key THEIR.key`", file.display()),
    }
}

/// As JSON.
pub fn document(signed: &SignedPlan, plan: &Plan) -> Value {
    let attested = plan.attested.clone().unwrap_or_default();
    let survivors: Vec<Value> = plan
        .survivors
        .iter()
        .map(|it| {
            json!({
                "node_id": it.node_id, "name": it.name, "site": it.site, "role": it.role, "fenced": it.fenced,
                "last_index": it.last.map(|last| last.index), "last_term": it.last.map(|last| last.term),
            })
        })
        .collect();
    let base = plan.base.map(|base| json!({ "term": base.term, "leader": base.node_id, "index": base.index }));
    json!({
        "hash": hex(&plan_hash(&signed.plan)), "cluster": plan.cluster_name, "site": plan.site,
        "epoch": plan.epoch, "former_epoch": plan.former_epoch,
        "verdict": loss(plan),
        "lost_revisions": (plan.verdict() == Verdict::Bounded).then_some(plan.lost_revisions),
        "because": plan.because, "base": base, "base_node": plan.base_node, "holder": plan.holder,
        "survivors": survivors, "lost": names(&plan.lost), "members": names(&plan.members),
        "attested": {
            "fenced": attested.fenced, "stopped_us": attested.stopped_us, "last_revision": attested.last_revision,
            "unchanged": attested.unchanged,
        },
        "needed": plan.needed, "approved_by": signed.approvals.iter().map(|it| it.name.clone()).collect::<Vec<_>>(),
        "enough": signed.check(&plan.approvers, plan.needed).is_ok(),
        "made_us": plan.made_us, "expires_us": plan.expires_us, "revision": plan.revision,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_node_of_the_promoted_site_is_to_start_where_it_meets_those_that_go_on() {
        let member = |name: &str, site: &str| Member { name: name.into(), site: site.into(), ..Member::default() };
        let main = member("main-1", "main");
        let plan = Plan {
            site: "dr".into(),
            members: vec![member("dr-1", "dr")],
            lost: vec![main.clone()],
            ..Plan::default()
        };
        let text = |plan: &Plan| in_words(&SignedPlan::default(), plan);
        assert!(text(&plan).contains("no answer from: main-1 (main)\nvouched for:"), "{}", text(&plan));
        let plan = Plan { lost: vec![main, member("dr-2", "dr")], ..plan };
        let said = text(&plan);
        assert!(
            said.contains("dr-2 (dr)\n  of these, dr-2 will not know of the epoch before meeting dr-1: start it"),
            "{said}"
        );
    }
}

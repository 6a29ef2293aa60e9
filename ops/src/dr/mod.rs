//! `saola dr …`, `saola site …`, `saola epoch …`: a site goes on without the other by force. [`plan_text`] is a plan as
//! people read it, [`approver`] who may approve one, [`reinstate`] how the other site comes back, [`orphan`] what becomes of
//! the writes that it alone had. Plans are read and signed here, so the storage's formats are known.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use saola_client::proto::{Attested, FenceResponse, StatusResponse};
use saola_client::{CHANGE_LIMIT, Client, Error};
use saola_storage::promotion::{ApproverKey, Plan, PromotionError, SignedPlan, plan_hash, short_hash};
use serde_json::json;

use crate::cli::{DrPlanVerb, DrVerb, EpochVerb, PromoteArgs, SiteVerb};
use crate::exit::{Exit, Failure, doing};
use crate::output::{Format, hex, print_json, print_line, table, tell};
use crate::run::CLUSTER_TIMEOUT;
use crate::time;
use crate::verbs::cluster::{ask, confirmed};
use crate::verbs::view::cluster_view;

pub mod approver;
pub mod orphan;
pub mod plan_text;
pub mod reinstate;

/// The new epoch should take writes within so long.
const GOES_ON_LIMIT: Duration = Duration::from_secs(60);
/// One node is asked for so long how it is.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Runs a verb of `saola dr`; `client` makes one where a node is asked, whose calls may take so long.
///
/// # Errors
/// There is nothing to plan, a plan that cannot be read, missing approvals, or a step that failed.
pub async fn dr(
    client: impl Fn(Duration) -> Result<Client, Failure>,
    verb: DrVerb,
    format: Format,
) -> Result<Exit, Failure> {
    let (client, patient) = (|| client(CLUSTER_TIMEOUT), || client(CHANGE_LIMIT));
    match verb {
        DrVerb::Plan(DrPlanVerb::Promote(args)) => promote(&client()?, args, format).await,
        DrVerb::Show { file } => {
            let (signed, plan) = read(&file)?;
            show(&signed, &plan, format)?;
            Ok(Exit::Done)
        }
        DrVerb::Approve { file, key, confirm } => approve(&file, &key, confirm, format).await,
        DrVerb::Abandon { file, confirm } => abandon(&client()?, &file, confirm, format).await,
        DrVerb::Apply { file, confirm } => apply(&client()?, &file, confirm, format).await,
        DrVerb::Reinstate { site, dry_run, confirm } => {
            reinstate::reinstate(&client()?, &patient()?, &site, dry_run, confirm, format).await
        }
        DrVerb::ReProtect { confirm } => reinstate::re_protect(&client()?, &patient()?, confirm, format).await,
    }
}

/// A failure about a plan or a key, with what to do.
pub(crate) fn about_plan(error: PromotionError) -> Failure {
    let next = match &error {
        PromotionError::NotApproved { .. } => "`saola dr show PLAN` prints who has approved",
        PromotionError::OpenToOthers { .. } => "then run the command again",
        _ => "check the path, and that the file is whole",
    };
    let source = std::error::Error::source(&error).map_or(String::new(), |source| format!(": {source}"));
    Failure::new(Exit::Usage, format!("{error}{source}"), next)
}

/// Reads a plan with its approvals.
pub(crate) fn read(file: &Path) -> Result<(SignedPlan, Plan), Failure> {
    let text = fs::read_to_string(file);
    let text = text.map_err(|source| Failure::input(format!("read plan {}", file.display()), &source))?;
    SignedPlan::from_text(&text).map_err(about_plan)
}

/// Writes it, whole or not at all.
pub(crate) fn write(file: &Path, signed: &SignedPlan) -> Result<(), Failure> {
    // Beside it first: a plan with approvals must not be lost half-way.
    let fresh = file.with_extension("new");
    let written = fs::write(&fresh, signed.to_text()).and_then(|()| fs::rename(&fresh, file));
    written.map_err(|source| Failure::file(format!("write plan {}", file.display()), &source))
}

fn show(signed: &SignedPlan, plan: &Plan, format: Format) -> Result<(), Failure> {
    match format {
        Format::Table => print_line(plan_text::in_words(signed, plan)),
        Format::Json => print_json("dr-plan", plan_text::document(signed, plan)),
    }
}

async fn promote(client: &Client, args: PromoteArgs, format: Format) -> Result<Exit, Failure> {
    let PromoteArgs { site, out, attest, stopped_at, last_revision, unchanged } = args;
    let fenced = attest.unwrap_or_default();
    let attested = Attested { fenced, stopped_us: stopped_at, last_revision, unchanged };
    let planned = client.plan_promotion(&site, attested).await;
    let bytes = planned.map_err(doing(format!("plan the promotion of site {site}")))?;
    let plan = Plan::from_bytes(&bytes).map_err(about_plan)?;
    let signed = SignedPlan { plan: bytes, approvals: Vec::new() };
    let file = out.unwrap_or_else(|| PathBuf::from(format!("promote-{site}-{}.plan", short_hash(&signed.plan))));
    if file.exists() {
        let next = "name another file with --out, or move that one away";
        return Err(Failure::usage(format!("{} is there already", file.display()), next));
    }
    write(&file, &signed)?;
    show(&signed, &plan, format)?;
    eprintln!("written to {}", file.display());
    eprintln!("next: {}", plan_text::next(&plan, &file));
    Ok(Exit::Done)
}

async fn approve(file: &Path, key: &Path, confirm: Option<String>, format: Format) -> Result<Exit, Failure> {
    let (mut signed, plan) = read(file)?;
    let key = ApproverKey::read_file(key).map_err(about_plan)?;
    let Some(approver) = plan.approvers.iter().find(|it| it.public_key == key.public()[..]) else {
        let who = plan.approvers.iter().map(|it| it.name.as_str()).collect::<Vec<_>>().join(", ");
        let what = format!("this key is none of the plan's approvers ({who})");
        return Err(Failure::new(
            Exit::Permission,
            what,
            "use the key whose public half was given to `saola approver set`",
        ));
    };
    // On stdout is what a program reads; whoever approves reads the plan in any case.
    match format {
        Format::Table => show(&signed, &plan, format)?,
        Format::Json => eprintln!("{}", plan_text::in_words(&signed, &plan)),
    }
    let hash = short_hash(&signed.plan);
    let given = match confirm {
        Some(given) => given,
        None => ask(format!("approve as {}: type the plan's hash ({hash}) to go on: ", approver.name)).await?,
    };
    if given.len() < hash.len() || !hex(&plan_hash(&signed.plan)).starts_with(&given) {
        let what = format!("`{given}` is not the plan's hash {hash}; nothing was approved");
        return Err(Failure::usage(what, format!("add --confirm {hash} once you have read the plan")));
    }
    signed.approve(&approver.name, &key);
    write(file, &signed)?;
    let have = signed.check(&plan.approvers, plan.needed).is_ok();
    if format == Format::Json {
        print_json("dr-approve", json!({ "approver": approver.name, "hash": hash, "enough": have }))?;
    }
    eprintln!("approved by {}", approver.name);
    match have {
        true => eprintln!("next: saola dr apply {} --endpoint HOST:PORT", file.display()),
        false => eprintln!("next: {} approvals are needed; send the file to the next approver", plan.needed),
    }
    Ok(Exit::Done)
}

async fn abandon(client: &Client, file: &Path, confirm: Option<String>, format: Format) -> Result<Exit, Failure> {
    let (signed, plan) = read(file)?;
    let what = format!("give up the promotion of site {} to epoch {}", plan.site, plan.epoch);
    confirmed(&of_cluster(&plan), &what, confirm).await?;
    client.abandon_promotion(signed.to_bytes()).await.map_err(doing(&what))?;
    match format {
        Format::Json => print_json("dr-abandon", json!({ "epoch": plan.epoch, "site": plan.site }))?,
        Format::Table => print_line(format!("{what}: done; those that waited for it take part again"))?,
    }
    Ok(Exit::Done)
}

/// What a confirmation goes by, where no node need be asked.
fn of_cluster(plan: &Plan) -> StatusResponse {
    StatusResponse { cluster_name: plan.cluster_name.clone(), ..StatusResponse::default() }
}

async fn apply(client: &Client, file: &Path, confirm: Option<String>, format: Format) -> Result<Exit, Failure> {
    let (signed, plan) = read(file)?;
    signed.check(&plan.approvers, plan.needed).map_err(about_plan)?;
    let what = format!("let site {} go on in epoch {} without the rest", plan.site, plan.epoch);
    confirmed(&of_cluster(&plan), &what, confirm).await?;
    let begun = Instant::now();
    let leader = carry_out(client, &signed, &plan).await.map_err(|failure| failure.while_doing(what))?;
    went_on(&plan, &leader, begun.elapsed(), format)
}

/// Carries an approved plan out until its epoch takes writes; gives the name of the node that leads.
///
/// # Errors
/// The nodes do not stand as it says, or nobody leads in time.
pub(crate) async fn carry_out(client: &Client, signed: &SignedPlan, plan: &Plan) -> Result<String, Failure> {
    let begun = Instant::now();
    // Once it has begun, what is left the nodes do by themselves.
    let (mut has_begun, mut said) = (false, String::new());
    loop {
        if let Some(leader) = goes_on(client, plan).await {
            return Ok(leader);
        }
        if begun.elapsed() > GOES_ON_LIMIT {
            let what = format!("no node leads in epoch {} after {} s; {said}", plan.epoch, GOES_ON_LIMIT.as_secs());
            return Err(Failure::new(Exit::Unknown, what, "run the command again: it goes on from where it stopped"));
        }
        let applied = if has_begun { Ok(plan.epoch) } else { client.apply_promotion(signed.to_bytes()).await };
        match applied {
            Ok(_) => has_begun = true,
            // The node that begins the epoch starts anew, and its connections end.
            Err(error @ (Error::Unavailable { .. } | Error::UnknownOutcome { .. })) => said = error.to_string(),
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The node that leads in the new epoch, once one does and its first command is there.
async fn goes_on(client: &Client, plan: &Plan) -> Option<String> {
    let looks = plan.members.iter().filter(|it| !it.client_address.is_empty()).map(|member| async {
        let one = client.at_endpoint(&member.client_address).ok()?.with_deadline(LOOK_LIMIT);
        let status = one.cluster_status(true).await.ok()?;
        let is_there = status.header?.epoch == plan.epoch && status.leader == member.node_id;
        let known = if is_there { one.epochs().await.ok()? } else { return None };
        (known.epochs.last()?.number == plan.epoch).then(|| member.name.clone())
    });
    futures::future::join_all(looks).await.into_iter().flatten().next()
}

fn went_on(plan: &Plan, leader: &str, took: Duration, format: Format) -> Result<Exit, Failure> {
    match format {
        Format::Json => {
            let ms = took.as_millis() as u64;
            print_json("dr-apply", json!({ "epoch": plan.epoch, "site": plan.site, "leader": leader, "ms": ms }))?;
        }
        Format::Table => print_line(format!(
            "site {} goes on in epoch {}: {leader} leads, after {:.1} s\n{}",
            plan.site,
            plan.epoch,
            took.as_secs_f64(),
            plan_text::verdict(plan)
        ))?,
    }
    eprintln!("attention: nothing survives the loss of site {} now", plan.site);
    eprintln!(
        "next: `saola status`; a node of the old side is fenced at first contact, and `saola dr reinstate SITE` has it come \
         back; in the place of nodes that are lost for good: `saola cluster add`"
    );
    Ok(Exit::Done)
}

/// Runs a verb of `saola site`.
///
/// # Errors
/// Not confirmed, no such site, or another epoch goes on without it.
pub async fn site(client: &Client, verb: SiteVerb, format: Format) -> Result<Exit, Failure> {
    let status = cluster_view(client).await?;
    let (what, answer) = match verb {
        SiteVerb::Fence { site, why, confirm } => {
            let what = format!("fence site {site}");
            confirmed(&status, &what, confirm).await?;
            let answer = client.fence_site(&site, &why).await;
            (what.clone(), answer.map_err(doing(what))?)
        }
        SiteVerb::Unfence { site, confirm } => {
            let what = format!("let site {site} take part again");
            confirmed(&status, &what, confirm).await?;
            let answer = client.unfence_site(&site).await;
            (what.clone(), answer.map_err(doing(what))?)
        }
    };
    let FenceResponse { done, silent, refused, .. } = answer;
    match format {
        Format::Json => print_json("site", json!({ "done": done, "silent": silent, "refused": refused }))?,
        Format::Table => {
            print_line(format!("{what}: {}", if done.is_empty() { "no node answers".into() } else { done.join(", ") }))?
        }
    }
    refused.iter().for_each(|why| eprintln!("attention: {why}"));
    if !silent.is_empty() {
        eprintln!("attention: no answer from {}", silent.join(", "));
    }
    Ok(if silent.is_empty() && refused.is_empty() { Exit::Done } else { Exit::Degraded })
}

/// Where no leader answers, one node's state is shown, and that is said.
fn tell_if_outdated(known: &saola_client::proto::EpochsResponse) {
    if !known.outdated.is_empty() {
        tell(&format!("as the asked node has it, which may be outdated: {}", known.outdated));
    }
}

/// Runs a verb of `saola epoch`.
///
/// # Errors
/// A failed call.
pub async fn epoch(client: &Client, verb: EpochVerb, format: Format) -> Result<Exit, Failure> {
    let EpochVerb::History = verb;
    let known = client.epochs().await.map_err(doing("ask for the epochs"))?;
    tell_if_outdated(&known);
    let read = known.epochs.iter().map(|it| Ok((it, SignedPlan::from_bytes(&it.signed_plan).map_err(about_plan)?)));
    let read: Vec<_> = read.collect::<Result<_, Failure>>()?;
    if format == Format::Json {
        let shown = read.iter().map(|(it, (signed, plan))| {
            json!({
                "epoch": it.number, "began_us": it.began_us, "revision": it.revision,
                "plan": plan_text::document(signed, plan),
            })
        });
        print_json("epoch-history", json!({ "epochs": shown.collect::<Vec<_>>(), "outdated": known.outdated }))?;
        return Ok(Exit::Done);
    }
    if read.is_empty() {
        print_line("epoch 1, since the cluster was made: no site was ever promoted by force")?;
        return Ok(Exit::Done);
    }
    let row = |(it, (signed, plan)): &(&saola_client::proto::Epoch, (SignedPlan, Plan))| {
        vec![
            it.number.to_string(),
            time::iso(it.began_us),
            plan.site.clone(),
            it.revision.to_string(),
            plan_text::verdict(plan),
            signed.approvals.iter().map(|approval| approval.name.as_str()).collect::<Vec<_>>().join(", "),
        ]
    };
    let heading = ["EPOCH", "BEGAN", "SITE", "REVISION", "LOSS", "APPROVED BY"];
    print_line(table(&heading, &[0, 3], read.iter().map(row).collect()))?;
    Ok(Exit::Done)
}

//! `saola drill …`: rehearsals of bad days, on the real cluster, that write their own evidence.
//!
//! Reading order: [`scenario`] is what is planned, a TOML file, [`stage`] the cluster it is held on; [`run`] holds it: [`guard`] says whether it may begin, [`lock`]
//! lets one drill be held at a time, [`canary`] writes from both sites and remembers what it was told, [`keeper`] does
//! things to nodes, which end by themselves when it falls silent, [`fork`] makes the copy that a promotion is rehearsed on, [`play`] takes the steps, [`watch`] looks out for real
//! alarms. Then [`report`] is what was measured, [`checks`] the verdict that follows, [`signed`] its file, [`page`] what people
//! read, [`archive`] where the cluster keeps them and when the next one is due.

pub mod archive;
pub mod canary;
pub mod checks;
pub mod fork;
pub mod guard;
pub mod keeper;
pub mod lock;
pub mod page;
pub mod play;
pub mod report;
pub mod run;
pub mod scenario;
pub mod signed;
pub mod stage;
pub mod watch;

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::{Duration, Instant};

use saola_client::Client;
use saola_client::proto::{Role, StatusResponse};
use saola_storage::promotion::{ApproverKey, read_public_key};
use serde_json::json;

use crate::cli::{DrillArgs, DrillVerb, Global};
use crate::connect;
use crate::dr::about_plan;
use crate::exit::{Exit, Failure};
use crate::output::{Format, grouped, hex, print_json, print_line, table, tell};
use crate::run::BULK_TIMEOUT;
use crate::signals;
use crate::time::{iso, now_us};
use crate::verbs::cluster::confirmed;
use crate::verbs::view::cluster_view;
use archive::Due;
use checks::{Check, Verdict};
use fork::ForkOf;
use fork::settings::NodeSettings;
use report::{Earlier, Report};
use scenario::{Language, Level, Scenario};
use signed::{SignedReport, Verified, check_chain, not_shown, short_key, verify_file};
use stage::{Place, Stage, places};

/// A drill that is to be broken off has so long to clear up.
const ABORT_LIMIT: Duration = Duration::from_secs(420);
/// Nodes whose trouble is ended have so long to say so.
const CLEAR_LIMIT: Duration = Duration::from_secs(15);

/// Runs a verb.
///
/// # Errors
/// [`Failure`] with the exit code and the next step.
pub async fn drill(global: &Global, verb: DrillVerb, format: Format) -> Result<Exit, Failure> {
    let client = || connect::client(global, BULK_TIMEOUT);
    match verb {
        DrillVerb::List => list(format),
        DrillVerb::Plan { scenario, toml: true } => {
            let scenario = Scenario::find(&scenario)?;
            let text = toml::to_string_pretty(&scenario);
            print_line(text.map_err(|error| Failure::new(Exit::Other, error.to_string(), "report this"))?.trim_end())?;
            Ok(Exit::Done)
        }
        DrillVerb::Plan { scenario, toml: false } => plan(&client()?, &Scenario::find(&scenario)?, format).await,
        DrillVerb::Run(args) => hold(global, args, format).await,
        DrillVerb::Abort { confirm } => abort(&client()?, confirm).await,
        DrillVerb::Cleanup { confirm } => cleanup(&client()?, confirm).await,
        DrillVerb::Report { number, out } => {
            let text = archive::report(&client()?, number).await?;
            let refused = |why| {
                Failure::new(
                    Exit::Verification,
                    format!("report {number}: {why}"),
                    "`saola scrub status`, and keep the files of its day",
                )
            };
            let verified = SignedReport::verify(&text).map_err(refused)?;
            let files = write_files(&verified, &text, &out)?;
            print_report(&verified, &files, format)?;
            Ok(Exit::Done)
        }
        DrillVerb::History => history(&client()?, format).await,
        DrillVerb::Schedule { scenario, every, never } => {
            let client = client()?;
            if let Some(scenario) = scenario {
                set_schedule(&client, &Scenario::find(&scenario)?, every, never).await?;
            }
            schedule(&client, format).await
        }
        DrillVerb::Verify { files, signer } => verify(&files, &signer, format),
    }
}

fn list(format: Format) -> Result<Exit, Failure> {
    let ours = Scenario::ours();
    if format == Format::Json {
        print_json("drill-list", json!({ "drills": ours }))?;
        return Ok(Exit::Done);
    }
    let row = |it: &Scenario| {
        let rto =
            it.targets.as_ref().map_or_else(|| "–".to_owned(), |targets| format!("{} ms", grouped(targets.rto_ms)));
        vec![it.name.clone(), format!("{:?}", it.level), rto, it.title.en.clone()]
    };
    print_line(table(&["DRILL", "LEVEL", "TARGET", "WHAT"], &[2], ours.iter().map(row).collect()))?;
    eprintln!("next: `saola drill plan DRILL` says what it would do here");
    Ok(Exit::Done)
}

/// What a drill of a kind does to those who use the cluster.
fn effect(level: Level) -> &'static str {
    match level {
        Level::L0 => "none: it only looks",
        Level::L3 => "nothing: it works on a copy; the node that is copied reads its records once",
        Level::L4 => "one election, or a short wait",
        Level::L5 => "two short pauses of writing",
        Level::L6 => "an outage of writing, as long as a failover takes",
    }
}

async fn plan(client: &Client, scenario: &Scenario, format: Format) -> Result<Exit, Failure> {
    let status = cluster_view(client).await?;
    let stage = Stage::of(&status);
    let against: Vec<String> = match &stage {
        Err(why) => vec![why.clone()],
        Ok(stage) => match stage.bears(scenario) {
            Err(why) => vec![why],
            Ok(()) if !scenario.acts() => Vec::new(),
            Ok(()) => {
                let found = guard::against(client, &status, scenario, stage).await;
                found.into_iter().map(|it| format!("{} ({}); next: {}", it.what, it.code, it.next)).collect()
            }
        },
    };
    if format == Format::Json {
        print_json("drill-plan", json!({ "scenario": scenario, "against": against }))?;
    } else {
        print_line(format!("{} on {}: {}", scenario.name, status.cluster_name, scenario.title.en))?;
        print_line(&scenario.purpose.en)?;
        print_line(format!("who uses the cluster notices: {}", effect(scenario.level)))?;
        if let (Some(targets), Some(limits)) = (&scenario.targets, &scenario.limits) {
            print_line(format!(
                "target: writing is interrupted for at most {} ms, nothing is lost; broken off after {} ms without a write",
                grouped(targets.rto_ms),
                grouped(limits.outage_ms)
            ))?;
        }
        let here = stage.ok().and_then(|stage| scenario.clone().on(&stage).ok());
        for (number, step) in here.as_ref().unwrap_or(scenario).steps.iter().enumerate() {
            print_line(format!("  {}. {}", number + 1, step.describe(Language::En)))?;
        }
        for why in &against {
            print_line(format!("AGAINST IT: {why}"))?;
        }
    }
    if against.is_empty() {
        let on_copy = if scenario.forks() { " --fork-of /etc/saola/node.toml --fork-folder FOLDER" } else { "" };
        eprintln!("next: `saola drill run {} --by NAME --sign-with FILE{on_copy}`", scenario.name);
        return Ok(Exit::Done);
    }
    Ok(Exit::Critical)
}

async fn hold(global: &Global, args: DrillArgs, format: Format) -> Result<Exit, Failure> {
    let DrillArgs { scenario, by, sign_with, note, out, fork_of, fork_folder, confirm } = args;
    let scenario = Scenario::find(&scenario)?;
    let fork = fork_asked(global, &scenario, fork_of, fork_folder)?;
    let key = ApproverKey::read_file(&sign_with).map_err(about_plan)?;
    check_folder(&out)?;
    let client = connect::client(global, BULK_TIMEOUT)?;
    let mut asked_to_end = pin!(signals::asked_to_end(1)?);
    if scenario.acts() {
        let what = format!("hold drill {} ({})", scenario.name, effect(scenario.level));
        let asked = async { confirmed(&cluster_view(&client).await?, &what, confirm).await };
        tokio::select! {
            confirmed = asked => confirmed?,
            () = &mut asked_to_end => return Ok(Exit::Interrupted),
        }
    }
    let held = run::Held { by, notes: note, fork };
    let writer = |endpoints| connect::writer(global, endpoints, canary::WRITE_LIMIT, canary::ATTEMPT_LIMIT);
    // A terminal that is gone must not keep a drill from clearing up.
    let say = |at: Duration, what: &str| tell(&format!("{:>7.1} s  {what}", at.as_secs_f64()));
    let report = run::hold(&client, scenario, held, writer, asked_to_end, &say).await?;
    let place = |number, previous_sha256, earlier: Vec<Earlier>| {
        let same = |it: &Earlier| it.scenario == report.scenario.name;
        let earlier = earlier.into_iter().filter(same).take(archive::EARLIER).collect();
        Report { number, previous_sha256, earlier, ..report.clone() }
    };
    let stored = async {
        lock::make_collections(&client).await?;
        archive::append(&client, &key, place).await
    };
    let (text, kept) = match stored.await {
        Ok(signed) => (signed.to_text()?, Ok(())),
        // What was measured must not be lost with the cluster.
        Err(failure) => (SignedReport::sign(&report, &key)?.to_text()?, Err(failure)),
    };
    let verified = SignedReport::verify(&text).map_err(|why| Failure::new(Exit::Other, why, "report this"))?;
    let files = write_files(&verified, &text, &out)?;
    print_report(&verified, &files, format)?;
    kept?;
    Ok(if verified.report.verdict == Verdict::Passed { Exit::Done } else { Exit::Degraded })
}

/// The copy that a drill is held on, if it is held on one.
fn fork_asked(
    global: &Global,
    scenario: &Scenario,
    of: Option<PathBuf>,
    folder: Option<PathBuf>,
) -> Result<Option<ForkOf>, Failure> {
    match (scenario.forks(), of, folder) {
        (false, None, None) => Ok(None),
        (true, Some(of), Some(folder)) => {
            let client_at = |endpoints| connect::client_of(global, endpoints, BULK_TIMEOUT);
            Ok(Some(ForkOf::new(NodeSettings::read(&of)?, folder, client_at)?))
        }
        (true, _, _) => Err(Failure::usage(
            format!("drill {} is held on a copy of a data node", scenario.name),
            "run it where that node has its settings: --fork-of /etc/saola/node.toml --fork-folder FOLDER",
        )),
        (false, _, _) => Err(Failure::usage(
            format!("drill {} works on no copy", scenario.name),
            "leave --fork-of and --fork-folder out",
        )),
    }
}

/// Finds out before a drill whether its report can be written.
fn check_folder(out: &Path) -> Result<(), Failure> {
    let probe = tempfile::tempfile_in(out);
    probe.map(drop).map_err(|source| Failure::input(format!("write reports to {}", out.display()), &source))
}

fn write_files(verified: &Verified, text: &str, out: &Path) -> Result<[PathBuf; 2], Failure> {
    let Verified { report, sha256, public_key, .. } = verified;
    let name = match report.number {
        0 => format!("drill-{}", report.drill),
        number => format!("drill-{number:06}"),
    };
    let page = page::page(report, text, sha256, public_key);
    let files = [out.join(format!("{name}.json")), out.join(format!("{name}.html"))];
    for (path, content) in files.iter().zip([text, &page]) {
        fs::write(path, content).map_err(|source| Failure::file(format!("write {}", path.display()), &source))?;
    }
    Ok(files)
}

fn print_report(verified: &Verified, files: &[PathBuf], format: Format) -> Result<(), Failure> {
    let Verified { report, sha256, public_key, .. } = verified;
    if format == Format::Json {
        return print_json(
            "drill",
            json!({ "report": report, "sha256": sha256, "public_key": public_key, "files": files }),
        );
    }
    for Check { code, held, measured, target } in &report.checks {
        let mark = if *held { "ok    " } else { "FAILED" };
        let code = serde_json::to_value(code).ok().and_then(|it| it.as_str().map(str::to_owned)).unwrap_or_default();
        print_line(format!(
            "{mark}  {code}: {measured}{}",
            if target.is_empty() { String::new() } else { format!(" (asked: {target})") }
        ))?;
    }
    for found in &report.findings {
        print_line(format!("found   {}: {}; next: {}", found.code, found.what, found.next))?;
    }
    print_line(format!("drill {} {}: {}", report.number, report.scenario.name, report.verdict.as_str()))?;
    for file in files {
        print_line(file.display().to_string())?;
    }
    Ok(())
}

async fn abort(client: &Client, confirm: Option<String>) -> Result<Exit, Failure> {
    let held = lock::holder(client).await.map_err(|failure| {
        let next = "without a leader `saola drill cleanup` ends what a drill does to nodes";
        Failure::new(failure.exit(), failure.what(), next)
    })?;
    let Some(held) = held else {
        print_line("no drill runs")?;
        return Ok(Exit::Done);
    };
    let status = cluster_view(client).await?;
    confirmed(&status, &format!("break off: {}", lock::describe(&held)), confirm).await?;
    lock::release(client, &held).await?;
    eprintln!("told to end; waiting until it does nothing to any node any more");
    until_clear(client, &data_nodes(&status), ABORT_LIMIT).await
}

/// Also without a leader: then the lock stays, and what nodes do ends all the same, because they cannot read it.
async fn cleanup(client: &Client, confirm: Option<String>) -> Result<Exit, Failure> {
    let status = cluster_view(client).await?;
    let held = lock::holder(client).await;
    let what = match &held {
        Ok(Some(held)) => lock::describe(held),
        Ok(None) => "no drill holds the lock".to_owned(),
        Err(failure) => format!("the lock cannot be read: {}", failure.what()),
    };
    confirmed(&status, &format!("clear up ({what})"), confirm).await?;
    let nodes = data_nodes(&status);
    // The lock first: a drill that still runs must not begin anew.
    let released = match held {
        Ok(Some(held)) => lock::release(client, &held).await,
        Ok(None) => Ok(()),
        Err(failure) => Err(failure),
    };
    let silent = keeper::end_everywhere(&nodes, client).await?;
    if !silent.is_empty() {
        eprintln!("attention: no answer from {}; what is done there ends by itself", silent.join(", "));
    }
    let clear = until_clear(client, &nodes, CLEAR_LIMIT).await?;
    released.map(|()| clear)
}

fn data_nodes(status: &StatusResponse) -> Vec<Place> {
    places(status).into_iter().filter(|place| place.role != Role::Witness).collect()
}

/// Waits until no node is troubled any more, and says so.
async fn until_clear(client: &Client, nodes: &[Place], within: Duration) -> Result<Exit, Failure> {
    let eyes = watch::Eyes::new(nodes, client)?;
    let limit = Instant::now() + within;
    loop {
        let left = eyes.look().await.not_clear();
        if left.is_empty() {
            print_line(format!("no drill does anything to any of {} data nodes", nodes.len()))?;
            return Ok(Exit::Done);
        }
        if Instant::now() > limit {
            let next =
                "what is done to a node ends by itself within 4 s of its last word; `saola drill cleanup` asks again";
            return Err(Failure::new(Exit::Degraded, left.join("; "), next));
        }
        tokio::time::sleep(watch::LOOK_EVERY).await;
    }
}

/// Drills that were held, and when which is due.
pub struct Known {
    /// In the order of their numbers.
    pub held: Vec<Earlier>,
    /// Reports that are not to be believed: id and why.
    pub doubtful: Vec<(String, String)>,
    /// What is due when, the latest first.
    pub due: Vec<Due>,
}

/// All that the cluster knows of drills.
///
/// # Errors
/// It cannot be read.
pub async fn known(client: &Client) -> Result<Known, Failure> {
    let (mut held, mut doubtful) = (Vec::new(), Vec::new());
    for stored in archive::reports(client).await? {
        match stored {
            Ok(verified) => held.push(verified.report.in_short()),
            Err(doubt) => doubtful.push(doubt),
        }
    }
    let (schedule, _) = archive::schedule(client).await?;
    let due = archive::due(&schedule, &held, now_us());
    Ok(Known { held, doubtful, due })
}

async fn history(client: &Client, format: Format) -> Result<Exit, Failure> {
    let Known { held, doubtful, due } = known(client).await?;
    let overdue: Vec<&Due> = due.iter().filter(|it| it.is_due()).collect();
    if format == Format::Json {
        let doubts: Vec<_> = doubtful.iter().map(|(id, why)| json!({ "report": id, "why": why })).collect();
        let late: Vec<&str> = overdue.iter().map(|it| it.scenario.as_str()).collect();
        print_json("drill-history", json!({ "drills": held, "doubtful": doubts, "overdue": late }))?;
    } else if held.is_empty() {
        print_line("no drill was held yet")?;
    } else {
        let most = held.iter().filter_map(|it| it.rto_ms).max().unwrap_or(0).max(1);
        let row = |it: &Earlier| {
            let bar = it.rto_ms.map_or(String::new(), |rto_ms| "▇".repeat((1 + rto_ms * 19 / most) as usize));
            vec![
                it.number.to_string(),
                iso(it.began_us).chars().take(16).collect::<String>().replace('T', " "),
                it.scenario.clone(),
                it.verdict.as_str().to_owned(),
                it.lost.map_or("–".into(), grouped),
                it.rto_ms.map_or("–".into(), |ms| format!("{} ms", grouped(ms))),
                bar,
            ]
        };
        let heading = ["№", "WHEN (UTC)", "DRILL", "VERDICT", "LOST", "INTERRUPTION", ""];
        print_line(table(&heading, &[0, 4, 5], held.iter().map(row).collect()))?;
    }
    for (id, why) in &doubtful {
        eprintln!("attention: {id} is not to be believed: {why}");
    }
    for it in &overdue {
        eprintln!("OVERDUE: {it}");
    }
    Ok(match () {
        () if !doubtful.is_empty() => Exit::Verification,
        () if !overdue.is_empty() => Exit::Degraded,
        () => Exit::Done,
    })
}

async fn set_schedule(
    client: &Client,
    scenario: &Scenario,
    every: Option<Duration>,
    never: bool,
) -> Result<(), Failure> {
    lock::make_collections(client).await?;
    let (mut schedule, generation) = archive::schedule(client).await?;
    let days = every.map(|every| u32::try_from(every.as_secs().div_ceil(86_400)).unwrap_or(u32::MAX));
    match (days, never) {
        (Some(days), _) => schedule.every_days.insert(scenario.name.clone(), days),
        (None, true) => schedule.every_days.remove(&scenario.name),
        (None, false) => {
            let what = format!("drill {}: how often?", scenario.name);
            return Err(Failure::usage(what, "say --every 90d, or --never"));
        }
    };
    archive::set_schedule(client, &schedule, generation).await
}

async fn schedule(client: &Client, format: Format) -> Result<Exit, Failure> {
    let Known { due, .. } = known(client).await?;
    if format == Format::Json {
        let all = due.iter().map(|it| {
            json!({
                "drill": it.scenario, "every_days": it.every_days, "last_passed_us": it.last_passed_us,
                "late_days": it.late_days, "due": it.is_due(),
            })
        });
        print_json("drill-schedule", json!({ "drills": all.collect::<Vec<_>>() }))?;
    } else if due.is_empty() {
        print_line("no drill is scheduled")?;
        eprintln!("next: `saola drill schedule main-site-lost --every 180d`");
    } else {
        for it in &due {
            print_line(it.to_string())?;
        }
    }
    Ok(if due.iter().any(Due::is_due) { Exit::Degraded } else { Exit::Done })
}

fn verify(files: &[PathBuf], signers: &[PathBuf], format: Format) -> Result<Exit, Failure> {
    let verified = files.iter().map(|file| verify_file(file)).collect::<Result<Vec<Verified>, Failure>>()?;
    let known = signers.iter().map(|file| read_public_key(file).map(|key| hex(&key)).map_err(about_plan));
    let known = known.collect::<Result<Vec<String>, Failure>>()?;
    for (it, file) in verified.iter().zip(files) {
        if !known.is_empty() && !known.contains(&it.public_key) {
            let what =
                format!("{}: signed by {}…, which is none of those named", file.display(), short_key(&it.public_key));
            return Err(Failure::new(Exit::Verification, what, "ask whose key that is"));
        }
    }
    let gaps = not_shown(&verified);
    check_chain(&verified).map_err(|why| {
        Failure::new(Exit::Verification, why, "take the files from the cluster: `saola drill report NUMBER`")
    })?;
    if format == Format::Json {
        let all = verified.iter().map(|it| {
            json!({ "number": it.report.number, "sha256": it.sha256, "public_key": it.public_key, "verdict": it.report.verdict })
        });
        print_json("drill-verify", json!({ "reports": all.collect::<Vec<_>>(), "signer_checked": !known.is_empty() }))?;
    } else {
        for it in &verified {
            let Report { number, scenario, verdict, cluster, .. } = &it.report;
            print_line(format!(
                "report {number} of {}: {} {}, as it was signed by {}…",
                cluster.name,
                scenario.name,
                verdict.as_str(),
                short_key(&it.public_key)
            ))?;
        }
    }
    let other_pages: Vec<String> = (verified.iter().zip(files))
        .filter(|(it, _)| it.page_as_made == Some(false))
        .map(|(_, file)| file.display().to_string())
        .collect();
    if !other_pages.is_empty() {
        let what = format!(
            "{}: the report in it is as it was signed, but the page around it is not the one that this release makes of it",
            other_pages.join(", ")
        );
        let next = "believe the report, not the page: `saola drill verify -o json`, or have a page made by the release that held the drill";
        return Err(Failure::new(Exit::Degraded, what, next));
    }
    if !gaps.is_empty() {
        let gaps: Vec<String> = gaps.iter().map(u64::to_string).collect();
        let what =
            format!("reports are missing between these, so that the chain is not checked there: {}", gaps.join(", "));
        return Err(Failure::new(
            Exit::Degraded,
            what,
            "`saola drill report NUMBER` writes each that the cluster keeps",
        ));
    }
    if known.is_empty() {
        eprintln!("attention: whose key that is, nobody has checked; name it with --signer FILE.pub");
    }
    Ok(Exit::Done)
}

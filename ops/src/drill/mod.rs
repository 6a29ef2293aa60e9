//! `saola drill …`: rehearsals of bad days, on the real cluster, that write their own evidence.
//!
//! Reading order: [`scenario`] is what is planned, a TOML file, [`stage`] the cluster it is held on; [`run`] holds it: [`guard`] says whether it may begin, [`lock`]
//! lets one drill be held at a time, [`canary`] writes from both sites and remembers what it was told, [`keeper`] does
//! things to nodes, which end by themselves when it falls silent, [`fork`] makes the copy that a promotion is rehearsed on, [`play`] takes the steps, [`watch`] looks out for real
//! alarms. Then [`report`] is what was measured, [`checks`] the verdict that follows, [`signed`] its file, [`page`] what people
//! read, [`archive`] where the cluster keeps them and when the next one is due, [`evidence`] what is done with those that were written.

pub mod archive;
pub mod canary;
pub mod checks;
pub mod evidence;
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

use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use saola_client::Client;
use saola_client::proto::{Role, StatusResponse};
use saola_storage::promotion::ApproverKey;
use serde_json::json;

use crate::cli::{DrillArgs, DrillVerb, Global};
use crate::connect;
use crate::dr::about_plan;
use crate::exit::{Exit, Failure};
use crate::output::{Format, grouped, print_json, print_line, table, tell};
use crate::run::BULK_TIMEOUT;
use crate::signals;
use crate::verbs::cluster::confirmed;
use crate::verbs::view::cluster_view;
use checks::Verdict;
use fork::ForkOf;
use fork::settings::NodeSettings;
use scenario::{Language, Level, Scenario};
use signed::SignedReport;
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
        DrillVerb::Report { number, out } => evidence::report(&client()?, number, &out, format).await,
        DrillVerb::Store { file, sign_with, out } => evidence::store(&client()?, &file, &sign_with, &out, format).await,
        DrillVerb::History { signer } => evidence::history(&client()?, &signer, format).await,
        DrillVerb::Schedule { scenario, every, never } => {
            let client = client()?;
            if let Some(scenario) = scenario {
                evidence::set_schedule(&client, &Scenario::find(&scenario)?, every, never).await?;
            }
            evidence::schedule(&client, format).await
        }
        DrillVerb::Verify { files, signer } => evidence::verify(&files, &signer, format),
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
    evidence::check_folder(&out)?;
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
    let (text, kept) = match evidence::keep(&client, &report, &key).await {
        Ok(signed) => (signed.to_text()?, Ok(())),
        // What was measured must not be lost with the cluster.
        Err(failure) => {
            let next = "once it can be: `saola drill store FILE --sign-with FILE` with the JSON file";
            (SignedReport::sign(&report, &key)?.to_text()?, Err(Failure::new(failure.exit(), failure.what(), next)))
        }
    };
    let verified = SignedReport::verify(&text).map_err(|why| Failure::new(Exit::Other, why, "report this"))?;
    let files = evidence::write_files(&verified, &text, &out)?;
    evidence::print_report(&verified, &files, format)?;
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

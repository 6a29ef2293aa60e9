//! Reports that were written: kept by the cluster, as files, listed, and checked.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use saola_client::Client;
use saola_storage::promotion::{ApproverKey, read_public_key};
use serde_json::json;

use super::archive::{self, Due};
use super::checks::Check;
use super::report::{Earlier, Report};
use super::scenario::Scenario;
use super::signed::{SignedReport, Verified, check_chain, not_shown, short_key, verify_file};
use super::{lock, page};
use crate::dr::about_plan;
use crate::exit::{Exit, Failure};
use crate::output::{Format, grouped, hex, print_json, print_line, table};
use crate::time::{iso, now_us};
use crate::verbs::view::cluster_view;

/// Stores a report in the cluster, in its place behind all others.
///
/// # Errors
/// It cannot be stored.
pub async fn keep(client: &Client, report: &Report, key: &ApproverKey) -> Result<SignedReport, Failure> {
    let place = |number, previous_sha256, earlier: Vec<Earlier>| {
        let same = |it: &Earlier| it.scenario == report.scenario.name;
        let earlier = earlier.into_iter().filter(same).take(archive::EARLIER).collect();
        Report { number, previous_sha256, earlier, ..report.clone() }
    };
    lock::make_collections(client).await?;
    archive::append(client, key, place).await
}

/// Stores the report of a drill whose cluster could not take it then.
///
/// # Errors
/// It is stored already, is of another cluster, or was signed with another key.
pub async fn store(
    client: &Client,
    file: &Path,
    sign_with: &Path,
    out: &Path,
    format: Format,
) -> Result<Exit, Failure> {
    let Verified { report, public_key, .. } = verify_file(file)?;
    let key = ApproverKey::read_file(sign_with).map_err(about_plan)?;
    check_folder(out)?;
    let refused =
        |why: String, next: &str| Failure::new(Exit::Precondition, format!("store {}: {why}", file.display()), next);
    if report.number > 0 {
        let why = format!("it is report {} already", report.number);
        return Err(refused(why, "`saola drill history` lists those that the cluster keeps"));
    }
    if hex(&key.public()) != public_key {
        let why = format!("it was signed by {}…, and this is another key", short_key(&public_key));
        return Err(refused(why, "it is signed anew with its number: by whoever signed it first"));
    }
    let status = cluster_view(client).await?;
    if hex(&status.cluster_id) != report.cluster.id {
        let why = format!("it is of cluster {} ({})", report.cluster.name, report.cluster.id);
        return Err(refused(why, "name a node of that one with --endpoint"));
    }
    for stored in archive::reports(client).await?.into_iter().flatten() {
        if stored.report.drill == report.drill {
            let why = format!("drill {} is kept as report {}", report.drill, stored.report.number);
            return Err(refused(why, "nothing is left to do"));
        }
    }
    let text = keep(client, &report, &key).await?.to_text()?;
    let verified = SignedReport::verify(&text).map_err(|why| Failure::new(Exit::Other, why, "report this"))?;
    let files = write_files(&verified, &text, out)?;
    print_report(&verified, &files, format)?;
    Ok(Exit::Done)
}

/// Writes the files of a report that the cluster keeps.
///
/// # Errors
/// There is none of that number, or it is not to be believed.
pub async fn report(client: &Client, number: u64, out: &Path, format: Format) -> Result<Exit, Failure> {
    let text = archive::report(client, number).await?;
    let verified = SignedReport::verify(&text).map_err(|why| {
        let what = format!("report {number}: {why}");
        Failure::new(Exit::Verification, what, "`saola scrub status`, and keep the files of its day")
    })?;
    let files = write_files(&verified, &text, out)?;
    print_report(&verified, &files, format)?;
    Ok(Exit::Done)
}

fn public_keys(files: &[PathBuf]) -> Result<Vec<String>, Failure> {
    files.iter().map(|file| read_public_key(file).map(|key| hex(&key)).map_err(about_plan)).collect()
}

/// Finds out before a drill whether its report can be written.
///
/// # Errors
/// It cannot.
pub fn check_folder(out: &Path) -> Result<(), Failure> {
    let probe = tempfile::tempfile_in(out);
    probe.map(drop).map_err(|source| Failure::input(format!("write reports to {}", out.display()), &source))
}

/// Writes a report as JSON and as a page.
///
/// # Errors
/// They cannot be written.
pub fn write_files(verified: &Verified, text: &str, out: &Path) -> Result<[PathBuf; 2], Failure> {
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

/// Shows what came of a drill.
///
/// # Errors
/// Standard output is gone.
pub fn print_report(verified: &Verified, files: &[PathBuf], format: Format) -> Result<(), Failure> {
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

/// Drills that were held, and when which is due.
pub struct Known {
    /// In the order of their numbers.
    pub held: Vec<Earlier>,
    /// Reports that are not to be believed: id and why.
    pub doubtful: Vec<(String, String)>,
    /// What is due when, the latest first.
    pub due: Vec<Due>,
}

/// All that the cluster knows of drills. `signers`: public keys of whoever must have signed the reports; none: whoever has.
///
/// # Errors
/// It cannot be read.
pub async fn known(client: &Client, signers: &[String]) -> Result<Known, Failure> {
    let (mut held, mut doubtful) = (Vec::new(), Vec::new());
    for stored in archive::reports(client).await? {
        match stored {
            Ok(it) if !signers.is_empty() && !signers.contains(&it.public_key) => doubtful.push((
                format!("report {}", it.report.number),
                format!("it is signed by {}…, which is none of those named", short_key(&it.public_key)),
            )),
            Ok(verified) => held.push(verified.report.in_short()),
            Err(doubt) => doubtful.push(doubt),
        }
    }
    let (schedule, _) = archive::schedule(client).await?;
    let due = archive::due(&schedule, &held, now_us());
    Ok(Known { held, doubtful, due })
}

/// Shows all drills that were held; with `signers`, doubts reports that none of them has signed.
///
/// # Errors
/// They cannot be read.
pub async fn history(client: &Client, signers: &[PathBuf], format: Format) -> Result<Exit, Failure> {
    let signers = public_keys(signers)?;
    let Known { held, doubtful, due } = known(client, &signers).await?;
    let overdue: Vec<&Due> = due.iter().filter(|it| it.is_due()).collect();
    if format == Format::Json {
        let doubts: Vec<_> = doubtful.iter().map(|(id, why)| json!({ "report": id, "why": why })).collect();
        let late: Vec<&str> = overdue.iter().map(|it| it.scenario.as_str()).collect();
        print_json("drill-history", json!({ "drills": held, "doubtful": doubts, "overdue": late }))?;
    } else if held.is_empty() && doubtful.is_empty() {
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

/// Says how often a drill is to be held.
///
/// # Errors
/// Neither a span nor never, or it cannot be written.
pub async fn set_schedule(
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

/// Shows when which drill is due.
///
/// # Errors
/// It cannot be read.
pub async fn schedule(client: &Client, format: Format) -> Result<Exit, Failure> {
    let Known { due, .. } = known(client, &[]).await?;
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

/// Checks files of reports without any node.
///
/// # Errors
/// One that is not to be believed, or a gap between them.
pub fn verify(files: &[PathBuf], signers: &[PathBuf], format: Format) -> Result<Exit, Failure> {
    let verified = files.iter().map(|file| verify_file(file)).collect::<Result<Vec<Verified>, Failure>>()?;
    let known = public_keys(signers)?;
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

//! `saola import`: applies puts and deletes from lines of JSON.
//!
//! Many lines are under way at a time, those of one record in their order. How far the import has come stands beside
//! the file, so that `--resume` goes on where an earlier run stopped. Modules: [`mod@line`] reads one line, [`source`]
//! reads lines and hashes them, [`checkpoint`] is the file beside, [`apply`] keeps the lines under way.

pub mod apply;
pub mod checkpoint;
pub mod line;
pub mod source;

use std::path::Path;

use saola_client::{Client, Error, Provenance, Reason};
use serde_json::json;

use crate::cli::ImportArgs;
use crate::exit::{Exit, Failure};
use crate::output::{Format, grouped, hex, print_json, print_line};
use crate::progress::{Progress, rate};
use crate::signals;
use crate::time::iso;
use crate::verbs::view::cluster_view;
use apply::{Outcome, Plan, Report};
use checkpoint::{Checkpoint, CheckpointFile};
use line::{Change, Line};
use source::Source;

/// Runs the verb.
///
/// # Errors
/// A wrong line, a failed write, or a file that cannot be read; the message says what is applied and how to go on.
pub async fn run(client: &Client, args: ImportArgs, format: Format) -> Result<Exit, Failure> {
    let report = import(client, &args).await?;
    match format {
        Format::Json => print_json(
            "import",
            json!({
                "file": args.file.display().to_string(), "lines": report.lines, "puts": report.puts, "deletes": report.deletes,
                "deletes_of_nothing": report.not_live, "already_there": report.already_there,
                "seconds": report.elapsed.as_secs_f64(), "revision": report.revision,
                "recorded_at": report.revision.map(|_| iso(report.recorded_at_us)),
            }),
        )?,
        Format::Table => print_line(format!("imported {}: {}", short_name(&args.file), summary(&report)))?,
    }
    Ok(Exit::Done)
}

/// What an import did, in one line.
pub fn summary(report: &Report) -> String {
    let mut text = format!("{} puts, {} deletes", grouped(report.puts), grouped(report.deletes));
    if report.already_there > 0 {
        text += &format!(", {} were there already", grouped(report.already_there));
    }
    if report.not_live > 0 {
        text += &format!(", {} deletes of records that are not live", grouped(report.not_live));
    }
    let lines = report.puts + report.deletes + report.already_there + report.not_live;
    text += &format!(" in {:.1} s, {} a second", report.elapsed.as_secs_f64(), grouped(rate(lines, report.elapsed)));
    match report.revision {
        Some(revision) => format!("{text}; revision {revision}, recorded at {}", iso(report.recorded_at_us)),
        None => text,
    }
}

/// Imports a file or standard input.
///
/// # Errors
/// As [`run`].
pub async fn import(client: &Client, args: &ImportArgs) -> Result<Report, Failure> {
    let mut source = Source::open(&args.file).await?;
    if args.resume && source.file().is_none() {
        return Err(Failure::usage("import: standard input cannot be resumed", "import from a file"));
    }
    let cluster_id = hex(&cluster_view(client).await?.cluster_id);
    let checkpoint = source.file().map(CheckpointFile::of);
    let resumed = match &checkpoint {
        Some(file) => earlier_run(file, args, &cluster_id)?,
        None => None,
    };
    if let Some(earlier) = &resumed {
        skip_done(&mut source, earlier).await?;
        eprintln!("{}: going on with line {}", source.name(), earlier.lines_done + 1);
    }
    let mut progress = Progress::start(&short_name(&args.file), source.count_lines()?);
    let plan = Plan {
        concurrency: usize::from(args.concurrency),
        default_collection: args.collection.clone(),
        cluster_id,
        checkpoint,
        resumed,
        interrupted: signals::noted()?,
    };
    let provenance = args.provenance.to_provenance();
    let apply = |line, maybe_applied| apply_line(client, provenance.clone(), line, maybe_applied);
    apply::apply_lines(&mut source, plan, &mut progress, apply).await
}

fn short_name(file: &Path) -> String {
    let name = file.file_name().filter(|name| *name != "-");
    name.map_or("standard input".into(), |name| name.to_string_lossy().into_owned())
}

/// The checkpoint to go on from, if that is what was asked for.
fn earlier_run(file: &CheckpointFile, args: &ImportArgs, cluster_id: &str) -> Result<Option<Checkpoint>, Failure> {
    let name = args.file.display();
    match (file.read()?, args.resume) {
        (None, false) => Ok(None),
        (None, true) => Err(Failure::new(
            Exit::Precondition,
            format!(
                "resume import of {name}: there is no {}, so no earlier run began, or one was completed",
                file.path().display()
            ),
            format!("look whether its records are there; if not, run: saola import {name}"),
        )),
        (Some(earlier), false) => Err(Failure::new(
            Exit::Precondition,
            format!("import {name}: an earlier run stopped at line {}", earlier.lines_done + 1),
            format!("run: saola import --resume {name} (or remove {} to begin anew)", file.path().display()),
        )),
        (Some(earlier), true) if earlier.cluster_id != cluster_id => Err(Failure::new(
            Exit::Precondition,
            format!(
                "resume import of {name}: it was going to cluster {}, and this is {cluster_id}",
                earlier.cluster_id
            ),
            format!("check --endpoint, or remove {} to import everything here", file.path().display()),
        )),
        (Some(earlier), true) => Ok(Some(earlier)),
    }
}

/// Reads over the lines that are done and checks that they are still the same.
async fn skip_done(source: &mut Source, earlier: &Checkpoint) -> Result<(), Failure> {
    let mut hash = None;
    for _ in 0..earlier.lines_done {
        match source.next().await? {
            Some(line) => hash = Some(hex(&line.prefix_sha256)),
            None => break,
        }
    }
    if earlier.lines_done == 0 || hash.as_ref() == Some(&earlier.prefix_sha256) {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Precondition,
        format!(
            "resume import of {}: lines 1 to {} are not those that were applied",
            source.name(),
            earlier.lines_done
        ),
        "restore these lines, or put the lines that are not applied yet into a file of their own and import that",
    ))
}

async fn apply_line(client: &Client, from: Provenance, line: Line, maybe_applied: bool) -> Result<Outcome, Failure> {
    let Line { collection, id, change } = line;
    let written = match change {
        Change::Put { value, content_type } => {
            if maybe_applied {
                let there = client.get(&collection, id.clone()).send().await?.value;
                if there.is_some_and(|it| !it.is_deleted() && it.value == value && it.content_type == content_type) {
                    return Ok(Outcome::AlreadyThere);
                }
            }
            let written = client.put(&collection, id, value).content_type(content_type).provenance(from).send().await?;
            Outcome::Put { revision: written.revision, recorded_at_us: written.recorded_at_us }
        }
        Change::Delete => match client.delete(&collection, id).provenance(from).send().await {
            Ok(written) => Outcome::Deleted { revision: written.revision, recorded_at_us: written.recorded_at_us },
            Err(Error::NotFound(details)) if details.reason == Reason::NotFound.as_str() => Outcome::NotLive,
            Err(error) => return Err(error.into()),
        },
    };
    Ok(written)
}

//! The lines under way: many at a time, those of one record in their order, and how far they are done without a gap.

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};

use super::checkpoint::{Checkpoint, CheckpointFile};
use super::line::{self, Line};
use super::source::Source;
use crate::exit::{Exit, Failure};
use crate::output::hex;
use crate::progress::Progress;

/// A checkpoint is written each time so many more lines are done.
const CHECKPOINT_EVERY: u64 = 1024;
/// No line further than this beyond the checkpoint is begun, so that a resumed run has few lines to look up.
const WINDOW: u64 = 4096;
/// So many deletes of nothing are named, the others only counted.
const WARNINGS: u64 = 10;

/// How to import.
pub struct Plan {
    /// Writes under way at a time, at least 1.
    pub concurrency: usize,
    /// Collection of lines that name none.
    pub default_collection: Option<String>,
    /// The cluster, hexadecimal.
    pub cluster_id: String,
    /// Where to keep how far it has come; none for standard input.
    pub checkpoint: Option<CheckpointFile>,
    /// The earlier run to go on from; its lines are read over already.
    pub resumed: Option<Checkpoint>,
    /// Becomes true when no more lines shall be begun.
    pub interrupted: Arc<AtomicBool>,
}

/// What came of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A version was written.
    Put {
        /// Its revision.
        revision: u64,
        /// Its time on the replicated clock.
        recorded_at_us: u64,
    },
    /// The record was deleted.
    Deleted {
        /// The deletion's revision.
        revision: u64,
        /// Its time on the replicated clock.
        recorded_at_us: u64,
    },
    /// An earlier run had applied the line.
    AlreadyThere,
    /// A delete of a record that is not live.
    NotLive,
}

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Lines of the source.
    pub lines: u64,
    /// Versions written.
    pub puts: u64,
    /// Records deleted.
    pub deletes: u64,
    /// Deletes of records that were not live.
    pub not_live: u64,
    /// Lines that an earlier run had applied although its checkpoint did not say so.
    pub already_there: u64,
    /// Highest revision written; none if nothing was.
    pub revision: Option<u64>,
    /// Time of that revision on the replicated clock.
    pub recorded_at_us: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl Report {
    fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Put { revision, recorded_at_us } => {
                self.puts += 1;
                self.reached(revision, recorded_at_us);
            }
            Outcome::Deleted { revision, recorded_at_us } => {
                self.deletes += 1;
                self.reached(revision, recorded_at_us);
            }
            Outcome::AlreadyThere => self.already_there += 1,
            Outcome::NotLive => self.not_live += 1,
        }
    }

    fn reached(&mut self, revision: u64, recorded_at_us: u64) {
        self.revision = self.revision.max(Some(revision));
        self.recorded_at_us = self.recorded_at_us.max(recorded_at_us);
    }
}

/// Applies the rest of `source`. `apply` writes one line; its second argument says that an earlier run may have
/// applied the line already.
///
/// # Errors
/// The first line that cannot be applied, in the order of the source; everything under way is settled first.
pub async fn apply_lines<F, Fut>(
    source: &mut Source,
    plan: Plan,
    progress: &mut Progress,
    apply: F,
) -> Result<Report, Failure>
where
    F: Fn(Line, bool) -> Fut,
    Fut: Future<Output = Result<Outcome, Failure>> + Send,
{
    let (name, file) = (source.name().to_owned(), source.file().is_some());
    let mut work = Work::new(&plan, &name, progress)?;
    let stopped = work.feed(source, &apply).await;
    while work.under_way() {
        work.settle_one().await?;
    }
    work.end(stopped, file)
}

/// Identifies a record.
type Key = (String, String);
/// A line's number, its record, and what came of it.
type Settled = (u64, Key, Result<Outcome, Failure>);

struct UnderWay {
    number: u64,
    prefix_sha256: [u8; 32],
    done: bool,
}

struct Work<'a> {
    plan: &'a Plan,
    name: &'a str,
    progress: &'a mut Progress,
    calls: FuturesUnordered<BoxFuture<'a, Settled>>,
    busy: HashSet<Key>,
    /// Begun lines after the last one done without a gap, oldest first.
    window: VecDeque<UnderWay>,
    lines_done: u64,
    prefix_sha256: String,
    saved: u64,
    failed: Option<(u64, Failure)>,
    report: Report,
}

impl<'a> Work<'a> {
    fn new(plan: &'a Plan, name: &'a str, progress: &'a mut Progress) -> Result<Work<'a>, Failure> {
        let (lines_done, prefix_sha256) = plan
            .resumed
            .as_ref()
            .map_or((0, String::new()), |earlier| (earlier.lines_done, earlier.prefix_sha256.clone()));
        let mut work = Work {
            plan,
            name,
            progress,
            calls: FuturesUnordered::new(),
            busy: HashSet::new(),
            window: VecDeque::new(),
            lines_done,
            prefix_sha256,
            saved: lines_done,
            failed: None,
            report: Report { lines: lines_done, ..Report::default() },
        };
        work.save(lines_done + WINDOW)?;
        Ok(work)
    }

    fn under_way(&self) -> bool {
        !self.calls.is_empty()
    }

    /// Begins lines until the source ends or something fails. A line that cannot be read is returned.
    async fn feed<F, Fut>(&mut self, source: &mut Source, apply: &'a F) -> Result<(), Failure>
    where
        F: Fn(Line, bool) -> Fut,
        Fut: Future<Output = Result<Outcome, Failure>> + Send + 'a,
    {
        while let Some(raw) = source.next().await? {
            if self.plan.interrupted.load(Ordering::Relaxed) {
                return Err(Failure::new(
                    Exit::Interrupted,
                    format!("import {}: interrupted", self.name),
                    "when ready",
                ));
            }
            self.report.lines = raw.number;
            while self.failed.is_none() && self.under_way() && raw.number > self.saved + WINDOW {
                self.settle_one().await?;
            }
            let blank = raw.text.iter().all(u8::is_ascii_whitespace);
            let begun = UnderWay { number: raw.number, prefix_sha256: raw.prefix_sha256, done: blank };
            if blank {
                self.window.push_back(begun);
                self.advance()?;
                continue;
            }
            let line = match line::parse(&raw.text, self.plan.default_collection.as_deref()) {
                Ok(line) => line,
                Err(error) => {
                    let next = format!("correct line {} of {}", raw.number, self.name);
                    return Err(Failure::usage(format!("{}:{}: {error}", self.name, raw.number), next));
                }
            };
            let key = (line.collection.clone(), line.id.clone());
            while self.failed.is_none() && (self.calls.len() >= self.plan.concurrency || self.busy.contains(&key)) {
                self.settle_one().await?;
            }
            if self.failed.is_some() {
                return Ok(());
            }
            self.window.push_back(begun);
            self.busy.insert(key.clone());
            let maybe_applied = self.plan.resumed.as_ref().is_some_and(|earlier| raw.number <= earlier.maybe_to);
            let call = apply(line, maybe_applied);
            self.calls.push(async move { (raw.number, key, call.await) }.boxed());
        }
        Ok(())
    }

    /// Waits for one call to end.
    async fn settle_one(&mut self) -> Result<(), Failure> {
        let Some((number, key, result)) = self.calls.next().await else { return Ok(()) };
        match result {
            Ok(outcome) => {
                if outcome == Outcome::NotLive && self.report.not_live < WARNINGS {
                    let warning =
                        format!("warning: {}:{number}: delete {}/{}: the record is not live", self.name, key.0, key.1);
                    self.progress.say(&warning);
                }
                self.report.count(outcome);
                // Lines stand in the window without a gap.
                let first = self.window.front().map_or(number, |line| line.number);
                let place = usize::try_from(number - first).unwrap_or(usize::MAX);
                if let Some(line) = self.window.get_mut(place) {
                    line.done = true;
                }
            }
            Err(failure) => {
                let doing = format!("{}:{number}: {}/{}", self.name, key.0, key.1);
                let failure = failure.while_doing(doing);
                if self.failed.as_ref().is_none_or(|(earlier, _)| number < *earlier) {
                    self.failed = Some((number, failure));
                }
            }
        }
        self.busy.remove(&key);
        self.advance()
    }

    /// Moves the end of what is done without a gap.
    fn advance(&mut self) -> Result<(), Failure> {
        while self.window.front().is_some_and(|line| line.done) {
            if let Some(line) = self.window.pop_front() {
                self.lines_done = line.number;
                self.prefix_sha256 = hex(&line.prefix_sha256);
            }
        }
        self.progress.set(self.lines_done);
        if self.lines_done >= self.saved + CHECKPOINT_EVERY {
            self.save(self.lines_done + WINDOW)?;
        }
        Ok(())
    }

    fn save(&mut self, maybe_to: u64) -> Result<(), Failure> {
        // What an earlier run may have applied stays so until it is done.
        let maybe_to = maybe_to.max(self.plan.resumed.as_ref().map_or(0, |earlier| earlier.maybe_to));
        if let Some(file) = &self.plan.checkpoint {
            let cluster_id = self.plan.cluster_id.clone();
            file.write(&Checkpoint::new(cluster_id, self.lines_done, self.prefix_sha256.clone(), maybe_to))?;
        }
        self.saved = self.lines_done;
        Ok(())
    }

    fn end(mut self, stopped: Result<(), Failure>, file: bool) -> Result<Report, Failure> {
        self.report.elapsed = self.progress.finish();
        let failure = match (self.failed.take(), stopped) {
            (Some((_, failure)), _) | (None, Err(failure)) => failure,
            (None, Ok(())) => {
                if let Some(file) = &self.plan.checkpoint {
                    file.remove()?;
                }
                return Ok(self.report);
            }
        };
        let beyond = self.window.iter().filter(|line| line.done).count();
        let nothing_begun = self.lines_done == 0 && self.window.is_empty();
        match &self.plan.checkpoint {
            Some(file) if nothing_begun => file.remove()?,
            _ => self.save(self.window.back().map_or(self.lines_done, |line| line.number))?,
        }
        let applied = match (self.lines_done, beyond) {
            (0, 0) => "no line is applied".to_owned(),
            (0, _) => format!("line 1 is not applied, {beyond} of the lines after it, which were under way, are"),
            (done, 0) => format!("{} applied, nothing after", first_lines(done)),
            (done, _) => {
                format!("{} applied, and {beyond} of the lines after that, which were under way", first_lines(done))
            }
        };
        let what = format!("{}; {applied}", failure.what());
        let next = match file {
            true => {
                let collection = self.plan.default_collection.as_ref();
                let collection = collection.map(|name| format!("--collection {name} ")).unwrap_or_default();
                let resume = if nothing_begun { "" } else { "--resume " };
                format!("{}; then run: saola import {resume}{collection}{}", failure.next(), self.name)
            }
            false => format!("{}; then import the lines from {} on", failure.next(), self.lines_done + 1),
        };
        Err(Failure::new(failure.exit(), what, next))
    }
}

fn first_lines(done: u64) -> String {
    match done {
        1 => "line 1 is".to_owned(),
        _ => format!("lines 1 to {done} are"),
    }
}

//! `saola offline records …`.

use std::path::Path;

use saola_client::{At as Point, Op, Provenance, Version};
use saola_storage::engine::rocks;
use saola_storage::folder::StoppedFolder;
use saola_storage::seal::envelope_dek_id;
use saola_storage::store::{At, Collection, StoredVersion, VersionOp, View};
use saola_storage::types::LogId;
use serde_json::{Map, Value, json};

use super::values::Values;
use crate::cli::{FolderArgs, OfflineGetArgs, OfflineHistoryArgs, OfflineListArgs};
use crate::exit::{Exit, Failure};
use crate::output::{Format, grouped, hex, print_bytes, print_json, print_line};
use crate::progress::Progress;
use crate::{show, time};

/// A stopped node's records, and the place of the log to which they go.
struct Records {
    view: View,
    flushed: Option<LogId>,
    /// Last entry of the log; none if the log cannot be read.
    log_last: Option<u64>,
    /// Held while the records are read.
    _folder: StoppedFolder,
}

impl Records {
    fn open(folder: &Path) -> Result<Records, Failure> {
        let folder = super::open(folder)?;
        let view = View::over(rocks::read_only(&folder.databases())?)?;
        let log_last = super::log::last_index(&folder);
        Ok(Records { flushed: view.applied().log_id, view, log_last, _folder: folder })
    }

    fn collection(&self, name: &str) -> Result<Collection, Failure> {
        self.view.collection(name).ok_or_else(|| {
            Failure::new(
                Exit::Precondition,
                format!("there is no collection {name:?} in this folder"),
                "list them with `saola offline records list`",
            )
        })
    }

    /// The revision that a point of a read stands for.
    fn revision(&self, at: Option<Point>) -> Result<u64, Failure> {
        Ok(match at {
            Some(Point::Revision(revision)) if revision > self.view.applied().revision => {
                return Err(self.beyond(format!("revision {revision}")));
            }
            Some(Point::TimeUs(time_us)) if time_us > self.view.applied().clock_us => {
                return Err(self.beyond(time::iso(time_us)));
            }
            Some(Point::Revision(revision)) => revision,
            Some(Point::TimeUs(time_us)) => self.view.revision_at_time(time_us)?,
            _ => self.view.applied().revision,
        })
    }

    /// What was newest at the flush need not have been newest later.
    fn beyond(&self, asked: String) -> Failure {
        let applied = self.view.applied();
        let until = format!("revision {} of {}", applied.revision, time::iso(applied.clock_us));
        Failure::new(
            Exit::Precondition,
            format!("read as of {asked}: the flushed state ends at {until}"),
            "leave the point out for the newest flushed versions; see `saola offline log dump` for what came later",
        )
    }

    /// Why the node itself served this copy, or a part of it, no more.
    fn held_back(&self) -> Option<String> {
        self.view.held().map(|held| match held.whole {
            true => format!("the node served nothing of this copy any more: {}", held.why),
            false => format!("the node did not serve {} of 4096 parts of this copy: {}", held.buckets.len(), held.why),
        })
    }

    /// Fields that every JSON answer begins with.
    fn header(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        fields.insert("revision".into(), json!(self.view.applied().revision));
        fields.insert("flushed_index".into(), json!(self.flushed.map(|id| id.index)));
        fields.insert("log_last_index".into(), json!(self.log_last));
        fields.insert("held_back".into(), json!(self.held_back()));
        fields
    }

    /// Says on standard error of which moment this is.
    fn say_how_far(&self) {
        eprintln!("{}", how_far(self.flushed.map(|id| id.index), self.log_last));
        if let Some(held_back) = self.held_back() {
            eprintln!("{held_back}");
        }
    }
}

fn how_far(flushed: Option<u64>, log_last: Option<u64>) -> String {
    let state =
        flushed.map_or("nothing has been flushed".into(), |index| format!("state as flushed at log index {index}"));
    match (flushed, log_last) {
        (_, None) => format!("{state}; how far the log goes is not known: see `saola offline log verify`"),
        (Some(flushed), Some(last)) if last <= flushed => format!("{state}, where the log ends"),
        (_, Some(last)) => format!(
            "{state}; the log goes to {last}: entries between are only in the log (`saola offline log dump --from {}`)",
            flushed.map_or(0, |index| index + 1)
        ),
    }
}

/// Reads one version of a record.
pub(super) fn get(args: &OfflineGetArgs, format: Format) -> Result<Exit, Failure> {
    let records = Records::open(&args.folder.data_dir)?;
    let collection = records.collection(&args.collection)?;
    let name = format!("get {}/{}", args.collection, args.id);
    let at = match args.to_at() {
        Some(Point::Generation(generation)) => At::Generation(generation),
        other => At::Revision(records.revision(other)?),
    };
    let found = records.view.get(&collection, args.id.as_bytes(), at)?;
    let history = "see `saola offline records history`";
    let Some(stored) = found else {
        return Err(Failure::new(
            Exit::Precondition,
            format!("{name}: it has no such version in this folder"),
            history,
        ));
    };
    if stored.op == VersionOp::Delete {
        let when = time::iso(stored.recorded_at_us);
        let what = format!("{name}: generation {} deleted it at {when}", stored.generation);
        return Err(Failure::new(Exit::Precondition, what, history));
    }
    let values = args.kek.as_deref().map(|kek| Values::new(kek, &records.view)).transpose()?;
    let version = shown(&collection, &stored, values.as_ref())?;
    match format {
        _ if args.raw => print_bytes(&version.value)?,
        Format::Json => {
            let mut body = records.header();
            body.insert("record".into(), details(&version, &stored, values.is_some()));
            print_json("offline-get", body)?;
        }
        Format::Table => {
            print_line(format!("{}/{}  {}", version.collection, show::id(&version.id), show::line(&version)))?;
            print_line(sealed_line(&stored))?;
            if values.is_some() {
                print_line(show::value_text(&version))?;
            }
        }
    }
    records.say_how_far();
    Ok(Exit::Done)
}

/// Shows all versions of a record that are kept.
pub(super) fn history(args: &OfflineHistoryArgs, format: Format) -> Result<Exit, Failure> {
    let records = Records::open(&args.folder.data_dir)?;
    let collection = records.collection(&args.collection)?;
    let values = args.kek.as_deref().map(|kek| Values::new(kek, &records.view)).transpose()?;
    let mut listed = Vec::new();
    let mut any = false;
    for stored in records.view.history(&collection, args.id.as_bytes(), u64::MAX, args.newest_first) {
        any = true;
        let stored = stored?;
        let version = shown(&collection, &stored, values.as_ref())?;
        match format {
            Format::Json => listed.push(details(&version, &stored, values.is_some())),
            Format::Table => {
                print_line(show::line(&version))?;
                print_line(format!("    {}", sealed_line(&stored)))?;
                if values.is_some() && !version.is_deleted() {
                    print_line(format!("    {}", show::value_text(&version)))?;
                }
            }
        }
    }
    if !any {
        return Err(Failure::new(
            Exit::Precondition,
            format!("history of {}/{}: this folder has no version of it", args.collection, args.id),
            "list what is there with `saola offline records list`",
        ));
    }
    if format == Format::Json {
        let mut body = records.header();
        body.insert("versions".into(), json!(listed));
        print_json("offline-history", body)?;
    }
    records.say_how_far();
    Ok(Exit::Done)
}

/// Records asked of the database at a time.
const PAGE: usize = 1000;

/// Lists live records of a collection, or the collections.
pub(super) fn list(args: &OfflineListArgs, format: Format) -> Result<Exit, Failure> {
    let records = Records::open(&args.folder.data_dir)?;
    let Some(name) = &args.collection else { return collections(&records, format) };
    let collection = records.collection(name)?;
    let revision = records.revision(args.at.to_at())?;
    let mut listed: Vec<Value> = Vec::new();
    let mut after = None;
    let mut count = 0_u64;
    loop {
        let page = records.view.list(&collection, args.prefix.as_bytes(), after.as_deref(), revision, PAGE)?;
        for stored in &page {
            count += 1;
            let version = shown(&collection, stored, None)?;
            match format {
                Format::Json => listed.push(details(&version, stored, false)),
                Format::Table => print_line(format!("{}  {}", show::id(&version.id), show::line(&version)))?,
            }
        }
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.id.clone()),
            _ => break,
        }
    }
    match format {
        Format::Json => {
            let mut body = records.header();
            body.insert("records".into(), json!(listed));
            print_json("offline-list", body)?;
        }
        Format::Table => eprintln!("{} live at revision {revision}", grouped(count)),
    }
    records.say_how_far();
    Ok(Exit::Done)
}

fn collections(records: &Records, format: Format) -> Result<Exit, Failure> {
    let all = records.view.collections();
    if format == Format::Json {
        let mut body = records.header();
        let of = |c: &Collection| json!({"name": c.name, "owner": c.owner, "label": c.label});
        body.insert("collections".into(), all.iter().map(of).collect());
        print_json("offline-collections", body)?;
    } else {
        all.iter().try_for_each(|collection| print_line(&collection.name))?;
    }
    records.say_how_far();
    Ok(Exit::Done)
}

/// A version as the online verbs show it; without keys its value is empty.
fn shown(collection: &Collection, stored: &StoredVersion, values: Option<&Values>) -> Result<Version, Failure> {
    let from = stored.provenance.clone().unwrap_or_default();
    Ok(Version {
        collection: collection.name.clone(),
        id: stored.id.clone(),
        generation: stored.generation,
        revision: stored.revision,
        recorded_at_us: stored.recorded_at_us,
        op: match stored.op {
            VersionOp::Put => Op::Put,
            VersionOp::Delete => Op::Delete,
            VersionOp::Undelete => Op::Undelete,
            VersionOp::Rollback => Op::Rollback,
        },
        content_type: stored.content_type.clone(),
        provenance: Provenance { source_system: from.source_system, actor: from.actor, reason: from.reason },
        digest: stored.digest.to_vec().into(),
        chain: stored.chain.to_vec().into(),
        value_bytes: stored.value_bytes,
        value: values.map(|values| values.open(collection, stored)).transpose()?.unwrap_or_default().into(),
    })
}

/// What can be said of a sealed value without a key.
fn sealed_line(stored: &StoredVersion) -> String {
    let dek = envelope_dek_id(&stored.envelope).map_or_else(|_| "none".to_owned(), |dek| dek.to_string());
    let (digest, chain) = (hex(&stored.digest), hex(&stored.chain));
    format!("dek {dek}  envelope {} bytes  digest {digest}  chain {chain}", stored.envelope.len())
}

fn details(version: &Version, stored: &StoredVersion, value: bool) -> Value {
    let mut shown = show::version(version, value);
    if let Value::Object(fields) = &mut shown {
        fields.insert("dek_id".into(), json!(envelope_dek_id(&stored.envelope).ok().map(|dek| dek.to_string())));
        fields.insert("envelope_bytes".into(), json!(stored.envelope.len()));
    }
    shown
}

/// Bytes read between two looks at how far the check has come.
const STEP_BYTES: usize = 1 << 20;

/// Checks all rows.
pub(super) fn verify(args: &FolderArgs, format: Format) -> Result<Exit, Failure> {
    let records = Records::open(&args.data_dir)?;
    let mut scrub = records.view.scrub();
    let mut progress = Progress::of("verify", "rows", None);
    let report = loop {
        let report = scrub.step(STEP_BYTES);
        progress.set(scrub.progress().0);
        if let Some(report) = report {
            break report;
        }
    };
    progress.finish();
    let damaged = report.is_bad() || report.damaged > 0 || records.held_back().is_some();
    let (versions, live) = (records.view.counts().versions, records.view.counts().records);
    match format {
        Format::Json => {
            let mut body = records.header();
            body.insert("rows".into(), json!(report.rows));
            body.insert("bytes".into(), json!(report.bytes));
            body.insert("live_records".into(), json!(live));
            body.insert("versions".into(), json!(versions));
            body.insert("differing_buckets".into(), json!(report.differing.len()));
            body.insert("damaged".into(), json!(report.damaged));
            body.insert("findings".into(), json!(report.named));
            print_json("offline-records-verify", body)?;
        }
        Format::Table => {
            report.named.iter().try_for_each(print_line)?;
            let unnamed = report.damaged.saturating_sub(report.named.len() as u64);
            if unnamed > 0 {
                print_line(format!("and {} more", grouped(unnamed)))?;
            }
            print_line(format!(
                "records verify: {} rows={} bytes={} live={live} versions={versions} damaged={} differing_buckets={}",
                if damaged { "DAMAGED" } else { "OK" },
                report.rows,
                report.bytes,
                report.damaged,
                report.differing.len(),
            ))?;
        }
    }
    records.say_how_far();
    Ok(if damaged { Exit::Verification } else { Exit::Done })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_only_in_the_log_is_said() {
        assert_eq!(how_far(Some(7), Some(7)), "state as flushed at log index 7, where the log ends");
        assert_eq!(
            how_far(Some(7), Some(9)),
            "state as flushed at log index 7; the log goes to 9: entries between are only in the log \
             (`saola offline log dump --from 8`)"
        );
        assert!(how_far(None, Some(3)).starts_with("nothing has been flushed; the log goes to 3"));
        assert!(how_far(Some(7), None).contains("not known"));
    }
}

//! `saola offline log …`.

use saola_storage::command::{Command, CommandBatch, Op};
use saola_storage::folder::StoppedFolder;
use saola_storage::log::{LOG_FORMAT, LogEntry, LogRecord, Met, walk};
use saola_storage::member::MembershipRecord;
use saola_storage::payload;
use saola_storage::store::ApplyPayload;
use saola_storage::types::LogId;
use serde_json::{Value, json};

use crate::cli::{DumpArgs, FolderArgs};
use crate::exit::{Exit, Failure};
use crate::output::{Format, hex, print_json, print_line};
use crate::{show, time};

/// Index of the log's last entry; none if there is none or the log cannot be read, which the log's own verbs explain.
pub(super) fn last_index(folder: &StoppedFolder) -> Option<u64> {
    walk(&folder.log(), &mut |_| {}).ok()?.last.map(|last| last.index)
}

/// What a folder's segments are written in.
pub(super) fn releases(folder: &StoppedFolder) -> String {
    let mut segments = 0;
    let count = &mut |met| segments += u64::from(matches!(met, Met::Segment { .. }));
    match walk(&folder.log(), count) {
        Ok(_) => format!("{LOG_FORMAT}, {segments} segments"),
        Err(error) => error.to_string(),
    }
}

/// What a walk counts.
#[derive(Default)]
struct Seen {
    segments: u64,
    records: u64,
    entries: u64,
    bytes: u64,
    first: Option<u64>,
    damaged: Vec<String>,
    torn: Option<String>,
}

impl Seen {
    fn meet(&mut self, met: Met) {
        match met {
            Met::Segment { bytes, .. } => {
                self.segments += 1;
                self.bytes += bytes;
            }
            Met::Record { record, .. } => {
                self.records += 1;
                if let LogRecord::Entry(entry) = record {
                    self.entries += 1;
                    self.first.get_or_insert(entry.log_id.index);
                }
            }
            Met::TornTail { segment, offset } => self.torn = Some(format!("segment {segment:016x} byte {offset}")),
            Met::Damage { segment, offset, index, what } => {
                self.damaged
                    .push(format!("segment {segment:016x} byte {offset} (log index {index} or near it): {what}"));
            }
        }
    }
}

/// Checks all segments and records.
pub(super) fn verify(args: &FolderArgs, format: Format) -> Result<Exit, Failure> {
    let folder = super::open(&args.data_dir)?;
    let mut seen = Seen::default();
    let state = walk(&folder.log(), &mut |met| seen.meet(met))?;
    let place = |id: Option<LogId>| id.map_or_else(|| "none".to_owned(), |id| id.to_string());
    // What was purged still stands in the oldest segment.
    let after_purge = state.last_purged.map(|purged| purged.index + 1);
    let first = after_purge.max(seen.first).filter(|first| state.last.is_some_and(|last| last.index >= *first));
    let vote = state.vote.map_or_else(|| "none".to_owned(), |vote| vote.to_string());
    match format {
        Format::Json => {
            let body = json!({
                "segments": seen.segments, "records": seen.records, "entries": seen.entries, "bytes": seen.bytes,
                "first_index": first, "last": place(state.last), "purged": place(state.last_purged),
                "committed": place(state.committed), "vote": vote, "records_end": seen.torn, "findings": seen.damaged,
            });
            print_json("offline-log-verify", body)?;
        }
        Format::Table => {
            seen.damaged.iter().try_for_each(print_line)?;
            if let Some(torn) = &seen.torn {
                eprintln!("records end at {torn}; what stands behind was never acknowledged");
            }
            print_line(format!(
                "log verify: {} segments={} records={} entries={} bytes={} first={} last={} purged={} committed={} \
                 vote={vote} damaged={}",
                if seen.damaged.is_empty() { "OK" } else { "DAMAGED" },
                seen.segments,
                seen.records,
                seen.entries,
                seen.bytes,
                first.map_or_else(|| "none".to_owned(), |index| index.to_string()),
                place(state.last),
                place(state.last_purged),
                place(state.committed),
                seen.damaged.len(),
            ))?;
        }
    }
    Ok(if seen.damaged.is_empty() { Exit::Done } else { Exit::Verification })
}

/// Prints one line per record.
pub(super) fn dump(args: &DumpArgs, format: Format) -> Result<Exit, Failure> {
    let folder = super::open(&args.folder.data_dir)?;
    let ranged = args.from.is_some() || args.to.is_some();
    let wanted = |index: u64| args.from.is_none_or(|from| from <= index) && args.to.is_none_or(|to| index <= to);
    let mut printed: Result<(), Failure> = Ok(());
    let mut damaged = false;
    let mut lines: Vec<Value> = Vec::new();
    let mut print = |line: String| match format {
        Format::Json => lines.push(json!(line)),
        Format::Table if printed.is_ok() => printed = print_line(line),
        Format::Table => {}
    };
    walk(&folder.log(), &mut |met| match met {
        Met::Segment { segment, bytes, .. } if !ranged => print(format!("segment {segment:016x}  {bytes} bytes")),
        Met::Record { offset, record: LogRecord::Entry(entry), .. } if wanted(entry.log_id.index) => {
            print(format!("{offset:>10}  entry {}", entry_line(&entry)));
            if args.raw {
                print(format!("            {}", hex(&entry.payload)));
            }
        }
        Met::Record { record: LogRecord::Entry(_), .. } | Met::Segment { .. } => {}
        Met::Record { offset, record, .. } if !ranged => print(format!("{offset:>10}  {}", other_line(&record))),
        Met::Record { .. } => {}
        Met::TornTail { offset, .. } if !ranged => print(format!("{offset:>10}  end of the records")),
        Met::TornTail { .. } => {}
        Met::Damage { segment, offset, index, what } => {
            damaged = true;
            eprintln!("damaged: segment {segment:016x} byte {offset} (log index {index} or near it): {what}");
        }
    })?;
    printed?;
    if format == Format::Json {
        print_json("offline-log-dump", json!({"records": lines, "damaged": damaged}))?;
    }
    Ok(if damaged { Exit::Verification } else { Exit::Done })
}

fn other_line(record: &LogRecord) -> String {
    let place = |id: &Option<LogId>| id.map_or_else(|| "nothing".to_owned(), |id| id.to_string());
    match record {
        LogRecord::Entry(entry) => format!("entry {}", entry_line(entry)),
        LogRecord::Vote(vote) => format!("vote {vote}"),
        LogRecord::TruncateAfter(last) => format!("truncate after {}", place(last)),
        LogRecord::Purge(upto) => format!("purge up to {upto}"),
        LogRecord::Committed(committed) => format!("committed {}", place(committed)),
        LogRecord::SyncMark => "sync mark".to_owned(),
    }
}

fn entry_line(entry: &LogEntry) -> String {
    let bytes = entry.payload.len();
    let what = match payload::decode(&entry.payload) {
        Ok(ApplyPayload::Blank) => "blank".to_owned(),
        Ok(ApplyPayload::Membership(record)) => membership_line(&record),
        Ok(ApplyPayload::Commands(batch)) => batch_line(&batch),
        Err(error) => format!("not readable: {error}"),
    };
    format!("{}  {bytes} bytes  {what}", entry.log_id)
}

fn membership_line(record: &bytes::Bytes) -> String {
    let Ok(record) = <MembershipRecord as prost::Message>::decode(record.clone()) else {
        return "membership, not readable".to_owned();
    };
    let set = |ids: &[u64]| ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
    let voters: Vec<String> = record.configs.iter().map(|config| set(&config.node_ids)).collect();
    let nodes: Vec<u64> = record.seats.iter().map(|seat| seat.node_id).collect();
    format!("membership voters {} of nodes {}", voters.join(" and "), set(&nodes))
}

fn batch_line(batch: &CommandBatch) -> String {
    let commands: Vec<String> = batch.commands.iter().map(command_line).collect();
    format!("commands at {}: {}", time::iso(batch.stamp_us), commands.join("; "))
}

/// What a command is about. Sealed values, and texts that people wrote, are left out.
fn command_line(command: &Command) -> String {
    let what = match &command.op {
        None => "unknown to this release".to_owned(),
        Some(Op::Put(put)) => {
            let id = show::id(&put.id);
            format!("put {}/{id} ({} bytes, sealed {})", put.collection, put.value_bytes, put.envelope.len())
        }
        Some(Op::Delete(delete)) => format!("delete {}/{}", delete.collection, show::id(&delete.id)),
        Some(Op::CreateCollection(create)) => format!("create collection {}", create.name),
        Some(Op::Bootstrap(first)) => format!("bootstrap cluster {} {}", first.cluster_name, hex(&first.cluster_id)),
        Some(Op::TakeDigest(_)) => "take digest".to_owned(),
        Some(Op::TimeMark(_)) => "time mark".to_owned(),
        Some(Op::AddSite(add)) => format!("add site {}", add.site.as_ref().map_or("", |site| &site.name)),
        Some(Op::ClaimNodeId(claim)) => format!("claim node id {}", claim.node_id),
        Some(Op::SetRetention(set)) => format!("set retention of {}", set.collection),
        Some(Op::Collect(collect)) => {
            let after = show::id(&collect.after_id);
            format!(
                "collect collection {} up to revision {} behind {after:?}",
                collect.collection, collect.up_to_revision
            )
        }
        Some(Op::CompactChanges(compact)) => format!("compact changes up to revision {}", compact.up_to_revision),
    };
    match &command.request {
        Some(request) => format!("{what} by {}:{}", hex(&request.client), request.sequence),
        None => what,
    }
}

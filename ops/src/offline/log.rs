//! `saola offline log …`.

use saola_storage::command::{Command, CommandBatch, Op};
use saola_storage::disk::RealDisk;
use saola_storage::folder::StoppedFolder;
use saola_storage::log::{Damage, DamageKind, Examination, Item, LOG_FORMAT, Record, examine};
use saola_storage::member::MembershipRecord;
use saola_storage::payload;
use saola_storage::store::ApplyPayload;
use saola_storage::types::LogId;
use serde_json::{Value, json};

use super::formats::writer;
use crate::cli::{DumpArgs, FolderArgs};
use crate::exit::{Exit, Failure};
use crate::output::{Format, hex, print_json, print_line};
use crate::{show, time};

fn look(folder: &StoppedFolder, visit: impl FnMut(Item<'_>)) -> Result<Examination, Failure> {
    let path = folder.log();
    let disk = RealDisk::open_to_read(&path);
    let disk = disk.map_err(|source| Failure::file(format!("open {}", path.display()), &source))?;
    Ok(examine(&disk, None, visit)?)
}

/// Index of the log's last entry; none if there is none or the log cannot be read, which the log's own verbs explain.
pub(super) fn last_index(folder: &StoppedFolder) -> Option<u64> {
    look(folder, |_| {}).ok()?.state.last.map(|last| last.index)
}

/// What a folder's segments are written in, and by which releases.
pub(super) fn releases(folder: &StoppedFolder) -> String {
    let (mut segments, mut unknown) = (0, Vec::new());
    let mut writers = std::collections::BTreeSet::new();
    let looked = look(folder, |item| match item {
        Item::Head { release, .. } => {
            segments += 1;
            writers.insert(release);
        }
        Item::Damage(Damage { segment, what: DamageKind::UnknownVersion { version, release }, .. }) => {
            unknown.push(format!("segment {segment:016x} has format {version}, by {}", writer(&release)));
        }
        Item::Record { .. } | Item::Damage(_) => {}
    });
    match looked {
        Ok(_) => {
            let writers: Vec<String> = writers.iter().map(|release| writer(release)).collect();
            let known = format!("{LOG_FORMAT}, {segments} segments by {}", writers.join(", "));
            std::iter::once(known).chain(unknown).collect::<Vec<_>>().join("; ")
        }
        Err(error) => error.what().to_owned(),
    }
}

fn damage_line(damage: &Damage) -> String {
    let Damage { segment, from_offset, to_offset, first_index, what, unreadable } = damage;
    let place =
        format!("segment {segment:016x} bytes {from_offset} to {to_offset} (log index {first_index} or near it)");
    match what {
        DamageKind::Rot if from_offset == to_offset => {
            format!("{place}: the next record does not follow the one before it")
        }
        DamageKind::Rot if *unreadable => {
            format!("{place}: unreadable (EIO), so nobody can tell which records stood there")
        }
        DamageKind::Rot => format!("{place}: changed although it was synced"),
        DamageKind::Head if *unreadable => format!("{place}: the segment's head is unreadable (EIO)"),
        DamageKind::Head => format!("{place}: the segment's head cannot be read"),
        DamageKind::Unused => {
            format!(
                "{place}: unreadable (EIO) behind the end of the log; the next start leaves it behind, but check the disk"
            )
        }
        DamageKind::TornTail => format!("{place}: torn tail, never acknowledged; the next start cuts it off"),
        DamageKind::Missing => format!("segments up to {segment:016x} are missing, from log index {first_index} on"),
        DamageKind::Foreign { found_segment, found_group } => {
            format!("{place}: the file says it is segment {found_segment:016x} of group {found_group}")
        }
        DamageKind::UnknownVersion { version, release } => {
            format!("{place}: format {version}, by {}; use that release", writer(release))
        }
    }
}

/// Checks all segments and records.
pub(super) fn verify(args: &FolderArgs, format: Format) -> Result<Exit, Failure> {
    let folder = super::open(&args.data_dir)?;
    let (mut first, mut bytes) = (None, 0);
    let (mut damaged, mut torn, mut unused) = (Vec::new(), None, Vec::new());
    let found = look(&folder, |item| match item {
        Item::Head { file_bytes, .. } => bytes += file_bytes,
        Item::Record { record: Record::Entry(id, _), .. } => {
            first.get_or_insert(id.index);
        }
        Item::Record { .. } => {}
        Item::Damage(damage) if damage.what == DamageKind::TornTail => torn = Some(damage_line(&damage)),
        Item::Damage(damage) if damage.what == DamageKind::Unused => unused.push(damage_line(&damage)),
        Item::Damage(damage) => damaged.push(damage_line(&damage)),
    })?;
    let state = found.state;
    let place = |id: Option<LogId>| id.map_or_else(|| "none".to_owned(), |id| id.to_string());
    // What was purged still stands in the oldest segment.
    let after_purge = state.last_purged.map(|purged| purged.index + 1);
    let first = after_purge.max(first).filter(|first| state.last.is_some_and(|last| last.index >= *first));
    let vote = state.vote.map_or_else(|| "none".to_owned(), |vote| vote.to_string());
    match format {
        Format::Json => {
            let body = json!({
                "segments": found.segments, "records": found.records, "entries": found.entries, "bytes": bytes,
                "first_index": first, "last": place(state.last), "purged": place(state.last_purged),
                "committed": place(state.committed), "vote": vote, "torn_tail": torn, "unused": unused, "findings": damaged,
            });
            print_json("offline-log-verify", body)?;
        }
        Format::Table => {
            damaged.iter().try_for_each(print_line)?;
            torn.iter().chain(&unused).for_each(|line| eprintln!("{line}"));
            print_line(format!(
                "log verify: {} segments={} records={} entries={} bytes={bytes} first={} last={} purged={} committed={} \
                 vote={vote} damaged={}",
                if damaged.is_empty() { "OK" } else { "DAMAGED" },
                found.segments,
                found.records,
                found.entries,
                first.map_or_else(|| "none".to_owned(), |index| index.to_string()),
                place(state.last),
                place(state.last_purged),
                place(state.committed),
                damaged.len(),
            ))?;
        }
    }
    Ok(if damaged.is_empty() { Exit::Done } else { Exit::Verification })
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
    look(&folder, |item| match item {
        Item::Head { segment, file_bytes, epoch, release, .. } if !ranged => {
            print(format!("segment {segment:016x}  {file_bytes} bytes  in {epoch}  by {}", writer(&release)));
        }
        Item::Record { offset, record: Record::Entry(id, payload), .. } if wanted(id.index) => {
            print(format!("{offset:>10}  entry {}", entry_line(id, payload)));
            if args.raw {
                print(format!("            {}", hex(payload)));
            }
        }
        Item::Record { record: Record::Entry(..), .. } | Item::Head { .. } => {}
        Item::Record { offset, record, .. } if !ranged => print(format!("{offset:>10}  {}", other_line(&record))),
        Item::Record { .. } => {}
        Item::Damage(damage) => {
            damaged |= !matches!(damage.what, DamageKind::TornTail | DamageKind::Unused);
            eprintln!("{}", damage_line(&damage));
        }
    })?;
    printed?;
    if format == Format::Json {
        print_json("offline-log-dump", json!({"records": lines, "damaged": damaged}))?;
    }
    Ok(if damaged { Exit::Verification } else { Exit::Done })
}

fn other_line(record: &Record<&[u8]>) -> String {
    let place = |id: &Option<LogId>| id.map_or_else(|| "nothing".to_owned(), |id| id.to_string());
    match record {
        Record::Entry(id, payload) => format!("entry {}", entry_line(*id, payload)),
        Record::Vote(vote) => format!("vote {vote}"),
        Record::TruncateAfter(last) => format!("truncate after {}", place(last)),
        Record::Purge(upto) => format!("purge up to {upto}"),
        Record::Committed(committed) => format!("committed {}", place(committed)),
        Record::Mark(Some(vote)) => format!("sync mark, vote {vote}"),
        Record::Mark(None) => "sync mark".to_owned(),
    }
}

fn entry_line(id: LogId, bytes: &[u8]) -> String {
    let what = match payload::decode(&bytes::Bytes::copy_from_slice(bytes)) {
        Ok(ApplyPayload::Blank) => "blank".to_owned(),
        Ok(ApplyPayload::Membership(record)) => membership_line(&record),
        Ok(ApplyPayload::Commands(batch)) => batch_line(&batch),
        Err(error) => format!("not readable: {error}"),
    };
    format!("{id}  {} bytes  {what}", bytes.len())
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
        Some(Op::SetFailover(set)) => {
            format!("set failover to {:?}, limit {}, home {:?}", set.policy(), set.limit, set.home)
        }
        Some(Op::SetGoal(set)) => format!("set the survival goal to {:?}", set.survive()),
        Some(Op::SetApprovers(set)) => {
            format!("set {} approvers, of whom {} must approve", set.approvers.len(), set.needed)
        }
        Some(Op::BeginEpoch(begin)) => format!("begin epoch {}, led from {}", begin.epoch, begin.site),
        Some(Op::ReleaseFloor(release)) => format!("the witness vouches for entries from {} on", release.next),
        Some(Op::LeadFrom(lead)) => format!("leadership is at {} ({:?})", lead.site, lead.came_by()),
        Some(Op::Degrade(_)) => "open the gate: the other site does not answer".to_owned(),
        Some(Op::Synchronize(_)) => "close the gate: the other site has everything".to_owned(),
        Some(Op::WaitForWitness(_)) => "wait for the witness, which stands in for a site without votes".to_owned(),
        Some(Op::SetProtection(set)) => format!("set protection to {:?}, {} acknowledgements", set.mode(), set.acks),
        Some(Op::CompactChanges(compact)) => format!("compact changes up to revision {}", compact.up_to_revision),
    };
    match &command.request {
        Some(request) => format!("{what} by {}:{}", hex(&request.client), request.sequence),
        None => what,
    }
}

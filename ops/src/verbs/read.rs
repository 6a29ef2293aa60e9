//! `saola get`, `saola list`, `saola history`.

use saola_client::{At, Client, Reply, Version};
use serde_json::{Map, Value, json};

use crate::cli::{GetArgs, HistoryArgs, ListArgs};
use crate::exit::{Exit, Failure, doing};
use crate::output::{Format, print_bytes, print_json, print_line};
use crate::{show, time};

/// More than this is not asked for at a time.
const PAGE: u32 = 1000;

/// Reads one version of a record.
///
/// # Errors
/// No such record at that point, a record that is deleted there, or a failed call.
pub async fn get(client: &Client, args: GetArgs, format: Format) -> Result<Exit, Failure> {
    let mut call = client.get(&args.collection, args.id.clone());
    if let Some(at) = args.to_at() {
        call = call.at(at);
    }
    if let Some(bound) = args.stale.bound {
        call = call.stale(bound);
    }
    let reply = call.send().await.map_err(doing(format!("get {}/{}", args.collection, args.id)))?;
    let version = live(&args, &reply)?;
    match format {
        _ if args.raw => print_bytes(&version.value)?,
        Format::Json => {
            let mut body = header(&reply);
            body.insert("record".into(), show::version(version, true));
            print_json("get", body)?;
        }
        Format::Table => {
            print_line(format!("{}/{}  {}", version.collection, show::id(&version.id), show::line(version)))?;
            print_line(show::value_text(version))?;
        }
    }
    if let Some(age_ms) = reply.age_ms {
        eprintln!("stale read: node {} answered with what is up to {age_ms} ms old", reply.node);
    }
    Ok(Exit::Done)
}

fn live<'a>(args: &GetArgs, reply: &'a Reply<Option<Version>>) -> Result<&'a Version, Failure> {
    let name = format!("{}/{}", args.collection, args.id);
    let history = format!("see `saola history {} {}`", args.collection, args.id);
    match &reply.value {
        None => {
            let (what, next) = match args.to_at() {
                None => ("the record never existed".to_owned(), format!("see `saola list {}`", args.collection)),
                Some(At::Generation(generation)) => (format!("it has no generation {generation}"), history),
                Some(_) => ("the record did not exist yet at that point".to_owned(), history),
            };
            Err(Failure::new(Exit::Precondition, format!("get {name}: {what}"), next))
        }
        Some(version) if version.is_deleted() => Err(Failure::new(
            Exit::Precondition,
            format!(
                "get {name}: generation {} deleted it at {}",
                version.generation,
                time::iso(version.recorded_at_us)
            ),
            history,
        )),
        Some(version) => Ok(version),
    }
}

fn header<T>(reply: &Reply<T>) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("revision".into(), json!(reply.revision));
    fields.insert("epoch".into(), json!(reply.epoch));
    fields.insert("node".into(), json!(reply.node));
    if let Some(age_ms) = reply.age_ms {
        fields.insert("age_ms".into(), json!(age_ms));
    }
    fields
}

/// Lists live records, never their values.
///
/// # Errors
/// A failed call.
pub async fn list(client: &Client, args: ListArgs, format: Format) -> Result<Exit, Failure> {
    let limit = args.limit.unwrap_or(u64::MAX);
    let page = u32::try_from(limit).map_or(PAGE, |limit| limit.clamp(1, PAGE));
    let mut call = client.list(&args.collection).prefix(args.prefix.clone()).page_size(page).keys_only();
    if let Some(bound) = args.stale.bound {
        call = call.stale(bound);
    }
    if let Some(at) = args.at.to_at() {
        call = call.at(at);
    }
    let mut listing = call.all();
    let mut listed = 0;
    let mut records = Vec::new();
    while listed < limit {
        let Some(version) = listing.next().await.map_err(doing(format!("list {}", args.collection)))? else { break };
        listed += 1;
        match format {
            Format::Json => records.push(show::version(&version, false)),
            Format::Table if args.keys_only => print_line(show::id(&version.id))?,
            Format::Table => print_line(format!("{}  {}", show::id(&version.id), show::line(&version)))?,
        }
    }
    match format {
        Format::Json => print_json("list", json!({"revision": listing.revision(), "records": records}))?,
        Format::Table => {
            let revision = listing.revision().map(|revision| format!(" at revision {revision}")).unwrap_or_default();
            let records = if listed == 1 { "record" } else { "records" };
            eprintln!("{listed} {records}{revision}");
        }
    }
    Ok(Exit::Done)
}

/// Shows all versions of a record.
///
/// # Errors
/// A record that never existed, or a failed call.
pub async fn history(client: &Client, args: HistoryArgs, format: Format) -> Result<Exit, Failure> {
    let mut call = client.history(&args.collection, args.id.clone());
    if let Some(bound) = args.stale.bound {
        call = call.stale(bound);
    }
    if args.newest_first {
        call = call.newest_first();
    }
    if args.keys_only {
        call = call.keys_only();
    }
    let reply = call.send().await.map_err(doing(format!("history of {}/{}", args.collection, args.id)))?;
    if reply.value.is_empty() {
        return Err(Failure::new(
            Exit::Precondition,
            format!("history of {}/{}: the record never existed", args.collection, args.id),
            format!("see `saola list {}`", args.collection),
        ));
    }
    let values = !args.keys_only;
    match format {
        Format::Json => {
            let mut body = header(&reply);
            let versions: Vec<Value> = reply.value.iter().map(|version| show::version(version, values)).collect();
            body.insert("versions".into(), json!(versions));
            print_json("history", body)?;
        }
        Format::Table => {
            for version in &reply.value {
                print_line(show::line(version))?;
                if values && !version.is_deleted() {
                    print_line(format!("    {}", show::value_text(version)))?;
                }
            }
        }
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Verb};

    fn refused(line: &str) -> Failure {
        let Verb::Get(args) = Cli::parse_from(line.split_whitespace()).verb else { panic!("{line}") };
        let nothing = Reply { value: None, revision: 9, epoch: 1, node: 1, age_ms: None };
        live(&args, &nothing).unwrap_err()
    }

    #[test]
    fn what_is_missing_is_named_after_what_was_asked_for() {
        let never = refused("saola get agency x");
        assert_eq!(never.to_string(), "error: get agency/x: the record never existed\nnext: see `saola list agency`");
        assert_eq!(never.exit(), Exit::Precondition);
        assert!(refused("saola get agency x --generation 7").what().ends_with("it has no generation 7"));
        assert!(refused("saola get agency x --revision 7").what().ends_with("did not exist yet at that point"));
    }
}

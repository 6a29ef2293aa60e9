//! `saola collection`: create, list, show, and how long versions are kept.

use saola_client::proto::CollectionInfo;
use saola_client::{Client, CreateCollection, KeyStyle, RetentionChange};
use serde_json::{Value, json};

use crate::cli::CreateArgs;
use crate::exit::{Exit, Failure, doing};
use crate::output::{Format, hex, print_json, print_line, size, table};
use crate::time::span;

/// Creates a collection.
///
/// # Errors
/// A collection that is there already, or a failed call.
pub async fn create(client: &Client, args: CreateArgs, format: Format) -> Result<Exit, Failure> {
    let new = CreateCollection {
        max_value_bytes: args.max_value_bytes,
        key_style: args.key_style.into(),
        owner: args.owner,
        label: args.label,
        ..CreateCollection::new(args.name.clone())
    };
    let created = client.create_collection(new).await.map_err(doing(format!("create collection {:?}", args.name)))?;
    match format {
        Format::Json => print_json("collection", json!({"collection": document(&created)}))?,
        Format::Table => print_line(format!(
            "collection {}  values up to {}  ids {}",
            created.name,
            size(created.max_value_bytes),
            style(&created)
        ))?,
    }
    Ok(Exit::Done)
}

/// Lists the collections.
///
/// # Errors
/// A failed call.
pub async fn list(client: &Client, format: Format) -> Result<Exit, Failure> {
    let reply = client.collections().await.map_err(doing("list the collections"))?;
    match format {
        Format::Json => {
            let collections: Vec<Value> = reply.value.iter().map(document).collect();
            print_json("collections", json!({"revision": reply.revision, "collections": collections}))?;
        }
        Format::Table if reply.value.is_empty() => eprintln!("no collections yet; `saola collection create NAME`"),
        Format::Table => {
            let row = |info: &CollectionInfo| {
                vec![
                    info.name.clone(),
                    style(info).to_owned(),
                    size(info.max_value_bytes),
                    info.created_revision.to_string(),
                    info.owner.clone(),
                    info.label.clone(),
                    retention(info),
                    readable(info),
                ]
            };
            let heading =
                ["COLLECTION", "IDS", "MAX VALUE", "SINCE REVISION", "OWNER", "LABEL", "RETENTION", "READABLE"];
            print_line(table(&heading, &[2, 3], reply.value.iter().map(row).collect()))?;
        }
    }
    Ok(Exit::Done)
}

/// Shows one collection.
///
/// # Errors
/// A collection that is not there, or a failed call.
pub async fn show(client: &Client, name: &str, format: Format) -> Result<Exit, Failure> {
    let reply = client.collections().await.map_err(doing("list the collections"))?;
    match reply.value.into_iter().find(|info| info.name == name) {
        Some(info) => print(&info, format),
        None => Err(Failure::new(
            Exit::Precondition,
            format!("there is no collection {name:?}"),
            "`saola collection list` shows those that there are",
        )),
    }
}

/// Changes how long a collection keeps versions.
///
/// # Errors
/// A collection that is not there or has another hold, or a failed call.
pub async fn set_retention(
    client: &Client,
    name: &str,
    change: RetentionChange,
    format: Format,
) -> Result<Exit, Failure> {
    let info = client.set_retention(name, change).await.map_err(doing(format!("set the retention of {name:?}")))?;
    print(&info, format)
}

fn print(info: &CollectionInfo, format: Format) -> Result<Exit, Failure> {
    match format {
        Format::Json => print_json("collection", json!({"collection": document(info)}))?,
        Format::Table => print_line(format!(
            "collection {}  values up to {}  ids {}  {}  readable {}",
            info.name,
            size(info.max_value_bytes),
            style(info),
            retention(info),
            readable(info)
        ))?,
    }
    Ok(Exit::Done)
}

/// How long versions are kept, for people.
fn retention(info: &CollectionInfo) -> String {
    let policy = info.retention.clone().unwrap_or_default();
    let mut parts = Vec::new();
    if policy.max_generations > 0 {
        parts.push(format!("keeps {} generations", policy.max_generations));
    }
    if policy.max_age_ms > 0 {
        parts.push(format!("keeps versions for {}", span(policy.max_age_ms / 1000)));
    }
    if parts.is_empty() {
        parts.push("keeps all".to_owned());
    }
    if !policy.hold.is_empty() {
        parts.push(format!("ON HOLD: {}", policy.hold));
    }
    parts.join(", ")
}

fn readable(info: &CollectionInfo) -> String {
    match info.oldest_revision {
        0 => "at every revision".to_owned(),
        oldest => format!("from revision {oldest}"),
    }
}

fn style(info: &CollectionInfo) -> &'static str {
    match info.key_style() {
        KeyStyle::Unspecified => "unknown",
        KeyStyle::Ordered => "ordered",
        KeyStyle::Bytes => "bytes",
    }
}

fn document(info: &CollectionInfo) -> Value {
    let policy = info.retention.clone().unwrap_or_default();
    json!({
        "name": info.name, "incarnation": hex(&info.incarnation), "max_value_bytes": info.max_value_bytes,
        "retention": {
            "max_generations": policy.max_generations, "max_age_ms": policy.max_age_ms, "hold": policy.hold,
        },
        "oldest_revision": info.oldest_revision,
        "key_style": style(info), "owner": info.owner, "label": info.label, "created_revision": info.created_revision,
    })
}

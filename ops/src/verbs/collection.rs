//! `saola collection create` and `saola collection list`.

use saola_client::proto::CollectionInfo;
use saola_client::{Client, CreateCollection, KeyStyle};
use serde_json::{Value, json};

use crate::cli::CreateArgs;
use crate::exit::{Exit, Failure, doing};
use crate::output::{Format, hex, print_json, print_line, size, table};

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
                ]
            };
            let heading = ["COLLECTION", "IDS", "MAX VALUE", "SINCE REVISION", "OWNER", "LABEL"];
            print_line(table(&heading, &[2, 3], reply.value.iter().map(row).collect()))?;
        }
    }
    Ok(Exit::Done)
}

fn style(info: &CollectionInfo) -> &'static str {
    match info.key_style() {
        KeyStyle::Unspecified => "unknown",
        KeyStyle::Ordered => "ordered",
        KeyStyle::Bytes => "bytes",
    }
}

fn document(info: &CollectionInfo) -> Value {
    json!({
        "name": info.name, "incarnation": hex(&info.incarnation), "max_value_bytes": info.max_value_bytes,
        "key_style": style(info), "owner": info.owner, "label": info.label, "created_revision": info.created_revision,
    })
}

//! `saola put` and `saola delete`.

use std::fs;
use std::io::{self, Read};

use saola_client::{Client, Expect, Written};
use serde_json::json;

use crate::cli::{DeleteArgs, PutArgs};
use crate::exit::{Exit, Failure, doing};
use crate::output::{Format, print_json, print_line};
use crate::time;

/// Writes a version of a record.
///
/// # Errors
/// A value that cannot be read, an expectation that does not hold, or a failed call.
pub async fn put(client: &Client, args: PutArgs, format: Format) -> Result<Exit, Failure> {
    let value = value(&args).await?;
    let written = client
        .put(&args.collection, args.id.clone(), value)
        .expect(args.expect)
        .content_type(args.content_type)
        .provenance(args.provenance.to_provenance())
        .send()
        .await
        .map_err(doing(format!("put {}/{}", args.collection, args.id)))?;
    print_written("put", &args.collection, &args.id, &written, format)
}

async fn value(args: &PutArgs) -> Result<Vec<u8>, Failure> {
    match (&args.file, &args.value) {
        (Some(file), _) => {
            fs::read(file).map_err(|source| Failure::input(format!("read value {}", file.display()), &source))
        }
        (None, Some(value)) if value != "-" => Ok(value.clone().into_bytes()),
        _ => {
            let read = tokio::task::spawn_blocking(|| {
                let mut value = Vec::new();
                io::stdin().read_to_end(&mut value).map(|_| value)
            });
            let result = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
            result.map_err(|source| Failure::file("read the value from standard input", &source))
        }
    }
}

/// Deletes a record.
///
/// # Errors
/// A record that is not live, an expectation that does not hold, or a failed call.
pub async fn delete(client: &Client, args: DeleteArgs, format: Format) -> Result<Exit, Failure> {
    if args.expect == Expect::Absent {
        return Err(Failure::usage(
            "delete: what is absent cannot be deleted",
            "write `--expect any` or `--expect gen:N`",
        ));
    }
    let written = client
        .delete(&args.collection, args.id.clone())
        .expect(args.expect)
        .provenance(args.provenance.to_provenance())
        .send()
        .await
        .map_err(doing(format!("delete {}/{}", args.collection, args.id)))?;
    print_written("delete", &args.collection, &args.id, &written, format)
}

fn print_written(verb: &str, collection: &str, id: &str, written: &Written, format: Format) -> Result<Exit, Failure> {
    let recorded_at = time::iso(written.recorded_at_us);
    match format {
        Format::Json => print_json(
            verb,
            json!({
                "collection": collection, "id": id, "generation": written.generation, "revision": written.revision,
                "recorded_at": recorded_at, "replayed": written.replayed, "epoch": written.epoch, "node": written.node,
                "request": written.request.to_string(),
            }),
        )?,
        Format::Table => print_line(format!(
            "{collection}/{id}  generation {}  revision {}  {recorded_at}",
            written.generation, written.revision
        ))?,
    }
    Ok(Exit::Done)
}

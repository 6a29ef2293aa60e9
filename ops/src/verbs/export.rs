//! `saola export`: the live records of a collection as lines that `saola import` takes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use saola_client::{Client, Version};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::cli::ExportArgs;
use crate::exit::{Exit, Failure, doing};
use crate::import::line::compact;
use crate::output::{grouped, print_bytes};
use crate::progress::Progress;
use crate::show;

/// Records asked for, and lines written, at a time.
const PAGE: u32 = 500;

/// Writes the live records to standard output, in id order, all at one revision.
///
/// # Errors
/// A failed call, or an id that is not text.
pub async fn export(client: &Client, args: ExportArgs) -> Result<Exit, Failure> {
    let mut call = client.list(&args.collection).page_size(PAGE);
    if let Some(at) = args.at.to_at() {
        call = call.at(at);
    }
    if let Some(bound) = args.stale.bound {
        call = call.stale(bound);
    }
    let mut listing = call.all();
    let mut progress = Progress::start(&format!("export {}", args.collection), None);
    let mut lines = Vec::new();
    let mut exported = 0;
    while let Some(version) = listing.next().await.map_err(doing(format!("export {}", args.collection)))? {
        write_line(&version, &mut lines)?;
        exported += 1;
        if exported % u64::from(PAGE) == 0 {
            print_bytes(&lines)?;
            lines.clear();
            progress.set(exported);
        }
    }
    print_bytes(&lines)?;
    progress.finish();
    let revision = listing.revision().map(|revision| format!(" at revision {revision}")).unwrap_or_default();
    eprintln!("exported {} records{revision}", grouped(exported));
    Ok(Exit::Done)
}

/// One line; values that are not JSON go as base64, so that every byte comes back.
#[derive(Serialize)]
struct Line<'a> {
    op: &'static str,
    collection: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
}

fn write_line(version: &Version, lines: &mut Vec<u8>) -> Result<(), Failure> {
    let name = || format!("export {}/{}", version.collection, show::id(&version.id));
    let id = std::str::from_utf8(&version.id).map_err(|_| {
        Failure::new(
            Exit::Other,
            format!("{}: the id is not text", name()),
            "read such records with the client library",
        )
    })?;
    // An import writes JSON without spaces and takes `null` for no value: what that would change goes as base64.
    let value = show::json_text(version)
        .filter(|text| *text != "null" && compact(text) == text.as_bytes())
        .and_then(|text| serde_json::from_str::<&RawValue>(text).ok());
    let line = Line {
        op: "put",
        collection: &version.collection,
        id,
        content_type: (value.is_none() || version.content_type != "application/json").then_some(&version.content_type),
        value,
        value_base64: value.is_none().then(|| STANDARD.encode(&version.value)),
    };
    serde_json::to_writer(&mut *lines, &line)
        .map_err(|error| Failure::new(Exit::Other, format!("{}: {error}", name()), "read it with `saola get --raw`"))?;
    lines.push(b'\n');
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use saola_client::{Op, Provenance};

    use super::*;
    use crate::import::line::{Change, parse};

    fn version(content_type: &str, value: &[u8]) -> Version {
        Version {
            collection: "agency".into(),
            id: Bytes::from_static("Hà Nội".as_bytes()),
            generation: 1,
            revision: 2,
            recorded_at_us: 3,
            op: Op::Put,
            content_type: content_type.into(),
            provenance: Provenance::default(),
            digest: Bytes::new(),
            chain: Bytes::new(),
            value_bytes: value.len() as u64,
            value: Bytes::copy_from_slice(value),
        }
    }

    #[test]
    fn every_exported_value_imports_as_the_same_bytes() {
        let values: [(&str, &[u8]); 8] = [
            ("application/json", "{\"name\":\"Hà Nội\",\"n\":1.50}".as_bytes()),
            ("application/json", b"null"),
            ("application/json", b"{\"a\": 1}"),
            ("application/json", b"{broken"),
            ("application/json", b"{\n\"a\":1}"),
            ("application/geo+json", b"{\"a\":1}"),
            ("text/plain", b"two\nlines"),
            ("image/png", b"\xff\x00\n"),
        ];
        for (content_type, value) in values {
            let mut lines = Vec::new();
            write_line(&version(content_type, value), &mut lines).unwrap();
            assert_eq!(lines.iter().filter(|byte| **byte == b'\n').count(), 1);
            let parsed = parse(&lines, None).unwrap();
            assert_eq!(parsed.id, "Hà Nội");
            let expected = Change::Put { value: value.to_vec().into(), content_type: content_type.into() };
            assert_eq!(parsed.change, expected);
        }
    }
}

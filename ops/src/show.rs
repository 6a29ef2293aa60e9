//! How a version of a record is shown.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use saola_client::{Op, Version};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::time::iso;

/// How a version came about, in one word.
pub fn op(op: Op) -> &'static str {
    match op {
        Op::Unspecified => "unknown",
        Op::Put => "put",
        Op::Delete => "delete",
        Op::Undelete => "undelete",
        Op::Rollback => "rollback",
    }
}

/// A record id as text; bytes that are not UTF-8 are replaced.
pub fn id(id: &[u8]) -> String {
    String::from_utf8_lossy(id).into_owned()
}

/// A version as JSON. With `value`, its payload too: as JSON where it is JSON, else as text or base64.
pub fn version(version: &Version, value: bool) -> Value {
    let provenance = &version.provenance;
    let mut fields = Map::new();
    fields.insert("collection".into(), json!(version.collection));
    match std::str::from_utf8(&version.id) {
        Ok(id) => fields.insert("id".into(), json!(id)),
        Err(_) => fields.insert("id_base64".into(), json!(STANDARD.encode(&version.id))),
    };
    fields.insert("generation".into(), json!(version.generation));
    fields.insert("revision".into(), json!(version.revision));
    fields.insert("recorded_at".into(), json!(iso(version.recorded_at_us)));
    fields.insert("op".into(), json!(op(version.op)));
    fields.insert("content_type".into(), json!(version.content_type));
    fields.insert(
        "provenance".into(),
        json!({"source": provenance.source_system, "actor": provenance.actor, "reason": provenance.reason}),
    );
    fields.insert("value_bytes".into(), json!(version.value_bytes));
    fields.insert("digest".into(), json!(crate::output::hex(&version.digest)));
    fields.insert("chain".into(), json!(crate::output::hex(&version.chain)));
    if value && !version.is_deleted() {
        let (key, payload) = payload(version);
        fields.insert(key.into(), payload);
    }
    Value::Object(fields)
}

fn payload(version: &Version) -> (&'static str, Value) {
    if let Some(value) = json_text(version).and_then(|text| serde_json::from_str(text).ok()) {
        return ("value", value);
    }
    match std::str::from_utf8(&version.value) {
        Ok(text) => ("value_text", json!(text)),
        Err(_) => ("value_base64", json!(STANDARD.encode(&version.value))),
    }
}

/// The value's text, if it is said to be JSON and is.
pub fn json_text(version: &Version) -> Option<&str> {
    let media_type = version.content_type.split(';').next().unwrap_or_default().trim();
    if media_type != "application/json" && !media_type.ends_with("+json") {
        return None;
    }
    let text = std::str::from_utf8(&version.value).ok()?;
    serde_json::from_str::<&RawValue>(text).is_ok().then_some(text)
}

/// A version's metadata on one line.
pub fn line(version: &Version) -> String {
    let provenance = &version.provenance;
    let said = [("source", &provenance.source_system), ("actor", &provenance.actor), ("reason", &provenance.reason)];
    let mut line = format!(
        "generation {}  revision {}  {}  {}",
        version.generation,
        version.revision,
        iso(version.recorded_at_us),
        op(version.op)
    );
    if !version.is_deleted() {
        line += &format!("  {}  {} bytes", version.content_type, version.value_bytes);
    }
    for (key, value) in said.into_iter().filter(|(_, value)| !value.is_empty()) {
        line += &format!("  {key}={value}");
    }
    line
}

/// The value for a screen: text as it is, other bytes by their number.
pub fn value_text(version: &Version) -> String {
    match std::str::from_utf8(&version.value) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("({} bytes that are not text; --raw prints them)", version.value.len()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use saola_client::Provenance;

    use super::*;

    fn sample(content_type: &str, value: &'static [u8], op: Op) -> Version {
        Version {
            collection: "agency".into(),
            id: Bytes::from_static(b"ward/00004"),
            generation: 2,
            revision: 7,
            recorded_at_us: 1_751_328_000_000_000,
            op,
            content_type: content_type.into(),
            provenance: Provenance { source_system: "reform".into(), ..Provenance::default() },
            digest: Bytes::from_static(&[0xaa]),
            chain: Bytes::from_static(&[0xbb]),
            value_bytes: value.len() as u64,
            value: Bytes::from_static(value),
        }
    }

    #[test]
    fn payloads_are_shown_in_their_own_form_and_only_when_asked_for() {
        let put = |content_type, value| version(&sample(content_type, value, Op::Put), true);
        assert_eq!(put("application/json", b"{\"a\":1}")["value"]["a"], 1);
        assert_eq!(put("application/json", b"{broken")["value_text"], "{broken");
        assert_eq!(put("text/plain", b"hello")["value_text"], "hello");
        assert_eq!(put("image/png", b"\xff\x00")["value_base64"], "/wA=");
        let without = version(&sample("application/json", b"{\"a\":1}", Op::Put), false);
        assert!(!without.to_string().contains("\"a\""), "{without}");
        assert!(version(&sample("", b"", Op::Delete), true).get("value_text").is_none());
    }

    #[test]
    fn a_line_holds_metadata_and_no_payload() {
        let text = line(&sample("application/json", b"{\"a\":1}", Op::Put));
        assert_eq!(
            text,
            "generation 2  revision 7  2025-07-01T00:00:00.000000Z  put  application/json  7 bytes  source=reform"
        );
    }
}

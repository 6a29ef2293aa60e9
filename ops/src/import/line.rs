//! One line of an import: `{"op":"put","collection":"agency","id":"ward/00004","value":{…}}`.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

const JSON: &str = "application/json";
const BYTES: &str = "application/octet-stream";

/// A line that makes sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Collection of the record.
    pub collection: String,
    /// Id of the record.
    pub id: String,
    /// What happens to it.
    pub change: Change,
}

/// What a line does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Writes a version.
    Put {
        /// The bytes that are stored.
        value: Bytes,
        /// Their media type.
        content_type: String,
    },
    /// Deletes the record.
    Delete,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// Column of the mistake in bytes, from 1, where there is one.
    pub column: Option<usize>,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.column {
            Some(column) => write!(f, "column {column}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Op {
    Put,
    Delete,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    op: Op,
    collection: Option<String>,
    id: String,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    value_base64: Option<String>,
    content_type: Option<String>,
}

/// Reads a line. Ids and sizes are not judged here: the cluster knows its collections.
///
/// # Errors
/// What is wrong, with its column where JSON itself is broken.
pub fn parse(text: &[u8], default_collection: Option<&str>) -> Result<Line, LineError> {
    let whole = |reason: &str| LineError { column: None, reason: reason.to_owned() };
    let written: Written<'_> = serde_json::from_slice(text).map_err(|error| {
        let reason = error.to_string();
        let reason = reason.split(" at line ").next().unwrap_or_default().to_owned();
        LineError { column: Some(error.column()).filter(|column| *column > 0), reason }
    })?;
    let collection = written.collection.or(default_collection.map(str::to_owned));
    let collection = collection.ok_or_else(|| whole("`collection` is missing, and --collection is not given"))?;
    let change = match (written.op, written.value, written.value_base64) {
        (Op::Put, Some(value), None) => Change::Put {
            value: compact(value.get()).into(),
            content_type: written.content_type.unwrap_or(JSON.to_owned()),
        },
        (Op::Put, None, Some(text)) => Change::Put {
            value: STANDARD.decode(text).map_err(|error| whole(&format!("`value_base64`: {error}")))?.into(),
            content_type: written.content_type.unwrap_or(BYTES.to_owned()),
        },
        (Op::Put, Some(_), Some(_)) => return Err(whole("`value` and `value_base64` exclude each other")),
        (Op::Put, None, None) => return Err(whole("a put needs a `value`, and it is missing or null")),
        (Op::Delete, None, None) if written.content_type.is_none() => Change::Delete,
        (Op::Delete, ..) => return Err(whole("a delete has no value and no content type")),
    };
    Ok(Line { collection, id: written.id, change })
}

/// JSON without the spaces between its tokens; numbers and strings stay as they are written.
pub fn compact(json: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for byte in json.bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte.is_ascii_whitespace() {
            continue;
        } else {
            in_string = byte == b'"';
        }
        out.push(byte);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_stored_compact_and_otherwise_as_written() {
        let text =
            r#" {"op":"put","collection":"agency","id":"a","value": { "n" : 1.50, "s" : "a \" b \\", "u":"é" } } "#;
        let line = parse(text.as_bytes(), None).unwrap();
        let Change::Put { value, content_type } = line.change else { panic!("a put") };
        assert_eq!(value, r#"{"n":1.50,"s":"a \" b \\","u":"é"}"#.as_bytes());
        assert_eq!(content_type, "application/json");
    }

    #[test]
    fn the_collection_may_come_from_the_flag_and_a_line_wins() {
        let parsed = |text: &str| parse(text.as_bytes(), Some("agency")).unwrap().collection;
        assert_eq!(parsed(r#"{"op":"delete","id":"a"}"#), "agency");
        assert_eq!(parsed(r#"{"op":"delete","collection":"person","id":"a"}"#), "person");
    }

    #[test]
    fn mistakes_are_named_with_their_column() {
        let mistakes: [(&[u8], Option<usize>, &str); 13] = [
            (b"{\"op\":\"put\",", Some(12), "EOF"),
            (b"", None, "EOF"),
            (b"not json", Some(2), "expected"),
            (b"[1]", Some(2), ""),
            (br#"{"op":"steal","collection":"a","id":"x"}"#, Some(13), "unknown variant `steal`"),
            (br#"{"op":"put","collection":"a","value":1}"#, Some(39), "missing field `id`"),
            (br#"{"op":"put","collection":"a","id":7,"value":1}"#, Some(35), "expected a string"),
            (br#"{"op":"put","collection":"a","id":"x"}"#, None, "needs a `value`"),
            (br#"{"op":"put","collection":"a","id":"x","value":null}"#, None, "needs a `value`"),
            (br#"{"op":"put","id":"x","value":1}"#, None, "--collection"),
            (br#"{"op":"delete","collection":"a","id":"x","value":1}"#, None, "no value"),
            (br#"{"op":"put","collection":"a","id":"x","value":1,"colour":"red"}"#, Some(56), "unknown field `colour`"),
            (br#"{"op":"put","collection":"a","id":"x","value_base64":"%"}"#, None, "value_base64"),
        ];
        for (text, column, reason) in mistakes {
            let error = parse(text, None).unwrap_err();
            let shown = String::from_utf8_lossy(text);
            assert!(error.reason.contains(reason), "{shown}: {error}");
            assert!(!error.reason.contains("at line"), "{shown}: {error}");
            assert_eq!(error.column, column, "{shown}: {error}");
        }
        assert!(parse(b"{\"op\":\"put\",\"collection\":\"a\",\"id\":\"\xff\",\"value\":1}", None).is_err());
    }
}

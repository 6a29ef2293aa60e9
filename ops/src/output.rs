//! Standard output: data only, as a table for people or as JSON for programs. Talk goes to standard error.

use std::io::{self, Write};

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::exit::{Exit, Failure};

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Lines and columns for people.
    #[default]
    Table,
    /// One JSON document with a `schema` such as `saola/status/v1`.
    Json,
}

/// Writes a failure to standard error. Failures alone are JSON there: talk stays text.
pub fn print_failure(failure: &Failure, format: Format) {
    match format {
        Format::Table => eprintln!("{failure}"),
        Format::Json => eprintln!("{}", failure.to_json()),
    }
}

/// Writes bytes to standard output.
///
/// # Errors
/// When they cannot be written. A reader that went away, as `head` does, ends the command without a message.
pub fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(|source| match source.kind() {
        io::ErrorKind::BrokenPipe => Failure::new(Exit::Done, "standard output was closed", ""),
        _ => Failure::file("write to standard output", &source),
    })
}

/// Writes a line to standard output.
///
/// # Errors
/// As [`print_bytes`].
pub fn print_line(line: impl AsRef<str>) -> Result<(), Failure> {
    print_bytes(format!("{}\n", line.as_ref()).as_bytes())
}

/// Writes a line of talk to standard error, for work that must go on when nobody can read it any more.
pub fn tell(line: &str) {
    // Nobody is left to be told that it could not be told.
    let _told = writeln!(io::stderr(), "{line}");
}

#[derive(Serialize)]
struct Document<T> {
    schema: String,
    #[serde(flatten)]
    body: T,
}

/// A verb's JSON document on one line; `body` must be a JSON object.
///
/// # Errors
/// When `body` cannot be written as JSON.
pub fn document(verb: &str, body: impl Serialize) -> Result<String, Failure> {
    let document = Document { schema: format!("saola/{verb}/v1"), body };
    serde_json::to_string(&document)
        .map_err(|error| Failure::new(Exit::Other, format!("write JSON: {error}"), "use `-o table`"))
}

/// Prints a verb's JSON document.
///
/// # Errors
/// As [`document`] and [`print_bytes`].
pub fn print_json(verb: &str, body: impl Serialize) -> Result<(), Failure> {
    print_line(document(verb, body)?)
}

/// Columns under a heading. Those in `right` (figures) are aligned to the right.
pub fn table(heading: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(heading.iter().copied()).add_rows(rows);
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An amount of bytes in its largest fitting binary unit.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}

/// A whole number with its thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_documents_carry_their_schema() {
        let body = serde_json::json!({"leader": 1});
        assert_eq!(document("status", body).unwrap(), r#"{"schema":"saola/status/v1","leader":1}"#);
    }

    #[test]
    fn figures_are_readable() {
        assert_eq!([size(0), size(1023), size(1536), size(5 << 30)], ["0 B", "1023 B", "1.5 KiB", "5.0 GiB"]);
        assert_eq!(
            [grouped(7), grouped(999), grouped(10_794), grouped(1_234_567)],
            ["7", "999", "10,794", "1,234,567"]
        );
        assert_eq!(hex(&[0, 0xab]), "00ab");
    }

    #[test]
    fn tables_have_a_heading_and_aligned_columns() {
        let text = table(&["NODE", "LAG"], &[1], vec![vec!["a".into(), "7".into()], vec!["b".into(), "123".into()]]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].ends_with("  7") && lines[2].ends_with("123"), "{text}");
    }
}

//! What was lived, run by run: `seeds/ledger.txt`, to which `saola-sim --ledger` adds a row per run.
//!
//! A row holds, separated by spaces: the commit, `random` or `worst-days`, the first seed, how many seeds, those that failed
//! (separated by commas; `-`: none), acknowledged writes, reads, faults, and virtual seconds. Lines that begin with `#` are
//! for people. Whoever checks a commit out and lives the same seeds gets the same row.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::path::Path;

/// One run of random lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Of the code that lived them, abbreviated.
    pub commit: String,
    /// Only lives in which a site is lost.
    pub worst_days: bool,
    /// The first seed.
    pub from: u64,
    /// Seeds lived.
    pub seeds: u64,
    /// Those that failed.
    pub failed: Vec<u64>,
    /// Acknowledged writes.
    pub writes: u64,
    /// Answered reads.
    pub reads: u64,
    /// Faults that struck.
    pub faults: u64,
    /// Time in the simulated world, seconds.
    pub virtual_s: u64,
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Row { commit, from, seeds, writes, reads, faults, virtual_s, .. } = self;
        let kind = if self.worst_days { "worst-days" } else { "random" };
        let failed: Vec<String> = self.failed.iter().map(u64::to_string).collect();
        let failed = if failed.is_empty() { "-".to_owned() } else { failed.join(",") };
        write!(f, "{commit} {kind} {from} {seeds} {failed} {writes} {reads} {faults} {virtual_s}")
    }
}

impl std::str::FromStr for Row {
    type Err = String;

    fn from_str(line: &str) -> Result<Row, String> {
        let none = || format!("no row of the ledger: {line:?}");
        let number = |text: &str| text.parse::<u64>().map_err(|_| none());
        let [commit, kind, from, seeds, failed, writes, reads, faults, virtual_s] =
            line.split(' ').collect::<Vec<_>>()[..]
        else {
            return Err(none());
        };
        let is_commit = commit.len() >= 7 && commit.bytes().all(|it| it.is_ascii_hexdigit());
        let worst_days = match kind {
            "random" | "worst-days" if is_commit => kind == "worst-days",
            _ => return Err(none()),
        };
        let failed = match failed {
            "-" => Vec::new(),
            seeds => seeds.split(',').map(number).collect::<Result<_, _>>()?,
        };
        let [from, seeds, writes, reads, faults, virtual_s] =
            [from, seeds, writes, reads, faults, virtual_s].map(number);
        let commit = commit.to_owned();
        let (from, seeds, writes, reads) = (from?, seeds?, writes?, reads?);
        Ok(Row { commit, worst_days, from, seeds, failed, writes, reads, faults: faults?, virtual_s: virtual_s? })
    }
}

/// The rows of a ledger.
///
/// # Errors
/// Says which line is none, or counts seeds that stand there before.
pub fn rows(ledger: &str) -> Result<Vec<Row>, String> {
    let lines = ledger.lines().filter(|line| !line.starts_with('#'));
    let rows: Vec<Row> = lines.map(str::parse).collect::<Result<_, _>>()?;
    for (place, row) in rows.iter().enumerate() {
        is_new(&rows[..place], row)?;
    }
    Ok(rows)
}

fn is_new(rows: &[Row], row: &Row) -> Result<(), String> {
    let is_same = |it: &&Row| {
        let overlaps = it.from < row.from + row.seeds && row.from < it.from + it.seeds;
        overlaps && (&it.commit, it.worst_days) == (&row.commit, row.worst_days)
    };
    rows.iter().find(is_same).map_or(Ok(()), |it| Err(format!("the ledger has some of these seeds already: {it}")))
}

/// The rows of the ledger in this file, none if it is not there, to which a run is to add: `row` says of what commit, and
/// which seeds.
///
/// # Errors
/// Says why the row cannot stand there.
pub fn open(file: &Path, row: &Row) -> Result<Vec<Row>, String> {
    let text = match std::fs::read_to_string(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.to_string()),
        text => text.unwrap_or_default(),
    };
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("its last line has no end".to_owned());
    }
    let rows = rows(&text)?;
    row.to_string().parse::<Row>()?;
    is_new(&rows, row).map(|()| rows)
}

/// All of them together, in a line.
pub fn total(rows: &[Row]) -> String {
    let sum = |count: fn(&Row) -> u64| rows.iter().map(count).sum::<u64>();
    format!(
        "{} lives, {} failed, {} faults, {} writes, {} reads, {} simulated hours",
        sum(|it| it.seeds),
        sum(|it| it.failed.len() as u64),
        sum(|it| it.faults),
        sum(|it| it.writes),
        sum(|it| it.reads),
        sum(|it| it.virtual_s) / 3_600
    )
}

/// Adds a row to the ledger in this file.
///
/// # Errors
/// The file cannot be written.
pub fn add(file: &Path, row: &Row) -> io::Result<()> {
    let mut ledger = OpenOptions::new().append(true).create(true).open(file)?;
    ledger.write_all(format!("{row}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let row = Row {
            commit: "4caeb6c".into(),
            worst_days: true,
            from: 9,
            seeds: 8,
            failed: vec![11, 12],
            writes: 6,
            reads: 5,
            faults: 4,
            virtual_s: 7_300,
        };
        let folder = tempfile::tempdir().expect("a folder can be made");
        let file = folder.path().join("ledger.txt");
        let random = Row { worst_days: false, failed: Vec::new(), ..row.clone() };
        let next = Row { from: 17, ..row.clone() };
        for row in [&row, &random, &next] {
            open(&file, row).expect("it is new");
            add(&file, row).expect("it can be written");
        }
        let read = rows(&std::fs::read_to_string(&file).expect("it can be read")).expect("all are rows");
        assert_eq!(read, [row.clone(), random, next]);
        assert_eq!(total(&read), "24 lives, 4 failed, 12 faults, 18 writes, 15 reads, 6 simulated hours");
        let twice = open(&file, &Row { from: 16, seeds: 1, ..row }).expect_err("it is there");
        assert_eq!(twice, "the ledger has some of these seeds already: 4caeb6c worst-days 9 8 11,12 6 5 4 7300");
    }

    #[test]
    fn what_is_no_row_is_named() {
        let good = "4caeb6c random 1 2 - 4 5 6 7";
        assert!(good.parse::<Row>().is_ok());
        for (from, to) in
            [("4caeb6c", "4caeb6c-dirty"), ("4caeb6c ", " "), ("random", "all"), (" 7", ""), ("-", "x"), ("5", "")]
        {
            let bad = good.replace(from, to);
            assert_eq!(rows(&bad), Err(format!("no row of the ledger: {bad:?}")));
        }
        assert!(rows(&format!("# heading\n{good}\n")).is_ok());
    }
}

//! The table of planted bugs: which the random lives find, and how soon.

use saola_storage::planted::Bug;

/// A bug that takes more lives is one that the nets let through on most nights.
const LIVES_MAX: u64 = 200;

#[test]
fn the_table_names_each_planted_bug_as_found() {
    let table = include_str!("../../seeds/planted.txt");
    let lines = table.lines().filter(|line| !line.starts_with('#'));
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split_whitespace().collect()).collect();
    let names: Vec<&str> = rows.iter().map(|row| row[0]).collect();
    let all: Vec<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
    assert_eq!(names, all, "`make planted TABLE=jepsen-tests/seeds/planted.txt` writes the table");
    assert!(all.len() >= 30, "few bugs prove little");
    for row in rows {
        let [name, median, found, _commit] = row[..] else { panic!("a row holds four columns: {row:?}") };
        let (found, of) = found.split_once('/').expect("found in so many of so many searches");
        let [found, of] = [found, of].map(|count| count.parse::<u64>().expect("a count"));
        assert!(of >= 3, "{name}: a median of {of} searches is none");
        assert_eq!(found, of, "{name}: a search that does not find it is a hole in the nets");
        let median: u64 = median.parse().expect("whatever is found takes so many lives");
        assert!(median <= LIVES_MAX, "{name} takes {median} lives: most nights would miss it");
    }
}

//! The demonstration is a promise too: it ends with its OK line, and leaves no process behind.

use std::process::Command;

use saola_ops::launch::node_binary;

#[test]
fn demo_ends_ok_with_nothing_lost_duplicated_or_readable() {
    let saola = node_binary().expect("saola-node is built: `make build`").with_file_name("saola");
    let output = Command::new(&saola).arg("demo").output().expect("saola is built: `make build`");
    let screen = String::from_utf8_lossy(&output.stdout);
    let talk = String::from_utf8_lossy(&output.stderr);
    let last = screen.lines().last().unwrap_or_default();
    assert!(output.status.success(), "status {:?}\n{screen}\n{talk}", output.status);
    let figures: Vec<(&str, u64)> = last
        .strip_prefix("demo: OK ")
        .unwrap_or_else(|| panic!("last line is {last:?}\n{screen}\n{talk}"))
        .split(' ')
        .map(|figure| figure.split_once('=').expect("name=number"))
        .map(|(name, number)| (name, number.parse().expect("a number")))
        .collect();
    let names: Vec<&str> = figures.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["records", "revisions", "acked", "lost", "duplicated", "gap_ms", "plaintext_hits"]);
    let figure = |name: &str| figures.iter().find(|(found, _)| *found == name).map(|(_, number)| *number);
    assert_eq!(figure("records"), Some(3_355));
    assert_eq!(figure("lost"), Some(0));
    assert_eq!(figure("duplicated"), Some(0));
    assert_eq!(figure("plaintext_hits"), Some(0));
    assert!(figure("acked") > Some(1_000), "{last}");
}

//! What the clients of the harnesses do, and what they cannot do yet.

/// Workloads whose call the product does not have yet, each with the call. Whoever adds the call takes them from here, and adds
/// them to the harnesses, with their checkers and planted bugs.
pub const SKIPPED: [(&str, &str); 7] = [
    ("list-append", "Txn"),
    ("bank", "Txn"),
    ("write skew", "Txn"),
    ("watch", "Watch"),
    ("session reads on followers", "sessions"),
    ("fate of a call", "Outcome"),
    ("leases", "leases"),
];

/// They are told by each run.
pub fn skipped() -> String {
    let each: Vec<String> = SKIPPED.iter().map(|(workload, call)| format!("{workload} ({call})")).collect();
    format!("SKIPPED {} workloads, whose calls do not exist yet: {}", SKIPPED.len(), each.join(", "))
}

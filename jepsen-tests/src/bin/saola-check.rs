//! `saola-check`: judges saved histories again; or a good one that it makes, to tell how fast the judges are.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use saola_jepsen::check::{Violation, linearizable, revision};
use saola_jepsen::history;
use saola_jepsen::operation::{Action, Fingerprint, Operation, Outcome};

/// Judges histories.
#[derive(Parser)]
struct Args {
    /// Files of operations, JSON Lines.
    #[arg(required_unless_present = "made")]
    files: Vec<PathBuf>,
    /// So many operations, made here.
    #[arg(long, conflicts_with = "files")]
    made: Option<u64>,
    /// On so many records.
    #[arg(long, default_value_t = 1_000)]
    records: u64,
    /// By so many clients at a time.
    #[arg(long, default_value_t = 20)]
    clients: u64,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let mut wrong = 0;
    if let Some(count) = args.made {
        let name = format!("{count} operations on {} records by {} clients", args.records, args.clients);
        wrong += judge(&name, &made(count, args.records.max(1), args.clients.max(1)));
    }
    for path in &args.files {
        match history::load::<Operation>(path) {
            Ok(operations) => wrong += judge(&path.display().to_string(), &operations),
            Err(error) => {
                eprintln!("saola-check: read {}: {error}", path.display());
                return ExitCode::from(2);
            }
        }
    }
    if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Prints the verdict of each checker that needs nothing but the history; answers how much is wrong.
fn judge(name: &str, operations: &[Operation]) -> usize {
    println!("{name}");
    type Check = fn(&[Operation]) -> Vec<Violation>;
    let checks: [(&str, Check); 2] = [("linearizable", linearizable::check), ("revision", revision::check)];
    let mut wrong = 0;
    for (check, run) in checks {
        let began = Instant::now();
        let found = run(operations);
        let took_s = began.elapsed().as_secs_f64();
        let verdict = if found.is_empty() { "OK" } else { "WRONG" };
        println!("  {check:<14} {verdict:<6} {took_s:>7.2} s  {:.0} operations/s", operations.len() as f64 / took_s);
        found.iter().for_each(|violation| println!("    {violation}"));
        wrong += found.len();
    }
    wrong
}

/// A good history: each operation takes effect at a moment of its own, and `clients` of them are under way at any time.
fn made(count: u64, records: u64, clients: u64) -> Vec<Operation> {
    let mut newest = vec![(0, None); records as usize];
    let mut revision = 1;
    let operation = |number: u64| {
        // Steps by a large prime visit all records in no order.
        let record = number.wrapping_mul(2_654_435_761) % records;
        let (generation, value) = &mut newest[record as usize];
        let written = Fingerprint(number);
        let action = match number % 10 {
            0..5 => Action::Get,
            5..8 => Action::Put { value: written },
            _ => Action::Cas { expect: *generation, value: written },
        };
        let outcome = if action.is_write() {
            (*generation, *value) = (*generation + 1, Some(written));
            revision += 1;
            Outcome::Written { generation: *generation, revision }
        } else {
            Outcome::Seen { generation: *generation, seen: *value, revision }
        };
        // It takes effect in the middle, at a moment that is no other's.
        let at_ns = 1_000 * (number + clients);
        Operation {
            op_id: number,
            client: (number % clients) as u32,
            record: format!("made/r{record}"),
            action,
            inv_ns: at_ns - 500 * (clients - 1) - 1,
            ret_ns: at_ns + 500 * (clients - 1) + 1,
            outcome,
            node_asked: None,
            node_answered: None,
            epoch: None,
        }
    };
    let mut operations: Vec<Operation> = (0..count).map(operation).collect();
    operations.sort_by_key(|operation| operation.ret_ns);
    operations
}

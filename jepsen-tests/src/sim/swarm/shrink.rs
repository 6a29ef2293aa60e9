//! Makes a failing life smaller while it still fails.

use super::{Life, Report, live};

/// The smallest life found, and its report; `tell` hears of each step. Fewer turns first, then fewer faults and clients.
pub fn shrink(life: &Life, report: Report, mut tell: impl FnMut(&Life)) -> (Life, Report) {
    let mut best = (life.clone(), report);
    loop {
        let before = best.0.clone();
        for smaller in candidates(&best.0) {
            let report = live(&smaller);
            if !report.violations.is_empty() {
                tell(&smaller);
                best = (smaller, report);
                break;
            }
        }
        if best.0 == before {
            return best;
        }
    }
}

fn candidates(life: &Life) -> Vec<Life> {
    let fewer_turns = [life.turns / 2, life.turns.saturating_sub(1)];
    let turns = fewer_turns.into_iter().filter(|turns| *turns < life.turns).map(|turns| Life { turns, ..life.clone() });
    let faults = (0..life.faults.len()).map(|without| {
        let mut smaller = life.clone();
        smaller.faults.remove(without);
        smaller
    });
    let clients = (life.clients > 1).then(|| Life { clients: life.clients - 1, ..life.clone() });
    match life.is_worst_day {
        true => turns.collect(),
        false => turns.chain(faults).chain(clients).collect(),
    }
}

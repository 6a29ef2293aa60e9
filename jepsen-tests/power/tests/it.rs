//! Two hundred power cuts of RocksDB and the log, and whether a life can fail.

use saola_power::life::{Wrong, live, live_all};

#[test]
fn two_hundred_power_cuts_take_nothing_that_was_promised() {
    let sum = live_all(0..10, 20).unwrap_or_else(|what| panic!("{what}"));
    println!("{sum:?}");
    assert_eq!(sum.cuts, 200);
    let met = [sum.in_log, sum.in_rocksdb, sum.flushes, sum.installs, sum.purges, sum.replayed, sum.opened];
    assert!(met.iter().all(|count| *count > 0), "something never happened: {sum:?}");
}

/// A net that catches nothing proves nothing.
#[test]
fn what_is_done_wrong_on_purpose_is_found() {
    std::thread::scope(|scope| {
        for (wrong, by) in Wrong::ALL {
            scope.spawn(move || {
                let found = (0..5).find_map(|seed| live(seed, 10, Some(wrong)).err());
                let found = found.unwrap_or_else(|| panic!("{wrong:?} was not found"));
                assert!(found.contains(by), "{wrong:?} was found by something else: {found}");
                println!("{wrong:?}: {found}");
            });
        }
    });
}

//! What the operating system says of this process, and the process that takes its place.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Argument with which a process ends with whoever started it.
const UNTIL_STDIN_CLOSES: &str = "--until-stdin-closes";

/// Resident memory in bytes; 0 when the system does not tell.
pub fn rss_bytes() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
        })
        .map_or(0, |kib| kib * 1024)
}

/// Keeps keys out of core files.
///
/// # Errors
/// When the system refuses the limit.
pub fn forbid_core_files() -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?)
}

/// Variable by which a process that replaces another one is told how long to wait before it starts, milliseconds.
const START_AFTER_MS: &str = "SAOLA_START_AFTER_MS";

/// Set once whoever started this process has let it go on without them.
static LET_GO: AtomicBool = AtomicBool::new(false);

/// From now on it does not end with whoever started it, nor do the processes that replace it.
pub fn let_go() {
    LET_GO.store(true, Ordering::Relaxed);
}

/// Replaces this process by a new one of the same program, with the same arguments, as SIGKILL and a start after `down`
/// would: nothing is finished first. Whoever supervises it sees no end. Returns only if that fails.
pub fn replace(down: Duration) -> std::io::Error {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "saola-node".into());
    let let_go = LET_GO.load(Ordering::Relaxed);
    let arguments = arguments.filter(|argument| !let_go || argument != UNTIL_STDIN_CLOSES);
    // Also when the file has been replaced since, as by an upgrade.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(arguments).env(START_AFTER_MS, down.as_millis().to_string()).exec()
}

/// Waits for as long as the process that this one has replaced wanted it down; does nothing in all others.
pub fn stay_down() {
    let down_ms = std::env::var(START_AFTER_MS).ok().and_then(|text| text.parse().ok());
    std::thread::sleep(Duration::from_millis(down_ms.unwrap_or(0)));
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_resident_memory() {
        assert!(super::rss_bytes() > 100_000);
    }
}

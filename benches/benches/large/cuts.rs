//! Cuts a process's connections while it receives, spread evenly over what it has to receive.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::figures::folder_bytes;

/// Cutting under way.
pub struct Cuts {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Cuts {
    /// Cuts all TCP connections that process `pid` made, `count` times: whenever `folder` has grown by another part of
    /// `full` bytes. It needs `ss` with the right to close sockets; without it nothing is cut, which the count says.
    pub fn begin(pid: u32, count: u64, full: u64, folder: PathBuf) -> Cuts {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&done));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) && counted.load(Ordering::Relaxed) < count {
                let next = (counted.load(Ordering::Relaxed) + 1) * full / (count + 2);
                if folder_bytes(&folder) >= next && cut_connections_of(pid) {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        Cuts { stop, done, thread }
    }

    /// Ends it and says how many cuts there were.
    pub async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let _joined = tokio::task::spawn_blocking(|| self.thread.join()).await;
        self.done.load(Ordering::Relaxed)
    }
}

/// True when at least one connection was closed.
fn cut_connections_of(pid: u32) -> bool {
    let owner = format!("pid={pid},");
    let listed = Command::new("ss").args(["-Htnp", "state", "established"]).output();
    let Ok(listed) = listed else { return false };
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let ports = text.lines().filter(|line| line.contains(&owner)).filter_map(|line| {
        let local = line.split_whitespace().nth(2)?;
        local.rsplit_once(':').map(|(_, port)| port.to_owned())
    });
    ports.fold(false, |cut, port| {
        let closed = Command::new("ss").args(["-HK", "-tn", &format!("sport = :{port}")]).output();
        closed.is_ok_and(|closed| !closed.stdout.is_empty()) || cut
    })
}

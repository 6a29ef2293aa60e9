//! Being told to stop: Ctrl-C, SIGTERM, or the terminal going away.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Failure;

/// A flag that becomes true when the process is asked to end, for a verb that first settles what is under way.
///
/// # Errors
/// When the system refuses a signal handler.
pub fn noted() -> Result<Arc<AtomicBool>, Failure> {
    let asked = asked_to_end(1)?;
    let flag = Arc::new(AtomicBool::new(false));
    let noted = flag.clone();
    tokio::spawn(async move {
        asked.await;
        eprintln!("interrupted: waiting for what is under way; once more ends at once");
        noted.store(true, Ordering::Relaxed);
    });
    Ok(flag)
}

/// Resolves when the process has been asked to end so many times.
///
/// # Errors
/// When the system refuses a signal handler.
pub fn asked_to_end(times: u32) -> Result<impl Future<Output = ()>, Failure> {
    let handler = |kind| signal(kind).map_err(|source| Failure::file("listen for signals", &source));
    let mut interrupt = handler(SignalKind::interrupt())?;
    let mut terminate = handler(SignalKind::terminate())?;
    let mut hangup = handler(SignalKind::hangup())?;
    Ok(async move {
        for _ in 0..times {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        }
    })
}

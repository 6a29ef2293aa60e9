//! Being told to stop: Ctrl-C, SIGTERM, or the terminal going away.

use tokio::signal::unix::{SignalKind, signal};

use crate::exit::Failure;

/// Resolves when the process is asked to end.
///
/// # Errors
/// When the system refuses a signal handler.
pub async fn asked_to_end() -> Result<(), Failure> {
    let handler = |kind| signal(kind).map_err(|source| Failure::file("listen for signals", &source));
    let mut interrupt = handler(SignalKind::interrupt())?;
    let mut terminate = handler(SignalKind::terminate())?;
    let mut hangup = handler(SignalKind::hangup())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}

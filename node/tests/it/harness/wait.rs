//! Conditions that only asking can tell, awaited with a deadline.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

/// Far more than a healthy machine needs: it ends a test that would otherwise hang.
pub const LIMIT: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Asks until there is an answer; panics with what is still missing.
pub async fn until<T>(what: &str, ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    within(ask).await.unwrap_or_else(|still| panic!("{what}: {still}"))
}

/// Asks until there is an answer; the error says what is still missing.
pub async fn within<T>(mut ask: impl AsyncFnMut() -> Result<T, String>) -> Result<T, String> {
    let mut again = interval(ASK_EVERY);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut missing = String::from("not asked yet");
    let answer = timeout(LIMIT, async {
        loop {
            again.tick().await;
            match ask().await {
                Ok(answer) => return answer,
                Err(still) => missing = still,
            }
        }
    })
    .await;
    answer.map_err(|_| format!("not within {LIMIT:?}: {missing}"))
}

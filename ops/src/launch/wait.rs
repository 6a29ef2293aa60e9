//! Waiting for a condition that only asking can tell.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior};

use crate::exit::{Exit, Failure};

const ASK_EVERY: Duration = Duration::from_millis(50);

/// Asks until `ask` has an answer. `ask` returns what is still missing as its error.
///
/// # Errors
/// When there is no answer within `limit`, with what was missing last.
pub async fn wait_until<T, F, Fut>(what: &str, limit: Duration, mut ask: F) -> Result<T, Failure>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let until = Instant::now() + limit;
    let mut again = tokio::time::interval(ASK_EVERY);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut missing = String::from("no answer");
    loop {
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(until) => break,
            result = async { again.tick().await; ask().await } => match result {
                Ok(answer) => return Ok(answer),
                Err(still) => missing = still,
            },
        }
    }
    Err(Failure::new(
        Exit::Unreachable,
        format!("{what}: not within {} s: {missing}", limit.as_secs()),
        "see node.log in the nodes' folders",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_ends_with_the_answer() {
        let mut asked = 0;
        let answer = wait_until("count", Duration::from_secs(60), || {
            asked += 1;
            let result = if asked < 3 { Err(format!("{asked} of 3")) } else { Ok(asked) };
            async { result }
        });
        assert_eq!(answer.await.unwrap(), 3);
    }

    #[tokio::test]
    async fn waiting_ends_at_its_limit_although_the_question_is_never_answered() {
        let never = wait_until("count", Duration::from_millis(1), std::future::pending::<Result<(), String>>);
        assert!(never.await.unwrap_err().what().contains("count: not within 0 s: no answer"));
    }
}

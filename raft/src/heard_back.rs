//! When the leader last counted an acknowledgement of this site, as a node of this site knows for certain, by its own
//! clock.
//!
//! A node numbers its answers to appends. The leader tells with each message the number of the newest answer that it has
//! received from there, and how old the newest acknowledgement that it counts is (or its quorum's confirmation, if that is
//! older: no other leader was elected before it). Such a message was sent after that answer was, so the acknowledgement is
//! no older than the answer by more than that age. It is the moment from which the degrade timer runs at the earliest.

use std::collections::VecDeque;
use std::time::Duration;

use openraft::Instant;

/// So many answers are remembered.
const MOST: usize = 64;

/// See the head of this module.
#[derive(Debug)]
pub(crate) struct HeardBack<I> {
    /// Number of this process's first answer: random, so that nobody takes an earlier process's answers for its own.
    first: u64,
    next: u64,
    /// Answers, and when they were sent; one for each that is at least this much later than the one before.
    noted: VecDeque<(u64, I)>,
    apart: Duration,
    acknowledged: Option<I>,
}

impl<I: Instant> HeardBack<I> {
    pub(crate) fn new(random: u64, apart: Duration) -> Self {
        let first = (random >> 1) + 1;
        Self { first, next: first, noted: VecDeque::new(), apart, acknowledged: None }
    }

    /// An answer is about to be sent; its number.
    pub(crate) fn answer(&mut self, now: I) -> u64 {
        let number = self.next;
        self.next += 1;
        if self.noted.back().is_none_or(|(_, sent)| now >= *sent + self.apart) {
            self.noted.push_back((number, now));
            if self.noted.len() > MOST {
                self.noted.pop_front();
            }
        }
        number
    }

    /// A leader has received this answer, and counts an acknowledgement that is no older.
    pub(crate) fn heard(&mut self, answer: u64, age: Duration) {
        if !(self.first..self.next).contains(&answer) {
            return;
        }
        let sent = self.noted.iter().rev().find(|(number, _)| *number <= answer).map(|(_, sent)| *sent);
        // The oldest ones may have been forgotten, and the clock may have begun later than that age.
        let Some(at) = sent.and_then(|sent| earlier(sent, age)) else { return };
        if self.acknowledged.is_none_or(|before| at > before) {
            self.acknowledged = Some(at);
        }
    }

    pub(crate) fn acknowledged(&self) -> Option<I> {
        self.acknowledged
    }
}

/// None: before the clock's beginning. Instants have no checked subtraction of their own here.
fn earlier<I: Instant>(at: I, by: Duration) -> Option<I> {
    let most = Duration::from_secs(24 * 3600);
    (by < most).then(|| at - by)
}

#[cfg(test)]
mod tests {
    use super::*;

    type Clock = openraft_rt_tokio::TokioInstant;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn an_acknowledgement_is_no_older_than_the_answer_that_the_leader_had_by_then() {
        let began = Clock::now();
        let mut it = HeardBack::<Clock>::new(10, ms(5));
        let first = it.answer(began);
        let close = it.answer(began + ms(1));
        let later = it.answer(began + ms(100));
        it.heard(close, ms(30));
        assert_eq!(it.acknowledged(), Some(began - ms(30)), "the one before it is as good");
        it.heard(later, ms(20));
        assert_eq!(it.acknowledged(), Some(began + ms(80)));
        it.heard(first, ms(0));
        assert_eq!(it.acknowledged(), Some(began + ms(80)), "what is known stays");
    }

    #[test]
    fn answers_of_an_earlier_process_say_nothing() {
        let mut it = HeardBack::<Clock>::new(10, ms(5));
        it.answer(Clock::now());
        for answer in [0, 5, 7, u64::MAX] {
            it.heard(answer, ms(0));
        }
        assert_eq!(it.acknowledged(), None);
    }
}

//! When the leader last counted an acknowledgement of this site, as a node of this site knows for certain, by its own
//! clock.
//!
//! A node numbers its answers to appends. The leader tells with each message the number of the newest answer that it has
//! received from there, and how old the newest acknowledgement that it counts is (or its quorum's confirmation, if that is
//! older: no other leader was elected before it). Such a message was sent after that answer was, so the acknowledgement is
//! no older than the answer by more than that age. It is the moment from which the degrade timer runs at the earliest.
//! Both clocks of the node are asked how long ago that was: the steady one stands still while a machine sleeps, the wall
//! clock may be set back.

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
    noted: VecDeque<(u64, Moment<I>)>,
    apart: Duration,
    acknowledged: Option<(Moment<I>, Duration)>,
}

/// By both clocks of a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Moment<I> {
    pub(crate) steady: I,
    /// Microseconds since 1970.
    pub(crate) wall_us: u64,
}

impl<I: Instant> Moment<I> {
    /// How long ago that was, at the most that one of the clocks says.
    fn age(&self, now: Moment<I>) -> Duration {
        let steady = if now.steady > self.steady { now.steady - self.steady } else { Duration::ZERO };
        steady.max(Duration::from_micros(now.wall_us.saturating_sub(self.wall_us)))
    }
}

impl<I: Instant> HeardBack<I> {
    pub(crate) fn new(random: u64, apart: Duration) -> Self {
        let first = (random >> 1) + 1;
        Self { first, next: first, noted: VecDeque::new(), apart, acknowledged: None }
    }

    /// An answer is about to be sent; its number.
    pub(crate) fn answer(&mut self, now: Moment<I>) -> u64 {
        let number = self.next;
        self.next += 1;
        if self.noted.back().is_none_or(|(_, sent)| now.steady >= sent.steady + self.apart) {
            self.noted.push_back((number, now));
            if self.noted.len() > MOST {
                self.noted.pop_front();
            }
        }
        number
    }

    /// A leader has received this answer, and counts an acknowledgement that is older by this much at most.
    pub(crate) fn heard(&mut self, answer: u64, before: Duration, now: Moment<I>) {
        let Some(sent) = self.sent(answer) else { return };
        let age = |(sent, before): &(Moment<I>, Duration)| sent.age(now).saturating_add(*before);
        let newer = (sent, before);
        if self.acknowledged.as_ref().is_none_or(|known| age(&newer) < age(known)) {
            self.acknowledged = Some(newer);
        }
    }

    /// When this answer was sent, at the latest an instant of the few before it that is remembered; none: it is none of this
    /// process, or forgotten. Whoever tells that it has received it tells so later.
    pub(crate) fn sent(&self, answer: u64) -> Option<Moment<I>> {
        let is_own = (self.first..self.next).contains(&answer);
        let noted = self.noted.iter().rev().find(|(number, _)| *number <= answer);
        noted.filter(|_| is_own).map(|(_, sent)| *sent)
    }

    /// How old the newest acknowledgement is that the leader has told of, at most; none: it has told of none.
    pub(crate) fn age(&self, now: Moment<I>) -> Option<Duration> {
        self.acknowledged.map(|(sent, before)| sent.age(now).saturating_add(before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Clock = openraft_rt_tokio::TokioInstant;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn at(began: Clock, after_ms: u64) -> Moment<Clock> {
        Moment { steady: began + ms(after_ms), wall_us: 1_000_000 + after_ms * 1_000 }
    }

    #[test]
    fn an_acknowledgement_is_no_older_than_the_answer_that_the_leader_had_by_then() {
        let began = Clock::now();
        let mut it = HeardBack::<Clock>::new(10, ms(5));
        let first = it.answer(at(began, 0));
        let close = it.answer(at(began, 1));
        let later = it.answer(at(began, 100));
        let now = at(began, 200);
        it.heard(close, ms(30), now);
        assert_eq!(it.age(now), Some(ms(230)), "the one before it is as good");
        it.heard(later, ms(20), now);
        assert_eq!(it.age(now), Some(ms(120)));
        it.heard(first, ms(0), now);
        assert_eq!(it.age(now), Some(ms(120)), "what is known stays");
        assert_eq!(it.age(at(began, 300)), Some(ms(220)));
    }

    #[test]
    fn an_answer_was_sent_when_it_was_or_a_little_earlier_and_that_of_nobody_never() {
        let began = Clock::now();
        let mut it = HeardBack::<Clock>::new(10, ms(5));
        let answers: Vec<u64> = (0..200).map(|number| it.answer(at(began, number))).collect();
        let sent = |number: usize| it.sent(answers[number]).map(|moment| moment.steady);
        assert_eq!((sent(195), sent(199)), (Some(began + ms(195)), Some(began + ms(195))));
        assert_eq!(it.sent(answers[199] + 1), None, "it is still to come");
        assert_eq!(it.sent(0), None, "the leader has heard none");
        for number in 200..2_000 {
            it.answer(at(began, number));
        }
        assert_eq!(it.sent(answers[0]), None, "it is forgotten");
    }

    #[test]
    fn a_machine_that_slept_or_whose_clock_was_set_back_makes_it_no_younger() {
        let began = Clock::now();
        let mut it = HeardBack::<Clock>::new(10, ms(5));
        let answer = it.answer(at(began, 0));
        it.heard(answer, ms(0), at(began, 10));
        let slept = Moment { wall_us: at(began, 5_000).wall_us, ..at(began, 10) };
        assert_eq!(it.age(slept), Some(ms(5_000)));
        let set_back = Moment { wall_us: 0, ..at(began, 40) };
        assert_eq!(it.age(set_back), Some(ms(40)));
    }

    #[test]
    fn answers_of_an_earlier_process_say_nothing() {
        let now = at(Clock::now(), 0);
        let mut it = HeardBack::<Clock>::new(10, ms(5));
        it.answer(now);
        for answer in [0, 5, 7, u64::MAX] {
            it.heard(answer, ms(0), now);
        }
        assert_eq!(it.age(now), None);
    }
}

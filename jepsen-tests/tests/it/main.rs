//! The harnesses, and proof that the checkers behind them catch what they must.
//!
//! - `checkers`: good histories pass, every mutated one is rejected;
//! - `good_history`: where those histories come from;
//! - `second_opinion`: the linearizability checker against an exhaustive search.

mod checkers;
mod good_history;
mod second_opinion;

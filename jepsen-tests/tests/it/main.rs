//! The harnesses, and proof that the checkers behind them catch what they must.
//!
//! - `checkers`: good histories pass, every mutated one is rejected;
//! - `demo`: the demonstration ends OK;
//! - `drill_live`: drills, by the command, to their end and broken off;
//! - `good_history`: where those histories come from;
//! - `swarm`: random lives of them: seeds that once failed, and that a seed decides all;
//! - `scenarios`: simulated clusters with a plot, one promise each;
//! - `membership_live`: nodes that join, go and are replaced, and folders that are refused;
//! - `models`: state machines of the product in every order of events within a small scope;
//! - `promotion_live`: a site goes on without the other by force, by the command;
//! - `protection_live`: two sites under maximum protection and maximum availability, by the command;
//! - `runbooks_live`: the commands of each runbook, on a cluster in that state;
//! - `second_opinion`: the linearizability checker against an exhaustive search.

mod checkers;
mod demo;
mod drill_live;
mod good_history;
mod membership_live;
mod models;
mod promotion_live;
mod protection_live;
mod runbooks_live;
mod scenarios;
mod second_opinion;
mod swarm;

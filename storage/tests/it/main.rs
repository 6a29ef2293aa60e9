//! Integration tests of the storage crate: one module per part and promise.

#[cfg(feature = "rocksdb")]
mod fixtures;
mod formats;
mod log_examine;
mod log_faults;
mod log_full;
mod log_model;
mod log_real;
mod log_salvage;
mod log_support;
mod log_unreadable;
mod state_difference;
mod state_engine;
mod state_epochs;
mod state_export;
#[cfg(feature = "rocksdb")]
mod state_fork;
mod state_keys;
#[cfg(feature = "rocksdb")]
mod state_kill;
mod state_model;
mod state_requests;
mod state_retention;
mod state_ruin;
mod state_scrub;
mod state_store;
mod state_support;

//! Placeholder map; each part adds its module line here.

pub mod command;
pub mod types;
pub mod collection;
pub mod kek;
pub mod keyring;
pub mod seal;
mod apply;
mod catalog;
pub mod chain;
mod digest;
pub mod engine;
pub mod error;
pub mod export;
pub mod keyspace;
mod read;
pub mod store;
pub mod disk;
pub mod log;

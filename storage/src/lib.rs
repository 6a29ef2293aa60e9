//! Placeholder map; each part adds its module line here.

mod apply;
mod catalog;
pub mod chain;
pub mod collection;
pub mod command;
pub mod digest;
pub mod disk;
pub mod engine;
pub mod error;
pub mod export;
pub mod folder;
pub mod heal;
pub mod import;
pub mod kek;
pub mod keyring;
pub mod keyspace;
pub mod log;
pub mod member;
pub mod payload;
pub mod quarantine;
mod read;
pub mod release;
pub mod scrub;
pub mod seal;
pub mod store;
pub mod types;

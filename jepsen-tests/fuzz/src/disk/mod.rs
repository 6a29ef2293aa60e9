//! What a node finds on its disk when it starts.
//!
//! - [`log`]: the log's segments; [`rows`]: the rows of the store; [`files`]: identity and KEK file.

pub mod files;
pub mod log;
pub mod rows;

//! The release that writes, and what is said of a format that a newer one wrote.

use std::fmt;

/// This release. It stands in what it writes, so that an older release can say which one is needed.
pub const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// Most bytes of a writer's name that are believed and shown.
const WRITER_BYTES: usize = 32;

/// A format that this release does not read, with the release that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownFormat {
    found: u64,
    writer: String,
    reads: u64,
}

impl UnknownFormat {
    /// Format `found`, by `writer` (as it named itself; empty where that is not known), where this release reads
    /// format `reads`.
    pub fn new(found: u64, writer: &str, reads: u64) -> UnknownFormat {
        let named = writer.len() <= WRITER_BYTES && writer.bytes().all(|byte| byte.is_ascii_graphic());
        UnknownFormat { found, writer: if named { writer.to_owned() } else { String::new() }, reads }
    }
}

impl fmt::Display for UnknownFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UnknownFormat { found, writer, reads } = self;
        match writer.as_str() {
            "" => write!(
                f,
                "has format {found}; this release {RELEASE} reads format {reads}: install the release that wrote it or later"
            ),
            _ => write!(
                f,
                "has format {found}, written by Saola {writer}; this release {RELEASE} reads format {reads}: \
                 install {writer} or later"
            ),
        }
    }
}

impl std::error::Error for UnknownFormat {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_format_names_its_writer_and_what_to_install() {
        let text = UnknownFormat::new(2, "0.3.0", 1).to_string();
        let expected = format!(
            "has format 2, written by Saola 0.3.0; this release {RELEASE} reads format 1: install 0.3.0 or later"
        );
        assert_eq!(text, expected);
        for unnamed in ["", "0.3.0\nerror: ", &"9".repeat(33)] {
            let text = UnknownFormat::new(2, unnamed, 1).to_string();
            assert!(text.ends_with("install the release that wrote it or later"), "{text}");
        }
    }
}

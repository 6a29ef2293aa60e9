//! A failure as one sentence: the error with its causes, each said once.

use std::error::Error;

/// The error and its causes, without those that the text before them says already.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |&cause| cause.source()).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("open a.toml: {source}; give its path")]
    struct Says {
        source: io::Error,
    }

    #[derive(Debug, thiserror::Error)]
    #[error("open a.toml")]
    struct Leaves {
        source: Says,
    }

    #[test]
    fn every_cause_is_said_once() {
        let says = || Says { source: io::Error::other("no such file") };
        assert_eq!(chain(&says()), "open a.toml: no such file; give its path");
        assert_eq!(chain(&Leaves { source: says() }), "open a.toml: open a.toml: no such file; give its path");
    }
}

//! The lines of a file or of standard input, counted and hashed as they are read.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::exit::Failure;

/// A line may have the largest value (1 MiB) as base64, and its id and names.
const LINE_MAX: u64 = 2 << 20;

/// Where the lines come from.
pub struct Source {
    reader: Box<dyn AsyncBufRead + Send + Unpin>,
    name: String,
    file: Option<PathBuf>,
    lines: u64,
    hash: Sha256,
}

/// A line as it stands in the source.
pub struct RawLine {
    /// Its number, from 1.
    pub number: u64,
    /// Its bytes without the line end.
    pub text: Vec<u8>,
    /// SHA-256 of the source up to and including this line.
    pub prefix_sha256: [u8; 32],
}

impl Source {
    /// Opens `file`, or standard input for `-`.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub async fn open(file: &Path) -> Result<Source, Failure> {
        let (name, path, kept) = match file == Path::new("-") {
            true => ("standard input".to_owned(), Path::new("/dev/stdin"), None),
            false => (file.display().to_string(), file, Some(file.to_owned())),
        };
        let opened =
            tokio::fs::File::open(path).await.map_err(|source| Failure::input(format!("open {name}"), &source))?;
        Ok(Source::new(&name, kept, opened))
    }

    /// Lines from any reader; `file` is where a checkpoint may stand.
    pub fn new(
        name: &str,
        file: Option<PathBuf>,
        reader: impl tokio::io::AsyncRead + Send + Unpin + 'static,
    ) -> Source {
        let reader = Box::new(BufReader::with_capacity(256 << 10, reader));
        Source { reader, name: name.to_owned(), file, lines: 0, hash: Sha256::new() }
    }

    /// Its name in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file; none for standard input.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Number of lines; none for standard input.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn count_lines(&self) -> Result<Option<u64>, Failure> {
        let Some(file) = &self.file else { return Ok(None) };
        let count = || -> io::Result<u64> {
            let mut opened = fs::File::open(file)?;
            let mut chunk = vec![0; 1 << 20];
            let (mut lines, mut last) = (0, b'\n');
            loop {
                let read = opened.read(&mut chunk)?;
                let Some(end) = chunk[..read].last() else { break };
                last = *end;
                lines += memchr::memchr_iter(b'\n', &chunk[..read]).count() as u64;
            }
            Ok(lines + u64::from(last != b'\n'))
        };
        count().map(Some).map_err(|source| Failure::file(format!("read {}", self.name), &source))
    }

    /// The next line.
    ///
    /// # Errors
    /// A source that cannot be read, or a line that is too long.
    pub async fn next(&mut self) -> Result<Option<RawLine>, Failure> {
        let number = self.lines + 1;
        let mut text = Vec::new();
        let mut bounded = (&mut self.reader).take(LINE_MAX);
        bounded
            .read_until(b'\n', &mut text)
            .await
            .map_err(|source| Failure::file(format!("read {}", self.name), &source))?;
        if text.is_empty() {
            return Ok(None);
        }
        self.lines = number;
        self.hash.update(&text);
        if text.last() == Some(&b'\n') {
            text.pop();
        } else if text.len() as u64 == LINE_MAX {
            return Err(Failure::usage(
                format!("{}:{number}: the line is longer than {LINE_MAX} bytes", self.name),
                "write one JSON object a line; values hold at most 1 MiB",
            ));
        }
        Ok(Some(RawLine { number, text, prefix_sha256: self.hash.clone().finalize().into() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_numbered_and_the_last_needs_no_line_end() {
        let mut source = Source::new("x", None, &b"a\n\nb"[..]);
        let mut lines = Vec::new();
        while let Some(line) = source.next().await.unwrap() {
            lines.push((line.number, String::from_utf8(line.text).unwrap()));
        }
        assert_eq!(lines, [(1, "a".into()), (2, String::new()), (3, "b".into())]);
    }

    #[tokio::test]
    async fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        let endless = tokio::io::repeat(b'x');
        let failure = Source::new("x", None, endless).next().await.err().unwrap();
        assert!(failure.what().contains("x:1: the line is longer"), "{failure}");
    }

    #[test]
    fn lines_are_counted_as_they_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        for (text, lines) in [("", 0), ("a", 1), ("a\n", 1), ("a\n\nb", 3)] {
            fs::write(&path, text).unwrap();
            let source = Source::new("a", Some(path.clone()), tokio::io::empty());
            assert_eq!(source.count_lines().unwrap(), Some(lines), "{text:?}");
        }
    }
}

//! Searches raw disks, freed blocks included, and what nodes print, for what must stand nowhere in clear (P5).
//!
//! Every form in which a program might leave it is searched for: as it is, backwards, as UTF-16, as hexadecimal digits, and as
//! base64 at each of the three places that it can begin at within a group of three bytes.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use memchr::memmem::Finder;

/// Bytes read at a time.
const PIECE_BYTES: usize = 4 << 20;

/// What is searched for.
pub struct Secrets {
    /// What it is, in which form, and what finds it.
    finders: Vec<(String, Finder<'static>)>,
    /// The longest form.
    longest: usize,
}

/// Of a secret, the forms in which it may stand.
pub fn forms(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let hex: Vec<u8> = secret.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).collect();
    let mut forms = vec![
        ("as it is", secret.to_vec()),
        ("backwards", secret.iter().rev().copied().collect()),
        ("UTF-16", secret.iter().flat_map(|byte| [*byte, 0]).collect()),
        ("hexadecimal in capitals", hex.to_ascii_uppercase()),
        ("hexadecimal", hex),
    ];
    for skipped in 0..3 {
        let within = &secret[skipped..];
        // The last group may share its digits with what follows.
        let digits = STANDARD_NO_PAD.encode(&within[..within.len() / 3 * 3]);
        forms.push(("base64", digits.into_bytes()));
    }
    forms
}

impl Secrets {
    /// These, each with what it is.
    pub fn new(secrets: &[(&str, Vec<u8>)]) -> Secrets {
        let mut finders = Vec::new();
        let mut longest = 0;
        for (what, secret) in secrets {
            for (form, bytes) in forms(secret) {
                longest = longest.max(bytes.len());
                finders.push((format!("{what}, {form}"), Finder::new(&bytes).into_owned()));
            }
        }
        Secrets { finders, longest }
    }

    /// What of it stands in a file, each form once.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn found_in(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut file = File::open(path)?;
        let mut piece = vec![0; PIECE_BYTES + self.longest];
        let (mut kept, mut found) = (0, Vec::new());
        loop {
            let mut filled = kept;
            while filled < piece.len() {
                match file.read(&mut piece[filled..])? {
                    0 => break,
                    count => filled += count,
                }
            }
            let bytes = &piece[..filled];
            // Most of an image was never written.
            if bytes.iter().any(|byte| *byte != 0) {
                for (what, finder) in &self.finders {
                    if !found.contains(what) && finder.find(bytes).is_some() {
                        found.push(what.clone());
                    }
                }
            }
            if filled < piece.len() {
                return Ok(found);
            }
            // What begins in this piece may end in the next one.
            kept = self.longest;
            piece.copy_within(filled - kept.., 0);
        }
    }

    /// What of it stands in any file of a folder, with the file's name.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn found_below(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                found.extend(self.found_below(&path)?);
            } else {
                found.extend(self.found_in(&path)?.into_iter().map(|what| format!("{}: {what}", path.display())));
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_found_wherever_it_begins_and_nothing_else_is() {
        let secret = b"an institution's secret, 2026".to_vec();
        let secrets = Secrets::new(&[("canary", secret.clone())]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        for before in [0, 1, 2, PIECE_BYTES - 3, PIECE_BYTES + 17] {
            for (form, bytes) in forms(&secret) {
                let mut file = vec![7; before];
                file.extend(bytes);
                file.extend([9; 100]);
                fs::write(&path, &file).unwrap();
                assert_eq!(secrets.found_in(&path).unwrap(), [format!("canary, {form}")], "behind {before} bytes");
            }
            let mut text = vec![b'x'; before];
            text.extend(&secret);
            text.extend(b"tail");
            fs::write(&path, STANDARD_NO_PAD.encode(&text)).unwrap();
            assert_eq!(secrets.found_in(&path).unwrap(), ["canary, base64"], "behind {before} bytes");
            fs::write(&path, vec![7; before]).unwrap();
            assert!(secrets.found_below(folder.path()).unwrap().is_empty());
        }
    }
}

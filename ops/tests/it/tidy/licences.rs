//! Licences of dependencies: SPDX expressions judged against the allow list of `deny.toml`.

use super::{deny, metadata, resolved};

#[test]
fn every_dependency_has_an_allowed_licence() {
    let allow = deny().licenses.allow;
    for package in resolved(&metadata()) {
        let licence = package.license.as_deref().unwrap_or("none stated");
        assert!(
            allows(&allow, licence),
            "{} {} is under `{licence}`, which deny.toml does not allow",
            package.name,
            package.version
        );
    }
}

#[test]
fn expressions_are_judged_as_spdx_means_them() {
    let allow = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(String::from);
    for good in [
        "MIT",
        "MIT OR GPL-3.0",
        "GPL-3.0/MIT",
        "MIT AND ISC",
        "GPL-3.0 OR (MIT AND ISC)",
        "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
    ] {
        assert!(allows(&allow, good), "{good}");
    }
    for bad in [
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(MIT OR ISC) AND GPL-3.0",
        "Apache-2.0",
        "",
        "none stated",
        "MIT OR",
        "(MIT",
        "MIT MIT",
    ] {
        assert!(!allows(&allow, bad), "{bad}");
    }
}

/// True when one may choose licences from `allow` that satisfy `expression`; false for what is no expression.
fn allows(allow: &[String], expression: &str) -> bool {
    // Old manifests write `/` where SPDX says OR.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = Words { allow, words: spaced.split_whitespace().collect(), next: 0 };
    let verdict = words.any_of();
    verdict == Some(true) && words.next == words.words.len()
}

/// Recursive descent; `None` is a syntax error.
struct Words<'a> {
    allow: &'a [String],
    words: Vec<&'a str>,
    next: usize,
}

impl<'a> Words<'a> {
    fn any_of(&mut self) -> Option<bool> {
        let mut verdict = self.all_of()?;
        while self.take("OR") {
            verdict |= self.all_of()?;
        }
        Some(verdict)
    }

    fn all_of(&mut self) -> Option<bool> {
        let mut verdict = self.one()?;
        while self.take("AND") {
            verdict &= self.one()?;
        }
        Some(verdict)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let verdict = self.any_of()?;
            return self.take(")").then_some(verdict);
        }
        let mut licence = self.word()?.to_string();
        if self.take("WITH") {
            licence = format!("{licence} WITH {}", self.word()?);
        }
        Some(self.allow.contains(&licence))
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.words.get(self.next) == Some(&word);
        self.next += usize::from(found);
        found
    }

    fn word(&mut self) -> Option<&'a str> {
        let word = *self.words.get(self.next)?;
        if ["OR", "AND", "WITH", "(", ")"].contains(&word) {
            return None;
        }
        self.next += 1;
        Some(word)
    }
}

//! Signed reports: a JSON file in which the report stands byte for byte as it was signed, and the chain that they form.
//!
//! `report` is hashed and signed as it stands in the file. The signature (Ed25519, RFC 8032) is over
//! `saola/drill-report/v1` and the SHA-256 of those bytes; the next report of the cluster names that hash.

use std::path::Path;

use saola_storage::promotion::{ApproverKey, is_signed_by};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::checks::follows;
use super::page::page;
use super::report::{Report, SCHEMA};
use crate::exit::{Exit, Failure};
use crate::output::hex;

/// Of the file.
const FILE_SCHEMA: &str = "saola/signed-drill-report/v1";
const DOMAIN: &[u8] = b"saola/drill-report/v1";
/// In a page the file stands between these.
pub const PAGE_BEGIN: &str = r#"<script type="application/json" id="signed-report">"#;
/// See [`PAGE_BEGIN`].
pub const PAGE_END: &str = "</script>";

/// A signed report as it is stored and sent.
#[derive(Serialize, Deserialize)]
pub struct SignedReport {
    schema: String,
    /// Of `report`, hexadecimal.
    sha256: String,
    /// Key of whoever signed, hexadecimal.
    public_key: String,
    signature: String,
    report: Box<RawValue>,
}

/// What a file turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// The report.
    pub report: Report,
    /// Its hash, hexadecimal.
    pub sha256: String,
    /// Key of whoever signed it, hexadecimal.
    pub public_key: String,
    /// The signed report, without the page it may stand in.
    pub text: String,
    /// It stands in a page, and whether that is the page which this release makes of it; none: it stands in none.
    pub page_as_made: Option<bool>,
}

fn message(report: &str) -> Vec<u8> {
    [DOMAIN, &Sha256::digest(report.as_bytes())].concat()
}

impl SignedReport {
    /// Signs a report.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn sign(report: &Report, key: &ApproverKey) -> Result<SignedReport, Failure> {
        let failed = |error: serde_json::Error| {
            Failure::new(Exit::Other, format!("write the report: {error}"), "keep what is on the screen")
        };
        // So that it can stand in a page: `<` is only ever part of a string, where this means the same.
        let text = serde_json::to_string_pretty(report).map_err(failed)?.replace('<', "\\u003c");
        Ok(SignedReport {
            schema: FILE_SCHEMA.to_owned(),
            sha256: hex(&Sha256::digest(text.as_bytes())),
            public_key: hex(&key.public()),
            signature: hex(&key.sign(&message(&text))),
            report: RawValue::from_string(text).map_err(failed)?,
        })
    }

    /// The file.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn to_text(&self) -> Result<String, Failure> {
        let text = serde_json::to_string_pretty(self);
        text.map_err(|error| Failure::new(Exit::Other, format!("write the report: {error}"), "run the drill again"))
    }

    /// Reads a file, JSON or a page, and checks that it is whole: schema, hash, signature, and that the verdict follows.
    ///
    /// # Errors
    /// Why it is not to be believed.
    pub fn verify(text: &str) -> Result<Verified, String> {
        let (json, is_page) = match text.split_once(PAGE_BEGIN) {
            Some((_, rest)) => (rest.split_once(PAGE_END).ok_or("the page is cut short")?.0, true),
            None => (text, false),
        };
        let signed: SignedReport =
            serde_json::from_str(json).map_err(|error| format!("it is no signed report: {error}"))?;
        let SignedReport { schema, sha256, public_key, signature, report } = signed;
        if schema != FILE_SCHEMA {
            return Err(format!("it is {schema:?}; this release reads {FILE_SCHEMA:?}"));
        }
        if sha256 != hex(&Sha256::digest(report.get().as_bytes())) {
            return Err("its hash is another one: the report was changed".into());
        }
        let bytes = |text: &str| unhex(text).ok_or_else(|| format!("{text:?} is not hexadecimal"));
        if !is_signed_by(&bytes(&public_key)?, &message(report.get()), &bytes(&signature)?) {
            return Err("the signature is not that of the key it names: the report or its signature was changed".into());
        }
        let report: Report = serde_json::from_str(report.get())
            .map_err(|error| format!("it is signed, and no report that this release reads: {error}"))?;
        match report.schema == SCHEMA {
            false => Err(format!("it is {:?}; this release reads {SCHEMA:?}", report.schema)),
            true if !follows(&report) => Err("its verdict does not follow from what was measured".into()),
            true if report.number > 1 && report.previous_sha256.is_none() => {
                Err(format!("it is report {}, and names no report before it", report.number))
            }
            true => {
                let page_as_made = is_page.then(|| page(&report, json, &sha256, &public_key) == text);
                Ok(Verified { report, sha256, public_key, text: json.to_owned(), page_as_made })
            }
        }
    }
}

/// The first digits of a key, as people compare them.
pub fn short_key(public_key: &str) -> &str {
    public_key.get(..16).unwrap_or(public_key)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    match digits.len().is_multiple_of(2) && text.is_ascii() {
        true => digits.chunks(2).map(byte).collect(),
        false => None,
    }
}

/// Reads and checks a file.
///
/// # Errors
/// It cannot be read, or is not to be believed.
pub fn verify_file(path: &Path) -> Result<Verified, Failure> {
    let doing = format!("verify {}", path.display());
    let text = std::fs::read_to_string(path).map_err(|source| Failure::input(&doing, &source))?;
    SignedReport::verify(&text).map_err(|why| {
        let next =
            "ask whoever held the drill for the file again, or take it from the cluster: `saola drill report NUMBER`";
        Failure::new(Exit::Verification, format!("{doing}: {why}"), next)
    })
}

/// Whether reports that were verified one by one, in the order of their numbers, form a chain.
///
/// # Errors
/// Where it breaks.
pub fn check_chain(reports: &[Verified]) -> Result<(), String> {
    for pair in reports.windows(2) {
        let [one, next] = pair else { continue };
        let (number, after) = (one.report.number, next.report.number);
        if one.report.cluster.id != next.report.cluster.id {
            return Err(format!("reports {number} and {after} are of different clusters"));
        }
        if after <= number {
            return Err(format!("report {after} stands behind report {number}"));
        }
        let follows = next.report.previous_sha256.as_ref() == Some(&one.sha256);
        if after == number + 1 && !follows {
            return Err(format!("report {after} was written after another report {number} than this one"));
        }
    }
    Ok(())
}

/// Numbers that lie between those of these reports, which stand in order.
pub fn not_shown(reports: &[Verified]) -> Vec<u64> {
    let numbers = |pair: &[Verified]| pair[0].report.number + 1..pair[1].report.number;
    reports.windows(2).flat_map(numbers).collect()
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::super::checks::Verdict;
    use super::super::report::tests::passed;
    use super::*;

    fn key() -> ApproverKey {
        ApproverKey::from_random(&Zeroizing::new([7; 32]))
    }

    fn text(report: &Report) -> String {
        SignedReport::sign(report, &key()).and_then(|it| it.to_text()).expect("it can be written")
    }

    #[test]
    fn a_report_is_verified_as_a_file_and_within_a_page() {
        let text = text(&passed());
        let verified = SignedReport::verify(&text).expect("nobody changed it");
        assert_eq!((&verified.report, &verified.public_key), (&passed(), &hex(&key().public())));
        assert!(!text.contains('<'), "it can stand in a page");
        let page = page(&passed(), &text, &verified.sha256, &verified.public_key);
        let in_page = SignedReport::verify(&page).expect("nobody changed it");
        assert_eq!((in_page.page_as_made, verified.page_as_made), (Some(true), None));
        assert_eq!(Verified { page_as_made: None, ..in_page }, verified);
        let forged = SignedReport::verify(&page.replace("827 ms", "27 ms").replace("1.2 s", "0.2 s"));
        assert_eq!(forged.expect("what is signed is whole").page_as_made, Some(false));
    }

    #[test]
    fn a_report_of_version_1_is_still_read() {
        let file = include_str!("../../tests/fixtures/drill-report-v1.json");
        let verified = SignedReport::verify(file).expect("an inspector has it");
        assert_eq!((verified.report.number, verified.report.verdict), (3, Verdict::Passed));
        assert_eq!(verified.report.outages[0].rto_ms, 1_210);
    }

    #[test]
    fn any_change_is_found() {
        let text = text(&passed());
        let refused = |changed: String| {
            assert_ne!(changed, text);
            SignedReport::verify(&changed).expect_err("it was changed")
        };
        assert!(refused(text.replace("\"rto_ms\": 1210", "\"rto_ms\": 121")).contains("hash"));
        let other = SignedReport::sign(&Report { by: "nobody".into(), ..passed() }, &key()).expect("it can be written");
        assert!(refused(text.replace(&signature(&text), &other.signature)).contains("signature"));
        assert!(refused(text.replace("signed-drill-report/v1", "signed-drill-report/v9")).contains("v9"));
        assert!(refused(text[..text.len() / 2].to_owned()).contains("no signed report"));
        let typed = Report { verdict: Verdict::Failed, ..passed() };
        let typed = SignedReport::sign(&typed, &key()).and_then(|it| it.to_text()).expect("it can be written");
        assert!(refused(typed).contains("does not follow"));
    }

    fn signature(text: &str) -> String {
        let signed: SignedReport = serde_json::from_str(text).expect("it is one");
        signed.signature
    }

    #[test]
    fn reports_form_a_chain() {
        let first = SignedReport::verify(&text(&passed())).expect("nobody changed it");
        let next = |previous: &str| {
            let report = Report { number: 4, previous_sha256: Some(previous.to_owned()), ..passed() };
            SignedReport::verify(&text(&report)).expect("nobody changed it")
        };
        check_chain(&[first.clone(), next(&first.sha256)]).expect("it follows");
        let mut later = next(&first.sha256);
        later.report.number = 7;
        assert_eq!(not_shown(&[first.clone(), later]), [4, 5, 6]);
        let orphan = Report { previous_sha256: None, ..passed() };
        assert!(SignedReport::verify(&text(&orphan)).expect_err("it is the third").contains("names no report"));
        let broken = check_chain(&[first.clone(), next(&"0".repeat(64))]).expect_err("another one was before it");
        assert_eq!(broken, "report 4 was written after another report 3 than this one");
        assert!(check_chain(&[next(&first.sha256), first]).is_err());
    }
}

//! What the development authority issues, as any other program reads it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use saola_ops::certificates::{Authority, Holder};
use x509_parser::prelude::*;

/// What is in a certificate file.
struct Read {
    names: Vec<String>,
    server: bool,
    client: bool,
    days: i64,
    valid_now: bool,
    issuer: String,
    subject: String,
}

fn read(path: &Path) -> Read {
    let (_, pem) = parse_x509_pem(&fs::read(path).unwrap()).unwrap();
    let cert = pem.parse_x509().unwrap();
    let names = cert.subject_alternative_name().unwrap().map(|names| names.value.general_names.clone());
    let usage = cert.extended_key_usage().unwrap().map(|usage| usage.value.clone());
    let span = cert.validity().not_after.timestamp() - cert.validity().not_before.timestamp();
    Read {
        names: names.unwrap_or_default().iter().map(ToString::to_string).collect(),
        server: usage.as_ref().is_some_and(|usage| usage.server_auth),
        client: usage.as_ref().is_some_and(|usage| usage.client_auth),
        days: span / 86_400,
        valid_now: cert.validity().is_valid(),
        issuer: cert.issuer().to_string(),
        subject: cert.subject().to_string(),
    }
}

#[test]
fn node_certificates_serve_and_call_under_the_names_that_others_check() {
    let folder = tempfile::tempdir().unwrap();
    let issued = Authority::open(folder.path()).unwrap().issue(Holder::Node, "main-1", 365).unwrap();
    let cert = read(&issued.cert);
    for name in ["main-1.node.saola", "node.saola", "localhost"] {
        assert!(cert.names.contains(&format!("DNSName({name})")), "{:?}", cert.names);
    }
    assert!(
        cert.names.iter().any(|name| name.contains("127.0.0.1") || name.contains("7f:00:00:01")),
        "{:?}",
        cert.names
    );
    assert!(cert.server && cert.client && cert.valid_now);
    assert_eq!((cert.days, cert.issuer), (365, read(&folder.path().join("ca.pem")).subject));
}

#[test]
fn client_certificates_only_call_and_pass_for_no_node() {
    let folder = tempfile::tempdir().unwrap();
    let issued = Authority::open(folder.path()).unwrap().issue(Holder::Client, "app", 365).unwrap();
    let cert = read(&issued.cert);
    assert_eq!(cert.names, ["DNSName(app.client.saola)"]);
    assert!(cert.client && !cert.server);
}

#[test]
fn the_authority_outlives_what_it_signs_and_is_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let first = Authority::open(folder.path()).unwrap();
    let ca = folder.path().join("ca.pem");
    assert_eq!(read(&ca).days, 5 * 365);
    let again = Authority::open(folder.path()).unwrap();
    assert_eq!(first.pem(), again.pem());
    assert_eq!(fs::read_to_string(&ca).unwrap(), again.pem());
    let issued = again.issue(Holder::Node, "main-2", 1).unwrap();
    assert_eq!(read(&issued.cert).issuer, read(&ca).subject);
}

#[test]
fn certificates_can_be_made_that_have_expired() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open(folder.path()).unwrap();
    for (name, days) in [("today", 0), ("yesterday", -1)] {
        let issued = authority.issue(Holder::Node, name, days).unwrap();
        assert!(!read(&issued.cert).valid_now, "{name}");
    }
}

#[test]
fn keys_are_for_their_owner_alone_and_nothing_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open(folder.path()).unwrap();
    let issued = authority.issue(Holder::Client, "app", 1).unwrap();
    for key in [issued.key.as_path(), &folder.path().join("ca.key")] {
        assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600, "{}", key.display());
    }
    let before = fs::read(&issued.key).unwrap();
    let failure = authority.issue(Holder::Client, "app", 1).unwrap_err();
    assert!(failure.what().contains("there already"), "{failure}");
    assert_eq!(fs::read(&issued.key).unwrap(), before);
}

#[test]
fn names_that_would_break_out_of_the_folder_or_the_certificate_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::open(folder.path()).unwrap();
    for name in ["", "ca", "../x", "a b", "-a", "a.b", &"x".repeat(64)] {
        assert!(authority.issue(Holder::Node, name, 1).is_err(), "{name:?}");
    }
    fs::remove_file(folder.path().join("ca.key")).unwrap();
    assert!(Authority::open(folder.path()).err().unwrap().what().contains("ca.key is missing"));
}

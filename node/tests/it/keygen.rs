//! `saola-node keygen`.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::harness::process::run;

#[test]
fn a_key_file_is_made_once_for_its_owner_alone_and_its_public_half_printed() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("main.kek");
    let path = file.to_str().unwrap();
    let (done, public, errors) = run(&["keygen", "kek", "--out", path]);
    assert!(done, "{errors}");
    assert_eq!(public.trim().len(), 64, "{public}");
    assert!(public.trim().bytes().all(|digit| digit.is_ascii_hexdigit()), "{public}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(run(&["keygen", "public", "--file", path]), (true, public.clone(), String::new()));

    let before = fs::read(&file).unwrap();
    assert!(!String::from_utf8_lossy(&before).contains(public.trim()), "the file holds the private half");
    let (done, printed, errors) = run(&["keygen", "kek", "--out", path]);
    assert!(!done && printed.is_empty());
    assert!(errors.contains("a key is never overwritten") && errors.contains("choose another path"), "{errors}");
    assert_eq!(fs::read(&file).unwrap(), before);

    let (_, other, _) = run(&["keygen", "kek", "--out", folder.path().join("dr.kek").to_str().unwrap()]);
    assert_ne!(other, public);
}

#[test]
fn a_public_half_is_not_printed_from_a_file_that_is_no_good_key() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("main.kek");
    let path = file.to_str().unwrap();
    let refused = |expected: &str| {
        let (done, printed, errors) = run(&["keygen", "public", "--file", path]);
        assert!(!done && printed.is_empty(), "{printed}");
        assert!(errors.contains(expected), "{expected:?} in: {errors}");
    };
    refused("it does not exist");
    fs::write(&file, "secret").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    refused("run `chmod 600");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    refused("restore the file");
}

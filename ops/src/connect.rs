//! From flags, environment and profile file to a client.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use saola_client::{Client, ClientBuilder, Tls};
use serde::{Deserialize, Serialize};

use crate::cli::Global;
use crate::exit::Failure;

/// A profile file (TOML): where a cluster is and how to prove who one is. Relative paths start at the file's folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// `host:port` of data nodes.
    #[serde(default)]
    pub endpoints: Vec<String>,
    /// Certificate of the authority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// The client's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert: Option<PathBuf>,
    /// Its private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
}

impl Profile {
    /// Reads a profile file.
    ///
    /// # Errors
    /// A missing file, wrong TOML, or an unknown key.
    pub fn read(path: &Path) -> Result<Profile, Failure> {
        let doing = format!("read profile {}", path.display());
        let text = fs::read_to_string(path).map_err(|source| Failure::input(&doing, &source))?;
        let mut profile: Profile = toml::from_str(&text).map_err(|error| {
            Failure::usage(format!("{doing}: {error}"), "a profile has the keys endpoints, ca, cert and key")
        })?;
        let folder = path.parent().unwrap_or(Path::new(""));
        for file in [&mut profile.ca, &mut profile.cert, &mut profile.key].into_iter().flatten() {
            *file = folder.join(&*file);
        }
        Ok(profile)
    }

    /// What flags and environment say, and from the profile what they leave open.
    ///
    /// # Errors
    /// A profile that cannot be read.
    pub fn effective(global: &Global) -> Result<Profile, Failure> {
        let profile = global.profile.as_deref().map(Profile::read).transpose()?.unwrap_or_default();
        Ok(Profile {
            endpoints: if global.endpoint.is_empty() { profile.endpoints } else { global.endpoint.clone() },
            ca: global.ca.clone().or(profile.ca),
            cert: global.cert.clone().or(profile.cert),
            key: global.key.clone().or(profile.key),
        })
    }
}

/// The client of this command; `default_timeout` holds where `--timeout` is not given.
///
/// # Errors
/// What is missing or cannot be read.
pub fn client(global: &Global, default_timeout: Duration) -> Result<Client, Failure> {
    let profile = Profile::effective(global)?;
    let timeout = global.timeout.unwrap_or(default_timeout);
    Ok(builder(profile)?.deadline(timeout).build()?)
}

/// The client of this command, for one other node.
///
/// # Errors
/// As [`client`].
pub fn client_of(global: &Global, endpoints: Vec<String>, default_timeout: Duration) -> Result<Client, Failure> {
    let profile = Profile { endpoints, ..Profile::effective(global)? };
    let timeout = global.timeout.unwrap_or(default_timeout);
    Ok(builder(profile)?.deadline(timeout).build()?)
}

/// A client of a program that begins at these nodes.
///
/// # Errors
/// As [`client`].
pub fn writer(
    global: &Global,
    endpoints: Vec<String>,
    deadline: Duration,
    attempt: Duration,
) -> Result<Client, Failure> {
    let profile = Profile { endpoints, ..Profile::effective(global)? };
    Ok(builder(profile)?.deadline(deadline).attempt_timeout(attempt).build()?)
}

fn builder(profile: Profile) -> Result<ClientBuilder, Failure> {
    if profile.endpoints.is_empty() {
        return Err(missing("no node to talk to", "--endpoint HOST:PORT, SAOLA_ENDPOINT"));
    }
    let (Some(ca), Some(cert), Some(key)) = (profile.ca, profile.cert, profile.key) else {
        return Err(missing(
            "no certificates to prove who you are",
            "--ca, --cert and --key, SAOLA_CA, SAOLA_CERT and SAOLA_KEY",
        ));
    };
    Ok(Client::builder().endpoints(profile.endpoints).tls(Tls::from_files(ca, cert, key)?))
}

fn missing(what: &str, how: &str) -> Failure {
    Failure::usage(
        what,
        format!("give {how}, or --profile FILE; `saola dev` starts a cluster to try and prints a profile"),
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn flags_win_over_the_profile_and_its_paths_start_at_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("profile.toml");
        fs::write(&path, "endpoints = [\"a:1\"]\nca = \"ca.pem\"\ncert = \"/else/where.pem\"\n").unwrap();
        let path = path.to_str().unwrap();
        let cli = Cli::parse_from(["saola", "--profile", path, "--key", "k.key", "--endpoint", "b:2,c:3", "status"]);
        let profile = Profile::effective(&cli.global).unwrap();
        assert_eq!(profile.endpoints, ["b:2", "c:3"]);
        assert_eq!(profile.ca.unwrap(), folder.path().join("ca.pem"));
        assert_eq!(profile.cert.unwrap(), Path::new("/else/where.pem"));
        assert_eq!(profile.key.unwrap(), Path::new("k.key"));
    }

    #[test]
    fn an_unknown_key_in_a_profile_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("profile.toml");
        fs::write(&path, "endpoint = \"a:1\"\n").unwrap();
        let failure = Profile::read(&path).unwrap_err();
        assert!(failure.what().contains("endpoint") && failure.next().contains("endpoints"), "{failure}");
    }
}

//! Turns the file into [`Settings`], and settings back into a file with every default filled in.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use saola_raft::{Role, ScrubSettings, Timing};

use super::file::{
    KekSection, LimitsSection, ListenSection, NodeSection, ScrubSection, SettingsFile, TimingSection, TlsSection,
};
use super::{
    DEFAULT_LOG_KEEP_BYTES, DEFAULT_LOG_KEEP_HOURS, DEFAULT_MIN_FREE_BYTES, DEFAULT_SNAPSHOT_BYTES_PER_S,
    MIN_SNAPSHOT_BYTES_PER_S, Settings, SettingsError, TlsPaths,
};

/// Names go into certificates as a DNS label, hence this bound and alphabet.
const MAX_NAME_CHARS: usize = 63;

/// Checks every value of a file that was read from `path`.
///
/// # Errors
/// [`SettingsError::Value`] for the first value that cannot be used.
pub fn check(path: &Path, raw: SettingsFile) -> Result<Settings, SettingsError> {
    let value = |key: &'static str, reason: String, next: &str| SettingsError::Value {
        path: path.into(),
        key,
        reason,
        next: next.into(),
    };
    for (key, name) in [("node.name", &raw.node.name), ("node.site", &raw.node.site)] {
        check_name(name).map_err(|reason| {
            value(key, reason, "use lower-case letters, digits and inner hyphens, as in \"main-1\"")
        })?;
    }
    if raw.node.node_id == 0 {
        return Err(value(
            "node.node_id",
            "0 is no node id".into(),
            "number the nodes from 1, as in the topology file",
        ));
    }
    let role = role(&raw.node.role).ok_or_else(|| {
        value("node.role", format!("{:?} is no role", raw.node.role), "write \"voter\", \"learner\" or \"witness\"")
    })?;
    match (role, &raw.kek) {
        (Role::Witness, Some(_)) => {
            return Err(value(
                "kek.file",
                "a witness holds no key".into(),
                "remove the section [kek], and the key file from this machine",
            ));
        }
        (Role::Voter | Role::Learner, None) => {
            return Err(value(
                "kek.file",
                "missing, and a data node cannot open records without its site's key".into(),
                "add a section [kek] with file = \"...\"; `saola-node keygen kek --out FILE` makes one",
            ));
        }
        _ => {}
    }
    let address = |key: &'static str, text: &str| {
        text.parse::<SocketAddr>().map_err(|_| {
            value(
                key,
                format!("{text:?} is no address"),
                "write an IP address and a port below 65536, as in \"127.0.0.1:7001\"",
            )
        })
    };
    let peer = address("listen.peer", &raw.listen.peer)?;
    let client = address("listen.client", &raw.listen.client)?;
    let metrics = raw.listen.metrics.as_deref().map(|m| address("listen.metrics", m)).transpose()?;
    for (key, other) in [("listen.client", Some(client)), ("listen.metrics", metrics)] {
        if other.is_some_and(|o| o == peer && o.port() != 0) {
            return Err(value(key, format!("{peer} is listen.peer's address too"), "give each its own port"));
        }
    }
    if metrics.is_some_and(|m| m == client && m.port() != 0) {
        return Err(value(
            "listen.metrics",
            format!("{client} is listen.client's address too"),
            "give each its own port",
        ));
    }
    let timing = timing(&raw.timing).map_err(|(key, reason, next)| value(key, reason, &next))?;
    let scrub = scrub(&raw.scrub).map_err(|(key, next)| value(key, "it is out of range".into(), next))?;

    let snapshot_bytes_per_s = raw.limits.snapshot_bytes_per_s.unwrap_or(DEFAULT_SNAPSHOT_BYTES_PER_S);
    if snapshot_bytes_per_s < MIN_SNAPSHOT_BYTES_PER_S {
        return Err(value(
            "limits.snapshot_bytes_per_s",
            format!("{snapshot_bytes_per_s} is so slow that the receiver would give up"),
            "write 1048576 (1 MiB) or more",
        ));
    }

    let base = path.parent().unwrap_or_else(|| Path::new("."));
    // `join` keeps an absolute path as it is.
    let resolve = |p: PathBuf| base.join(p);
    Ok(Settings {
        name: raw.node.name,
        node_id: raw.node.node_id,
        site: raw.node.site,
        role,
        data_dir: resolve(raw.node.data_dir),
        peer,
        client,
        metrics,
        tls: TlsPaths { ca: resolve(raw.tls.ca), cert: resolve(raw.tls.cert), key: resolve(raw.tls.key) },
        kek: raw.kek.map(|k| resolve(k.file)),
        timing,
        min_free_bytes: raw.limits.min_free_bytes.unwrap_or(DEFAULT_MIN_FREE_BYTES),
        snapshot_bytes_per_s,
        scrub,
        log_keep_bytes: raw.limits.log_keep_bytes.unwrap_or(DEFAULT_LOG_KEEP_BYTES),
        log_keep_hours: raw.limits.log_keep_hours.unwrap_or(DEFAULT_LOG_KEEP_HOURS),
    })
}

/// The key that is wrong, and what to write instead.
fn scrub(raw: &ScrubSection) -> Result<ScrubSettings, (&'static str, &'static str)> {
    let mut scrub = ScrubSettings::default();
    match raw.bytes_per_s {
        None => {}
        Some(bytes @ 65_536..) => scrub.bytes_per_s = bytes,
        Some(_) => return Err(("scrub.bytes_per_s", "write 65536 or more; 8388608 is usual")),
    }
    match raw.every_hours {
        None => {}
        Some(hours @ 1..=8_760) => scrub.every = Duration::from_secs(hours * 3_600),
        Some(_) => return Err(("scrub.every_hours", "write 1 to 8760; 24 is usual")),
    }
    Ok(scrub)
}

impl Settings {
    /// The settings in effect as a settings file, defaults written out. Holds paths, no secrets.
    ///
    /// # Errors
    /// When a figure does not fit TOML's 64-bit signed integers.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(&SettingsFile {
            node: NodeSection {
                name: self.name.clone(),
                node_id: self.node_id,
                site: self.site.clone(),
                role: self.role.as_str().into(),
                data_dir: self.data_dir.clone(),
            },
            listen: ListenSection {
                peer: self.peer.to_string(),
                client: self.client.to_string(),
                metrics: self.metrics.map(|m| m.to_string()),
            },
            tls: TlsSection { ca: self.tls.ca.clone(), cert: self.tls.cert.clone(), key: self.tls.key.clone() },
            kek: self.kek.clone().map(|file| KekSection { file }),
            timing: TimingSection {
                preset: None,
                heartbeat_ms: Some(self.timing.heartbeat_ms),
                election_min_ms: Some(self.timing.election_min_ms),
                election_max_ms: Some(self.timing.election_max_ms),
                degrade_ms: Some(self.timing.degrade_ms),
            },
            limits: LimitsSection {
                min_free_bytes: Some(self.min_free_bytes),
                snapshot_bytes_per_s: Some(self.snapshot_bytes_per_s),
                log_keep_bytes: Some(self.log_keep_bytes),
                log_keep_hours: Some(self.log_keep_hours),
            },
            scrub: ScrubSection {
                bytes_per_s: Some(self.scrub.bytes_per_s),
                every_hours: Some(self.scrub.every.as_secs() / 3_600),
            },
        })
    }
}

/// Accepts names that fit a DNS label: lower-case letters, digits, inner hyphens, 1 to 63.
///
/// # Errors
/// A phrase that says what is wrong with the name.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("a name is empty".into());
    }
    if name.len() > MAX_NAME_CHARS {
        return Err(format!("a name has {} characters, {MAX_NAME_CHARS} are allowed", name.len()));
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if !name.chars().all(allowed) || name.starts_with('-') || name.ends_with('-') {
        return Err(format!("{name:?} is no name"));
    }
    Ok(())
}

fn role(name: &str) -> Option<Role> {
    [Role::Voter, Role::Learner, Role::Witness].into_iter().find(|r| r.as_str() == name)
}

type Refusal = (&'static str, String, String);

fn timing(raw: &TimingSection) -> Result<Timing, Refusal> {
    let figures = (raw.heartbeat_ms, raw.election_min_ms, raw.election_max_ms);
    let timing = match (raw.preset.as_deref(), figures) {
        (None | Some("lan"), (None, None, None)) if raw.degrade_ms.is_none() => Timing::LAN,
        (Some("wan"), (None, None, None)) if raw.degrade_ms.is_none() => Timing::WAN,
        (None, (Some(heartbeat_ms), Some(election_min_ms), Some(election_max_ms))) => {
            // Between the presets' relations: a leader that is lost is replaced well before.
            let degrade_ms = raw.degrade_ms.unwrap_or(2 * election_max_ms);
            Timing { heartbeat_ms, election_min_ms, election_max_ms, degrade_ms }
        }
        (Some("lan" | "wan"), _) => {
            return Err((
                "timing.preset",
                "a preset and own figures contradict each other".into(),
                "keep either preset or the figures".into(),
            ));
        }
        (Some(other), _) => {
            return Err(("timing.preset", format!("{other:?} is no preset"), "write \"lan\" or \"wan\"".into()));
        }
        (None, _) => {
            return Err((
                "timing",
                "some of the three figures are missing".into(),
                "give heartbeat_ms, election_min_ms and election_max_ms, or only preset".into(),
            ));
        }
    };
    timing.check().map_err(|reason| ("timing", reason.to_string(), "take preset = \"lan\" or \"wan\"".to_string()))?;
    Ok(timing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
[node]
name = "main-1"
node_id = 1
site = "main"
role = "voter"
data_dir = "data"
[listen]
peer = "127.0.0.1:7101"
client = "127.0.0.1:7001"
[tls]
ca = "ca.pem"
cert = "node.pem"
key = "/etc/saola/node.key"
[kek]
file = "main.kek"
"#;

    fn parse(text: &str) -> Result<Settings, SettingsError> {
        let path = Path::new("/etc/node/saola.toml");
        let raw =
            toml::from_str(text).map_err(|e| SettingsError::Parse { path: path.into(), reason: e.to_string() })?;
        check(path, raw)
    }

    fn refusal(from: &str, to: &str) -> String {
        assert!(GOOD.contains(from), "the good file holds {from}");
        parse(&GOOD.replace(from, to)).expect_err("refused").to_string()
    }

    #[test]
    fn paths_start_at_the_folder_of_the_file() {
        let settings = parse(GOOD).expect("good file");
        assert_eq!(settings.data_dir, Path::new("/etc/node/data"));
        assert_eq!(settings.tls.key, Path::new("/etc/saola/node.key"));
        assert_eq!(settings.min_free_bytes, DEFAULT_MIN_FREE_BYTES);
        assert_eq!(settings.snapshot_bytes_per_s, DEFAULT_SNAPSHOT_BYTES_PER_S);
    }

    #[test]
    fn what_the_log_keeps_is_as_the_file_says_and_has_defaults() {
        let kept = |text: &str| {
            let settings = parse(text).expect("good file");
            let printed = settings.to_toml().expect("printable");
            assert!(printed.contains(&format!("log_keep_bytes = {}", settings.log_keep_bytes)), "{printed}");
            assert!(printed.contains(&format!("log_keep_hours = {}", settings.log_keep_hours)), "{printed}");
            (settings.log_keep_bytes, settings.log_keep_hours)
        };
        assert_eq!(kept(GOOD), (DEFAULT_LOG_KEEP_BYTES, DEFAULT_LOG_KEEP_HOURS));
        assert_eq!(kept(&format!("{GOOD}[limits]\nlog_keep_bytes = 9\nlog_keep_hours = 0\n")), (9, 0));
        assert!(refusal("[kek]", "[limits]\nlog_keep_hours = -1\n[kek]").contains("log_keep_hours"));
    }

    #[test]
    fn printed_settings_are_a_settings_file_that_means_the_same() {
        let settings = parse(GOOD).expect("good file");
        let printed = settings.to_toml().expect("printable");
        let again = parse(&printed).expect("printed file is good");
        assert_eq!(again.to_toml().expect("printable"), printed);
        assert_eq!(format!("{again:?}"), format!("{settings:?}"));
    }

    #[test]
    fn an_unknown_key_is_named() {
        let message = refusal("name = \"main-1\"", "name = \"main-1\"\ncolour = 1");
        assert!(message.contains("colour"), "{message}");
    }

    #[test]
    fn every_unusable_value_is_named_with_its_key() {
        for (from, to, key) in [
            ("\"main-1\"", "\"Main 1\"", "node.name"),
            ("node_id = 1", "node_id = 0", "node.node_id"),
            ("\"voter\"", "\"leader\"", "node.role"),
            ("127.0.0.1:7101", "127.0.0.1:99999", "listen.peer"),
            ("127.0.0.1:7001", "127.0.0.1:7101", "listen.client"),
            ("[kek]", "[timing]\npreset = \"moon\"\n[kek]", "timing.preset"),
            ("[kek]", "[timing]\nheartbeat_ms = 5\n[kek]", "timing"),
            ("\"voter\"", "\"witness\"", "kek.file"),
            ("[kek]\nfile = \"main.kek\"", "", "kek.file"),
        ] {
            let message = refusal(from, to);
            assert!(message.contains(&format!(": {key}: ")), "{key}: {message}");
        }
    }
}

//! A development certificate authority: what a real one has to issue, made on this machine.
//!
//! Node certificates carry `NAME.node.saola` (other nodes check it), `node.saola` (clients check it), `localhost` and
//! 127.0.0.1, and serve and call; client certificates carry `NAME.client.saola` and only call.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use serde_json::json;
use zeroize::Zeroizing;

use crate::cli::DevCertArgs;
use crate::exit::{Exit, Failure};
use crate::output::{Format, print_json, print_line};

const DAY: Duration = Duration::from_secs(86_400);
/// The authority outlives what it signs.
const AUTHORITY_DAYS: u32 = 5 * 365;
/// Clocks of two machines may differ by this much.
const BACKDATED: Duration = Duration::from_secs(300);

/// Whose certificate it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A node.
    Node,
    /// A program or a person.
    Client,
}

/// A certificate authority in a folder: `ca.pem` and `ca.key`.
pub struct Authority {
    folder: PathBuf,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Where a certificate and its key were written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Certificate, PEM.
    pub cert: PathBuf,
    /// Private key, PEM, mode 0600.
    pub key: PathBuf,
}

impl Authority {
    /// The authority of `folder`; makes folder and authority where they are missing.
    ///
    /// # Errors
    /// Files that cannot be read or written, or only one of the two being there.
    pub fn open(folder: &Path) -> Result<Authority, Failure> {
        fs::create_dir_all(folder)
            .map_err(|source| Failure::file(format!("create folder {}", folder.display()), &source))?;
        let (cert_path, key_path) = (folder.join("ca.pem"), folder.join("ca.key"));
        match (cert_path.exists(), key_path.exists()) {
            (false, false) => Authority::make(folder, &cert_path, &key_path),
            (true, true) => {
                let pem = read(&cert_path)?;
                let key = Zeroizing::new(read(&key_path)?);
                let issuer = KeyPair::from_pem(&key).and_then(|key| Issuer::from_ca_cert_pem(&pem, key));
                let issuer =
                    issuer.map_err(|error| refused(&format!("use authority {}", cert_path.display()), &error))?;
                Ok(Authority { folder: folder.to_owned(), pem, issuer })
            }
            (there, _) => {
                let missing = if there { key_path } else { cert_path };
                Err(Failure::new(
                    Exit::Other,
                    format!("authority in {}: {} is missing", folder.display(), missing.display()),
                    "restore the file, or choose another folder with --out",
                ))
            }
        }
    }

    fn make(folder: &Path, cert_path: &Path, key_path: &Path) -> Result<Authority, Failure> {
        let doing = format!("make authority in {}", folder.display());
        let key = KeyPair::generate().map_err(|error| refused(&doing, &error))?;
        let mut params = named("Saola development authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        lasting(&mut params, i64::from(AUTHORITY_DAYS));
        let pem = params.self_signed(&key).map_err(|error| refused(&doing, &error))?.pem();
        write_new(key_path, 0o600, Zeroizing::new(key.serialize_pem()).as_bytes())?;
        write_new(cert_path, 0o644, pem.as_bytes())?;
        Ok(Authority { folder: folder.to_owned(), pem, issuer: Issuer::new(params, key) })
    }

    /// The authority's certificate, PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Issues `NAME.pem` and `NAME.key` into the authority's folder, valid for `days` days; 0 or less has expired.
    ///
    /// # Errors
    /// A name that cannot stand in a certificate, or a file that is there already.
    pub fn issue(&self, holder: Holder, name: &str, days: i32) -> Result<Issued, Failure> {
        let issued =
            Issued { cert: self.folder.join(format!("{name}.pem")), key: self.folder.join(format!("{name}.key")) };
        self.issue_to(holder, name, days, &issued)?;
        Ok(issued)
    }

    /// The same with paths of its own.
    ///
    /// # Errors
    /// As [`Authority::issue`].
    pub fn issue_to(&self, holder: Holder, name: &str, days: i32, to: &Issued) -> Result<(), Failure> {
        let doing = format!("issue certificate {name}");
        check_name(name).map_err(|reason| {
            Failure::usage(format!("{doing}: {reason}"), "use letters, digits and hyphens, at most 63, as in main-1")
        })?;
        let (names, usages): (Vec<String>, _) = match holder {
            Holder::Node => (
                vec![format!("{name}.node.saola"), saola_client::SERVER_NAME.to_owned(), "localhost".to_owned()],
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            ),
            Holder::Client => (vec![format!("{name}.client.saola")], vec![ExtendedKeyUsagePurpose::ClientAuth]),
        };
        let mut params = named(name);
        for dns in names {
            let dns = dns.try_into().map_err(|error| refused(&doing, &error))?;
            params.subject_alt_names.push(SanType::DnsName(dns));
        }
        if holder == Holder::Node {
            params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        lasting(&mut params, i64::from(days));
        let key = KeyPair::generate().map_err(|error| refused(&doing, &error))?;
        let cert = params.signed_by(&key, &self.issuer).map_err(|error| refused(&doing, &error))?;
        write_new(&to.key, 0o600, Zeroizing::new(key.serialize_pem()).as_bytes())?;
        write_new(&to.cert, 0o644, cert.pem().as_bytes())
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Sets the time in which the certificate holds: `days` days from now, or up to so many days ago.
fn lasting(params: &mut CertificateParams, days: i64) {
    let epoch = date_time_ymd(1970, 1, 1);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let span = DAY * u32::try_from(days.unsigned_abs()).unwrap_or(u32::MAX / 2);
    if days > 0 {
        params.not_before = epoch + now - BACKDATED;
        params.not_after = epoch + now + span;
    } else {
        // Ended before now by more than clocks may differ, and held for a day.
        params.not_after = epoch + now - span - 2 * BACKDATED;
        params.not_before = params.not_after - DAY;
    }
}

/// A name becomes a DNS label and a file name.
fn check_name(name: &str) -> Result<(), &'static str> {
    match name {
        "" => Err("the name is empty"),
        "ca" => Err("the name is the authority's own"),
        _ if name.len() > 63 => Err("the name is longer than 63 characters"),
        _ if name.starts_with('-') || name.ends_with('-') => Err("the name begins or ends with a hyphen"),
        _ if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') => {
            Err("the name holds other characters than letters, digits and hyphens")
        }
        _ => Ok(()),
    }
}

fn refused(doing: &str, error: &rcgen::Error) -> Failure {
    Failure::new(Exit::Other, format!("{doing}: {error}"), "choose another folder with --out to begin anew")
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|source| Failure::file(format!("read {}", path.display()), &source))
}

/// Writes a file that must not be there yet.
fn write_new(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), Failure> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    opened.and_then(|mut file| file.write_all(bytes)).map_err(|source| {
        let doing = format!("write {}", path.display());
        match source.kind() {
            io::ErrorKind::AlreadyExists => Failure::new(
                Exit::Precondition,
                format!("{doing}: it is there already"),
                "remove it first, or choose another --out",
            ),
            _ => Failure::file(doing, &source),
        }
    })
}

/// `saola cert dev`.
///
/// # Errors
/// As [`Authority::open`] and [`Authority::issue`].
pub fn run(args: &DevCertArgs, format: Format) -> Result<Exit, Failure> {
    let authority = Authority::open(&args.out)?;
    let mut made = Vec::new();
    for (holder, names) in [(Holder::Node, &args.node), (Holder::Client, &args.client)] {
        for name in names {
            made.push((holder, name, authority.issue(holder, name, args.valid_days)?));
        }
    }
    let ca = args.out.join("ca.pem");
    match format {
        Format::Json => {
            let certificates: Vec<_> = made
                .iter()
                .map(|(holder, name, issued)| {
                    json!({"name": name, "for": word(*holder), "cert": issued.cert, "key": issued.key})
                })
                .collect();
            print_json("cert", json!({"ca": ca, "certificates": certificates}))?;
        }
        Format::Table => {
            print_line(format!("authority  {}", ca.display()))?;
            for (holder, _, issued) in made {
                print_line(format!("{:9}  {}  {}", word(holder), issued.cert.display(), issued.key.display()))?;
            }
        }
    }
    Ok(Exit::Done)
}

fn word(holder: Holder) -> &'static str {
    match holder {
        Holder::Node => "node",
        Holder::Client => "client",
    }
}

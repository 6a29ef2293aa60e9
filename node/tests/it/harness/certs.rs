//! Certificates as the project's authorities issue them, and some that none should accept.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};

const DAY: Duration = Duration::from_secs(86_400);

/// When a certificate holds.
#[derive(Clone, Copy)]
pub enum Valid {
    Now,
    Expired,
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Pair {
    pub cert_pem: String,
    pub key_pem: String,
}

/// A certificate authority in memory.
pub struct Authority {
    pub pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = params("test authority", Valid::Now);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, issuer: Issuer::new(params, key) }
    }

    /// A node's certificate: known as `NAME.node.saola` to peers and as `node.saola` to clients; serves and calls.
    pub fn node(&self, name: &str, valid: Valid) -> Pair {
        let mut params = params(name, valid);
        for dns in [&format!("{name}.node.saola"), "node.saola", "localhost"] {
            params.subject_alt_names.push(SanType::DnsName(dns.try_into().unwrap()));
        }
        params.subject_alt_names.push(SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    /// A client's certificate: `NAME.client.saola`; only calls.
    pub fn client(&self, name: &str, valid: Valid) -> Pair {
        let mut params = params(name, valid);
        params.subject_alt_names.push(SanType::DnsName(format!("{name}.client.saola").try_into().unwrap()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Pair {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Pair { cert_pem: cert.pem(), key_pem: key.serialize_pem() }
    }
}

fn params(name: &str, valid: Valid) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    let now = date_time_ymd(1970, 1, 1) + SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    (params.not_before, params.not_after) = match valid {
        Valid::Now => (now - DAY, now + DAY),
        Valid::Expired => (now - 2 * DAY, now - DAY),
    };
    params
}

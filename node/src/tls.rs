//! Certificates of this node: read, checked before anything listens, and turned into what the ports need.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, RootCertStore, ServerConfig};
use zeroize::Zeroizing;

use crate::settings::TlsPaths;

/// Server name under which clients know every node, whatever its address.
const CLIENT_FACING_NAME: &str = "node.saola";

/// Why a node cannot prove who it is.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file cannot be read.
    #[error("{key} {path}: {reason}; check the path under [tls] and that this user may read the file")]
    Read {
        /// Which setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// The node's own certificate cannot be used.
    #[error("tls.cert {path}: {reason}; {next}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        next: String,
    },
    /// rustls refuses the material.
    #[error("TLS settings: {0}; make the files anew with `saola cert dev` or ask your certificate authority")]
    Rustls(String),
}

/// A node's checked certificates. The key is wiped when dropped and never printed.
pub struct TlsMaterial {
    /// PEM of the authority.
    pub ca_pem: Vec<u8>,
    /// PEM of the node's certificate chain.
    pub cert_pem: Vec<u8>,
    /// PEM of the node's private key.
    pub key_pem: Zeroizing<Vec<u8>>,
    /// End of the node's certificate, seconds since 1970.
    pub not_after_s: i64,
}

impl TlsMaterial {
    /// Reads the files and checks that the certificate is valid now, signed by the authority, made for node
    /// `node_name`, and belongs to the key.
    ///
    /// # Errors
    /// [`TlsError`] names the file and the next step.
    pub fn load(paths: &TlsPaths, node_name: &str) -> Result<TlsMaterial, TlsError> {
        let material = TlsMaterial {
            ca_pem: read("tls.ca", &paths.ca)?,
            cert_pem: read("tls.cert", &paths.cert)?,
            key_pem: Zeroizing::new(read("tls.key", &paths.key)?),
            not_after_s: 0,
        };
        let roots = roots(&material.ca_pem, &paths.ca)?;
        let chain = certificates("tls.cert", &material.cert_pem, &paths.cert)?;
        let key = private_key(&material.key_pem, &paths.key)?;
        let unusable =
            |reason: String, next: &str| TlsError::Certificate { path: paths.cert.clone(), reason, next: next.into() };
        let Some((own, intermediates)) = chain.split_first() else {
            return Err(unusable("holds no certificate".into(), "put the node's PEM certificate there"));
        };
        let now = UnixTime::now();
        let provider = Arc::new(ring::default_provider());
        let as_client = client_verifier(&roots, &provider)?;
        let as_server = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|e| TlsError::Rustls(e.to_string()))?;
        as_client
            .verify_client_cert(own, intermediates, now)
            .map_err(|e| unusable(format!("cannot be used: {e}"), hint(&e)))?;
        let peer_name = format!("{node_name}.node.saola");
        for name in [peer_name.as_str(), CLIENT_FACING_NAME] {
            let server_name = ServerName::try_from(name.to_owned())
                .map_err(|e| unusable(format!("{name}: {e}"), "choose another node name"))?;
            as_server
                .verify_server_cert(own, intermediates, &server_name, &[], now)
                .map_err(|e| unusable(format!("cannot be used as {name}: {e}"), hint(&e)))?;
        }
        rustls::sign::CertifiedKey::from_der(chain.clone(), key, &provider)
            .and_then(|certified| certified.keys_match())
            .map_err(|e| unusable(format!("does not belong to tls.key: {e}"), "put the matching pair there"))?;
        let not_after_s = not_after_s(own)
            .map_err(|reason| unusable(reason, "make it anew with `saola cert dev` or your authority"))?;
        Ok(TlsMaterial { not_after_s, ..material })
    }

    /// What the client port needs: TLS 1.2 or later, HTTP/2, and a certificate from every caller.
    ///
    /// # Errors
    /// [`TlsError`] when rustls refuses the material.
    pub fn server_config(&self) -> Result<ServerConfig, TlsError> {
        let whole = Path::new("(checked at start)");
        let provider = Arc::new(ring::default_provider());
        let verifier = client_verifier(&roots(&self.ca_pem, whole)?, &provider)?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::Rustls(e.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(certificates("tls.cert", &self.cert_pem, whole)?, private_key(&self.key_pem, whole)?)
            .map_err(|e| TlsError::Rustls(e.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

/// What the operator of the other side, or of this node, can do about a refused certificate.
pub fn hint(error: &rustls::Error) -> &'static str {
    match error {
        rustls::Error::InvalidCertificate(reason) => match reason {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "it is past its end: renew it (`saola cert dev` for development)"
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "it is not valid yet: check this machine's clock"
            }
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "another authority signed it: use certificates of the authority in tls.ca on every side"
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "it was made for another name: a node's certificate carries <name>.node.saola and node.saola"
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                "its extended key usage is wrong: nodes need server and client authentication, clients the latter"
            }
            _ => "make it anew with the authority in tls.ca",
        },
        rustls::Error::NoCertificatesPresented => {
            "the caller sent no certificate: give --cert and --key signed by the authority in tls.ca"
        }
        rustls::Error::AlertReceived(_) => {
            "the caller refuses this node's certificate: it must trust the authority that signed tls.cert"
        }
        _ => "the caller must speak TLS 1.2 or later with a certificate of the authority in tls.ca",
    }
}

fn client_verifier(
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|e| TlsError::Rustls(e.to_string()))
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|e| TlsError::Read { key, path: path.into(), reason: e.to_string() })
}

fn roots(pem: &[u8], path: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let unusable = |reason: String| TlsError::Read { key: "tls.ca", path: path.into(), reason };
    let mut roots = RootCertStore::empty();
    for certificate in certificates("tls.ca", pem, path)? {
        roots.add(certificate).map_err(|e| unusable(e.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("holds no certificate".into()));
    }
    Ok(Arc::new(roots))
}

fn certificates(key: &'static str, pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|e| TlsError::Read {
        key,
        path: path.into(),
        reason: format!("no PEM certificate: {e}"),
    })
}

fn private_key(pem: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|e| TlsError::Read {
        key: "tls.key",
        path: path.into(),
        reason: format!("no PEM private key: {e}"),
    })
}

fn not_after_s(certificate: &CertificateDer<'_>) -> Result<i64, String> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|e| format!("its end cannot be read: {e}"))?;
    Ok(parsed.validity().not_after.timestamp())
}

//! Key encryption keys: a site's X25519 key pair, and the file that holds its private half.
//!
//! The public half stands in the site map, so any data node wraps a data key for all sites; the private half stays
//! with the site's own nodes, behind [`KekProvider`], and only it opens the wraps. A key file is one line,
//! `saola-kek-x25519-v1`, a space, 64 hexadecimal digits and a newline, readable by its owner alone.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, Serializable};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::release::RELEASE;

const FILE_LABEL: &str = "saola-kek-x25519-v1 ";
/// What the label of every version begins with.
const FILE_FAMILY: &[u8] = b"saola-kek-";
const FILE_BYTES: usize = FILE_LABEL.len() + 64 + 1;
/// Domain of every wrap; part of the format.
pub(crate) const WRAP_INFO: &[u8] = b"saola/dek-wrap/v1";

pub(crate) type WrapKem = X25519HkdfSha256;
pub(crate) type WrapKdf = HkdfSha256;
pub(crate) type WrapAead = AesGcm256;

/// The public half of a site's KEK. Prints as hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KekPublic(pub [u8; 32]);

impl KekPublic {
    /// Takes the 32 bytes of a site map entry.
    ///
    /// # Errors
    /// [`KekError::NotAPublicKey`] for any other length.
    pub fn from_slice(bytes: &[u8]) -> Result<KekPublic, KekError> {
        bytes.try_into().map(KekPublic).map_err(|_| KekError::NotAPublicKey { found: bytes.len() })
    }

    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`KekError::NotAPublicKey`] for anything else.
    pub fn from_hex(text: &str) -> Result<KekPublic, KekError> {
        let bytes = decode_hex(text.as_bytes()).ok_or(KekError::NotAPublicKey { found: text.len() / 2 })?;
        Ok(KekPublic(*bytes))
    }
}

impl fmt::Display for KekPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KekPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KekPublic({self})")
    }
}

/// Opens what was wrapped for one site. The private key may live outside this process.
pub trait KekProvider: Send + Sync {
    /// The public half, as the site map should have it.
    fn public(&self) -> KekPublic;

    /// Opens one HPKE message (X25519-HKDF-SHA256, HKDF-SHA256, AES-256-GCM, info `saola/dek-wrap/v1`).
    ///
    /// # Errors
    /// [`KekError::DoesNotOpen`] when the message is not for this key or was altered.
    fn open(&self, encapsulated: &[u8], ciphertext: &[u8], associated: &[u8]) -> Result<Zeroizing<Vec<u8>>, KekError>;
}

/// The private half of a site's KEK, in memory. Wiped on drop, never printed.
pub struct KekPrivate(<WrapKem as Kem>::PrivateKey);

impl KekPrivate {
    /// Makes a key of 32 random bytes.
    pub fn from_random(bytes: Zeroizing<[u8; 32]>) -> KekPrivate {
        let key = <WrapKem as Kem>::PrivateKey::from_bytes(bytes.as_slice());
        KekPrivate(key.expect("any 32 bytes are an X25519 private key"))
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// [`KekError`] says what is wrong with it: missing, open to others, wrong size, wrong content.
    pub fn read_file(path: &Path) -> Result<KekPrivate, KekError> {
        let io_error = |source| KekError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => KekError::Missing { path: path.to_owned() },
            _ => io_error(source),
        })?;
        let mode = file.metadata().map_err(io_error)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KekError::OpenToOthers { path: path.to_owned(), mode });
        }
        // One byte more than a key file has, so that a longer one is noticed without reading all of it.
        let mut content = Zeroizing::new([0; FILE_BYTES + 1]);
        let mut length = 0;
        loop {
            match file.read(&mut content[length..]) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io_error(error)),
            }
        }
        let content_read = &content[..length];
        if content_read.starts_with(FILE_FAMILY) && !content_read.starts_with(FILE_LABEL.as_bytes()) {
            return Err(KekError::UnknownFormat { path: path.to_owned() });
        }
        if length != FILE_BYTES {
            return Err(KekError::WrongSize { path: path.to_owned() });
        }
        content[..FILE_BYTES]
            .strip_prefix(FILE_LABEL.as_bytes())
            .and_then(|rest| rest.strip_suffix(b"\n"))
            .and_then(decode_hex)
            .map(KekPrivate::from_random)
            .ok_or_else(|| KekError::Malformed { path: path.to_owned() })
    }

    /// Writes a new key file with mode 0600 and syncs it and its folder.
    ///
    /// # Errors
    /// [`KekError::Exists`] when something is there already: a key is never overwritten.
    pub fn write_file(&self, path: &Path) -> Result<(), KekError> {
        let io_error = |source: io::Error| match source.kind() {
            io::ErrorKind::AlreadyExists => KekError::Exists { path: path.to_owned() },
            _ => KekError::Write { path: path.to_owned(), source },
        };
        let mut line = Zeroizing::new(Vec::with_capacity(FILE_BYTES));
        line.extend_from_slice(FILE_LABEL.as_bytes());
        let mut key = Zeroizing::new([0; 32]);
        self.0.write_exact(key.as_mut_slice());
        for byte in key.iter() {
            line.extend([byte >> 4, byte & 15].map(|digit| b"0123456789abcdef"[usize::from(digit)]));
        }
        line.push(b'\n');

        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io_error)?;
        file.write_all(&line).and_then(|()| file.sync_all()).map_err(io_error)?;
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error)
    }
}

impl KekProvider for KekPrivate {
    fn public(&self) -> KekPublic {
        KekPublic(WrapKem::sk_to_pk(&self.0).to_bytes().into())
    }

    fn open(&self, encapsulated: &[u8], ciphertext: &[u8], associated: &[u8]) -> Result<Zeroizing<Vec<u8>>, KekError> {
        let encapsulated =
            <WrapKem as Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| KekError::DoesNotOpen)?;
        hpke::single_shot_open::<WrapAead, WrapKdf, WrapKem>(
            &OpModeR::Base,
            &self.0,
            &encapsulated,
            WRAP_INFO,
            ciphertext,
            associated,
        )
        .map(Zeroizing::new)
        .map_err(|_| KekError::DoesNotOpen)
    }
}

impl fmt::Debug for KekPrivate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KekPrivate(public={})", self.public())
    }
}

/// Why a KEK cannot be used.
#[derive(Debug, Error)]
pub enum KekError {
    /// No file at the path.
    #[error(
        "read KEK file {path}: it does not exist; restore it from the site's key custodian, \
         or for a new site make one with `saola-node keygen kek --out {path}`", path = path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// Group or others may read, write or execute it.
    #[error(
        "read KEK file {path}: mode {mode:04o} lets other users at it; run `chmod 600 {path}`, and make a new key \
         if someone may have read it", path = path.display()
    )]
    OpenToOthers {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not as long as a key file is.
    #[error(
        "read KEK file {path}: a key file has exactly {FILE_BYTES} bytes, this one has not; restore the file as \
         `saola-node keygen kek` wrote it", path = path.display()
    )]
    WrongSize {
        /// The file.
        path: PathBuf,
    },
    /// A key file of another version.
    #[error(
        "read KEK file {path}: it is a key file of a format that this release {RELEASE} does not know, which reads \
         `{FILE_LABEL}…`; install the release whose `saola-node keygen kek` wrote it, or later", path = path.display()
    )]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// As long as a key file, but not one.
    #[error(
        "read KEK file {path}: it is not one line `{FILE_LABEL}<64 hexadecimal digits>`; restore the file as \
         `saola-node keygen kek` wrote it", path = path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// The system refused to read it.
    #[error("read KEK file {path}; check the path and that the node's user owns the file", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The place is taken.
    #[error("write KEK file {path}: it exists and a key is never overwritten; choose another path", path = path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The system refused to write it.
    #[error("write KEK file {path}; check that the folder exists and has space", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not 32 bytes.
    #[error(
        "read KEK public key: {found} bytes, an X25519 public key has 32 (64 hexadecimal digits); \
             print it with `saola-node keygen public --file FILE`"
    )]
    NotAPublicKey {
        /// Bytes given.
        found: usize,
    },
    /// The key does not open the message.
    #[error("the wrap does not open under this KEK: it was altered or wrapped for something else")]
    DoesNotOpen,
}

/// 64 hexadecimal digits as 32 bytes, without leaving copies behind.
fn decode_hex(digits: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = Zeroizing::new([0; 32]);
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn kek() -> KekPrivate {
        KekPrivate::from_random(Zeroizing::new([0x42; 32]))
    }

    fn key_file(content: &[u8], mode: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("main.kek");
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    #[test]
    fn a_written_key_file_is_private_and_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("main.kek");
        kek().write_file(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&path).unwrap().len(), FILE_BYTES as u64);
        assert_eq!(KekPrivate::read_file(&path).unwrap().public(), kek().public());
        assert!(matches!(kek().write_file(&path), Err(KekError::Exists { .. })));
    }

    #[test]
    fn a_bad_key_file_is_named_with_the_next_step() {
        let good = [FILE_LABEL.as_bytes(), &[b'7'; 64], b"\n"].concat();
        let (_folder, path) = key_file(&good, 0o600);
        KekPrivate::read_file(&path).unwrap();

        let missing = KekPrivate::read_file(&path.with_extension("gone")).unwrap_err();
        assert!(matches!(missing, KekError::Missing { .. }), "{missing}");
        assert!(missing.to_string().contains("keygen kek --out"), "{missing}");
        for mode in [0o640, 0o604, 0o660, 0o601] {
            let (_folder, path) = key_file(&good, mode);
            let open = KekPrivate::read_file(&path).unwrap_err();
            assert!(matches!(open, KekError::OpenToOthers { .. }), "{open}");
            assert!(open.to_string().contains("chmod 600"), "{open}");
        }
        for content in [&b""[..], &good[..good.len() - 1], &[&good[..], b"\n"].concat(), &[b'x'; 100_000]] {
            let (_folder, path) = key_file(content, 0o600);
            let size = KekPrivate::read_file(&path).unwrap_err();
            assert!(matches!(size, KekError::WrongSize { .. }), "{size}");
        }
        let mut digits = good.clone();
        digits[FILE_LABEL.len()] = b'g';
        let label = good.to_ascii_uppercase();
        let newer = b"saola-kek-mlkem768-v2 0011\n";
        let (_folder, path) = key_file(newer, 0o600);
        let unknown = KekPrivate::read_file(&path).unwrap_err();
        assert!(matches!(unknown, KekError::UnknownFormat { .. }), "{unknown}");
        assert!(unknown.to_string().contains("reads `saola-kek-x25519-v1"), "{unknown}");
        for content in [digits, label, vec![b'x'; FILE_BYTES]] {
            let (_folder, path) = key_file(&content, 0o600);
            let malformed = KekPrivate::read_file(&path).unwrap_err();
            assert!(matches!(malformed, KekError::Malformed { .. }), "{malformed}");
        }
        assert!(matches!(
            KekPrivate::read_file(Path::new("/")),
            Err(KekError::OpenToOthers { .. } | KekError::Read { .. })
        ));
    }

    #[test]
    fn a_private_key_never_prints_its_bytes() {
        let key = KekPrivate::from_random(Zeroizing::new(*b"canary-key-bytes-canary-key-byte"));
        let printed = format!("{key:?} {key:#?}");
        assert!(!printed.contains("canary") && !printed.contains("63616e617279"), "{printed}");
        assert!(printed.contains(&key.public().to_string()));
    }

    #[test]
    fn a_public_key_is_sixty_four_digits() {
        let public = kek().public();
        assert_eq!(KekPublic::from_hex(&public.to_string()).unwrap(), public);
        assert_eq!(KekPublic::from_slice(&public.0).unwrap(), public);
        for bad in ["", "00", &"g".repeat(64), &"0".repeat(65)] {
            assert!(matches!(KekPublic::from_hex(bad), Err(KekError::NotAPublicKey { .. })), "{bad}");
        }
        assert!(matches!(KekPublic::from_slice(&[0; 31]), Err(KekError::NotAPublicKey { found: 31 })));
    }
}

//! Random bytes from the operating system: salts, nonces, keys and ids.

use zeroize::Zeroizing;

/// The system gives no random bytes; nothing may be sealed without them.
#[derive(Debug, thiserror::Error)]
#[error("the operating system gives no random bytes: {0}; check that getrandom(2) is allowed for this process")]
pub struct EntropyError(getrandom::Error);

/// `N` fresh random bytes that are not secret.
///
/// # Errors
/// When the system has none to give.
pub fn random<const N: usize>() -> Result<[u8; N], EntropyError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(EntropyError)?;
    Ok(bytes)
}

/// 32 fresh random bytes for a key, wiped when dropped.
///
/// # Errors
/// When the system has none to give.
pub fn secret() -> Result<Zeroizing<[u8; 32]>, EntropyError> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut_slice()).map_err(EntropyError)?;
    Ok(bytes)
}

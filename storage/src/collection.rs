//! What a collection may be called and which record ids it takes. Other forms are refused, never repaired:
//! two ids that look alike must not become one record.

use thiserror::Error;
use unicode_normalization::is_nfc;

use crate::command::KeyStyle;

/// Longest id of an `ordered` collection, in bytes.
pub const MAX_ORDERED_ID_BYTES: usize = 512;
/// Longest id of a `bytes` collection, in bytes.
pub const MAX_BYTES_ID_BYTES: usize = 4096;
/// Longest collection name, in bytes.
pub const MAX_COLLECTION_NAME_BYTES: usize = 64;
/// Largest value of any collection, in bytes; also the default limit of a new one.
pub const MAX_VALUE_BYTES: u64 = 1 << 20;

/// Why a record id is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RecordIdError {
    /// No bytes at all.
    #[error("record id is empty; give 1 to {limit} bytes")]
    Empty {
        /// Most that the collection takes.
        limit: usize,
    },
    /// Over the limit of the key style.
    #[error("record id has {found} bytes, the limit is {limit}; use a shorter id")]
    TooLong {
        /// Bytes given.
        found: usize,
        /// Most that the collection takes.
        limit: usize,
    },
    /// Not text.
    #[error("record id is not UTF-8 from byte {at} on; encode it as UTF-8, or use a collection of key style `bytes`")]
    NotUtf8 {
        /// First bad byte.
        at: usize,
    },
    /// Text in another Unicode form.
    #[error("record id is not in Unicode form NFC; normalise it to NFC before sending (composed letters, as in \"ế\")")]
    NotNfc,
    /// A control character.
    #[error("record id holds the control character U+{code:04X} at byte {at}; remove it")]
    ControlCharacter {
        /// Its code point.
        code: u32,
        /// Its byte position.
        at: usize,
    },
}

/// Checks a record id against its collection's key style.
///
/// # Errors
/// The first rule that it breaks.
pub fn check_record_id(style: KeyStyle, id: &[u8]) -> Result<(), RecordIdError> {
    let limit = match style {
        KeyStyle::Ordered => MAX_ORDERED_ID_BYTES,
        KeyStyle::Bytes => MAX_BYTES_ID_BYTES,
    };
    if id.is_empty() {
        return Err(RecordIdError::Empty { limit });
    }
    if id.len() > limit {
        return Err(RecordIdError::TooLong { found: id.len(), limit });
    }
    if style == KeyStyle::Bytes {
        return Ok(());
    }
    let text = std::str::from_utf8(id).map_err(|error| RecordIdError::NotUtf8 { at: error.valid_up_to() })?;
    if let Some((at, found)) = text.char_indices().find(|(_, found)| found.is_control()) {
        return Err(RecordIdError::ControlCharacter { code: found.into(), at });
    }
    if !is_nfc(text) {
        return Err(RecordIdError::NotNfc);
    }
    Ok(())
}

/// Why a collection name is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "collection name {name:?} is not allowed; use 1 to {MAX_COLLECTION_NAME_BYTES} characters of a-z, 0-9, `-`, `_` \
     and `.`, the first one a letter or digit"
)]
pub struct CollectionNameError {
    /// The name given, cut to the limit.
    pub name: String,
}

/// Checks the name of a new collection.
///
/// # Errors
/// [`CollectionNameError`] says which names are allowed.
pub fn check_collection_name(name: &str) -> Result<(), CollectionNameError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let allowed = name.len() <= MAX_COLLECTION_NAME_BYTES
        && name.starts_with(plain)
        && name.chars().all(|c| plain(c) || matches!(c, '-' | '_' | '.'));
    if allowed {
        return Ok(());
    }
    Err(CollectionNameError { name: name.chars().take(MAX_COLLECTION_NAME_BYTES).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordered_ids_are_short_nfc_text_without_control_characters() {
        let check = |id: &[u8]| check_record_id(KeyStyle::Ordered, id);
        for good in ["a", "ward/00004", "xã Tân Thành", "phường/Điện Biên", &"x".repeat(512)] {
            assert_eq!(check(good.as_bytes()), Ok(()), "{good}");
        }
        assert_eq!(check(b""), Err(RecordIdError::Empty { limit: 512 }));
        assert_eq!(check(&[b'x'; 513]), Err(RecordIdError::TooLong { found: 513, limit: 512 }));
        assert_eq!(check(b"ab\xff"), Err(RecordIdError::NotUtf8 { at: 2 }));
        assert_eq!(check("e\u{302}".as_bytes()), Err(RecordIdError::NotNfc));
        assert_eq!(check(b"a\nb"), Err(RecordIdError::ControlCharacter { code: 10, at: 1 }));
        assert_eq!(check("a\u{85}".as_bytes()), Err(RecordIdError::ControlCharacter { code: 0x85, at: 1 }));
        assert_eq!(check(b"\0"), Err(RecordIdError::ControlCharacter { code: 0, at: 0 }));
    }

    #[test]
    fn bytes_ids_take_anything_up_to_their_limit() {
        let check = |id: &[u8]| check_record_id(KeyStyle::Bytes, id);
        assert_eq!(check(&[0, 255, 10]), Ok(()));
        assert_eq!(check(&[0; 4096]), Ok(()));
        assert_eq!(check(b""), Err(RecordIdError::Empty { limit: 4096 }));
        assert_eq!(check(&[0; 4097]), Err(RecordIdError::TooLong { found: 4097, limit: 4096 }));
    }

    #[test]
    fn collection_names_are_plain() {
        for good in ["agency", "a", "0", "agency-2025_07.01", &"x".repeat(64)] {
            assert_eq!(check_collection_name(good), Ok(()), "{good}");
        }
        for bad in ["", "-a", ".a", "Agency", "a/b", "xã", "a b", "a\n", &"x".repeat(65)] {
            assert!(check_collection_name(bad).is_err(), "{bad}");
        }
    }
}

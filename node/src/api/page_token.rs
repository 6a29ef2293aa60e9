//! Where the next page of a listing begins, as bytes that only this cluster reads (format version 1).

use bytes::Bytes;
use prost::Message;
use saola_storage::store::Collection;

use super::errors::Refusal;

const FORMAT: u32 = 1;

/// Pins a listing's revision and says after which record to go on.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PageToken {
    /// Format version, 1.
    #[prost(uint32, tag = "1")]
    format: u32,
    /// Revision that the whole listing shows.
    #[prost(uint64, tag = "2")]
    pub revision: u64,
    /// Incarnation of the collection that is listed.
    #[prost(bytes = "bytes", tag = "3")]
    incarnation: Bytes,
    /// Last record of the page before.
    #[prost(bytes = "bytes", tag = "4")]
    pub after: Bytes,
    /// Prefix of the listing.
    #[prost(bytes = "bytes", tag = "5")]
    prefix: Bytes,
}

impl PageToken {
    /// For the page after `after`.
    pub fn new(collection: &Collection, revision: u64, after: Bytes, prefix: Bytes) -> PageToken {
        let incarnation = Bytes::copy_from_slice(&collection.incarnation);
        PageToken { format: FORMAT, revision, incarnation, after, prefix }
    }

    /// Reads a token that a client sent back.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when it is none.
    pub fn read(bytes: &[u8]) -> Result<PageToken, Refusal> {
        match PageToken::decode(bytes) {
            Ok(token) if token.format == FORMAT && token.revision > 0 && !token.after.is_empty() => Ok(token),
            _ => Err(Refusal::invalid(
                "the page token is none of this release".into(),
                "send back next_page_token of the page before, unchanged, or start anew without a token",
            )),
        }
    }

    /// Checks that the token continues this very listing.
    ///
    /// # Errors
    /// INVALID_ARGUMENT when it belongs to another one.
    pub fn check_continues(&self, collection: &Collection, prefix: &[u8]) -> Result<(), Refusal> {
        if self.incarnation == collection.incarnation[..] && self.prefix == prefix {
            return Ok(());
        }
        Err(Refusal::invalid(
            format!("the page token belongs to another listing than this one of {:?}", collection.name),
            "keep collection and prefix the same from page to page, or start anew without a token",
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use saola_storage::command::KeyStyle;

    use super::*;

    fn collection(incarnation: u8) -> Collection {
        Collection {
            number: 1,
            name: "agency".into(),
            incarnation: [incarnation; 16],
            max_value_bytes: 1,
            key_style: KeyStyle::Ordered,
            owner: String::new(),
            label: String::new(),
            created_revision: 1,
            retention: Default::default(),
            collected_below: 0,
        }
    }

    proptest! {
        #[test]
        fn a_token_comes_back_as_it_was(revision in 1u64.., after in proptest::collection::vec(any::<u8>(), 1..40)) {
            let token = PageToken::new(&collection(1), revision, after.into(), Bytes::from_static(b"wa"));
            let read = PageToken::read(&token.encode_to_vec()).expect("own token");
            prop_assert_eq!(&read, &token);
            prop_assert!(read.check_continues(&collection(1), b"wa").is_ok());
            prop_assert!(read.check_continues(&collection(2), b"wa").is_err());
            prop_assert!(read.check_continues(&collection(1), b"w").is_err());
        }

        #[test]
        fn any_bytes_are_a_token_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(token) = PageToken::read(&bytes) {
                prop_assert!(token.revision > 0);
            }
        }
    }
}

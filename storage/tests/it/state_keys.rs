//! Promises about keys and values as bytes.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use saola_storage::command::WrappedDek;
use saola_storage::engine::Kind;
use saola_storage::keyspace::{
    changes, collections, decode_value, encode_value, heads, keyring, meta, protection, requests, sites, times,
    versions,
};

fn id() -> impl Strategy<Value = Vec<u8>> {
    // Few different bytes, so that ids are often prefixes of each other and full of zeros.
    vec(prop_oneof![Just(0_u8), Just(1), Just(0xff), any::<u8>()], 1..12)
}

proptest! {
    #[test]
    fn record_keys_read_back(collection in any::<u32>(), id in vec(any::<u8>(), 1..4096), generation in any::<u64>()) {
        let head = Bytes::from(heads::key(collection, &id));
        prop_assert_eq!(heads::decode_key(&head).expect("a key"), (collection, Bytes::from(id.clone())));
        let version = versions::key(collection, &id, generation);
        prop_assert_eq!(versions::decode_key(&version).expect("a key"), (collection, id, generation));
    }

    #[test]
    fn keys_sort_as_what_they_stand_for(
        one in (0..3_u32, id(), any::<u64>()),
        other in (0..3_u32, id(), any::<u64>()),
    ) {
        let version = |(collection, id, generation): &(u32, Vec<u8>, u64)| versions::key(*collection, id, *generation);
        prop_assert_eq!(version(&one).cmp(&version(&other)), one.cmp(&other));
        let head = |(collection, id, _): &(u32, Vec<u8>, u64)| heads::key(*collection, id);
        prop_assert_eq!(head(&one).cmp(&head(&other)), (one.0, &one.1).cmp(&(other.0, &other.1)));
        prop_assert_eq!(changes::key(one.2).cmp(&changes::key(other.2)), one.2.cmp(&other.2));
    }

    #[test]
    fn no_versions_key_belongs_to_two_records(one in id(), other in id()) {
        prop_assume!(one != other);
        prop_assert!(!versions::key(1, &one, 5).starts_with(&versions::prefix(1, &other)));
    }

    #[test]
    fn arbitrary_bytes_never_panic(key in vec(any::<u8>(), 0..40), mut value in vec(any::<u8>(), 0..200), versioned in any::<bool>()) {
        if let Some(format) = value.first_mut().filter(|_| versioned) {
            *format = 1;
        }
        let (key, value) = (Bytes::from(key), Bytes::from(value));
        // Whether they read or are refused is all the same here: only a panic fails.
        let _ = (heads::decode_key(&key), versions::decode_key(&key), changes::decode_key(&key), sites::decode_key(&key));
        let _ = (heads::decode(&key, value.clone()), keyring::decode(&key, value.clone()));
        let _ = (collections::decode(&key, value.clone()), protection::decode(value.clone()));
        let _ = decode_value::<versions::VersionRow>(Kind::Versions, &key, value.clone());
        let _ = decode_value::<changes::ChangeRow>(Kind::Changes, &key, value.clone());
        let _ = decode_value::<times::TimesRow>(Kind::Times, &key, value.clone());
        let _ = decode_value::<requests::RequestRow>(Kind::Requests, &key, value.clone());
        let _ = decode_value::<meta::AppliedRow>(Kind::Meta, &key, value.clone());
        let _ = decode_value::<WrappedDek>(Kind::KeyRing, &key, value);
    }

    #[test]
    fn values_read_back(revision in any::<u64>(), envelope in vec(any::<u8>(), 0..100), content_type in ".{0,20}") {
        let row = versions::VersionRow {
            revision,
            envelope: envelope.into(),
            content_type,
            op: versions::VersionOp::Rollback as i32,
            ..versions::VersionRow::default()
        };
        let read: versions::VersionRow = decode_value(Kind::Versions, b"", encode_value(&row)).expect("a value");
        prop_assert_eq!(read, row);
    }
}

#[test]
fn a_newer_format_is_named_and_not_guessed() {
    let mut value = encode_value(&heads::Head::default()).to_vec();
    value[0] = 2;
    let error = heads::decode(&[0xab, 0xcd], value.into()).expect_err("format 2 is unknown");
    let text = error.to_string();
    assert!(text.contains("heads key abcd") && text.contains("format version 2"), "{text}");
}

//! Promises of both engines about rows, views and stable storage.

use std::sync::Arc;

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use saola_storage::engine::{Batch, Engine, EngineView, KeyRange, Kind, Row};

use crate::state_support::*;

type Change = (usize, Vec<u8>, Option<Vec<u8>>);

fn batch(changes: &[Change]) -> Batch {
    let mut batch = Batch::default();
    for (kind, key, value) in changes {
        match value {
            Some(value) => batch.put(Kind::ALL[*kind], key.clone(), value.clone()),
            None => batch.delete(Kind::ALL[*kind], key.clone()),
        }
    }
    batch
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![Just(0_u8), Just(1), Just(0xff)], 1..4)
}

fn change() -> impl Strategy<Value = Change> {
    (0..3_usize, key(), prop::option::weighted(0.7, vec(any::<u8>(), 0..5)))
}

fn rows(view: &dyn EngineView, kind: Kind, range: &KeyRange, reverse: bool) -> Vec<Row> {
    view.scan(kind, range.clone(), reverse).map(|row| row.expect("a row")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn engines_show_the_same_rows_in_new_and_old_views(
        batches in vec(vec(change(), 0..6), 1..20),
        start in key(),
        end in prop::option::of(key()),
    ) {
        let range = KeyRange { start, end };
        let mut seen: Vec<Vec<Vec<Row>>> = Vec::new();
        for home in homes() {
            let engine = home.home.open_current().expect("an engine opens");
            let mut views: Vec<Arc<dyn EngineView>> = Vec::new();
            for (place, changes) in batches.iter().enumerate() {
                engine.write(batch(changes)).expect("a write");
                views.push(engine.view());
                if place % 5 == 4 {
                    engine.flush().expect("a flush");
                    views.remove(0);
                }
            }
            let mut all = Vec::new();
            for view in &views {
                for kind in &Kind::ALL[..4] {
                    let forwards = rows(&**view, *kind, &range, false);
                    let mut backwards = rows(&**view, *kind, &range, true);
                    backwards.reverse();
                    prop_assert_eq!(&forwards, &backwards);
                    for (key, value) in rows(&**view, *kind, &KeyRange::all(), false) {
                        prop_assert_eq!(view.get(*kind, &key).expect("a read"), Some(value));
                    }
                    all.push(forwards);
                }
            }
            seen.push(all);
        }
        for pair in seen.windows(2) {
            prop_assert_eq!(&pair[0], &pair[1]);
        }
    }
}

#[test]
fn an_engine_tells_what_is_flushed_from_what_is_not() {
    for home in homes() {
        let engine: Arc<dyn Engine> = home.home.open_current().expect("an engine opens");
        let write = |value: &'static [u8]| {
            let mut batch = Batch::default();
            batch.put(Kind::Meta, &b"key"[..], value);
            engine.write(batch).expect("a write");
        };
        let flushed = || engine.get_flushed(Kind::Meta, b"key").expect("a read");
        write(b"1");
        assert_eq!(flushed(), None);
        engine.flush().expect("a flush");
        write(b"2");
        assert_eq!(flushed(), Some(Bytes::from_static(b"1")));
        assert_eq!(engine.view().get(Kind::Meta, b"key").expect("a read"), Some(Bytes::from_static(b"2")));
        engine.flush().expect("a flush");
        assert_eq!(flushed(), Some(Bytes::from_static(b"2")));
    }
}

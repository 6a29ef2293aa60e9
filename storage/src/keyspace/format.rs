//! The row of kind `meta` that says in which format all rows are, and which releases wrote them.
//!
//! It is read before any other row. It stands outside the state digest, so replicas may differ in it. Its own first
//! byte stays 1 and its tags keep their meaning in every format to come: older releases must be able to read it.

use prost::Message;

use super::{FORMAT, decode_value, encode_value};
use crate::engine::{Batch, EngineView, Kind};
use crate::error::StoreError;
use crate::release::{RELEASE, UnknownFormat};

/// Key of [`FormatRow`].
pub const KEY: &[u8] = b"format";

/// In which format the rows are.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FormatRow {
    /// Format version of all rows.
    #[prost(uint32, tag = "1")]
    pub format: u32,
    /// Release that made this database.
    #[prost(string, tag = "2")]
    pub first_release: String,
    /// Release that opened it last to write.
    #[prost(string, tag = "3")]
    pub last_release: String,
}

/// Reads the row; none in a database that is new, or from before there was such a row.
///
/// # Errors
/// The row is damaged, or says that this release cannot read the others.
pub fn read(rows: &dyn EngineView) -> Result<Option<FormatRow>, StoreError> {
    let Some(value) = rows.get(Kind::Meta, KEY)? else { return Ok(None) };
    let row: FormatRow = decode_value(Kind::Meta, KEY, value)?;
    if row.format != u32::from(FORMAT) {
        let format = UnknownFormat::new(row.format.into(), &row.last_release, FORMAT.into());
        return Err(StoreError::Newer { format });
    }
    Ok(Some(row))
}

/// What to write before this release writes other rows; nothing if it stands there.
pub(crate) fn stamp(found: Option<FormatRow>) -> Option<Batch> {
    let row = found.unwrap_or_else(|| FormatRow {
        format: FORMAT.into(),
        first_release: RELEASE.to_owned(),
        last_release: String::new(),
    });
    if row.last_release == RELEASE {
        return None;
    }
    let mut batch = Batch::default();
    batch.put(Kind::Meta, KEY, encode_value(&FormatRow { last_release: RELEASE.to_owned(), ..row }));
    Some(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_release_stays_and_the_last_one_follows() {
        let old = FormatRow { format: 1, first_release: "0.0.7".into(), last_release: "0.0.9".into() };
        let batch = stamp(Some(old)).unwrap();
        let value = batch.changes[0].value.clone().unwrap();
        let row: FormatRow = decode_value(Kind::Meta, KEY, value).unwrap();
        assert_eq!((row.first_release.as_str(), row.last_release.as_str()), ("0.0.7", RELEASE));
        assert!(stamp(Some(row)).is_none(), "what stands there is not written again");
        assert!(stamp(None).is_some());
    }
}

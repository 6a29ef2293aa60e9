//! What a request may hold, checked before anything is sealed or proposed.

use saola_client::proto::RecordRef;
use saola_storage::collection::check_record_id;
use saola_storage::command::KeyStyle;
use saola_storage::store::Collection;

use super::errors::{Reason, Refusal};

/// Largest message a client may send, bytes: the largest value and room for the rest, and enough over it that a
/// value that is too large is refused with its own reason.
pub const MAX_REQUEST_BYTES: usize = 8 << 20;
/// Records in one answer, bytes before the last one is added; plain gRPC clients take messages of 4 MiB.
pub const MAX_ANSWER_BYTES: usize = 2 << 20;
/// Records in one BatchGet.
pub const MAX_BATCH: usize = 1000;
/// Records on a page that names no size.
pub const DEFAULT_PAGE: usize = 100;
/// Records on a page at most.
pub const MAX_PAGE: usize = 1000;
/// Bytes of content type, and of each provenance field, owner and label.
pub const MAX_TEXT_BYTES: usize = 1024;

/// Checks a record id against its collection's key style.
///
/// # Errors
/// INVALID_ID names the rule that the id breaks.
pub fn record_id(collection: &Collection, id: &[u8]) -> Result<(), Refusal> {
    check_record_id(collection.key_style, id).map_err(|error| {
        let next = match collection.key_style {
            KeyStyle::Ordered => "send an id of 1 to 512 bytes, UTF-8 in form NFC, without control characters",
            KeyStyle::Bytes => "send an id of 1 to 4096 bytes",
        };
        Refusal::new(Reason::InvalidId, error.to_string(), next)
    })
}

/// Checks a value's size against its collection's limit.
///
/// # Errors
/// VALUE_TOO_LARGE with both sizes.
pub fn value(collection: &Collection, value: &[u8]) -> Result<(), Refusal> {
    if value.len() as u64 <= collection.max_value_bytes {
        return Ok(());
    }
    let message = format!(
        "the value has {} bytes, collection {:?} takes at most {}",
        value.len(),
        collection.name,
        collection.max_value_bytes
    );
    Err(Refusal::new(Reason::ValueTooLarge, message, "split the value, or keep it elsewhere and store a reference"))
}

/// Checks clear texts.
///
/// # Errors
/// INVALID_ARGUMENT names the field.
pub fn texts(fields: &[(&'static str, &str)]) -> Result<(), Refusal> {
    match fields.iter().find(|(_, text)| text.len() > MAX_TEXT_BYTES) {
        None => Ok(()),
        Some((name, text)) => Err(Refusal::invalid(
            format!("{name} has {} bytes, {MAX_TEXT_BYTES} are allowed", text.len()),
            "shorten it",
        )),
    }
}

/// Checks how many records a call asks for.
///
/// # Errors
/// INVALID_ARGUMENT when there are none or too many.
pub fn batch(records: &[RecordRef]) -> Result<(), Refusal> {
    match records.len() {
        1..=MAX_BATCH => Ok(()),
        n => Err(Refusal::invalid(
            format!("the call asks for {n} records, 1 to {MAX_BATCH} are allowed"),
            "ask in several calls at one revision",
        )),
    }
}

/// Page size in effect.
pub fn page(asked: u32) -> usize {
    match asked as usize {
        0 => DEFAULT_PAGE,
        n => n.min(MAX_PAGE),
    }
}

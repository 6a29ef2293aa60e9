//! How the bytes of an input are divided.

/// Splits off the first byte, which chooses among modes; 0 for an empty input.
pub fn mode(input: &[u8]) -> (u8, &[u8]) {
    input.split_first().map_or((0, input), |(mode, rest)| (*mode, rest))
}

/// Parts, each behind its length as u16, little-endian; the last one ends where the input does.
pub fn parts(mut input: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk::<2>() {
        let (part, rest) = rest.split_at(usize::from(u16::from_le_bytes(*length)).min(rest.len()));
        parts.push(part);
        input = rest;
    }
    parts
}

/// An input of a mode and these parts.
///
/// # Panics
/// A part has 64 KiB or more.
pub fn join<P: AsRef<[u8]>>(mode: u8, parts: impl IntoIterator<Item = P>) -> Vec<u8> {
    let mut input = vec![mode];
    for part in parts {
        let part = part.as_ref();
        let length = u16::try_from(part.len()).expect("seeds are made of parts below 64 KiB");
        input.extend_from_slice(&length.to_le_bytes());
        input.extend_from_slice(part);
    }
    input
}

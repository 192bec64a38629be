//! The characters by which byte-level BPE writes bytes (`bytes_to_unicode` of GPT-2).

use std::collections::HashMap;
use std::sync::LazyLock;

/// The character of every byte: printable bytes of Latin-1 stand for themselves, the others for what comes after the
/// first 256 characters.
pub(crate) static CHARACTERS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut further = (256..).filter_map(char::from_u32);
    std::array::from_fn(|byte| match byte as u8 {
        byte if printable(byte) => char::from(byte),
        _ => further.next().unwrap_or_default(),
    })
});

static BYTES: LazyLock<HashMap<char, u8>> = LazyLock::new(|| (*CHARACTERS).into_iter().zip(0..=255).collect());

/// The bytes of a token. One with a character that stands for no byte, such as an added one, is text as it is.
pub(super) fn bytes_of(token: &str) -> Vec<u8> {
    let bytes = token.chars().map(|c| BYTES.get(&c).copied()).collect::<Option<Vec<u8>>>();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

//! Bytes to characters, while they come.

/// How many bytes that belong to no character one replacement character stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Broken {
    /// One, as in SentencePiece.
    Byte,
    /// All that could have begun a character, as in most other libraries (`String::from_utf8_lossy`).
    Beginning,
}

/// Takes whole characters off the front. An unfinished one stays, unless nothing will follow (`last`).
pub(super) fn take(bytes: &mut Vec<u8>, broken: Broken, last: bool) -> String {
    let mut text = String::new();
    let mut taken = 0;
    while taken < bytes.len() {
        match std::str::from_utf8(&bytes[taken..]) {
            Ok(valid) => {
                text.push_str(valid);
                taken = bytes.len();
            }
            Err(e) if e.valid_up_to() > 0 => {
                text.push_str(&String::from_utf8_lossy(&bytes[taken..taken + e.valid_up_to()]));
                taken += e.valid_up_to();
            }
            Err(e) if e.error_len().is_none() && !last => break,
            Err(e) => {
                text.push('\u{FFFD}');
                taken += match broken {
                    Broken::Byte => 1,
                    Broken::Beginning => e.error_len().unwrap_or(bytes.len() - taken),
                };
            }
        }
    }
    bytes.drain(..taken);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(parloop_testing::cases(500))]

        #[test]
        fn in_pieces_comes_what_comes_at_once(
            parts in prop::collection::vec(prop_oneof![any::<char>().prop_map(|c| c.to_string().into_bytes()), prop::collection::vec(any::<u8>(), 0..4)], 0..12),
            broken in prop_oneof![Just(Broken::Byte), Just(Broken::Beginning)],
        ) {
            let all = parts.concat();
            let whole = take(&mut all.clone(), broken, true);
            if broken == Broken::Beginning {
                prop_assert_eq!(&whole, &String::from_utf8_lossy(&all));
            }
            let mut waiting = Vec::new();
            let mut text = String::new();
            for byte in all {
                waiting.push(byte);
                text += &take(&mut waiting, broken, false);
                prop_assert!(waiting.len() < 4);
            }
            prop_assert_eq!(text + &take(&mut waiting, broken, true), whole);
        }
    }
}

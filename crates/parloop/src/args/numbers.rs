//! Numbers on the command line, refused in words.

use std::ops::RangeInclusive;

/// A whole number of a range.
pub fn whole<T: TryFrom<u64>>(text: &str, range: RangeInclusive<u64>) -> Result<T, String> {
    let value = text.trim().parse::<u64>().ok().filter(|n| range.contains(n)).and_then(|n| T::try_from(n).ok());
    value.ok_or_else(|| match *range.end() {
        u64::MAX => format!("expected a whole number, at least {}", range.start()),
        most => format!("expected a whole number from {} to {most}", range.start()),
    })
}

/// A whole number from `LEAST` to `MOST`, as clap takes parsers of values.
pub fn from_to<T: TryFrom<u64>, const LEAST: u64, const MOST: u64>(text: &str) -> Result<T, String> {
    whole(text, LEAST..=MOST)
}

/// A whole number, `LEAST` or more.
pub fn at_least<T: TryFrom<u64>, const LEAST: u64>(text: &str) -> Result<T, String> {
    whole(text, LEAST..=u64::MAX)
}

/// The tokens to write: a number, or -1 for as many as the context holds.
pub fn tokens(text: &str) -> Result<usize, String> {
    match text.trim() {
        "-1" => Ok(usize::MAX),
        text => at_least::<usize, 0>(text).map_err(|_| {
            "expected a whole number of tokens, or -1 to go on until the model ends or the context is full".into()
        }),
    }
}

/// A decimal number that `fits`.
fn real(text: &str, fits: impl Fn(f32) -> bool, expected: &str) -> Result<f32, String> {
    let value = text.trim().parse::<f32>().ok().filter(|v| fits(*v));
    value.ok_or_else(|| format!("expected a number {expected}"))
}

/// A temperature.
pub fn temperature(text: &str) -> Result<f32, String> {
    real(text, |v| (0.0..=100.0).contains(&v), "from 0 to 100, such as 0.7")
}

/// A probability that tokens must reach together.
pub fn above_zero(text: &str) -> Result<f32, String> {
    real(text, |v| v > 0.0 && v <= 1.0, "above 0 and at most 1, such as 0.95")
}

/// A share of something.
pub fn share(text: &str) -> Result<f32, String> {
    real(text, |v| (0.0..=1.0).contains(&v), "from 0 to 1, such as 0.05")
}

/// A factor.
pub fn penalty(text: &str) -> Result<f32, String> {
    real(text, |v| v > 0.0 && v <= 100.0, "above 0 and at most 100, such as 1.1")
}

/// A seed.
pub fn seed(text: &str) -> Result<u64, String> {
    at_least::<u64, 0>(text)
}

/// The id of a token.
pub fn token_id(text: &str) -> Result<u32, String> {
    text.trim().parse().map_err(|_| "expected token ids: whole numbers separated by commas, such as 5,3,9".into())
}

/// A number of bytes: 5000, 500MB, 1.5GB, 2GiB.
pub fn byte_count(text: &str) -> Result<usize, String> {
    let units = [("KiB", 1u64 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("kB", 1000), ("MB", 1_000_000)];
    let units = units.into_iter().chain([("GB", 1_000_000_000), ("B", 1), ("", 1)]);
    let wrong = || format!("\"{text}\" is not a number of bytes; expected one such as 5000, 500MB, 1.5GB or 2GiB");
    let (number, unit) = units
        .filter_map(|(name, size)| Some((text.trim().strip_suffix(name)?.trim_end(), size)))
        .find(|(number, _)| number.ends_with(|c: char| c.is_ascii_digit()))
        .ok_or_else(wrong)?;
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * unit as f64;
    if (0.0..1e18).contains(&bytes) { Ok(bytes as usize) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_refused_in_words() {
        assert_eq!(from_to::<u16, 1, 1024>("16"), Ok(16));
        for wrong in ["0", "1025", "-1", "", "abc", "1.5", "99999999999999999999"] {
            assert_eq!(from_to::<u16, 1, 1024>(wrong), Err("expected a whole number from 1 to 1024".into()));
        }
        assert_eq!(at_least::<u32, 2>("1"), Err("expected a whole number, at least 2".into()));
        assert_eq!((tokens("-1"), tokens("7")), (Ok(usize::MAX), Ok(7)));
        assert!(tokens("-2").unwrap_err().contains("-1 to go on"));
        assert!(temperature("NaN").is_err() && temperature("hot").is_err() && above_zero("0").is_err());
    }

    #[test]
    fn bytes_have_units() {
        for (text, bytes) in [("5000", 5000), ("500MB", 500_000_000), ("1.5 GB", 1_500_000_000), ("2GiB", 2 << 30)] {
            assert_eq!(byte_count(text), Ok(bytes));
        }
        for wrong in ["", "MB", "3 sheep", "-1", "1e30GB", "inf"] {
            assert!(byte_count(wrong).unwrap_err().contains("number of bytes"), "{wrong}");
        }
    }
}

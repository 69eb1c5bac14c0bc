//! Quantities: `100m`, `1.5Gi`, `1e3`.

/// Binary and decimal suffixes with their value as (base, exponent).
const SUFFIXES: &[(&str, u32, i32)] = &[
    ("", 10, 0),
    ("n", 10, -9),
    ("u", 10, -6),
    ("m", 10, -3),
    ("k", 10, 3),
    ("M", 10, 6),
    ("G", 10, 9),
    ("T", 10, 12),
    ("P", 10, 15),
    ("E", 10, 18),
    ("Ki", 2, 10),
    ("Mi", 2, 20),
    ("Gi", 2, 30),
    ("Ti", 2, 40),
    ("Pi", 2, 50),
    ("Ei", 2, 60),
];

pub fn valid(text: &str) -> bool {
    parse(text).is_some()
}

/// In thousandths, rounded up as Kubernetes rounds; huge values are capped.
pub fn millis(text: &str) -> Option<i128> {
    let (negative, digits, base, exponent) = parse(text)?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    // 30 digits are far beyond what the API admits (2^63) and keep every product below inside i128.
    let significant: String = whole.chars().chain(fraction.chars()).take(30).collect();
    let number: i128 = if significant.is_empty() { 0 } else { significant.parse().ok()? };
    let scale = (whole.len() + fraction.len()).min(30) as i32 - whole.len() as i32;
    let value = scaled(number, base, exponent, 3 - scale);
    Some(if negative { -value } else { value })
}

/// Thousandths as Kubernetes writes them: with binary suffixes where they fit, where `binary` says so.
pub fn show(millis: i128, binary: bool) -> String {
    if millis % 1000 != 0 {
        return format!("{millis}m");
    }
    let whole = millis / 1000;
    let suffixes = [("Ei", 60), ("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
    let fits = suffixes.iter().find(|(_, shift)| binary && whole != 0 && whole % (1i128 << shift) == 0);
    match fits {
        Some((suffix, shift)) => format!("{}{suffix}", whole >> shift),
        None => whole.to_string(),
    }
}

/// number * base^exponent * 10^tens, rounded up.
fn scaled(number: i128, base: u32, exponent: i32, tens: i32) -> i128 {
    let tens = if base == 10 { tens.saturating_add(exponent) } else { tens };
    let binary = if base == 2 { number.saturating_mul(1i128 << exponent) } else { number };
    match tens {
        0.. => binary.saturating_mul(10i128.saturating_pow(tens.unsigned_abs())),
        _ => {
            let divisor = 10i128.saturating_pow(tens.unsigned_abs());
            binary / divisor + i128::from(binary % divisor > 0)
        }
    }
}

/// Sign, digits, base and exponent.
fn parse(text: &str) -> Option<(bool, &str, u32, i32)> {
    let (negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    let (digits, suffix) = rest.split_at(end);
    if !digits.contains(|c: char| c.is_ascii_digit()) || digits.matches('.').count() > 1 {
        return None;
    }
    let (base, exponent) = match SUFFIXES.iter().find(|(s, ..)| *s == suffix) {
        Some((_, base, exponent)) => (*base, *exponent),
        None => (10, suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some((negative, digits, base, exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_quantities() {
        let check = |text: &str, expect: Option<i128>| assert_eq!(millis(text), expect, "{text}");
        check("1", Some(1000));
        check("100m", Some(100));
        check("0.1m", Some(1));
        check("1.5Gi", Some(1_610_612_736_000));
        check("-2k", Some(-2_000_000));
        check("1e3", Some(1_000_000));
        check("12E", Some(12_000_000_000_000_000_000_000));
        check(".5", Some(500));
        check("1x", None);
        check("", None);
        check("m", None);
        check("1.2.3", None);
        check("1e", None);
        for (millis, binary, text) in [
            (500, false, "500m"),
            (2000, false, "2"),
            (0, true, "0"),
            (1_610_612_736_000, true, "1536Mi"),
            (1_610_612_736_000, false, "1610612736"),
        ] {
            assert_eq!(show(millis, binary), text);
        }
        assert!(valid("99999999999999999999999999999999999999999e2000000000"));
        assert!(millis("99999999999999999999999999999999999999999e2000000000").is_some());
    }
}

//! Kubernetes quantities as exact numbers of thousandths.

/// `500m` is 500, `1Gi` is 1024³ thousands. None when it is no quantity or too large.
pub fn milli(text: &str) -> Option<i128> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '-' | '+'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (numerator, denominator) = scale(suffix)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let places = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let value = digits.checked_mul(numerator)?.checked_mul(1000)?;
    let below = denominator.checked_mul(places)?;
    // Rounded up, as the reference does for what is finer than it keeps.
    Some(value.div_euclid(below) + i128::from(value.rem_euclid(below) != 0))
}

/// Whole units, rounded up.
pub fn units(text: &str) -> Option<i128> {
    milli(text).map(|m| m.div_euclid(1000) + i128::from(m.rem_euclid(1000) != 0))
}

fn scale(suffix: &str) -> Option<(i128, i128)> {
    let power = |base: i128, n: u32| Some((base.pow(n), 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "k" => power(1000, 1),
        "M" => power(1000, 2),
        "G" => power(1000, 3),
        "T" => power(1000, 4),
        "P" => power(1000, 5),
        "E" => power(1000, 6),
        "Ki" => power(1024, 1),
        "Mi" => power(1024, 2),
        "Gi" => power(1024, 3),
        "Ti" => power(1024, 4),
        "Pi" => power(1024, 5),
        "Ei" => power(1024, 6),
        _ => exponent(suffix),
    }
}

fn exponent(suffix: &str) -> Option<(i128, i128)> {
    let power: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    let size = 10_i128.checked_pow(power.unsigned_abs())?;
    Some(if power < 0 { (1, size) } else { (size, 1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        let table = [("500m", 500), ("1", 1000), ("0.5", 500), ("1.5Gi", 1_610_612_736_000), ("2k", 2_000_000)];
        table.iter().for_each(|(text, want)| assert_eq!(milli(text), Some(*want), "{text}"));
        assert_eq!(milli("1e3"), Some(1_000_000));
        assert_eq!(units("100m"), Some(1));
        assert_eq!(milli("1n"), Some(1));
        ["", "x", "1Zi", "1.2.3", "e3"].iter().for_each(|text| assert_eq!(milli(text), None, "{text}"));
    }
}

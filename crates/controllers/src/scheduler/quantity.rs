//! Kubernetes quantities as whole thousandths.

const SUFFIXES: [(&str, i128); 18] = [
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("Ti", 1 << 40),
    ("Pi", 1 << 50),
    ("Ei", 1 << 60),
    ("k", 1_000),
    ("M", 1_000_000),
    ("G", 1_000_000_000),
    ("T", 1_000_000_000_000),
    ("P", 1_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000),
    ("m", -1_000),
    ("u", -1_000_000),
    ("n", -1_000_000_000),
    ("e3", 1_000),
    ("e6", 1_000_000),
    ("e9", 1_000_000_000),
];

/// `500m` is 500, `1Gi` is 1073741824000. Rounded up; None when it is no quantity.
pub(crate) fn milli(text: &str) -> Option<i128> {
    let text = text.trim();
    let suffix = SUFFIXES.iter().find(|(s, _)| text.ends_with(s));
    let (number, factor) = suffix.map_or((text, 1), |(s, f)| (&text[..text.len() - s.len()], *f));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > 12 || whole.len() > 18 {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (mut over, mut under) = (digits.checked_mul(1000)?, 10i128.pow(fraction.len() as u32));
    if factor > 0 {
        over = over.checked_mul(factor)?;
    } else {
        under = under.checked_mul(-factor)?;
    }
    Some(over.div_euclid(under) + i128::from(over.rem_euclid(under) != 0))
}

#[cfg(test)]
mod tests {
    use super::milli;

    #[test]
    fn table() {
        let cases = [
            ("0", Some(0)),
            ("1", Some(1000)),
            ("500m", Some(500)),
            ("1.5", Some(1500)),
            (".5", Some(500)),
            ("1Gi", Some(1_073_741_824_000)),
            ("1G", Some(1_000_000_000_000)),
            ("100n", Some(1)),
            ("2e3", Some(2_000_000)),
            ("8Ei", Some(9_223_372_036_854_775_808_000)),
            ("", None),
            ("abc", None),
            ("1.2.3", None),
            ("m", None),
        ];
        for (text, expect) in cases {
            assert_eq!(milli(text), expect, "{text}");
        }
    }
}

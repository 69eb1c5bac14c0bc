//! What must be known of a YAML text before it is parsed.

/// As many brackets may be open at once.
const MAX_OPEN: usize = 2_000;

/// The parser looks at all open brackets again for each word: a text of 200 kB that only opens them would keep it busy
/// for minutes before its own limit of nesting is asked. Brackets in quoted text are counted too, which is why the limit
/// is far above what the parser takes.
pub fn check_depth(text: &[u8]) -> Result<(), String> {
    let mut open = 0_usize;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        if open > MAX_OPEN {
            let line = text[..at].iter().filter(|b| **b == b'\n').count() + 1;
            return Err(format!("line {line}: exceeded max depth of {MAX_OPEN}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_open_brackets_count() {
        assert_eq!(check_depth(b"a: [1, {b: 2}]"), Ok(()));
        assert_eq!(check_depth("a: []\n".repeat(10_000).as_bytes()), Ok(()));
        let deep = format!("a:\n{}", "[".repeat(3_000));
        assert_eq!(check_depth(deep.as_bytes()), Err("line 2: exceeded max depth of 2000".into()));
    }
}

//! Sets of completion indexes as the status holds them: `0-2,5`.

use std::collections::BTreeSet;

/// What cannot be read is left out.
pub(crate) fn parse(text: &str) -> BTreeSet<i32> {
    let part = |part: &str| -> Option<std::ops::RangeInclusive<i32>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(part).flatten().take(100_000).collect()
}

pub(crate) fn show(indexes: &BTreeSet<i32>) -> String {
    let mut ranges: Vec<(i32, i32)> = vec![];
    for index in indexes {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => ranges.push((*index, *index)),
        }
    }
    let shown = ranges.iter().map(|(first, last)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    });
    shown.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table() {
        for (text, shown) in [("", ""), ("3", "3"), ("0,1", "0,1"), ("0,1,2,5,7,8,9", "0-2,5,7-9")] {
            assert_eq!(show(&parse(text)), shown);
            assert_eq!(parse(shown), parse(text));
        }
        assert!(parse("a,-").is_empty());
    }
}

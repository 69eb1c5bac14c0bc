//! Text as Go's tools lay it out: aligned columns, JSON with sorted keys.

use std::io::Write;

use serde_json::Value;

use super::error::{Error, Result};

/// Writes to standard output. A reader that went away ends the program without complaint.
pub(super) fn emit(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|e| match e.kind() {
        std::io::ErrorKind::BrokenPipe => Error::Closed,
        _ => Error::Plain(format!("cannot write the output: {e}")),
    })
}

/// Writes to standard error; nothing can be done when that fails.
pub(super) fn note(text: &str) {
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Columns that line up: each as wide as its widest cell and `padding` spaces, at least `least`. The last cell of a row is
/// not padded. Widths are remembered, so that rows which come later never make a column narrower.
#[derive(Debug, Default)]
pub(super) struct Columns {
    widths: Vec<usize>,
}

const LEAST: usize = 6;
const PADDING: usize = 3;

impl Columns {
    pub(super) fn render(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            for (at, cell) in row.iter().enumerate().take(row.len().saturating_sub(1)) {
                let width = LEAST.max(cell.chars().count() + PADDING);
                match self.widths.get_mut(at) {
                    Some(have) => *have = width.max(*have),
                    None => self.widths.push(width),
                }
            }
        }
        rows.iter().map(|row| self.line(row)).collect()
    }

    fn line(&self, row: &[String]) -> String {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            line.push_str(cell);
            if at + 1 < row.len() {
                let width = self.widths.get(at).copied().unwrap_or_default();
                line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
            }
        }
        line.push('\n');
        line
    }
}

/// A Go tabwriter for lines with a varying number of cells: a column reaches over neighbouring lines that have it.
pub(super) fn tabbed(text: &str, least: usize, padding: usize) -> String {
    let lines: Vec<Vec<&str>> = text.split('\n').map(|l| l.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|l| vec![0; l.len().saturating_sub(1)]).collect();
    let deepest = widths.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..deepest {
        let mut start = 0;
        while start < lines.len() {
            if widths[start].len() <= column {
                start += 1;
                continue;
            }
            let end = (start..lines.len()).find(|&i| widths[i].len() <= column).unwrap_or(lines.len());
            let widest = (start..end).map(|i| lines[i][column].chars().count()).max().unwrap_or(0);
            let width = least.max(widest + padding);
            (start..end).for_each(|i| widths[i][column] = width);
            start = end;
        }
    }
    let rendered: Vec<String> = lines.iter().zip(&widths).map(|(cells, widths)| pad(cells, widths)).collect();
    rendered.join("\n")
}

fn pad(cells: &[&str], widths: &[usize]) -> String {
    let mut line = String::new();
    for (at, cell) in cells.iter().enumerate() {
        line.push_str(cell);
        if let Some(width) = widths.get(at) {
            line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
        }
    }
    line
}

/// JSON with keys in order and `<`, `>`, `&` escaped, on one line.
pub(super) fn compact(value: &Value) -> String {
    let mut out = String::new();
    write(value, None, 0, &mut out);
    out
}

/// The same with an indent of four.
pub(super) fn pretty(value: &Value) -> String {
    let mut out = String::new();
    write(value, Some(4), 0, &mut out);
    out
}

fn write(value: &Value, indent: Option<usize>, depth: usize, out: &mut String) {
    let newline = |out: &mut String, depth: usize| {
        if let Some(by) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', by * depth));
        }
    };
    match value {
        Value::Array(items) if !items.is_empty() => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                newline(out, depth + 1);
                write(item, indent, depth + 1, out);
            }
            newline(out, depth);
            out.push(']');
        }
        Value::Object(map) if !map.is_empty() => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            out.push('{');
            for (at, key) in keys.into_iter().enumerate() {
                out.push_str(if at > 0 { "," } else { "" });
                newline(out, depth + 1);
                out.push_str(&quote(key));
                out.push_str(if indent.is_some() { ": " } else { ":" });
                write(&map[key.as_str()], indent, depth + 1, out);
            }
            newline(out, depth);
            out.push('}');
        }
        Value::String(text) => out.push_str(&quote(text)),
        other => out.push_str(&other.to_string()),
    }
}

/// A JSON string as Go writes it.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c if u32::from(c) < 0x20 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_line_up_and_remember() {
        let mut columns = Columns::default();
        let row = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        let first = columns.render(&[row(&["NAME", "AGE"]), row(&["a-long-name", "1s"])]);
        assert_eq!(first, "NAME          AGE\na-long-name   1s\n");
        assert_eq!(columns.render(&[row(&["b", "2s"])]), "b             2s\n");
    }

    #[test]
    fn tab_blocks() {
        assert_eq!(tabbed("a\tb\nccc\td\n\nx\ty\n", 0, 2), "a    b\nccc  d\n\nx  y\n");
    }

    #[test]
    fn go_json() {
        let value = json!({"b": [1, {"x": "<a&b>"}], "a": {}, "c": []});
        assert_eq!(compact(&value), r#"{"a":{},"b":[1,{"x":"\u003ca\u0026b\u003e"}],"c":[]}"#);
        assert_eq!(pretty(&json!({"a": [1]})), "{\n    \"a\": [\n        1\n    ]\n}");
    }
}

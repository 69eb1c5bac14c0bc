//! YAML as kubectl writes it: keys in natural order, lists not indented, the quoting and folding of Go's YAML library.

use std::cmp::Ordering;

use serde_json::{Map, Value};

/// Plain and quoted text is folded at the first space beyond this column.
const WIDTH: usize = 80;

pub(super) fn render(value: &Value) -> String {
    let mut out = Emitter::default();
    match value {
        Value::Object(map) if !map.is_empty() => out.map(map, 0, true),
        Value::Array(items) if !items.is_empty() => out.list(items, 0),
        scalar => {
            out.scalar(scalar, 0);
            out.text.push('\n');
        }
    }
    out.text
}

#[derive(Default)]
struct Emitter {
    text: String,
}

impl Emitter {
    fn column(&self) -> usize {
        self.text.rsplit('\n').next().unwrap_or_default().chars().count()
    }

    fn indent(&mut self, by: usize) {
        self.text.extend(std::iter::repeat_n(' ', by));
    }

    /// `fresh`: at the start of a line; else the first key follows `- `.
    fn map(&mut self, map: &Map<String, Value>, indent: usize, fresh: bool) {
        let mut keys: Vec<&String> = map.keys().collect();
        keys.sort_by(|a, b| natural(a, b));
        for (at, key) in keys.into_iter().enumerate() {
            if fresh || at > 0 {
                self.indent(indent);
            }
            self.string(key, indent, true);
            self.text.push(':');
            self.under(&map[key.as_str()], indent);
        }
    }

    fn under(&mut self, value: &Value, indent: usize) {
        match value {
            Value::Object(map) if !map.is_empty() => {
                self.text.push('\n');
                self.map(map, indent + 2, true);
            }
            Value::Array(items) if !items.is_empty() => {
                self.text.push('\n');
                self.list(items, indent);
            }
            scalar => {
                self.text.push(' ');
                self.scalar(scalar, indent + 2);
                self.text.push('\n');
            }
        }
    }

    fn list(&mut self, items: &[Value], indent: usize) {
        for item in items {
            self.indent(indent);
            self.item(item, indent);
        }
    }

    fn item(&mut self, item: &Value, indent: usize) {
        self.text.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => self.map(map, indent + 2, false),
            Value::Array(items) if !items.is_empty() => {
                for (at, inner) in items.iter().enumerate() {
                    if at > 0 {
                        self.indent(indent + 2);
                    }
                    self.item(inner, indent + 2);
                }
            }
            scalar => {
                self.scalar(scalar, indent + 2);
                self.text.push('\n');
            }
        }
    }

    fn scalar(&mut self, value: &Value, indent: usize) {
        match value {
            Value::Object(_) => self.text.push_str("{}"),
            Value::Array(_) => self.text.push_str("[]"),
            Value::String(text) => self.string(text, indent, false),
            other => self.text.push_str(&other.to_string()),
        }
    }

    fn string(&mut self, text: &str, indent: usize, key: bool) {
        let facts = Facts::of(text);
        match style(text, &facts, key) {
            Style::Plain => self.folded(text, indent, key, |c| c.to_string()),
            Style::Single => {
                self.text.push('\'');
                self.folded(text, indent, key, |c| if c == '\'' { "''".into() } else { c.to_string() });
                self.text.push('\'');
            }
            Style::Double => self.double(text, indent, key),
            Style::Literal => self.literal(text, indent),
        }
    }

    fn folded(&mut self, text: &str, indent: usize, key: bool, write: impl Fn(char) -> String) {
        let chars: Vec<char> = text.chars().collect();
        let mut column = self.column();
        let mut after_space = false;
        for (at, &c) in chars.iter().enumerate() {
            let inside = at > 0 && at + 1 < chars.len() && chars[at + 1] != ' ';
            if c == ' ' && !key && !after_space && column > WIDTH && inside {
                self.text.push('\n');
                self.indent(indent);
                column = indent;
            } else {
                let piece = write(c);
                column += piece.chars().count();
                self.text.push_str(&piece);
            }
            after_space = c == ' ';
        }
    }

    fn double(&mut self, text: &str, indent: usize, key: bool) {
        let chars: Vec<char> = text.chars().collect();
        self.text.push('"');
        let mut column = self.column();
        let mut after_space = false;
        for (at, &c) in chars.iter().enumerate() {
            let inside = at > 0 && at + 1 < chars.len();
            if c == ' ' && !key && !after_space && column > WIDTH && inside {
                self.text.push('\n');
                self.indent(indent);
                column = indent;
                if chars[at + 1] == ' ' {
                    self.text.push('\\');
                    column += 1;
                }
            } else {
                let piece = escaped(c);
                column += piece.chars().count();
                self.text.push_str(&piece);
            }
            after_space = c == ' ';
        }
        self.text.push('"');
    }

    fn literal(&mut self, text: &str, indent: usize) {
        self.text.push('|');
        if text.starts_with([' ', '\n']) {
            self.text.push('2');
        }
        if !text.ends_with('\n') {
            self.text.push('-');
        } else if text == "\n" || text.ends_with("\n\n") {
            self.text.push('+');
        }
        for line in text.strip_suffix('\n').unwrap_or(text).split('\n') {
            self.text.push('\n');
            if !line.is_empty() {
                self.indent(indent);
                self.text.push_str(line);
            }
        }
    }
}

fn escaped(c: char) -> String {
    match c {
        '"' => "\\\"".into(),
        '\\' => "\\\\".into(),
        '\0' => "\\0".into(),
        '\u{7}' => "\\a".into(),
        '\u{8}' => "\\b".into(),
        '\t' => "\\t".into(),
        '\n' => "\\n".into(),
        '\u{b}' => "\\v".into(),
        '\u{c}' => "\\f".into(),
        '\r' => "\\r".into(),
        '\u{1b}' => "\\e".into(),
        '\u{85}' => "\\N".into(),
        '\u{a0}' => "\\_".into(),
        '\u{2028}' => "\\L".into(),
        '\u{2029}' => "\\P".into(),
        '\u{feff}' => "\\uFEFF".into(),
        c if !printable(c) && u32::from(c) <= 0xff => format!("\\x{:02X}", u32::from(c)),
        c if !printable(c) && u32::from(c) <= 0xffff => format!("\\u{:04X}", u32::from(c)),
        c if !printable(c) => format!("\\U{:08X}", u32::from(c)),
        c => c.to_string(),
    }
}

fn printable(c: char) -> bool {
    matches!(u32::from(c), 0x0a | 0x20..=0x7e | 0xa0..=0xd7ff | 0xe000..=0xfefe | 0xff00..=0xfffd | 0x1_0000..=0x10_ffff)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Single,
    Double,
    Literal,
}

/// What in a text forbids which style.
struct Facts {
    plain: bool,
    single: bool,
    block: bool,
}

impl Facts {
    fn of(text: &str) -> Facts {
        let chars: Vec<char> = text.chars().collect();
        let mut facts = Facts { plain: true, single: true, block: true };
        let blank = |c: Option<&char>| c.is_none_or(|c| matches!(c, ' ' | '\t' | '\n' | '\r'));
        facts.plain &= !text.starts_with("---") && !text.starts_with("...");
        for (at, &c) in chars.iter().enumerate() {
            let indicator = match c {
                '#' if at == 0 => true,
                '#' => blank(chars.get(at - 1)),
                ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' => at == 0,
                '-' | '?' => at == 0 && blank(chars.get(1)),
                ':' => blank(chars.get(at + 1)),
                _ => false,
            };
            facts.plain &= !indicator && c != '\n';
            let space_before_break = c == ' ' && chars.get(at + 1) == Some(&'\n');
            let space_after_break = c == '\n' && chars.get(at + 1) == Some(&' ');
            if space_before_break || !printable(c) {
                facts = Facts { plain: false, single: false, block: false };
            }
            if space_after_break {
                facts.single = false;
            }
        }
        facts.plain &= !text.starts_with(' ') && !text.ends_with(' ');
        facts.block &= !text.ends_with(' ');
        facts
    }
}

fn style(text: &str, facts: &Facts, key: bool) -> Style {
    if text.contains('\n') {
        return if facts.block && !key { Style::Literal } else { Style::Double };
    }
    match (means_something_else(text), facts.plain, facts.single) {
        (true, ..) => Style::Double,
        (false, true, _) => Style::Plain,
        (false, false, true) => Style::Single,
        _ => Style::Double,
    }
}

/// True where the text, unquoted, would be read as null, a boolean, a number or a time.
fn means_something_else(text: &str) -> bool {
    const WORDS: &[&str] = &[
        "", "~", "null", "Null", "NULL", "true", "True", "TRUE", "false", "False", "FALSE", "y", "Y", "yes", "Yes",
        "YES", "n", "N", "no", "No", "NO", "on", "On", "ON", "off", "Off", "OFF", ".nan", ".NaN", ".NAN", ".inf",
        ".Inf", ".INF", "+.inf", "+.Inf", "+.INF", "-.inf", "-.Inf", "-.INF", "<<",
    ];
    if WORDS.contains(&text) {
        return true;
    }
    text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.'))
        && (integer(text) || float(text) || base60(text) || timestamp(text))
}

fn integer(text: &str) -> bool {
    let digits = text.replace('_', "");
    let digits = digits.strip_prefix(['+', '-']).unwrap_or(&digits);
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    !body.is_empty() && body.chars().all(|c| c.is_digit(radix)) && u64::from_str_radix(body, radix).is_ok()
}

fn float(text: &str) -> bool {
    let plain = text.replace('_', "");
    let body = plain.strip_prefix(['+', '-']).unwrap_or(&plain);
    let (mantissa, exponent) = match body.find(['e', 'E']) {
        Some(at) => (&body[..at], Some(&body[at + 1..])),
        None => (body, None),
    };
    let (whole, fraction) = mantissa.split_once('.').map_or((mantissa, None), |(w, f)| (w, Some(f)));
    let digits = |s: &str| s.chars().all(|c| c.is_ascii_digit());
    let number =
        digits(whole) && fraction.is_none_or(digits) && !(whole.is_empty() && fraction.is_none_or(str::is_empty));
    let power = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['+', '-']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    number && power
}

/// `10:30` is a number to the base of 60 in old YAML.
fn base60(text: &str) -> bool {
    let body = text.strip_prefix(['+', '-']).unwrap_or(text);
    let mut parts = body.split(':');
    let first = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    let minutes = |s: &str| {
        let s = s.split_once('.').map_or(s, |(whole, _)| whole);
        !s.is_empty() && s.len() <= 2 && s.parse::<u8>().is_ok_and(|n| n < 60)
    };
    first.starts_with(|c: char| c.is_ascii_digit())
        && first.chars().all(|c| c.is_ascii_digit() || c == '_')
        && !rest.is_empty()
        && rest.iter().all(|p| minutes(p))
}

fn timestamp(text: &str) -> bool {
    let bytes = text.as_bytes();
    let year = bytes.len() >= 8 && bytes[..4].iter().all(u8::is_ascii_digit) && bytes[4] == b'-';
    year && (text.parse::<jiff::Timestamp>().is_ok()
        || text.parse::<jiff::civil::Date>().is_ok()
        || text.parse::<jiff::civil::DateTime>().is_ok())
}

/// Keys in the order that a person expects: letters after everything else, digits by their value.
fn natural(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut digits = false;
    for at in 0..a.len().min(b.len()) {
        if a[at] == b[at] {
            digits = a[at].is_ascii_digit();
            continue;
        }
        return match (a[at].is_alphabetic(), b[at].is_alphabetic()) {
            (true, true) => a[at].cmp(&b[at]),
            (true, false) => {
                if digits {
                    Ordering::Less
                } else {
                    Ordering::Greater
                }
            }
            (false, true) => {
                if digits {
                    Ordering::Greater
                } else {
                    Ordering::Less
                }
            }
            (false, false) => by_number(&a, &b, at),
        };
    }
    a.len().cmp(&b.len())
}

fn by_number(a: &[char], b: &[char], at: usize) -> Ordering {
    let zero = a[at] == '0' || b[at] == '0';
    let lead = zero && a[..at].iter().rev().take_while(|c| c.is_ascii_digit()).any(|c| *c != '0');
    let read = |s: &[char]| {
        let digits: Vec<u32> = s[at..].iter().map_while(|c| c.to_digit(10)).collect();
        let start = u128::from(lead);
        (digits.iter().fold(start, |n, d| n.saturating_mul(10).saturating_add(u128::from(*d))), digits.len())
    };
    read(a).cmp(&read(b)).then(a[at].cmp(&b[at]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shapes() {
        let value = json!({"b": [{"x": 1, "y": [1, 2]}, "s"], "a": {}, "c": [], "d": null, "e": {"f": true}});
        assert_eq!(render(&value), "a: {}\nb:\n- x: 1\n  \"y\":\n  - 1\n  - 2\n- s\nc: []\nd: null\ne:\n  f: true\n");
    }

    #[test]
    fn quoting() {
        let cases = [
            ("plain", "plain"),
            ("", "\"\""),
            ("true", "\"true\""),
            ("17", "\"17\""),
            ("1e3", "\"1e3\""),
            ("10.96.0.1", "10.96.0.1"),
            ("0x1f", "\"0x1f\""),
            ("2024-01-02T03:04:05Z", "\"2024-01-02T03:04:05Z\""),
            ("12:30", "\"12:30\""),
            ("a: b", "'a: b'"),
            ("a:b", "a:b"),
            ("*", "'*'"),
            ("it's", "it's"),
            ("'q'", "'''q'''"),
            ("- a", "'- a'"),
            ("-", "'-'"),
            ("a #b", "'a #b'"),
            (" a", "' a'"),
            ("a\nb", "|-\n    a\n    b"),
            ("a\n", "|\n    a"),
            ("tab\there", "\"tab\\there\""),
        ];
        for (text, want) in cases {
            let got = render(&json!({"k": {"v": text}}));
            assert_eq!(got, format!("k:\n  v: {want}\n"), "{text:?}");
        }
    }

    #[test]
    fn folds_after_eighty() {
        let text = "word ".repeat(30);
        let got = render(&json!({"k": text.trim_end()}));
        let lines: Vec<&str> = got.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(lines[0].len() > 80 && lines[1].starts_with("  word"), "{got}");
    }

    #[test]
    fn natural_keys() {
        let mut keys = vec!["a10", "a2", "b", "a-b", "ab", "A"];
        keys.sort_by(|a, b| natural(a, b));
        assert_eq!(keys, ["A", "a-b", "a2", "a10", "ab", "b"]);
    }
}

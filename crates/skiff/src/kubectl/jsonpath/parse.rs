//! Reading a template.

use serde_json::{Value, json};

use super::{Compare, Node, Operand, Step};

type Parsed<T> = Result<T, String>;

/// Brackets and filters may be nested this deep.
const MAX_DEPTH: usize = 32;

pub(in super::super) fn parse(template: &str) -> Parsed<Vec<Node>> {
    let mut reader = Reader { chars: template.chars().collect(), at: 0, depth: 0 };
    let (nodes, ended) = reader.nodes(0)?;
    if ended { Err("not in range, nothing to end".into()) } else { Ok(nodes) }
}

struct Reader {
    chars: Vec<char>,
    at: usize,
    depth: usize,
}

impl Reader {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek();
        self.at += usize::from(c.is_some());
        c
    }

    fn eat(&mut self, word: &str) -> bool {
        let found = word.chars().enumerate().all(|(i, c)| self.chars.get(self.at + i) == Some(&c));
        if found {
            self.at += word.chars().count();
        }
        found
    }

    fn spaces(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn expect(&mut self, word: &str) -> Parsed<()> {
        self.spaces();
        if self.eat(word) { Ok(()) } else { Err(format!("unexpected {}: wanted {word:?}", self.here())) }
    }

    fn here(&self) -> String {
        self.peek().map_or("end of the template".into(), |c| format!("{c:?}"))
    }

    /// Nodes up to the end, or up to `{end}` (then true).
    fn nodes(&mut self, depth: usize) -> Parsed<(Vec<Node>, bool)> {
        let mut nodes = Vec::new();
        let mut text = String::new();
        while let Some(c) = self.take() {
            if c != '{' {
                text.push(c);
                continue;
            }
            if !text.is_empty() {
                nodes.push(Node::Text(std::mem::take(&mut text)));
            }
            if self.action(depth, &mut nodes)? {
                return Ok((nodes, true));
            }
        }
        if !text.is_empty() {
            nodes.push(Node::Text(text));
        }
        Ok((nodes, false))
    }

    /// What stands between braces; true for `end`.
    fn action(&mut self, depth: usize, nodes: &mut Vec<Node>) -> Parsed<bool> {
        loop {
            self.spaces();
            match self.peek() {
                None => return Err("unclosed action".into()),
                Some('}') => {
                    self.at += 1;
                    return Ok(false);
                }
                Some('"' | '\'') => nodes.push(Node::Text(self.string()?)),
                _ if self.eat("end") => {
                    self.expect("}")?;
                    return Ok(true);
                }
                _ if self.eat("range") => {
                    if depth >= MAX_DEPTH {
                        return Err("ranges are nested too deeply".into());
                    }
                    let steps = self.path()?;
                    self.expect("}")?;
                    let (body, ended) = self.nodes(depth + 1)?;
                    if !ended {
                        return Err("unclosed range: {end} is missing".into());
                    }
                    nodes.push(Node::Range(steps, body));
                    return Ok(false);
                }
                _ => nodes.push(Node::Path(self.path()?)),
            }
        }
    }

    fn string(&mut self) -> Parsed<String> {
        let quote = self.take();
        let mut text = String::new();
        while let Some(c) = self.take() {
            match c {
                c if Some(c) == quote => return Ok(text),
                '\\' => match self.take() {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some('r') => text.push('\r'),
                    Some(c) => text.push(c),
                    None => break,
                },
                c => text.push(c),
            }
        }
        Err("unterminated quoted string".into())
    }

    fn path(&mut self) -> Parsed<Vec<Step>> {
        self.spaces();
        let mut steps = Vec::new();
        loop {
            match self.peek() {
                Some('$') => {
                    self.at += 1;
                    steps.push(Step::Root);
                }
                Some('@') => self.at += 1,
                Some('.') => {
                    self.at += 1;
                    if self.peek() == Some('.') {
                        self.at += 1;
                        steps.push(Step::Recursive);
                    }
                    self.field(&mut steps);
                }
                Some('[') => steps.push(self.bracket()?),
                Some('*') => {
                    self.at += 1;
                    steps.push(Step::Wildcard);
                }
                Some(c) if steps.is_empty() && (c.is_alphanumeric() || c == '_') => self.field(&mut steps),
                _ if self.at > 0 && !steps.is_empty() => return Ok(steps),
                _ if self.chars.get(self.at.wrapping_sub(1)).is_some_and(|c| matches!(c, '.' | '@')) => {
                    return Ok(steps);
                }
                _ => return Err(format!("unrecognized character in action: {}", self.here())),
            }
        }
    }

    fn field(&mut self, steps: &mut Vec<Step>) {
        let mut name = String::new();
        while let Some(c) = self.peek() {
            match c {
                '\\' => {
                    self.at += 1;
                    name.extend(self.take());
                }
                '.' | '[' | ']' | '}' | '{' | '=' | '!' | '<' | '>' | ')' | '(' | ',' | ' ' | '\t' | '\n' | '$'
                | '@' | '&' | '|' => {
                    break;
                }
                c => {
                    self.at += 1;
                    name.push(c);
                }
            }
        }
        match name.as_str() {
            "" => {}
            "*" => steps.push(Step::Wildcard),
            _ => steps.push(Step::Field(name)),
        }
    }

    fn bracket(&mut self) -> Parsed<Step> {
        self.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("brackets are nested too deeply".into());
        }
        self.spaces();
        let step = if self.eat("?(") { self.filter()? } else { self.union()? };
        self.depth -= 1;
        Ok(step)
    }

    fn filter(&mut self) -> Parsed<Step> {
        let left = self.operand()?;
        self.spaces();
        let compare = self.compare();
        let test = match compare {
            Some(compare) => Some((compare, self.operand()?)),
            None => None,
        };
        self.expect(")")?;
        self.expect("]")?;
        Ok(Step::Filter(left, test))
    }

    fn compare(&mut self) -> Option<Compare> {
        const OPERATORS: &[(&str, Compare)] = &[
            ("==", Compare::Equal),
            ("!=", Compare::NotEqual),
            ("<=", Compare::LessEqual),
            (">=", Compare::GreaterEqual),
            ("<", Compare::Less),
            (">", Compare::Greater),
        ];
        OPERATORS.iter().find(|(word, _)| self.eat(word)).map(|(_, compare)| *compare)
    }

    fn operand(&mut self) -> Parsed<Operand> {
        self.spaces();
        match self.peek() {
            Some('"' | '\'') => Ok(Operand::Value(json!(self.string()?))),
            Some('@' | '.' | '$' | '[') => Ok(Operand::Path(self.path()?)),
            Some(c) if c.is_ascii_digit() || c == '-' || c.is_alphabetic() => self.literal(),
            _ => Err(format!("unexpected {} in a filter", self.here())),
        }
    }

    fn literal(&mut self) -> Parsed<Operand> {
        let mut word = String::new();
        while let Some(c) = self.peek().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '.' | '+' | '_')) {
            word.push(c);
            self.at += 1;
        }
        let value: Value =
            serde_json::from_str(&word).map_err(|_| format!("unrecognized value {word:?} in a filter"))?;
        Ok(Operand::Value(value))
    }

    fn union(&mut self) -> Parsed<Step> {
        let mut alternatives = Vec::new();
        loop {
            self.spaces();
            alternatives.push(match self.peek() {
                Some('"' | '\'') => dotted(&self.string()?),
                _ => vec![self.index()?],
            });
            self.spaces();
            match self.take() {
                Some(',') => {}
                Some(']') => break,
                _ => return Err("unterminated array".into()),
            }
        }
        match (alternatives.len(), alternatives.first().map(Vec::as_slice)) {
            (1, Some([one])) => Ok(one.clone()),
            _ => Ok(Step::Union(alternatives)),
        }
    }

    fn index(&mut self) -> Parsed<Step> {
        let mut text = String::new();
        while let Some(c) = self.peek().filter(|c| !matches!(c, ',' | ']' | '}')) {
            text.push(c);
            self.at += 1;
        }
        let text = text.trim();
        if text == "*" {
            return Ok(Step::Wildcard);
        }
        let parts: Vec<&str> = text.split(':').map(str::trim).collect();
        let bad = || format!("invalid array index {text}");
        let number = |part: &str| if part.is_empty() { Ok(None) } else { part.parse().map(Some).map_err(|_| bad()) };
        match parts.as_slice() {
            [one] => Ok(Step::Slice { from: Some(number(one)?.ok_or_else(bad)?), to: None, step: 1, single: true }),
            [from, to] => Ok(Step::Slice { from: number(from)?, to: number(to)?, step: 1, single: false }),
            [from, to, step] => Ok(Step::Slice {
                from: number(from)?,
                to: number(to)?,
                step: number(step)?.filter(|s| *s > 0).ok_or_else(bad)?,
                single: false,
            }),
            _ => Err(bad()),
        }
    }
}

/// `'metadata.name'` in brackets is a path too.
fn dotted(text: &str) -> Vec<Step> {
    text.split('.').filter(|part| !part.is_empty()).map(|part| Step::Field(part.to_owned())).collect()
}

//! The JSONPath templates of `-o jsonpath`: text with `{…}` in it; fields, indexes, slices, filters, recursion, ranges.

mod parse;

use serde_json::Value;

pub(super) use parse::parse;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Text(String),
    /// A path whose results are printed with spaces between.
    Path(Vec<Step>),
    /// `{range path}…{end}`
    Range(Vec<Step>, Vec<Node>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    Root,
    Field(String),
    Wildcard,
    Recursive,
    /// `[a:b:c]`; an index is a slice of one.
    Slice {
        from: Option<i64>,
        to: Option<i64>,
        step: i64,
        single: bool,
    },
    Union(Vec<Vec<Step>>),
    Filter(Operand, Option<(Compare, Operand)>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Operand {
    Path(Vec<Step>),
    Value(Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compare {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

/// The template filled in. With `lenient`, a missing field is nothing; else it is an error.
pub(super) fn execute(nodes: &[Node], root: &Value, lenient: bool) -> Result<String, String> {
    let mut out = String::new();
    print(nodes, root, root, lenient, &mut out)?;
    Ok(out)
}

fn print(nodes: &[Node], root: &Value, current: &Value, lenient: bool, out: &mut String) -> Result<(), String> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Path(steps) => {
                let found = walk(steps, root, current, lenient)?;
                let texts: Vec<String> = found.into_iter().map(text_of).collect();
                out.push_str(&texts.join(" "));
            }
            Node::Range(steps, body) => {
                for item in walk(steps, root, current, lenient)? {
                    print(body, root, item, lenient, out)?;
                }
            }
        }
    }
    Ok(())
}

/// A value as it is printed: text without quotes, everything else as JSON.
pub(super) fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => super::text::compact(other),
    }
}

pub(super) fn walk<'v>(
    steps: &[Step],
    root: &'v Value,
    current: &'v Value,
    lenient: bool,
) -> Result<Vec<&'v Value>, String> {
    let mut values = vec![current];
    let mut recursive = false;
    for step in steps {
        let mut next = Vec::new();
        for value in values {
            advance(step, root, value, lenient || recursive, &mut next)?;
        }
        recursive = *step == Step::Recursive;
        values = next;
    }
    Ok(values)
}

fn advance<'v>(
    step: &Step,
    root: &'v Value,
    value: &'v Value,
    lenient: bool,
    into: &mut Vec<&'v Value>,
) -> Result<(), String> {
    match step {
        Step::Root => into.push(root),
        Step::Field(name) => match value.get(name.as_str()) {
            Some(found) => into.push(found),
            None if lenient || value.is_null() => {}
            None => return Err(format!("{name} is not found")),
        },
        Step::Wildcard => children(value, into),
        Step::Recursive => descend(value, into),
        Step::Slice { from, to, step, single } => slice(value, (*from, *to, *step, *single), lenient, into)?,
        Step::Union(paths) => {
            for path in paths {
                into.extend(walk(path, root, value, lenient)?);
            }
        }
        Step::Filter(left, test) => {
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            for item in items {
                if holds(left, test.as_ref(), root, item)? {
                    into.push(item);
                }
            }
        }
    }
    Ok(())
}

fn children<'v>(value: &'v Value, into: &mut Vec<&'v Value>) {
    match value {
        Value::Array(items) => into.extend(items),
        Value::Object(map) => into.extend(map.values()),
        _ => {}
    }
}

fn descend<'v>(value: &'v Value, into: &mut Vec<&'v Value>) {
    into.push(value);
    let mut below = Vec::new();
    children(value, &mut below);
    below.into_iter().filter(|v| v.is_array() || v.is_object()).for_each(|v| descend(v, into));
}

type Bounds = (Option<i64>, Option<i64>, i64, bool);

fn slice<'v>(value: &'v Value, bounds: Bounds, lenient: bool, into: &mut Vec<&'v Value>) -> Result<(), String> {
    let (from, to, step, single) = bounds;
    let Some(items) = value.as_array() else {
        return if lenient || value.is_null() { Ok(()) } else { Err("is not array or slice".into()) };
    };
    let length = items.len() as i64;
    let place = |at: i64| if at < 0 { at + length } else { at };
    let start = place(from.unwrap_or(0));
    if single {
        let found = usize::try_from(start).ok().and_then(|at| items.get(at));
        match found {
            Some(item) => into.push(item),
            None if lenient => {}
            None => return Err(format!("array index out of bounds: index {}, length {length}", from.unwrap_or(0))),
        }
        return Ok(());
    }
    let end = place(to.unwrap_or(length)).min(length);
    let step = usize::try_from(step).unwrap_or(1).max(1);
    into.extend((start.max(0)..end).step_by(step).filter_map(|at| items.get(usize::try_from(at).ok()?)));
    Ok(())
}

fn holds(left: &Operand, test: Option<&(Compare, Operand)>, root: &Value, item: &Value) -> Result<bool, String> {
    let lefts = operand(left, root, item)?;
    let Some((compare, right)) = test else { return Ok(!lefts.is_empty()) };
    let rights = operand(right, root, item)?;
    let (Some(left), Some(right)) = (lefts.first(), rights.first()) else { return Ok(false) };
    Ok(compared(*compare, left, right))
}

fn operand<'v>(operand: &'v Operand, root: &'v Value, item: &'v Value) -> Result<Vec<&'v Value>, String> {
    match operand {
        Operand::Value(value) => Ok(vec![value]),
        Operand::Path(steps) => walk(steps, root, item, true),
    }
}

fn compared(compare: Compare, left: &Value, right: &Value) -> bool {
    use std::cmp::Ordering;
    let order = match (left, right) {
        (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => (left == right).then_some(Ordering::Equal),
    };
    match compare {
        Compare::Equal => order == Some(Ordering::Equal),
        Compare::NotEqual => order != Some(Ordering::Equal),
        Compare::Less => order == Some(Ordering::Less),
        Compare::LessEqual => matches!(order, Some(Ordering::Less | Ordering::Equal)),
        Compare::Greater => order == Some(Ordering::Greater),
        Compare::GreaterEqual => matches!(order, Some(Ordering::Greater | Ordering::Equal)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(template: &str, want: &str) {
        let value = json!({
            "kind": "List",
            "items": [
                {"metadata": {"name": "a", "labels": {"x.io/y": "1"}}, "n": 1, "c": [{"type": "R", "s": "True"}]},
                {"metadata": {"name": "b"}, "n": 2, "c": [{"type": "R", "s": "False"}]},
            ],
        });
        let nodes = parse(template).unwrap_or_else(|e| panic!("{template}: {e}"));
        assert_eq!(execute(&nodes, &value, true).unwrap(), want, "{template}");
    }

    #[test]
    fn templates() {
        check("{.kind}", "List");
        check("{$.kind}", "List");
        check("{.items[*].metadata.name}", "a b");
        check("{.items[0].metadata.name}", "a");
        check("{.items[-1:].metadata.name}", "b");
        check("{.items[0:2].metadata.name}", "a b");
        check("{.items[0,1].n}", "1 2");
        check("{range .items[*]}{.metadata.name}{\"\\t\"}{.n}{'\\n'}{end}", "a\t1\nb\t2\n");
        check("{.items[?(@.n==2)].metadata.name}", "b");
        check("{.items[?(@.n>=1)].metadata.name}", "a b");
        check("{.items[?(@.metadata.name==\"a\")].n}", "1");
        check("{.items[*].c[?(@.type=='R')].s}", "True False");
        check("{.items[?(@.metadata.labels)].n}", "1");
        check("{..name}", "a b");
        check("{.items[0].metadata.labels.x\\.io/y}", "1");
        check("{.items[0].metadata['name']}", "a");
        check("{.items[*]['metadata.name','n']}", "a 1 b 2");
        check("name: {.items[0].metadata.name}!", "name: a!");
        check("{.missing}", "");
        check("{.items[0].metadata.labels}", "{\"x.io/y\":\"1\"}");
    }

    #[test]
    fn broken_templates() {
        for bad in ["{", "{.a", "{.a[}", "{.a[?(@.b==)]}", "{range .a}", "{.a[1:2:3:4]}", "{'a}", "{end}", "{.a[?("] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn missing_fields_are_errors_when_strict() {
        assert!(execute(&parse("{.a}").unwrap(), &json!({}), false).is_err());
        assert!(execute(&parse("{[3]}").unwrap(), &json!([1]), false).is_err());
    }
}

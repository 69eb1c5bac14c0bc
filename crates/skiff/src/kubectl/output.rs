//! `-o`: objects as YAML, JSON, names, templates, columns.

use serde_json::{Value, json};
use skiff_api::json;

use super::{
    error::{Error, Result, plain},
    flags::{Args, Flag, switch, value},
    jsonpath,
    text::{emit, pretty, tabbed},
    yaml,
};

pub(super) const FLAG: &[Flag] = &[
    value("output", "how to print: json, yaml, name, wide, jsonpath=TEMPLATE, custom-columns=SPEC").short('o'),
    switch("show-managed-fields", "keep metadata.managedFields in json and yaml"),
    value("template", "the template, where -o names only its kind"),
    switch("allow-missing-template-keys", "templates: a missing field is nothing (the default), not an error"),
];

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Format {
    /// Whatever the verb prints for people.
    Human {
        wide: bool,
    },
    Json,
    Yaml,
    Name,
    Path(Vec<jsonpath::Node>, bool),
    Columns(Vec<(String, Vec<jsonpath::Node>)>),
}

impl Format {
    pub(super) fn of(args: &Args) -> Result<Format> {
        let Some(text) = args.get("output") else { return Ok(Format::Human { wide: false }) };
        let (name, template) = match text.split_once('=') {
            Some((name, template)) => (name, Some(template.to_owned())),
            None => (text, args.get("template").map(str::to_owned)),
        };
        let lenient = !args.off("allow-missing-template-keys");
        let need = |what: &str| {
            template.clone().ok_or_else(|| Error::Plain(format!("{what} format specified but no {what} given")))
        };
        match name {
            "" => Ok(Format::Human { wide: false }),
            "wide" => Ok(Format::Human { wide: true }),
            "json" => Ok(Format::Json),
            "yaml" => Ok(Format::Yaml),
            "name" => Ok(Format::Name),
            "jsonpath" => Ok(Format::Path(template_of(&need("template")?)?, lenient)),
            "jsonpath-file" => Ok(Format::Path(template_of(&read(&need("template")?)?)?, lenient)),
            "custom-columns" => columns(&need("custom-columns")?),
            "custom-columns-file" => columns_file(&read(&need("custom-columns")?)?),
            "go-template" | "go-template-file" | "template" | "templatefile" => plain(format!(
                "output format {name:?} is not supported here: use -o jsonpath=TEMPLATE or -o custom-columns=SPEC instead"
            )),
            _ => plain(format!(
                "unable to match a printer suitable for the output format {text:?}, allowed formats are: custom-columns,custom-columns-file,go-template,go-template-file,json,jsonpath,jsonpath-as-json,jsonpath-file,name,template,templatefile,wide,yaml"
            )),
        }
    }

    pub(super) fn human(&self) -> bool {
        matches!(self, Format::Human { .. })
    }
}

fn read(file: &str) -> Result<String> {
    std::fs::read_to_string(file).map_err(|e| Error::Plain(format!("error reading template {file}: {e}")))
}

fn template_of(text: &str) -> Result<Vec<jsonpath::Node>> {
    jsonpath::parse(text).map_err(|e| Error::Plain(format!("error parsing jsonpath {text}, {e}")))
}

fn columns(spec: &str) -> Result<Format> {
    let mut columns = Vec::new();
    for part in spec.split(',') {
        let Some((header, path)) = part.split_once(':') else {
            return plain(format!("unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>"));
        };
        columns.push((header.to_owned(), relaxed(path)?));
    }
    Ok(Format::Columns(columns))
}

fn columns_file(text: &str) -> Result<Format> {
    let mut lines = text.lines();
    let (headers, paths) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let pairs: Vec<(&str, &str)> = headers.split_whitespace().zip(paths.split_whitespace()).collect();
    if pairs.is_empty() {
        return plain("a custom-columns file has a line of headers and a line of paths");
    }
    let columns: Result<Vec<_>> = pairs.into_iter().map(|(h, p)| Ok((h.to_owned(), relaxed(p)?))).collect();
    Ok(Format::Columns(columns?))
}

/// `x.y`, `.x.y` and `{.x.y}` mean the same.
pub(super) fn relaxed(path: &str) -> Result<Vec<jsonpath::Node>> {
    let inner = path.strip_prefix('{').and_then(|p| p.strip_suffix('}')).unwrap_or(path);
    if inner.is_empty() || inner.contains('{') {
        return plain(format!(
            "unexpected path string, expected a 'name1.name2' or '.name1.name2' or '{{name1.name2}}' or '{{.name1.name2}}', got {path:?}"
        ));
    }
    let dotted = if inner.starts_with(['.', '$', '[']) { inner.to_owned() } else { format!(".{inner}") };
    template_of(&format!("{{{dotted}}}"))
}

/// One object, or several as a `List`.
pub(super) fn as_one(mut objects: Vec<Value>, always_list: bool) -> Value {
    if objects.len() == 1 && !always_list {
        return objects.remove(0);
    }
    json!({"apiVersion": "v1", "items": objects, "kind": "List", "metadata": {"resourceVersion": ""}})
}

/// Prints an object (or a List) in a format that is not for people. `name` is how `-o name` calls an object.
pub(super) fn print(format: &Format, args: &Args, object: &Value, name: impl Fn(&Value) -> String) -> Result<()> {
    let mut object = object.clone();
    if !args.on("show-managed-fields") {
        without_managed_fields(&mut object);
    }
    match format {
        Format::Yaml => emit(&yaml::render(&object)),
        Format::Json => emit(&(pretty(&object) + "\n")),
        Format::Name => emit(&each(&object).map(|o| format!("{}\n", name(o))).collect::<String>()),
        Format::Path(nodes, lenient) => match jsonpath::execute(nodes, &object, *lenient) {
            Ok(text) => emit(&text),
            Err(e) => plain(format!("error executing jsonpath: {e}")),
        },
        Format::Columns(columns) => emit(&custom(columns, &object, args.on("no-headers"))),
        Format::Human { .. } => Ok(()),
    }
}

fn each(object: &Value) -> impl Iterator<Item = &Value> {
    let items = object.get("items").and_then(Value::as_array);
    let single = items.is_none().then_some(object);
    items.into_iter().flatten().chain(single)
}

pub(super) fn without_managed_fields(object: &mut Value) {
    if let Some(Value::Array(items)) = object.get_mut("items") {
        items.iter_mut().for_each(without_managed_fields);
    }
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
}

fn custom(columns: &[(String, Vec<jsonpath::Node>)], object: &Value, bare: bool) -> String {
    let mut lines: Vec<String> = Vec::new();
    if !bare {
        lines.push(columns.iter().map(|(h, _)| h.as_str()).collect::<Vec<_>>().join("\t"));
    }
    for item in each(object) {
        lines.push(columns.iter().map(|(_, path)| cell(path, item)).collect::<Vec<_>>().join("\t"));
    }
    tabbed(&(lines.join("\n") + "\n"), 6, 3)
}

fn cell(path: &[jsonpath::Node], item: &Value) -> String {
    let [jsonpath::Node::Path(steps)] = path else { return "<none>".into() };
    let found = jsonpath::walk(steps, item, item, true).unwrap_or_default();
    if found.is_empty() {
        return "<none>".into();
    }
    found.into_iter().map(go_text).collect::<Vec<_>>().join(",")
}

/// A value as Go's `%v` prints it.
fn go_text(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            let pairs: Vec<String> = keys.into_iter().map(|k| format!("{k}:{}", go_text(&map[k.as_str()]))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

/// `pod/a`, `deployment.apps/web`: how an object calls itself.
pub(super) fn name_of(object: &Value) -> String {
    let (group, _) = skiff_api::resources::split_api_version(json::text(object, "apiVersion"));
    let kind = json::text(object, "kind").to_lowercase();
    format!("{}/{}", skiff_api::resources::qualified(&kind, group), json::text(object, "metadata.name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn custom_columns() {
        let Format::Columns(spec) = columns("NAME:.metadata.name,L:metadata.labels,X:{.x[*].y}").unwrap() else {
            panic!("columns")
        };
        let list = json!({"items": [{"metadata": {"name": "a", "labels": {"b": "1", "a": "2"}}, "x": [{"y": 1}, {"y": 2}]}, {"metadata": {"name": "b"}}]});
        let want = "NAME   L              X\na      map[a:2 b:1]   1,2\nb      <none>         <none>\n";
        assert_eq!(custom(&spec, &list, false), want);
        assert!(columns("NAME").is_err());
    }
}

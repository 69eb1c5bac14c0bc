//! Objects from files: YAML and JSON, several documents, lists, directories, standard input.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use serde_json::Value;
use skiff_api::json;

use super::{
    error::{Error, Result, plain},
    flags::{Args, Flag, switch, value},
};

pub(super) const FLAGS: &[Flag] = &[
    value("filename", "a file, a directory, or - for standard input; may be repeated").short('f'),
    switch("recursive", "with a directory: its directories too").short('R'),
    value("kustomize", "not supported").short('k'),
];

/// The most that is read from one file.
const MAX_FILE: u64 = 64 << 20;

/// An object and the file it came from.
#[derive(Clone, Debug)]
pub(super) struct Manifest {
    pub(super) source: String,
    pub(super) object: Value,
}

/// All objects of all `-f`, in order.
pub(super) fn read(args: &Args) -> Result<Vec<Manifest>> {
    if args.has("kustomize") {
        return plain("-k is not supported: render the kustomization first and pass the result with -f");
    }
    let mut all = Vec::new();
    for name in args.list("filename") {
        match name {
            "-" => {
                let mut text = String::new();
                let stdin = std::io::stdin().lock().take(MAX_FILE).read_to_string(&mut text);
                stdin.map_err(|e| Error::Plain(format!("cannot read standard input: {e}")))?;
                parse(&text, "STDIN", &mut all)?;
            }
            url if url.starts_with("http://") || url.starts_with("https://") => {
                return plain(format!(
                    "cannot read {url:?}: download it first, for instance: curl -L {url} | kubectl … -f -"
                ));
            }
            path => read_path(Path::new(path), args.on("recursive"), &mut all)?,
        }
    }
    if all.is_empty() && args.has("filename") {
        return plain("no objects passed to apply".replace("apply", "this command"));
    }
    Ok(all)
}

fn read_path(path: &Path, recursive: bool, into: &mut Vec<Manifest>) -> Result<()> {
    if !path.exists() {
        return plain(format!("the path {:?} does not exist", path.display()));
    }
    if !path.is_dir() {
        return read_file(path, into);
    }
    let mut files = Vec::new();
    collect(path, recursive, &mut files)?;
    if files.is_empty() {
        return plain(format!("error reading [{}]: recognized file extensions are [.json .yaml .yml]", path.display()));
    }
    files.iter().try_for_each(|file| read_file(file, into))
}

fn collect(dir: &Path, recursive: bool, files: &mut Vec<PathBuf>) -> Result<()> {
    let bad = |e: std::io::Error| Error::Plain(format!("{}: {e}", dir.display()));
    let mut entries: Vec<PathBuf> =
        fs::read_dir(dir).and_then(|d| d.map(|e| e.map(|e| e.path())).collect()).map_err(bad)?;
    entries.sort();
    for entry in entries {
        let known = entry.extension().is_some_and(|e| e == "json" || e == "yaml" || e == "yml");
        match entry.is_dir() {
            true if recursive => collect(&entry, true, files)?,
            false if known => files.push(entry),
            _ => {}
        }
    }
    Ok(())
}

fn read_file(path: &Path, into: &mut Vec<Manifest>) -> Result<()> {
    let name = path.display().to_string();
    let mut text = String::new();
    let read = fs::File::open(path).and_then(|f| f.take(MAX_FILE).read_to_string(&mut text));
    read.map_err(|e| Error::Plain(format!("cannot read {name}: {e}")))?;
    parse(&text, &name, into)
}

/// Splits a text into objects; the items of a `List` count each for itself.
pub(super) fn parse(text: &str, source: &str, into: &mut Vec<Manifest>) -> Result<()> {
    let bad = |why: String| Error::Plain(format!("error parsing {source}: error converting YAML to JSON: yaml: {why}"));
    skiff_api::yaml::check_depth(text.as_bytes()).map_err(bad)?;
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value = Value::deserialize(document).map_err(|e| bad(e.to_string()))?;
        if !value.is_null() {
            unpack(value, source, into)?;
        }
    }
    Ok(())
}

fn unpack(mut object: Value, source: &str, into: &mut Vec<Manifest>) -> Result<()> {
    let missing = |field: &str| {
        plain(format!(
            "error validating {source:?}: error validating data: {field} not set; if you choose to ignore these errors, turn validation off with --validate=false"
        ))
    };
    if !object.is_object() {
        return plain(format!("error validating {source:?}: error validating data: invalid object to validate"));
    }
    match (json::text(&object, "apiVersion"), json::text(&object, "kind")) {
        ("", "") => {
            return missing("[apiVersion not set, kind not set]")
                .map_err(|e: Error| Error::Plain(e.to_string().replace("] not set", "]")));
        }
        ("", _) => return missing("apiVersion"),
        (_, "") => return missing("kind"),
        (_, kind) if kind.ends_with("List") && object.get("items").is_some_and(Value::is_array) => {}
        _ => {
            into.push(Manifest { source: source.to_owned(), object });
            return Ok(());
        }
    }
    match object.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items.into_iter().try_for_each(|item| unpack(item, source, into)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_lists() {
        let text = "# only a comment\n---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\n\
                    {\"apiVersion\":\"v1\",\"kind\":\"List\",\"items\":[{\"apiVersion\":\"v1\",\"kind\":\"Pod\"}]}\n---\n";
        let mut all = Vec::new();
        parse(text, "f.yaml", &mut all).unwrap();
        let kinds: Vec<&str> = all.iter().map(|m| json::text(&m.object, "kind")).collect();
        assert_eq!(kinds, ["Service", "Pod"]);
    }

    #[test]
    fn broken() {
        for text in ["a: [", "just text", "kind: Pod", "apiVersion: v1", "a: 1", "[1]", "\u{0}"] {
            assert!(parse(text, "f.yaml", &mut Vec::new()).is_err(), "{text:?}");
        }
    }
}

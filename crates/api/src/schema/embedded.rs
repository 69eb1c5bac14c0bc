//! The schemas of all kinds as text in the binary, made from k8s-openapi by `examples/schemas.rs`. Compiling its schema
//! functions in would cost megabytes and minutes.

use std::io::Read;
use std::sync::OnceLock;

use flate2::read::GzDecoder;
use serde_json::{Map, Value};

/// One definition a line, in order of the names: name, tab, schema without descriptions.
static SHAPES: &str = include_str!("shapes.tsv");
/// A gzipped JSON object of all definitions with their descriptions.
static DEFINITIONS: &[u8] = include_bytes!("definitions.json.gz");

/// What values of a definition look like, by its full name.
pub(super) fn shape(name: &str) -> Option<Value> {
    static LINES: OnceLock<Vec<(&str, &str)>> = OnceLock::new();
    let lines = LINES.get_or_init(|| SHAPES.lines().filter_map(|line| line.split_once('\t')).collect());
    let found = lines.binary_search_by_key(&name, |(name, _)| name).ok()?;
    serde_json::from_str(lines[found].1).ok()
}

/// All definitions, read anew each time: they are megabytes, and asked for a few times in a server's life.
pub(crate) fn definitions() -> Map<String, Value> {
    let mut text = Vec::new();
    let read = GzDecoder::new(DEFINITIONS).read_to_end(&mut text);
    debug_assert!(read.is_ok(), "the embedded definitions are whole");
    serde_json::from_slice(&text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::RESOURCES;

    #[test]
    fn every_kind_has_its_schema() {
        let definitions = definitions();
        let subresources = RESOURCES.iter().flat_map(|r| r.subresources).filter_map(|s| s.schema);
        for schema in RESOURCES.iter().map(|r| r.schema).chain(subresources) {
            let name = schema.name();
            assert!(shape(&name).is_some(), "no shape of {name}: make the schemas anew (examples/schemas.rs)");
            assert!(
                definitions.contains_key(&name),
                "no definition of {name}: make the schemas anew (examples/schemas.rs)"
            );
        }
    }

    /// The first line says of which release the schemas are.
    #[test]
    fn are_of_the_release_in_use() {
        let lock = include_str!("../../../../Cargo.lock");
        let version = lock.split("name = \"k8s-openapi\"\nversion = \"").nth(1).and_then(|rest| rest.split('"').next());
        let made_of = SHAPES.lines().next().and_then(|line| line.strip_prefix("# k8s-openapi "));
        assert_eq!(made_of, version, "make the schemas anew (examples/schemas.rs)");
    }
}

//! Writes the schemas that the API embeds, after a change of the resource table or of k8s-openapi:
//! `cargo run -p skiff-api --features generate --example schemas`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use flate2::{Compression, GzBuilder};
use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use schemars::generate::SchemaSettings;
use serde_json::Value;
use skiff_api::resources::RESOURCES;

fn main() -> std::io::Result<()> {
    let definitions = definitions();
    let into = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/schema");
    let mut shapes = format!("# k8s-openapi {}\n", version());
    for (name, schema) in &definitions {
        let mut shape = schema.clone();
        strip(&mut shape);
        let _ = writeln!(shapes, "{name}\t{shape}");
    }
    fs::write(into.join("shapes.tsv"), shapes)?;
    let mut packed = GzBuilder::new().write(fs::File::create(into.join("definitions.json.gz"))?, Compression::best());
    packed.write_all(serde_json::to_string(&definitions)?.as_bytes())?;
    packed.finish()?;
    Ok(())
}

/// Every kind of the table and all that they are made of, by name.
fn definitions() -> BTreeMap<String, Value> {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let mut all = BTreeMap::new();
    let subresources = RESOURCES.iter().flat_map(|r| r.subresources).filter_map(|s| s.schema);
    for of in RESOURCES.iter().map(|r| r.schema).chain(subresources) {
        all.insert(of.name(), (of.schema)(&mut generator).to_value());
    }
    generator.subschema_for::<meta::ListMeta>();
    generator.subschema_for::<meta::Status>();
    generator.subschema_for::<meta::DeleteOptions>();
    all.extend(generator.take_definitions(false));
    all
}

/// What is only for readers.
fn strip(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.retain(|key, value| !(matches!(key.as_str(), "description" | "title") && value.is_string()));
            map.values_mut().for_each(strip);
        }
        Value::Array(list) => list.iter_mut().for_each(strip),
        _ => {}
    }
}

/// Of k8s-openapi, as locked.
fn version() -> &'static str {
    let lock = include_str!("../../../Cargo.lock");
    let rest = lock.split("name = \"k8s-openapi\"\nversion = \"").nth(1).unwrap_or_default();
    rest.split('"').next().unwrap_or_default()
}

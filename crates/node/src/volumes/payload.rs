//! Which files a ConfigMap, Secret or downward API volume holds. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret};

use super::atomic::{File, Files};
use crate::pod::{env, plan};

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("references non-existent {kind} key: {key}")]
    Key { kind: &'static str, key: String },
    #[error("unsupported field path {0:?} in a downward API volume")]
    Field(String),
}

/// How the keys of an object become files.
#[derive(Clone, Copy, Debug)]
pub struct Shape<'a> {
    pub items: Option<&'a [KeyToPath]>,
    pub mode: u32,
    pub optional: bool,
}

pub fn config_map(object: &ConfigMap, shape: Shape<'_>) -> Result<Files, Error> {
    let texts = object.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    let binary = object.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
    select(texts.chain(binary).collect(), shape, "config")
}

pub fn secret(object: &Secret, shape: Shape<'_>) -> Result<Files, Error> {
    select(object.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect(), shape, "secret")
}

fn select(data: BTreeMap<String, Vec<u8>>, shape: Shape<'_>, kind: &'static str) -> Result<Files, Error> {
    let file = |data: Vec<u8>, mode: Option<i32>| File { data, mode: bits(mode, shape.mode), owner: None };
    let Some(items) = shape.items.filter(|i| !i.is_empty()) else {
        return Ok(data.into_iter().map(|(k, v)| (k, file(v, None))).collect());
    };
    let mut files = Files::new();
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => drop(files.insert(item.path.clone(), file(bytes.clone(), item.mode))),
            None if shape.optional => {}
            None => return Err(Error::Key { kind, key: item.key.clone() }),
        }
    }
    Ok(files)
}

pub fn bits(wished: Option<i32>, default: u32) -> u32 {
    wished.and_then(|m| u32::try_from(m).ok()).unwrap_or(default) & 0o777
}

pub fn downward(items: &[DownwardAPIVolumeFile], mode: u32, around: env::Around<'_>) -> Result<Files, Error> {
    let mut files = Files::new();
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            env::pod_field(&field.field_path, around).ok_or_else(|| Error::Field(field.field_path.clone()))?
        } else if let Some(field) = &item.resource_field_ref {
            let name = field.container_name.as_deref().unwrap_or_default();
            let container = container(around.pod, name);
            let value = container.and_then(|c| env::resource_field(c, field, around));
            value.ok_or_else(|| Error::Field(field.resource.clone()))?
        } else {
            continue;
        };
        files.insert(item.path.clone(), File { data: text.into_bytes(), mode: bits(item.mode, mode), owner: None });
    }
    Ok(files)
}

fn container<'a>(pod: &'a Pod, name: &str) -> Option<&'a k8s_openapi::api::core::v1::Container> {
    plan::find_container(pod.spec.as_ref()?, name)
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn keys_become_files() {
        let map: ConfigMap = from_value(json!({"data": {"a": "1", "b": "2"}})).unwrap();
        let all = config_map(&map, Shape { items: None, mode: 0o644, optional: false }).unwrap();
        assert_eq!(all.keys().collect::<Vec<_>>(), ["a", "b"]);
        let items: Vec<KeyToPath> = from_value(json!([{"key": "b", "path": "x/y", "mode": 256}])).unwrap();
        let some = config_map(&map, Shape { items: Some(&items), mode: 0o644, optional: false }).unwrap();
        assert_eq!(some["x/y"], File { data: b"2".to_vec(), mode: 0o400, owner: None });
        let items: Vec<KeyToPath> = from_value(json!([{"key": "z", "path": "z"}])).unwrap();
        let shape = Shape { items: Some(&items), mode: 0o644, optional: false };
        assert_eq!(config_map(&map, shape).unwrap_err().to_string(), "references non-existent config key: z");
        assert!(config_map(&map, Shape { optional: true, ..shape }).unwrap().is_empty());
    }
}

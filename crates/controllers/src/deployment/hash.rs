//! The short hash that tells a Deployment's ReplicaSets apart.

use k8s_openapi::api::core::v1::PodTemplateSpec;

pub(crate) const LABEL: &str = "pod-template-hash";

/// Letters and digits that form no words.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Equal templates and collision counts have equal hashes. The count is raised when two templates collide.
pub(crate) fn of(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    // A struct of strings, numbers and maps with string keys always has a JSON form.
    let json = serde_json::to_vec(&without_hash(template)).unwrap_or_default();
    let mut sum = fnv1a(0x811c_9dc5, &json);
    if let Some(count) = collisions {
        sum = fnv1a(sum, &count.to_le_bytes());
    }
    sum.to_string().bytes().map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()])).collect()
}

/// The template as the Deployment has it, without the label that its ReplicaSet adds.
pub(crate) fn without_hash(template: &PodTemplateSpec) -> PodTemplateSpec {
    let mut plain = template.clone();
    if let Some(meta) = plain.metadata.as_mut() {
        if let Some(labels) = meta.labels.as_mut() {
            labels.remove(LABEL);
        }
        meta.labels = meta.labels.take().filter(|l| !l.is_empty());
        meta.annotations = meta.annotations.take().filter(|a| !a.is_empty());
    }
    plain.metadata = plain.metadata.filter(|m| *m != Default::default());
    plain
}

fn fnv1a(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |sum, b| (sum ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn template(labels: &[(&str, &str)]) -> PodTemplateSpec {
        let labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        PodTemplateSpec { metadata: Some(ObjectMeta { labels: Some(labels), ..Default::default() }), spec: None }
    }

    #[test]
    fn depends_on_the_template_and_the_collisions_only() {
        let plain = of(&template(&[("a", "b")]), None);
        assert_eq!(of(&template(&[("a", "b"), (LABEL, "x")]), None), plain);
        assert_ne!(of(&template(&[("a", "c")]), None), plain);
        assert_ne!(of(&template(&[("a", "b")]), Some(1)), plain);
        assert!((5..=10).contains(&plain.len()));
        assert!(plain.bytes().all(|b| ALPHABET.contains(&b)));
    }
}

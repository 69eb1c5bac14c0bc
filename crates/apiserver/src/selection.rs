//! Which objects of a collection a request is about: label selector, field selector, name.

use serde_json::Value;
use skiff_api::selector::{Fields, Labels};
use skiff_api::status::Status;

use crate::Result;
use crate::call::Call;
use crate::object;

#[derive(Debug, Default, Clone)]
pub(crate) struct Selection {
    labels: Labels,
    fields: Fields,
    name: Option<String>,
}

impl Selection {
    pub(crate) fn of(call: &Call) -> Result<Selection> {
        let labels = call.query.get("labelSelector").unwrap_or_default();
        let fields = call.query.get("fieldSelector").unwrap_or_default();
        let labels = Labels::parse(labels).map_err(|e| Status::bad_request(e.to_string()))?;
        let fields = Fields::parse(fields).map_err(|e| Status::bad_request(e.to_string()))?;
        let (group, plural) = call.resource().id();
        fields.check(group, plural).map_err(|e| Status::bad_request(e.to_string()))?;
        Ok(Selection { labels, fields, name: call.target.name.clone() })
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty() && self.name.is_none()
    }

    pub(crate) fn matches(&self, value: &Value) -> bool {
        self.name.as_deref().is_none_or(|name| name == object::name(value))
            && self.labels.matches_object(value)
            && self.fields.matches(value)
    }
}

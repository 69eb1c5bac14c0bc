//! Unknown and wrong fields of a request, told as the client asked to be told.

use serde_json::Value;
use skiff_api::resources::Resource;
use skiff_api::schema;
use skiff_api::status::Status;

use crate::Result;
use crate::call::Call;
use crate::query::FieldValidation;

/// Wrong types are always refused; unknown fields are refused, warned of or passed over.
pub(crate) fn fields(call: &Call, resource: &Resource, value: &Value) -> Result<()> {
    let how = call.query.field_validation()?;
    let issues = schema::check(resource, value);
    if let Some(message) = schema::decode_error(resource, &issues) {
        return Err(Status::bad_request(message));
    }
    match (how, schema::strict_error(&issues)) {
        (FieldValidation::Strict, Some(message)) => Err(Status::bad_request(message)),
        (FieldValidation::Warn, Some(_)) => {
            call.warn(issues.iter().map(schema::Issue::message));
            Ok(())
        }
        _ => Ok(()),
    }
}

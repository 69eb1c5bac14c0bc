//! JSON patch: the json-patch crate does it; here are the limits and the words.

use json_patch::{Patch, PatchError, PatchErrorKind, PatchOperation};
use serde_json::Value;

use super::{Error, MAX_OPERATIONS};

/// Applies all operations or none.
pub fn json(object: &Value, patch: &Value) -> Result<Value, Error> {
    let count = patch.as_array().map_or(0, Vec::len);
    if count > MAX_OPERATIONS {
        return Err(Error::TooManyOperations(count));
    }
    let patch: Patch =
        serde_json::from_value(patch.clone()).map_err(|e| Error::Malformed(format!("error decoding patch: {e}")))?;
    let mut patched = object.clone();
    for operation in &patch.0 {
        if !finds_nothing_as_wanted(&patched, operation) {
            json_patch::patch(&mut patched, std::slice::from_ref(operation)).map_err(|f| rejected(operation, &f))?;
        }
    }
    match patched {
        Value::Object(_) => Ok(patched),
        _ => Err(Error::Rejected("the patch replaces the whole object by something that is no object".into())),
    }
}

/// In the reference a field that is not there equals null; controllers test so before they add the first finalizer.
fn finds_nothing_as_wanted(object: &Value, operation: &PatchOperation) -> bool {
    let PatchOperation::Test(test) = operation else { return false };
    let path = test.path.as_str();
    let parent = path.rsplit_once('/').and_then(|(parent, _)| object.pointer(parent));
    test.value.is_null() && parent.is_some_and(Value::is_object) && object.pointer(path).is_none()
}

fn rejected(operation: &PatchOperation, failure: &PatchError) -> Error {
    let path = &failure.path;
    let name = operation_name(operation);
    Error::Rejected(match failure.kind {
        PatchErrorKind::TestFailed => format!("testing value {path} failed: test failed"),
        PatchErrorKind::InvalidPointer if name == "test" => format!("testing path {path} failed: missing value"),
        PatchErrorKind::InvalidPointer => {
            format!("{name} operation does not apply: doc is missing path: \"{path}\": missing value")
        }
        PatchErrorKind::InvalidFromPointer => {
            format!("{name} operation does not apply: doc is missing from path: \"{path}\": missing value")
        }
        PatchErrorKind::CannotMoveInsideItself => {
            format!("{name} operation does not apply: \"{path}\" lies inside of what is moved")
        }
        ref other => format!("{name} operation does not apply: {path}: {other}"),
    })
}

fn operation_name(operation: &PatchOperation) -> &'static str {
    match operation {
        PatchOperation::Add(_) => "add",
        PatchOperation::Remove(_) => "remove",
        PatchOperation::Replace(_) => "replace",
        PatchOperation::Move(_) => "move",
        PatchOperation::Copy(_) => "copy",
        PatchOperation::Test(_) => "test",
    }
}

//! Files and names that users bring.

use skiff_node::image::Reference;
use skiff_store::backup::Backup;

pub(crate) fn backup(bytes: &[u8]) {
    if let Some(backup) = Backup::parse(bytes) {
        let mut again = vec![];
        backup.write(&mut again).expect("memory takes it");
        assert_eq!(Backup::parse(&again), Some(backup));
    }
}

pub(crate) fn image_reference(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(reference) = Reference::parse(text) {
        let said = reference.to_string();
        let again = Reference::parse(&said).unwrap_or_else(|e| panic!("{said:?} of {text:?}: {e}"));
        assert_eq!(again, reference, "{text:?}");
    }
}

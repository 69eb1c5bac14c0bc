//! Every input of the corpus, and what is left of it when it is cut or bent, has what must hold.

use std::{fs, path::Path};

use skiff_fuzz::TARGETS;

/// Longer inputs are replayed as they are.
const BENT: usize = 300;

#[test]
fn the_corpus_holds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in TARGETS {
        let files = fs::read_dir(root.join(name)).unwrap_or_else(|e| panic!("a corpus for {name}: {e}"));
        let mut count = 0;
        for file in files {
            let bytes = fs::read(file.expect("an entry").path()).expect("a file");
            target(&bytes);
            // A server takes its time; the others are asked about every byte.
            if bytes.len() <= BENT && !["api-request", "api-continue", "identity"].contains(name) {
                bend(&bytes, *target);
            }
            count += 1;
        }
        assert!(count >= 3, "{name}: {count} inputs");
    }
}

fn bend(bytes: &[u8], target: fn(&[u8])) {
    for at in 0..bytes.len() {
        target(&bytes[..at]);
        for value in [0, 1, 0x3f, 0x40, 0x80, 0xc0, 0xff] {
            let mut bent = bytes.to_vec();
            bent[at] = value;
            target(&bent);
        }
    }
}

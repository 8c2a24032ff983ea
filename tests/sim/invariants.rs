//! Invariants that no run of the model shows, and those it does, by name.

use std::path::{Path, PathBuf};

/// Rust sources under `places` of the switch, unit tests aside.
pub(super) fn sources_under(places: &[&str]) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../switch/src");
    let mut pending: Vec<PathBuf> = places.iter().map(|place| root.join(place)).collect();
    let mut files = Vec::new();
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            pending.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.file_name().is_some_and(|name| name != "tests.rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// What is left of a source without comments, texts in quotes aside.
pub(super) fn code(source: &str) -> String {
    source.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// A word of the core's sources that its purity forbids.
fn impurity(source: &str) -> Option<&'static str> {
    let code = code(source).replace("forbid(unsafe_code)", "");
    let words = [
        "std::io",
        "std::fs",
        "std::net",
        "std::os",
        "std::thread",
        "std::process",
        "std::env",
        "Instant",
        "SystemTime",
        "unsafe",
        "libc",
        "rustix",
        "mio",
        "crossbeam",
        "println",
        "HashMap",
        "Mutex",
        "Atomic",
        "thread_local",
    ];
    word_in(&code, &words)
}

/// The first of `words` that stands in `code` as a whole word.
pub(super) fn word_in<'w>(code: &str, words: &[&'w str]) -> Option<&'w str> {
    let is_word = |at: usize, word: &str| {
        let inside = |c: char| c.is_alphanumeric() || c == '_';
        !code[..at].ends_with(inside) && !code[at + word.len()..].starts_with(inside)
    };
    words.iter().copied().find(|word| code.match_indices(word).any(|(at, _)| is_word(at, word)))
}

#[test]
fn invariant_1_the_core_is_pure() {
    let files = sources_under(&["bridge", "offload", "frame.rs"]);
    assert!(files.len() > 10, "{files:?}");
    for file in files {
        let source = std::fs::read_to_string(&file).unwrap();
        assert_eq!(impurity(&source), None, "{}", file.display());
    }
    for root in ["bridge/mod.rs", "offload/mod.rs"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../switch/src").join(root);
        assert!(std::fs::read_to_string(path).unwrap().contains("#![forbid(unsafe_code)]"), "{root}");
    }
    for impure in ["use std::io::Read;", "let t = Instant::now();", "unsafe { x() }", "std::fs::read(x)"] {
        assert!(impurity(impure).is_some(), "{impure}");
    }
}

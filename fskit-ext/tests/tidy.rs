//! The rules of the project that a text search can check here, as ../tests/tidy.rs does for the other crates.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the path and the text of every source file.
fn sources() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (mut files, mut dirs) = (Vec::new(), vec![root.join("src")]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                files.push((path.clone(), fs::read_to_string(path).unwrap()));
            }
        }
    }
    assert!(files.len() > 10);
    files
}

/// clippy checks the same, but it never sees the code that is only built on macOS.
#[test]
fn every_unsafe_has_a_safety_comment() {
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
            if !line.contains("unsafe {") && !line.contains("unsafe impl") && !line.contains("#[unsafe(super")
            {
                continue;
            }
            // The statement that contains it may have started a few lines before.
            let above = &lines[i.saturating_sub(5)..=i];
            assert!(
                above.iter().any(|l| l.trim_start().starts_with("// SAFETY: ")),
                "{}:{}: unsafe without a safety comment",
                path.display(),
                i + 1
            );
        }
    }
}

#[test]
fn only_the_glue_uses_objective_c() {
    for (path, text) in
        sources().into_iter().filter(|(p, _)| !p.components().any(|c| c.as_os_str() == "glue"))
    {
        for word in ["objc2", "block2", "libc::", "unsafe {", "unsafe impl"] {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
    }
}

#[test]
fn files_are_small_and_finished() {
    for (path, text) in sources() {
        let product = text.lines().take_while(|l| *l != "#[cfg(test)]").count();
        let reason = text.lines().any(|l| l.starts_with("//! One file"));
        assert!(product <= 400 || reason, "{} has {product} lines: is it still one thing?", path.display());
        for (number, line) in text.lines().enumerate() {
            assert!(line.chars().count() <= 140, "{}:{}: a long line", path.display(), number + 1);
            for word in ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!(", "dbg!("] {
                assert!(!line.contains(word), "{}:{}: {word}", path.display(), number + 1);
            }
        }
    }
}

//! The rules of docs/ARCHITECTURE.md that a text search can hold.

use std::fs;
use std::path::{Path, PathBuf};

use crate::Test;

pub const TESTS: &[Test] = &[
    ("source_files_stay_small", &[], small),
    ("layers_point_one_way", &[], layers),
    ("words_stay_where_they_belong", &[], words),
    ("nothing_is_left_to_do", &[], leftovers),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file below `dir`, by its path from the root, with its text.
fn sources(dir: &str) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut dirs: Vec<PathBuf> = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") {
                dirs.push(path);
            } else if path.extension().is_some_and(|x| x == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                files.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(files.len() > 3, "no sources in {dir}");
    files
}

/// A file's lines without its unit tests.
fn product(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().take_while(|(_, l)| *l != "#[cfg(test)]").map(|(n, l)| (n + 1, l))
}

fn small() {
    for (name, text) in sources("src") {
        let lines = product(&text).count();
        assert!(lines <= 430, "{name} has {lines} lines without its tests: is it still one thing?");
    }
}

fn layers() {
    // What a folder may not know of.
    let forbidden: &[(&str, &[&str])] = &[
        (
            "src/image/",
            &["disk", "capture", "serve", "attach", "daemon", "down", "mounts", "cmd", "cli", "ui"],
        ),
        (
            "src/disk/",
            &["capture", "serve", "attach", "daemon", "down", "mounts", "cmd", "cli", "ui", "image::cdi"],
        ),
        ("src/capture/", &["serve", "attach", "daemon", "down", "mounts", "cmd", "cli", "ui"]),
        ("src/serve/", &["capture", "attach", "daemon", "down", "mounts", "cmd", "cli", "ui"]),
        (
            "src/attach/",
            &["image", "disk", "capture", "serve", "daemon", "down", "mounts", "cmd", "cli", "ui"],
        ),
        (
            "src/system/",
            &["image", "disk", "capture", "serve", "attach", "daemon", "down", "mounts", "cmd", "cli", "ui"],
        ),
        ("src/daemon.rs", &["capture", "cmd", "cli", "ui"]),
        ("src/down.rs", &["capture", "daemon", "cmd", "cli", "ui"]),
        ("src/service/", &["capture", "image", "disk", "serve", "attach", "daemon", "cmd", "ui"]),
    ];
    for (name, text) in sources("src") {
        for (folder, modules) in forbidden.iter().filter(|(f, _)| name.starts_with(f)) {
            for module in *modules {
                for (number, line) in product(&text).filter(|(_, l)| !l.trim_start().starts_with("//")) {
                    let knows = [format!("crate::{module}::"), format!("crate::{module};")];
                    assert!(
                        !knows.iter().any(|k| line.contains(k)),
                        "{name}:{number}: {folder} must not know {module}"
                    );
                }
            }
        }
    }
}

fn words() {
    // A word, and the only files or folders of src/ that may say it.
    let homes: &[(&str, &[&str])] = &[
        ("fuser::", &["src/serve/fuse/"]),
        ("println!", &[]),
        ("io::stdout()", &["src/ui/"]),
        ("io::stderr()", &["src/ui/"]),
        ("clap::", &["src/cli/", "src/main.rs", "src/cmd/completions.rs", "src/service/config.rs"]),
        ("indicatif::", &["src/ui/"]),
        ("lru::", &["src/disk/cache.rs", "src/image/", "src/capture/"]),
        ("flate2::", &["src/image/codec/"]),
        ("zstd::", &["src/image/codec/"]),
        ("bzip2::", &["src/image/codec/"]),
        ("lzma_rust2::", &["src/image/codec/"]),
        ("lzfse_rust::", &["src/image/codec/"]),
        ("lz4_flex::", &["src/image/codec/"]),
        ("claxon::", &["src/image/codec/"]),
        ("snap::", &["src/image/codec/"]),
        ("daemonize::", &["src/daemon.rs"]),
        ("fatfs::", &["src/cmd/demo.rs"]),
        ("process::exit", &["src/daemon.rs", "src/ui/"]),
        ("mmap", &[]),
        ("auto_unmount", &[]),
        ("FOPEN_DIRECT_IO", &[]),
        ("unsafe ", &["src/ffi.rs"]),
        (
            "plist::",
            &[
                "src/attach/",
                "src/image/properties.rs",
                "src/image/dmg/tables.rs",
                "src/service/install.rs",
                "src/system/macos.rs",
            ],
        ),
        ("\"/proc/", &["src/system/linux.rs", "src/daemon.rs", "src/cmd/doctor.rs"]),
        ("\"/sys/", &["src/attach/losetup.rs", "src/daemon.rs", "src/down.rs", "src/system/linux.rs"]),
    ];
    for (name, text) in sources("src") {
        for (word, files) in homes {
            for (number, line) in product(&text).filter(|(_, l)| !l.trim_start().starts_with("//")) {
                assert!(
                    !line.contains(word) || files.iter().any(|home| name.starts_with(home)),
                    "{name}:{number}: '{word}' does not belong here"
                );
            }
        }
    }
}

fn leftovers() {
    for (name, text) in
        sources("src").into_iter().chain(sources("tests")).filter(|(n, _)| n != "tests/tidy.rs")
    {
        for (number, line) in text.lines().enumerate() {
            for word in ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!(", "dbg!("] {
                assert!(!line.contains(word), "{name}:{}: {word}", number + 1);
            }
            assert!(line.chars().count() <= 140, "{name}:{}: a long line", number + 1);
        }
    }
    // The same words for typing and for reading: each verb has its file.
    let verbs = fs::read_to_string(root().join("docs/CLI.md")).unwrap();
    for verb in [
        "create",
        "info",
        "map",
        "verify",
        "extract",
        "repair",
        "compact",
        "mount",
        "serve",
        "service",
        "unmount",
        "attach",
        "detach",
        "list",
        "stats",
        "exec",
        "doctor",
        "formats",
        "demo",
        "completions",
        "man",
    ] {
        assert!(verbs.contains(&format!("cdi {verb}")), "docs/CLI.md does not tell of {verb}");
    }
}

//! The rules of docs/ARCHITECTURE.md that a text search can check.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::Test;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every source file below `dir`, by its path from the root, with its text.
fn sources(dir: &str) -> Vec<(String, String)> {
    // Files that are all unit tests of a module.
    let is_test = |name: &str| ["/tests.rs", "/tests/", "/testing/"].iter().any(|part| name.contains(part));
    let all = all_sources(dir).into_iter();
    all.filter(|(name, _)| !(name.starts_with("crates/") && is_test(name))).collect()
}

fn all_sources(dir: &str) -> Vec<(String, String)> {
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

tests!(
    fn source_files_stay_small() {
        for dir in ["src", "crates"] {
            for (name, text) in sources(dir) {
                let lines = product(&text).count();
                // A longer one says at its start why it is one thing.
                let reason =
                    text.lines().take_while(|l| l.starts_with("//!")).any(|l| l.starts_with("//! One file"));
                assert!(
                    lines <= 400 || reason,
                    "{name} has {lines} lines without its tests: is it still one thing?"
                );
            }
        }
    }

    /// The compiler checks the order of crates; these lists are the order within one: a module names only those before it.
    fn modules_name_only_those_before_them() {
        let orders: &[(&str, &[&str])] = &[
            (
                "crates/cdi-image/src/",
                &[
                    "bytes",
                    "text",
                    "codec",
                    "passphrase",
                    "crypto",
                    "stored_hashes",
                    "metadata",
                    "memory",
                    "extent",
                    "input",
                    "indexes",
                    "packed",
                    "badmap",
                    "details",
                    "image",
                    "part",
                    "formats",
                    "cdimg",
                    "disk",
                    "document",
                    "partial",
                    "reader",
                    "open",
                ],
            ),
            (
                "crates/cdi-fs/src/",
                &[
                    "skip",
                    "bytes",
                    "volume",
                    "file_system",
                    "names",
                    "pattern",
                    "idset",
                    "lznt1",
                    "loss",
                    "contents",
                    "signatures",
                    "suffix",
                    "fat",
                    "exfat",
                    "iso9660",
                    "ext",
                    "ntfs",
                    "hfsplus",
                    "apfs",
                    "recognize",
                    "catalogue",
                    "partitions",
                    "search",
                    "volumes",
                ],
            ),
            (
                "crates/cdi-serve/src/",
                &[
                    "texts",
                    "served",
                    "documents",
                    "files",
                    "tree",
                    "transport",
                    "mounted",
                    "net",
                    "http",
                    "fuse",
                    "nfs",
                    "nbd",
                    "fskit",
                    "transports",
                ],
            ),
            ("src/", &["report", "attach", "mount", "service", "ui", "indexes", "cli", "cmd"]),
        ];
        for (root, order) in orders {
            for (name, text) in sources(root.trim_end_matches('/')) {
                let own = name[root.len()..].split(['/', '.']).next().unwrap();
                let Some(rank) = order.iter().position(|m| *m == own) else {
                    assert!(
                        ["lib", "main", "build"].contains(&own),
                        "{name}: where does {own} stand among {order:?}?"
                    );
                    continue;
                };
                let code = |l: &&(usize, &str)| !l.1.trim_start().starts_with("//");
                let lines: Vec<_> = product(&text).collect();
                for (number, line) in lines.iter().filter(code) {
                    for later in &order[rank + 1..] {
                        let (from, to) = (own, *later);
                        // The options of the service come from cli.
                        if (from, to) == ("service", "cli") {
                            continue;
                        }
                        assert!(!names(line, later), "{name}:{number}: {own} must not know {later}");
                    }
                }
            }
        }
    }

    fn restricted_words_stay_in_their_modules() {
        let image = "crates/cdi-image/src/";
        let codec = &format!("{image}codec/");
        let packed = &format!("{image}packed/");
        let crypto = &format!("{image}crypto/");
        let apple = &format!("{image}formats/property_list.rs");
        let tables = &format!("{image}formats/dmg/tables.rs");
        // A word, and the only files or folders that may say it.
        let homes: &[(&str, &[&str])] = &[
            ("fuser::", &["crates/cdi-serve/src/fuse/"]),
            (
                "println!",
                &[
                    "crates/cdi-ffi/build.rs",
                    "crates/cdi-image/examples/",
                    "crates/cdi-fs/examples/",
                    "crates/cdi-fs/src/skip.rs",
                ],
            ),
            ("io::stdout()", &["src/ui/"]),
            ("io::stderr()", &["src/ui/"]),
            ("clap::", &["src/cli/", "src/main.rs", "src/cmd/completions.rs", "src/service/config.rs"]),
            ("indicatif::", &["src/ui/"]),
            ("flate2::", &[codec, packed]),
            ("zstd::", &[codec, packed]),
            ("bzip2::", &[codec, packed]),
            ("lzma_rust2::", &[codec, packed]),
            ("lzfse_rust::", &[codec]),
            ("lz4_flex::", &[codec, packed]),
            ("zlib_rs::", &[packed]),
            ("claxon::", &[codec]),
            ("snap::", &[codec]),
            ("use aes::", &[crypto]),
            ("use des::", &[crypto]),
            ("use hmac::", &[crypto]),
            ("pbkdf2::", &[crypto]),
            ("daemonize::", &["src/mount/background.rs"]),
            ("fatfs::", &["src/cmd/demo.rs"]),
            ("process::exit", &["src/mount/background.rs", "src/ui/"]),
            // Every output file is created by the guard.
            ("OutputFile::create(", &["crates/cdi-capture/src/guard.rs"]),
            ("mmap", &["crates/cdi-system/src/confine/seccomp.rs"]),
            ("landlock::", &["crates/cdi-system/src/confine/linux.rs"]),
            ("seccompiler::", &["crates/cdi-system/src/confine/seccomp.rs"]),
            (
                "rustix::",
                &["crates/cdi-system/src/confine/linux.rs", "crates/cdi-system/src/confine/tests.rs"],
            ),
            ("auto_unmount", &[]),
            ("FOPEN_DIRECT_IO", &["crates/cdi-serve/src/fuse/mod.rs"]),
            ("unsafe ", &["crates/cdi-ffi/", "crates/cdi-system/src/sg_io.rs"]),
            (
                "plist::",
                &["src/attach/", apple, tables, "src/service/install.rs", "crates/cdi-system/src/macos.rs"],
            ),
            (
                "\"/proc/",
                &[
                    "crates/cdi-system/src/linux.rs",
                    "crates/cdi-system/src/confine/linux.rs",
                    "src/mount/inherited.rs",
                    "src/cmd/doctor.rs",
                ],
            ),
            (
                "\"/sys/",
                &[
                    "src/attach/losetup.rs",
                    "src/mount/daemon.rs",
                    "src/mount/teardown.rs",
                    "crates/cdi-system/src/linux.rs",
                ],
            ),
        ];
        for (name, text) in sources("src").into_iter().chain(sources("crates")) {
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

    /// Every source file that a document or a comment names is there.
    fn files_and_tests_named_in_comments_and_documents_exist() {
        let mut texts: Vec<(String, String)> =
            ["src", "crates", "tests", "fskit-ext"].iter().flat_map(|dir| all_sources(dir)).collect();
        for doc in fs::read_dir(root().join("docs")).unwrap().map(|e| e.unwrap().path()) {
            texts.push((
                doc.strip_prefix(root()).unwrap().display().to_string(),
                fs::read_to_string(doc).unwrap(),
            ));
        }
        for doc in ["README.md", "CONTRIBUTING.md"] {
            texts.push((doc.into(), fs::read_to_string(root().join(doc)).unwrap()));
        }
        let files: Vec<String> = texts.iter().map(|(name, _)| format!("/{name}")).collect();
        for (name, text) in &texts {
            for (number, line) in text.lines().enumerate() {
                let speaks = name.ends_with(".md") || line.trim_start().starts_with("//");
                for word in
                    line.split(|c: char| !(c.is_alphanumeric() || "_-./".contains(c))).filter(|_| speaks)
                {
                    let known = word.strip_suffix(".rs").is_none_or(|stem| {
                        stem.is_empty()
                            || files
                                .iter()
                                .any(|f| f.ends_with(&format!("/{}", word.trim_start_matches(['.', '/']))))
                    });
                    assert!(known, "{name}:{}: there is no {word}", number + 1);
                }
            }
        }
        // The tests that TESTING.md names: modules, or names that end in a star.
        let doc = fs::read_to_string(root().join("docs/TESTING.md")).unwrap();
        let (_, table) = doc.split_once("| guarantee | tests |").unwrap();
        let names: Vec<&str> = crate::all_tests().map(Test::name).collect();
        let is_name = |word: &&str| word.chars().all(|c| c.is_ascii_alphanumeric() || "_:*".contains(c));
        for row in table.lines().skip(1).take_while(|line| line.starts_with('|')) {
            for word in row.split('`').skip(1).step_by(2).filter(is_name) {
                let prefix = word.strip_suffix('*').map_or_else(|| format!("{word}::"), str::to_owned);
                let known = names.iter().any(|name| name.starts_with(&prefix));
                assert!(known, "docs/TESTING.md: there is no test {word}");
            }
        }
    }

    fn no_todo_markers_or_long_lines() {
        for (name, text) in ["src", "crates", "tests"]
            .iter()
            .flat_map(|dir| sources(dir))
            .filter(|(n, _)| n != "tests/tidy.rs")
        {
            for (number, line) in text.lines().enumerate() {
                for word in ["TODO", "FIXME", "XXX", "todo!(", "unimplemented!(", "dbg!("] {
                    assert!(!line.contains(word), "{name}:{}: {word}", number + 1);
                }
                assert!(line.chars().count() <= 140, "{name}:{}: a long line", number + 1);
            }
        }
        // The document has every command.
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
);

/// Returns whether a line names a module: `crate::disk::`, or a group that begins with it.
fn names(line: &str, module: &str) -> bool {
    [format!("crate::{module}::"), format!("crate::{module};"), format!("crate::{module}::{{")]
        .iter()
        .any(|known| line.contains(known))
}

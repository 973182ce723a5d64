//! The documents are accurate.

use std::fs;
use std::mem::offset_of;
use std::path::{Path, PathBuf};
use std::process::Command;

use cdi_image::cdimg::layout::{RawEntry, RawPiece, RawRange, RecordHeader, Superblock};
use cdi_image::cdimg::parity::layout::Description;

use crate::common::Lab;
use crate::formats::cdimg::{compare, open};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn documents() -> Vec<PathBuf> {
    let mut all = vec![root().join("README.md"), root().join("CONTRIBUTING.md"), root().join("SECURITY.md")];
    all.extend(fs::read_dir(root().join("docs")).unwrap().map(|e| e.unwrap().path()));
    all
}

tests!(
    /// Each table row `| at | size | field | …` is a field of the struct with that table.
    fn format_s_tables_are_the_structs() {
        macro_rules! fields {
            ($type:ty: $($field:ident)*) => {
                (size_of::<$type>(), vec![$((stringify!($field), offset_of!($type, $field))),*])
            };
        }
        let structs = [
            fields!(Superblock: magic version state zero1 must_understand may_ignore uuid salt generation disk_size chunk_size
                logical_sector physical_sector epoch committed_end root map_at metadata_at events_at
                zero2 sum),
            fields!(RecordHeader: magic salt disk_at disk_len payload_sum stored uncompressed epoch kind codec detail sum),
            fields!(RawEntry: at sum stored kind codec zero),
            fields!(RawPiece: start len skip uncompressed entry),
            fields!(RawRange: start len status tries reason_kind zero reason),
            fields!(Description: magic version hundredths end span_blocks group_blocks superblock sum),
        ];
        let text = read("docs/FORMAT.md");
        let rows = text.lines().filter_map(|l| {
            let cells: Vec<&str> = l.strip_prefix('|')?.split('|').map(str::trim).collect();
            Some((
                cells.first()?.parse::<usize>().ok()?,
                cells.get(1)?.parse::<usize>().ok()?,
                cells.get(2)?.to_string(),
            ))
        });
        let told: Vec<(usize, usize, String)> = rows.collect();
        let mut expect = Vec::new();
        for (size, fields) in structs {
            for (i, (name, at)) in fields.iter().enumerate() {
                let end = fields.get(i + 1).map_or(size, |f| f.1);
                expect.push((*at, end - at, (*name).to_owned()));
            }
        }
        assert_eq!(told, expect);
    }

    /// Each line `offset  bytes` matches the file.
    fn format_s_example_is_the_fixture() {
        let file = fs::read(root().join("tests/fixtures/v1/example.cdimg")).unwrap();
        let mut lines = 0;
        for line in read("docs/FORMAT.md").lines().filter_map(|l| l.strip_prefix("    ")) {
            let mut words = line.split_whitespace();
            let Some(at) =
                words.next().filter(|w| w.len() == 8).and_then(|w| usize::from_str_radix(w, 16).ok())
            else {
                continue;
            };
            let bytes: Vec<u8> = words.map(|w| u8::from_str_radix(w, 16).unwrap()).collect();
            assert_eq!(bytes, file[at..at + bytes.len()], "{line}");
            lines += 1;
        }
        assert!(lines > 20, "only {lines} lines of hex");
        let truth = fs::read(root().join("tests/fixtures/v1/example.raw")).unwrap();
        assert_eq!(compare(&open(file).unwrap(), &truth, "example"), 15);
    }

    /// docs/CLI.md ends with the help of every command. `CDI_UPDATE_DOCS=1` rewrites it.
    fn cli_s_reference_is_the_help() {
        let lab = Lab::new();
        let mut text = String::new();
        let help = |verb: &[&str]| lab.cdi(verb.iter().chain(&["--help"])).ends(0).out;
        let own = help(&[]);
        let verbs: Vec<&str> =
            own.lines().skip_while(|l| *l != "Commands:").skip(1).take_while(|l| !l.is_empty()).collect();
        let verbs = verbs
            .iter()
            .filter(|l| l.starts_with("  ") && !l.starts_with("   "))
            .map(|l| l.split_whitespace().next().unwrap())
            .filter(|verb| *verb != "help");
        text += "What is the same for all commands is shown here only for `cdi` itself: general options, exit status.\n\n";
        text += &format!("### cdi\n\n```text\n{}```\n", own);
        for verb in verbs {
            text += &format!("\n### cdi {verb}\n\n```text\n{}```\n", without_common_parts(&help(&[verb])));
        }
        let text: String = text.lines().map(|l| l.trim_end().to_owned() + "\n").collect();
        let path = root().join("docs/CLI.md");
        let old = read("docs/CLI.md");
        let (head, reference) =
            old.split_once("## Reference\n\n").expect("docs/CLI.md has a part 'Reference'");
        if std::env::var_os("CDI_UPDATE_DOCS").is_some() {
            fs::write(path, format!("{head}## Reference\n\n{text}")).unwrap();
        } else {
            assert!(
                reference == text,
                "docs/CLI.md is not the help: CDI_UPDATE_DOCS=1 cargo test --test all docs::cli"
            );
        }
    }

    #[needs(Fuse, Loop, Program("ddrescue"), Program("qemu-img"))]
    fn transcripts_show_what_really_happens() {
        assert!(run_transcripts(|path| !path.ends_with(SIGNING)) >= 2);
    }

    #[needs(Program("jq"), Program("minisign"), Program("ssh-keygen"))]
    fn transcripts_of_signing_show_what_really_happens() {
        assert!(run_transcripts(|path| path.ends_with(SIGNING)) >= 2);
    }

    /// Links to files of the project lead to files that are there.
    fn links_lead_to_files_that_exist() {
        for path in documents() {
            let text = fs::read_to_string(&path).unwrap();
            for link in text.split("](").skip(1).map(|l| l.split(')').next().unwrap()) {
                if !link.contains("://") && !link.starts_with('#') {
                    let file = path.parent().unwrap().join(link.split('#').next().unwrap());
                    assert!(file.exists(), "{path:?}: {link}");
                }
            }
        }
    }

    fn the_readme_is_short() {
        let lines = read("README.md").lines().count();
        assert!(lines < 150, "{lines} lines");
    }
);

/// The document whose transcripts need programs that sign.
const SIGNING: &str = "docs/IMAGING.md";

/// Runs the blocks marked `console` of the documents that are wanted: commands after `$ `, and their output, stdout and
/// stderr together. `…` in a line is anything, a line `…` is any lines. The blocks have the sample of `cdi demo`, as
/// disk.raw and disk.map. Returns how many there are.
fn run_transcripts(wanted: impl Fn(&Path) -> bool) -> usize {
    let mut blocks = 0;
    for path in documents().into_iter().filter(|path| wanted(path)) {
        let text = fs::read_to_string(&path).unwrap();
        for block in text.split("```console\n").skip(1).map(|b| b.split("```").next().unwrap()) {
            let lab = Lab::new();
            lab.cdi(["demo", "--keep", "given", "-q"]).ends(0);
            for name in ["disk.raw", "disk.map"] {
                fs::rename(lab.path("given").join(name), lab.path(name)).unwrap();
            }
            let mut dir = lab.dir.clone();
            let program = Path::new(env!("CARGO_BIN_EXE_cdi")).parent().unwrap();
            let path_var = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
            for step in block.split("$ ").skip(1) {
                let (command, expect) = step.split_once('\n').unwrap();
                let command = command.replace("sudo ", "");
                // The documents call the device /dev/loop0; it is the one that this lab has.
                let device = lab.cdi(["list", "--json"]).json()["mounts"][0]["device"]
                    .as_str()
                    .unwrap_or("/dev/loop0")
                    .to_owned();
                let output = Command::new("sh")
                    .args(["-c", &format!("exec 2>&1; {}", command.replace("/dev/loop0", &device))])
                    .env("PATH", &path_var)
                    .env("CDI_RUNTIME_DIR", lab.path("run"))
                    .current_dir(&dir)
                    .output()
                    .unwrap();
                if let Some(into) = command.strip_prefix("cd ") {
                    dir.push(into);
                }
                let device = lab.cdi(["list", "--json"]).json()["mounts"][0]["device"]
                    .as_str()
                    .unwrap_or(&device)
                    .to_owned();
                let got = String::from_utf8_lossy(&output.stdout).replace(&device, "/dev/loop0");
                let got = got
                    .replace(lab.path("run").to_str().unwrap(), "/run/cdi")
                    .replace(&format!("{}/", dir.display()), "");
                assert!(
                    matches(&expect.lines().collect::<Vec<_>>(), &got.lines().collect::<Vec<_>>()),
                    "{path:?}: $ {command}\nexpected:\n{expect}\ngot:\n{got}"
                );
            }
            blocks += 1;
        }
    }
    blocks
}

/// Leaves out the sections of a verb's help that are the same for all verbs.
fn without_common_parts(help: &str) -> String {
    let mut common = false;
    let kept = help.lines().filter(|line| {
        if line.ends_with(':') && !line.starts_with(' ') {
            common = ["General options:", "Exit status:", "Files:"].contains(line);
        }
        !common
    });
    kept.map(|line| format!("{line}\n")).collect::<String>().trim_end().to_owned() + "\n"
}

fn matches(expect: &[&str], got: &[&str]) -> bool {
    match expect.split_first() {
        None => got.is_empty(),
        Some((&"…", rest)) => (0..=got.len()).any(|n| matches(rest, &got[n..])),
        Some((line, rest)) => {
            got.split_first().is_some_and(|(g, others)| line_matches(line, g) && matches(rest, others))
        }
    }
}

fn line_matches(expect: &str, got: &str) -> bool {
    let mut parts = expect.trim_end().split('…');
    let first = parts.next().unwrap();
    let Some(mut rest) = got.trim_end().strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    for (i, part) in parts.iter().enumerate() {
        let found = if i + 1 == parts.len() {
            rest.ends_with(part).then(|| rest.len() - part.len())
        } else {
            rest.find(part)
        };
        let Some(at) = found else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty()
}

//! What the kernel, filefrag and dumpe2fs say is on a volume.

use crate::skip::skip;
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::volumes::{Made, run};
use crate::file_system::{Kind, Run};

/// A file.
#[derive(Debug)]
pub(super) struct Truth {
    pub path: PathBuf,
    pub kind: Kind,
    pub size: u64,
    pub modified: i64,
    pub changed: i64,
    pub target: Option<Vec<u8>>,
    pub content: Vec<u8>,
    /// None if filefrag does not say.
    pub runs: Option<Vec<Run>>,
}

/// All files of a volume, and names as (parent, name, number).
#[derive(Default)]
pub(super) struct Tree {
    pub files: BTreeMap<u64, Truth>,
    pub names: Vec<(u64, String, u64)>,
}

/// Reads a mounted volume.
pub(super) fn of(made: &Made) -> Tree {
    run("sync", &["-f", made.root().to_str().unwrap()]);
    let mut tree = Tree::default();
    let mut todo = vec![made.root()];
    tree.add(&made.root());
    while let Some(path) = todo.pop() {
        let parent = fs::metadata(&path).unwrap().ino();
        for entry in fs::read_dir(&path).unwrap() {
            let entry = entry.unwrap();
            let number = tree.add(&entry.path());
            tree.names.push((parent, entry.file_name().to_string_lossy().into_owned(), number));
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            }
        }
    }
    tree.names.sort();
    tree.extents();
    tree
}

impl Tree {
    fn add(&mut self, path: &Path) -> u64 {
        let meta = fs::symlink_metadata(path).unwrap();
        let kind = match meta.file_type() {
            t if t.is_dir() => Kind::Directory,
            t if t.is_file() => Kind::File,
            t if t.is_symlink() => Kind::Link,
            t => {
                assert!(t.is_fifo() || t.is_socket() || t.is_char_device() || t.is_block_device());
                Kind::Other
            }
        };
        let small = kind == Kind::File && meta.size() < 64 << 20;
        let truth = Truth {
            path: path.to_path_buf(),
            kind,
            size: meta.size(),
            modified: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
            changed: meta.ctime() * 1_000_000_000 + meta.ctime_nsec(),
            target: fs::read_link(path).ok().map(|t| t.into_os_string().into_encoded_bytes()),
            content: if small { fs::read(path).unwrap() } else { Vec::new() },
            runs: None,
        };
        self.files.insert(meta.ino(), truth);
        meta.ino()
    }

    /// Fills in the runs from filefrag (FIEMAP).
    fn extents(&mut self) {
        let files: Vec<(u64, PathBuf)> = self
            .files
            .iter()
            .filter(|(_, t)| t.kind == Kind::File)
            .map(|(n, t)| (*n, t.path.clone()))
            .collect();
        for chunk in files.chunks(200) {
            let mut command = Command::new("filefrag");
            command.arg("-v").arg("-b512").args(chunk.iter().map(|(_, p)| p));
            let Ok(out) = command.output() else { return skip("filefrag") };
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            let parts: Vec<&str> = text.split("File size of ").skip(1).collect();
            assert_eq!(parts.len(), chunk.len(), "{text}");
            for ((number, _), part) in chunk.iter().zip(parts) {
                self.files.get_mut(number).unwrap().runs = parse(part);
            }
        }
    }
}

/// Parses the lines of filefrag for a file, in sectors. None if the contents are in the inode.
fn parse(text: &str) -> Option<Vec<Run>> {
    let mut runs = Vec::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split(':').map(str::trim).collect();
        let [_, logical, physical, len, .., flags] = fields[..] else { continue };
        let first = |text: &str| text.split("..").next().unwrap().trim().parse::<u64>().ok();
        let (Some(file), Some(volume), Some(len)) = (first(logical), first(physical), first(len)) else {
            continue;
        };
        if flags.contains("inline") {
            return None;
        }
        let unwritten = flags.contains("unwritten");
        runs.push(Run { file: file * 512, len: len * 512, volume: Some(volume * 512), unwritten });
    }
    Some(join(runs.into_iter()))
}

/// Joins runs that follow each other, and leaves holes out.
pub(super) fn join(runs: impl Iterator<Item = Run>) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::new();
    for run in runs.filter(|run| run.volume.is_some()) {
        match joined.last_mut() {
            Some(last)
                if last.file + last.len == run.file
                    && last.volume.map(|v| v + last.len) == run.volume
                    && last.unwritten == run.unwritten =>
            {
                last.len += run.len;
            }
            _ => joined.push(run),
        }
    }
    joined
}

/// Returns the free ranges that dumpe2fs lists, in bytes. Of clusters, it names the first block.
pub(super) fn free(made: &Made, block: u64) -> Vec<Range<u64>> {
    let text = run("dumpe2fs", &[made.image().to_str().unwrap()]).unwrap();
    let cluster = text.lines().find_map(|line| line.strip_prefix("Cluster size:"));
    let cluster = cluster.map_or(block, |size| size.trim().parse().unwrap());
    let mut found: Vec<Range<u64>> = Vec::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("  Free blocks: ")) {
        for part in line.split(", ").filter(|p| !p.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.parse::<u64>().unwrap(), last.parse::<u64>().unwrap());
            let range = first * block..last * block + cluster;
            match found.last_mut() {
                Some(before) if before.end == range.start => before.end = range.end,
                _ => found.push(range),
            }
        }
    }
    found
}

//! The list of damaged files, compared with ddru_ntfsfindbad and fls, on the same NTFS volume, in one run:
//! `cargo bench --bench files -- [DIR] [FILES]`. Needs mkntfs, ntfs-3g, root and /dev/fuse; a tool that is not installed is
//! named and left out. Each in turn, five times; the medians.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const ROUNDS: usize = 5;
const MIB: u64 = 1024;

/// Runs a command. None if there is no such program.
fn run(dir: &Path, words: &[&str]) -> Option<f64> {
    let start = Instant::now();
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.status().ok()?;
    Some(start.elapsed().as_secs_f64())
}

/// Makes the volume, and a mapfile with 1,000 bad sectors.
fn volume(dir: &Path, files: u32) {
    File::create(dir.join("disk.raw")).unwrap().set_len(MIB << 20).unwrap();
    run(dir, &["mkntfs", "-F", "-q", "-Q", "disk.raw"]).expect("mkntfs");
    fs::create_dir_all(dir.join("mnt")).unwrap();
    run(dir, &["ntfs-3g", "disk.raw", "mnt"]).expect("ntfs-3g");
    for n in 0..files {
        let sub = dir.join(format!("mnt/directory {}", n % 200));
        fs::create_dir_all(&sub).unwrap();
        fs::write(sub.join(format!("file number {n}.txt")), vec![1; 900 + (n % 50) as usize * 200]).unwrap();
    }
    run(dir, &["umount", "mnt"]);
    let (mut map, mut at, sectors) = ("0x0 + 1\n".to_owned(), 0, MIB * 2048);
    for n in 1..1000 {
        let bad = n * (sectors / 1000) * 512;
        writeln!(map, "{at:#x} {:#x} +\n{bad:#x} 0x200 -", bad - at).unwrap();
        at = bad + 512;
    }
    writeln!(map, "{at:#x} {:#x} +", sectors * 512 - at).unwrap();
    fs::write(dir.join("disk.map"), map).unwrap();
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let dir = args.first().map_or_else(|| std::env::temp_dir().join("cdi-bench-files"), PathBuf::from);
    let files: u32 = args.get(1).map_or(100_000, |n| n.parse().unwrap());
    fs::create_dir_all(&dir).unwrap();
    let dir = dir.canonicalize().unwrap();
    if !dir.join("disk.map").exists() {
        volume(&dir, files);
    }
    let cdi = env!("CARGO_BIN_EXE_cdi");
    let rows: [(&str, &[&str]); 4] = [
        ("cdi files", &[cdi, "files", "disk.raw"]),
        ("cdi files --all", &[cdi, "files", "--all", "disk.raw"]),
        ("ddru_ntfsfindbad", &["ddru_ntfsfindbad", "disk.raw", "disk.map"]),
        ("fls -r -p", &["fls", "-r", "-p", "disk.raw"]),
    ];
    let mut times = vec![Vec::new(); rows.len()];
    for _ in 0..ROUNDS {
        for (row, times) in rows.iter().zip(&mut times) {
            times.extend(run(&dir, row.1));
        }
    }
    println!("{files} files in NTFS, 1,000 bad sectors");
    for ((name, _), mut times) in rows.iter().zip(times) {
        times.sort_by(f64::total_cmp);
        match times.get(times.len() / 2) {
            Some(time) => {
                println!("{name:<20} {time:7.3} s {:>12.0} files a second", f64::from(files) / time)
            }
            None => eprintln!("{name} is not installed"),
        }
    }
}

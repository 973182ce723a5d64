//! cdi next to the formats' own tools, on the same files, in one run: `cargo bench --bench formats`.
//!
//! Copies a disk of real files out of images by other programs (`extract` next to ewfexport, qemu-img, chdman, partclone),
//! makes indexes of compressed ones (next to gzip, pigz, rapidgzip, zstd), and reads mounted ones (next to ewfmount, xmount,
//! qemu-storage-daemon, ratarmount): in order, and 4 KiB here and there. Each pair in turn, three times; the medians, and
//! theirs divided by ours. A tool that is not installed is named and left out. Takes ten minutes and 8 GB of room; needs
//! /dev/fuse.
//!
//!     cargo bench --bench formats -- [DIR] [MIB] [WORD]
//!
//! With a word, only those lines are measured that contain it.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 3;

fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

fn run(words: &[String]) {
    let mut command = Command::new(&words[0]);
    let done =
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(done.unwrap().success(), "{words:?}");
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// A disk of this number of MiB out of the files below /usr, as they come.
fn disk(path: &Path, mib: u64) {
    let mut out = File::create(path).unwrap();
    let (mut left, mut dirs) = (mib << 20, vec![PathBuf::from("/usr")]);
    while let Some(dir) = dirs.pop() {
        let mut entries: Vec<_> =
            fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
        entries.sort();
        for path in entries {
            let Ok(meta) = path.symlink_metadata() else { continue };
            if meta.is_dir() {
                dirs.push(path);
            } else if meta.is_file() && left > 0 {
                let Ok(bytes) = fs::read(&path) else { continue };
                let len = (bytes.len() as u64).min(left) as usize;
                out.write_all(&bytes[..len]).unwrap();
                left -= len as u64;
                // Files begin at whole blocks.
                let pad = (4096 - len as u64 % 4096) % 4096;
                out.write_all(&vec![0; pad.min(left) as usize]).unwrap();
                left -= pad.min(left);
            }
        }
    }
    out.set_len(mib << 20).unwrap();
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Ours and theirs in turn; a line of the table.
fn compare(
    what: &str,
    peer: &str,
    unit: &str,
    mut ours: impl FnMut() -> f64,
    mut theirs: impl FnMut() -> f64,
) {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        a.push(ours());
        b.push(theirs());
    }
    let (a, b) = (median(a), median(b));
    println!("| {what} | {a:.2} {unit} | {peer} {b:.2} {unit} | {:.2} |", b / a);
}

fn timed(words: &[String], out: &Path) -> f64 {
    let _ = fs::remove_file(out);
    let start = Instant::now();
    run(words);
    start.elapsed().as_secs_f64()
}

/// Seconds to read a mounted disk in order, and for this number of reads of 4 KiB.
fn read_all(disk: &Path, truth: &Path, reads: usize) -> (f64, f64) {
    let (mut file, mut truth_file) = (File::open(disk).unwrap(), File::open(truth).unwrap());
    let size = truth_file.metadata().unwrap().len();
    let start = Instant::now();
    let mut state = 12345u64;
    let mut small = [0; 4096];
    for _ in 0..reads {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        file.read_exact_at(&mut small, (state >> 20) % (size / 4096) * 4096).unwrap();
    }
    let random = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let mut buf = vec![0; 1 << 20];
    let mut done = 0;
    while done < size {
        let n = file.read(&mut buf).unwrap();
        assert!(n > 0, "short");
        done += n as u64;
    }
    let sequential = start.elapsed().as_secs_f64();
    // What is fast must also be right.
    let mut expect = vec![0; 1 << 20];
    truth_file.read_exact(&mut expect).unwrap();
    file.read_exact_at(&mut buf, 0).unwrap();
    assert!(buf == expect, "wrong bytes");
    (sequential, random)
}

/// Mounts by a command, reads, and takes it away again. The command mounts in the background or stays.
fn mounted(
    command: &[String],
    dir: &Path,
    disk: &Path,
    truth: &Path,
    reads: usize,
    stop: &[String],
) -> (f64, f64) {
    fs::create_dir_all(dir).unwrap();
    let mut command = Command::new(&command[0])
        .args(&command[1..])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    while !fs::metadata(disk).is_ok_and(|m| m.len() >= fs::metadata(truth).unwrap().len()) {
        assert!(start.elapsed() < Duration::from_secs(20), "{} does not come", disk.display());
        std::thread::sleep(Duration::from_millis(20));
    }
    let times = read_all(disk, truth, reads);
    let _ = Command::new(&stop[0]).args(&stop[1..]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    // Who stays in the foreground ends with its mount, or is ended.
    let _ = command.kill();
    let _ = command.wait();
    times
}

fn main() {
    let mut args = std::env::args().skip(1).filter(|a| a != "--bench");
    let dir = args.next().map_or_else(|| std::env::temp_dir().join("cdi-bench-formats"), PathBuf::from);
    let mib: u64 = args.next().map_or(1024, |m| m.parse().unwrap());
    let word = args.next().unwrap_or_default();
    let is_wanted = |what: &str, tool: &str| format!("{what} {tool}").contains(&word);
    fs::create_dir_all(&dir).unwrap();
    let at = |name: &str| dir.join(name).display().to_string();
    let cdi = env!("CARGO_BIN_EXE_cdi");
    let raw = dir.join("disk.raw");
    disk(&raw, mib);
    let (out, mp) = (dir.join("out.raw"), dir.join("mp"));
    let made = [
        (
            "ewfacquire",
            "d.E01",
            format!("ewfacquire -q -u -c deflate:fast -S 4G -f encase6 -t {} {}", at("d"), at("disk.raw")),
        ),
        ("qemu-img", "d.qcow2", format!("qemu-img convert -c -O qcow2 {} {}", at("disk.raw"), at("d.qcow2"))),
        (
            "qemu-img",
            "d.vmdk",
            format!(
                "qemu-img convert -O vmdk -o subformat=streamOptimized {} {}",
                at("disk.raw"),
                at("d.vmdk")
            ),
        ),
        ("chdman", "d.chd", format!("chdman createhd -f -c zlib -i {} -o {}", at("disk.raw"), at("d.chd"))),
        (
            "partclone.imager",
            "d.partclone",
            format!("partclone.imager -c -L /dev/null -s {} -O {}", at("disk.raw"), at("d.partclone")),
        ),
        ("gzip", "disk.raw.gz", format!("gzip -k -f {}", at("disk.raw"))),
        ("zstd", "disk.raw.zst", format!("zstd -q -f -T0 {}", at("disk.raw"))),
    ];
    for (tool, name, command) in &made {
        let _ = fs::remove_file(at(name));
        if on_path(tool) {
            run(&words(command));
        } else {
            eprintln!("{tool} is not installed: no {name}");
        }
    }
    println!("| {mib} MiB of /usr | cdi | peer | times as fast |\n|---|---|---|---|");
    let extract =
        |name: &str| timed(&words(&format!("{cdi} -q extract --force {} {}", at(name), out.display())), &out);
    let theirs: [(&str, &str, String); 5] = [
        ("d.E01", "ewfexport", format!("ewfexport -q -u -f raw -t {} {}", at("out"), at("d.E01"))),
        ("d.qcow2", "qemu-img", format!("qemu-img convert -O raw {} {}", at("d.qcow2"), out.display())),
        ("d.vmdk", "qemu-img", format!("qemu-img convert -O raw {} {}", at("d.vmdk"), out.display())),
        ("d.chd", "chdman", format!("chdman extracthd -f -i {} -o {}", at("d.chd"), out.display())),
        (
            "d.partclone",
            "partclone.restore",
            format!("partclone.restore -C -L /dev/null -s {} -O {}", at("d.partclone"), out.display()),
        ),
    ];
    for (name, tool, command) in &theirs {
        if on_path(tool) && Path::new(&at(name)).exists() && is_wanted(&format!("extract {name}"), tool) {
            let peer = || timed(&words(command), &out);
            compare(&format!("extract {name}"), tool, "s", || extract(name), peer);
        }
    }
    let index = |name: &str| {
        let _ = fs::remove_file(at(&format!("{name}.cdi-index")));
        timed(&words(&format!("{cdi} -q index {}", at(name))), &out)
    };
    for (name, tool, command) in [
        ("disk.raw.gz", "gzip", format!("gzip -dc {}", at("disk.raw.gz"))),
        ("disk.raw.gz", "pigz", format!("pigz -dc {}", at("disk.raw.gz"))),
        (
            "disk.raw.gz",
            "rapidgzip",
            format!("rapidgzip -f -d -c --export-index {} {}", out.display(), at("disk.raw.gz")),
        ),
        ("disk.raw.zst", "zstd", format!("zstd -dc {}", at("disk.raw.zst"))),
    ] {
        if !is_wanted(&format!("index of {name}"), tool) {
            continue;
        }
        if on_path(tool) {
            let peer = || timed(&words(&command), &out);
            compare(&format!("index of {name}"), tool, "s", || index(name), peer);
        } else {
            eprintln!("{tool} is not installed");
        }
    }
    let ours = |name: &str, reads: usize| {
        let start = words(&format!("{cdi} -q mount {} {}", at(name), mp.display()));
        mounted(
            &start,
            &mp,
            &mp.join("disk.raw"),
            &raw,
            reads,
            &words(&format!("{cdi} -q unmount {}", mp.display())),
        )
    };
    let unmount = words(&format!("fusermount3 -u {}", mp.display()));
    let export = dir.join("export.raw");
    let daemon = format!(
        "qemu-storage-daemon --blockdev driver=file,node-name=f,filename={} --blockdev driver=qcow2,node-name=q,file=f,read-only=on \
         --export type=fuse,id=e,node-name=q,mountpoint={},writable=off",
        at("d.qcow2"),
        export.display()
    );
    File::create(&export).unwrap();
    // The image, the tool, how it is mounted, where the disk is then, and how it is taken away again.
    type Peer = (&'static str, &'static str, Vec<String>, PathBuf, Vec<String>);
    let peers: [Peer; 7] = [
        (
            "d.E01",
            "ewfmount",
            words(&format!("ewfmount {} {}", at("d.E01"), mp.display())),
            mp.join("ewf1"),
            unmount.clone(),
        ),
        (
            "d.E01",
            "xmount",
            words(&format!("xmount --in ewf {} {}", at("d.E01"), mp.display())),
            mp.join("d.dd"),
            unmount.clone(),
        ),
        (
            "d.E01",
            "xmount aewf",
            words(&format!("xmount --in aewf {} {}", at("d.E01"), mp.display())),
            mp.join("d.dd"),
            unmount.clone(),
        ),
        // Each has made its index before, and keeps it.
        (
            "disk.raw.gz",
            "ratarmount (indexed_gzip)",
            words(&format!("ratarmount --use-backend indexed_gzip {} {}", at("disk.raw.gz"), mp.display())),
            mp.join("disk.raw"),
            unmount.clone(),
        ),
        (
            "disk.raw.gz",
            "ratarmount (rapidgzip)",
            words(&format!("ratarmount --use-backend rapidgzip {} {}", at("disk.raw.gz"), mp.display())),
            mp.join("disk.raw"),
            unmount.clone(),
        ),
        (
            "disk.raw.zst",
            "ratarmount (indexed_zstd)",
            words(&format!("ratarmount {} {}", at("disk.raw.zst"), mp.display())),
            mp.join("disk.raw"),
            unmount,
        ),
        (
            "d.qcow2",
            "qemu-storage-daemon",
            words(&daemon),
            export.clone(),
            words(&format!("fusermount3 -u {}", export.display())),
        ),
    ];
    for (name, tool, start, disk, stop) in &peers {
        if !is_wanted(&format!("mounted {name}"), tool) {
            continue;
        }
        // A read of a packed file takes some peers a tenth of a second.
        let reads = if name.starts_with("disk.raw.") { 200 } else { 2000 };
        if !on_path(tool.split(' ').next().unwrap()) || !Path::new(&at(name)).exists() {
            eprintln!("{tool} is not installed");
            continue;
        }
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            a.push(ours(name, reads));
            let _ = fs::remove_file(dir.join("d.info"));
            b.push(mounted(start, &mp, disk, &raw, reads, stop));
        }
        let pick = |times: &[(f64, f64)], n: usize| {
            median(times.iter().map(|t| if n == 0 { t.0 } else { t.1 }).collect())
        };
        let random = format!("{reads} reads of 4 KiB");
        for (n, what) in [(0, "in order"), (1, random.as_str())] {
            let (ours, theirs) = (pick(&a, n), pick(&b, n));
            println!(
                "| mounted {name}, {what} | {ours:.2} s | {tool} {theirs:.2} s | {:.2} |",
                theirs / ours
            );
        }
    }
    let _ = fs::remove_dir_all(&dir);
}

//! What it costs a healthy disk to be read out of order: `cargo bench --bench first -- [DIR]`. A sparse ext4 of 64 GiB with
//! 20,000 files of 2 MiB in 2,000 directories is imaged in each order, and the time of a drive is computed from its reads.
//! Needs mke2fs, fallocate, loop devices, ext4 in the kernel, and root.
//!
//! The drive: 150 MB/s, 7,200 turns a minute. A read that begins at most 1 MiB after the last one waits until the disk has
//! turned that far; any other costs half a turn and a seek of 0.8 ms + 13.3 ms × √(its part of the disk), on average 8.5 ms.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use cdi_capture::options::{Options, new_image};
use cdi_capture::rescue::first::{First, Order};
use cdi_capture::rescue::passes::RescuePlan;
use cdi_capture::rescue::source::Source;
use cdi_capture::rescue::{Limits, Task, rescue};
use cdi_image::cdimg::writer::Writer;
use cdi_image::codec::Codec;
use cdi_image::input::ReadAt;
use cdi_image::metadata::Metadata;

const SIZE: u64 = 64 << 30;
const RATE: f64 = 150e6;

/// A drive over a file.
#[derive(Clone)]
struct Drive {
    file: Arc<File>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    at: u64,
    seconds: f64,
    seeks: u64,
}

impl ReadAt for Drive {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let read = self.file.read_at(buf, at)?;
        let mut state = self.state.lock().unwrap();
        match at.checked_sub(state.at) {
            Some(gap) if gap <= 1 << 20 => state.seconds += gap as f64 / RATE,
            _ => {
                state.seeks += 1;
                let part = at.abs_diff(state.at) as f64 / SIZE as f64;
                state.seconds += 60.0 / 7200.0 / 2.0 + 0.8e-3 + 13.3e-3 * part.sqrt();
            }
        }
        state.seconds += read as f64 / RATE;
        state.at = at + read as u64;
        Ok(read)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(SIZE)
    }
}

fn run(words: &[&str]) {
    let status = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).status().unwrap();
    assert!(status.success(), "{words:?}");
}

fn volume(dir: &Path, path: &Path) {
    File::create(path).unwrap().set_len(SIZE).unwrap();
    let (image, mnt) = (path.to_str().unwrap(), dir.join("mnt"));
    run(&["mke2fs", "-q", "-F", "-t", "ext4", image]);
    fs::create_dir_all(&mnt).unwrap();
    run(&["mount", "-o", "loop", image, mnt.to_str().unwrap()]);
    for n in 0..20_000 {
        let sub = mnt.join(format!("d{}/s{}", n % 50, n % 2000));
        fs::create_dir_all(&sub).unwrap();
        run(&["fallocate", "-l", "2MiB", sub.join(format!("file {n}.jpg")).to_str().unwrap()]);
    }
    run(&["umount", mnt.to_str().unwrap()]);
}

fn image(dir: &Path, raw: &Path, first: &[First]) -> (f64, u64) {
    let drive = Drive { file: Arc::new(File::open(raw).unwrap()), state: Arc::default() };
    let path = dir.join("first.cdimg");
    let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    let sectors = 512;
    let metadata = Metadata {
        size_bytes: SIZE,
        logical_sector_bytes: sectors,
        physical_sector_bytes: sectors,
        ..Metadata::default()
    };
    let new = new_image(SIZE, 128 << 10, sectors, sectors).unwrap();
    let writer = Writer::create(Box::new(file), &path, &new, metadata).unwrap();
    let source = Arc::new(Source::simulated(Box::new(drive.clone()), raw, sectors).unwrap());
    let plan = RescuePlan::whole(SIZE, 512);
    let options = Options {
        codec: Codec::Stored,
        level: 0,
        chunk: 128 << 10,
        physical_sector: None,
        metadata: Metadata::default(),
        threads: 2,
        hash: false,
        hashes: Vec::new(),
        command: Vec::new(),
        reproducible: None,
    };
    let order = Order { first: first.to_vec(), in_trouble_only: false, only: false };
    let task = Task { plan, order, limits: Limits::default(), live: None, notes: None };
    rescue(&source, writer, &path, &options, task, &mut |_| Ok(())).unwrap();
    fs::remove_file(&path).unwrap();
    let state = drive.state.lock().unwrap();
    (state.seconds, state.seeks)
}

fn main() {
    let arg = std::env::args().skip(1).find(|a| a != "--bench");
    let dir = arg.map_or_else(|| std::env::temp_dir().join("cdi-bench-first"), PathBuf::from);
    fs::create_dir_all(&dir).unwrap();
    let raw = dir.join("disk.raw");
    if !raw.exists() {
        volume(&dir, &raw);
    }
    let rows: [(&str, &[First]); 3] = [
        ("in order", &[]),
        ("metadata first", &[First::Metadata]),
        ("metadata, used first", &[First::Metadata, First::Used]),
    ];
    let mut base = None;
    for (name, first) in rows {
        let (seconds, seeks) = image(&dir, &raw, first);
        let base = *base.get_or_insert(seconds);
        println!(
            "{name:<22} {seconds:8.1} s of the drive, {seeks:>7} seeks, {:.3} of in order",
            seconds / base
        );
    }
}

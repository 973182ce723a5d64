//! An image of an 8 TiB disk with 1.3 × 10^8 chunks that all are there: how long it takes to open, what a random
//! read costs, and how much memory the daemon then has. `cargo bench --bench huge` (needs 15 GB of room and /dev/fuse).
//!
//! The image is made by writing its index and records, not its data: every chunk shares one of 1,000 payloads.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_possible_truncation)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::Instant;

use cdi_image::cdimg::index::Geometry;
use cdi_image::cdimg::writer::{NewImage, Writer};
use cdi_image::codec::{Codec, Compressor};
use cdi_image::metadata::Metadata;

const CHUNK: u32 = 64 << 10;

fn main() {
    let dir = std::env::temp_dir().join(format!("cdi-bench-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    for size in [4u64 << 30, 8 << 40] {
        measure(&dir, size);
    }
    fs::remove_dir_all(&dir).unwrap();
}

fn measure(dir: &std::path::Path, size: u64) {
    let image = dir.join("huge.cdimg");
    let start = Instant::now();
    write(&image, size);
    println!(
        "{} GiB: image of {} MiB made in {:.1?}",
        size >> 30,
        fs::metadata(&image).unwrap().len() >> 20,
        start.elapsed()
    );
    let cdi = |words: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_cdi"))
            .args(words)
            .env("CDI_RUNTIME_DIR", dir.join("run"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let (path, mnt) = (image.to_str().unwrap(), dir.join("mnt"));
    for _ in 0..3 {
        let start = Instant::now();
        cdi(&["info", "--json", path]);
        println!("  cdi info: {:.1?}", start.elapsed());
    }
    let start = Instant::now();
    let record: serde_json::Value =
        serde_json::from_str(&cdi(&["mount", "--json", path, mnt.to_str().unwrap()])).unwrap();
    println!("  cdi mount: {:.1?}", start.elapsed());
    let disk = fs::File::open(mnt.join("disk.raw")).unwrap();
    let mut random = 88_172_645_463_325_252u64;
    let mut buf = [0; 4096];
    let mut times: Vec<_> = (0..5000)
        .map(|_| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let start = Instant::now();
            disk.read_exact_at(&mut buf, random % (size / 4096) * 4096).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("  random 4 KiB reads: median {:.1?}, 99 % {:.1?}", times[2500], times[4950]);
    let status = fs::read_to_string(format!("/proc/{}/status", record["pid"])).unwrap();
    for line in status.lines().filter(|l| l.starts_with("VmHWM") || l.starts_with("VmRSS")) {
        println!("  {line}");
    }
    drop(disk);
    cdi(&["unmount", mnt.to_str().unwrap()]);
    fs::remove_file(image).unwrap();
}

fn write(path: &std::path::Path, size: u64) {
    let metadata = Metadata { size_bytes: size, ..Metadata::default() };
    let geometry = Geometry { disk_size: size, chunk_size: CHUNK };
    let new = NewImage { geometry, logical_sector: 512, physical_sector: 4096, uuid: [1; 16], salt: 1 };
    let file = fs::File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let mut writer = Writer::create(Box::new(file), path, &new, metadata).unwrap();
    let mut compressor = Compressor::new(Codec::Zstd, 3).unwrap();
    let mut payloads = Vec::new();
    for chunk in 0..size / u64::from(CHUNK) {
        let at = chunk * u64::from(CHUNK);
        if chunk < 1000 {
            let data: Vec<u8> = (0..CHUNK)
                .flat_map(|i| (i / 3 * (chunk as u32 + 1)).to_le_bytes())
                .take(CHUNK as usize)
                .collect();
            let (codec, compressed) = compressor.compress(&data).unwrap().unwrap_or((Codec::Stored, data));
            payloads.push(writer.put_data(at, CHUNK, codec, &compressed).unwrap());
        } else {
            writer.put_same(at, CHUNK, payloads[(chunk % 997) as usize]).unwrap();
        }
    }
    writer.finish().unwrap();
}

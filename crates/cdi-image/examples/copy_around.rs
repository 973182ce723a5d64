//! Copies everything readable on a disk image to a raw file, and leaves holes for bad sectors: `copy_around IMAGE OUT`.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;

use cdi_image::Disk;

/// The maximum number of bytes copied at once.
const PIECE: u64 = 1 << 20;

fn copy(image: &str, out: &str) -> Result<u64, Box<dyn std::error::Error>> {
    let disk = Disk::open(image)?;
    let file = File::create_new(out)?;
    file.set_len(disk.size())?;
    let (mut at, mut copied) = (0, 0);
    let mut buf = Vec::new();
    while at < disk.size() {
        let run = disk.readable_from(at);
        let len = (run.end - at).min(PIECE);
        if len == 0 {
            // A bad sector: the next one may be good.
            at += u64::from(disk.sector());
            continue;
        }
        buf.resize(usize::try_from(len)?, 0);
        disk.read_at(&mut buf, at)?;
        file.write_all_at(&buf, at)?;
        (at, copied) = (at + len, copied + len);
    }
    Ok(copied)
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [image, out] = &args[..] else {
        eprintln!("usage: copy_around IMAGE OUT");
        return ExitCode::FAILURE;
    };
    match copy(image, out) {
        Ok(copied) => {
            println!("{copied} bytes");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

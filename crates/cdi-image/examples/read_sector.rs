//! Prints a sector of a disk image in hex: `read_sector IMAGE NUMBER`.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use cdi_image::{Disk, ReadError};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, number] = &args[..] else { return usage() };
    let Ok(number) = number.parse() else { return usage() };
    let disk = match Disk::open(path) {
        Ok(disk) => disk,
        Err(e) => return failed(&e.to_string()),
    };
    match disk.read_sector(number) {
        Ok(bytes) => {
            for (n, line) in bytes.chunks(16).enumerate() {
                let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
                println!("{:06x}  {}", n * 16, hex.join(" "));
            }
            ExitCode::SUCCESS
        }
        // The original disk could not read it either.
        Err(ReadError::Bad { sector, .. }) => failed(&format!("sector {sector} is bad")),
        Err(e) => failed(&e.to_string()),
    }
}

fn usage() -> ExitCode {
    failed("usage: read_sector IMAGE NUMBER")
}

fn failed(what: &str) -> ExitCode {
    eprintln!("{what}");
    ExitCode::FAILURE
}

//! Lists the bad sectors of a disk image, with the partitions that contain them: `bad_sectors IMAGE`.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use cdi_fs::partitions;
use cdi_image::Disk;

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: bad_sectors IMAGE");
        return ExitCode::FAILURE;
    };
    let disk = match Disk::open(path) {
        Ok(disk) => disk,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::FAILURE;
        }
    };
    // The table itself may be in bad sectors.
    let table = partitions::table(&disk).unwrap_or_else(|e| {
        eprintln!("cannot read the partition table: {e}");
        None
    });
    let sector = u64::from(disk.sector());
    for (first, count) in disk.bad_sectors() {
        let at = first * sector;
        let partition =
            table.iter().flat_map(|t| &t.partitions).find(|p| (p.start..p.start + p.size).contains(&at));
        match partition {
            Some(p) => println!("{first} {count} partition {}", p.number),
            None => println!("{first} {count}"),
        }
    }
    ExitCode::SUCCESS
}

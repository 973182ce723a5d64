//! Lists the records of a volume: `list VOLUME [FIRST-LAST]...`, with the given sectors of 512 bytes bad.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use cdi_base::error::ReadError;
use cdi_base::readable::{Missing, Readable};
use cdi_fs::file_system::{Child, Damage, Record, Structure, Visitor};
use cdi_fs::recognize::{Recognized, recognize};
use cdi_fs::volume::Volume;

struct Disk {
    file: File,
    bad: Vec<Range<u64>>,
}

impl Readable for Disk {
    fn size(&self) -> u64 {
        self.file.metadata().map_or(0, |m| m.len())
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), ReadError> {
        if let Some(bad) = self.missing(at..at + buffer.len() as u64).first() {
            return Err(ReadError::Bad { sector: bad.range.start / 512, good: 0, untried: false });
        }
        self.file.read_exact_at(buffer, at).map_err(|_| ReadError::PastEnd)
    }

    fn missing(&self, range: Range<u64>) -> Vec<Missing> {
        let cut = |bad: &Range<u64>| bad.start.max(range.start)..bad.end.min(range.end);
        let found = self.bad.iter().map(cut).filter(|r| !r.is_empty());
        found.map(|range| Missing { range, untried: false }).collect()
    }
}

struct Print;

impl Visitor for Print {
    fn record(&mut self, record: Record) -> bool {
        println!("{record:?}");
        true
    }

    fn child(&mut self, child: Child) -> bool {
        println!("{child:?}");
        true
    }

    fn lost_record(&mut self, number: u64, at: Range<u64>, used: Option<bool>, damage: Damage) -> bool {
        println!("lost record {number} at {at:?}, used {used:?}: {damage:?}");
        true
    }

    fn structure(&mut self, structure: Structure) -> bool {
        println!("{structure:?}");
        true
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let Some(path) = args.next() else { return eprintln!("list VOLUME [FIRST-LAST]...") };
    let sectors = |text: String| {
        let (first, last) = text.split_once('-')?;
        Some(first.parse::<u64>().ok()? * 512..(last.parse::<u64>().ok()? + 1) * 512)
    };
    let disk = Disk { file: File::open(path).unwrap(), bad: args.filter_map(sectors).collect() };
    let volume = Volume::new(&disk, 0..disk.size());
    match recognize(&volume) {
        Recognized::Files(found) => {
            println!("{} {:?}, blocks of {} bytes", found.name(), found.label(), found.block_size());
            found.scan(&volume, &mut Print);
            let mut free = 0;
            found.free(&volume, &mut |range| free += range.end - range.start);
            println!("{free} bytes are free");
        }
        Recognized::Damaged(name, damage) => println!("{name}, which cannot be used: {damage:?}"),
        Recognized::Named(name) => println!("{name}"),
        Recognized::Unknown(_) => println!("no file system that is known"),
    }
}

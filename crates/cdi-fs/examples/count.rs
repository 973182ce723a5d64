//! Counts the records of a volume, and measures how long that takes: `count VOLUME`.

#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::time::Instant;

use cdi_base::error::ReadError;
use cdi_base::readable::{Missing, Readable};
use cdi_fs::file_system::{Child, Damage, Record, Structure, Visitor};
use cdi_fs::recognize::{Recognized, recognize};
use cdi_fs::volume::Volume;

struct Disk(File);

impl Readable for Disk {
    fn size(&self) -> u64 {
        self.0.metadata().map_or(0, |m| m.len())
    }

    fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), ReadError> {
        self.0.read_exact_at(buffer, at).map_err(|_| ReadError::PastEnd)
    }

    fn missing(&self, _: Range<u64>) -> Vec<Missing> {
        Vec::new()
    }
}

#[derive(Default)]
struct Count {
    records: u64,
    names: u64,
    children: u64,
    lost: u64,
}

impl Visitor for Count {
    fn record(&mut self, record: Record) -> bool {
        self.records += 1;
        self.names += record.names.len() as u64;
        true
    }

    fn child(&mut self, _: Child) -> bool {
        self.children += 1;
        true
    }

    fn lost_record(&mut self, _: u64, _: Range<u64>, _: Option<bool>, _: Damage) -> bool {
        self.lost += 1;
        true
    }

    fn structure(&mut self, _: Structure) -> bool {
        true
    }
}

fn main() {
    let Some(path) = std::env::args().nth(1) else { return eprintln!("count VOLUME") };
    let disk = Disk(File::open(path).unwrap());
    let volume = Volume::new(&disk, 0..disk.size());
    let Recognized::Files(found) = recognize(&volume) else {
        return println!("no file system that is known");
    };
    let start = Instant::now();
    let mut count = Count::default();
    found.scan(&volume, &mut count);
    let took = start.elapsed();
    let Count { records, names, children, lost } = count;
    let rate = records as f64 / took.as_secs_f64();
    println!(
        "{records} records, {names} names, {children} children, {lost} lost in {took:?}: {rate:.0} records/s"
    );
    let start = Instant::now();
    let mut free = (0, 0);
    found.free(&volume, &mut |range| free = (free.0 + 1, free.1 + range.end - range.start));
    println!("{} free ranges of {} bytes in {:?}", free.0, free.1, start.elapsed());
}

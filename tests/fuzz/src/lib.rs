//! What every fuzz target does with its input: take it for an image of a format or for a file system, look at it, read from it.

use std::path::Path;

use cdi_base::readable::InMemory;
use cdi_fs::catalogue::Catalogue;
use cdi_fs::contents::Contents;
use cdi_fs::recognize::{Recognized, recognize_as};
use cdi_fs::volume::Volume;
use cdi_image::disk::{BadPolicy, Disk, Options};
use cdi_image::image::OpenOptions;
use cdi_image::open::open_source;
use cdi_image::passphrase::Passphrase;

/// Reads an image of a format. Nothing is beside it. Errors are right; panics, hangs and memory are what is sought.
pub fn image(format: &str, bytes: &[u8]) {
    // That of the encrypted images which the fuzzer starts with.
    let passphrase = Some(Passphrase::new("open sesame"));
    let options = OpenOptions { format: Some(format.into()), passphrase, ..OpenOptions::default() };
    let Ok(opened) = open_source(Box::new(bytes.to_vec()), Path::new("/nowhere/fuzz"), &options) else {
        return;
    };
    let disk = Disk::new(opened, Options { cache: 1 << 20, bad: BadPolicy::Zero, ..Options::default() });
    let mut buf = vec![0; 64 << 10];
    let last = disk.size().saturating_sub(buf.len() as u64);
    for offset in [0, 4096, 1 << 16, last / 2, last] {
        let len = buf.len().min(usize::try_from(disk.size().saturating_sub(offset)).unwrap_or(usize::MAX));
        let _ = disk.read_at(&mut buf[..len], offset.min(disk.size()));
    }
    // Reads all of the index, which of a small file is little; of a disk without end it is not.
    if disk.size() < 64 << 20 {
        disk.image().check(&mut |_, _| {}, &mut || Ok(())).unwrap();
    }
}

/// Lists the files of a file system, and reads from some. The first byte says which sectors are bad.
pub fn file_system(name: &str, bytes: &[u8]) {
    let Some((&first, bytes)) = bytes.split_first() else { return };
    let size = bytes.len() as u64;
    let every = u64::from(first % 32) * 4096;
    let bad = (1..).map(|n| n * every..n * every + 512).take_while(|r| every > 0 && r.end <= size).collect();
    let disk = InMemory { bytes: bytes.to_vec(), bad };
    let volume = Volume::new(&disk, 0..size);
    let Recognized::Files(found) = recognize_as(&volume, name).unwrap() else { return };
    let catalogue = Catalogue::scan(&*found, &volume, &mut |_| true);
    let mut last = 0;
    found.free(&volume, &mut |range| {
        assert!(range.start >= last && range.start < range.end && range.end <= size, "{last}: {range:?}");
        last = range.end;
    });
    let mut buf = vec![0; 4096];
    for entry in catalogue.entries().iter().take(200) {
        let _ = (catalogue.state(entry), catalogue.paths(entry.number));
        let Some(record) = entry.handle.and_then(|handle| found.record(&volume, handle).ok()) else { continue };
        let contents = Contents::new(volume, &record.data);
        for at in [0, 512, record.data.size / 2, record.data.size.saturating_sub(4096)] {
            let _ = contents.read(&mut buf, at);
        }
    }
}

/// A target for a file system.
#[macro_export]
macro_rules! file_system {
    ($name:literal) => {
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cdi_fuzz::file_system($name, bytes));
    };
}

/// A target for a format.
#[macro_export]
macro_rules! format {
    ($name:literal) => {
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cdi_fuzz::image($name, bytes));
    };
}

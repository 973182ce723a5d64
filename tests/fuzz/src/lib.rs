//! What every fuzz target does with its input: take it for an image of a format, look at it, read from it.

use std::path::Path;

use cdi_image::disk::{BadPolicy, Disk, Options};
use cdi_image::image::OpenOptions;
use cdi_image::open::open_source;

/// Reads an image of a format. Nothing is beside it. Errors are right; panics, hangs and memory are what is sought.
pub fn image(format: &str, bytes: &[u8]) {
    let options = OpenOptions { format: Some(format.into()), ..OpenOptions::default() };
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

/// A target for a format.
#[macro_export]
macro_rules! format {
    ($name:literal) => {
        libfuzzer_sys::fuzz_target!(|bytes: &[u8]| cdi_fuzz::image($name, bytes));
    };
}

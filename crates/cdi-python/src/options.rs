//! The options of `cdi.open`. The package has checked their types and converted paths to bytes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use cdi_image::input::is_remote;
use cdi_image::{Disk, DiskOptions, Error, Passphrase};
use pyo3::prelude::*;

/// How an image is opened: also once more, in a process that was forked.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Opening {
    path: Vec<u8>,
    /// Where relative paths begin.
    directory: Vec<u8>,
    format: Option<String>,
    /// None: the one next to the image. Empty: none.
    mapfile: Option<Vec<u8>>,
    badblocks: Option<(Vec<u8>, u64)>,
    sector_size: Option<u32>,
    read_suspect: bool,
    allow_parent: Vec<Vec<u8>>,
    snapshot: Option<String>,
    member: Option<String>,
    passphrase: Option<Secret>,
    part: Option<(u64, u64)>,
    cache: usize,
    remote_cache: Option<(Vec<u8>, u64)>,
}

/// A passphrase, wiped when the image is closed.
struct Secret(Passphrase);

impl<'a, 'py> FromPyObject<'a, 'py> for Secret {
    type Error = PyErr;

    fn extract(object: Borrowed<'a, 'py, PyAny>) -> PyResult<Secret> {
        Ok(Secret(Passphrase::new(object.extract::<&[u8]>()?)))
    }
}

fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

impl Opening {
    /// The path as it was given.
    pub(crate) fn path(&self) -> &Path {
        path_of(&self.path)
    }

    /// Opens the image. `again`: the current directory may be another one by now.
    pub(crate) fn open(&self, again: bool) -> Result<Disk, Error> {
        let at = |bytes: &[u8]| -> PathBuf {
            let path = path_of(bytes);
            if again && !is_remote(path) { path_of(&self.directory).join(path) } else { path.to_owned() }
        };
        let mut options: DiskOptions = Disk::options().read_suspect(self.read_suspect).cache(self.cache);
        if let Some(format) = &self.format {
            options = options.format(format.clone());
        }
        match &self.mapfile {
            None => {}
            Some(none) if none.is_empty() => options = options.mapfile(None),
            Some(path) => options = options.mapfile(Some(&at(path))),
        }
        if let Some((path, block_size)) = &self.badblocks {
            options = options.badblocks(at(path), *block_size);
        }
        if let Some(bytes) = self.sector_size {
            options = options.sector_size(bytes);
        }
        for directory in &self.allow_parent {
            options = options.allow_directory(at(directory));
        }
        if let Some(name) = &self.snapshot {
            options = options.snapshot(name.clone());
        }
        if let Some(name) = &self.member {
            options = options.member(name.clone());
        }
        if let Some(Secret(passphrase)) = &self.passphrase {
            options = options.passphrase(passphrase.clone());
        }
        if let Some((offset, length)) = self.part {
            options = options.part(offset..offset.saturating_add(length));
        }
        if let Some((directory, bytes)) = &self.remote_cache {
            options = options.remote_cache(at(directory), *bytes);
        }
        options.open(at(&self.path))
    }
}

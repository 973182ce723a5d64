//! Backing files of QEMU's images: a disk in any format that both QEMU and this crate can read.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use cdi_base::error::{Error, ReadError};
use cdi_base::units::index;

use super::chain::{Found, Layer, find, missing, next_depth};
use super::{parallels, qcow, qcow2, qed, vdi, vhd, vhdx, vmdk};
use crate::bytes::flaw;
use crate::extent::{Extent, FileNo, Origin};
use crate::input::Input;

/// How many bytes of a file its format is recognised by.
const PROBE_LEN: u64 = 128;

/// A raw disk: its file, and its size in bytes.
struct Raw(FileNo, u64);

impl Layer for Raw {
    fn size(&self) -> u64 {
        self.1
    }

    fn find(&self, _: &Input, offset: u64, end: u64) -> Result<Found, ReadError> {
        Ok(Found::Here(Extent { disk: offset..end, origin: Origin::Stored { file: self.0, at: offset } }))
    }
}

/// Reads the name of the backing file, if there is one: its file offset (0: there is none) and its length in bytes are
/// in the header of `file`.
pub(super) fn name(input: &Input, file: FileNo, (at, len): (u64, u32)) -> Result<Option<Vec<u8>>, Error> {
    if at == 0 {
        return Ok(None);
    }
    if len > 1023 {
        return flaw(at, format!("the name of the backing file is too long ({len} bytes)"));
    }
    input.bytes_of(file, at, len as usize, "the name of the backing file").map(Some)
}

/// Converts a QEMU file name to a path. Names that are not paths are refused; `what` names the file's role in errors,
/// and `way_out` says what to do about it.
pub(super) fn local(name: &[u8], what: &str, way_out: &str) -> Result<PathBuf, Error> {
    let text = String::from_utf8_lossy(name);
    if name.starts_with(b"json:") {
        let what = format!("the name of its {what} is a JSON description (not supported): {text}");
        return Err(Error::bad_image(what).hint(way_out));
    }
    let name = name.strip_prefix(b"file:").unwrap_or(name);
    // The same rule as QEMU's, except that a single letter is a Windows drive.
    let protocol =
        name.iter().position(|b| matches!(b, b':' | b'/')).filter(|at| name[*at] == b':' && *at > 1);
    if let Some(at) = protocol {
        let protocol = String::from_utf8_lossy(&name[..at]);
        let what = format!(
            "its {what} '{text}' is not a local file, but uses the protocol '{protocol}:' (not supported)"
        );
        return Err(Error::bad_image(what).hint(way_out));
    }
    Ok(PathBuf::from(OsStr::from_bytes(name)))
}

/// A backing file as an image names it.
pub(super) struct Named<'a> {
    pub name: &'a [u8],
    /// Its format (QEMU's name), if the image records it.
    pub format: Option<&'a str>,
    /// What to do about a name that is not a path.
    pub way_out: &'a str,
}

impl Named<'_> {
    /// Finds the file and opens it.
    pub(super) fn open(
        &self,
        input: &Input,
        depth: usize,
        warnings: &mut Vec<String>,
    ) -> Result<Box<dyn Layer>, Error> {
        let depth = next_depth(depth)?;
        let named_path = local(self.name, "backing file", self.way_out)?;
        let name = named_path.display();
        let found = find(input, &named_path)?.ok_or_else(|| missing("backing file", &named_path))?;
        let path = input.path_of(found);
        let moved = named_path.file_name() != Some(named_path.as_os_str())
            || path.file_name() != named_path.file_name();
        let note = if moved { format!(" (recorded in the image as '{name}')") } else { String::new() };
        warnings
            .push(format!("data not in the image is read from its backing file {}{note}", path.display()));
        open(input, found, self.format, depth, warnings).map_err(|e| e.at(&path))
    }
}

/// Returns QEMU's name of the format that the magic of `file` indicates. Like QEMU: a fixed VHD, whose magic is only at
/// its end, is raw.
fn probe(input: &Input, file: FileNo) -> Result<&'static str, Error> {
    let magics: [(usize, &[u8], &str); 11] = [
        (0, b"QFI\xfb\0\0\0\x01", "qcow"),
        (0, b"QFI\xfb", "qcow2"),
        (0, b"QED\0", "qed"),
        (0, b"KDMV", "vmdk"),
        (0, b"COWD", "vmdk"),
        (0, b"# Disk DescriptorFile", "vmdk"),
        (0, b"conectix", "vpc"),
        (0, b"vhdxfile", "vhdx"),
        (64, &[0x7F, 0x10, 0xDA, 0xBE], "vdi"),
        (0, b"WithoutFreeSpace\x02\0\0\0", "parallels"),
        (0, b"WithouFreSpacExt\x02\0\0\0", "parallels"),
    ];
    // A file that cannot be read must not be mistaken for a raw one.
    let start = input.bytes_of(file, 0, index(input.len_of(file).min(PROBE_LEN)), "the header")?;
    let begins = |at: usize, magic: &[u8]| start.get(at..).is_some_and(|rest| rest.starts_with(magic));
    Ok(magics.into_iter().find(|(at, magic, _)| begins(*at, magic)).map_or("raw", |(.., name)| name))
}

/// Opens `file` as a disk in `format` (QEMU's name), or if that is not given, in the format its magic indicates.
fn open(
    input: &Input,
    file: FileNo,
    format: Option<&str>,
    depth: usize,
    warnings: &mut Vec<String>,
) -> Result<Box<dyn Layer>, Error> {
    let format = match format {
        Some(format) => format,
        None => probe(input, file)?,
    };
    Ok(match format {
        "raw" | "file" | "host_device" => Box::new(Raw(file, input.len_of(file))),
        "qcow2" => Box::new(qcow2::open_layer(input, file, None, depth, warnings)?),
        "qcow" => Box::new(qcow::open_layer(input, file, depth, warnings)?),
        "qed" => Box::new(qed::open_layer(input, file, depth, warnings)?),
        "vmdk" => Box::new(vmdk::open_layer(input, file, depth, warnings)?),
        "vpc" => Box::new(vhd::open_layer(input, file, depth, warnings)?),
        "vhdx" => Box::new(vhdx::open_layer(input, file, depth, warnings)?),
        "vdi" => Box::new(vdi::open_layer(input, file)?),
        "parallels" => parallels::open_layer(input, file, warnings)?,
        other => {
            let what = format!("backing file in format '{other}' (not supported)");
            return Err(Error::bad_image(what).hint(format!(
                "convert it with 'qemu-img convert -f {other} -O qcow2 FILE NEW', then use 'qemu-img rebase -u'"
            )));
        }
    })
}

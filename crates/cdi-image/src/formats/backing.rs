//! Backing files of qcow2 images: a disk in any format that both QEMU and this crate can read.

use cdi_base::error::{Error, ReadError};

use super::chain::{Found, Layer};
use super::{qcow2, vdi, vhd, vhdx, vmdk};
use crate::bytes::flaw;
use crate::extent::{Extent, FileNo, Origin};
use crate::input::Input;

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

/// Opens `file` as a disk in `format` (QEMU's name), or if that is not given, in the format its magic indicates.
pub(super) fn open(
    input: &Input,
    file: FileNo,
    format: Option<&str>,
    depth: usize,
    warnings: &mut Vec<String>,
) -> Result<Box<dyn Layer>, Error> {
    let begins = |at: u64, magic: &[u8]| {
        input.bytes_of(file, at, magic.len(), "the header").is_ok_and(|bytes| bytes == magic)
    };
    let format = format.unwrap_or_else(|| {
        // Like QEMU: a fixed VHD, whose magic is only at its end, is treated as raw.
        let magics: [(u64, &[u8], &str); 7] = [
            (0, b"QFI\xfb", "qcow2"),
            (0, b"KDMV", "vmdk"),
            (0, b"COWD", "vmdk"),
            (0, b"# Disk DescriptorFile", "vmdk"),
            (0, b"conectix", "vpc"),
            (0, b"vhdxfile", "vhdx"),
            (64, &[0x7F, 0x10, 0xDA, 0xBE], "vdi"),
        ];
        magics.into_iter().find(|(at, magic, _)| begins(*at, magic)).map_or("raw", |(.., name)| name)
    });
    Ok(match format {
        "raw" | "file" | "host_device" => Box::new(Raw(file, input.len_of(file))),
        "qcow2" if begins(0, b"QFI\xfb") => Box::new(qcow2::open_layer(input, file, depth, warnings)?),
        "vmdk" => Box::new(vmdk::open_layer(input, file, depth, warnings)?),
        "vpc" => Box::new(vhd::open_layer(input, file, depth, warnings)?),
        "vhdx" => Box::new(vhdx::open_layer(input, file, depth, warnings)?),
        "vdi" => Box::new(vdi::open_layer(input, file)?),
        "qcow2" => return flaw(0, "not a qcow2 image"),
        other => {
            let what = format!("backing file in format '{other}' (not supported)");
            return Err(Error::bad_image(what).hint(format!(
                "convert it with 'qemu-img convert -f {other} -O qcow2 FILE NEW', then use 'qemu-img rebase -u'"
            )));
        }
    })
}

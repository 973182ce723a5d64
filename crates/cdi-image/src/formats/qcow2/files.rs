//! The other files of a qcow2 image: its backing file and its external data file.

use cdi_base::error::Error;

use crate::bytes::{be32, be64, flaw};
use crate::extent::FileNo;
use crate::formats::backing;
use crate::formats::chain::{Layer, find, missing};
use crate::input::Input;

/// The header extension with the format of the backing file.
const BACKING_FORMAT: u32 = 0xE279_2ACA;
/// The header extension with the name of the external data file.
const DATA_NAME: u32 = 0x4441_5441;
/// What to do about names that are not paths.
const CHANGE_BACKING: &str = "if you have it as a file, put it next to the image and change the name: \
    'qemu-img rebase -u -F FORMAT -b NAME IMAGE'";
const CHANGE_DATA: &str = "if you have it as a file, put it next to the image and change the name: \
    'qemu-img amend -o data_file=NAME IMAGE'";

/// Finds the external data file: a raw file with the disk's data.
pub(super) fn data_file(
    input: &Input,
    file: FileNo,
    header_len: u64,
    warnings: &mut Vec<String>,
) -> Result<FileNo, Error> {
    let Some(name) = extension(input, file, header_len, DATA_NAME)? else {
        return flaw(72, "the image uses an external data file, but does not record its name");
    };
    let path = backing::local(&name, "data file", CHANGE_DATA)?;
    let found = find(input, &path)?.ok_or_else(|| missing("external data file", &path))?;
    warnings.push(format!(
        "the disk's data is read from the external data file {}",
        input.path_of(found).display()
    ));
    Ok(found)
}

/// Opens the backing file, if there is one.
pub(super) fn backing(
    input: &Input,
    file: FileNo,
    header: &[u8],
    header_len: u64,
    depth: usize,
    warnings: &mut Vec<String>,
) -> Result<Option<Box<dyn Layer>>, Error> {
    let Some(name) = backing::name(input, file, (be64(header, 8), be32(header, 16)))? else {
        return Ok(None);
    };
    let format = extension(input, file, header_len, BACKING_FORMAT)?;
    let format = format.as_deref().map(String::from_utf8_lossy);
    let named = backing::Named { name: &name, format: format.as_deref(), way_out: CHANGE_BACKING };
    named.open(input, depth, warnings).map(Some)
}

/// Returns the contents of the header extension of type `wanted`, if there is one.
fn extension(input: &Input, file: FileNo, header_len: u64, wanted: u32) -> Result<Option<Vec<u8>>, Error> {
    let mut at = header_len;
    // Extensions are within the first cluster, which has at most 2 MiB.
    while at < 2 << 20 {
        let Ok(ext_header) = input.bytes_of(file, at, 8, "a header extension") else { return Ok(None) };
        let (kind, len) = (be32(&ext_header, 0), be32(&ext_header, 4));
        match kind {
            0 => return Ok(None),
            _ if kind == wanted && len <= 1023 => {
                return input.bytes_of(file, at + 8, len as usize, "a header extension").map(Some);
            }
            _ => at += 8 + u64::from(len).next_multiple_of(8),
        }
    }
    Ok(None)
}

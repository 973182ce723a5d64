//! The other files of a qcow2 image: its backing file and its external data file.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use cdi_base::error::Error;

use crate::bytes::{be32, be64, flaw};
use crate::extent::FileNo;
use crate::formats::backing;
use crate::formats::chain::{Layer, find, missing, next_depth};
use crate::input::Input;

/// The header extension with the format of the backing file.
const BACKING_FORMAT: u32 = 0xE279_2ACA;
/// The header extension with the name of the external data file.
const DATA_NAME: u32 = 0x4441_5441;

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
    let path = local(&name, "data file")?;
    let found = find(input, &path)?.ok_or_else(|| missing("external data file", &path))?;
    warnings.push(format!(
        "the disk's data is read from the external data file {}",
        input.path_of(found).display()
    ));
    Ok(found)
}

/// Converts a QEMU file name to a path. Names that are not paths are refused; `what` names the file's role in errors.
fn local(name: &[u8], what: &str) -> Result<PathBuf, Error> {
    let text = String::from_utf8_lossy(name);
    let change = match what {
        "data file" => "qemu-img amend -o data_file=NAME IMAGE",
        _ => "qemu-img rebase -u -F FORMAT -b NAME IMAGE",
    };
    let hint = |e: Error| {
        e.hint(format!("if you have it as a file, put it next to the image and change the name: '{change}'"))
    };
    if name.starts_with(b"json:") {
        return Err(hint(Error::bad_image(format!(
            "the name of its {what} is a JSON description (not supported): {text}"
        ))));
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
        return Err(hint(Error::bad_image(what)));
    }
    Ok(PathBuf::from(OsStr::from_bytes(name)))
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
    let (at, len) = (be64(header, 8), be32(header, 16));
    if at == 0 {
        return Ok(None);
    }
    if len > 1023 {
        return flaw(16, format!("the name of the backing file is too long ({len} bytes)"));
    }
    let depth = next_depth(depth)?;
    let name = input.bytes_of(file, at, len as usize, "the name of the backing file")?;
    let named_path = local(&name, "backing file")?;
    let name = named_path.display();
    let found = find(input, &named_path)?.ok_or_else(|| missing("backing file", &named_path))?;
    let path = input.path_of(found);
    let moved =
        named_path.file_name() != Some(named_path.as_os_str()) || path.file_name() != named_path.file_name();
    let note = if moved { format!(" (recorded in the image as '{name}')") } else { String::new() };
    warnings.push(format!("data not in the image is read from its backing file {}{note}", path.display()));
    let format = extension(input, file, header_len, BACKING_FORMAT)?;
    let format = format.as_deref().map(String::from_utf8_lossy);
    backing::open(input, found, format.as_deref(), depth, warnings).map(Some).map_err(|e| e.at(&path))
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

//! The other files of a qcow2: what lies below it, and what holds its bytes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use cdi_base::error::Error;

use crate::bytes::{be32, be64, flaw};
use crate::extent::FileNo;
use crate::formats::backing;
use crate::formats::chain::{Layer, deeper, find, missing};
use crate::input::Input;

/// The header extension that names the format of the backing file.
const BACKING_FORMAT: u32 = 0xE279_2ACA;
/// The header extension that names the file that holds the disk's bytes.
const DATA_NAME: u32 = 0x4441_5441;

/// The raw file that holds the disk's bytes.
pub(super) fn data_file(
    input: &Input,
    file: FileNo,
    header_len: u64,
    warnings: &mut Vec<String>,
) -> Result<FileNo, Error> {
    let Some(name) = extension(input, file, header_len, DATA_NAME)? else {
        return flaw(72, "the disk's bytes are in another file, and nothing names it");
    };
    let path = local(&name, "data file")?;
    let found = find(input, &path)?.ok_or_else(|| missing("the file that holds the disk's bytes", &path))?;
    warnings.push(format!("the disk's bytes are in {}", input.path_of(found).display()));
    Ok(found)
}

/// The path of a file that an image names as QEMU does. Other names than paths are refused: `what` says of which file.
fn local(name: &[u8], what: &str) -> Result<PathBuf, Error> {
    let shown = String::from_utf8_lossy(name);
    let change = match what {
        "data file" => "qemu-img amend -o data_file=NAME IMAGE",
        _ => "qemu-img rebase -u -F FORMAT -b NAME IMAGE",
    };
    let hint = |e: Error| {
        e.hint(format!("if it is at hand as a file, put it next to the image: '{change}' changes the name"))
    };
    if name.starts_with(b"json:") {
        return Err(hint(Error::bad_image(format!(
            "names its {what} by a description, which is not read: {shown}"
        ))));
    }
    let name = name.strip_prefix(b"file:").unwrap_or(name);
    // As QEMU sees it; but one letter is a drive of Windows.
    let protocol =
        name.iter().position(|b| matches!(b, b':' | b'/')).filter(|at| name[*at] == b':' && *at > 1);
    if let Some(at) = protocol {
        let protocol = String::from_utf8_lossy(&name[..at]);
        let what = format!(
            "its {what} '{shown}' is not a file, but named by the protocol '{protocol}:', which is not read"
        );
        return Err(hint(Error::bad_image(what)));
    }
    Ok(PathBuf::from(OsStr::from_bytes(name)))
}

/// The backing file, if there is one.
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
        return flaw(16, format!("a name of {len} bytes for the backing file is too long"));
    }
    let depth = deeper(depth)?;
    let name = input.bytes_of(file, at, len as usize, "the name of the backing file")?;
    let told = local(&name, "backing file")?;
    let name = told.display();
    let found = find(input, &told)?.ok_or_else(|| missing("its backing file", &told))?;
    let path = input.path_of(found);
    let moved = told.file_name() != Some(told.as_os_str()) || path.file_name() != told.file_name();
    let named = if moved { format!(" (the image names it '{name}')") } else { String::new() };
    warnings.push(format!("what the image does not have comes from {}{named}", path.display()));
    let format = extension(input, file, header_len, BACKING_FORMAT)?;
    let format = format.as_deref().map(String::from_utf8_lossy);
    backing::open(input, found, format.as_deref(), depth, warnings).map(Some).map_err(|e| e.at(&path))
}

/// What an extension of the header says.
fn extension(input: &Input, file: FileNo, header_len: u64, wanted: u32) -> Result<Option<Vec<u8>>, Error> {
    let mut at = header_len;
    // Extensions lie within the first cluster, which has at most 2 MiB.
    while at < 2 << 20 {
        let Ok(head) = input.bytes_of(file, at, 8, "a header extension") else { return Ok(None) };
        let (kind, len) = (be32(&head, 0), be32(&head, 4));
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

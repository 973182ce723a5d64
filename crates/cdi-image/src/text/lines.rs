//! Reads long text files line by line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use cdi_base::error::Error;

/// The maximum length of a text, in bytes: enough for many times one line per second sector of a very bad disk.
const MAX_LEN: u64 = 1 << 30;
/// The maximum length of a line, in bytes.
const MAX_LINE_LEN: u64 = 64 << 10;

/// Reads the text at `path` and passes each line to `each` with its number, counted from 1. A message that `each`
/// returns becomes an error with the line number. `name` is what errors call the text.
pub(crate) fn each_line(
    path: &Path,
    name: &str,
    each: &mut dyn FnMut(usize, &str) -> Result<(), String>,
) -> Result<(), Error> {
    let read = |e| Error::io(format!("cannot read {name}"), path, e);
    each_of(BufReader::new(File::open(path).map_err(read)?), each)
        .map_err(read)?
        .map_err(|e| Error::bad_image(e).at(path))
}

/// As [`each_line`]. The outer error is of reading the text, the inner one says what is wrong in it.
pub(crate) fn each_of(
    mut text: impl BufRead,
    each: &mut dyn FnMut(usize, &str) -> Result<(), String>,
) -> std::io::Result<Result<(), String>> {
    let (mut line, mut all) = (Vec::new(), 0);
    for number in 1.. {
        line.clear();
        let len = (&mut text).take(MAX_LINE_LEN).read_until(b'\n', &mut line)? as u64;
        all += len;
        if len == 0 {
            break;
        }
        if len >= MAX_LINE_LEN || all > MAX_LEN {
            return Ok(Err(format!(
                "line {number}: the line or the file is too long for a text of this kind"
            )));
        }
        let line = String::from_utf8_lossy(&line);
        if let Err(e) = each(number, line.trim_end_matches(['\r', '\n'])) {
            return Ok(Err(format!("line {number}: {e}")));
        }
    }
    Ok(Ok(()))
}

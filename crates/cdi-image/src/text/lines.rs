//! Long texts, read line by line.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use cdi_base::error::Error;

/// The longest text that is read, in bytes: a line for every second sector of a very bad disk would fit many times.
const MAX_LEN: u64 = 1 << 30;
/// The longest line, in bytes.
const MAX_LINE: u64 = 64 << 10;

/// Reads the text at `path`, which is called `name`, and gives each line with its number, from 1 on. What `each` says of a
/// line that is wrong becomes an error with its number.
pub(crate) fn each_line(
    path: &Path,
    name: &str,
    each: &mut dyn FnMut(usize, &str) -> Result<(), String>,
) -> Result<(), Error> {
    let read = |e| Error::io(format!("{name} cannot be read"), path, e);
    each_of(BufReader::new(File::open(path).map_err(read)?), each)
        .map_err(read)?
        .map_err(|e| Error::bad_image(e).at(path))
}

/// The outer error is the text's, the inner one says what is wrong in it.
pub(crate) fn each_of(
    mut text: impl BufRead,
    each: &mut dyn FnMut(usize, &str) -> Result<(), String>,
) -> std::io::Result<Result<(), String>> {
    let (mut line, mut all) = (Vec::new(), 0);
    for number in 1.. {
        line.clear();
        let len = (&mut text).take(MAX_LINE).read_until(b'\n', &mut line)? as u64;
        all += len;
        if len == 0 {
            break;
        }
        if len >= MAX_LINE || all > MAX_LEN {
            return Ok(Err(format!("line {number}: longer than any text of this kind is")));
        }
        let line = String::from_utf8_lossy(&line);
        if let Err(e) = each(number, line.trim_end_matches(['\r', '\n'])) {
            return Ok(Err(format!("line {number}: {e}")));
        }
    }
    Ok(Ok(()))
}

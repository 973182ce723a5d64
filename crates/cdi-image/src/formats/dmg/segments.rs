//! Images in segments (`hdiutil segment`): `NAME.dmg`, `NAME.002.dmgpart` and so on, each with a trailer of its own. Their
//! data, one after the other, is that of the image in one file; the chunk tables are in the first.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cdi_base::error::{Error, Flaw};

use super::{CRC32, trailer};
use crate::bytes::{be32, be64, flaw};
use crate::extent::FileNo;
use crate::formats::encrcdsa::ON_A_MAC;
use crate::input::{Input, ReadAt};

/// The data of an image: where it is, and its checksums.
pub(super) struct Data {
    pub file: FileNo,
    /// Where it is in that file, in bytes.
    pub range: Range<u64>,
    /// The CRC-32 of parts of it.
    pub sums: Vec<(Range<u64>, u32)>,
}

/// Finds the data of the image whose first file has this trailer, at offset `at`.
pub(super) fn data(input: &Input, at: u64, first: &[u8]) -> Result<Data, Error> {
    let own = fork(input, Input::MAIN, at, first)?;
    let (number, count) = (be32(first, 56), be32(first, 60));
    if number > 1 {
        let name = input.name().file_name().map(Path::new).unwrap_or(input.name());
        let stem = name.with_extension("").with_extension("dmg");
        let error: Error =
            Flaw::at(at + 56, format!("this is segment {number} of {count} of an image")).into();
        return Err(error.hint(format!("open the first one, which is usually called {}", stem.display())));
    }
    if count <= 1 {
        let sums = sum(first).map(|sum| (own.clone(), sum)).into_iter().collect();
        return Ok(Data { file: Input::MAIN, range: own, sums });
    }
    if input.encryption().is_some() {
        let error: Error = Flaw::at(at + 60, "encrypted image in segments (not supported)").into();
        return Err(error.hint(ON_A_MAC));
    }
    let mut forks = Forks::default();
    let mut sums = Vec::new();
    for number in 1..=count {
        let (file, range, crc) = if number == 1 {
            (Input::MAIN, own.clone(), sum(first))
        } else {
            segment(input, number, first, forks.end)?
        };
        let start = forks.end;
        forks.add(input.joined(&[file]), range);
        sums.extend(crc.map(|crc| (start..forks.end, crc)));
    }
    let range = 0..forks.end;
    Ok(Data { file: input.derive(Arc::new(forks), input.path())?, range, sums })
}

/// Finds the data in a file whose trailer is at `at`.
fn fork(input: &Input, file: FileNo, at: u64, trailer: &[u8]) -> Result<Range<u64>, Error> {
    let (start, len) = (be64(trailer, 24), be64(trailer, 32));
    match start.checked_add(len).filter(|end| *end <= input.len_of(file)) {
        Some(end) => Ok(start..end),
        None => {
            let what = format!("the data ({len} bytes at byte {start}) extends past the end of the file");
            flaw(at + 24, what)
        }
    }
}

fn sum(trailer: &[u8]) -> Option<u32> {
    (be32(trailer, 80) == CRC32).then(|| be32(trailer, 88))
}

/// Finds a segment other than the first, whose data must begin at `start` in that of the whole image.
fn segment(
    input: &Input,
    number: u32,
    first: &[u8],
    start: u64,
) -> Result<(FileNo, Range<u64>, Option<u32>), Error> {
    let count = be32(first, 60);
    let name = name(input.name(), number);
    let Some(file) = input.sibling(&name)? else {
        let what = format!("segment {number} of {count} is missing: {}", name.display());
        return Err(Error::bad_image(what).hint("all segments must be in the directory of the first one"));
    };
    let path = input.path_of(file);
    let found = trailer(input, file).map_err(|e| e.at(&path))?;
    let Some((at, trailer)) = found else {
        return Err(Error::bad_image("no UDIF trailer: the segment is truncated").at(&path));
    };
    let wrong = |field: u64, what: String| Err(Error::from(Flaw::at(at + field, what)).at(&path));
    if trailer[64..80] != first[64..80] {
        return wrong(64, "a segment of another image: its identifier is different".into());
    }
    let (other, of) = (be32(&trailer, 56), be32(&trailer, 60));
    if (other, of) != (number, count) {
        return wrong(56, format!("this is segment {other} of {of}, not {number} of {count}"));
    }
    if be64(&trailer, 16) != start {
        return wrong(
            16,
            format!("its data begins at byte {} of the image, not {start}", be64(&trailer, 16)),
        );
    }
    let range = fork(input, file, at, &trailer).map_err(|e| e.at(&path))?;
    Ok((file, range, sum(&trailer)))
}

/// Returns the name of a segment other than the first.
fn name(first: &Path, number: u32) -> PathBuf {
    let stem = first.file_stem().unwrap_or_default().to_os_string();
    let mut name = stem;
    name.push(format!(".{number:03}.dmgpart"));
    name.into()
}

/// Parts of files, one after the other.
#[derive(Default)]
struct Forks {
    /// Where each begins, and its file and place there.
    parts: Vec<(u64, Arc<dyn ReadAt>, Range<u64>)>,
    end: u64,
}

impl Forks {
    fn add(&mut self, file: Arc<dyn ReadAt>, range: Range<u64>) {
        let len = range.end - range.start;
        self.parts.push((self.end, file, range));
        self.end = self.end.saturating_add(len);
    }
}

impl ReadAt for Forks {
    fn read_at(&self, buf: &mut [u8], at: u64) -> io::Result<usize> {
        let next = self.parts.partition_point(|(start, ..)| *start <= at);
        let Some((start, file, range)) = next.checked_sub(1).map(|n| &self.parts[n]) else { return Ok(0) };
        let within = at - start;
        let rest = (range.end - range.start).saturating_sub(within);
        let here = usize::try_from(rest).unwrap_or(usize::MAX).min(buf.len());
        if here == 0 { Ok(0) } else { file.read_at(&mut buf[..here], range.start + within) }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_named_as_by_hdiutil() {
        assert_eq!(name("/x/My.Disk.dmg".as_ref(), 2), Path::new("My.Disk.002.dmgpart"));
        assert_eq!(name("disk.dmg".as_ref(), 1234), Path::new("disk.1234.dmgpart"));
    }

    #[test]
    fn forks_are_read_one_after_the_other() {
        let mut forks = Forks::default();
        for (byte, range) in [(1, 2..5), (2, 0..0), (3, 1..3), (4, 7..8)] {
            forks.add(Arc::new(vec![byte; 8]), range);
        }
        let mut read = Vec::new();
        let mut buf = [0; 2];
        while let n @ 1.. = forks.read_at(&mut buf, read.len() as u64).unwrap() {
            read.extend_from_slice(&buf[..n]);
        }
        assert_eq!((read, forks.len().unwrap()), (vec![1, 1, 1, 3, 3, 4], 6));
    }
}

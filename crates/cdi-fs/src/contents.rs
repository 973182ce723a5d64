//! Reads the contents of a file.

use std::ops::Range;

use cdi_base::error::ReadError;
use cdi_base::units::{SECTOR, index};

use crate::file_system::{Data, Place};
use crate::loss::{Loss, Lost, Why};
use crate::lznt1;
use crate::volume::Volume;

/// The largest compressed unit in bytes. NTFS compresses only with clusters of at most 4 KiB.
const MAX_UNIT: usize = 1 << 20;

/// The contents of a file, or of one of its streams.
#[derive(Clone, Copy)]
pub struct Contents<'a> {
    volume: Volume<'a>,
    data: &'a Data,
}

/// What a part of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Zeros: it has no blocks, or they were never written.
    Zeros,
    /// At this byte of the volume.
    Volume(u64),
    /// At this byte of the record's own data.
    Inline(u64),
    /// In a compressed unit.
    Unit,
    /// Nobody knows.
    Unknown,
}

/// Why a read of a file failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentsError {
    /// Its blocks cannot be read.
    Unreadable(ReadError),
    /// Nobody knows where its blocks are, or what is in them makes no sense.
    Unknown,
}

impl<'a> Contents<'a> {
    /// Returns the contents that `data` describes. They are as stored: compressed or encrypted ones stay so.
    pub fn new(volume: Volume<'a>, data: &'a Data) -> Contents<'a> {
        Contents { volume, data }
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.data.size
    }

    /// Returns what is at byte `at` of the file, and where that ends; None at the end of the file.
    pub fn part(&self, at: u64) -> Option<(Source, u64)> {
        let size = self.data.size;
        if at >= size {
            return None;
        }
        let runs = match &self.data.place {
            Place::Units(unit, _) => {
                let end = at.saturating_sub(at % unit).saturating_add(*unit).min(size);
                return Some((Source::Unit, end));
            }
            Place::Inline(bytes) => {
                let end = (bytes.len() as u64).min(size);
                return Some(if at < end { (Source::Inline(at), end) } else { (Source::Unknown, size) });
            }
            Place::Runs(runs) => runs,
        };
        let next = runs.partition_point(|run| run.file.saturating_add(run.len) <= at);
        let Some(run) = runs.get(next) else { return Some((Source::Unknown, size)) };
        if run.file > at {
            return Some((Source::Unknown, run.file.min(size)));
        }
        let end = run.file.saturating_add(run.len).min(size);
        let source = match run.volume {
            Some(start) if !run.unwritten => Source::Volume(start.saturating_add(at - run.file)),
            _ => Source::Zeros,
        };
        Some((source, end))
    }

    /// Fills `buffer` with the bytes at `at`. A read that touches something that is lost is an error as a whole, and leaves
    /// anything in `buffer`.
    pub fn read(&self, buffer: &mut [u8], at: u64) -> Result<(), ContentsError> {
        let mut done = 0;
        while done < buffer.len() {
            let here = at.saturating_add(done as u64);
            let Some((source, end)) = self.part(here) else {
                return Err(ContentsError::Unreadable(ReadError::PastEnd));
            };
            let len = index(end - here).min(buffer.len() - done);
            let out = &mut buffer[done..done + len];
            match source {
                Source::Zeros => out.fill(0),
                Source::Volume(from) => {
                    self.volume.read_into(out, from).map_err(ContentsError::Unreadable)?
                }
                Source::Inline(from) => out.copy_from_slice(self.inline(from, len)?),
                Source::Unit => {
                    let (unit, from) = self.unit(here)?;
                    out.copy_from_slice(unit.get(from..from + len).ok_or(ContentsError::Unknown)?);
                }
                Source::Unknown => return Err(ContentsError::Unknown),
            }
            done += len;
        }
        Ok(())
    }

    fn inline(&self, from: u64, len: usize) -> Result<&[u8], ContentsError> {
        let Place::Inline(bytes) = &self.data.place else { return Err(ContentsError::Unknown) };
        bytes.get(index(from)..index(from) + len).ok_or(ContentsError::Unknown)
    }

    /// Returns the bytes of the compressed unit in which byte `at` is, and which of them that is.
    fn unit(&self, at: u64) -> Result<(Vec<u8>, usize), ContentsError> {
        let Place::Units(unit, runs) = &self.data.place else { return Err(ContentsError::Unknown) };
        let start = at - at % unit;
        let size =
            usize::try_from(*unit).ok().filter(|size| *size <= MAX_UNIT).ok_or(ContentsError::Unknown)?;
        let end = start.saturating_add(*unit);
        let mut stored = Vec::new();
        let mut known = start;
        for run in &runs[runs.partition_point(|run| run.file.saturating_add(run.len) <= start)..] {
            let (from, to) = (run.file.max(start), run.file.saturating_add(run.len).min(end));
            if from >= end {
                break;
            }
            if from > known {
                return Err(ContentsError::Unknown);
            }
            known = to;
            if run.unwritten {
                stored.clear();
                break;
            }
            if let Some(volume) = run.volume {
                let done = stored.len();
                stored.resize(done + index(to - from), 0);
                let place = volume.saturating_add(from - run.file);
                self.volume.read_into(&mut stored[done..], place).map_err(ContentsError::Unreadable)?;
            }
        }
        if known < end.min(self.data.size) {
            return Err(ContentsError::Unknown);
        }
        let bytes = lznt1::unit(&stored, size).ok_or(ContentsError::Unknown)?;
        Ok((bytes, index(at - start)))
    }

    /// Reads what can be read of `range`, sector by sector where something is lost: calls `found` with each part that has
    /// bytes, and `lost` with each that has none. Parts that are zeros are left out. At most `buffer` at a time.
    pub fn read_part(
        &self,
        range: Range<u64>,
        buffer: &mut [u8],
        found: &mut dyn FnMut(u64, &[u8]) -> std::io::Result<()>,
        lost: &mut dyn FnMut(Lost),
    ) -> std::io::Result<()> {
        let mut at = range.start;
        while at < range.end
            && let Some((source, end)) = self.part(at)
        {
            let end = end.min(range.end).min(at.saturating_add(buffer.len() as u64));
            let out = &mut buffer[..index(end - at)];
            match source {
                Source::Zeros => {}
                Source::Inline(from) => match self.inline(from, out.len()) {
                    Ok(bytes) => found(at, bytes)?,
                    Err(_) => lost(Lost { file: at..end, volume: None, why: Why::Unknown }),
                },
                Source::Unit => match self.unit(at) {
                    Ok((unit, from)) => found(at, unit.get(from..from + out.len()).unwrap_or_default())?,
                    Err(_) => lost(Lost { file: at..end, volume: None, why: self.why(at) }),
                },
                Source::Unknown => lost(Lost { file: at..end, volume: None, why: Why::Unknown }),
                Source::Volume(from) => self.read_sectors(at..end, from, out, found, lost)?,
            }
            at = end;
        }
        Ok(())
    }

    /// Returns why the unit of a byte cannot be read.
    fn why(&self, at: u64) -> Why {
        let lost = Loss::of(self.data, &self.volume).ranges;
        lost.iter().find(|lost| lost.file.contains(&at)).map_or(Why::Unknown, |lost| lost.why)
    }

    fn read_sectors(
        &self,
        file: Range<u64>,
        from: u64,
        out: &mut [u8],
        found: &mut dyn FnMut(u64, &[u8]) -> std::io::Result<()>,
        lost: &mut dyn FnMut(Lost),
    ) -> std::io::Result<()> {
        if self.volume.read_into(out, from).is_ok() {
            return found(file.start, out);
        }
        let untried = |at: u64, end: u64| self.volume.missing(at..end).iter().any(|m| m.untried);
        let mut at = 0;
        while at < out.len() {
            let here = from + at as u64;
            let unit = u64::from(SECTOR);
            let len = index(unit - self.volume.on_disk(here) % unit).min(out.len() - at);
            let piece = file.start + at as u64;
            let sector = &mut out[at..at + len];
            if self.volume.read_into(sector, here).is_ok() {
                found(piece, sector)?;
            } else {
                let why = if untried(here, here + len as u64) { Why::Untried } else { Why::Bad };
                lost(Lost { file: piece..piece + len as u64, volume: Some(here), why });
            }
            at += len;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use cdi_base::readable::InMemory;

    use super::*;
    use crate::file_system::Run;

    #[test]
    #[allow(clippy::single_range_in_vec_init)] // one bad range
    fn only_what_is_lost_is_missing() {
        let bytes: Vec<u8> = (1..=251).cycle().flat_map(|n: u8| [n; 512]).take(1 << 20).collect();
        let disk = InMemory { bytes: bytes.clone(), bad: vec![4608..5120] };
        let volume = Volume::new(&disk, 0..1 << 20);
        let run = |file, len, volume, unwritten| Run { file, len, volume, unwritten };
        let runs = vec![
            run(0, 2048, Some(4096), false),
            run(2048, 4096, None, false),
            run(8192, 1024, Some(0), true),
        ];
        let data = Data { size: 9000, place: Place::Runs(runs), packed: None };
        let contents = Contents::new(volume, &data);
        let mut sector = [0; 512];
        assert_eq!(contents.read(&mut sector, 0), Ok(()));
        assert_eq!(sector, bytes[4096..4608]);
        assert!(matches!(
            contents.read(&mut sector, 511),
            Err(ContentsError::Unreadable(ReadError::Bad { sector: 9, .. }))
        ));
        assert_eq!(contents.read(&mut sector, 3000), Ok(()));
        assert_eq!(sector, [0; 512]);
        assert_eq!(contents.read(&mut sector, 6100), Err(ContentsError::Unknown));
        assert_eq!(contents.read(&mut sector, 8400), Ok(()));
        let (mut good, mut lost) = (0, Vec::new());
        let mut copy = vec![0; 9000];
        let mut write = |at: u64, part: &[u8]| {
            good += part.len();
            copy[index(at)..index(at) + part.len()].copy_from_slice(part);
            Ok(())
        };
        contents
            .read_part(0..9000, &mut vec![0; 3000], &mut write, &mut |l| lost.push((l.file, l.why)))
            .unwrap();
        assert_eq!(good, 1536);
        assert_eq!(lost, [(512..1024, Why::Bad), (6144..8192, Why::Unknown)]);
        assert_eq!(copy[1024..2048], bytes[5120..6144]);
        let inline = Data { size: 5, place: Place::Inline(b"hello".to_vec()), packed: None };
        let mut all = [0; 5];
        Contents::new(volume, &inline).read(&mut all, 0).unwrap();
        assert_eq!(&all, b"hello");
    }
}

//! Reads a disk as a stream of bytes, for code that uses [`Read`] and [`Seek`].

use std::io::{self, Read, Seek, SeekFrom};

use cdi_base::error::ReadError;
use cdi_base::units::index;

use crate::disk::Disk;

/// Reads a disk from a position on. A read stops before a sector that cannot be read; a read that starts there returns an
/// error whose source is the [`ReadError`]. An error does not move the position: to skip a bad sector, seek.
#[derive(Clone)]
pub struct DiskReader<'a> {
    disk: &'a Disk,
    at: u64,
}

impl Disk {
    /// Returns a reader that starts at the first byte of the disk.
    pub fn reader(&self) -> DiskReader<'_> {
        DiskReader { disk: self, at: 0 }
    }
}

impl Read for DiskReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.disk.read_prefix(buf, self.at).map_err(io::Error::other)?;
        self.at += len as u64;
        Ok(len)
    }
}

impl Seek for DiskReader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(at) => {
                self.at = at;
                return Ok(at);
            }
            SeekFrom::End(by) => (self.disk.size(), by),
            SeekFrom::Current(by) => (self.at, by),
        };
        self.at = from.checked_add_signed(by).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "seek to a position before the start of the disk")
        })?;
        Ok(self.at)
    }
}

/// Bad sectors, by sector number and by range of bytes.
impl Disk {
    /// Returns the ranges of sectors whose reads fail, in order: the first sector and the number of sectors.
    pub fn bad_sectors(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let sector = u64::from(self.sector());
        let failing = self.has_failing_reads().then(|| self.failing_ranges().ranges());
        failing
            .into_iter()
            .flatten()
            .map(move |r| (r.start / sector, r.end.div_ceil(sector) - r.start / sector))
    }

    /// Returns the range of bytes from `offset` to the next bad sector whose reads fail, or to the end of the disk;
    /// empty at such a sector.
    pub fn readable_from(&self, offset: u64) -> std::ops::Range<u64> {
        let next = if self.has_failing_reads() { self.failing_ranges().next(offset) } else { None };
        offset..next.map_or(self.size(), |bad| bad.start.max(offset)).max(offset)
    }
}

/// Reads by sector number.
impl Disk {
    /// Reads a sector into a new buffer. The last sector of a disk may be short.
    pub fn read_sector(&self, number: u64) -> Result<Vec<u8>, ReadError> {
        let sector = u64::from(self.sector());
        let start = number.checked_mul(sector).filter(|at| *at < self.size()).ok_or(ReadError::PastEnd)?;
        let mut bytes = vec![0; index(sector.min(self.size() - start))];
        self.read_at(&mut bytes, start).map(|()| bytes)
    }
}

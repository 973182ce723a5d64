//! Receives the results of the workers in order, hashes them, and writes them.

use std::ops::Range;

use cdi_base::error::{Error, ReadError};
use cdi_image::badmap::{BadRange, Reason, Status};
use cdi_image::cdimg::writer::Writer;
use cdi_image::codec::{Codec, Compressor};

use super::compress::{Bytes, Done, How, Name, Part, Piece, Shared, compress_into};
use super::hash::Hashes;
use super::options::Made;

/// Hashes and writes the results of the workers.
pub(super) struct ImageSink<'a> {
    pub writer: Writer,
    /// Set as long as everything arrives in the order of the disk.
    hashes: Option<Hashes>,
    shared: &'a Shared,
    compressor: Option<Compressor>,
    pub made: Made,
}

impl<'a> ImageSink<'a> {
    pub(super) fn new(writer: Writer, shared: &'a Shared) -> ImageSink<'a> {
        let hashes = Some(Hashes::new(&shared.options.hashes));
        ImageSink { writer, hashes, shared, compressor: None, made: Made::default() }
    }

    /// Returns the writer, the result, and the hashes if the whole disk arrived in order.
    pub(super) fn finish(self) -> (Writer, Made, Option<Hashes>) {
        let size = self.writer.geometry().disk_size;
        (self.writer, self.made, self.hashes.filter(|h| h.at() == size))
    }

    /// Writes the result for a part of the disk.
    pub(super) fn take(&mut self, done: Done) -> Result<(), Error> {
        for part in done.parts {
            match part {
                Part::Fill { disk, pattern } => self.fill(disk, pattern)?,
                Part::Missing { disk, failed } => self.missing(disk, failed)?,
                Part::Bytes(bytes) => self.bytes(bytes)?,
            }
        }
        Ok(())
    }

    /// Hashes data that starts at byte `start`, or gives up hashing if it is not the next.
    fn hash(&mut self, start: u64, feed: impl FnOnce(&mut Hashes)) {
        match &mut self.hashes {
            Some(hashes) if hashes.at() == start => feed(hashes),
            _ => self.hashes = None,
        }
    }

    /// Writes a run of the disk that is `pattern` repeated.
    pub(super) fn fill(&mut self, disk: Range<u64>, pattern: [u8; 8]) -> Result<(), Error> {
        let len = disk.end - disk.start;
        self.hash(disk.start, |hashes| hashes.fill(&pattern, len));
        self.made.fill_bytes += len;
        self.writer.put_fill(disk, pattern)
    }

    /// Records a missing run, with the error if reading it failed now.
    fn missing(&mut self, disk: Range<u64>, failed: Option<ReadError>) -> Result<(), Error> {
        let len = disk.end - disk.start;
        self.hash(disk.start, |hashes| hashes.missing(len));
        let Some(error) = failed else { return Ok(()) };
        // It could not be read when the source was made, and that is found only now.
        if let ReadError::Bad { untried: false, .. } = error {
            return self.writer.set_status(BadRange::new(disk, Status::Bad));
        }
        self.made.failed_bytes += len;
        self.writer.set_status(match error {
            ReadError::Io { errno } => {
                let reason = Some(Reason::errno(errno.unsigned_abs()));
                BadRange { reason, tries: 1, ..BadRange::new(disk, Status::Bad) }
            }
            // The source's file is damaged, which says nothing about the disk.
            _ => BadRange::new(disk, Status::NonTried),
        })
    }

    /// Writes bytes of the disk that were read and compressed.
    pub(super) fn bytes(&mut self, bytes: Bytes) -> Result<(), Error> {
        self.hash(bytes.start, |hashes| hashes.held(bytes.raw.clone()));
        self.put(&bytes)?;
        self.shared.give_back(bytes.compressed);
        Ok(())
    }

    fn put(&mut self, bytes: &Bytes) -> Result<(), Error> {
        let mut at = 0;
        for Piece { len, how } in &bytes.pieces {
            let start = bytes.start + at as u64;
            let raw = &bytes.raw[at..at + len];
            at += len;
            match how {
                How::Fill(pattern) => {
                    self.made.fill_bytes += *len as u64;
                    self.writer.put_fill(start..start + *len as u64, *pattern)?;
                }
                How::CompressedChunk(name, codec, range) => {
                    self.put_data(*name, start, raw, *codec, &bytes.compressed[range.clone()])?;
                }
                How::Stored(name) => self.put_data(*name, start, raw, Codec::Stored, raw)?,
                How::Same(name) => match self.shared.entry(name) {
                    Some(entry) => {
                        self.made.shared_bytes += *len as u64;
                        self.writer.put_same(start, length(raw)?, entry)?;
                    }
                    None => self.put_first(*name, start, raw)?,
                },
                How::Failed(e) => return Err(Error::failed(format!("cannot compress a chunk: {e}"))),
            }
        }
        Ok(())
    }

    /// Writes a chunk marked as equal to another one that is not in the image yet: the other comes later on the disk,
    /// although its job started earlier.
    fn put_first(&mut self, name: Name, start: u64, raw: &[u8]) -> Result<(), Error> {
        let mut compressed = Vec::new();
        let codec = compress_into(&self.shared.options, &mut self.compressor, raw, &mut compressed)
            .map_err(|e| Error::failed("cannot compress a chunk").because(e))?;
        match codec {
            Some(codec) => self.put_data(name, start, raw, codec, &compressed),
            None => self.put_data(name, start, raw, Codec::Stored, raw),
        }
    }

    /// Writes a chunk, or refers to an equal one for a reproducible image.
    fn put_data(
        &mut self,
        name: Name,
        start: u64,
        raw: &[u8],
        codec: Codec,
        stored: &[u8],
    ) -> Result<(), Error> {
        // In a reproducible image, the order of the workers must not matter: equal chunks are found here.
        let known = if self.shared.options.reproducible.is_some() { self.shared.entry(&name) } else { None };
        if let Some(entry) = known {
            self.made.shared_bytes += raw.len() as u64;
            return self.writer.put_same(start, length(raw)?, entry);
        }
        self.made.compressed_bytes += raw.len() as u64;
        let entry = self.writer.put_data(start, length(raw)?, codec, stored)?;
        self.shared.set_entry(name, entry);
        Ok(())
    }
}

fn length(raw: &[u8]) -> Result<u32, Error> {
    u32::try_from(raw.len()).map_err(|_| Error::failed("a run is longer than a chunk"))
}

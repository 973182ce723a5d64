//! Checks the checksums that are not checked when blocks are read.

use std::ops::Range;

use cdi_base::error::{Error, Flaw};
use cdi_base::units::index;
use xxhash_rust::xxh3::Xxh3Default;
use xxhash_rust::xxh64::Xxh64;

use super::Partition;
use super::header::{Checksum, Header};
use crate::codec::crc32_state;
use crate::image::CheckCancelled;
use crate::input::Input;

impl Partition {
    /// Checks the checksums that are not checked when blocks are read. A place in the file and what is wrong there is
    /// passed to `report`.
    pub(in crate::formats) fn check(
        &self,
        input: &Input,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        match self.header.checksum {
            Checksum::None => Ok(()),
            Checksum::Old(_) => self.check_old(input, report, check_cancelled),
            _ => self.check_strips(input, report, check_cancelled),
        }
    }

    fn check_old(
        &self,
        input: &Input,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        for number in 0..self.blocks.marked() {
            check_cancelled()?;
            let at = self.data + number * self.strip_len();
            match self.old_checksum_is_right(input, number) {
                Ok(true) => {}
                Ok(false) => {
                    report(
                        Flaw::at(at, "the checksum of a block is wrong"),
                        "this block or the one before it",
                    );
                }
                // It is reported as lost.
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn check_strips(
        &self,
        input: &Input,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        let Header { block, per_checksum: per, checksum, reseed, .. } = self.header;
        if !self.is_checked && self.is_verified_when_read() {
            return Ok(());
        }
        let mut sum = RunningSum::new(checksum);
        let mut buffer = vec![0; index(block)];
        for strip in 0..self.blocks.marked().div_ceil(per) {
            let start = self.data + strip * self.strip_len();
            let count = per.min(self.blocks.marked() - strip * per);
            let end = start + count * block;
            let mut stored = vec![0; index(checksum.len())];
            for n in 0..count {
                check_cancelled()?;
                // What is missing is reported as lost.
                if input.read_exact_at(self.file, &mut buffer, start + n * block).is_err() {
                    return Ok(());
                }
                sum.update(&buffer);
            }
            if input.read_exact_at(self.file, &mut stored, end).is_err() {
                return Ok(());
            }
            if sum.value() != stored {
                let affected = self.affected(input, start..end)?;
                report(Flaw::at(end, "the checksum of a strip is wrong"), &affected);
            }
            if reseed {
                sum = RunningSum::new(checksum);
            }
        }
        Ok(())
    }

    fn affected(&self, input: &Input, strip: Range<u64>) -> Result<String, Error> {
        let places = self.on_disk(input, &strip)?;
        let ends = places.first().zip(places.last());
        let (from, to) = ends.map_or((0, 0), |(first, last)| (first.start, last.end));
        Ok(format!("used blocks in bytes {from} to {to} of the partition"))
    }
}

/// The checksum of blocks that are read one after the other.
enum RunningSum {
    Crc32(u32),
    Xxh64(Box<Xxh64>),
    Xxh128(Box<Xxh3Default>),
}

impl RunningSum {
    fn new(checksum: Checksum) -> RunningSum {
        match checksum {
            Checksum::Xxh64 => RunningSum::Xxh64(Box::new(Xxh64::new(0))),
            Checksum::Xxh128 => RunningSum::Xxh128(Box::default()),
            _ => RunningSum::Crc32(u32::MAX),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            RunningSum::Crc32(state) => *state = crc32_state(*state, bytes),
            RunningSum::Xxh64(hash) => hash.update(bytes),
            RunningSum::Xxh128(hash) => hash.update(bytes),
        }
    }

    /// Returns the checksum as it is stored.
    fn value(&self) -> Vec<u8> {
        match self {
            RunningSum::Crc32(state) => state.to_le_bytes().to_vec(),
            RunningSum::Xxh64(hash) => hash.digest().to_le_bytes().to_vec(),
            RunningSum::Xxh128(hash) => hash.digest128().to_le_bytes().to_vec(),
        }
    }
}

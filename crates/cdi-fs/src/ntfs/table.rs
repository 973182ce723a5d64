//! Tables of units of the same size: the records of the MFT, the blocks of an index.

use std::ops::Range;

use cdi_base::units::index;

use crate::file_system::Damage;
use crate::volume::Part;

use super::fixup;
use super::io::{Io, unknown};
use super::runs::Extents;

/// How much is read at once where units follow each other, in bytes.
const AHEAD: u64 = 256 << 10;

/// A unit of a table: read, and its update sequence applied.
#[derive(Debug)]
pub(super) struct Unit {
    /// Its bytes: all, or as many of the first as can be read.
    pub(super) bytes: Vec<u8>,
    /// Where it is.
    pub(super) places: Vec<Range<u64>>,
    /// Why the bytes end early.
    pub(super) cut: Option<Damage>,
}

/// Why a unit is lost, and where it is, if that is known.
#[derive(Debug)]
pub(super) struct Lost {
    /// Where it is.
    pub(super) places: Vec<Range<u64>>,
    /// Why it is lost.
    pub(super) damage: Damage,
    /// Whether it could be read, and has no mark: it was never written, or overwritten.
    pub(super) blank: bool,
}

/// Reads the units of a table, ahead where they follow each other.
pub(super) struct Table<'t> {
    io: &'t Io<'t>,
    extents: &'t Extents,
    unit: u64,
    count: u64,
    /// What a unit begins with.
    magic: [u8; 4],
    part: Option<Part>,
}

impl<'t> Table<'t> {
    /// Reads units of `unit` bytes that begin with `magic`. Those after the first `count` are not read ahead.
    pub(super) fn new(
        io: &'t Io<'t>,
        extents: &'t Extents,
        unit: u64,
        count: u64,
        magic: [u8; 4],
    ) -> Table<'t> {
        Table { io, extents, unit, count, magic, part: None }
    }

    /// Reads unit `number`, and perhaps those after it.
    pub(super) fn get(&mut self, number: u64) -> Result<Unit, Lost> {
        let at = number.checked_mul(self.unit);
        let Some(places) = at.and_then(|at| self.extents.places(at, self.unit)) else {
            return Err(Lost { places: Vec::new(), damage: unknown(), blank: false });
        };
        match self.bytes(number, &places) {
            Err(damage) => Err(Lost { places, damage, blank: false }),
            Ok((bytes, cut)) => check(bytes, cut, places, self.unit, self.magic),
        }
    }

    /// The bytes of a unit, and why they end early.
    fn bytes(&mut self, number: u64, places: &[Range<u64>]) -> Result<(Vec<u8>, Option<Damage>), Damage> {
        let len = index(self.unit);
        if let [place] = places {
            self.read_ahead(number, place)?;
            let Some(part) = &self.part else { return Err(unknown()) };
            return match part.get(place.start, len) {
                Ok(bytes) => Ok((bytes.to_vec(), None)),
                Err(error) => {
                    let lost = part.lost().iter().find(|(lost, _)| lost.end > place.start);
                    let good = lost.map_or(0, |(lost, _)| lost.start.saturating_sub(place.start));
                    let bytes = part.get(place.start, index(good.min(self.unit))).map_err(|_| error)?;
                    if bytes.is_empty() {
                        Err(error.into())
                    } else {
                        Ok((bytes.to_vec(), Some(error.into())))
                    }
                }
            };
        }
        let mut bytes = Vec::with_capacity(len);
        let mut cut = None;
        for place in places {
            // Asked for even if the rest is lost: imaging is to know what is missing.
            match self.io.read(place.start, index(place.end - place.start)) {
                Ok(part) if cut.is_none() => bytes.extend_from_slice(&part),
                Ok(_) => {}
                Err(error) => cut = cut.or(Some(error)),
            }
        }
        match cut {
            Some(error) if bytes.is_empty() => Err(error),
            cut => Ok((bytes, cut)),
        }
    }

    /// Makes the part have the unit `number`, which is at `place`.
    fn read_ahead(&mut self, number: u64, place: &Range<u64>) -> Result<(), Damage> {
        if let Some(part) = &self.part
            && part.range().start <= place.start
            && place.end <= part.range().end
        {
            return Ok(());
        }
        let follow = self.extents.find(number * self.unit).map_or(0, |(_, follow)| follow);
        let units = (AHEAD / self.unit).min(follow / self.unit).min(self.count.saturating_sub(number)).max(1);
        self.part = Some(self.io.part(place.start..place.start + units * self.unit)?);
        Ok(())
    }
}

/// Checks the mark of a unit, and applies its update sequence.
fn check(
    mut bytes: Vec<u8>,
    cut: Option<Damage>,
    places: Vec<Range<u64>>,
    unit: u64,
    magic: [u8; 4],
) -> Result<Unit, Lost> {
    if bytes.get(..4) != Some(&magic) {
        let damage = cut.unwrap_or_else(|| match bytes.get(..4) {
            Some(b"BAAD") => Damage::Invalid("it was marked as damaged by another program".into()),
            _ => Damage::Invalid(format!("it does not begin with {}", String::from_utf8_lossy(&magic))),
        });
        let blank = matches!(damage, Damage::Invalid(_)) && bytes.get(..4) != Some(b"BAAD");
        return Err(Lost { places, damage, blank });
    }
    if let Err(text) = fixup::apply(&mut bytes, unit) {
        return Err(Lost {
            places,
            damage: cut.unwrap_or_else(|| Damage::Invalid(text.into())),
            blank: false,
        });
    }
    Ok(Unit { bytes, places, cut })
}

/// Reads one unit at `at` of the volume, whatever table it is of.
pub(super) fn single(io: &Io<'_>, at: u64, unit: u64, magic: [u8; 4]) -> Result<Unit, Lost> {
    let places = std::iter::once(at..at.saturating_add(unit)).collect();
    match io.read(at, index(unit)) {
        Ok(bytes) => check(bytes, None, places, unit, magic),
        Err(damage) => Err(Lost { places, damage, blank: false }),
    }
}

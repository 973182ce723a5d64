//! The MFT: where its records are.
//!
//! Its own runs are in its first record. If that is lost, the copy in `$MFTMirr` has them; if that is lost too, records are
//! taken from where the boot sector says that the MFT begins, as long as they look like records.

use crate::file_system::Damage;

use super::boot::Boot;
use super::io::Io;
use super::record::{Body, Head, attributes, kind};
use super::runs::{Extent, Extents, decode};
use super::stream::{Mapped, Stream, Value};
use super::table::{Lost, Table, Unit, single};
use super::whole::{Whole, gather};

/// What a record begins with.
pub(super) const MAGIC: [u8; 4] = *b"FILE";
/// The number of records that `$MFTMirr` has.
pub(super) const MIRRORED: u64 = 4;
/// How often the MFT's own list of runs is read: each time, it may lead to more of itself.
const MAX_ROUNDS: usize = 64;
/// An MFT of this size is looked at even if the volume, which was cut then, has less, in bytes.
const MIN_SIZE: u64 = 1 << 30;
/// How much without a readable record ends the search for records, in bytes.
const MAX_GAP: u64 = 1 << 20;

/// Where the MFT is.
#[derive(Debug, Clone)]
pub(super) struct Mft {
    /// What the boot sector says.
    pub(super) boot: Boot,
    /// Its clusters.
    pub(super) extents: Extents,
    /// Its size in bytes.
    pub(super) size: u64,
    /// Its bitmap: which records are in use.
    pub(super) bitmap: Bitmap,
    /// Why not all of it is known.
    pub(super) damage: Option<Damage>,
    /// Whether a first record was found, in the MFT or in its copy.
    pub(super) found: bool,
    /// The largest size that it may have, in bytes.
    most: u64,
}

/// The bitmap of records.
#[derive(Debug, Clone)]
pub(super) enum Bitmap {
    /// It is not known.
    Lost(Damage),
    /// In the record.
    Resident(Vec<u8>),
    /// In clusters.
    Mapped(Mapped),
}

impl Mft {
    /// Finds the MFT.
    pub(super) fn locate(io: &Io<'_>, boot: &Boot) -> Mft {
        let lost = || Bitmap::Lost(Damage::Invalid("the MFT's first record is lost".into()));
        let mut mft = Mft {
            boot: *boot,
            extents: Extents { list: Vec::new(), cluster: boot.cluster },
            size: 0,
            bitmap: lost(),
            damage: None,
            found: false,
            most: boot.size.min(io.volume().size().max(MIN_SIZE)),
        };
        let first = single(io, boot.mft, boot.record, MAGIC).and_then(complete);
        let damage = match first {
            Ok(unit) if mft.follow(io, &unit) => return mft.mend(io),
            Ok(_) => Damage::Invalid("it does not describe the MFT".into()),
            Err(lost) => lost.damage,
        };
        if let Ok(unit) = single(io, boot.mirror, boot.record, MAGIC).and_then(complete)
            && mft.follow(io, &unit)
        {
            return mft.mend(io);
        }
        mft.search(io);
        mft.damage = Some(damage);
        mft.mend(io)
    }

    /// Takes over what the MFT's first record says. Returns whether it says anything.
    fn follow(&mut self, io: &Io<'_>, first: &Unit) -> bool {
        let Some(mut stream) = own_part(first, &self.boot) else { return false };
        let (size, written) = (stream.size.unwrap_or(0), stream.written);
        for _ in 0..MAX_ROUNDS {
            let known = stream.extents.end();
            self.extents = stream.extents;
            let copy = Unit { bytes: first.bytes.clone(), places: first.places.clone(), cut: None };
            let Some(whole) = gather(io, self, 0, copy, &[]) else { return false };
            let Some((next, damage)) = self.describe(&whole) else { return false };
            stream = next;
            self.damage = damage;
            if stream.extents.end() <= known {
                break;
            }
        }
        self.extents = stream.extents;
        self.size = if written >= self.boot.record { size.min(written) } else { size };
        self.found = true;
        true
    }

    /// Returns the MFT's own clusters as its first record and those that extend it say, and takes over the bitmap's.
    fn describe(&mut self, whole: &Whole) -> Option<(Mapped, Option<Damage>)> {
        let attributes = whole.attributes();
        let data = attributes.stream(kind::DATA, &[], &self.boot)?;
        let Value::Mapped(mapped) = data.value else { return None };
        self.bitmap = match attributes.stream(kind::BITMAP, &[], &self.boot) {
            Some(Stream { value: Value::Resident(value), .. }) => Bitmap::Resident(value.to_vec()),
            Some(Stream { value: Value::Mapped(mapped), .. }) => Bitmap::Mapped(mapped),
            None => Bitmap::Lost(Damage::Invalid("the MFT's first record does not have it".into())),
        };
        Some((mapped, data.damage.or(whole.damage.clone())))
    }

    /// Takes the MFT's records from where the boot sector says that it begins.
    fn search(&mut self, io: &Io<'_>) {
        let Boot { cluster, record, mft, .. } = self.boot;
        let most = self.boot.clusters().saturating_sub(mft / cluster);
        let all = Extents { list: vec![Extent { vcn: 0, len: most, lcn: Some(mft / cluster) }], cluster };
        let mut table = Table::new(io, &all, record, most * cluster / record, MAGIC);
        let mut end = 0;
        // Records that cannot be read, right after those that can: nothing says whether they were used.
        let mut lost = 0;
        let mut number = 0;
        while (number - end) * record < MAX_GAP && (number + 1) * record <= most * cluster {
            match table.get(number) {
                Ok(_) => end = number + 1,
                Err(lost) if lost.blank => break,
                Err(unit) if matches!(unit.damage, Damage::Unreadable(_)) && number == end.max(lost) => {
                    lost = number + 1;
                }
                Err(_) => {}
            }
            number += 1;
        }
        let end = end.max(lost);
        let clusters = (end * record).div_ceil(cluster);
        self.size = end * record;
        if clusters > 0 {
            self.extents.list.push(Extent { vcn: 0, len: clusters, lcn: Some(mft / cluster) });
        }
    }

    /// If parts of the MFT are not known: looks for them in the records that extend its first one.
    fn mend(mut self, io: &Io<'_>) -> Mft {
        if self.damage.is_none() {
            return self;
        }
        let mut parts = Vec::new();
        let extents = self.extents.clone();
        let count = extents.end().min(self.most) / self.boot.record;
        let mut table = Table::new(io, &extents, self.boot.record, count, MAGIC);
        for number in 1..count {
            let Ok(unit) = table.get(number).and_then(complete) else { continue };
            if Head::parse(&unit.bytes).is_some_and(|head| head.used && head.extends() == Some(0)) {
                parts.extend(part_of(&unit, &self.boot));
            }
        }
        parts.sort_by_key(|part| part.first().map_or(0, |first| first.vcn));
        for part in parts {
            let end = self.extents.list.last().map_or(0, Extent::end);
            if part.first().is_some_and(|first| first.vcn >= end) {
                self.extents.list.extend(part);
            }
        }
        if !self.found {
            self.size = self.size.max(self.extents.end());
        }
        self
    }

    /// Returns the number of records.
    pub(super) fn records(&self) -> u64 {
        self.size.min(self.most) / self.boot.record
    }

    /// Reads a record; one of the first from the copy, if need be.
    pub(super) fn read(&self, io: &Io<'_>, number: u64) -> Result<Unit, Lost> {
        let mut table = Table::new(io, &self.extents, self.boot.record, 0, MAGIC);
        self.read_from(io, &mut table, number).map(|(unit, _)| unit)
    }

    /// Reads a record from `table`; one of the first from the copy, if need be. Also returns why, then.
    pub(super) fn read_from(
        &self,
        io: &Io<'_>,
        table: &mut Table<'_>,
        number: u64,
    ) -> Result<(Unit, Option<Damage>), Lost> {
        let lost = match table.get(number).and_then(complete) {
            Ok(unit) => return Ok((unit, None)),
            Err(lost) => lost,
        };
        if number < MIRRORED {
            let at = self.boot.mirror + number * self.boot.record;
            if let Ok(unit) = single(io, at, self.boot.record, MAGIC).and_then(complete) {
                return Ok((unit, Some(lost.damage)));
            }
        }
        Err(lost)
    }
}

/// Refuses a record of which bytes with a meaning cannot be read.
fn complete(mut unit: Unit) -> Result<Unit, Lost> {
    let Some(cut) = unit.cut.take() else { return Ok(unit) };
    let has = unit.bytes.len() as u64;
    match Head::parse(&unit.bytes) {
        Some(head) if u64::from(head.len) <= has => {
            // What cannot be read is not part of the record.
            if let [place] = &mut unit.places[..] {
                place.end = place.start + has;
            }
            Ok(unit)
        }
        _ => Err(Lost { places: unit.places, damage: cut, blank: false }),
    }
}

/// Returns the MFT's clusters that its first record itself has.
fn own_part(first: &Unit, boot: &Boot) -> Option<Mapped> {
    let head = Head::parse(&first.bytes).filter(|head| head.used && head.extends().is_none())?;
    let (list, _) = attributes(&first.bytes, &head);
    let data: Vec<_> = list.into_iter().filter(|a| a.kind == kind::DATA && a.name.is_empty()).collect();
    match super::stream::join(&data, boot)?.value {
        Value::Mapped(mapped) if !mapped.extents.list.is_empty() => Some(mapped),
        _ => None,
    }
}

/// Returns the clusters of the MFT that a record has which extends its first one.
fn part_of(unit: &Unit, boot: &Boot) -> Option<Vec<Extent>> {
    let head = Head::parse(&unit.bytes)?;
    let (list, _) = attributes(&unit.bytes, &head);
    list.iter().find_map(|attribute| match attribute.body {
        Body::Mapped(mapped) if attribute.kind == kind::DATA && attribute.name.is_empty() => {
            let mut part = Vec::new();
            // What comes before an error is right.
            let _ = decode(mapped.pairs, mapped.first, boot.clusters(), &mut part);
            Some(part).filter(|part| !part.is_empty())
        }
        _ => None,
    })
}

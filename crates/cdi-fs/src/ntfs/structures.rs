//! What a scan reports of the file system itself.

use std::ops::Range;

use crate::file_system::{Damage, Place, Record, Structure, Visitor};

use super::bits;
use super::boot::{self, Boot};
use super::io::Io;
use super::mft::{MAGIC, MIRRORED, Mft};
use super::record::kind;
use super::runs::Extents;
use super::stream::Value;
use super::table::single;
use super::whole::gather;

/// The number of the record of the bitmap of clusters.
const BITMAP: u64 = 6;

/// The cost of a damaged bitmap.
const ALL_USED: &str = "clusters of which it does not say that they are free count as used";

/// Reports what is not found by its record. Returns whether the scan goes on.
pub(super) fn report(io: &Io<'_>, mft: &Mft, visitor: &mut dyn Visitor) -> bool {
    let [first, copy] = boot::places(&mft.boot);
    let good = |at: &Range<u64>| boot_damage(io, at, &mft.boot);
    let (first_damage, copy_damage) = (good(&first), good(&copy));
    let copy_cost =
        if first_damage.is_some() { "nothing has it then" } else { "nothing is lost: it is a copy" };
    let structures = [
        structure("boot sector", vec![first], first_damage, "nothing is lost: its copy is used"),
        structure("copy of the boot sector", vec![copy], copy_damage, copy_cost),
        table(mft),
        mirror(io, mft),
        bitmap_of_records(io, mft),
        bitmap_of_clusters(io, mft),
    ];
    structures.into_iter().all(|structure| visitor.structure(structure))
}

fn structure(what: &str, at: Vec<Range<u64>>, damage: Option<Damage>, cost: &str) -> Structure {
    Structure { what: what.into(), at, damage: damage.map(|damage| (damage, cost.into())) }
}

/// Why a boot sector cannot be used.
fn boot_damage(io: &Io<'_>, at: &Range<u64>, right: &Boot) -> Option<Damage> {
    match io.read(at.start, boot::SIZE) {
        Err(damage) => Some(damage),
        Ok(bytes) => match Boot::parse(&bytes) {
            Err(text) => Some(Damage::Invalid(text)),
            Ok(boot) if boot != *right => Some(Damage::Invalid("it does not fit the volume".into())),
            Ok(_) => None,
        },
    }
}

fn table(mft: &Mft) -> Structure {
    let cost = if mft.found {
        "the records in that part of it"
    } else {
        "the records in other parts of it: only those that follow its start are found"
    };
    structure("$MFT, the table of records", mft.extents.ranges().collect(), mft.damage.clone(), cost)
}

fn mirror(io: &Io<'_>, mft: &Mft) -> Structure {
    let Boot { mirror, record, .. } = mft.boot;
    let records = (0..MIRRORED).map(|number| single(io, mirror + number * record, record, MAGIC).err());
    // All are asked for.
    let damage = records.fold(None, |damage, lost| damage.or(lost));
    let at = mirror..mirror + MIRRORED * record;
    let damage = damage.map(|lost| lost.damage);
    structure("$MFTMirr, the copy of the first records", vec![at], damage, "nothing is lost: it is a copy")
}

fn bitmap_of_records(io: &Io<'_>, mft: &Mft) -> Structure {
    let (at, damage) = bits::check(io, &mft.bitmap, mft.records());
    let cost = "whether a lost record was in use is not known";
    structure("bitmap of the table of records", at, damage, cost)
}

fn bitmap_of_clusters(io: &Io<'_>, mft: &Mft) -> Structure {
    let what = "$Bitmap, the bitmap of clusters";
    match clusters(io, mft) {
        Err(damage) => structure(what, Vec::new(), Some(damage), ALL_USED),
        Ok((extents, size, damage)) => {
            let len = size.min(mft.boot.clusters().div_ceil(8));
            let short = || Damage::Invalid("it ends early".into());
            let damage = damage.or_else(|| bits::read_all(io, &extents, len));
            let damage = damage.or_else(|| (size < mft.boot.clusters().div_ceil(8)).then(short));
            structure(what, extents.ranges().collect(), damage, ALL_USED)
        }
    }
}

/// Returns where the bitmap of clusters is, its size in bytes, and why a part of that is not known.
pub(super) fn clusters(io: &Io<'_>, mft: &Mft) -> Result<(Extents, u64, Option<Damage>), Damage> {
    let nonsense = |text: &str| Damage::Invalid(text.into());
    let unit = mft.read(io, BITMAP).map_err(|lost| lost.damage)?;
    let whole = gather(io, mft, BITMAP, unit, &[]).ok_or_else(|| nonsense("its record is too short"))?;
    let attributes = whole.attributes();
    let stream = attributes.stream(kind::DATA, &[], &mft.boot);
    let stream = stream.ok_or_else(|| nonsense("its record has no contents"))?;
    match stream.value {
        Value::Mapped(mapped) => {
            let size = mapped.size.unwrap_or_else(|| mapped.extents.end());
            Ok((mapped.extents, size, whole.damage.clone().or(stream.damage)))
        }
        Value::Resident(_) => Err(nonsense("its record has no clusters")),
    }
}

/// Reports one of the first records that was read from the copy.
pub(super) fn copied(mft: &Mft, number: u64, damage: Damage) -> Structure {
    let at = mft.extents.places(number * mft.boot.record, mft.boot.record);
    let start = mft.boot.mft + number * mft.boot.record;
    let at = at.unwrap_or_else(|| std::iter::once(start..start + mft.boot.record).collect());
    structure(
        &format!("record {number} of the $MFT"),
        at,
        Some(damage),
        "nothing is lost: the copy in $MFTMirr is used",
    )
}

/// Returns what else a record of the file system itself is. Its contents are not needed to list files, and not read.
pub(super) fn of_record(io: &Io<'_>, record: &Record) -> Option<Structure> {
    let (what, cost) = match record.number {
        2 => ("$LogFile, the journal", "changes that were not finished cannot be repaired from it"),
        4 => ("$AttrDef, the types of attributes", "nothing is lost: it is the same on all volumes"),
        9 => ("$Secure, the permissions", "who may read and change the files"),
        10 => ("$UpCase, the capital letters", "nothing is lost: it is the same on all volumes"),
        _ => return None,
    };
    let contents = std::iter::once(&record.data).chain(record.streams.iter().map(|(_, data)| data));
    let mut at: Vec<Range<u64>> = contents
        .filter_map(|data| match &data.place {
            Place::Runs(runs) | Place::Units(_, runs) => Some(runs),
            Place::Inline(_) => None,
        })
        .flatten()
        .filter_map(|run| run.volume.map(|from| from..from.saturating_add(run.len)))
        .collect();
    if record.number == 9 {
        at.extend(record.metadata.iter().skip(1).cloned());
    }
    let missing = |range: &Range<u64>| io.volume().missing(range.clone()).into_iter().find(|m| !m.untried);
    let bad = at.iter().find_map(missing);
    let damage = bad.map(|bad| {
        // The size of the disk's sectors is not known here.
        let sector = io.volume().on_disk(bad.range.start) / 512;
        Damage::Unreadable(cdi_base::error::ReadError::Bad { sector, good: 0, untried: false })
    });
    Some(structure(what, at, damage, cost))
}

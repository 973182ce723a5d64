//! An attribute as a whole: its parts in several records joined.

use crate::file_system::{Damage, Data, Place};

use super::boot::Boot;
use super::record::{Attribute, Body, COMPRESSED, ENCRYPTED};
use super::runs::{Extents, decode};

/// An attribute as a whole.
#[derive(Debug)]
pub(super) struct Stream<'r> {
    /// Its name, in UTF-16.
    pub(super) name: &'r [u8],
    /// Its flags.
    pub(super) flags: u16,
    /// What it has.
    pub(super) value: Value<'r>,
    /// Why it is not complete.
    pub(super) damage: Option<Damage>,
}

/// What an attribute has.
#[derive(Debug)]
pub(super) enum Value<'r> {
    /// The value itself.
    Resident(&'r [u8]),
    /// Clusters.
    Mapped(Mapped),
}

/// The clusters of a value, and sizes in bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Mapped {
    /// The clusters.
    pub(super) extents: Extents,
    /// The size of the value; None if it is lost.
    pub(super) size: Option<u64>,
    /// How much of it was written.
    pub(super) written: u64,
    /// The size of a compression unit; 0 if there is none.
    pub(super) unit: u64,
}

/// Joins the parts of an attribute, which are in the order of their first clusters.
pub(super) fn join<'r>(parts: &[Attribute<'r>], boot: &Boot) -> Option<Stream<'r>> {
    let first = parts.first()?;
    let stream = |value, damage| Some(Stream { name: first.name, flags: first.flags, value, damage });
    if let Body::Resident(value) = first.body {
        return stream(Value::Resident(value), None);
    }
    let mut mapped =
        Mapped { extents: Extents { list: Vec::new(), cluster: boot.cluster }, ..Mapped::default() };
    let mut damage = None;
    let mut worse = |text: String| damage = damage.take().or(Some(Damage::Invalid(text)));
    let mut next = 0;
    let mut allocated = 0;
    for part in parts {
        let Body::Mapped(body) = part.body else { continue };
        if body.first == 0 && mapped.size.is_none() {
            mapped.size = Some(body.size);
            mapped.written = body.written;
            mapped.unit = if body.unit & 0xFF == 0 { 0 } else { boot.cluster << (body.unit & 0xFF).min(16) };
            allocated = body.allocated;
        }
        if body.first < next {
            worse("two lists of runs overlap".into());
            continue;
        }
        if body.first > next {
            worse(format!("where its clusters {next} to {} are is not known", body.first - 1));
        }
        match decode(body.pairs, body.first, boot.clusters(), &mut mapped.extents.list) {
            Ok(end) if end == body.last.wrapping_add(1) || end == body.first => next = end,
            Ok(end) => {
                worse("a list of runs has a wrong length".into());
                next = end;
            }
            Err(text) => {
                worse(text);
                next = mapped.extents.list.last().map_or(body.first, |last| last.end().max(body.first));
            }
        }
    }
    let known = mapped.extents.end();
    match mapped.size {
        None => worse("its size is not known".into()),
        Some(size) if known < size => worse(format!("where its bytes after {known} are is not known")),
        Some(_) if known < allocated => worse("a list of runs ends early".into()),
        Some(_) => {}
    }
    stream(Value::Mapped(mapped), damage)
}

/// Returns what a value is to readers. `size` is used if the stream itself has lost its own.
pub(super) fn data(stream: &Stream<'_>, size: Option<u64>) -> Data {
    let packed = (stream.flags & ENCRYPTED != 0).then_some("encrypted");
    let compressed = stream.flags & COMPRESSED != 0 && packed.is_none();
    match &stream.value {
        Value::Resident(value) => Data {
            size: value.len() as u64,
            place: Place::Inline(value.to_vec()),
            // Values in the record are never compressed, whatever the flag says.
            packed,
        },
        Value::Mapped(mapped) => {
            let size = mapped.size.or(size).unwrap_or(mapped.extents.end());
            let whole = |bytes: u64| match mapped.unit {
                unit if unit > 0 && (compressed || packed.is_some()) => {
                    bytes.checked_next_multiple_of(unit).unwrap_or(u64::MAX)
                }
                _ => bytes,
            };
            // Without this, the end of the last cluster would be a run of its own.
            let all = mapped.size.is_none_or(|size| size <= mapped.written);
            let written = if all { u64::MAX } else { whole(mapped.written) };
            let runs = mapped.extents.runs(whole(size), written);
            let place = if compressed && mapped.unit > 0 {
                Place::Units(mapped.unit, runs)
            } else {
                Place::Runs(runs)
            };
            // Without the size of its units it cannot be decompressed.
            let packed = packed.or((compressed && mapped.unit == 0).then_some("compressed"));
            Data { size, place, packed }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::boot::tests::sector;
    use super::super::record;
    use super::*;

    fn part(first: u64, last: u64, size: u64, pairs: &'static [u8]) -> Attribute<'static> {
        let body = record::Mapped {
            first,
            last,
            allocated: size.next_multiple_of(4096),
            size,
            written: size,
            unit: 0,
            pairs,
        };
        Attribute { kind: record::kind::DATA, name: &[], flags: 0, body: Body::Mapped(body) }
    }

    fn joined(parts: &[Attribute<'static>]) -> (Vec<(u64, u64)>, u64, bool) {
        let boot = Boot::parse(&sector()).unwrap();
        let stream = join(parts, &boot).unwrap();
        let data = data(&stream, Some(9));
        let Place::Runs(runs) = data.place else { panic!() };
        let runs = runs.iter().map(|run| (run.file / 4096, run.len / 4096)).collect();
        (runs, data.size, stream.damage.is_some())
    }

    #[test]
    fn parts_are_joined_and_gaps_are_lost() {
        let parts = [
            part(0, 1, 20_000, &[0x11, 2, 10, 0]),
            part(2, 3, 0, &[0x11, 2, 50, 0]),
            part(4, 4, 0, &[0x11, 1, 70, 0]),
        ];
        assert_eq!(joined(&parts), (vec![(0, 2), (2, 2), (4, 1)], 20_000, false));
        assert_eq!(joined(&[parts[0], parts[2]]), (vec![(0, 2), (4, 1)], 20_000, true));
        assert_eq!(joined(&parts[..2]), (vec![(0, 2), (2, 2)], 20_000, true));
        assert_eq!(
            joined(&[parts[0], parts[0], parts[1], parts[2]]),
            (vec![(0, 2), (2, 2), (4, 1)], 20_000, true)
        );
        // Without the first part, the size is what the name says.
        assert_eq!(joined(&parts[1..]), (vec![], 9, true));
    }

    #[test]
    fn flags_say_how_contents_are_packed() {
        let boot = Boot::parse(&sector()).unwrap();
        let packed = |flags| {
            let part = Attribute { flags, ..part(0, 1, 8192, &[0x11, 2, 10, 0]) };
            let data = data(&join(&[part], &boot).unwrap(), None);
            (data.packed, matches!(data.place, Place::Units(..)))
        };
        assert_eq!(
            [0, 0x8000, 1, 0x4000].map(packed),
            [(None, false), (None, false), (Some("compressed"), false), (Some("encrypted"), false)]
        );
    }
}

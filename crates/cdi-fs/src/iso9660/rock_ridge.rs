//! Rock Ridge: names, kinds and links of POSIX in directory records.
//!
//! Sources: "System Use Sharing Protocol" 1.12 (IEEE P1281), "Rock Ridge Interchange Protocol" 1.12 (IEEE P1282);
//! `fs/isofs/rock.c` of Linux.

use super::entry::{Entry, seconds, time};
use super::record::Context;
use crate::bytes::le32;
use crate::file_system::{Damage, Kind, Times};

/// The most continuation areas that a record has.
const MAX_AREAS: usize = 64;
/// The longest continuation area in bytes. They do not extend past the end of a block.
const MAX_AREA: usize = 2048;
/// The longest name or target.
const MAX_TEXT: usize = 64 << 10;

/// What Rock Ridge says of a record.
#[derive(Default)]
pub(super) struct Posix {
    pub(super) name: Option<Vec<u8>>,
    pub(super) kind: Option<Kind>,
    pub(super) times: Times,
    pub(super) target: Option<Vec<u8>>,
    /// The block of the directory that this entry stands for, which was moved.
    pub(super) moved_to: Option<u32>,
    /// Whether this is a directory that was moved here, and is to be found by another entry.
    pub(super) moved: bool,
    pub(super) compressed: bool,
    /// Why it is not complete.
    pub(super) damage: Option<Damage>,
}

/// Returns the number of bytes to skip in records, of the first record of the root directory; None if Rock Ridge is not used.
pub(super) fn skip(entry: &Entry<'_>) -> Option<usize> {
    // Extended architecture (XA) has 14 bytes before it.
    [0, 14].into_iter().find_map(|at| match entry.system_use.get(at..at + 7)? {
        [b'S', b'P', _, 1, 0xBE, 0xEF, skip] => Some(usize::from(*skip)),
        _ => None,
    })
}

/// Parses what a record has after its name, from byte `skip` on.
pub(super) fn parse(context: &Context<'_>, entry: &Entry<'_>, skip: usize) -> Posix {
    let mut posix = Posix::default();
    let mut state = State::default();
    let mut area = entry.system_use.get(skip..).unwrap_or_default().to_vec();
    for _ in 0..MAX_AREAS {
        let Some(next) = take(&mut posix, &mut state, &area) else { break };
        let len = next.len.min(MAX_AREA);
        if context.spend(len as u64).is_none() {
            posix.damage = Some(Damage::Invalid("there are too many continuation areas".into()));
            break;
        }
        match context.volume.read(next.block * context.block + next.offset, len) {
            Ok(bytes) => area = bytes,
            Err(error) => {
                posix.damage = Some(error.into());
                break;
            }
        }
    }
    if state.name_goes_on
        && let Some(name) = &mut posix.name
    {
        name.extend("\u{FFFD}".bytes());
    }
    posix
}

#[derive(Default)]
struct State {
    name_goes_on: bool,
    /// The component of the target that is being read has more parts.
    component_goes_on: bool,
}

/// A continuation area.
struct Area {
    block: u64,
    offset: u64,
    len: usize,
}

/// Takes the fields of an area. Returns the next area.
fn take(posix: &mut Posix, state: &mut State, mut area: &[u8]) -> Option<Area> {
    let mut next = None;
    while let Some([a, b, len, _version]) = area.first_chunk() {
        let len = usize::from(*len);
        let Some(field) = area.get(..len).filter(|_| len >= 4) else { break };
        match &[*a, *b] {
            b"NM" => name(posix, state, field),
            b"PX" => posix.kind = le32(field, 4).and_then(kind),
            b"TF" => times(posix, field),
            b"SL" => target(posix, state, field),
            b"CL" => posix.moved_to = le32(field, 4),
            b"RE" => posix.moved = true,
            b"ZF" => posix.compressed = true,
            b"CE" => {
                let number = |at| le32(field, at).map(u64::from);
                if let (Some(block), Some(offset), Some(len)) = (number(4), number(12), number(20)) {
                    next = Some(Area { block, offset, len: usize::try_from(len).unwrap_or(usize::MAX) });
                }
            }
            b"ST" => break,
            _ => {}
        }
        area = &area[len..];
    }
    next
}

fn kind(mode: u32) -> Option<Kind> {
    match mode & 0o170_000 {
        0o100_000 => Some(Kind::File),
        0o040_000 => Some(Kind::Directory),
        0o120_000 => Some(Kind::Link),
        0 => None,
        _ => Some(Kind::Other),
    }
}

fn name(posix: &mut Posix, state: &mut State, field: &[u8]) {
    let flags = field.get(4).copied().unwrap_or(0);
    // `.`, `..` and, historically, the name of the host.
    if flags & 0x26 != 0 {
        return;
    }
    let text = posix.name.get_or_insert_default();
    if text.len() < MAX_TEXT {
        text.extend(field.get(5..).unwrap_or_default());
    }
    state.name_goes_on = flags & 1 != 0;
}

fn target(posix: &mut Posix, state: &mut State, field: &[u8]) {
    let text = posix.target.get_or_insert_default();
    let mut parts = field.get(5..).unwrap_or_default();
    while let Some([flags, len]) = parts.first_chunk() {
        let Some(content) = parts.get(2..2 + usize::from(*len)) else { break };
        if text.len() > MAX_TEXT {
            break;
        }
        if !state.component_goes_on && !text.is_empty() && text.last() != Some(&b'/') {
            text.push(b'/');
        }
        match flags & 0x0E {
            0x02 => text.push(b'.'),
            0x04 => text.extend(b".."),
            0x08 => *text = b"/".to_vec(),
            _ => text.extend(content),
        }
        state.component_goes_on = flags & 1 != 0;
        parts = &parts[2 + usize::from(*len)..];
    }
}

fn times(posix: &mut Posix, field: &[u8]) {
    let flags = field.get(4).copied().unwrap_or(0);
    let len = if flags & 0x80 != 0 { 17 } else { 7 };
    let mut fields = field.get(5..).unwrap_or_default().chunks_exact(len);
    let mut next = |bit: u8| {
        if flags & bit == 0 {
            return None;
        }
        let bytes = fields.next()?;
        if len == 7 { time(bytes) } else { long_time(bytes) }
    };
    let times = Times { created: next(1), modified: next(2), accessed: next(4), changed: next(8) };
    let old = posix.times;
    posix.times = Times {
        created: times.created.or(old.created),
        modified: times.modified.or(old.modified),
        accessed: times.accessed.or(old.accessed),
        changed: times.changed.or(old.changed),
    };
}

/// Returns the nanoseconds since 1970 of a time of 17 bytes (ECMA-119, 8.4.26.1).
fn long_time(bytes: &[u8]) -> Option<i64> {
    let number = |from: usize, to: usize| std::str::from_utf8(bytes.get(from..to)?).ok()?.parse::<i64>().ok();
    let fields =
        [number(0, 4)?, number(4, 6)?, number(6, 8)?, number(8, 10)?, number(10, 12)?, number(12, 14)?];
    let valid =
        (1..=9999).contains(&fields[0]) && (1..=12).contains(&fields[1]) && (1..=31).contains(&fields[2]);
    // Years after 2262 do not fit.
    if !valid || fields[0] > 2200 || fields[0] < 1700 || fields[3..].iter().any(|n| !(0..=60).contains(n)) {
        return None;
    }
    Some(nanoseconds(fields, *bytes.get(16)?) + number(14, 16)?.max(0) * 10_000_000)
}

/// Returns the nanoseconds since 1970 of a year, month, day, hour, minute and second, with the difference from UTC in units of 15
/// minutes.
pub(super) fn nanoseconds(fields: [i64; 6], offset: u8) -> i64 {
    (seconds(fields) - i64::from(offset.cast_signed()) * 900) * 1_000_000_000
}

//! The map of a compressed CHD, which says where its hunks are. It is a stream of bits: the types of all hunks, then
//! the values that belong to each type. It is decoded once, keeping the decoder's state at every [`STEP`]th hunk; the
//! other hunks are found by decoding from there.

use cdi_base::workers::lock;
use std::num::NonZero;
use std::sync::{Arc, Mutex};

use cdi_base::error::Error;
use cdi_base::units::index;
use lru::LruCache;

use crate::bytes::{be32, flaw};
use crate::codec::crc16;
use crate::codec::huffman::{Bits, Code};
use crate::extent::FileNo;
use crate::input::Input;

/// Maximum length of a map in bytes: enough for a disk of 1 TiB.
const MAX_LEN: u32 = 256 << 20;
/// How many hunks are decoded from one saved state.
const STEP: u64 = 4096;
/// How many such groups of decoded hunks are cached.
const GROUPS: NonZero<usize> = NonZero::new(64).expect("not 0");

/// Where the data of a hunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hunk {
    /// In the file, compressed by the codec in this slot of the header, or uncompressed (4).
    Data { codec: u8, at: u64, len: u32, sum: u16 },
    /// The same as this earlier hunk.
    Same(u64),
    /// In the parent, from this unit on.
    Parent(u64),
}

/// The decoder's state before the next hunk.
#[derive(Debug, Clone)]
struct State {
    /// The positions, in bits, of the next type and of the next value.
    kinds: u64,
    values: u64,
    /// The last type, and how many more times it is repeated.
    kind: u8,
    times: u64,
    /// The file offset of the next hunk's data, and the last references.
    at: u64,
    same: u64,
    parent: u64,
}

pub(super) struct Map {
    bits: Vec<u8>,
    code: Code,
    /// The widths in bits of lengths, references to other hunks, and references to the parent.
    widths: [u8; 3],
    count: u64,
    hunk: u32,
    /// The number of units per hunk.
    units: u64,
    states: Vec<State>,
    /// Whether any hunk is in a parent.
    pub needs_parent: bool,
    kept: Mutex<LruCache<u64, Arc<[Hunk]>>>,
}

impl Map {
    /// Reads and checks the map at file offset `at`, of `count` hunks of `hunk` bytes.
    pub(super) fn read(
        input: &Input,
        file: FileNo,
        at: u64,
        count: u64,
        hunk: u32,
        unit: u32,
    ) -> Result<Map, Error> {
        let header = input.bytes_of(file, at, 16, "the map header")?;
        let len = be32(&header, 0);
        if len > MAX_LEN {
            return flaw(at, format!("the map of hunks is too long ({len} bytes)"));
        }
        let bits = input.bytes_of(file, at + 16, len as usize, "the map")?;
        let first = u64::from(be32(&header, 4)) << 16 | u64::from(be32(&header, 8) >> 16);
        let sum = u16::from_be_bytes([header[10], header[11]]);
        let widths = [header[12], header[13], header[14]];
        if widths.iter().any(|w| *w > 48) {
            return flaw(at + 12, "invalid bit width in the map of hunks");
        }
        let damaged = "the map of hunks is damaged";
        let mut read = Bits::new(&bits, 0);
        let Some(code) = Code::of_kinds(&mut read) else { return flaw(at + 16, damaged) };
        let start = State { kinds: read.at(), values: 0, kind: 0, times: 0, at: first, same: 0, parent: 0 };
        let kept = Mutex::new(LruCache::new(GROUPS));
        let units = u64::from(hunk / unit);
        let mut map =
            Map { bits, code, widths, count, hunk, units, states: Vec::new(), needs_parent: false, kept };
        match map.walk(start) {
            Some(got) if got == sum => Ok(map),
            Some(_) => flaw(at + 10, "checksum mismatch of the map of hunks"),
            None => flaw(at + 16, damaged),
        }
    }

    /// Decodes the whole map: first the types, to find where they end, then both. Returns the checksum of the entries.
    fn walk(&mut self, mut state: State) -> Option<u16> {
        let mut kinds = state.clone();
        let mut left = self.count;
        while left > 0 {
            self.kind(&mut kinds)?;
            left -= 1;
            // Skip a run at once.
            let run = kinds.times.min(left);
            (kinds.times, left) = (kinds.times - run, left - run);
        }
        state.values = kinds.kinds;
        let mut sum = crc16();
        for number in 0..self.count {
            if number % STEP == 0 {
                self.states.push(state.clone());
            }
            let hunk = self.next(&mut state, number)?;
            let (kind, len, at, of) = match hunk {
                Hunk::Data { codec, at, len, sum } => (codec, len, at, sum),
                Hunk::Same(number) => (5, 0, number, 0),
                Hunk::Parent(unit) => {
                    self.needs_parent = true;
                    (6, 0, unit, 0)
                }
            };
            let mut entry = [0; 12];
            entry[0] = kind;
            entry[1..4].copy_from_slice(&len.to_be_bytes()[1..]);
            entry[4..10].copy_from_slice(&at.to_be_bytes()[2..]);
            entry[10..].copy_from_slice(&of.to_be_bytes());
            sum.update(&entry);
        }
        Some(sum.finalize())
    }

    /// Reads the type of the next hunk.
    fn kind(&self, state: &mut State) -> Option<u8> {
        if state.times > 0 {
            state.times -= 1;
            return Some(state.kind);
        }
        let mut bits = Bits::new(&self.bits, state.kinds);
        match self.code.symbol(&mut bits)? {
            // Repeat the last type: now, and `times` more.
            7 => state.times = 2 + u64::from(self.code.symbol(&mut bits)?),
            8 => {
                let high = u64::from(self.code.symbol(&mut bits)?);
                state.times = 18 + 16 * high + u64::from(self.code.symbol(&mut bits)?);
            }
            kind => state.kind = u8::try_from(kind).ok()?,
        }
        state.kinds = bits.at();
        Some(state.kind)
    }

    /// Decodes the next hunk, whose number is `number`.
    fn next(&self, state: &mut State, number: u64) -> Option<Hunk> {
        let kind = self.kind(state)?;
        let mut bits = Bits::new(&self.bits, state.values);
        let [length, same, parent] = self.widths;
        let hunk = match kind {
            0..=4 => {
                let len = if kind == 4 { self.hunk } else { u32::try_from(bits.take(length)?).ok()? };
                let (at, sum) = (state.at, u16::try_from(bits.take(16)?).ok()?);
                state.at = at.checked_add(len.into())?;
                Hunk::Data { codec: kind, at, len, sum }
            }
            5 | 9 | 10 => {
                state.same = match kind {
                    5 => bits.take(same)?,
                    9 => state.same,
                    _ => state.same + 1,
                };
                // Only earlier hunks are allowed, so there are no cycles.
                Hunk::Same(Some(state.same).filter(|same| *same < number)?)
            }
            6 | 11 | 12 | 13 => {
                state.parent = match kind {
                    6 => bits.take(parent)?,
                    11 => number.checked_mul(self.units)?,
                    12 => state.parent,
                    _ => state.parent.checked_add(self.units)?,
                };
                Hunk::Parent(state.parent)
            }
            _ => return None,
        };
        state.values = bits.at();
        Some(hunk)
    }

    /// Returns the hunk of this number, which must be less than the number of hunks.
    pub(super) fn hunk(&self, number: u64) -> Option<Hunk> {
        let lock = || lock(&self.kept);
        let (group, n) = (number / STEP, index(number % STEP));
        if let Some(hunks) = lock().get(&group) {
            return hunks.get(n).copied();
        }
        let mut state = self.states.get(index(group))?.clone();
        let numbers = group * STEP..((group + 1) * STEP).min(self.count);
        let hunks: Arc<[Hunk]> =
            numbers.map(|number| self.next(&mut state, number)).collect::<Option<_>>()?;
        lock().put(group, Arc::clone(&hunks));
        hunks.get(n).copied()
    }
}

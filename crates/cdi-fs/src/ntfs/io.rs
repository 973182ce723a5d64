//! Reads of one scan, and how much they may read together.

use std::cell::Cell;
use std::ops::Range;

use crate::file_system::Damage;
use crate::volume::{Part, Volume};

use super::runs::Extents;

/// Reads metadata. A hostile volume whose directories all share their blocks is not read for ever: metadata that together
/// is larger than twice the volume is damage.
pub(super) struct Io<'a> {
    volume: Volume<'a>,
    left: Cell<u64>,
}

impl<'a> Io<'a> {
    /// Reads from `volume`.
    pub(super) fn new(volume: &Volume<'a>) -> Io<'a> {
        Io { volume: *volume, left: Cell::new(volume.size().saturating_mul(2).saturating_add(64 << 20)) }
    }

    /// Returns the volume.
    pub(super) fn volume(&self) -> &Volume<'a> {
        &self.volume
    }

    /// Takes `len` bytes from what may be read.
    fn take(&self, len: u64) -> Result<(), Damage> {
        match self.left.get().checked_sub(len) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => Err(Damage::Invalid("the volume has more metadata than room".into())),
        }
    }

    /// Reads `len` bytes.
    pub(super) fn read(&self, at: u64, len: usize) -> Result<Vec<u8>, Damage> {
        self.take(len as u64)?;
        Ok(self.volume.read(at, len)?)
    }

    /// Reads what can be read of `range`; see [`Volume::read_part`].
    pub(super) fn part(&self, range: Range<u64>) -> Result<Part, Damage> {
        let size = self.volume.size();
        self.take(range.end.min(size).saturating_sub(range.start))?;
        Ok(self.volume.read_part(range))
    }

    /// Reads the first `len` bytes of `extents`: all of it is asked for, but what follows the first that cannot be read is
    /// left away. `len` is of what the caller has room for.
    pub(super) fn value(&self, extents: &Extents, len: u64) -> (Vec<u8>, Option<Damage>) {
        let mut value = Vec::new();
        let mut damage: Option<Damage> = None;
        let mut at = 0;
        while at < len {
            let Some((from, follow)) = extents.find(at) else {
                return (value, damage.or(Some(unknown())));
            };
            let size = follow.min(len - at).min(1 << 20);
            match self.part(from..from + size) {
                Err(error) => return (value, damage.or(Some(error))),
                Ok(part) => {
                    let good = match part.lost().first() {
                        Some((lost, error)) => {
                            damage = damage.or(Some((*error).into()));
                            lost.start - from
                        }
                        None => size,
                    };
                    if value.len() as u64 == at
                        && let Ok(bytes) = part.get(from, cdi_base::units::index(good.min(part_len(&part))))
                    {
                        value.extend_from_slice(bytes);
                    }
                    if part_len(&part) < size {
                        return (value, damage.or(Some(unknown())));
                    }
                }
            }
            at += size;
        }
        (value, damage)
    }
}

/// The length of a part, in bytes: shorter than what was asked for at the end of the volume.
fn part_len(part: &Part) -> u64 {
    part.range().end - part.range().start
}

/// The damage of what has no known place, or one past the end.
pub(super) fn unknown() -> Damage {
    Damage::Invalid("it is not known where it is".into())
}

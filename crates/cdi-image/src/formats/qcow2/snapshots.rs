//! The internal snapshots of a qcow2 image: a list of their names, and the disk as it was in each.
//!
//! An entry of the list has 40 bytes, then extra data (which includes the size of the disk), the identifier and the name.

use std::fmt;

use cdi_base::error::Error;
use cdi_base::units::index;

use crate::bytes::{be32, be64, flaw};
use crate::formats::named;
use crate::input::Input;
use crate::metadata::rfc3339;

/// The number of snapshots that QEMU allows, and the maximum length of their list in bytes (QEMU: 64 MiB).
const MAX_SNAPSHOTS: u32 = 65_536;
const MAX_LIST: u64 = 16 << 20;

/// The disk at one time: its size, and the file offset and number of entries of its first-level table.
#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    pub size: u64,
    pub l1: u64,
    pub l1_len: u64,
}

/// An internal snapshot.
#[derive(Debug)]
pub(in crate::formats) struct Snapshot {
    /// The file offset of its entry in the list.
    pub(super) at: u64,
    pub(super) id: String,
    pub(super) name: String,
    /// When it was made, in seconds since 1970.
    seconds: u32,
    pub(super) state: State,
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(self.seconds.into());
        write!(f, "'{}' (identifier {}, made {})", self.name, self.id, rfc3339(time))
    }
}

/// Returns the internal snapshots that can be read, and the error if these are not all.
pub(super) fn list(input: &Input) -> (Vec<Snapshot>, Option<Error>) {
    let mut found = Vec::new();
    let error = read_list(input, &mut found).err();
    (found, error)
}

fn read_list(input: &Input, found: &mut Vec<Snapshot>) -> Result<(), Error> {
    let header = input.bytes(0, 72, "the header")?;
    let (count, start, size) = (be32(&header, 60), be64(&header, 64), be64(&header, 24));
    if count > MAX_SNAPSHOTS {
        return flaw(60, format!("more snapshots than QEMU allows: {count}"));
    }
    let mut at = start;
    for _ in 0..count {
        let entry = input.bytes(at, 40, "a snapshot")?;
        let len = |at: usize| u16::from_be_bytes([entry[at], entry[at + 1]]).into();
        let (id_len, name_len, extra_len): (u64, u64, u64) = (len(12), len(14), be32(&entry, 36).into());
        // No overflow: the entry is within the file, and the lengths have at most 32 bits.
        let id_at = at + 40 + extra_len;
        let end = (id_at + id_len + name_len).next_multiple_of(8);
        if end - start > MAX_LIST {
            return flaw(at, format!("the list of snapshots is longer than {MAX_LIST} bytes"));
        }
        let text = |at: u64, len: u64| {
            let bytes = input.bytes(at, index(len), "the name of a snapshot")?;
            Ok::<_, Error>(String::from_utf8_lossy(&bytes).into_owned())
        };
        let extra = input.bytes(at + 40, index(extra_len.min(16)), "a snapshot")?;
        found.push(Snapshot {
            at,
            id: text(id_at, id_len)?,
            name: text(id_at + id_len, name_len)?,
            seconds: be32(&entry, 16),
            state: State {
                // Older programs do not record the size: they could not change it.
                size: if extra.len() < 16 { size } else { be64(&extra, 8) },
                l1: be64(&entry, 0),
                l1_len: be32(&entry, 8).into(),
            },
        });
        at = end;
    }
    Ok(())
}

/// Returns the snapshot that the user means by `wanted`, its identifier or name. If there is none, `unread` is the
/// reason, if there is one.
pub(super) fn choose<'a>(
    listed: &'a [Snapshot],
    unread: Option<Error>,
    wanted: &str,
) -> Result<&'a Snapshot, Error> {
    let found: Vec<_> = listed.iter().filter(|s| s.name == wanted || s.id == wanted).collect();
    match (found.as_slice(), unread) {
        ([one], _) => Ok(*one),
        ([], Some(error)) => Err(error),
        ([], None) => Err(named::unknown("snapshot", wanted, listed.iter().map(|s| s.name.as_str()))),
        // Two with one name, or one with the other's identifier as its name.
        (several, _) => Err(named::ambiguous("snapshot", wanted, several)),
    }
}

//! How the folder is listed: by cookies that begin anywhere.

use cdi_serve::tree::{EntryKind, Id, ROOT};

use crate::errno::Refused;
use crate::volume::{Attributes, Volume};

/// The cookie of a listing that begins.
pub const FIRST: u64 = 0;

/// The verifier of every listing. A cookie is how many entries come before it, "." and ".." among them whether they
/// are told or not; only the last entry, `device`, comes and goes, so no change of the folder makes a cookie invalid.
/// FSKit wants it to be other than 0.
pub const VERIFIER: u64 = 1;

const DOTS: [(Id, &str); 2] = [(ROOT, "."), (ROOT, "..")];

/// What one entry of a listing says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: EntryKind,
    /// Its number.
    pub id: Id,
    /// The cookie that goes on behind it.
    pub next: u64,
    /// What else is known of it, if that was asked for.
    pub attributes: Option<Attributes>,
}

/// Why a folder is not listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotListed {
    /// The cookie is none of ours.
    Cookie,
    /// It is no folder, or is not there.
    Refused(Refused),
}

/// Lists the folder `id` from `from` on: `compress` takes the entries one after another, until it has no more room and
/// says `false`. "." and ".." are for callers that want no attributes; to others the kernel tells them itself.
pub fn list(
    volume: &Volume,
    id: Id,
    from: u64,
    with_attributes: bool,
    mut compress: impl FnMut(&Entry) -> bool,
) -> Result<u64, NotListed> {
    volume.folder(id).map_err(|e| NotListed::Refused(e.into()))?;
    let all: Vec<_> = DOTS.into_iter().chain(volume.tree().list()).zip(1..).collect();
    if from > all.len() as u64 {
        return Err(NotListed::Cookie);
    }
    let hidden = if with_attributes { DOTS.len() as u64 } else { 0 };
    for ((id, name), next) in all.into_iter().filter(|(_, next)| *next > from.max(hidden)) {
        // An entry may go while it is listed.
        let Ok(attributes) = volume.attributes(id) else { continue };
        let entry = Entry {
            name,
            kind: attributes.kind,
            id,
            next,
            attributes: with_attributes.then_some(attributes),
        };
        if !compress(&entry) {
            break;
        }
    }
    Ok(VERIFIER)
}

#[cfg(test)]
mod tests {
    use cdi_serve::tree::DISK;

    use super::*;
    use crate::errno::Errno;
    use crate::volume::testing::{fixture, volume};

    const FILES: [&str; 6] =
        ["disk.raw", "disk.dmg", ".metadata_never_index", "badblocks.json", "badblocks.map", "info.json"];

    /// Lists all, with room for `room` entries a call. What the names are, and how often it was asked.
    fn names(volume: &Volume, with_attributes: bool, room: usize) -> (Vec<&'static str>, usize) {
        let (mut names, mut from, mut calls) = (Vec::new(), FIRST, 0);
        loop {
            let before = names.len();
            let verifier = list(volume, ROOT, from, with_attributes, |entry| {
                if names.len() == before + room {
                    return false;
                }
                names.push(entry.name);
                from = entry.next;
                true
            });
            assert_eq!(verifier, Ok(VERIFIER));
            calls += 1;
            if names.len() == before {
                return (names, calls);
            }
        }
    }

    #[test]
    fn everything_is_listed_once_however_little_room_there_is() {
        let volume = volume(&fixture("zstd.cdimg"));
        let dots: Vec<_> = [".", ".."].into_iter().chain(FILES).collect();
        for room in 1..10 {
            assert_eq!(names(&volume, true, room).0, FILES, "room for {room}");
            assert_eq!(names(&volume, false, room).0, dots, "room for {room}");
        }
        assert_eq!(names(&volume, false, 1).1, 9);
    }

    #[test]
    fn attributes_come_with_an_entry_if_and_only_if_they_are_asked_for() {
        let volume = volume(&fixture("zstd.cdimg"));
        for asked in [true, false] {
            list(&volume, ROOT, FIRST, asked, |entry| {
                let wanted = asked.then(|| volume.attributes(entry.id).unwrap());
                assert_eq!(entry.attributes, wanted);
                assert_eq!(entry.kind, volume.attributes(entry.id).unwrap().kind);
                true
            })
            .unwrap();
        }
    }

    #[test]
    fn a_cookie_of_the_other_kind_of_listing_goes_on_where_it_points() {
        let volume = volume(&fixture("zstd.cdimg"));
        let mut seen = Vec::new();
        list(&volume, ROOT, 2, true, |entry| {
            seen.push(entry.name);
            true
        })
        .unwrap();
        assert_eq!(seen, FILES);
    }

    #[test]
    fn a_cookie_outlives_an_entry_that_comes() {
        let volume = volume(&fixture("zstd.cdimg"));
        let mut end = FIRST;
        list(&volume, ROOT, FIRST, true, |entry| {
            end = entry.next;
            true
        })
        .unwrap();
        volume.tree().set_device(Some(std::path::Path::new("/dev/disk9")));
        let mut seen = Vec::new();
        list(&volume, ROOT, end, true, |entry| {
            seen.push((entry.name, entry.kind));
            true
        })
        .unwrap();
        assert_eq!(seen, [("device", EntryKind::Link(10))]);
    }

    #[test]
    fn nonsense_is_refused() {
        let volume = volume(&fixture("zstd.cdimg"));
        for from in [9, 1000, u64::MAX] {
            assert_eq!(list(&volume, ROOT, from, true, |_| true), Err(NotListed::Cookie));
        }
        let not_a_folder = NotListed::Refused(Errno::ENOTDIR.into());
        assert_eq!(list(&volume, DISK, FIRST, true, |_| true), Err(not_a_folder));
        let not_there = NotListed::Refused(Errno::ENOENT.into());
        assert_eq!(list(&volume, Id(77), FIRST, true, |_| true), Err(not_there));
    }
}

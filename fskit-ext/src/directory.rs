//! Lists the directory, starting at any cookie.

use cdi_serve::tree::{EntryKind, Id, ROOT};

use crate::errno::Refused;
use crate::volume::{Attributes, Volume};

/// The cookie for the start of a listing.
pub const FIRST: u64 = 0;

/// The verifier of every listing. A cookie is the number of entries before it, including "." and ".." whether they are
/// listed or not; only the last entry, `device`, appears and disappears, so no change of the directory invalidates a
/// cookie. FSKit requires the verifier to be nonzero.
pub const VERIFIER: u64 = 1;

const DOTS: [(Id, &str); 2] = [(ROOT, "."), (ROOT, "..")];

/// An entry of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Its kind.
    pub kind: EntryKind,
    /// Its number.
    pub id: Id,
    /// The cookie that continues after it.
    pub next: u64,
    /// Its attributes, if they were requested.
    pub attributes: Option<Attributes>,
}

/// The reason why a directory is not listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotListed {
    /// The cookie is invalid.
    Cookie,
    /// It is not a directory, or does not exist.
    Refused(Refused),
}

/// Lists the directory `id`, starting at cookie `from`: passes the entries to `add` one after another, until it has no
/// more room and returns `false`. "." and ".." are only listed without attributes; otherwise the kernel adds them
/// itself.
pub fn list(
    volume: &Volume,
    id: Id,
    from: u64,
    with_attributes: bool,
    mut add: impl FnMut(&Entry) -> bool,
) -> Result<u64, NotListed> {
    volume.check_directory(id).map_err(|e| NotListed::Refused(e.into()))?;
    let all: Vec<_> = DOTS.into_iter().chain(volume.tree().list()).zip(1..).collect();
    if from > all.len() as u64 {
        return Err(NotListed::Cookie);
    }
    let hidden = if with_attributes { DOTS.len() as u64 } else { 0 };
    for ((id, name), next) in all.into_iter().filter(|(_, next)| *next > from.max(hidden)) {
        // An entry may disappear during the listing.
        let Ok(attributes) = volume.attributes(id) else { continue };
        let entry = Entry {
            name,
            kind: attributes.kind,
            id,
            next,
            attributes: with_attributes.then_some(attributes),
        };
        if !add(&entry) {
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

    /// Lists everything, with room for `room` entries per call. Returns the names and the number of calls.
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
    fn every_entry_is_listed_once_however_little_room_there_is() {
        let volume = volume(&fixture("zstd.cdimg"));
        let dots: Vec<_> = [".", ".."].into_iter().chain(FILES).collect();
        for room in 1..10 {
            assert_eq!(names(&volume, true, room).0, FILES, "room for {room}");
            assert_eq!(names(&volume, false, room).0, dots, "room for {room}");
        }
        assert_eq!(names(&volume, false, 1).1, 9);
    }

    #[test]
    fn entries_have_attributes_if_and_only_if_requested() {
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
    fn a_cookie_of_the_other_kind_of_listing_continues_where_it_points() {
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
    fn a_cookie_stays_valid_when_an_entry_appears() {
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
    fn invalid_cookies_and_items_are_refused() {
        let volume = volume(&fixture("zstd.cdimg"));
        for from in [9, 1000, u64::MAX] {
            assert_eq!(list(&volume, ROOT, from, true, |_| true), Err(NotListed::Cookie));
        }
        let not_a_directory = NotListed::Refused(Errno::ENOTDIR.into());
        assert_eq!(list(&volume, DISK, FIRST, true, |_| true), Err(not_a_directory));
        let missing = NotListed::Refused(Errno::ENOENT.into());
        assert_eq!(list(&volume, Id(77), FIRST, true, |_| true), Err(missing));
    }
}

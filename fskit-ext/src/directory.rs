//! Lists the directory, starting at any cookie.

use cdi_serve::tree::{EntryKind, Id, Listed};

use crate::errno::{Errno, Refused};
use crate::volume::{Attributes, Volume};

/// The cookie for the start of a listing.
pub const FIRST: u64 = 0;

/// The verifier of every listing. A cookie is the number of entries before it, including "." and ".." whether they are
/// listed or not; only the last entry, `device`, appears and disappears, so no change of the directory invalidates a
/// cookie. FSKit requires the verifier to be nonzero.
pub const VERIFIER: u64 = 1;

/// The number of "." and "..".
const DOTS: u64 = 2;

/// An entry of a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its name.
    pub name: &'a str,
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
    mut add: impl FnMut(&Entry<'_>) -> bool,
) -> Result<u64, NotListed> {
    let refused = |e: Errno| NotListed::Refused(e.into());
    volume.wait(id, false).map_err(refused)?;
    // "." and ".." are listed by number, even if they are hidden.
    let hidden = if with_attributes { DOTS } else { 0 };
    if from > volume.tree().end(id).map_err(|e| refused(volume.errno(e)))? {
        return Err(NotListed::Cookie);
    }
    let listed = volume.tree().entries(id, from.max(hidden), &mut |listed| {
        let attributes = if with_attributes {
            // It may disappear during the listing.
            let Ok(attributes) = volume.attributes(listed.id) else { return true };
            Some(attributes)
        } else {
            None
        };
        let Listed { id, name, kind, next } = *listed;
        add(&Entry { name, kind, id, next, attributes })
    });
    listed.map_err(|e| refused(volume.errno(e)))?;
    Ok(VERIFIER)
}

#[cfg(test)]
mod tests {
    use cdi_serve::tree::{DISK, ROOT};

    use super::*;
    use crate::volume::testing::{fixture, volume};

    const FILES: [&str; 7] = [
        "disk.raw",
        "disk.dmg",
        ".metadata_never_index",
        "badblocks.json",
        "badblocks.map",
        "info.json",
        "files",
    ];

    /// Lists everything, with room for `room` entries per call. Returns the names and the number of calls.
    fn names(volume: &Volume, with_attributes: bool, room: usize) -> (Vec<String>, usize) {
        let (mut names, mut from, mut calls) = (Vec::new(), FIRST, 0);
        loop {
            let before = names.len();
            let verifier = list(volume, ROOT, from, with_attributes, |entry| {
                if names.len() == before + room {
                    return false;
                }
                names.push(entry.name.to_owned());
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
        assert_eq!(names(&volume, false, 1).1, 10);
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
            seen.push(entry.name.to_owned());
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
            seen.push((entry.name.to_owned(), entry.kind));
            true
        })
        .unwrap();
        assert_eq!(seen, [("device".to_owned(), EntryKind::Link(10))]);
    }

    #[test]
    fn invalid_cookies_and_items_are_refused() {
        let volume = volume(&fixture("zstd.cdimg"));
        for from in [10, 1000, u64::MAX] {
            assert_eq!(list(&volume, ROOT, from, true, |_| true), Err(NotListed::Cookie));
        }
        let not_a_directory = NotListed::Refused(Errno::ENOTDIR.into());
        assert_eq!(list(&volume, DISK, FIRST, true, |_| true), Err(not_a_directory));
        let missing = NotListed::Refused(Errno::ENOENT.into());
        assert_eq!(list(&volume, Id(77), FIRST, true, |_| true), Err(missing));
    }
}

//! What is in `lost+found`: entries without a name, directories of which only the number is left, and directories that are in
//! themselves.

use cdi_fs::catalogue::{Catalogue, Entry};
use cdi_fs::file_system::Kind;

/// The name of the directory for files whose directory is not known by number.
pub(super) const UNKNOWN: &str = "unknown";

/// Something in `lost+found`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Orphan {
    /// The number; `u64::MAX` if it is not known.
    pub number: u64,
    /// The index of the entry; None if it is a directory of which nothing else is left.
    pub entry: Option<u32>,
}

impl Orphan {
    /// Returns its name, as paths of a catalogue have it.
    pub(super) fn name(&self) -> String {
        if self.number == u64::MAX { UNKNOWN.into() } else { self.number.to_string() }
    }
}

/// Returns the index of an entry in the catalogue.
pub(super) fn index_of(catalogue: &Catalogue, number: u64) -> Option<u32> {
    let index = catalogue.entries().binary_search_by_key(&number, |e| e.number).ok()?;
    u32::try_from(index).ok()
}

/// Returns whether an entry is shown: not if it belongs to the file system itself, or is a device or a socket.
pub(super) fn is_shown(entry: &Entry) -> bool {
    !entry.internal && entry.kind != Some(Kind::Other)
}

/// Where a directory is.
enum Above {
    /// In the root, in `lost+found`, or nowhere.
    End,
    /// In the directory with this index.
    Directory(usize),
}

fn above(catalogue: &Catalogue, entry: &Entry) -> Above {
    match catalogue.names(entry.number).next() {
        Some((parent, _)) if parent != catalogue.root() => match index_of(catalogue, parent) {
            Some(index) if is_directory(&catalogue.entries()[index as usize]) => {
                Above::Directory(index as usize)
            }
            _ => Above::End,
        },
        _ => Above::End,
    }
}

fn is_directory(entry: &Entry) -> bool {
    is_shown(entry) && entry.kind == Some(Kind::Directory)
}

/// Returns, sorted, the index of one directory of each circle of directories: none of them can be reached from the root.
pub(super) fn circles(catalogue: &Catalogue) -> Vec<u32> {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        No,
        OnTheWay,
        Yes,
    }
    let entries = catalogue.entries();
    let mut seen = vec![Seen::No; entries.len()];
    let mut cut = Vec::new();
    let mut way = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        if !is_directory(entry) || entry.number == catalogue.root() {
            continue;
        }
        let mut here = index;
        while seen[here] == Seen::No {
            seen[here] = Seen::OnTheWay;
            way.push(here);
            match above(catalogue, &entries[here]) {
                Above::Directory(next) => here = next,
                Above::End => break,
            }
        }
        // Back on this way, and not at its end, which has nothing above it.
        let circle =
            seen[here] == Seen::OnTheWay && matches!(above(catalogue, &entries[here]), Above::Directory(_));
        if circle && let Ok(index) = u32::try_from(here) {
            cut.push(index);
        }
        for passed in way.drain(..) {
            seen[passed] = Seen::Yes;
        }
    }
    cut.sort_unstable();
    cut
}

/// Returns what is in `lost+found`, by number. `visible` says whether the name at a position is shown.
pub(super) fn find(catalogue: &Catalogue, cut: &[u32], visible: impl Fn(usize) -> bool) -> Vec<Orphan> {
    let root = catalogue.root();
    let mut orphans = Vec::new();
    for (index, entry) in (0..).zip(catalogue.entries()) {
        let lost = catalogue.names(entry.number).next().is_none() || cut.binary_search(&index).is_ok();
        if lost && entry.number != root && is_shown(entry) {
            orphans.push(Orphan { number: entry.number, entry: Some(index) });
        }
    }
    // Directories that are lost: in which something is, and which are not listed themselves.
    let mut position = 0;
    while let Some(name) = catalogue.name_at(position) {
        let all = catalogue.positions(name.directory);
        let above = index_of(catalogue, name.directory).map(|index| &catalogue.entries()[index as usize]);
        let lost = above.is_none_or(|entry| !entry.internal && entry.kind != Some(Kind::Directory));
        position = all.end.max(position + 1);
        if lost && name.directory != root && all.into_iter().any(&visible) {
            orphans.push(Orphan { number: name.directory, entry: None });
        }
    }
    orphans.sort_by_key(|orphan| (orphan.number, orphan.entry.is_none()));
    orphans.shrink_to_fit();
    orphans
}

//! The segments of an EnCase image: files next to each other whose suffixes count up. Some of them may be missing, or
//! cut off.

use std::path::{Path, PathBuf};

use cdi_base::error::{Error, Kind};

use crate::badmap::{BadBlocks, BadRange, Status};
use crate::details::ImageDetails;
use crate::extent::FileNo;
use crate::input::Input;

/// How many segments in a row may be missing before another one: a longer gap is taken for the end.
const MAX_GAP: u32 = 1000;
/// How many names a warning lists.
const MAX_NAMES: usize = 8;

/// What was read of a segment.
pub(crate) enum Segment {
    /// All of it, and another one follows.
    Next,
    /// All of it, and it is the last one.
    Last,
    /// What comes before something that is damaged or cut off.
    Damaged(Error),
}

/// The segments that are not there, or not whole.
#[derive(Default)]
pub(crate) struct Gaps {
    /// The names of those that are missing or empty, as far as that is known.
    missing: Vec<String>,
    /// The names of those that are damaged or cut off, and why.
    damaged: Vec<(String, Error)>,
    /// The names of those after a gap.
    later: Vec<String>,
    /// Whether the last segment was read to its end.
    has_last: bool,
}

/// Gives each segment, from the first one on, to `take`, with its number and whether one before it has a gap.
pub(crate) fn walk(
    input: &Input,
    name: fn(&Path, u32) -> Option<PathBuf>,
    mut take: impl FnMut(FileNo, u32, bool) -> Result<Segment, Error>,
) -> Result<Gaps, Error> {
    let mut gaps = Gaps::default();
    let (mut file, mut number) = (Input::MAIN, 1);
    loop {
        let called = name(input.path(), number).unwrap_or_default().display().to_string();
        let has_gap = !gaps.is_empty();
        if has_gap {
            gaps.later.push(called.clone());
        }
        let is_empty = number > 1 && input.len_of(file) == 0;
        let must_follow = if is_empty {
            gaps.missing.push(called);
            false
        } else {
            match take(file, number, has_gap).map_err(|e| e.at(&input.path_of(file)))? {
                Segment::Next => true,
                Segment::Last => {
                    gaps.has_last = true;
                    return Ok(gaps);
                }
                // A file that cannot be read at the moment is not a lost one.
                Segment::Damaged(e) if e.kind != Kind::BadImage => return Err(e.at(&input.path_of(file))),
                Segment::Damaged(e) => {
                    gaps.damaged.push((called, e));
                    false
                }
            }
        };
        // The next one that there is.
        let mut between = Vec::new();
        let next = (number + 1..=number + MAX_GAP).map_while(|n| Some((n, name(input.path(), n)?)));
        let mut found = None;
        for (n, path) in next {
            match input.sibling(&path) {
                Ok(Some(file)) => {
                    found = Some((n, file));
                    break;
                }
                // A link that leads elsewhere: the user should know.
                Err(e) if n == number + 1 => return Err(e),
                _ => between.push(path.display().to_string()),
            }
        }
        match found {
            Some((n, there)) => {
                gaps.missing.append(&mut between);
                (number, file) = (n, there);
            }
            None => {
                if must_follow {
                    let first = between.into_iter().next();
                    gaps.missing.push(first.unwrap_or_else(|| format!("segment {}", number + 1)));
                }
                return Ok(gaps);
            }
        }
    }
}

impl Gaps {
    /// Whether nothing is missing so far.
    fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.damaged.is_empty()
    }

    /// The first thing that was wrong with a segment, for images of which nothing can be read without it.
    pub(crate) fn first_error(&self, input: &Input) -> Option<Error> {
        let (name, error) = self.damaged.first()?;
        Some(Error::bad_image(error.what.clone()).at(&input.path().with_file_name(name)))
    }

    /// Takes over into `about` that `lost` (ranges in bytes, in order) is lost, and which segments that is due to.
    /// `used` says whether segments after a gap could be used.
    pub(crate) fn report(self, lost: Vec<std::ops::Range<u64>>, used: bool, details: &mut ImageDetails) {
        let Gaps { missing, damaged, later, has_last } = self;
        let is_whole = missing.is_empty() && damaged.is_empty();
        details.incomplete = !is_whole && !has_last;
        if !missing.is_empty() {
            details.metadata.more.insert("missing_segments".into(), missing.clone().into());
            let verb = if missing.len() == 1 { "segment is" } else { "segments are" };
            details.warnings.push(format!("{} {verb} missing or empty: {}", missing.len(), names(&missing)));
        }
        if !damaged.is_empty() {
            let list: Vec<String> = damaged.iter().map(|(name, _)| name.clone()).collect();
            details.metadata.more.insert("damaged_segments".into(), list.into());
            details.warnings.extend(damaged.iter().map(|(name, e)| {
                format!(
                    "segment {name} is cut off or damaged ({}); nothing after that was read from it",
                    e.what
                )
            }));
        }
        if !is_whole && !later.is_empty() && !used {
            details.warnings.push(format!(
                "the segments after that were left out: {}; nothing in them says which part of the disk they hold",
                names(&later)
            ));
        }
        if !is_whole && !has_last {
            let note = "how many segments the image has is not known: its last one was not read";
            details.metadata.more.insert("segments_note".into(), note.into());
            details.warnings.push(format!(
                "{note}. It would hold the hashes and the list of read errors: sectors that the disk could not read \
                 may be among those that are zeros here"
            ));
        }
        let bytes: u64 = lost.iter().map(|r| r.end - r.start).sum();
        if let Some(first) = lost.first() {
            let why = if is_whole { "the image's tables do not list" } else { "these files do not hold" };
            details.warnings.push(format!(
                "{why} {bytes} of the disk's {} bytes, from byte {} on; they count as bad",
                details.metadata.size_bytes, first.start
            ));
            // A hash of the whole disk says nothing about a part of it.
            details.stored_hashes.clear();
            let ranges = lost.iter().map(|r| BadRange::new(r.clone(), Status::Bad));
            details.bad = BadBlocks::from_unsorted(details.bad.ranges().iter().copied().chain(ranges));
        }
        details.lost = lost;
    }
}

/// The first of these names, and how many more there are.
fn names(all: &[String]) -> String {
    let shown = all[..all.len().min(MAX_NAMES)].join(", ");
    match all.len().saturating_sub(MAX_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

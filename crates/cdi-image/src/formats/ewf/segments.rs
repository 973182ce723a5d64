//! The segments of an EnCase image: files in the same directory with ascending suffixes. Some of them may be missing or
//! truncated.

use std::path::{Path, PathBuf};

use cdi_base::error::{Error, Flaw, Kind};

use crate::badmap::{BadBlocks, BadRange, Status};
use crate::bytes::flaw;
use crate::details::ImageDetails;
use crate::extent::{FileNo, MAX_CHUNK};
use crate::input::Input;

/// How many consecutive segments may be missing: a longer gap is taken as the end of the image.
const MAX_GAP: u32 = 1000;
/// How many damaged segments are believed in, where files cannot be listed: a server may have an answer for every name.
const MAX_DAMAGED: usize = 64;
/// Maximum number of file names in a warning.
const MAX_NAMES: usize = 8;

/// Checks the chunk size of an image, which is described at byte `at`.
pub(crate) fn check_chunk(at: u64, per_chunk: u64, sector: u64) -> Result<u64, Error> {
    let chunk = per_chunk.saturating_mul(sector);
    let chunks = format!("chunks of {chunk} bytes ({per_chunk} sectors of {sector} bytes)");
    match chunk {
        0 => flaw(at, format!("invalid chunk size: {chunks}")),
        _ if chunk > MAX_CHUNK.into() => {
            let error =
                Error::from(Flaw::at(at, format!("{chunks}: more than {MAX_CHUNK} are not supported")));
            Err(error.hint("convert it: ewfexport -f raw -t disk FILE (ewf-tools)"))
        }
        _ => Ok(chunk),
    }
}

/// How much of a segment was read.
pub(crate) enum Segment {
    /// All of it; another segment follows.
    Next,
    /// All of it; it is the last segment.
    Last,
    /// Only the part before a damaged or truncated section.
    Damaged(Error),
}

/// The segments that are missing or incomplete.
#[derive(Default)]
pub(crate) struct Gaps {
    /// The names of missing or empty segments, as far as they are known.
    missing: Vec<String>,
    /// The names of damaged or truncated segments, with the errors.
    damaged: Vec<(String, Error)>,
    /// The names of segments after a gap.
    later: Vec<String>,
    /// Whether the last segment was read to its end.
    has_last: bool,
}

/// Passes each segment to `read`, in order, with its number and whether an earlier one is missing or incomplete.
pub(crate) fn walk(
    input: &Input,
    name: fn(&Path, u32) -> Option<PathBuf>,
    mut read: impl FnMut(FileNo, u32, bool) -> Result<Segment, Error>,
) -> Result<Gaps, Error> {
    let mut gaps = Gaps::default();
    let (mut file, mut number) = (Input::MAIN, 1);
    loop {
        let file_name = name(input.name(), number).unwrap_or_default().display().to_string();
        let has_gap = !gaps.is_empty();
        if has_gap {
            gaps.later.push(file_name.clone());
        }
        let is_empty = number > 1 && input.len_of(file) == 0;
        let must_follow = if is_empty {
            gaps.missing.push(file_name);
            false
        } else {
            match read(file, number, has_gap).map_err(|e| e.at(&input.path_of(file)))? {
                Segment::Next => true,
                Segment::Last => {
                    gaps.has_last = true;
                    return Ok(gaps);
                }
                // A temporary read error must not be treated as a lost segment.
                Segment::Damaged(e) if e.kind != Kind::BadImage => return Err(e.at(&input.path_of(file))),
                Segment::Damaged(e) => {
                    if gaps.damaged.len() >= MAX_DAMAGED && input.names(Path::new("."))?.is_none() {
                        let what = format!(
                            "more than {MAX_DAMAGED} segments are damaged: the server seems to have an answer for every name"
                        );
                        return Err(Error::failed(what).at(input.path()).because(e));
                    }
                    gaps.damaged.push((file_name, e));
                    false
                }
            }
        };
        // Find the next existing segment.
        let mut between = Vec::new();
        let next = (number + 1..=number + MAX_GAP).map_while(|n| Some((n, name(input.name(), n)?)));
        let mut found = None;
        for (n, path) in next {
            match input.sibling(&path) {
                Ok(Some(file)) => {
                    found = Some((n, file));
                    break;
                }
                // A link to elsewhere: report it to the user. What a server does not say is not missing.
                Err(e) if n == number + 1 || e.kind != Kind::BadImage => return Err(e),
                _ => between.push(path.display().to_string()),
            }
        }
        match found {
            Some((n, next_file)) => {
                gaps.missing.append(&mut between);
                (number, file) = (n, next_file);
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
    /// Checks whether all segments so far are complete.
    fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.damaged.is_empty()
    }

    /// Returns the first error of a segment, for images that cannot be read at all because of it.
    pub(crate) fn first_error(&self, input: &Input) -> Option<Error> {
        let (name, error) = self.damaged.first()?;
        Some(Error::bad_image(error.what.clone()).at(&input.path().with_file_name(name)))
    }

    /// Records in `details` which segments are missing or damaged, and that `lost` (ranges in bytes, in order) is lost.
    /// `used` says whether the segments after a gap could be used.
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
                format!("segment {name} is truncated or damaged ({}); the rest of it was not read", e.what)
            }));
        }
        if !is_whole && !later.is_empty() && !used {
            details.warnings.push(format!(
                "ignoring the segments after that: {} (they do not record which part of the disk they contain)",
                names(&later)
            ));
        }
        if !is_whole && !has_last {
            let note = "the total number of segments is unknown: the last one was not read";
            details.metadata.more.insert("segments_note".into(), note.into());
            details.warnings.push(format!(
                "{note}; it contains the hashes and the list of read errors, so unreadable sectors of the original \
                 disk may appear as zeros here"
            ));
        }
        let bytes: u64 = lost.iter().map(|r| r.end - r.start).sum();
        if let Some(first) = lost.first() {
            let why =
                if is_whole { "missing from the image's tables" } else { "missing from the image's files" };
            details.warnings.push(format!(
                "{why}: {bytes} of the disk's {} bytes, the first at byte {}; they count as bad",
                details.metadata.size_bytes, first.start
            ));
            // A hash of the whole disk cannot verify a part of it.
            details.stored_hashes.clear();
            let ranges = lost.iter().map(|r| BadRange::new(r.clone(), Status::Bad));
            details.bad = BadBlocks::from_unsorted(details.bad.ranges().iter().copied().chain(ranges));
        }
        details.lost = lost;
    }
}

/// Lists the first of these names, and the number of the others.
fn names(all: &[String]) -> String {
    let shown = all[..all.len().min(MAX_NAMES)].join(", ");
    match all.len().saturating_sub(MAX_NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

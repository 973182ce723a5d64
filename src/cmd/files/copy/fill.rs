//! Fills the copy of a file with what can be read of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use cdi_base::error::Error;
use cdi_fs::contents::{Contents, Source};
use cdi_fs::loss::{Loss, Lost, MAX_RANGES, Why};
use serde_json::{Value, json};

use crate::cmd::Interrupt;
use crate::cmd::files::list::loss_json;

/// What is read at a time, in bytes.
const PIECE: u64 = 1 << 20;

/// Why a file could not be filled.
pub enum Failed {
    /// The user interrupted it.
    Interrupted(Error),
    /// The copy could not be written.
    Write(io::Error),
}

/// Copies what can be read, and leaves holes. Returns what is lost.
pub fn fill(
    file: &File,
    contents: Contents<'_>,
    interrupt: &Interrupt,
    advance: &mut dyn FnMut(u64),
) -> Result<Loss, Failed> {
    let mut loss = Loss::default();
    let mut buffer = Vec::new();
    let mut at = 0;
    while let Some((source, end)) = contents.part(at) {
        interrupt.check().map_err(Failed::Interrupted)?;
        // What has no blocks takes no time, however large it says that it is.
        let end = match source {
            Source::Zeros => end,
            Source::Unknown => {
                add(&mut loss, Lost { file: at..end, volume: None, why: Why::Unknown });
                end
            }
            Source::Volume(_) | Source::Inline(_) | Source::Unit => {
                let end = end.min(at.saturating_add(PIECE));
                buffer.resize(usize::try_from(end - at).unwrap_or(0).max(buffer.len()), 0);
                let write = &mut |at: u64, bytes: &[u8]| {
                    if bytes.iter().all(|b| *b == 0) { Ok(()) } else { file.write_all_at(bytes, at) }
                };
                let copied =
                    contents.read_part(at..end, &mut buffer, write, &mut |lost| add(&mut loss, lost));
                copied.map_err(Failed::Write)?;
                end
            }
        };
        advance(end - at);
        at = end;
    }
    Ok(loss)
}

/// Returns the list of holes of a file.
pub fn holes_json(size: u64, loss: &Loss, damage: Option<&str>) -> Value {
    let listed: u64 = loss.ranges.iter().map(|lost| lost.file.end - lost.file.start).sum();
    json!({
        "size_bytes": size,
        "lost": loss_json(loss),
        // There may be too many of them to list.
        "all_ranges_listed": listed == loss.total(),
        "record_damage": damage,
    })
}

/// Adds a lost range to those before it.
fn add(loss: &mut Loss, lost: Lost) {
    let len = lost.file.end - lost.file.start;
    match lost.why {
        Why::Bad => loss.bad += len,
        Why::Untried => loss.untried += len,
        Why::Unknown => loss.unknown += len,
    }
    if let Some(last) = loss.ranges.last_mut().filter(|l| l.file.end == lost.file.start && l.why == lost.why)
    {
        last.file.end = lost.file.end;
    } else if loss.ranges.len() < MAX_RANGES {
        loss.ranges.push(lost);
    }
}

//! Parses the lines of a ddrescue mapfile.
//!
//! The format is documented in GNU ddrescue's manual, "Mapfile structure": `#` comments, one status line
//! (`current_pos current_status [current_pass]`), then lines `pos size status`. Numbers are bytes, in decimal,
//! hexadecimal (0x) or octal (leading 0). ddrescue itself requires the blocks in order and without gaps; real
//! maps are partial, joined by hand, and on macOS end at 2^63-1, so all of that is accepted here, and warnings say how
//! it was handled.

use super::Status;
use super::listed::{Listed, UNKNOWN_END, parse_number};

/// Checks the status line, which holds ddrescue's current position. It must be valid, but its contents are not used.
pub(super) fn status_line(words: &[&str]) -> Result<(), String> {
    let status = words.get(1).copied().unwrap_or("");
    let is_status = status.len() == 1 && "?*/-FG+".contains(status);
    let pass = words.get(2).is_none_or(|w| w.parse::<u32>().is_ok());
    let position = words.first().is_some_and(|w| parse_number(w).is_some());
    if position && is_status && pass && words.len() <= 3 {
        Ok(())
    } else {
        Err("not a ddrescue mapfile: bad or missing status line".into())
    }
}

/// Parses a block line and adds the block to `listed`.
pub(super) fn block(words: &[&str], listed: &mut Listed) -> Result<(), String> {
    let [pos, len, status] = words else { return Err("expected a block line: position size status".into()) };
    let start = parse_number(pos).ok_or("the position is not a number")?;
    let len = parse_number(len).ok_or("the size is not a number")?;
    let status = from_letter(status).ok_or("the status is not one of ? * / - +")?;
    let end = start.checked_add(len).filter(|e| *e <= UNKNOWN_END + 1).ok_or("the block ends past 2^63")?;
    listed.add(start, end, status)
}

fn from_letter(letter: &str) -> Option<Status> {
    Some(match letter {
        "?" => Status::NonTried,
        "*" => Status::NonTrimmed,
        "/" => Status::NonScraped,
        "-" => Status::Bad,
        "+" => Status::Finished,
        _ => return None,
    })
}

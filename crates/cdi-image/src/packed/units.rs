//! The pass over packed files that consist of parts which can be decompressed alone: on all cores.

use std::io::{self, Read};
use std::sync::Arc;

use cdi_base::workers;

use super::build::{Builder, MAX_DISTANCE, Span, Stop, contents, span_len};
use super::index::Contents;
use super::stream::is_damage;
use crate::input::ReadAt;

/// A part of a packed file that can be decompressed alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unit {
    /// Where it begins and ends in the packed file, in bits.
    pub(super) bits: (u64, u64),
    /// What the packing needs to know apart from that.
    pub(super) extra: u32,
    /// The number of decompressed bytes, if the packed file says it.
    pub(super) len: Option<u64>,
    /// Whether this number is right even if the unit is damaged: it has a checksum, or it is what other units have, too.
    pub(super) is_sure: bool,
}

/// The units of a packed file in order; the last item may be the error that ended the list. The length of the list must
/// be bounded by that of the file.
pub(super) type Units<'a> = dyn Iterator<Item = io::Result<Unit>> + Send + 'a;

/// Opens a unit: reads all of its bytes, and checks what checksums it has before the end is reported.
pub(super) type OpenUnit<'a> = dyn Fn(&Arc<dyn ReadAt>, &Unit) -> io::Result<Box<dyn Read>> + Sync + 'a;

/// What came of a unit.
struct Outcome {
    unit: Unit,
    spans: Vec<Span>,
    error: Option<io::Error>,
    /// Whether it is too long to be read in any place.
    too_long: bool,
}

/// Decompresses all units, and adds their spans. A damaged unit costs itself if its length is known, otherwise everything
/// after it.
pub(super) fn scan(
    source: &Arc<dyn ReadAt>,
    units: Box<Units<'_>>,
    open: &OpenUnit<'_>,
    threads: usize,
    builder: &mut Builder<'_>,
) -> Result<(), Stop> {
    let file_end = source.len()?;
    let mut stopped = false;
    let mut failed = false;
    builder.is_checked = false;
    let units = units.take_while(move |unit| !std::mem::replace(&mut failed, unit.is_err()));
    let work = |buffer: &mut Vec<u8>, unit: io::Result<Unit>| {
        unit.map(|unit| decompress(source, unit, open, buffer))
    };
    workers::ordered(threads, units, Vec::new, work, |outcome: io::Result<Outcome>| {
        if stopped {
            return Ok(());
        }
        let Outcome { unit, spans, error, too_long } = match outcome {
            Err(e) if is_damage(&e) => {
                (builder.cut, stopped) = (true, true);
                return Ok(());
            }
            other => other?,
        };
        builder.progress(unit.bits.0 / 8)?;
        if too_long {
            return Err(Stop::NoPoints);
        }
        match error {
            None => spans.into_iter().try_for_each(|span| builder.add(span)),
            Some(e) if !is_damage(&e) => Err(e.into()),
            Some(e) => {
                let start = builder.size;
                // What comes before the end of a file that is too short is right, but for what was decompressed last.
                // Otherwise it is not known where in the unit the damage is.
                if e.kind() == io::ErrorKind::UnexpectedEof && unit.bits.1 / 8 >= file_end {
                    let last = spans.last().map_or(0, |span| span.len);
                    spans.into_iter().try_for_each(|span| builder.add(span))?;
                    builder.suspect(builder.size - last..builder.size);
                }
                match unit.len.filter(|_| unit.is_sure) {
                    Some(len) => {
                        let len = len.saturating_sub(builder.size - start);
                        builder.add(Span { len, contents: Contents::Lost, point: None })
                    }
                    // It is not known where the next unit belongs.
                    None => {
                        (builder.cut, stopped) = (true, true);
                        Ok(())
                    }
                }
            }
        }
    })
}

fn decompress(source: &Arc<dyn ReadAt>, unit: Unit, open: &OpenUnit<'_>, buffer: &mut Vec<u8>) -> Outcome {
    let mut spans: Vec<Span> = Vec::new();
    let mut too_long = unit.len.is_some_and(|len| len > MAX_DISTANCE);
    let mut all = || -> io::Result<()> {
        if too_long {
            return Ok(());
        }
        let mut reader = open(source, &unit)?;
        let mut total = 0;
        loop {
            // The place on the disk is not known yet; where in the file it comes from is near enough.
            buffer.resize(usize::try_from(span_len(unit.bits.0 / 8)).unwrap_or(1 << 20), 0);
            let (len, end) = fill(&mut *reader, buffer);
            total += len as u64;
            let point = (total == len as u64).then(|| (unit.bits.0, unit.extra, Vec::new()));
            spans.push(Span { len: len as u64, contents: contents(&buffer[..len]), point });
            match end {
                Ok(true) if unit.len.is_some_and(|known| known != total) => {
                    return Err(super::stream::damaged());
                }
                Ok(true) => return Ok(()),
                Ok(false) if total > MAX_DISTANCE => {
                    too_long = true;
                    return Ok(());
                }
                Ok(false) => {}
                Err(e) => return Err(e),
            }
        }
    };
    let error = all().err();
    Outcome { unit, spans, error, too_long }
}

/// Fills `buffer`, or reads up to the end. Returns the number of bytes, and whether it is the end.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> (usize, io::Result<bool>) {
    let mut done = 0;
    while done < buffer.len() {
        match reader.read(&mut buffer[done..]) {
            Ok(0) => return (done, Ok(true)),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return (done, Err(e)),
        }
    }
    (done, Ok(false))
}

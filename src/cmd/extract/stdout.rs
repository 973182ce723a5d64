//! `cdi extract IMAGE -`: the disk from its first byte to its last, for the next program of a pipe.

use std::io::Write;

use super::{Copied, fill_missing, lost_now, pieces};
use crate::cli::Extract;
use crate::cmd::Interrupt;
use crate::disk::Disk;
use crate::disk::runs::{Run, RunKind, runs};
use crate::error::Error;
use crate::parallel;
use crate::ui::Ui;
use crate::units::index;

/// Writes the disk to stdout. What is missing is filled as `--bad` says; without it, it is what the image's files hold there.
pub(super) fn write(args: &Extract, disk: &Disk, ui: &Ui) -> Result<Copied, Error> {
    if ui.json {
        return Err(Error::usage("with '-' the disk is on stdout, and there is no place for --json"));
    }
    let out = ui.bytes();
    let mut out = out.ok_or_else(|| Error::usage("stdout is a terminal: the disk goes to a pipe or a file"))?;
    let interrupt = Interrupt::new()?;
    let mut progress = ui.progress("extracting", disk.size());
    let read = |(): &mut (), run: Run| {
        let held = run.kind == RunKind::Held;
        let mut bytes = vec![0; if held { index(run.disk.end - run.disk.start) } else { 0 }];
        let read = if held { disk.read_at(&mut bytes, run.disk.start) } else { Ok(()) };
        (run, read.map(|()| bytes))
    };
    let mut lost = 0;
    let mut buf = Vec::new();
    parallel::ordered(
        parallel::cores(),
        runs(disk),
        || (),
        read,
        |(run, read)| {
            let failed = |e| Error::failed("stdout cannot be written").because(e);
            match read {
                Ok(bytes) if run.kind == RunKind::Held => out.write_all(&bytes).map_err(failed)?,
                read => {
                    if let Err(e) = read {
                        lost += lost_now(args, &run, e)?;
                    }
                    for piece in pieces(&run.disk) {
                        buf.clear();
                        buf.resize(index(piece.end - piece.start), 0);
                        if run.kind == RunKind::Missing {
                            fill_missing(args, disk, &mut buf, piece.start);
                        }
                        out.write_all(&buf).map_err(failed)?;
                        interrupt.check()?;
                    }
                }
            }
            progress.advance(run.disk.end - run.disk.start);
            interrupt.check()
        },
    )?;
    out.flush().map_err(|e| Error::failed("stdout cannot be written").because(e))?;
    Ok(Copied { lost, took: progress.finish(), mapfile: None })
}

//! `cdi extract IMAGE -`: writes the disk to stdout, from its first byte to its last.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

use cdi_base::error::{Error, ReadError};
use cdi_base::units::index;
use cdi_base::workers;
use cdi_capture::hash_check::HashChecks;
use cdi_image::disk::Disk;
use cdi_image::disk::runs::{Run, RunKind, around_marks, runs};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Copied, fill_missing, hashes_of, lost_now, pieces};
use crate::cli::Extract;
use crate::cmd::{Interrupt, guard};
use crate::ui::Ui;

/// Writes the disk to stdout. Missing data is filled as `--bad` says; without it, with the bytes that the image's files
/// contain there, or zeros.
pub(super) fn write(args: &Extract, disk: &Disk, ui: &Ui) -> Result<Copied, Error> {
    if ui.json {
        return Err(Error::usage("--json cannot be used with '-': the disk itself goes to stdout"));
    }
    let out = ui.bytes();
    let out = out.ok_or_else(|| Error::usage("stdout is a terminal: redirect it to a file or a pipe"))?;
    guard(args.over, &args.image, Some(disk)).check_file(&out, "stdout")?;
    let interrupt = Interrupt::of(disk.input())?;
    let mut out = Pipe { file: out, interrupt: &interrupt };
    let mut progress = ui.progress("extracting", disk.size());
    let mut lost = 0;
    let mut stored_hashes = HashChecks::new(&hashes_of(args, disk));
    let mut buf = Vec::new();
    workers::ordered(
        workers::cores(),
        runs(disk),
        || (),
        |(), run| self::read(disk, run),
        |(run, read)| {
            let parts = match read {
                Err(ReadError::Bad { .. }) => {
                    around_marks(disk, &run).into_iter().map(|part| self::read(disk, part)).collect()
                }
                read => vec![(run, read)],
            };
            for (run, read) in parts {
                let failed = |e: io::Error| match e.kind() {
                    io::ErrorKind::BrokenPipe => {
                        Error::failed("the program that reads the pipe has exited").because(e)
                    }
                    _ => Error::failed("cannot write to stdout").because(e),
                };
                match &read {
                    Ok(bytes) if run.kind == RunKind::Present => stored_hashes.bytes(run.disk.start, bytes),
                    _ => stored_hashes.zeros(run.disk.start, run.disk.end - run.disk.start),
                }
                match read {
                    Ok(bytes) if run.kind == RunKind::Present => out
                        .write_all(&bytes)
                        .map_err(failed)
                        .map_err(|e| interrupt.check().err().unwrap_or(e))?,
                    read => {
                        if let Err(e) = read {
                            interrupt.check()?;
                            lost += lost_now(args, &run, e)?;
                        }
                        for piece in pieces(&run.disk) {
                            buf.clear();
                            buf.resize(index(piece.end - piece.start), 0);
                            if run.kind == RunKind::Missing {
                                fill_missing(args, disk, &mut buf, piece.start);
                            }
                            out.write_all(&buf)
                                .map_err(failed)
                                .map_err(|e| interrupt.check().err().unwrap_or(e))?;
                        }
                    }
                }
                progress.advance(run.disk.end - run.disk.start);
            }
            interrupt.check()
        },
    )?;
    let marked = disk.found_bad().missing();
    Ok(Copied { lost, marked, took: progress.finish(), mapfile: None, checked: stored_hashes.finish() })
}

/// Reads a run.
fn read(disk: &Disk, run: Run) -> (Run, Result<Vec<u8>, ReadError>) {
    let held = run.kind == RunKind::Present;
    let mut bytes = vec![0; if held { index(run.disk.end - run.disk.start) } else { 0 }];
    let read = if held { disk.read_at(&mut bytes, run.disk.start) } else { Ok(()) };
    (run, read.map(|()| bytes))
}

/// Stdout. The program that reads it may be slow, and the user may interrupt in the meantime.
struct Pipe<'a> {
    file: File,
    interrupt: &'a Interrupt,
}

impl Write for Pipe<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let mut wanted = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut wanted, PollTimeout::from(100u8)) {
                Ok(0) | Err(Errno::EINTR) if self.interrupt.check().is_err() => {
                    return Err(io::Error::other("interrupted"));
                }
                Ok(0) | Err(Errno::EINTR) => {}
                // Write no more than a pipe accepts at once, or the write would block.
                Ok(_) => return self.file.write(&bytes[..bytes.len().min(4096)]),
                Err(e) => return Err(e.into()),
            }
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

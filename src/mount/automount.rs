//! A mount that an automounter waits for (systemd's `x-systemd.automount`, autofs).
//!
//! Until the automounter has its answer, the kernel lets only processes of the automounter's process group pass the mount
//! point (Linux, fs/autofs/root.c), and any other process that looks there waits for the mount. mount(8) and its helpers are
//! of that group, and a daemon, which has a session of its own, is not. So here the disk is served by `cdi mount
//! --foreground`, started as a child, which stays in the group.

use std::ffi::OsString;
use std::io::{BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use cdi_base::error::Error;
use cdi_system::mountinfo;
use serde::Deserialize;

use crate::mount::record::MountRecord;
use crate::report::Report;

/// The type of the file system that an automounter mounts where it waits.
const AUTOFS: &str = "autofs";

/// Returns whether `dir` is in a file system of an automounter, with nothing mounted on it.
pub fn is_awaited(dir: &Path) -> bool {
    let Ok(dir) = std::path::absolute(dir) else { return false };
    let mounts = mountinfo().unwrap_or_default();
    // Of mounts at the same place, the last one is on top.
    let top = mounts.iter().filter(|m| dir.starts_with(&m.mountpoint));
    top.max_by_key(|m| m.mountpoint.components().count()).is_some_and(|m| m.fstype == AUTOFS)
}

/// An error that a child prints to stderr, as a line of JSON.
#[derive(Deserialize)]
struct Failed {
    error: Report,
}

/// Mounts a disk with these arguments of `cdi mount`, in a process of the same process group. Returns when it is mounted.
pub fn mount(args: &[OsString]) -> Result<(), Error> {
    let failed = |e: std::io::Error| Error::failed("cannot start a process for the mount").because(e);
    let program = std::env::current_exe().map_err(failed)?;
    let mut child = Command::new(program)
        .args(["--json", "mount", "--foreground"])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    // What it prints to stderr must not fill the pipe.
    let errors = thread::Builder::new().name("errors".into()).spawn(move || {
        let mut text = Vec::new();
        err.map(|mut err| err.read_to_end(&mut text));
        text
    });
    let out = out.map(BufReader::new).into_iter();
    let mut records =
        out.flat_map(|out| serde_json::Deserializer::from_reader(out).into_iter::<MountRecord>());
    if let Some(Ok(_)) = records.next() {
        return Ok(());
    }
    let status = child.wait().map_err(failed)?;
    let errors = errors.map_err(failed)?.join().unwrap_or_default();
    let mut lines = errors.split(|byte| *byte == b'\n').rev();
    match lines.find_map(|line| serde_json::from_slice::<Failed>(line).ok()) {
        Some(Failed { error }) => Err(error.into_error()),
        None => Err(Error::failed(format!("the process for the mount ended before it was ready ({status})"))),
    }
}

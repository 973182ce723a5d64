//! Two processes for imaging a disk: one does it, and the other, which the user started, waits for it.
//!
//! A process that has a thread in a read which hangs cannot end, whatever it does: the kernel lets go of it only when
//! the drive answers. The one that the user waits for has no such thread, so Ctrl-C brings him his prompt back.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use cdi_base::workers;
use cdi_system::ending_signals;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{End, Interrupt};
use crate::report::exit_code;
use crate::ui::Ui;

/// Set for the process that does the work: its stdin is a socket that leads to the other one.
const KEPT: &str = "CDI_KEPT";

/// Does `work` in a process of its own, and waits for it.
pub(super) fn keep(ui: &Ui, work: impl FnOnce(&Interrupt) -> Result<End, Error>) -> Result<End, Error> {
    if std::env::var_os(KEPT).is_some() {
        return run_as_worker(ui, work);
    }
    // Without the other process it works as well, as long as the disk answers.
    match start() {
        Some((child, socket)) => wait_for(child, socket),
        None => work(&Interrupt::new()?),
    }
}

fn start() -> Option<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair().ok()?;
    let mut command = Command::new(std::env::current_exe().ok()?);
    command.args(std::env::args_os().skip(1)).env(KEPT, "1");
    let child = command.stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs))).spawn().ok()?;
    Some((child, ours))
}

fn wait_for(mut child: Child, mut socket: UnixStream) -> Result<End, Error> {
    let failed = |e| Error::failed("cannot watch the imaging process").because(e);
    let signals: Vec<_> =
        ending_signals().into_iter().map(|s| (s, Arc::new(AtomicBool::new(false)))).collect();
    for (signal, flag) in &signals {
        signal_hook::flag::register(*signal, Arc::clone(flag)).map_err(failed)?;
    }
    socket.set_read_timeout(Some(Duration::from_millis(100))).map_err(failed)?;
    let pid = i32::try_from(child.id()).map(Pid::from_raw).ok();
    let mut code = [0];
    loop {
        for (signal, _) in signals.iter().filter(|(_, flag)| flag.swap(false, Ordering::Relaxed)) {
            if let (Some(pid), Ok(signal)) = (pid, Signal::try_from(*signal)) {
                let _ = kill(pid, signal);
            }
        }
        match socket.read(&mut code) {
            Ok(0) => break,
            Ok(_) => {
                // It is done. If it cannot end, it is not waited for.
                for _ in 0..50 {
                    if child.try_wait().is_ok_and(|ended| ended.is_some()) {
                        break;
                    }
                    thread::sleep(Duration::from_millis(2));
                }
                return Ok(End::Code(code[0]));
            }
            Err(e)
                if matches!(
                    e.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            Err(_) => break,
        }
    }
    // It has not come to its end.
    let status = child.wait().map_err(failed)?;
    match status.code() {
        Some(code) => Ok(End::Code(u8::try_from(code).unwrap_or(1))),
        None => Err(Error::failed("the imaging process was killed").hint(Advice::Resume(None))),
    }
}

fn run_as_worker(ui: &Ui, work: impl FnOnce(&Interrupt) -> Result<End, Error>) -> Result<End, Error> {
    let interrupt = Interrupt::new()?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let mut socket = socket.map_err(|e| Error::failed("stdin is gone").because(e))?;
    let mut other = socket.try_clone().map_err(|e| Error::failed("stdin is gone").because(e))?;
    let flag = Arc::clone(&interrupt.0);
    workers::spawn("kept", move || {
        // Nothing is ever said: it ends when the other process does, and then so must we.
        let _ = other.read(&mut [0]);
        flag.store(true, Ordering::Relaxed);
    })?;
    let code = match work(&interrupt) {
        Ok(end) => end.code(),
        Err(e) => {
            ui.error(&e);
            exit_code(e.kind)
        }
    };
    // Whoever reads what we print is not to wait for a process that cannot end.
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(&null).and(nix::unistd::dup2_stderr(&null));
    }
    let _ = socket.write_all(&[code]);
    Ok(End::Code(code))
}

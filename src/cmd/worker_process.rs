//! Images a disk in a child process: the process that the user started only waits for it.
//!
//! A process with a thread in a hung read cannot exit, whatever it does: the kernel releases it only when the drive
//! answers. The process that the user waits for has no such thread, so Ctrl-C returns to the prompt.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use cdi_base::advice::{Advice, Saved};
use cdi_base::error::Error;
use cdi_base::workers;
use cdi_system::ending_signals;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{End, Interrupt};
use crate::report::exit_code;
use crate::ui::Ui;

/// The environment variable that marks the child process, whose stdin is a socket connected to its parent.
const WORKER_VARIABLE: &str = "CDI_WORKER";

/// Runs `work` in a child process, and waits for it. What `work` returns besides its result is called after that, when nobody
/// waits any more.
pub(super) fn run<A: FnOnce()>(
    ui: &Ui,
    work: impl FnOnce(&Interrupt) -> (Result<End, Error>, A),
) -> Result<End, Error> {
    if std::env::var_os(WORKER_VARIABLE).is_some() {
        return run_as_worker(ui, work);
    }
    // If it cannot be started, this process does the work. That makes no difference as long as the disk answers.
    match start() {
        Some((child, socket)) => wait_for(child, socket),
        None => {
            let (result, after) = work(&Interrupt::new()?);
            after();
            result
        }
    }
}

/// Starts this program again as the child, with the same arguments.
fn start() -> Option<(Child, UnixStream)> {
    let (ours, theirs) = UnixStream::pair().ok()?;
    let mut command = Command::new(std::env::current_exe().ok()?);
    command.args(std::env::args_os().skip(1)).env(WORKER_VARIABLE, "1");
    let child = command.stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs))).spawn().ok()?;
    Some((child, ours))
}

/// Waits for the child, and forwards signals to it. Returns its exit code.
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
                // The work is done. Wait briefly for the child to exit, but not for a child that cannot.
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
    // The child exited without sending its exit code.
    let status = child.wait().map_err(failed)?;
    match status.code() {
        Some(code) => Ok(End::Code(u8::try_from(code).unwrap_or(1))),
        None => Err(Error::failed("the imaging process was killed").hint(Advice::Resume(Saved::Earlier))),
    }
}

/// Does the work in the child, and sends the exit code to the parent.
fn run_as_worker<A: FnOnce()>(
    ui: &Ui,
    work: impl FnOnce(&Interrupt) -> (Result<End, Error>, A),
) -> Result<End, Error> {
    let interrupt = Interrupt::new()?;
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    let mut socket = socket.map_err(|e| Error::failed("cannot use stdin").because(e))?;
    let mut parent = socket.try_clone().map_err(|e| Error::failed("cannot use stdin").because(e))?;
    let flag = Arc::clone(&interrupt.flag);
    workers::spawn("parent", move || {
        // The parent sends nothing: the read returns when the parent exits, and then the child must stop too.
        let _ = parent.read(&mut [0]);
        flag.store(true, Ordering::Relaxed);
    })?;
    let (result, after) = work(&interrupt);
    let code = match result {
        Ok(end) => end.code(),
        Err(e) => {
            ui.error(&e);
            exit_code(e.kind)
        }
    };
    // Close the output: a program that reads it must not wait for a child that cannot exit.
    if let Ok(null) = File::options().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(&null).and(nix::unistd::dup2_stderr(&null));
    }
    let _ = socket.write_all(&[code]);
    after();
    Ok(End::Code(code))
}

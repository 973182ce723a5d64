//! The file descriptors that the program was started with.

use std::fs;
use std::sync::Mutex;

use cdi_base::workers::lock;

static INHERITED: Mutex<Vec<i32>> = Mutex::new(Vec::new());

/// Notes the file descriptors that the program was started with. A process that serves a disk must not keep them open:
/// another process may wait for the end of a pipe, or for a lock, and a mistake in the code that serves could use them.
pub fn note_inherited() {
    let open = fs::read_dir(if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" });
    let numbers = open.into_iter().flatten().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    let mut numbers: Vec<i32> = numbers.filter(|n| *n > 2).collect();
    // The last one is that of the directory itself, which is closed by now.
    numbers.retain(|n| fs::read_link(format!("/proc/self/fd/{n}")).is_ok() || !cfg!(target_os = "linux"));
    *lock(&INHERITED) = numbers;
}

/// Closes them, but for stdin, stdout and stderr. To be called once there is no more to be opened by such a number
/// (`/dev/fd/9`). Later calls do nothing: by then the numbers may be those of other files.
pub fn close_inherited() {
    for number in std::mem::take(&mut *lock(&INHERITED)) {
        let _ = nix::unistd::close(number);
    }
}

//! The app that carries the extension. macOS takes a file system only from an app; this one shows where to switch it
//! on, says what comes next, and ends.

use std::process::{Command, ExitCode};

/// System Settings, General, Login Items & Extensions.
const SETTINGS: &str = "x-apple.systempreferences:com.apple.LoginItems-Settings.extension";

const NEXT: &str = "\
cdi mounts disk images without a driver, once its file system extension is switched on:

    System Settings > General > Login Items & Extensions > File System Extensions > cdi

(on macOS 26 under 'By Category'). Then, in Terminal, as yourself and not with sudo:

    mkdir -m 700 private; mkdir private/disk
    mount -F -o rdonly,nobrowse -t cdi image.cdimg private/disk
    umount private/disk

in a folder that is yours alone: on such a mount every user of this Mac counts as the owner.
";

#[allow(clippy::print_stdout, reason = "a program with one thing to say")]
fn main() -> ExitCode {
    println!("{NEXT}");
    let opened = Command::new("/usr/bin/open").arg(SETTINGS).status();
    if opened.is_ok_and(|status| status.success()) {
        return ExitCode::SUCCESS;
    }
    println!("System Settings could not be opened from here.");
    ExitCode::FAILURE
}

//! The app that contains the extension. macOS accepts a file system only as part of an app; this one opens the settings
//! where it is switched on, prints the next steps, and exits.

use std::process::{Command, ExitCode};

/// System Settings, General, Login Items & Extensions.
const SETTINGS: &str = "x-apple.systempreferences:com.apple.LoginItems-Settings.extension";

const NEXT: &str = "\
To mount disk images without a driver, switch on the file system extension of cdi:

    System Settings > General > Login Items & Extensions > File System Extensions > cdi

(on macOS 26 under 'By Category'). Then, in Terminal, as yourself and not with sudo:

    mkdir -m 700 private; mkdir private/disk
    mount -F -o rdonly,nobrowse -t cdi image.cdimg private/disk
    umount private/disk

Use a private directory: on such a mount every user of this Mac counts as the owner.
";

#[allow(clippy::print_stdout, reason = "the output of this program")]
fn main() -> ExitCode {
    println!("{NEXT}");
    let opened = Command::new("/usr/bin/open").arg(SETTINGS).status();
    if opened.is_ok_and(|status| status.success()) {
        return ExitCode::SUCCESS;
    }
    println!("cannot open System Settings; open it manually");
    ExitCode::FAILURE
}

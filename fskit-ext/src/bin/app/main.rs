//! The app that contains the extension; macOS accepts a file system only as part of an app. Opening an image in the Finder
//! attaches it and shows its volumes. Opened by itself, the app opens the settings where the extension is switched on,
//! prints the next steps, and exits.

#[cfg(target_os = "macos")]
mod glue;
// A part of the library, which would link FSKit.
#[cfg(target_os = "macos")]
#[allow(unreachable_pub, reason = "its items are for the library")]
#[path = "../../opening.rs"]
mod opening;

use std::process::{Command, ExitCode};

#[cfg(target_os = "macos")]
use glue::run;
#[cfg(not(target_os = "macos"))]
use show_settings as run;

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

fn main() -> ExitCode {
    run()
}

/// Opens the settings, and prints the next steps.
#[allow(clippy::print_stdout, reason = "the output of this program")]
fn show_settings() -> ExitCode {
    println!("{NEXT}");
    let opened = Command::new("/usr/bin/open").arg(SETTINGS).status();
    if opened.is_ok_and(|status| status.success()) {
        return ExitCode::SUCCESS;
    }
    println!("cannot open System Settings; open it manually");
    ExitCode::FAILURE
}

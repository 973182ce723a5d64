//! macOS's `diskutil image`, which replaces hdiutil from macOS 27 on. It detects raw images by itself, so it is given
//! the name that ends in `.dmg`. It has no option for the sector size, so a disk whose sectors are not of 512 bytes is
//! rejected by the check after attaching. See diskutil(8).

use std::process::Command;

use super::apple::Apple;

/// `diskutil image`.
pub const DISKUTIL: Apple = Apple {
    name: "diskutil",
    attach: |file, request| {
        let mut diskutil = Command::new("diskutil");
        diskutil.args(["image", "--plist", "attach", "--readOnly"]);
        diskutil.args(if request.mount { &["--mountPolicy", "autoMount"][..] } else { &["--noMount"] });
        diskutil.arg(file.with_extension("dmg"));
        diskutil
    },
    detach: |device, forcibly| {
        let diskutil = |args: &[&str]| {
            let mut diskutil = Command::new("diskutil");
            diskutil.args(args).arg(device);
            diskutil
        };
        let unmount = forcibly.then(|| diskutil(&["unmountDisk", "force"]));
        unmount.into_iter().chain([diskutil(&["eject"])]).collect()
    },
};

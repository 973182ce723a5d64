//! macOS's `diskutil image`, which takes the place of hdiutil from macOS 27 on. It decides by itself that an image is
//! raw, so it gets the name that ends in `.dmg`; and it knows no sector size, so a disk that is not of 512 bytes a sector
//! is checked afterwards, and refused. diskutil(8).

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

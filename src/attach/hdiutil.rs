//! macOS's `hdiutil`: attaches any file as a raw disk image, whatever its name, with a given sector size. Deprecated
//! since macOS 27 but still available. See hdiutil(1).

use std::process::Command;

use cdi_base::units::SECTOR;

use super::apple::Apple;

/// `hdiutil`.
pub const HDIUTIL: Apple = Apple {
    name: "hdiutil",
    attach: |file, request| {
        let mut hdiutil = Command::new("hdiutil");
        hdiutil.args(["attach", "-imagekey", "diskimage-class=CRawDiskImage"]);
        // By default it fails if there is nothing to mount.
        hdiutil.args(if request.mount { &["-mount", "optional"][..] } else { &["-nomount"] });
        hdiutil.args(["-readonly", "-noverify", "-noautofsck", "-noautoopen", "-plist"]);
        if request.sector != SECTOR {
            hdiutil.arg("-blocksize").arg(request.sector.to_string());
        }
        hdiutil.arg(file);
        hdiutil
    },
    detach: |device, forcibly| {
        let mut hdiutil = Command::new("hdiutil");
        hdiutil.arg("detach").arg(device).args(forcibly.then_some("-force"));
        vec![hdiutil]
    },
};

//! Apple's sparse images and sparse bundles.

use std::fs;

use super::{extracted, truth, verified};
use crate::common::Lab;
use crate::makers;

tests!(
    fn sparse_images_and_bundles_are_read() {
        let lab = Lab::new();
        let truth = truth();
        lab.write("a.sparseimage", makers::sparseimage(&truth));
        assert!(extracted(&lab, "a.sparseimage", 0) == truth);
        fs::create_dir_all(lab.path("b.sparsebundle/bands")).unwrap();
        for (name, bytes) in makers::sparsebundle(&truth) {
            lab.write(&format!("b.sparsebundle/{name}"), bytes);
        }
        assert!(extracted(&lab, "b.sparsebundle", 0) == truth);
        // With a relative path, and from elsewhere: the bands are found.
        lab.cdi(["create", "b.sparsebundle", "b.cdimg"]).ends(0);
        assert!(extracted(&lab, "b.cdimg", 0) == truth);
        fs::write(lab.path("b.sparsebundle/token"), b"encrcdsa\0\0\0\x02").unwrap();
        let ran = lab.cdi(["info", "b.sparsebundle"]).ends(3);
        assert!(
            ran.err.contains("b.sparsebundle/token: at byte 0: the header of the encrypted image"),
            "{}",
            ran.err
        );
        fs::write(lab.path("b.sparsebundle/token"), b"").unwrap();
        fs::remove_file(lab.path("b.sparsebundle/bands/5")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", lab.path("b.sparsebundle/bands/5")).unwrap();
        let told = verified(&lab, "b.sparsebundle", 4);
        assert_eq!(told["lost_bytes"], 65536, "a band that leads elsewhere is not read: {told}");
        // If the property list is missing or damaged, its copy is used, if that is a file.
        let lab = Lab::new();
        fs::create_dir_all(lab.path("b.sparsebundle/bands")).unwrap();
        for (name, bytes) in makers::sparsebundle(&truth) {
            lab.write(&format!("b.sparsebundle/{name}"), bytes);
        }
        let (list, copy) = (lab.path("b.sparsebundle/Info.plist"), lab.path("b.sparsebundle/Info.bckup"));
        fs::copy(&list, &copy).unwrap();
        for damage in [&b""[..], b"<plist>", b"\0\0\0\0"] {
            fs::write(&list, damage).unwrap();
            assert!(extracted(&lab, "b.sparsebundle", 0) == truth);
        }
        let ran = lab.cdi(["info", "b.sparsebundle"]).ends(0);
        assert!(ran.err.contains("Info.plist is unusable") && ran.err.contains("Info.bckup"), "{}", ran.err);
        fs::remove_file(&list).unwrap();
        assert!(extracted(&lab, "b.sparsebundle", 0) == truth);
        let ran = lab.cdi(["info", "b.sparsebundle"]).ends(0);
        assert!(ran.err.contains("Info.plist is missing"), "{}", ran.err);
        fs::rename(&copy, lab.path("away")).unwrap();
        std::os::unix::fs::symlink(lab.path("away"), &copy).unwrap();
        assert!(lab.cdi(["info", "b.sparsebundle"]).ends(3).err.contains("is a directory"));
        fs::write(&list, "<plist>").unwrap();
        lab.cdi(["info", "b.sparsebundle"]).ends(3);
        // Bands that are elsewhere are not read.
        fs::remove_file(&copy).unwrap();
        fs::remove_file(&list).unwrap();
        fs::rename(lab.path("away"), &list).unwrap();
        assert!(extracted(&lab, "b.sparsebundle", 0) == truth);
        fs::rename(lab.path("b.sparsebundle/bands"), lab.path("bands")).unwrap();
        std::os::unix::fs::symlink(lab.path("bands"), lab.path("b.sparsebundle/bands")).unwrap();
        assert!(lab.cdi(["info", "b.sparsebundle"]).ends(3).err.contains("is reached by a symbolic link"));
        fs::create_dir(lab.path("empty")).unwrap();
        assert!(lab.cdi(["info", "empty"]).ends(3).err.contains("is a directory"));
    }
);

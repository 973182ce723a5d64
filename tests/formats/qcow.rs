//! QEMU's first format, qcow version 1, against qemu-img.

use std::fs;
use std::process::Command;

use super::{path, qemu_img, qemu_io, same_as_qemu};
use crate::common::{Lab, disk, run};

/// Converts `disk.raw`. qemu-img 7.2 writes compressed images of this format completely, but then exits with 1.
pub fn convert(lab: &Lab, compressed: bool, image: &str) {
    let mut command = Command::new("qemu-img");
    command.args(["convert", "-O", "qcow"]).args(compressed.then_some("-c"));
    let status = command.args([lab.path("disk.raw"), lab.path(image)]).status().unwrap();
    assert!(compressed || status.success());
}

tests!(
    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn every_cluster_reads_as_by_qemu() {
        let lab = Lab::new();
        let mut truth = disk(6 << 20);
        truth[1 << 20..3 << 20].fill(0);
        lab.write("disk.raw", &truth);
        for compressed in [false, true] {
            convert(&lab, compressed, "all.qcow");
            same_as_qemu(&lab, "all.qcow");
            assert!(lab.read("cdi.raw") == truth);
            // Writing to a compressed cluster replaces it.
            let io = ["write -q -P 7 1000k 3k", "write -q -P 9 5M 512", "write -q -P 0 0 64k"];
            qemu_io(&lab, "all.qcow", &io.map(str::to_owned));
            same_as_qemu(&lab, "all.qcow");
        }
        // With a backing file, clusters have 512 bytes.
        for (base, format) in [("disk.raw", "raw"), ("all.qcow", "qcow")] {
            qemu_img(&lab, &["create", "-q", "-f", "qcow", "-b", base, "-F", format, "@top.qcow", "9M"]);
            let io = ["write -q -P 7 1000k 3k", "write -q -P 9 5M 512", "write -q -P 1 7M 1k"];
            qemu_io(&lab, "top.qcow", &io.map(str::to_owned));
            same_as_qemu(&lab, "top.qcow");
            let info = lab.cdi(["info", "top.qcow"]).ends(0);
            assert!(info.err.contains("data not in the image is read from its backing file"), "{}", info.err);
        }
    }

    #[needs(Program("qemu-img"))]
    fn inconsistent_headers_are_refused_by_their_place() {
        let lab = Lab::new();
        qemu_img(&lab, &["create", "-q", "-f", "qcow", "@a.qcow", "6M"]);
        let whole = lab.read("a.qcow");
        for (at, bytes, says) in [
            (24, &[0; 8][..], "at byte 24: invalid disk size"),
            (24, &[0xFF; 8], "at byte 24: invalid disk size"),
            (24, &[0, 0, 1, 0, 0, 0, 0, 0], "at byte 40: the first-level table"),
            (32, &[8], "at byte 32: invalid cluster size"),
            (33, &[14], "at byte 33: invalid length of second-level tables"),
            (36, &[0, 0, 0, 2], "at byte 36: unknown encryption method 2"),
            (40, &[0xFF; 8], "at byte 40: the first-level table"),
            (8, &[0, 0, 0, 0, 0, 0, 0, 48, 0, 0, 4, 0], "the name of the backing file is too long"),
        ] {
            let mut bad = whole.clone();
            bad[at..at + bytes.len()].copy_from_slice(bytes);
            lab.write("bad.qcow", bad);
            let err = lab.cdi(["info", "bad.qcow"]).ends(3).err;
            assert!(err.contains(says), "{says}: {err}");
        }
    }

    /// The command in the message decrypts the image.
    #[needs(Program("qemu-img"))]
    fn an_encrypted_image_is_refused_with_the_command_that_decrypts_it() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        lab.write("disk.raw", &truth);
        lab.write("KEY", "passphrase");
        let refused = |image: &str, cipher: &str| {
            let err = lab.cdi(["info", image]).ends(3).err;
            assert!(err.contains(&format!("image encrypted with {cipher} (not supported)")), "{err}");
            err.split("in the file KEY: ").nth(1).unwrap().lines().next().unwrap().to_owned()
        };
        for format in ["qcow", "qcow2"] {
            let image = format!("a,b.{format}");
            let key = format!("secret,id=key,file={}", path(&lab, "KEY"));
            let options = "encrypt.format=aes,encrypt.key-secret=key";
            let words = ["convert", "-O", format, "--object", &key, "-o", options, "@disk.raw"];
            qemu_img(&lab, &[&words[..], &[&format!("@{image}")]].concat());
            let command = refused(&image, "AES").replace("-O raw disk.raw", "-O raw plain.raw");
            assert!(command.starts_with("qemu-img"), "{command}");
            let ran = Command::new("sh").args(["-c", &command]).current_dir(&lab.dir).status().unwrap();
            assert!(ran.success(), "{command}");
            run("cmp", [path(&lab, "disk.raw"), path(&lab, "plain.raw")]);
            fs::remove_file(lab.path("plain.raw")).unwrap();
        }
        // By its mark alone: qemu-img makes one only where it has a processor for itself.
        let mut luks = lab.read("a,b.qcow2");
        luks[35] = 2;
        lab.write("luks.qcow2", luks);
        assert!(refused("luks.qcow2", "LUKS").contains("encrypt.format=luks"));
    }
);

//! QEMU's qcow2: backing files of any format, and an external data file.

use std::fs;

use super::{path, qemu_img, qemu_io, same_as_qemu};
use crate::common::{Lab, disk, run};

tests!(
    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn backing_files_of_every_format_are_read() {
        let lab = Lab::new();
        let truth = disk(6 << 20);
        lab.write("disk.raw", &truth);
        for (format, option) in [
            ("raw", ""),
            ("qcow2", "cluster_size=4k"),
            ("vmdk", "subformat=monolithicSparse"),
            ("vmdk", "subformat=streamOptimized"),
            ("vmdk", "subformat=monolithicFlat"),
            ("vpc", "subformat=dynamic,force_size=on"),
            ("vpc", "subformat=fixed,force_size=on"),
            ("vhdx", "block_size=1M"),
            ("vdi", "static=off"),
            ("vdi", "static=on"),
        ] {
            let words = ["convert", "-O", format, "-o", option, "@disk.raw", "@base"];
            qemu_img(
                &lab,
                if option.is_empty() { &["convert", "-O", "raw", "@disk.raw", "@base"] } else { &words },
            );
            // Larger than the backing file; with and without the name of its format, as in older images.
            for top in ["cluster_size=64k", "extended_l2=on"] {
                qemu_img(
                    &lab,
                    &[
                        "create",
                        "-q",
                        "-f",
                        "qcow2",
                        "-o",
                        top,
                        "-b",
                        "base",
                        "-F",
                        format,
                        "@top.qcow2",
                        "9M",
                    ],
                );
                let io = [
                    "write -q -P 7 1000k 3k",
                    "write -q -z 3M 100k",
                    "write -q -P 9 5M 512",
                    "write -q -P 1 7M 1k",
                ];
                qemu_io(&lab, "top.qcow2", &io.map(str::to_owned));
                same_as_qemu(&lab, "top.qcow2");
            }
            qemu_img(
                &lab,
                &["create", "-q", "-f", "qcow2", "-b", "top.qcow2", "-F", "qcow2", "@third.qcow2"],
            );
            same_as_qemu(&lab, "third.qcow2");
            if option.is_empty() || option.contains("fixed") {
                continue;
            }
            // Without the name in the header, the magic number decides.
            let mut bytes = lab.read("top.qcow2");
            let kind = bytes.windows(4).position(|w| w == 0xE279_2ACA_u32.to_be_bytes()).unwrap();
            bytes[kind] ^= 1;
            lab.write("unnamed.qcow2", bytes);
            lab.cdi(["-q", "extract", "--force", "unnamed.qcow2", "cdi.raw"]).ends(0);
            same_as_qemu(&lab, "top.qcow2");
            assert!(lab.read("cdi.raw") == lab.read("qemu.raw"), "{option}");
        }
        // A format that is not read as a backing file, and one that does not match its name.
        qemu_img(
            &lab,
            &["create", "-q", "-u", "-f", "qcow2", "-b", "base", "-F", "parallels", "@odd.qcow2", "1M"],
        );
        assert!(lab.cdi(["info", "odd.qcow2"]).ends(3).err.contains("in format 'parallels'"));
        for format in ["qcow2", "vmdk", "vpc", "vhdx"] {
            qemu_img(
                &lab,
                &["create", "-q", "-u", "-f", "qcow2", "-b", "base", "-F", format, "@odd.qcow2", "1M"],
            );
            let err = lab.cdi(["info", "odd.qcow2"]).ends(3).err;
            assert!(err.contains("base"), "{err}");
        }
    }

    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn an_external_data_file_is_read() {
        let lab = Lab::new();
        for option in ["data_file_raw=off", "data_file_raw=on", "cluster_size=4k", "extended_l2=on"] {
            let option = format!("data_file={},{option}", path(&lab, "bytes.raw"));
            qemu_img(&lab, &["create", "-q", "-f", "qcow2", "-o", &option, "@top.qcow2", "20M"]);
            let io = [
                "write -q -P 3 0 512",
                "write -q -P 7 1M 300k",
                "write -q -z 1100k 64k",
                "write -q -P 9 15M 77k",
            ];
            qemu_io(&lab, "top.qcow2", &io.map(str::to_owned));
            same_as_qemu(&lab, "top.qcow2");
            // It is found by its last part when both were moved.
            let _ = fs::create_dir(lab.path("away"));
            for name in ["top.qcow2", "bytes.raw"] {
                fs::rename(lab.path(name), lab.path("away").join(name)).unwrap();
            }
            lab.cdi(["-q", "extract", "--force", "away/top.qcow2", "cdi.raw"]).ends(0);
            run("cmp", [path(&lab, "qemu.raw"), path(&lab, "cdi.raw")]);
            fs::remove_file(lab.path("away/bytes.raw")).unwrap();
            let err = lab.cdi(["info", "away/top.qcow2"]).ends(3).err;
            assert!(err.contains("external data file not found") && err.contains("bytes.raw'"), "{err}");
        }
    }
);

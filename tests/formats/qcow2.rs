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
            ("qed", "cluster_size=4k"),
            ("parallels", "cluster_size=64k"),
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
            &["create", "-q", "-u", "-f", "qcow2", "-b", "base", "-F", "bochs", "@odd.qcow2", "1M"],
        );
        assert!(lab.cdi(["info", "odd.qcow2"]).ends(3).err.contains("in format 'bochs'"));
        for format in ["qcow2", "qcow", "qed", "vmdk", "vpc", "vhdx", "vdi"] {
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

    /// A data file of any length: QEMU reads what is not in it as zeros.
    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn an_external_data_file_need_not_be_whole_clusters() {
        let lab = Lab::new();
        for raw in ["on", "off"] {
            let option = format!("data_file={},data_file_raw={raw}", path(&lab, "bytes.raw"));
            // 1000 sectors: the last cluster of 64 KiB has 52 KiB of the disk.
            qemu_img(&lab, &["create", "-q", "-f", "qcow2", "-o", &option, "@top.qcow2", "512000"]);
            qemu_io(&lab, "top.qcow2", &["write -q -P 5 100k 400k".to_owned()]);
            fs::File::options().write(true).open(lab.path("bytes.raw")).unwrap().set_len(512_000).unwrap();
            same_as_qemu(&lab, "top.qcow2");
            assert_eq!(lab.read("cdi.raw").len(), 512_000);
            // One that was cut off is an error, not zeros.
            fs::File::options().write(true).open(lab.path("bytes.raw")).unwrap().set_len(300_000).unwrap();
            lab.cdi(["extract", "--force", "top.qcow2", "cdi.raw"]).ends(4);
        }
    }

    /// Each snapshot is the disk as qemu-img restores it, whatever was written since, also where the disk had another size.
    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn internal_snapshots_read_as_by_qemu() {
        let lab = Lab::new();
        lab.write("disk.raw", disk(2 << 20));
        let kinds: [&[&str]; 5] = [
            &["-o", "cluster_size=64k"],
            &["-o", "cluster_size=512"],
            &["-o", "extended_l2=on"],
            &["-o", "compat=0.10", "-c"],
            &["-o", "compression_type=zstd", "-c"],
        ];
        for kind in kinds {
            qemu_img(&lab, &[&["convert", "-O", "qcow2"], kind, &["@disk.raw", "@a.qcow2"]].concat());
            let mut names = vec!["first", "before the update", "2026-11"];
            for (n, name) in names.iter().enumerate() {
                qemu_img(&lab, &["snapshot", "-c", name, "@a.qcow2"]);
                let io = [
                    format!("write -q -P {n} {}k 70k", n * 300),
                    format!("write -q -z {}k 90k", 1000 + n * 50),
                ];
                qemu_io(&lab, "a.qcow2", &io);
            }
            // Version 2 cannot be resized with snapshots.
            if !kind.contains(&"compat=0.10") {
                qemu_img(&lab, &["resize", "-q", "@a.qcow2", "5M"]);
                qemu_io(&lab, "a.qcow2", &["write -q -P 9 4M 100k".to_owned()]);
                qemu_img(&lab, &["snapshot", "-c", "large", "@a.qcow2"]);
                qemu_img(&lab, &["resize", "-q", "--shrink", "@a.qcow2", "1M"]);
                names.push("large");
            }
            let info = lab.cdi(["info", "--json", "a.qcow2"]).ends(0);
            assert_eq!(info.json()["metadata"]["snapshots"], serde_json::json!(names));
            assert!(info.err.contains(" internal snapshots in the image"), "{}", info.err);
            for (n, name) in names.iter().enumerate() {
                fs::copy(lab.path("a.qcow2"), lab.path("back.qcow2")).unwrap();
                qemu_img(&lab, &["snapshot", "-a", name, "@back.qcow2"]);
                qemu_img(&lab, &["convert", "-O", "raw", "@back.qcow2", "@qemu.raw"]);
                // By its name, and by its identifier, which is its number.
                for name in [(*name).to_owned(), (n + 1).to_string()] {
                    let words = ["extract", "--force", "--snapshot", &name, "a.qcow2", "cdi.raw"];
                    let err = lab.cdi(words).ends(0).err;
                    assert!(err.contains("as it was in the internal snapshot"), "{err}");
                    run("cmp", [path(&lab, "qemu.raw"), path(&lab, "cdi.raw")]);
                }
            }
            same_as_qemu(&lab, "a.qcow2");
        }
        // With a backing file.
        qemu_img(&lab, &["create", "-q", "-f", "qcow2", "-b", "disk.raw", "-F", "raw", "@top.qcow2"]);
        qemu_io(&lab, "top.qcow2", &["write -q -P 9 1M 100k".to_owned()]);
        qemu_img(&lab, &["snapshot", "-c", "s", "@top.qcow2"]);
        qemu_io(&lab, "top.qcow2", &["write -q -P 8 1M 200k".to_owned()]);
        qemu_img(&lab, &["convert", "-l", "s", "-O", "raw", "@top.qcow2", "@qemu.raw"]);
        lab.cdi(["-q", "extract", "--force", "--snapshot", "s", "top.qcow2", "cdi.raw"]).ends(0);
        run("cmp", [path(&lab, "qemu.raw"), path(&lab, "cdi.raw")]);
    }

    #[needs(Program("qemu-img"))]
    fn a_snapshot_is_chosen_by_a_name_that_fits_only_one() {
        let lab = Lab::new();
        qemu_img(&lab, &["create", "-q", "-f", "qcow2", "@a.qcow2", "1M"]);
        let err = lab.cdi(["info", "--snapshot", "x", "a.qcow2"]).ends(2).err;
        assert!(err.contains("has no snapshot 'x': it has none at all"), "{err}");
        for name in ["same", "same", "1"] {
            qemu_img(&lab, &["snapshot", "-c", name, "@a.qcow2"]);
        }
        let err = lab.cdi(["info", "--snapshot", "x", "a.qcow2"]).ends(2).err;
        assert!(err.contains("has no snapshot 'x', but has same, same, 1"), "{err}");
        for name in ["same", "1"] {
            let err = lab.cdi(["info", "--snapshot", name, "a.qcow2"]).ends(2).err;
            assert!(err.contains(&format!("'{name}' can be more than one snapshot")), "{err}");
        }
        for id in ["2", "3"] {
            let info = lab.cdi(["info", "--snapshot", id, "--json", "a.qcow2"]).ends(0);
            assert!(info.err.contains(&format!("(identifier {id}, made 20")), "{}", info.err);
            assert_eq!(info.json()["metadata"]["snapshot"], if id == "2" { "same" } else { "1" });
        }
        // A list that is damaged is no reason not to read the disk; a snapshot that it lists after that cannot be found.
        let mut bytes = lab.read("a.qcow2");
        let list = u64::from_be_bytes(bytes[64..72].try_into().unwrap()) as usize;
        bytes[list + 36..list + 40].fill(0xFF);
        lab.write("bad.qcow2", bytes);
        lab.cdi(["info", "bad.qcow2"]).ends(0);
        let err = lab.cdi(["info", "--snapshot", "2", "bad.qcow2"]).ends(3).err;
        assert!(err.contains("the list of snapshots is longer than"), "{err}");
        // With a mark that says that the data is in another file. (QEMU makes no snapshots of these.)
        let mut bytes = lab.read("a.qcow2");
        bytes[79] |= 4;
        lab.write("bad.qcow2", bytes);
        let err = lab.cdi(["info", "--snapshot", "2", "bad.qcow2"]).ends(3).err;
        assert!(err.contains("internal snapshots of an external data file (not supported"), "{err}");
        // Other formats have none.
        lab.write("a.raw", disk(1 << 20));
        assert!(lab.cdi(["info", "--snapshot", "1", "a.raw"]).ends(2).err.contains("cannot be chosen"));
    }

    /// As 'qemu-img check' finds them, in the image and in a data file.
    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn a_cluster_that_is_used_twice_is_reported() {
        let lab = Lab::new();
        let data = format!("data_file={}", path(&lab, "bytes.raw"));
        for (option, width) in [("cluster_size=4k", 8), ("extended_l2=on", 16), (&data, 8)] {
            qemu_img(&lab, &["create", "-q", "-f", "qcow2", "-o", option, "@a.qcow2", "20M"]);
            qemu_io(
                &lab,
                "a.qcow2",
                &["write -q -P 7 1M 512k".to_owned(), "write -q -P 8 17M 1M".to_owned()],
            );
            // Snapshots share clusters, which is right.
            if option != data {
                qemu_img(&lab, &["snapshot", "-c", "s", "@a.qcow2"]);
                qemu_io(&lab, "a.qcow2", &["write -q -P 9 1M 64k".to_owned()]);
            }
            lab.cdi(["verify", "a.qcow2"]).ends(0);
            let whole = lab.read("a.qcow2");
            let number = |at: usize| u64::from_be_bytes(whole[at..at + 8].try_into().unwrap());
            let place = |at: usize| (number(at) & 0x00FF_FFFF_FFFF_FE00) as usize;
            // The first table that there is, and the first cluster in it.
            let l1 = (place(40)..).step_by(8).find(|at| place(*at) != 0).unwrap();
            let first = (place(l1)..).step_by(width).find(|at| place(*at) != 0).unwrap();
            let mut bad = whole.clone();
            bad.copy_within(first..first + width, first + width);
            lab.write("bad.qcow2", bad);
            let out = lab.cdi(["verify", "bad.qcow2"]).ends(4).out;
            let says = format!("at file offset {}: the cluster at byte {}", first + width, place(first));
            assert!(
                out.contains(&says) && out.contains("is used for two parts of the disk"),
                "{option}: {out}"
            );
        }
    }
);

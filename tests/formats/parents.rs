//! Which files next to an image are read: its parents and parts in its own directory, and where the user allows it.

use std::fs;

use super::qemu_img;
use crate::common::{Lab, disk, run};

tests!(
    #[needs(Program("qemu-img"))]
    fn only_files_next_to_an_image_are_read() {
        let lab = Lab::new();
        lab.write("secret.raw", vec![7; 1 << 20]);
        fs::create_dir(lab.path("in")).unwrap();
        std::os::unix::fs::symlink(lab.path("secret.raw"), lab.path("in/link.raw")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", lab.path("in/zero.raw")).unwrap();
        fs::create_dir(lab.path("in/folder.raw")).unwrap();
        let absolute = lab.path("secret.raw").to_str().unwrap().to_owned();
        fs::create_dir(lab.path("in/.ssh")).unwrap();
        lab.write("in/.ssh/id", vec![7; 1 << 20]);
        std::os::unix::fs::symlink(".ssh/id", lab.path("in/below.raw")).unwrap();
        std::os::unix::fs::symlink(".ssh", lab.path("in/linked")).unwrap();
        let below = lab.path("in/.ssh/id").to_str().unwrap().to_owned();
        let elsewhere = "not found next to the image";
        let link = "is reached by a symbolic link to another directory";
        for (backing, word) in [
            (absolute.as_str(), elsewhere),
            ("../secret.raw", elsewhere),
            (".ssh/id", elsewhere),
            ("linked/id", elsewhere),
            ("./.ssh/id", elsewhere),
            (&below, elsewhere),
            ("link.raw", link),
            ("below.raw", link),
            ("zero.raw", link),
            ("folder.raw", "is not a regular file"),
            ("missing.raw", elsewhere),
            ("json:{}", "JSON description (not supported)"),
            ("nbd://localhost/x", "uses the protocol 'nbd:'"),
            ("http://localhost/x.raw", "uses the protocol 'http:'"),
            ("nbd+unix:///x?socket=s", "uses the protocol 'nbd+unix:'"),
            ("/dev/zero", elsewhere),
        ] {
            let top = lab.path("in/top.qcow2").to_str().unwrap().to_owned();
            let words = ["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, &top, "1M"];
            run("qemu-img", words);
            let ran = lab.cdi(["info", "in/top.qcow2"]).ends(3);
            assert!(ran.err.contains(word) && ran.err.contains(backing), "{backing}: {}", ran.err);
            // Of an allowed directory, too, only the files in it itself are read.
            for dir in ["in", "."] {
                let ran = lab.cdi(["info", "in/top.qcow2", "--allow-parent", dir]);
                let is_allowed = dir == "." && (backing.ends_with("secret.raw") || backing == "link.raw");
                assert_eq!(ran.code, if is_allowed { 0 } else { 3 }, "{backing}, {dir}: {}", ran.err);
            }
            let extent = format!("# Disk DescriptorFile\nversion=1\nRW 2048 FLAT \"{backing}\" 0\n");
            lab.write("in/top.vmdk", extent);
            lab.cdi(["info", "in/top.vmdk"]).ends(3);
        }
        // A chain without end has one.
        let top = lab.path("loop.qcow2").to_str().unwrap().to_owned();
        run("qemu-img", ["create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "loop.qcow2", &top, "1M"]);
        let ran = lab.cdi(["info", "loop.qcow2"]).ends(3);
        assert!(ran.err.contains("more than 16 parents"), "{}", ran.err);
    }

    #[needs(Program("qemu-img"))]
    fn parents_are_read_in_directories_that_the_user_allows() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        fs::create_dir(lab.path("base")).unwrap();
        fs::create_dir(lab.path("top")).unwrap();
        lab.write("base/base.raw", &truth);
        let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
        for backing in [path("base/base.raw"), "../base/base.raw".into(), "base.raw".into()] {
            run(
                "qemu-img",
                [
                    "create",
                    "-q",
                    "-u",
                    "-f",
                    "qcow2",
                    "-F",
                    "raw",
                    "-b",
                    &backing,
                    &path("top/t.qcow2"),
                    "1M",
                ],
            );
            lab.cdi(["info", "top/t.qcow2"]).ends(3);
            lab.cdi(["-q", "extract", "--force", "top/t.qcow2", "out.raw", "--allow-parent", "base"]).ends(0);
            assert!(lab.read("out.raw") == truth, "{backing}");
            // Another folder allows nothing.
            fs::create_dir_all(lab.path("other")).unwrap();
            lab.cdi(["info", "top/t.qcow2", "--allow-parent", "other"]).ends(3);
        }
    }

    #[needs(Program("qemu-img"), Program("qemu-io"))]
    fn a_backing_file_that_was_moved_is_found_next_to_the_image() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        fs::create_dir(lab.path("here")).unwrap();
        lab.write("here/base.raw", &truth);
        lab.write("here/two words.raw", &truth);
        for told in [
            "/srv/images/base.raw",
            "../images/base.raw",
            "C:\\vms\\base.raw",
            "file:base.raw",
            "sub/two words.raw",
        ] {
            qemu_img(
                &lab,
                &["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", told, "@here/top.qcow2", "1M"],
            );
            let ran = lab.cdi(["extract", "--force", "here/top.qcow2", "out.raw"]).ends(0);
            assert!(lab.read("out.raw") == truth, "{told}");
            let name = told.rsplit(['/', '\\', ':']).next().unwrap();
            assert!(ran.err.contains(&format!("/{name}")), "{told}: {}", ran.err);
            assert!(told.starts_with("file:") || ran.err.contains(told), "{told}: {}", ran.err);
        }
        // The directory that the image means, where the user allows it.
        fs::create_dir(lab.path("images")).unwrap();
        lab.write("images/base.raw", vec![7; 1 << 20]);
        let told = "../images/base.raw";
        qemu_img(
            &lab,
            &["create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", told, "@here/top.qcow2", "1M"],
        );
        lab.cdi(["extract", "--force", "here/top.qcow2", "out.raw", "--allow-parent", "images"]).ends(0);
        assert!(lab.read("out.raw") == vec![7; 1 << 20]);
    }
);

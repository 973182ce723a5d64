//! Compared with other programs that read the same: nbdkit's ddrescue filter for bad sectors, qemu-img for good ones.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};

use crate::common::{Aligned, Lab, Random, mapfile, open_direct, run, wait_until};

/// A program that is ended when the test ends.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

tests!(
    #[needs(Fuse, Program("nbdkit"), Program("nbdfuse"))]
    fn every_sector_reads_as_under_nbdkit_s_ddrescue_filter() {
        let lab = Lab::new();
        let random = &mut Random::new(42);
        let sectors = 6000;
        let mut bad = Vec::new();
        let mut at = random.below(50);
        while at < sectors - 30 {
            let count = 1 + random.below(20);
            bad.push((at, count));
            at += count + 1 + random.below(400);
        }
        lab.image(sectors, 512, &bad);
        // nbdkit wants ddrescue's own way of writing numbers.
        let own = lab.cdi(["map", "--export-mapfile", "-", "disk.cdimg"]).ends(0).out;
        assert_eq!(crate::common::blocks(&own), crate::common::blocks(&mapfile(sectors, 512, &bad)));
        lab.write("nbd.map", own);
        let socket = lab.path("s");
        let mut server = Command::new("nbdkit");
        server.args(["-f", "-U"]).arg(&socket).args(["--filter=ddrescue", "file"]).arg(lab.path("disk.raw"));
        let _server = Helper(
            server
                .arg(format!("ddrescue-mapfile={}", lab.path("nbd.map").display()))
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        );
        wait_until("nbdkit listens", || socket.exists());
        fs::create_dir(lab.path("nbd")).unwrap();
        fs::write(lab.path("nbd-file"), "").unwrap();
        let mut client = Command::new("nbdfuse");
        let client =
            client.arg(lab.path("nbd-file")).arg(format!("nbd+unix:///?socket={}", socket.display()));
        let client = Helper(client.stderr(Stdio::null()).spawn().unwrap());
        wait_until("nbdfuse has mounted", || {
            fs::metadata(lab.path("nbd-file")).is_ok_and(|m| m.len() == sectors * 512)
        });

        lab.cdi(["mount", "disk.cdimg", "mnt"]).ends(0);
        let (theirs, ours) = (open_direct(&lab.path("nbd-file")), open_direct(&lab.path("mnt/disk.raw")));
        let (mut buf, mut their) = (Aligned::new(512), Aligned::new(512));
        for lba in 0..sectors {
            let their_answer = theirs.read_at(their.get(), lba * 512);
            let our_answer = ours.read_at(buf.get(), lba * 512);
            assert_eq!(
                their_answer.is_ok(),
                our_answer.is_ok(),
                "sector {lba}: {their_answer:?} and {our_answer:?}"
            );
            assert!(our_answer.is_err() || buf.get() == their.get(), "sector {lba}");
        }
        drop((theirs, ours));
        lab.cdi(["unmount", "mnt"]).ends(0);
        run("fusermount3", ["-u".as_ref(), lab.path("nbd-file").as_os_str()]);
        drop(client);
    }

    #[needs(Fuse, Loop, Program("qemu-img"))]
    fn qemu_img_finds_no_difference() {
        let lab = Lab::new();
        lab.image(40_000, 512, &[]);
        let device = lab.attach(&[]);
        let list = lab.cdi(["list", "--json"]).json();
        let file = format!("{}/disk.raw", list["mounts"][0]["mountpoint"].as_str().unwrap());
        for shown in [device.to_str().unwrap(), &file] {
            let args = ["compare", "-f", "raw", "-F", "raw", shown, lab.path("disk.raw").to_str().unwrap()]
                .map(str::to_owned);
            assert!(run("qemu-img", args).contains("identical"), "{shown}");
        }
        lab.cdi(["detach", "disk.cdimg"]).ends(0);
    }
);

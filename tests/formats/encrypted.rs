//! Apple's encrypted images, and the passphrases that open them.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use cdi_base::error::Kind;
use cdi_base::printable::hex;
use cdi_image::Disk;
use cdi_image::passphrase::Passphrase;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{dmg_sample, truth};
use crate::common::{Lab, Ran, Server, run, wait_until};
use crate::makers::encrypted::{ITERATIONS, USUAL};
use crate::makers::{self, Encryption, Tables, encrypted, encrypted_bundle, encrypted_first};

/// The option that gives the passphrase, which is in the file `pass`.
const WITH: [&str; 2] = ["--passphrase-file", "pass"];

/// A lab with the file `pass`, and with the encrypted images `a.dmg`, `a.sparseimage` and `a.sparsebundle` of the same disk.
fn lab(how: &Encryption<'_>) -> Lab {
    let lab = Lab::new();
    lab.write("pass", format!("{}\n", how.passphrases[0]));
    lab.write("a.dmg", encrypted(&makers::dmg(&truth(), Tables::PropertyList), how));
    lab.write("a.sparseimage", encrypted(&makers::sparseimage(&truth()), how));
    fs::create_dir_all(lab.path("a.sparsebundle/bands")).unwrap();
    for (name, bytes) in encrypted_bundle(&truth(), how) {
        lab.write(&format!("a.sparsebundle/{name}"), bytes);
    }
    lab
}

fn opened(lab: &Lab, words: &[&str]) -> Ran {
    lab.cdi([&["info"], words].concat())
}

/// The memory of a process that it can write to.
fn memory(pid: u64) -> Vec<u8> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let file = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut bytes = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [start, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16).unwrap());
        let mut part = vec![0; (end - start) as usize];
        if file.read_exact_at(&mut part, start).is_ok() {
            bytes.extend(part);
        }
    }
    bytes
}

/// Starts `words` on a terminal of its own, types `lines` when it is asked, and returns what the terminal shows.
fn on_a_terminal(lab: &Lab, words: &str, lines: &[&str]) -> String {
    let program = env!("CARGO_BIN_EXE_cdi");
    let mut command = Command::new("script");
    command.args(["-qec", &format!("{program} {words}"), "/dev/null"]).current_dir(&lab.dir);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut keys, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = Vec::new();
    for line in lines {
        let asked = shown.len();
        while !String::from_utf8_lossy(&shown[asked..]).contains("passphrase of") {
            let mut byte = [0];
            if screen.read(&mut byte).unwrap_or(0) == 0 {
                break;
            }
            shown.push(byte[0]);
        }
        keys.write_all(line.as_bytes()).unwrap();
    }
    screen.read_to_end(&mut shown).unwrap();
    drop(keys);
    child.wait().unwrap();
    String::from_utf8_lossy(&shown).into_owned()
}

tests!(
    fn encrypted_images_are_those_that_were_encrypted() {
        for (bits, block) in [(128, 512), (256, 512), (128, 4096)] {
            let how = Encryption { bits, block, ..USUAL };
            let lab = lab(&how);
            for image in ["a.dmg", "a.sparseimage", "a.sparsebundle"] {
                lab.cdi([&["-q", "extract", "--force", image, "out.raw"], &WITH[..]].concat()).ends(0);
                assert!(lab.read("out.raw") == truth(), "{image}, {bits} bits, blocks of {block}");
                let info = lab.cdi([&["info", "--json", image], &WITH[..]].concat()).ends(0).json();
                let known = format!("AES-{bits}; passphrase, {ITERATIONS} iterations");
                assert_eq!(info["encryption"], known);
                assert_eq!(info["format"], if image == "a.dmg" { "dmg" } else { &image[2..] });
            }
            // Reads that begin and end anywhere.
            let options = || Disk::options().passphrase(Passphrase::new(how.passphrases[0]));
            let truth = truth();
            for image in ["a.dmg", "a.sparseimage", "a.sparsebundle"] {
                let disk = options().open(lab.path(image)).unwrap();
                for (at, len) in [(0, 1), (511, 2), (4095, 4098), (65_535, 140_000), (1_048_575, 1)] {
                    let mut read = vec![0; len];
                    disk.read_at(&mut read, at).unwrap();
                    assert!(read == truth[at as usize..][..len], "{image}: {len} bytes at {at}");
                }
            }
        }
    }

    /// Images of Mac OS X before 10.5. (vfdecrypt's code for them reads those of these tests by the passphrase; but the
    /// program as it is takes every image for one of version 2.)
    fn the_first_version_is_read() {
        let lab = Lab::new();
        lab.write("pass", "open sesame");
        let inner = makers::sparseimage(&truth());
        let image = encrypted_first(&inner);
        lab.write("a.sparseimage", &image);
        lab.cdi([&["-q", "extract", "a.sparseimage", "out.raw"], &WITH[..]].concat()).ends(0);
        assert!(lab.read("out.raw") == truth());
        let info = lab.cdi([&["info", "--json", "a.sparseimage"], &WITH[..]].concat()).ends(0).json();
        assert_eq!(info["encryption"], "AES-128; passphrase, 1000 iterations");
        assert!(opened(&lab, &["a.sparseimage"]).ends(3).err.contains("its passphrase is needed"));
        lab.write("other", "close sesame");
        let ran = opened(&lab, &["a.sparseimage", "--passphrase-file", "other"]).ends(3);
        assert!(ran.err.contains("the passphrase is wrong"), "{}", ran.err);
        let end = image.len() - 1276;
        let changed = |at: usize, value: &[u8], expected: &str| {
            let mut bytes = image.clone();
            bytes[end + at..][..value.len()].copy_from_slice(value);
            lab.write("b.sparseimage", bytes);
            let ran = opened(&lab, &["b.sparseimage", WITH[0], WITH[1]]).ends(3);
            assert!(ran.err.contains(expected), "{expected}: {}", ran.err);
        };
        changed(1267, &[9], "encrypted image with version 0x9 (not supported)");
        changed(99, &[9], "encrypted image with cipher 0x80000009 (not supported)");
        changed(18, &[1, 1], "invalid size of encrypted blocks: 257 bytes");
        changed(1262, &[1], "bytes are encrypted, but there are");
        changed(48, &[0; 4], "invalid number of iterations: 0");
        changed(48, &[0xFF; 4], "invalid number of iterations: 4294967295");
        changed(54, &[1], "invalid length of a salt: 276 bytes");
        changed(138, &[2], "invalid length of a wrapped key: 552 bytes");
        // A key that is damaged anywhere is noticed.
        for at in [140, 160, 179, 440, 470, 487] {
            changed(at, &[image[end + at] ^ 1], "the passphrase is wrong");
        }
    }

    #[needs(Corpus)]
    fn a_sample_by_hdiutil_is_decrypted() {
        let lab = Lab::new();
        lab.write("pass", "test123");
        let sample = dmg_sample("input_aes256.dmg");
        lab.cdi([&["-q", "extract", sample.to_str().unwrap(), "out.raw"], &WITH[..]].concat()).ends(0);
        let sum = "1407509ff44696aab011815d84951ad2c53cb7345a71d9803b73817c2d2d83cf";
        assert_eq!(hex(&Sha256::digest(lab.read("out.raw"))), sum);
        let verified = lab.cdi([&["verify", "--json", sample.to_str().unwrap()], &WITH[..]].concat()).ends(0);
        assert!(verified.json()["stored_hashes"].as_array().unwrap().iter().all(|h| h["matches"] == true));
    }

    #[needs(Program("vfdecrypt"))]
    fn vfdecrypt_decrypts_the_images_of_these_tests() {
        // It gets the key: it unwraps only those of images that are older than this kind of header.
        let lab = lab(&USUAL);
        let (dmg, out) = (lab.path("a.dmg"), lab.path("plain.dmg"));
        let key = USUAL.keys_in_hex();
        let words = ["-k", &key, "-i", dmg.to_str().unwrap(), "-o", out.to_str().unwrap()];
        assert!(Command::new("vfdecrypt").args(words).output().unwrap().status.success());
        assert!(lab.read("plain.dmg") == makers::dmg(&truth(), Tables::PropertyList));
    }

    fn a_wrong_passphrase_and_damage_have_words_of_their_own() {
        let lab = lab(&USUAL);
        let image = lab.read("a.dmg");
        for name in ["a.dmg", "a.sparseimage", "a.sparsebundle"] {
            let ran = opened(&lab, &[name]).ends(3);
            assert!(ran.err.contains("its passphrase is needed"), "{}", ran.err);
            assert!(ran.err.contains("--passphrase-file FILE or --passphrase-fd N"), "{}", ran.err);
            lab.write("other", "open sesam");
            let ran = opened(&lab, &[name, "--passphrase-file", "other"]).ends(3);
            assert!(ran.err.contains("the passphrase is wrong"), "{}", ran.err);
        }
        let error = Disk::open(lab.path("a.dmg")).err().unwrap();
        assert_eq!(error.kind, Kind::BadImage);
        let changed = |at: usize, value: &[u8], expected: &str| {
            let mut bytes = image.clone();
            bytes[at..at + value.len()].copy_from_slice(value);
            lab.write("b.dmg", bytes);
            let ran = opened(&lab, &["b.dmg", WITH[0], WITH[1]]).ends(3);
            assert!(ran.err.contains(expected), "{expected}: {}", ran.err);
        };
        let refused = "(not supported)\nhint: on a Mac, decrypt it with 'hdiutil convert";
        changed(11, &[3], &format!("at byte 8: encrypted image with version 0x3 {refused}"));
        changed(20, &[0], &format!("at byte 20: encrypted image with cipher 0x1 {refused}"));
        changed(24, &192u32.to_be_bytes(), "keys of 192 and 160 bits (not supported)");
        changed(52, &[0, 0, 2, 1], "invalid size of encrypted blocks: 513 bytes");
        changed(75, &[0], "invalid number of keys: 0");
        changed(79, &[2], "encrypted image that only a certificate opens (not supported)");
        changed(79, &[3], "encrypted image that only a keybag opens (not supported)");
        changed(79, &[9], "that only a key of the unknown kind 9 opens (not supported)");
        changed(80, &[1], "extends past the end of the file");
        changed(104, &u32::MAX.to_be_bytes(), "at byte 100: invalid number of iterations: 4294967295");
        changed(104, &[0; 4], "invalid number of iterations: 0");
        changed(111, &[33], "invalid length of the salt: 33 bytes");
        changed(184, &0x8000_0001u32.to_be_bytes(), "with wrapping cipher 0x80000001 (not supported)");
        changed(196, &[0xFF; 4], "invalid length of a key: 4294967295 bytes");
        // The end of the wrapped key tells whether it was unwrapped rightly; that its start is damaged, the image inside.
        changed(240, &[0xFF], "the passphrase is wrong");
        changed(200, &[0xFF], "no UDIF trailer in the encrypted image: its key is damaged, or");
        changed(56, &[0; 8], "the encrypted image is empty");
        lab.write("b.dmg", &image[..image.len() - 512]);
        let ran = opened(&lab, &["b.dmg", WITH[0], WITH[1]]).ends(3);
        assert!(ran.err.contains("the image is truncated"), "{}", ran.err);
        lab.write("b.dmg", encrypted(&image, &USUAL));
        let ran = opened(&lab, &["b.dmg", WITH[0], WITH[1]]).ends(3);
        assert!(ran.err.contains("encrypted disk image in an encrypted one"), "{}", ran.err);
        let token = lab.read("a.sparsebundle/token");
        lab.write("a.sparsebundle/token", &token[..240]);
        let ran = opened(&lab, &["a.sparsebundle", WITH[0], WITH[1]]).ends(3);
        assert!(ran.err.contains("at byte 200: a wrapped key"), "{}", ran.err);
    }

    fn each_of_several_passphrases_opens_an_image() {
        let both = Encryption { passphrases: &["first", "second"], ..USUAL };
        let lab = lab(&both);
        for passphrase in both.passphrases {
            lab.write("pass", passphrase);
            opened(&lab, &["a.dmg", WITH[0], WITH[1]]).ends(0);
        }
        // One is damaged: the other one still opens it, and for a third one, the damage is reported.
        let mut image = lab.read("a.dmg");
        image[116 + 3] = 0;
        lab.write("a.dmg", &image);
        opened(&lab, &["a.dmg", WITH[0], WITH[1]]).ends(0);
        lab.write("pass", "third");
        let ran = opened(&lab, &["a.dmg", WITH[0], WITH[1]]).ends(3);
        assert!(ran.err.contains("the passphrase is wrong"), "{}", ran.err);
        assert!(ran.err.contains("not all of its keys could be tried: at byte"), "{}", ran.err);
    }

    fn a_passphrase_ends_with_a_line_break_or_a_nul_byte() {
        let lab = lab(&USUAL);
        for (text, code) in [
            ("open sesame", 0),
            ("open sesame\n", 0),
            ("open sesame\r\n", 0),
            ("open sesame\0more", 0),
            ("open sesame\n\0", 3),
            ("open sesame\n\n", 3),
            (" open sesame", 3),
            ("\n", 2),
            ("", 2),
        ] {
            lab.write("pass", text);
            opened(&lab, &["a.dmg", WITH[0], WITH[1]]).ends(code);
        }
        lab.write("pass", [b'x'; 4097]);
        assert!(opened(&lab, &["a.dmg", WITH[0], WITH[1]]).ends(2).err.contains("more than 4096 bytes"));
        assert!(opened(&lab, &["a.dmg", WITH[0], "none"]).ends(1).err.contains("cannot read the passphrase"));
        assert!(opened(&lab, &["a.dmg", "--passphrase-fd", "77"]).ends(1).err.contains("/dev/fd/77"));
        opened(&lab, &["a.dmg", WITH[0], "a", "--passphrase-fd", "0"]).ends(2);
        // A line break that counts.
        let odd = Encryption { passphrases: &["two\nlines\n"], ..USUAL };
        lab.write("b.dmg", encrypted(&makers::dmg(&truth(), Tables::PropertyList), &odd));
        lab.write("pass", "two\nlines\n\0");
        opened(&lab, &["b.dmg", WITH[0], WITH[1]]).ends(0);
        // Other images need no passphrase, and one that is given is not used.
        lab.write("d.raw", truth());
        opened(&lab, &["d.raw", WITH[0], WITH[1]]).ends(0);
    }

    fn every_verb_that_opens_an_image_takes_the_passphrase() {
        let lab = lab(&USUAL);
        for image in ["a.dmg", "a.sparsebundle"] {
            for words in [&["map"][..], &["verify"], &["files"]] {
                lab.cdi([words, &[image], &WITH[..]].concat()).ends(0);
                lab.cdi([words, &[image]].concat()).ends(3);
            }
            lab.cdi([&["create", "--force", image, "copy.cdimg"], &WITH[..]].concat()).ends(0);
            let events = lab.cdi(["info", "--events", "copy.cdimg"]).ends(0).out;
            assert!(
                events.contains("--passphrase-file") && !events.contains(USUAL.passphrases[0]),
                "{events}"
            );
            lab.cdi(["-q", "extract", "--force", "copy.cdimg", "out.raw"]).ends(0);
            assert!(lab.read("out.raw") == truth());
            // From a descriptor, once, although the image is opened twice.
            let mut command = lab.command();
            command.args(["-q", "serve", "--nbd", "socket", image, "--size", "1M"]);
            command.args(["--passphrase-fd", "0"]).stdin(fs::File::open(lab.path("pass")).unwrap());
            let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
            let mut line = String::new();
            std::io::BufRead::read_line(
                &mut std::io::BufReader::new(child.stdout.take().unwrap()),
                &mut line,
            )
            .unwrap();
            let served = Server { child, url: line.trim().into() };
            assert!(served.url.starts_with("nbd"), "{line}");
            assert_eq!(served.end(), 0);
        }
        // The file with the passphrase is not overwritten.
        let ran = lab.cdi([&["extract", "--force", "a.dmg", "pass"], &WITH[..]].concat());
        assert!(ran.code != 0 && lab.read("pass") == b"open sesame\n", "{}", ran.err);
        // An encrypted image is not imaged as if it were the disk.
        let ran = lab.cdi(["create", "--mount", "dir", "a.dmg", "x.cdimg"]).ends(2);
        assert!(ran.err.contains("is an encrypted image"), "{}", ran.err);
    }

    #[needs(Fuse, Loop)]
    fn an_encrypted_image_is_attached_by_a_daemon_and_its_passphrase_seen_nowhere() {
        let lab = lab(&USUAL);
        let ran = lab.cdi([&["-vv", "attach", "--partscan", "a.sparsebundle"], &WITH[..]].concat()).ends(0);
        let device = ran.out.trim().to_owned();
        assert!(fs::read(&device).unwrap() == truth());
        let list = lab.cdi(["list", "--json"]).ends(0);
        let pid = list.json()["mounts"][0]["pid"].as_u64().unwrap();
        let mut seen = vec![ran.err.into_bytes(), list.out.clone().into_bytes()];
        for file in ["cmdline", "environ"] {
            seen.push(fs::read(format!("/proc/{pid}/{file}")).unwrap());
        }
        for entry in fs::read_dir(lab.path("run")).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file())
        {
            seen.push(fs::read(entry).unwrap());
        }
        let mountpoint = list.json()["mounts"][0]["mountpoint"].as_str().unwrap().to_owned();
        seen.push(fs::read(Path::new(&mountpoint).join("info.json")).unwrap());
        assert!(seen.len() > 6, "{}", seen.len());
        // And its memory, where the mount point is for certain.
        let memory = memory(pid);
        assert!(memory.windows(mountpoint.len()).any(|part| part == mountpoint.as_bytes()));
        seen.push(memory);
        for text in seen {
            assert!(!text.windows(11).any(|part| part == b"open sesame"));
        }
        lab.cdi(["detach", &device]).ends(0);
        // A command on the device.
        let ran = lab.cdi([&["exec"], &WITH[..], &["a.dmg", "--", "sh", "-c", "cat {} > copy.raw"]].concat());
        ran.ends(0);
        assert!(lab.read("copy.raw") == truth());
    }

    /// A file system in a read/write image.
    #[needs(Fuse, Loop, Program("mkfs.ext4"), Program("e2fsck"))]
    fn e2fsck_finds_the_file_system_of_an_encrypted_image_sound() {
        let lab = lab(&USUAL);
        let raw = lab.path("fs.raw");
        fs::File::create(&raw).unwrap().set_len(8 << 20).unwrap();
        let here = raw.parent().unwrap().join("a.sparsebundle");
        run("mkfs.ext4", ["-q", "-d", here.to_str().unwrap(), raw.to_str().unwrap()]);
        lab.write("fs.dmg", encrypted(&lab.read("fs.raw"), &Encryption { bits: 256, ..USUAL }));
        let ran = lab.cdi([&["-q", "attach", "--format", "raw", "fs.dmg"], &WITH[..]].concat()).ends(0);
        let device = ran.out.trim();
        run("e2fsck", ["-fn", device]);
        assert!(fs::read(device).unwrap() == lab.read("fs.raw"));
        lab.cdi(["detach", device]).ends(0);
    }

    #[needs(Fuse)]
    fn the_service_reads_the_passphrase_from_a_file() {
        let lab = lab(&USUAL);
        fs::create_dir(lab.path("there")).unwrap();
        let path = |name: &str| lab.path(name).to_str().unwrap().to_owned();
        let image = json!({ "image": path("a.dmg"), "dir": path("there"), "attach": false, "passphrase_file": path("pass") });
        lab.write("service.json", json!({ "version": 1, "images": [image] }).to_string());
        let mut command = lab.command();
        command.args(["-q", "service", "run", "--config", "service.json"]).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        wait_until("the image is mounted", || lab.path("there/disk.raw").exists());
        assert!(lab.read("there/disk.raw") == truth());
        run("kill", ["-TERM".to_owned(), child.id().to_string()]);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }

    #[needs(Program("script"))]
    fn a_passphrase_is_asked_for_on_a_terminal_that_does_not_show_it() {
        let lab = lab(&USUAL);
        let shown = on_a_terminal(&lab, "info a.dmg", &["open sesame\r"]);
        assert!(shown.contains("passphrase of a.dmg: ") && shown.contains("AES-128"), "{shown}");
        assert!(!shown.contains("sesame"), "{shown}");
        let shown = on_a_terminal(&lab, "info a.sparsebundle", &["wrong\r", "open sesame\r"]);
        assert!(shown.contains("the passphrase is wrong") && shown.contains("AES-128"), "{shown}");
        let shown = on_a_terminal(&lab, "info a.dmg", &["a\r", "b\r", "c\r"]);
        assert_eq!(shown.matches("passphrase of").count(), 3, "{shown}");
        let shown = on_a_terminal(&lab, "info a.dmg", &["open\x03"]);
        assert!(shown.contains("interrupted") && !shown.contains("AES-128; passphrase"), "{shown}");
        // Not where another program reads the answer, and not for other images.
        let shown = on_a_terminal(&lab, "--json info a.dmg", &[]);
        assert!(!shown.contains("passphrase of") && shown.contains("passphrase is needed"), "{shown}");
    }

    fn a_disk_without_a_trailer_is_read_from_an_encrypted_image() {
        // As of a read/write image: the disk itself.
        let lab = lab(&USUAL);
        lab.write("rw.dmg", encrypted(&truth(), &USUAL));
        let ran = opened(&lab, &["rw.dmg", WITH[0], WITH[1]]).ends(3);
        assert!(ran.err.contains("no UDIF trailer in") && ran.err.contains("--format raw"), "{}", ran.err);
        lab.cdi([&["-q", "extract", "--format", "raw", "rw.dmg", "out.raw"], &WITH[..]].concat()).ends(0);
        assert!(lab.read("out.raw") == truth());
        assert!(opened(&lab, &["rw.dmg", "--format", "raw"]).ends(3).err.contains("passphrase is needed"));
        // A raw disk may begin like an encrypted image: without a passphrase, it is read as it is.
        let disk = lab.read("rw.dmg");
        lab.write("disk.bin", &disk);
        lab.cdi(["-q", "extract", "--force", "--format", "raw", "disk.bin", "out.raw"]).ends(0);
        assert!(lab.read("out.raw") == disk);
        assert!(opened(&lab, &["disk.bin"]).ends(3).err.contains("passphrase is needed"));
    }
);

//! EnCase's images (E01, and SMART's): in segments of which some are missing, empty, truncated or from another image; of a
//! source that is not whole sectors; encrypted.

use std::fs;
use std::path::{Path, PathBuf};

use cdi_base::error::ReadError;
use cdi_image::disk::{Disk, Options};
use cdi_image::image::OpenOptions;
use cdi_image::open::open;
use serde_json::json;

use crate::common::{Lab, Random, disk, run};
use crate::makers;

/// Asserts that each sector is either right, or bad and lost. Returns the number of bytes that are right.
pub fn right_or_lost(image: &Path, truth: &[u8]) -> u64 {
    let disk = Disk::new(open(image, &OpenOptions::default()).unwrap(), Options::default());
    assert_eq!(disk.size(), truth.len() as u64);
    let mut right = 0;
    let mut bytes = [0; 512];
    for (n, sector) in truth.chunks(512).enumerate() {
        let at = n as u64 * 512;
        match disk.read_at(&mut bytes[..sector.len()], at) {
            Ok(()) => {
                assert!(bytes[..sector.len()] == *sector, "{}: byte {at} is wrong", image.display());
                right += sector.len() as u64;
            }
            Err(e) => {
                assert!(matches!(e, ReadError::Bad { .. }), "{}: byte {at}: {e}", image.display());
                assert!(disk.image().lost().iter().any(|r| r.contains(&at)), "byte {at} is not lost");
            }
        }
    }
    right
}

/// A disk in segments of 1 MiB.
fn segments(lab: &Lab, truth: &[u8], format: &str) -> Vec<PathBuf> {
    let raw = lab.write("disk.raw", truth).to_str().unwrap().to_owned();
    fs::create_dir_all(lab.path(format)).unwrap();
    let target = lab.path(&format!("{format}/d")).to_str().unwrap().to_owned();
    run("ewfacquire", ["-q", "-u", "-t", &target, "-f", format, "-c", "none", "-S", "1048576", &raw]);
    let mut files: Vec<_> =
        fs::read_dir(lab.path(format)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

pub fn name(file: &Path) -> String {
    file.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Asserts that `verify` reports as many lost bytes. Returns its messages.
pub fn verified(lab: &Lab, image: &Path, lost: u64) -> String {
    let code = if lost > 0 { 4 } else { 0 };
    let ran = lab.cdi(["verify".as_ref(), "--json".as_ref(), image.as_os_str()]).ends(code);
    let json = ran.json();
    assert_eq!(json["lost_bytes"], lost, "{json}");
    if lost > 0 {
        assert_eq!(json["stored_hashes"], json!([]));
    }
    ran.err
}

tests!(
    #[needs(Program("ewfacquire"))]
    fn chunks_of_16_mib_are_read_and_longer_ones_are_refused() {
        let lab = Lab::new();
        let truth = disk(40 << 20);
        let raw = lab.write("disk.raw", &truth).to_str().unwrap().to_owned();
        for (name, sector, is_read) in [("a", "512", true), ("b", "4096", false)] {
            let target = lab.path(name).to_str().unwrap().to_owned();
            run(
                "ewfacquire",
                ["-q", "-u", "-t", &target, "-f", "encase6", "-b", "32768", "-P", sector, &raw],
            );
            let image = format!("{name}.E01");
            if is_read {
                lab.cdi(["-q", "extract", &image, "out.raw"]).ends(0);
                assert!(lab.read("out.raw") == truth);
            } else {
                let ran = lab.cdi(["info", &image]).ends(3);
                let words =
                    "chunks of 134217728 bytes (32768 sectors of 4096 bytes): more than 16777216 are not";
                assert!(ran.err.contains(words) && ran.err.contains("ewfexport"), "{}", ran.err);
            }
        }
    }

    #[needs(Program("ewfacquire"))]
    fn every_format_of_ewfacquire_reads_correctly() {
        let lab = Lab::new();
        let truth = disk((5 << 20) + 512 * 3);
        lab.write("disk.raw", &truth);
        for (n, options) in [
            &["-f", "encase6", "-c", "deflate:fast"][..],
            &["-f", "encase5", "-c", "deflate:best"],
            &["-f", "encase1", "-c", "none"],
            &["-f", "encase2"],
            &["-f", "ftk"],
            &["-f", "linen6"],
            &["-f", "ewfx"],
            &["-f", "smart", "-c", "deflate:best"],
            &["-f", "ewf"],
            &["-f", "encase6", "-b", "16"],
            &["-f", "encase6", "-c", "none", "-S", "1048576"],
        ]
        .into_iter()
        .enumerate()
        {
            let target = lab.path(&format!("d{n}"));
            let words = ["-q", "-u", "-t"]
                .into_iter()
                .map(str::to_owned)
                .chain([target.to_str().unwrap().to_owned()]);
            let words = words.chain(options.iter().map(|o| (*o).to_owned()));
            run("ewfacquire", words.chain([lab.path("disk.raw").to_str().unwrap().to_owned()]));
            let image =
                ["E01", "e01", "s01"].iter().map(|x| target.with_extension(x)).find(|p| p.exists()).unwrap();
            let out = format!("o{n}.raw");
            lab.cdi(["extract".as_ref(), image.as_os_str(), out.as_ref()]).ends(0);
            assert!(fs::read(lab.path(&out)).unwrap() == truth, "{options:?}");
            lab.cdi(["verify".as_ref(), image.as_os_str()]).ends(0);
        }
        let ran = lab.cdi(["info", "d10.E02"]).ends(3);
        assert!(ran.err.contains("this is segment 2") && ran.err.contains("open the first"), "{}", ran.err);
    }

    /// With either of a table's two places damaged an E01 reads as before; with both it is an error.
    #[needs(Program("ewfacquire"))]
    fn a_damaged_table_is_replaced_by_its_copy() {
        let lab = Lab::new();
        let truth = disk(1 << 20);
        let raw = lab.write("disk.raw", &truth);
        let target = lab.path("e").to_str().unwrap().to_owned();
        run("ewfacquire", ["-q", "-u", "-t", &target, "-f", "encase6", raw.to_str().unwrap()]);
        let whole = lab.read("e.E01");
        let section = |name: &[u8]| {
            let place = whole
                .windows(16)
                .position(|w| w.starts_with(name) && w[name.len()..].iter().all(|b| *b == 0));
            place.unwrap() + 76
        };
        let (table, copy) = (section(b"table"), section(b"table2"));
        let out = |places: &[usize]| {
            let mut bytes = whole.clone();
            places.iter().for_each(|at| bytes[*at] ^= 0x10);
            let file = lab.write("broken.E01", &bytes);
            let opened = open(&file, &OpenOptions::default()).ok()?;
            let mut all = vec![0; truth.len()];
            Disk::new(opened, Options::default()).read_at(&mut all, 0).ok().map(|()| all == truth)
        };
        // The number of entries in the header, and an entry.
        for at in [0, 24] {
            assert_eq!(out(&[table + at]), Some(true), "the table at {at}");
            assert_eq!(out(&[copy + at]), Some(true), "its copy at {at}");
            assert_eq!(out(&[table + at, copy + at]), None, "both at {at}");
        }
    }

    #[needs(Program("ewfacquire"))]
    fn the_segments_before_a_missing_one_are_read() {
        let lab = Lab::new();
        let truth = disk((4 << 20) + 512);
        let len = truth.len() as u64;
        // Segments of another set, which has the same names.
        let files = segments(&lab, &truth, "encase5");
        for (file, set) in files.iter().zip([1, 1, 1, 2, 1]) {
            let mut bytes = fs::read(file).unwrap();
            let named = |w: &[u8]| [&b"volume\0"[..], b"data\0"].iter().any(|name| w.starts_with(name));
            let at = bytes.windows(16).position(named).unwrap() + 76;
            bytes[at + 64] = set;
            let sum = makers::adler(&bytes[at..at + 1048]);
            bytes[at + 1048..at + 1052].copy_from_slice(&sum);
            fs::write(file, bytes).unwrap();
        }
        let right = right_or_lost(&files[0], &truth);
        let err = verified(&lab, &files[0], len - right);
        assert!(
            right > 2900 << 10
                && err.contains("does not belong to the same set")
                && err.contains("ignoring the segments"),
            "{right}: {err}"
        );
        for format in ["encase6", "encase1", "smart"] {
            let files = segments(&lab, &truth, format);
            assert_eq!(files.len(), 5, "{format}");
            let bytes: Vec<_> = files.iter().map(|f| fs::read(f).unwrap()).collect();
            let mut held = vec![len];
            for left in (1..5).rev() {
                fs::remove_file(&files[left]).unwrap();
                held.insert(0, right_or_lost(&files[0], &truth));
                let info = lab.cdi(["info".as_ref(), "--json".as_ref(), files[0].as_os_str()]).ends(4);
                assert_eq!(info.json()["metadata"]["missing_segments"], json!([name(&files[left])]));
                let err = verified(&lab, &files[0], len - held[0]);
                assert!(
                    err.contains(&name(&files[left])) && err.contains("the last one was not read"),
                    "{err}"
                );
            }
            assert!(held[0] > 900 << 10 && held.is_sorted_by(|a, b| a < b), "{format}: {held:?}");
            // A single segment is missing, empty or replaced; later ones are not read.
            for (n, other) in [(1, None), (2, None), (3, Some(&[][..])), (4, Some(&bytes[0][..]))] {
                files.iter().zip(&bytes).for_each(|(file, bytes)| fs::write(file, bytes).unwrap());
                match other {
                    None => fs::remove_file(&files[n]).unwrap(),
                    Some(other) => fs::write(&files[n], other).unwrap(),
                }
                assert_eq!(right_or_lost(&files[0], &truth), held[n - 1], "{format}: {n}");
                let err = verified(&lab, &files[0], len - held[n - 1]);
                assert!(err.contains(&name(&files[n])), "{err}");
                assert!(
                    n > 3 || (err.contains("ignoring the segments") && err.contains(&name(&files[4]))),
                    "{err}"
                );
            }
            let words = ["extract", "-q", "--force"].map(AsRef::as_ref);
            lab.cdi(words.into_iter().chain([files[0].as_os_str(), "o.raw".as_ref()])).ends(4);
            assert!(lab.path("o.raw.map").exists());
        }
    }

    #[needs(Program("ewfacquire"))]
    fn a_truncated_segment_is_read_as_far_as_it_goes() {
        let lab = Lab::new();
        let truth = disk((3 << 20) + 512);
        let all = truth.len() as u64;
        for format in ["encase6", "encase1", "smart"] {
            let files = segments(&lab, &truth, format);
            assert_eq!(right_or_lost(&files[0], &truth), all);
            for n in [0, 1, 3] {
                let whole = fs::read(&files[n]).unwrap();
                let places =
                    (1..24).map(|n| whole.len() * n / 24).chain((1..200).step_by(9).map(|n| whole.len() - n));
                let mut most = 0;
                for len in places {
                    fs::write(&files[n], &whole[..len]).unwrap();
                    if open(&files[0], &OpenOptions::default()).is_ok() {
                        most = most.max(right_or_lost(&files[0], &truth));
                    } else {
                        // Only where nothing says how large the disk is.
                        assert!(n == 0 && len < 8192, "{format}: {n}: {len}");
                    }
                }
                assert!(most > n as u64 * (900 << 10), "{format}: {n}: {most}");
                fs::write(&files[n], whole).unwrap();
            }
            // The first one, before and after the section about the disk.
            let whole = fs::read(&files[0]).unwrap();
            fs::write(&files[0], &whole[..50]).unwrap();
            lab.cdi(["info".as_ref(), files[0].as_os_str()]).ends(3);
            fs::write(&files[0], &whole[..whole.len() / 2]).unwrap();
            let err = lab.cdi(["info".as_ref(), files[0].as_os_str()]).ends(4).err;
            assert!(err.contains(&format!("segment {} is truncated or damaged", name(&files[0]))), "{err}");
        }
    }

    /// Its last chunk is intact, and longer than the rest of the disk.
    #[needs(Program("ewfexport"))]
    fn bytes_after_the_last_whole_sector_are_reported() {
        let lab = Lab::new();
        let whole = disk(1 << 20);
        for len in [100_001, 98_304 + 161, 32_768 + 511, 513] {
            let truth = &whole[..len];
            let raw = lab.write("odd.bin", truth).to_str().unwrap().to_owned();
            let sectors = &truth[..len / 512 * 512];
            for format in ["encase1", "encase5", "encase6", "smart", "ftk", "linen5", "ewf", "ewfx"] {
                for compressed in ["none", "deflate:best"] {
                    let target = lab.path(&format!("{format}-{len}-{compressed}"));
                    let words =
                        ["-q", "-u", "-f", format, "-c", compressed, "-t", target.to_str().unwrap(), &raw];
                    run("ewfacquire", words);
                    let mut names = ["E01", "e01", "s01"].into_iter().map(|x| target.with_extension(x));
                    let image = names.find(|p| p.exists()).unwrap();
                    assert_eq!(right_or_lost(&image, sectors), sectors.len() as u64);
                    let ran = lab.cdi(["verify".as_ref(), "--json".as_ref(), image.as_os_str()]).ends(0);
                    let told = format!("contains {} bytes after the last whole sector", len % 512);
                    assert!(ran.err.contains(&told), "{format} {compressed}: {}", ran.err);
                    // The hash that was stored covers them.
                    assert_eq!(ran.json()["stored_hashes"][0]["matches"], true, "{format} {compressed}");
                    let exported = lab.path("exported").to_str().unwrap().to_owned();
                    run("ewfexport", ["-q", "-u", "-f", "raw", "-t", &exported, image.to_str().unwrap()]);
                    assert!(lab.read("exported.raw") == sectors, "{format} {compressed}");
                    fs::remove_file(lab.path("exported.raw")).unwrap();
                }
            }
        }
        // The same in an Ex01.
        lab.write("e.Ex01", ex01_of_odd(&whole[..100_001]));
        assert_eq!(right_or_lost(&lab.path("e.Ex01"), &whole[..99_840]), 99_840);
        verified(&lab, &lab.path("e.Ex01"), 0);
    }

    /// Only the stored hash shows that segments are from different acquisitions.
    #[needs(Program("ewfacquire"))]
    fn a_segment_of_another_disk_fails_the_stored_hash() {
        let lab = Lab::new();
        let truth = disk(3 << 20);
        let first = segments(&lab, &truth, "encase6");
        let mut other = truth.clone();
        other.iter_mut().step_by(512).for_each(|b| *b ^= 1);
        let second = segments(&lab, &other, "encase5");
        lab.cdi(["extract", "encase6/d.E01", "x.raw"]).ends(0);
        lab.cdi(["create", "encase6/d.E01", "x.cdimg"]).ends(0);
        assert!(name(&first[1]) == "d.E02" && name(&second[1]) == "d.E02");
        fs::copy(&second[1], &first[1]).unwrap();
        for words in [["extract", "encase6/d.E01", "y.raw"], ["create", "encase6/d.E01", "y.cdimg"]] {
            let ran = lab.cdi(words).ends(4);
            assert!(ran.err.contains("the MD5 of the disk is"), "{}", ran.err);
        }
        let ran = lab.command().args(["extract", "-q", "encase6/d.E01", "-"]).output().unwrap();
        assert_eq!(ran.status.code(), Some(4));
        lab.cdi(["verify", "encase6/d.E01"]).ends(4);
        // Of a disk of another size.
        let longer = segments(&lab, &disk(5 << 20), "encase7");
        fs::copy(&longer[1], &first[1]).unwrap();
        lab.cdi(["extract", "encase6/d.E01", "z.raw"]).ends(4);
    }

    /// An image whose chunks are encrypted without a mark, and one that is encrypted as a whole.
    #[needs(Program("ewfacquire"))]
    fn an_encrypted_image_is_reported_as_encrypted() {
        let lab = Lab::new();
        let raw = lab.write("disk.raw", disk(1 << 20)).to_str().unwrap().to_owned();
        for compressed in ["none", "deflate:best"] {
            let target = lab.path(compressed).to_str().unwrap().to_owned();
            run("ewfacquire", ["-q", "-u", "-t", &target, "-f", "encase6", "-c", compressed, &raw]);
            let whole = fs::read(format!("{target}.E01")).unwrap();
            let section = |name: &[u8]| {
                let is = |w: &[u8]| w.starts_with(name) && w[name.len()..].iter().all(|b| *b == 0);
                whole.windows(16).position(is).unwrap()
            };
            let (from, to) = (section(b"sectors") + 76, section(b"table"));
            let mut bytes = whole.clone();
            noise(&mut bytes[from..to], 8);
            lab.write("x.E01", &bytes);
            let ran = lab.cdi(["info", "x.E01"]).ends(3);
            assert!(ran.err.contains("encrypted or completely damaged image"), "{}", ran.err);
            // With some chunks that are right it is damaged.
            let half = (from + to) / 2;
            bytes[half..to].copy_from_slice(&whole[half..to]);
            lab.write("x.E01", &bytes);
            lab.cdi(["verify", "x.E01"]).ends(4);
        }
        lab.write("y.E01", [&b"ADCRYPT\0"[..], &[1; 600]].concat());
        let ran = lab.cdi(["info", "y.E01"]).ends(3);
        assert!(ran.err.contains("encrypted by"), "{}", ran.err);
    }
);

fn ex01_of_odd(source: &[u8]) -> Vec<u8> {
    // The number of sectors is rounded down.
    makers::ex01(source, &[])
}

fn noise(bytes: &mut [u8], seed: u64) {
    let mut random = Random::new(seed);
    bytes.fill_with(|| random.next() as u8);
}

//! A file for each format that cdi reads, and files for tests of several formats.

mod aff;
mod aff4;
mod android_sparse;
mod asif;
pub mod cdimg;
mod cdimg_damage;
mod chd;
mod clonezilla;
mod damage;
mod diskcopy;
mod dmg;
mod encrypted;
mod ewf;
mod ewf2;
mod holes;
mod iboredimg;
mod maps;
mod ndif;
mod packed;
mod parallels;
mod parents;
mod partclone;
mod qcow;
mod qcow2;
mod qed;
mod raw;
mod raw_pieces;
mod several;
mod sparse;
mod unsupported;
mod vhd;
mod vhdx;
mod vma;
mod vmdk;
mod xways;
mod zstd_seekable;

use crate::common::{Lab, Test, corpus, disk, run};

/// The tests, by module.
pub const MODULES: &[&[Test]] = &[
    aff::TESTS,
    aff4::TESTS,
    android_sparse::TESTS,
    asif::TESTS,
    cdimg::TESTS,
    cdimg_damage::TESTS,
    chd::TESTS,
    clonezilla::TESTS,
    damage::TESTS,
    diskcopy::TESTS,
    dmg::TESTS,
    encrypted::TESTS,
    ewf::TESTS,
    ewf2::TESTS,
    holes::TESTS,
    iboredimg::TESTS,
    maps::TESTS,
    ndif::TESTS,
    packed::TESTS,
    parallels::TESTS,
    parents::TESTS,
    partclone::TESTS,
    qcow::TESTS,
    qcow2::TESTS,
    qed::TESTS,
    raw::TESTS,
    raw_pieces::TESTS,
    several::TESTS,
    sparse::TESTS,
    unsupported::TESTS,
    vhd::TESTS,
    vhdx::TESTS,
    vma::TESTS,
    vmdk::TESTS,
    xways::TESTS,
    zstd_seekable::TESTS,
];

/// A disk for all of them: 1 MiB of everything, with zeros, a pattern and free space in it.
pub fn truth() -> Vec<u8> {
    let mut disk = disk(1 << 20);
    disk[0x1_0000..0x3_0000].fill(0);
    disk[0x8_0000..0x9_0000].fill(b'a');
    disk
}

pub fn dmg_sample(name: &str) -> std::path::PathBuf {
    corpus().join("dmgwiz").join(name)
}

/// The disk of an image, by `extract`.
pub fn extracted(lab: &Lab, image: &str, code: i32) -> Vec<u8> {
    lab.cdi(["-q", "extract", "--force", "--bad", "zero", image, "out.raw"]).ends(code);
    lab.read("out.raw")
}

pub fn verified(lab: &Lab, image: &str, code: i32) -> serde_json::Value {
    lab.cdi(["verify", "--json", image]).ends(code).json()
}

pub fn bad_of(lab: &Lab, words: &[&str]) -> Vec<(u64, u64, String)> {
    let json = lab.cdi([&["map", "--bad", "--json"], words].concat()).ends(0).json();
    let ranges = json["ranges"].as_array().unwrap().iter();
    let number = |r: &serde_json::Value, name: &str| r[name].as_u64().unwrap();
    ranges
        .map(|r| (number(r, "first_sector"), number(r, "sectors"), r["status"].as_str().unwrap().into()))
        .collect()
}

pub fn path(lab: &Lab, name: &str) -> String {
    lab.path(name).to_str().unwrap().to_owned()
}

pub fn qemu_img(lab: &Lab, words: &[&str]) {
    let words = words.iter().map(|w| w.strip_prefix('@').map_or((*w).to_owned(), |name| path(lab, name)));
    run("qemu-img", words);
}

pub fn qemu_io(lab: &Lab, image: &str, commands: &[String]) {
    let format = if image.ends_with(".raw") { &["-f", "raw"][..] } else { &[] };
    let words = format.iter().map(|w| (*w).to_owned());
    let words =
        words.chain(commands.iter().flat_map(|c| ["-c".to_owned(), c.clone()])).chain([path(lab, image)]);
    run("qemu-io", words);
}

/// The image reads as qemu reads it.
pub fn same_as_qemu(lab: &Lab, image: &str) {
    qemu_img(lab, &["convert", "-O", "raw", &format!("@{image}"), "@qemu.raw"]);
    lab.cdi(["-q", "extract", "--force", image, "cdi.raw"]).ends(0);
    run("cmp", [path(lab, "qemu.raw"), path(lab, "cdi.raw")]);
}

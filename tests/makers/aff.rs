//! Writes AFF images, versions 1 to 3, with what AFFLIB's programs do not write: bad sectors, and pages that are missing.

use super::zlib;

/// A page as it is stored.
#[derive(Clone, Copy, PartialEq)]
pub enum AffPage {
    Stored,
    Zlib,
    Zeros,
    Missing,
}

/// The bytes that a bad sector has.
pub fn aff_mark() -> Vec<u8> {
    let mut mark = b"BAD SECTOR\0".to_vec();
    mark.extend((mark.len()..512).map(|n| (n * n * 31 / 8) as u8));
    mark
}

/// A segment.
pub fn aff_segment(name: &str, flag: u32, data: &[u8]) -> Vec<u8> {
    let mut segment = b"AFF\0".to_vec();
    [name.len() as u32, data.len() as u32, flag].iter().for_each(|n| segment.extend(n.to_be_bytes()));
    segment.extend(name.as_bytes());
    segment.extend(data);
    let len = segment.len() as u32 + 8;
    segment.extend(b"ATT\0");
    segment.extend(len.to_be_bytes());
    segment
}

/// A segment with a 64-bit number: its lower half is first.
pub fn aff_quad(name: &str, value: u64) -> Vec<u8> {
    let halves = [value as u32, (value >> 32) as u32].map(u32::to_be_bytes);
    aff_segment(name, 2, &halves.concat())
}

/// An image of `disk` with pages of `page` bytes, in reverse order, each stored as `kind` says. The `bad` sectors have
/// marks.
pub fn aff(disk: &[u8], page: usize, bad: &[usize], kind: impl Fn(usize, &[u8]) -> AffPage) -> Vec<u8> {
    let mut disk = disk.to_vec();
    for sector in bad {
        disk[sector * 512..][..512].copy_from_slice(&aff_mark());
    }
    let mut file = b"AFF10\r\n\0".to_vec();
    file.extend(aff_segment("badflag", 0, &aff_mark()));
    file.extend(aff_segment("afflib_version", 0, b"3.7.20"));
    file.extend(aff_segment("case_num", 0, b"17/3"));
    file.extend(aff_segment("device_model", 0, b"an old disk"));
    file.extend(aff_segment("device_sn", 0, b"SN1"));
    file.extend(aff_segment("pagesize", page as u32, b""));
    file.extend(aff_segment("sectorsize", 512, b""));
    // Room that is not used.
    file.extend(aff_segment("", 0, &[0xEE; 100]));
    for (n, bytes) in disk.chunks(page).enumerate().rev() {
        let name = format!("page{n}");
        match kind(n, bytes) {
            AffPage::Stored => file.extend(aff_segment(&name, 0, bytes)),
            AffPage::Zlib => file.extend(aff_segment(&name, 1, &zlib(bytes))),
            AffPage::Zeros => file.extend(aff_segment(&name, 0x33, &(bytes.len() as u32).to_be_bytes())),
            AffPage::Missing => {}
        }
    }
    file.extend(aff_quad("imagesize", disk.len() as u64));
    file.extend(aff_quad("badsectors", bad.len() as u64));
    file
}

/// The usual kind of a page: zeros as such, others compressed or not, in turn.
pub fn aff_kind(n: usize, bytes: &[u8]) -> AffPage {
    match () {
        () if bytes.iter().all(|b| *b == 0) => AffPage::Zeros,
        () if n.is_multiple_of(2) => AffPage::Zlib,
        () => AffPage::Stored,
    }
}

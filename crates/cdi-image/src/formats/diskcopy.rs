//! Images of floppy disks by Apple's DiskCopy 4.2: a header of 84 bytes, the sectors, and the tags of the sectors.
//!
//! Sources: Apple II File Type Note $E0/$8005, the description of the format in the 68kMLA wiki, and images by MAME's
//! floptool. All numbers are big-endian. Tags are 12 bytes that disks of 400 and 800 KB hold besides each sector (of the
//! Lisa's disks 20 bytes). The format has no magic number but two bytes, so the lengths in the header must fit the file.

use std::sync::Arc;

use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::units::{SECTOR, human, index};

use crate::bytes::{be32, flaw};
use crate::details::ImageDetails;
use crate::extent::{Extent, Origin};
use crate::image::{CheckCancelled, Format, Image, OpenOptions};
use crate::input::Input;
use crate::metadata::Metadata;
use crate::stored_hashes::{HashKind, Hasher, StoredHash};

/// DiskCopy 4.2.
pub const FORMAT: Format = Format {
    name: "diskcopy",
    summary: "floppy disks imaged by Apple's DiskCopy 4.2",
    integrity: "a 32-bit checksum of the disk and one of its tags, checked on verification",
    suffixes: &["dc42"],
    probe: |input| header(input).is_ok_and(|h| (1..=63).contains(&h[0]) && parts(&h).2 == input.len()),
    open,
};

const HEADER: usize = 84;
/// The tags of the first sector, 12 bytes, are not in their checksum.
const NOT_SUMMED: usize = 12;

struct Floppy {
    input: Arc<Input>,
    size: u64,
    /// How long the tags are, in bytes, and their checksum.
    tags: (u64, u32),
    details: ImageDetails,
}

fn header(input: &Input) -> Result<Vec<u8>, Error> {
    let header = input.bytes(0, HEADER, "the header")?;
    if header[82..] != [1, 0] || be32(&header, 64) == 0 {
        return flaw(82, "not a DiskCopy 4.2 image");
    }
    Ok(header)
}

/// Returns the lengths of the disk, of the tags and of the file, in bytes.
fn parts(header: &[u8]) -> (u64, u64, u64) {
    let (disk, tags) = (u64::from(be32(header, 64)), u64::from(be32(header, 68)));
    (disk, tags, HEADER as u64 + disk + tags)
}

fn open(input: Arc<Input>, _: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let header = header(&input)?;
    let (size, tags, end) = parts(&header);
    let sectors = size / u64::from(SECTOR);
    if size % u64::from(SECTOR) != 0 {
        return flaw(64, format!("invalid disk size: {size} bytes"));
    }
    if tags % sectors != 0 {
        return flaw(68, format!("{tags} bytes of tags do not belong to {sectors} sectors"));
    }
    if end > input.len() {
        let what =
            format!("disk and tags end at byte {end}, after the end of the file ({} bytes)", input.len());
        return flaw(64, format!("{what}: the image is truncated"));
    }
    let mut warnings = Vec::new();
    if tags > 0 {
        let each = tags / sectors;
        warnings.push(format!(
            "left out: the tags of the disk ({}, {each} bytes for each sector), which are not in its sectors",
            human(tags)
        ));
    }
    if end < input.len() {
        warnings.push(format!("ignoring {} bytes after the end of the image", input.len() - end));
    }
    let mut metadata = Metadata { size_bytes: size, logical_sector_bytes: SECTOR, ..Metadata::default() };
    let name = header[1..64].get(..usize::from(header[0])).unwrap_or_default();
    if !name.is_empty() {
        // In the Mac's own character set; other characters than ASCII are not worth a conversion table.
        let text: String = name.iter().map(|b| if b.is_ascii() { char::from(*b) } else { '?' }).collect();
        metadata.more.insert("volume_name".into(), text.into());
    }
    let stored_hashes = vec![StoredHash::of_disk(size, HashKind::DiskCopy, header[72..76].to_vec())];
    let details = ImageDetails { metadata, warnings, stored_hashes, ..ImageDetails::default() };
    Ok(Box::new(Floppy { input, size, tags: (tags, be32(&header, 76)), details }))
}

impl Image for Floppy {
    fn size(&self) -> u64 {
        self.size
    }

    fn map(&self, _: u64) -> Result<Extent, ReadError> {
        let origin = Origin::Stored { file: Input::MAIN, at: HEADER as u64 };
        Ok(Extent { disk: 0..self.size, origin })
    }

    fn check(
        &self,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        let (len, expected) = self.tags;
        let start = HEADER as u64 + self.size;
        let (mut sum, mut at) = (Hasher::new(HashKind::DiskCopy), NOT_SUMMED as u64);
        let mut buffer = vec![0; 64 << 10];
        while at < len {
            let part = index((len - at).min(buffer.len() as u64));
            if let Err(e) = self.input.read_exact_at(Input::MAIN, &mut buffer[..part], start + at) {
                report(Flaw::at(start + at, format!("cannot read the tags: {e}")), ONLY_TAGS);
                return Ok(());
            }
            sum.update(&buffer[..part]);
            at += part as u64;
            check_cancelled()?;
        }
        let got = be32(&sum.finish(), 0);
        if got != expected {
            let what = format!("checksum mismatch of the tags: {got:08x}, expected {expected:08x}");
            report(Flaw::at(start, what), ONLY_TAGS);
        }
        Ok(())
    }

    fn details(&self) -> &ImageDetails {
        &self.details
    }
}

/// What damaged tags cost.
const ONLY_TAGS: &str = "nothing of the disk's sectors: the tags are not part of them";

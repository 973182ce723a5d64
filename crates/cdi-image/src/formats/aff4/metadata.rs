//! The metadata of an AFF4 volume: disk, case information, hashes.

use super::volume::Volume;
use crate::image::OpenOptions;
use crate::metadata::Metadata;
use crate::stored_hashes::{HashKind, StoredHash};

/// Collects the metadata of the disk and of the cases.
pub(super) fn metadata(volume: &Volume, image: &str, size: u64, options: &OpenOptions) -> Metadata {
    let text =
        |names: &[&str]| volume.property(image, names).map(str::to_owned).filter(|t| !t.trim().is_empty());
    let sector = volume.number(image, &["blockSize"]).and_then(|s| u32::try_from(s).ok());
    let sector = sector.filter(|s| s.is_power_of_two() && (512..=65536).contains(s)).unwrap_or(0);
    let mut metadata = Metadata {
        size_bytes: size,
        logical_sector_bytes: options.sector_size.unwrap_or(sector),
        model: text(&["diskModel", "model"]),
        serial: text(&["diskSerial", "serial"]),
        ..Metadata::default()
    };
    for (name, value) in [
        ("make", text(&["diskMake", "make"])),
        ("firmware", text(&["diskFirmware", "firmwareString"])),
        ("interface", text(&["diskInterfaceType"])),
        ("device", text(&["diskDeviceName", "deviceName"])),
        ("completed", text(&["acquisitionCompletionState"])),
    ] {
        metadata.more.extend(value.map(|v| (name.to_owned(), v.into())));
    }
    // Cases are subjects of their own, next to the image.
    let mut cases: Vec<_> = volume
        .subjects
        .iter()
        .filter(|(_, p)| p.contains_key("caseName") || p.contains_key("notes"))
        .collect();
    cases.sort_by_key(|(subject, _)| (*subject).clone());
    for (subject, _) in cases {
        for (property, name) in [
            ("caseName", "case_name"),
            ("caseDescription", "description"),
            ("examiner", "examiner"),
            ("caseNumber", "case_number"),
        ] {
            if let Some(value) = volume.property(subject, &[property]) {
                metadata.more.entry(name.to_owned()).or_insert_with(|| value.into());
            }
        }
        metadata.notes.extend(volume.property(subject, &["notes"]).map(str::to_owned));
    }
    metadata
}

/// Returns the hash with this AFF4 name, if it is supported.
fn kind_of(name: &str) -> Option<HashKind> {
    Some(match name {
        "MD5" => HashKind::Md5,
        "SHA1" => HashKind::Sha1,
        "SHA256" => HashKind::Sha256,
        "SHA512" => HashKind::Sha512,
        _ => return None,
    })
}

/// Returns the stored hashes of a subject that are of a supported kind.
pub(super) fn hashes(volume: &Volume, subject: &str) -> Vec<(HashKind, Vec<u8>)> {
    hashes_in(volume, subject, "hash")
}

/// Returns the hashes that this property of a subject has, and that are of a supported kind.
pub(super) fn hashes_in(volume: &Volume, subject: &str, property: &str) -> Vec<(HashKind, Vec<u8>)> {
    typed_hashes(volume, subject, property, &kind_of)
}

/// Returns the hash of the lists of block hashes and of the map together, which an image or its map has.
pub(super) fn block_map_hash(volume: &Volume, image: &str, map: &str) -> Option<(HashKind, Vec<u8>)> {
    let kind = |name: &str| kind_of(name.strip_prefix("blockMapHash")?);
    let found = typed_hashes(volume, image, "hash", &kind);
    found.into_iter().chain(hashes_in(volume, map, "blockMapHash")).next()
}

/// Returns the hashes that this property of a subject has, and of which `kind` knows the type.
fn typed_hashes(
    volume: &Volume,
    subject: &str,
    property: &str,
    kind: &dyn Fn(&str) -> Option<HashKind>,
) -> Vec<(HashKind, Vec<u8>)> {
    let values = volume.subjects.get(subject).and_then(|p| p.get(property));
    let bytes = |text: &str| {
        let pair = |n: usize| u8::from_str_radix(text.get(n..n + 2)?, 16).ok();
        (0..text.len()).step_by(2).map(pair).collect::<Option<Vec<u8>>>()
    };
    values.into_iter().flatten().filter_map(|v| Some((kind(&v.kind)?, bytes(&v.text)?))).collect()
}

/// Returns the stored hashes of the disk, or none unless the disk is `whole`: for unreadable sectors, the hashes
/// include a placeholder text, so they cannot be checked.
pub(super) fn stored_hashes(
    volume: &Volume,
    image: &str,
    data: &str,
    size: u64,
    whole: bool,
) -> Vec<StoredHash> {
    let mut of = vec![image];
    of.extend(Some(data).filter(|data| *data != image && volume.is(data, &["Map", "ImageStream"])));
    let found = of.into_iter().flat_map(|subject| hashes(volume, subject));
    found.filter(|_| whole).map(|(kind, value)| StoredHash::of_disk(size, kind, value)).collect()
}

//! Metadata about a disk and about how its image was made: small, printable, extensible.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::stored_hashes::{HashKind, ZERO_FILLED};

/// The metadata of an image. In a `.cdimg` file this is a JSON object with these names; names that a reader does not
/// know are kept in `more`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// The size of the disk in bytes.
    #[serde(default)]
    pub size_bytes: u64,
    /// The logical sector size of the disk in bytes; 0 where the format does not record it.
    #[serde(default)]
    pub logical_sector_bytes: u32,
    /// The physical sector size of the disk in bytes; 0 where the format does not record it.
    #[serde(default)]
    pub physical_sector_bytes: u32,
    /// The disk's model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The disk's serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// What the image was made from: a device or a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Free-form notes: by the person who made the image, and about what the image does not contain.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// When imaging started: RFC 3339, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// When imaging ended: RFC 3339, UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<String>,
    /// The program that made the image, with its version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// BLAKE3 of the rescued data (docs/FORMAT.md, "Hashes"), in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3_rescued: Option<String>,
    /// SHA-256 of the disk with zeros in place of unreadable data, in hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256_zero_filled: Option<String>,
    /// Any other metadata in the image.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

impl Metadata {
    /// Reads the JSON text of an image.
    pub fn parse(json: &[u8]) -> serde_json::Result<Metadata> {
        let mut metadata: Metadata = serde_json::from_slice(json)?;
        // The former name of this hash. A program that writes it does not know the new one, and leaves it as it was.
        if let Some(serde_json::Value::String(hex)) = metadata.more.remove("blake3_stored") {
            metadata.blake3_rescued = Some(hex);
        }
        Ok(metadata)
    }

    /// Returns the hash of this kind of the whole disk, with zeros where nothing could be read, in hex, if the image has it.
    pub fn zero_filled(&self, kind: HashKind) -> Option<&str> {
        match kind {
            HashKind::Sha256 => self.sha256_zero_filled.as_deref(),
            kind => self.more.get(kind.key())?.as_str(),
        }
    }

    /// Removes the hashes of the disk, because its bytes are about to change, and returns them.
    pub fn take_hashes(&mut self) -> DiskHashes {
        let of = |kind: HashKind| Some((kind, self.zero_filled(kind)?.to_owned()));
        let zero_filled: Vec<_> = ZERO_FILLED.into_iter().filter_map(of).collect();
        ZERO_FILLED.into_iter().for_each(|kind| self.set_zero_filled(kind, None));
        DiskHashes { blake3_rescued: self.blake3_rescued.take(), zero_filled }
    }

    /// Sets the hash of this kind of the whole disk.
    pub fn set_zero_filled(&mut self, kind: HashKind, hex: Option<String>) {
        match (kind, hex) {
            (HashKind::Sha256, hex) => self.sha256_zero_filled = hex,
            (kind, Some(hex)) => {
                self.more.insert(kind.key().into(), hex.into());
            }
            (kind, None) => {
                self.more.remove(kind.key());
            }
        }
    }
}

/// The hashes of a disk, in hex.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskHashes {
    /// BLAKE3 of what was rescued.
    pub blake3_rescued: Option<String>,
    /// Of the disk with zeros where nothing could be read.
    pub zero_filled: Vec<(HashKind, String)>,
}

impl DiskHashes {
    /// Writes them into `metadata`.
    pub fn store(self, metadata: &mut Metadata) {
        metadata.blake3_rescued = self.blake3_rescued;
        for (kind, hex) in self.zero_filled {
            metadata.set_zero_filled(kind, Some(hex));
        }
    }

    /// Returns whether there are the BLAKE3 hash and all of these kinds.
    pub fn has(&self, kinds: &[HashKind]) -> bool {
        self.blake3_rescued.is_some() && kinds.iter().all(|kind| self.of(*kind).is_some())
    }

    /// Returns the hash of this kind of the zero-filled disk.
    pub fn of(&self, kind: HashKind) -> Option<&str> {
        self.zero_filled.iter().find(|(k, _)| *k == kind).map(|(_, hex)| hex.as_str())
    }

    /// Returns what differs from what `metadata` store: the name of the hash, what is stored, and what it is.
    pub fn differences<'a>(&'a self, metadata: &'a Metadata) -> Vec<(String, &'a str, &'a str)> {
        let rescued = metadata.blake3_rescued.as_deref().zip(self.blake3_rescued.as_deref());
        let mut all: Vec<_> = rescued
            .into_iter()
            .map(|(stored, is)| ("BLAKE3 of what was rescued".to_owned(), stored, is))
            .collect();
        for (kind, is) in &self.zero_filled {
            let name = format!("{} of the zero-filled disk", kind.name());
            all.extend(metadata.zero_filled(*kind).map(|stored| (name, stored, is.as_str())));
        }
        all.retain(|(_, stored, is)| !stored.eq_ignore_ascii_case(is));
        all
    }
}

/// Formats a time as RFC 3339 in UTC, in whole seconds.
pub fn rfc3339(time: std::time::SystemTime) -> String {
    let seconds = time.duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's "civil from days", for dates after 1970.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn dates_are_formatted_as_by_date() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn the_hash_by_its_former_name_is_the_newer_one() {
        let parse = |json: &str| Metadata::parse(json.as_bytes()).unwrap();
        assert_eq!(parse(r#"{"blake3_stored":"b"}"#).blake3_rescued.as_deref(), Some("b"));
        let both = parse(r#"{"blake3_rescued":"a","blake3_stored":"b","model":"m"}"#);
        assert_eq!((both.blake3_rescued.as_deref(), both.model.as_deref()), (Some("b"), Some("m")));
        assert!(both.more.is_empty());
    }

    #[test]
    fn unknown_metadata_is_kept() {
        let metadata: Metadata =
            serde_json::from_str(r#"{"size_bytes":512,"wwn":"0x5000","model":"ST1"}"#).unwrap();
        assert_eq!(metadata.more["wwn"], "0x5000");
        let text = serde_json::to_string(&metadata).unwrap();
        assert_eq!(serde_json::from_str::<Metadata>(&text).unwrap(), metadata);
    }
}

//! What a SCSI disk says about a read that has failed.
//!
//! Sources: SPC-4, 4.5 (sense data).

/// What a SCSI disk says about a command that has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    /// The sense key.
    pub key: u8,
    /// The additional sense code.
    pub asc: u8,
    /// The additional sense code qualifier.
    pub ascq: u8,
    /// The number of the first sector that could not be read, if the disk says so.
    pub sector: Option<u64>,
}

/// The sense keys that are about the medium: MEDIUM ERROR and HARDWARE ERROR.
const ABOUT_MEDIUM: [u8; 2] = [3, 4];

impl Sense {
    /// Returns whether the sectors cannot be read, as far as the disk says; otherwise the command could not be done.
    pub fn is_about_medium(&self) -> bool {
        ABOUT_MEDIUM.contains(&self.key)
    }

    /// Decodes sense data: fixed format, or descriptors.
    pub fn decode(bytes: &[u8]) -> Option<Sense> {
        let at = |n: usize| bytes.get(n).copied().unwrap_or(0);
        match at(0) & 0x7f {
            // 0x71 and 0x73 are of an earlier command: they say nothing about this one.
            0x70 => {
                let number = bytes.get(3..7).map(|b| u64::from(u32::from_be_bytes([b[0], b[1], b[2], b[3]])));
                let sector = number.filter(|_| at(0) & 0x80 != 0);
                Some(Sense { key: at(2) & 0xf, asc: at(12), ascq: at(13), sector })
            }
            0x72 => {
                let end = bytes.len().min(8 + usize::from(at(7)));
                let mut rest = bytes.get(8..end).unwrap_or(&[]);
                let mut sector = None;
                while let [kind, len, ..] = *rest {
                    let (this, next) = rest.split_at((2 + usize::from(len)).min(rest.len()));
                    // An information descriptor, if it is valid.
                    if kind == 0 && this.len() >= 12 && this[2] & 0x80 != 0 {
                        sector =
                            Some(this[4..12].iter().fold(0, |number, byte| number << 8 | u64::from(*byte)));
                    }
                    rest = next;
                }
                Some(Sense { key: at(1) & 0xf, asc: at(2), ascq: at(3), sector })
            }
            _ => None,
        }
    }
}

/// The outcome of a read.
#[derive(Debug, PartialEq, Eq)]
pub enum SenseRead {
    /// All of it was read.
    Done,
    /// The disk could not read it.
    Failed(Sense),
    /// The command could not be done, for another reason: it may be possible in the usual way.
    NotDone,
}

/// A disk that takes SCSI commands: this system has no way to send them.
#[cfg(not(target_os = "linux"))]
pub enum SenseDevice {}

#[cfg(not(target_os = "linux"))]
impl SenseDevice {
    /// Returns None.
    pub fn of(_: &std::fs::File, _: &std::path::Path, _: u32) -> Option<SenseDevice> {
        None
    }

    /// Reads nothing: there is no such disk.
    pub fn read(&self, _: &std::fs::File, _: &mut [u8], _: u64) -> std::io::Result<SenseRead> {
        match *self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sense_data_of_both_formats_is_decoded() {
        let fixed = [0xf0, 0, 3, 0, 0, 0x12, 0x34, 10, 0, 0, 0, 0, 0x11, 4, 0, 0, 0, 0];
        let sense = Sense { key: 3, asc: 0x11, ascq: 4, sector: Some(0x1234) };
        assert_eq!(Sense::decode(&fixed), Some(sense));
        // The information is not valid.
        let fixed = [0x70, 0, 3, 0, 0, 0x12, 0x34, 10, 0, 0, 0, 0, 0x11, 4];
        assert_eq!(Sense::decode(&fixed), Some(Sense { sector: None, ..sense }));
        let mut described = vec![0x72, 3, 0x11, 4, 0, 0, 0, 16];
        // A descriptor of another kind, and then the information.
        described.extend([2, 2, 0, 0]);
        described.extend([0, 10, 0x80, 0, 0, 0, 0, 1, 0, 0, 0x12, 0x34]);
        assert_eq!(Sense::decode(&described), Some(Sense { sector: Some(0x1_0000_1234), ..sense }));
        // Of hostile data, at most the information is lost.
        for len in 0..described.len() {
            let _ = Sense::decode(&described[..len]);
        }
        assert_eq!(
            Sense::decode(&[0x72, 3, 0x11, 4, 0, 0, 0, 0xff, 0, 0xff]),
            Some(Sense { sector: None, ..sense })
        );
        assert_eq!(Sense::decode(&[0x71, 0, 3, 0, 0, 0x12, 0x34, 10]), None, "deferred");
        assert_eq!(Sense::decode(&[]), None);
        assert_eq!(Sense::decode(&[0; 18]), None);
    }
}

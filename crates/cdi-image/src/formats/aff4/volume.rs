//! An AFF4 volume: a zip file with uncompressed members, and the properties from its `information.turtle`.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use cdi_base::error::{Error, ReadError};
use cdi_base::units::index;
use oxrdf::Term;
use oxttl::TurtleParser;
use zip::{CompressionMethod, ZipArchive};

use crate::bytes::{flaw, le64};
use crate::codec::{Codec, decompress};
use crate::extent::FileNo;
use crate::input::Input;

/// Maximum length of the zip directory and of `information.turtle` in bytes: enough for an image of 64 TiB.
const MAX_DIRECTORY: u64 = 32 << 20;
const MAX_INFORMATION: u64 = 16 << 20;
/// Maximum size of the properties kept in memory, in bytes.
const MAX_KEPT: usize = 48 << 20;
/// The vocabulary of the standard, and the one used before it.
const SCHEMAS: [&str; 2] = ["http://aff4.org/Schema#", "http://afflib.org/2009/aff4#"];
const TYPE: &str = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type";

/// A member of the zip file: its offset and length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Member {
    pub file: FileNo,
    pub at: u64,
    pub len: u64,
    compression: Compression,
}

/// How a member is compressed. The only compressed member that is read is `information.turtle`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compression {
    Stored,
    /// With deflate; the uncompressed length in bytes.
    Deflated(u64),
    Other,
}

/// The properties of a subject: names, with their values.
pub(super) type Properties = HashMap<String, Vec<Value>>;

/// A value, and for literals its type, without the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    pub text: String,
    pub kind: String,
}

pub(super) struct Volume {
    /// The volume's name.
    pub urn: String,
    members: HashMap<String, Member>,
    pub subjects: HashMap<String, Properties>,
}

/// One of an image's files, as a reader with a position.
struct File<'a> {
    input: &'a Input,
    file: FileNo,
    at: u64,
}

impl io::Read for File<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.input.len_of(self.file).saturating_sub(self.at);
        let len = index(left.min(buf.len() as u64));
        self.input.read_exact_at(self.file, &mut buf[..len], self.at).map_err(io::Error::other)?;
        self.at += len as u64;
        Ok(len)
    }
}

impl io::Seek for File<'_> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let len = self.input.len_of(self.file);
        let to = match to {
            io::SeekFrom::Start(at) => Some(at),
            io::SeekFrom::End(by) => len.checked_add_signed(by),
            io::SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = to.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// Returns the volume's name from the zip file's comment; None if it is not an AFF4 volume.
pub(super) fn name(input: &Input, file: FileNo) -> Option<String> {
    // The end record has 22 bytes, and the name 43; some writers append a zero.
    let len = input.len_of(file);
    for comment in [43, 44] {
        let at = len.checked_sub(22 + comment)?;
        let end = input.bytes_of(file, at, index(22 + comment), "the end of the zip file").ok()?;
        let is_it =
            end.starts_with(b"PK\x05\x06") && u64::from(u16::from_le_bytes([end[20], end[21]])) == comment;
        if let (true, Some(urn)) = (is_it, end.get(22..65).filter(|urn| urn.starts_with(b"aff4://"))) {
            return Some(String::from_utf8_lossy(urn).into_owned());
        }
    }
    None
}

impl Volume {
    pub(super) fn open(input: &Input, file: FileNo) -> Result<Volume, Error> {
        let damaged = |e: zip::result::ZipError| {
            Error::bad_image(format!("invalid zip file: {e}")).at(&input.path_of(file))
        };
        // Limit the length of the directory, from the end record: the crate's copy of it in memory is several times as
        // long.
        let tail = input.len_of(file).saturating_sub(66 << 10);
        let end = input.bytes_of(file, tail, index(input.len_of(file) - tail), "the end of the zip file")?;
        if let Some(at) = end.windows(4).rposition(|w| w == b"PK\x05\x06")
            && let Some(len) = end.get(at + 12..at + 16)
        {
            let mut len = u64::from(u32::from_le_bytes([len[0], len[1], len[2], len[3]]));
            if len == u64::from(u32::MAX) {
                // The longer (zip64) form of the record comes before it.
                let record = end[..at].windows(4).rposition(|w| w == b"PK\x06\x06");
                len = record.map_or(u64::MAX, |record| le64(&end, record + 40));
            }
            if len > MAX_DIRECTORY {
                return flaw(tail + at as u64, format!("the zip directory is too long ({len} bytes)"));
            }
        }
        let mut zip = ZipArchive::new(File { input, file, at: 0 }).map_err(damaged)?;
        let mut members = HashMap::new();
        for n in 0..zip.len() {
            let member = zip.by_index_raw(n).map_err(damaged)?;
            let Some(at) = member.data_start() else { continue };
            let len = member.compressed_size();
            let compression = match member.compression() {
                CompressionMethod::Stored => Compression::Stored,
                CompressionMethod::DEFLATE => Compression::Deflated(member.size()),
                _ => Compression::Other,
            };
            members.insert(decoded(member.name()), Member { file, at, len, compression });
        }
        let mut volume = Volume { urn: String::new(), members, subjects: HashMap::new() };
        volume.urn = match volume.members.get("container.description") {
            Some(member) => {
                String::from_utf8_lossy(&volume.bytes(input, *member, 1024)?).trim_end_matches('\0').into()
            }
            None => name(input, file).unwrap_or_default(),
        };
        let Some(information) = volume.members.get("information.turtle").copied() else {
            return Err(
                Error::bad_image("not an AFF4 image: information.turtle is missing").at(&input.path_of(file))
            );
        };
        let text = volume.bytes(input, information, MAX_INFORMATION)?;
        let mut kept = 0;
        for triple in TurtleParser::new().lenient().for_slice(&text) {
            let triple = triple.or_else(|e| flaw(information.at, format!("information.turtle: {e}")))?;
            let name = |iri: &str| {
                let short = SCHEMAS.iter().find_map(|schema| iri.strip_prefix(schema));
                short.unwrap_or(if iri == TYPE { "type" } else { iri }).to_owned()
            };
            let value = match &triple.object {
                Term::NamedNode(node) => Value { text: node.as_str().into(), kind: String::new() },
                Term::Literal(l) => Value { text: l.value().into(), kind: name(l.datatype().as_str()) },
                _ => continue,
            };
            // Blank subjects cannot be looked up.
            let oxrdf::NamedOrBlankNode::NamedNode(subject) = &triple.subject else { continue };
            // Long prefixes can expand a short text to many bytes.
            kept += subject.as_str().len() + triple.predicate.as_str().len() + value.text.len();
            if kept > MAX_KEPT {
                return flaw(information.at, "information.turtle has too many properties");
            }
            let properties = volume.subjects.entry(subject.as_str().to_owned()).or_default();
            properties.entry(name(triple.predicate.as_str())).or_default().push(value);
        }
        Ok(volume)
    }

    /// Reads a whole member, decompressed. Returns an error if it has more than `max` bytes.
    pub(super) fn bytes(&self, input: &Input, member: Member, max: u64) -> Result<Vec<u8>, Error> {
        let uncompressed = match member.compression {
            Compression::Stored => member.len,
            Compression::Deflated(len) => len,
            Compression::Other => u64::MAX,
        };
        if member.len > max || uncompressed > max {
            return flaw(
                member.at,
                match member.compression {
                    Compression::Other => "a zip member is compressed, not by deflate (not supported)".into(),
                    _ => format!("a zip member is too long: {uncompressed} bytes"),
                },
            );
        }
        let bytes = input.bytes_of(member.file, member.at, index(member.len), "a member of the zip file")?;
        if member.compression == Compression::Stored {
            return Ok(bytes);
        }
        let mut out = vec![0; index(uncompressed)];
        match decompress(Codec::Deflate, &bytes, &mut out) {
            Ok(()) => Ok(out),
            Err(_) => flaw(member.at, "a compressed zip member is damaged"),
        }
    }

    /// Decompresses the members that the zip file compresses, although chunks are compressed already: at most `left`
    /// bytes.
    pub(super) fn inflate(&mut self, input: &Input, left: &mut u64) -> Result<(), Error> {
        let is_needed = |(name, member): &(&String, &Member)| {
            let last = name.rsplit('/').next().unwrap_or_default();
            let is_number = |text: &str| text.len() == 8 && text.bytes().all(|b| b.is_ascii_digit());
            let is_part = ["map", "idx", "mapPath", "index"].contains(&last);
            let is_bevy = last.split('.').next().is_some_and(is_number);
            member.compression != Compression::Stored && (is_part || is_bevy)
        };
        let mut names: Vec<String> =
            self.members.iter().filter(is_needed).map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        for name in names {
            let member = self.members[&name];
            let bytes = self.bytes(input, member, *left).map_err(|e| {
                let hint = "repack the image's members without compression: unzip it, then zip -0 -r";
                e.hint(hint)
            })?;
            *left -= bytes.len() as u64;
            let len = bytes.len() as u64;
            let file = input.derive(Arc::new(bytes), &input.path_of(member.file))?;
            self.members.insert(name, Member { file, at: 0, len, compression: Compression::Stored });
        }
        Ok(())
    }

    /// Finds the uncompressed member of this name. Members' names may be relative to the volume's.
    pub(super) fn member(&self, urn: &str) -> Option<Member> {
        let short = || urn.strip_prefix(self.urn.as_str()).map(|rest| rest.trim_start_matches('/'));
        self.members
            .get(urn)
            .or_else(|| self.members.get(short()?))
            .copied()
            .filter(|m| m.compression == Compression::Stored)
    }

    /// Returns the first value of the first of these properties that a subject has.
    pub(super) fn property(&self, subject: &str, names: &[&str]) -> Option<&str> {
        let properties = self.subjects.get(subject)?;
        names.iter().find_map(|name| Some(properties.get(*name)?.first()?.text.as_str()))
    }

    /// Returns the same as [`Volume::property`], as a number.
    pub(super) fn number(&self, subject: &str, names: &[&str]) -> Option<u64> {
        self.property(subject, names)?.parse().ok()
    }

    /// Checks whether a subject is of one of these types.
    pub(super) fn is(&self, subject: &str, types: &[&str]) -> bool {
        let found = self.subjects.get(subject).and_then(|p| p.get("type"));
        found.is_some_and(|found| {
            found.iter().any(|t| types.iter().any(|name| without_schema(&t.text) == *name))
        })
    }
}

/// Removes the schema from a name.
pub(super) fn without_schema(iri: &str) -> &str {
    SCHEMAS.iter().find_map(|schema| iri.strip_prefix(schema)).unwrap_or(iri)
}

/// Decodes the escapes (%3A) in a member's name.
fn decoded(name: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), name.as_bytes());
    while let Some((first, tail)) = rest.split_first() {
        let hex = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        let byte = if *first == b'%' { hex(0).zip(hex(1)).map(|(a, b)| a << 4 | b) } else { None };
        match byte.and_then(|b| u8::try_from(b).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[2..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Reads entry `n` of a member that consists of entries as long as `buf`; returns an error if the member is too short.
pub(super) fn entry(input: &Input, member: Member, n: u64, buf: &mut [u8]) -> Result<(), ReadError> {
    let len = buf.len() as u64;
    let at = n.checked_mul(len).filter(|at| at.checked_add(len).is_some_and(|end| end <= member.len));
    let at = at.ok_or(ReadError::Corrupt { at: member.at })?;
    input.read_exact_at(member.file, buf, member.at + at)
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn escapes_in_names_are_decoded() {
        assert_eq!(decoded("aff4%3A%2F%2Fx/00000000"), "aff4://x/00000000");
        assert_eq!(decoded("100%"), "100%");
        assert_eq!(decoded("%zz%4"), "%zz%4");
    }
}

//! Hashes of an AFF4 image's structures: of the lists of block hashes, of the map, and of all these together.
//!
//! Source: "AFF4 Standard" 1.0a, 6.2 "Block Map Hashing", checked against the reference images.

use std::ops::Range;

use cdi_base::error::{Error, Flaw};
use cdi_base::printable::hex;
use cdi_base::units::index;

use super::metadata::{block_map_hash, hashes, hashes_in};
use super::stream::Stream;
use super::volume::{Member, Volume};
use crate::image::CheckCancelled;
use crate::input::Input;
use crate::stored_hashes::{HashKind, Hasher};

/// The kinds of block hashes, in the order in which the hash of everything takes them in.
const KINDS: [&str; 5] = ["md5", "sha1", "sha256", "sha512", "blake2b"];
/// How many bytes are hashed at a time.
const PIECE: u64 = 1 << 20;

/// The parts of a volume that are checked.
pub(super) struct Parts<'a> {
    pub input: &'a Input,
    pub volumes: &'a [Volume],
    pub streams: &'a [Stream],
    /// The names of the image and of its map, in the first volume.
    pub image: &'a str,
    pub map: &'a str,
}

/// Checks all hashes of lists and of the map that are stored.
pub(super) fn check(
    parts: &Parts<'_>,
    report: &mut dyn FnMut(Flaw, &str),
    check_cancelled: &mut CheckCancelled<'_>,
) -> Result<(), Error> {
    let Parts { input, volumes, streams, image, map } = parts;
    let all = block_map_hash(&volumes[0], image, map);
    // Of several streams, the order in which they are taken in is not known.
    let all = all.as_ref().filter(|_| streams.len() == 1);
    let mut above = all.map(|(kind, _)| Hasher::new(*kind));
    for stream in *streams {
        let volume = &volumes[stream.volume];
        for kind in KINDS {
            let members = lists(volume, stream, kind);
            if members.is_empty() {
                continue;
            }
            let stored = hashes(volume, &format!("{}/blockhash.{kind}", stream.urn));
            for (of, value) in &stored {
                let is = hash(input, &members, *of, check_cancelled)?;
                let what = format!("the list of block hashes ({kind}) of stream {}", stream.urn);
                compare(&what, members[0].at, *of, is.as_deref(), value, report);
            }
            if let Some((above, (of, _))) = above.as_mut().zip(all) {
                above.update(&hash(input, &members, *of, check_cancelled)?.unwrap_or_default());
            }
        }
    }
    for (name, property) in [("map", "mapPointHash"), ("idx", "mapIdxHash"), ("mapPath", "mapPathHash")] {
        let Some(member) = volumes[0].member(&format!("{map}/{name}")) else { continue };
        let stored = hashes_in(&volumes[0], map, property);
        for (of, value) in &stored {
            let is = hash(input, &[member], *of, check_cancelled)?;
            compare(&format!("the map's part '{name}'"), member.at, *of, is.as_deref(), value, report);
        }
        if let Some((above, (of, _))) = above.as_mut().zip(all).filter(|_| !stored.is_empty()) {
            above.update(&hash(input, &[member], *of, check_cancelled)?.unwrap_or_default());
        }
    }
    if let Some((above, (of, value))) = above.zip(all) {
        let what = "the lists of block hashes and the map together";
        compare(what, 0, *of, Some(&above.finish()), value, report);
    }
    Ok(())
}

/// Returns the members with the block hashes of a stream, in order.
fn lists(volume: &Volume, stream: &Stream, kind: &str) -> Vec<Member> {
    let Some(ending) = stream.block_hashes(volume, kind) else { return Vec::new() };
    let bevies: Range<u64> = 0..stream.bevies();
    bevies.map_while(|bevy| stream.with_ending(volume, bevy, &ending)).collect()
}

/// Reports a difference. `is` is None if the bytes could not be read.
fn compare(
    what: &str,
    at: u64,
    kind: HashKind,
    is: Option<&[u8]>,
    stored: &[u8],
    report: &mut dyn FnMut(Flaw, &str),
) {
    if is == Some(stored) {
        return;
    }
    let is = is.map_or("cannot be read".into(), |is| format!("is {}", hex(is)));
    let what = format!("{} mismatch of {what}: it {is}, stored hash: {}", kind.name(), hex(stored));
    report(Flaw::at(at, what), "unknown: parts of the disk may come from wrong places, or be damaged");
}

/// Returns the hash of these members, one after the other; None if they cannot be read.
fn hash(
    input: &Input,
    members: &[Member],
    kind: HashKind,
    check_cancelled: &mut CheckCancelled<'_>,
) -> Result<Option<Vec<u8>>, Error> {
    let mut hasher = Hasher::new(kind);
    let mut bytes = Vec::new();
    for member in members {
        let mut done = 0;
        while done < member.len {
            bytes.resize(index(PIECE.min(member.len - done)), 0);
            if input.read_exact_at(member.file, &mut bytes, member.at + done).is_err() {
                return Ok(None);
            }
            hasher.update(&bytes);
            done += bytes.len() as u64;
            check_cancelled()?;
        }
    }
    Ok(Some(hasher.finish()))
}

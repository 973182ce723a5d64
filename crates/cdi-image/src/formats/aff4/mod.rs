//! AFF4 images: maps and streams, optionally striped over several volumes, including images from before the standard.
//!
//! Sources: "AFF4 Standard" 1.0a (Schatz, Cohen), its reference images, and images by Evimetry and pyaff4. A volume is
//! a zip file whose `information.turtle` describes its contents. A map assigns parts of the disk to streams; unreadable
//! parts have a target of their own.

mod hash_lists;
mod map;
mod metadata;
mod stream;
mod volume;

use std::path::Path;
use std::sync::Arc;

use cdi_base::error::{Error, Flaw, ReadError};
use cdi_base::units::{SECTOR, index};
use hash_lists::Parts;
use map::{Run, Target};
use metadata::{hashes, metadata, stored_hashes};
use stream::Stream;
use volume::Volume;

use crate::badmap::{BadBlocks, BadRange, Status};
use crate::bytes::flaw;
use crate::codec::decompress;
use crate::details::ImageDetails;
use crate::extent::{CompressedChunk, Extent, Origin};
use crate::image::{CheckCancelled, Format, Image, OpenOptions};
use crate::input::Input;
use crate::stored_hashes::Hasher;
use cdi_base::printable::hex;

/// AFF4's images.
pub const FORMAT: Format = Format {
    name: "aff4",
    summary: "AFF4 images: maps, streams and striped images, including those from before the standard",
    integrity: "hashes of the chunks, if stored; hashes of the streams, the map or the disk, if stored, checked on \
        verification",
    suffixes: &["aff4", "af4"],
    probe: |input| volume::name(input, Input::MAIN).is_some(),
    open,
};

/// Maximum number of files next to the image to probe for the other volumes of a striped set.
const MAX_PROBED: usize = 4096;
/// Maximum number of streams of a disk.
const MAX_STREAMS: usize = 4096;
/// Maximum length of all members together that are compressed by zip, in bytes: they are decompressed at opening.
const MAX_INFLATED: u64 = 32 << 20;
/// Maximum length of a map's list of targets in bytes.
const MAX_TARGETS: u64 = 1 << 20;

struct Aff4 {
    input: Arc<Input>,
    volumes: Vec<Volume>,
    streams: Vec<Stream>,
    targets: Vec<Found>,
    /// The data of the parts of the disk that no run covers.
    gap: Found,
    runs: Vec<Run>,
    /// The names of the image, and of the map or stream that is the disk.
    image: String,
    data: String,
    details: ImageDetails,
}

/// A resolved target.
#[derive(Debug, Clone, Copy)]
enum Found {
    Stream(usize),
    Byte(u8),
    Missing(Status),
}

fn open(input: Arc<Input>, options: &OpenOptions) -> Result<Box<dyn Image>, Error> {
    let mut volume = Volume::open(&input, Input::MAIN)?;
    let mut warnings = Vec::new();
    let image = image(&volume, &mut warnings)?;
    let mut inflatable = MAX_INFLATED;
    volume.inflate(&input, &mut inflatable)?;
    let data = volume.property(&image, &["dataStream"]).unwrap_or(&image).to_owned();
    let mut opening =
        Opening { input: &input, volumes: vec![volume], inflatable, streams: Vec::new(), others: None };
    let (targets, runs, gap, size);
    if opening.volumes[0].member(&format!("{data}/map")).is_some() {
        (targets, runs, gap, size) = opening.map(&data, &image)?;
    } else {
        let found = opening.target(Target::Stream(data.clone()))?;
        let Found::Stream(n) = found else { return flaw(0, "the image has no data stream") };
        let whole = opening.streams[n].size;
        size = opening.volumes[0].number(&image, &["size"]).unwrap_or(whole);
        runs = vec![Run { disk: 0..whole.min(size), at: 0, target: 0 }];
        (targets, gap) = (vec![found], Found::Byte(0));
    }
    if size == 0 || i64::try_from(size).is_err() {
        return flaw(0, format!("invalid disk size: {size} bytes"));
    }
    let Opening { volumes, streams, .. } = opening;
    if volumes.len() > 1 {
        warnings.push(format!("the image is striped over {} volumes", volumes.len()));
    }
    let missing = runs.iter().filter_map(|run| match targets.get(run.target) {
        Some(Found::Missing(status)) => Some(BadRange::new(run.disk.clone(), *status)),
        _ => None,
    });
    // Parts that no run covers may be missing as well.
    let mut gaps = Vec::new();
    if let Found::Missing(status) = gap {
        let mut at = 0;
        for run in &runs {
            gaps.push(BadRange::new(at..run.disk.start, status));
            at = run.disk.end;
        }
        gaps.push(BadRange::new(at..size, status));
        gaps.retain(|gap| gap.start < gap.end);
    }
    let missing = missing.chain(gaps);
    let metadata = metadata(&volumes[0], &image, size, options);
    // Runs need not begin and end at sectors.
    let sector = match metadata.logical_sector_bytes {
        0 => SECTOR,
        sector => sector,
    };
    let bad = BadBlocks::from_unsorted(missing).rounded(sector, size);
    let stored_hashes = stored_hashes(&volumes[0], &image, &data, size, bad.is_empty());
    Ok(Box::new(Aff4 {
        input: Arc::clone(&input),
        volumes,
        streams,
        targets,
        gap,
        runs,
        image,
        data,
        details: ImageDetails { bad, stored_hashes, metadata, warnings, ..ImageDetails::default() },
    }))
}

/// Returns the name of the image in a volume: the subject with a data stream, or in older volumes, the map of type
/// Image.
fn image(volume: &Volume, warnings: &mut Vec<String>) -> Result<String, Error> {
    let mut images: Vec<&String> =
        volume.subjects.keys().filter(|s| volume.property(s, &["dataStream"]).is_some()).collect();
    if images.is_empty() {
        let is_map = |s: &&String| volume.is(s, &["map", "Map"]) && volume.is(s, &["Image"]);
        images = volume.subjects.keys().filter(is_map).collect();
    }
    // Prefer disks to anything else, in a deterministic order.
    images.sort_by_key(|s| (!volume.is(s, &["DiskImage"]), (*s).clone()));
    let Some(first) = images.first() else {
        let encrypted = volume.subjects.keys().any(|s| volume.is(s, &["EncryptedStream"]));
        let logical = volume.subjects.keys().any(|s| volume.is(s, &["FileImage"]));
        return Err(Error::bad_image(match (encrypted, logical) {
            (true, _) => "encrypted AFF4 volume (not supported)",
            (_, true) => "logical AFF4 image (AFF4-L): it contains files, not a disk",
            _ => "the AFF4 volume contains no disk image",
        }));
    };
    if images.len() > 1 {
        warnings.push(format!("the volume contains {} images; using {first}", images.len()));
    }
    Ok((*first).clone())
}

/// The state while an image is opened.
struct Opening<'a> {
    input: &'a Input,
    volumes: Vec<Volume>,
    /// How many bytes of compressed members may still be decompressed.
    inflatable: u64,
    streams: Vec<Stream>,
    /// The files next to the image that are volumes, with the volumes' names; None until they are needed.
    others: Option<Vec<(String, crate::extent::FileNo)>>,
}

impl Opening<'_> {
    fn map(&mut self, urn: &str, image: &str) -> Result<(Vec<Found>, Vec<Run>, Found, u64), Error> {
        let volume = &self.volumes[0];
        let part = |name: &str| {
            let member = volume.member(&format!("{urn}/{name}"));
            member.ok_or_else(|| {
                Error::bad_image(format!("the image's map is incomplete: '{name}' is missing"))
            })
        };
        let (map, names) = (part("map")?, part("idx")?);
        let Some(size) = volume.number(urn, &["size"]).or_else(|| volume.number(image, &["size"])) else {
            return flaw(map.at, "the image does not contain the size of the disk");
        };
        let names = volume.bytes(self.input, names, MAX_TARGETS)?;
        let names = String::from_utf8_lossy(&names).into_owned();
        let gap = volume.property(urn, &["mapGapDefaultStream"]).map_or(Target::Byte(0), Target::of);
        let runs = map::read(self.input, map, names.lines().count(), size)?;
        // Targets that no run uses may be missing.
        let mut used = vec![false; names.lines().count()];
        runs.iter().for_each(|run| used[run.target] = true);
        let mut targets = Vec::new();
        for (name, used) in names.lines().zip(used) {
            targets.push(if used { self.target(Target::of(name.trim()))? } else { Found::Byte(0) });
        }
        let gap = self.target(gap)?;
        Ok((targets, runs, gap, size))
    }

    fn target(&mut self, target: Target) -> Result<Found, Error> {
        let urn = match target {
            Target::Byte(byte) => return Ok(Found::Byte(byte)),
            Target::Unreadable => return Ok(Found::Missing(Status::Bad)),
            Target::Unknown => return Ok(Found::Missing(Status::NonTried)),
            Target::Stream(urn) => urn,
        };
        let number = self.volume_with(&urn)?;
        if let Some(n) = self.streams.iter().position(|s| s.urn == urn) {
            return Ok(Found::Stream(n));
        }
        if self.streams.len() >= MAX_STREAMS {
            return flaw(0, format!("more than {MAX_STREAMS} streams (not supported)"));
        }
        let stream = Stream::open(self.input, &self.volumes[number], number, &urn)?;
        self.streams.push(stream);
        Ok(Found::Stream(self.streams.len() - 1))
    }

    /// Returns the number of the volume that contains a stream: an open one, or the one named in the image, which is
    /// then searched for next to the image.
    fn volume_with(&mut self, urn: &str) -> Result<usize, Error> {
        let contains = |v: &Volume| {
            v.member(&format!("{urn}/00000000")).is_some() || v.number(urn, &["size"]) == Some(0)
        };
        if let Some(n) = self.volumes.iter().position(contains) {
            return Ok(n);
        }
        let stored_in = self.volumes[0].property(urn, &["stored"]).unwrap_or_default().to_owned();
        if stored_in == self.volumes[0].urn || stored_in.is_empty() {
            return flaw(0, format!("stream {urn} is missing from the image"));
        }
        if self.volumes.iter().any(|v| v.urn == stored_in) {
            return flaw(0, format!("stream {urn} is missing from its volume {stored_in}"));
        }
        if self.others.is_none() {
            let mut others = Vec::new();
            let mut names = self.input.names(Path::new(""))?.unwrap_or_default();
            // Files with the usual suffix first, in a deterministic order.
            let has_suffix = |name: &String| name.ends_with(".aff4") || name.ends_with(".af4");
            names.sort_by_key(|name| (!has_suffix(name), name.clone()));
            for name in names.iter().take(MAX_PROBED) {
                let Some(file) = self.input.candidate(Path::new(name))? else { continue };
                others.extend(volume::name(self.input, file).map(|urn| (urn, file)));
            }
            self.others = Some(others);
        }
        let others = self.others.as_deref().unwrap_or_default();
        let Some((_, file)) = others.iter().find(|(urn, _)| *urn == stored_in) else {
            return Err(Error::bad_image(format!(
                "volume {stored_in}, which contains part of the disk, was not found next to the image"
            ))
            .hint("put all volumes of the set into the image's directory"));
        };
        let path = self.input.path_of(*file);
        let mut volume = Volume::open(self.input, *file).map_err(|e| e.at(&path))?;
        volume.inflate(self.input, &mut self.inflatable).map_err(|e| e.at(&path))?;
        self.volumes.push(volume);
        Ok(self.volumes.len() - 1)
    }
}

impl Aff4 {
    fn origin(&self, found: Found, run: &Run, offset: u64) -> Result<Extent, ReadError> {
        let whole = |origin| Ok(Extent { disk: run.disk.clone(), origin });
        let stream = match found {
            Found::Byte(byte) => return whole(Origin::Fill([byte; 8])),
            Found::Missing(_) => return whole(Origin::Unread),
            Found::Stream(n) => &self.streams[n],
        };
        let at = run.at + (offset - run.disk.start);
        if at >= stream.size {
            return Err(ReadError::Unmapped { offset });
        }
        let (chunk, origin) = stream.map(&self.input, &self.volumes[stream.volume], at)?;
        // Include the parts of the chunk before and after `offset` that belong to the run.
        let before = (at - chunk.start).min(offset - run.disk.start);
        let disk = offset - before..run.disk.end.min(offset + (chunk.end - at));
        let skip = at - chunk.start - before;
        let origin = match origin {
            Origin::Compressed(p) => {
                Origin::Compressed(CompressedChunk { skip: u32::try_from(skip).unwrap_or(u32::MAX), ..p })
            }
            Origin::Stored { file, at } => Origin::Stored { file, at: at + skip },
            other => other,
        };
        Ok(Extent { disk, origin })
    }

    /// Reads a stream from beginning to end and passes its data to `each`, until that returns false.
    fn each_chunk(&self, stream: &Stream, each: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), ReadError> {
        let mut at = 0;
        let (mut stored, mut bytes) = (Vec::new(), Vec::new());
        while at < stream.size {
            let (chunk, origin) = stream.map(&self.input, &self.volumes[stream.volume], at)?;
            let len = index(chunk.end - chunk.start);
            match origin {
                Origin::Compressed(p) => {
                    stored.resize(p.len as usize, 0);
                    bytes.resize(p.uncompressed as usize, 0);
                    self.input.read_exact_at(p.file, &mut stored, p.at)?;
                    decompress(p.codec, &stored, &mut bytes).map_err(|_| ReadError::Corrupt { at: p.at })?;
                }
                Origin::Stored { file, at } => {
                    bytes.resize(len, 0);
                    self.input.read_exact_at(file, &mut bytes, at)?;
                }
                _ => return Err(ReadError::Unmapped { offset: at }),
            }
            if !each(&bytes[..len]) {
                return Ok(());
            }
            at = chunk.end;
        }
        Ok(())
    }
}

impl Image for Aff4 {
    fn size(&self) -> u64 {
        self.details.metadata.size_bytes
    }

    fn map(&self, offset: u64) -> Result<Extent, ReadError> {
        let next = self.runs.partition_point(|r| r.disk.end <= offset);
        match self.runs.get(next).filter(|r| r.disk.start <= offset) {
            Some(run) => self.origin(self.targets[run.target], run, offset),
            None => {
                let start = next.checked_sub(1).map_or(0, |before| self.runs[before].disk.end);
                let end = self.runs.get(next).map_or(self.size(), |r| r.disk.start);
                // A stream in a gap is read at the disk's own offset.
                self.origin(self.gap, &Run { disk: start..end, at: start, target: 0 }, offset)
            }
        }
    }

    fn check(
        &self,
        report: &mut dyn FnMut(Flaw, &str),
        check_cancelled: &mut CheckCancelled<'_>,
    ) -> Result<(), Error> {
        let Aff4 { input, volumes, streams, image, data, .. } = self;
        hash_lists::check(&Parts { input, volumes, streams, image, map: data }, report, check_cancelled)?;
        // These are hashes of whole streams, as opposed to the disk that the map makes of them.
        for stream in &self.streams {
            let stored = hashes(&self.volumes[stream.volume], &stream.urn);
            if stored.is_empty() {
                continue;
            }
            let mut hashers: Vec<Hasher> = stored.iter().map(|(kind, _)| Hasher::new(*kind)).collect();
            let mut ended = Ok(());
            let read = self.each_chunk(stream, &mut |bytes| {
                hashers.iter_mut().for_each(|h| h.update(bytes));
                ended = check_cancelled();
                ended.is_ok()
            });
            ended?;
            // Read errors are reported when the disk itself is read.
            if read.is_err() {
                continue;
            }
            for ((kind, value), hasher) in stored.into_iter().zip(hashers) {
                let is = hasher.finish();
                if is != value {
                    let (kind, is, value) = (kind.name(), hex(&is), hex(&value));
                    let what =
                        format!("{kind} mismatch of stream {}: {is}, stored hash: {value}", stream.urn);
                    report(Flaw::at(0, what), "unknown: some of the stream's data is damaged");
                }
            }
        }
        Ok(())
    }

    fn details(&self) -> &ImageDetails {
        &self.details
    }
}

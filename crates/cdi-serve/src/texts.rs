//! The JSON documents about a disk: the files next to it in the mounted directory, and the output of the commands with
//! `--json`. docs/SEMANTICS.md has the schemas.

use cdi_image::badmap::{self, BadRange, Reason, Status};
use cdi_image::cdimg;
use cdi_image::disk::Disk;
use cdi_image::disk::live::Live;
use cdi_image::input::PackedFile;
use cdi_image::input::parity::ParitySummary;
use cdi_image::text::listing::{Listing, Out};
use serde_json::{Value, json};

/// Returns the metadata of an image: the content of `info.json` and the output of `cdi info --json`.
pub fn info(disk: &Disk) -> Value {
    let mut info = json!({
        "image": disk.input().path().display().to_string(),
        "image_bytes": disk.input().total_len(),
        "format": disk.format().name,
        "integrity": disk.format().integrity,
        "size_bytes": disk.size(),
        "logical_sector_bytes": disk.sector(),
        "warnings": disk.image().warnings(),
        "blocks": counts(disk.bad(), disk.size()),
        "lost_bytes": disk.image().lost().iter().map(|r| r.end - r.start).sum::<u64>(),
        "parity": disk.input().parity().map(|known| parity(&known.summary())),
        "packed_files": disk.image().details().packed.iter().map(packed).collect::<Vec<_>>(),
        "metadata": disk.metadata(),
    });
    if let Some(how) = disk.input().encryption() {
        info["encryption"] = how.into();
    }
    info
}

/// Returns the parity of an image as JSON.
pub fn parity(summary: &ParitySummary) -> Value {
    json!({
        "percent": f64::from(summary.hundredths) / 100.0,
        "covered_bytes": summary.covered_end,
        "parity_bytes": summary.parity_bytes,
    })
}

fn packed(file: &PackedFile) -> Value {
    json!({
        "file": file.path.display().to_string(),
        "packing": file.packing,
        "file_bytes": file.packed_bytes,
        "restart_points": file.points,
    })
}

/// Returns the same of a disk that is being imaged, of which `bad` is not in the image now.
pub fn live_info(disk: &dyn Live, bad: &badmap::BadBlocks) -> Value {
    json!({
        "image": disk.image().display().to_string(),
        "image_bytes": std::fs::metadata(disk.image()).map_or(0, |meta| meta.len()),
        "format": cdimg::FORMAT.name,
        "integrity": cdimg::FORMAT.integrity,
        "size_bytes": disk.size(),
        "logical_sector_bytes": disk.sector(),
        "warnings": ["the disk is being imaged"],
        "blocks": counts(bad, disk.size()),
        "lost_bytes": 0,
        "metadata": disk.metadata(),
    })
}

/// The bad-block map of a disk as JSON, one line per range: the content of `badblocks.json` and the output of
/// `cdi map --bad --json`.
pub struct BadBlocks<'a> {
    /// The map.
    pub map: &'a badmap::BadBlocks,
    /// The size of the disk in bytes.
    pub size: u64,
    /// The logical sector size in bytes.
    pub sector: u32,
}

impl BadBlocks<'_> {
    /// Returns the map of `disk`.
    pub fn of(disk: &Disk) -> BadBlocks<'_> {
        BadBlocks { map: disk.bad(), size: disk.size(), sector: disk.sector() }
    }
}

impl Listing for BadBlocks<'_> {
    fn len(&self) -> usize {
        self.map.ranges().len()
    }

    fn begin(&self, out: &mut impl Out) {
        for (name, value) in [
            ("{\n  \"version\": ", json!(1)),
            (",\n  \"size_bytes\": ", json!(self.size)),
            (",\n  \"logical_sector_bytes\": ", json!(self.sector)),
            (",\n  \"sectors\": ", json!(self.size.div_ceil(self.sector.into()))),
            (",\n  \"blocks\": ", counts(self.map, self.size)),
        ] {
            out.text(name);
            out.text(&value.to_string());
        }
        out.text(",\n  \"ranges\": [");
    }

    fn item(&self, at: usize, out: &mut impl Out) -> usize {
        let (r, sector) = (&self.map.ranges()[at], u64::from(self.sector));
        let first = r.start / sector;
        out.text(if at == 0 { "\n    {" } else { ",\n    {" });
        for (name, number) in [
            ("\"first_sector\": ", first),
            (", \"sectors\": ", r.end.div_ceil(sector) - first),
            (", \"offset_bytes\": ", r.start),
            (", \"length_bytes\": ", r.len()),
        ] {
            out.text(name);
            out.number(number);
        }
        out.text(", \"status\": \"");
        out.text(r.status.name());
        out.text("\"");
        match r.reason {
            None => {}
            Some(Reason::Errno(errno)) => {
                out.text(", \"reason\": {\"errno\": ");
                out.number(errno.get().into());
                out.text("}");
            }
            Some(Reason::Sense { key, asc, ascq }) => {
                let numbers = [("{\"key\": ", key), (", \"asc\": ", asc), (", \"ascq\": ", ascq)];
                out.text(", \"reason\": {\"sense\": ");
                for (name, number) in numbers {
                    out.text(name);
                    out.number(number.into());
                }
                out.text("}}");
            }
        }
        if r.tries > 0 {
            out.text(", \"tries\": ");
            out.number(r.tries.into());
        }
        out.text("}");
        at + 1
    }

    fn end(&self, out: &mut impl Out) {
        out.text("\n  ]\n}\n");
    }
}

/// Returns the number of bytes, and of ranges, of each status.
fn counts(bad: &badmap::BadBlocks, size: u64) -> Value {
    let listed: u64 = bad.ranges().iter().map(BadRange::len).sum();
    let mut counts = serde_json::Map::new();
    counts.insert("finished".into(), json!({ "bytes": size.saturating_sub(listed) }));
    for status in Status::LISTED {
        let count = bad.count(status);
        counts.insert(status.name().into(), json!({ "bytes": count.bytes, "ranges": count.ranges }));
    }
    Value::Object(counts)
}

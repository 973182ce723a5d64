//! The JSON documents about a disk: the files next to it in the mounted directory, and the output of the commands with
//! `--json`. docs/SEMANTICS.md has the schemas.

use cdi_image::badmap::{self, Reason};
use cdi_image::cdimg;
use cdi_image::disk::Disk;
use cdi_image::disk::live::Live;
use cdi_image::document::counts;
pub use cdi_image::document::{info, parity};
use cdi_image::text::listing::{Listing, Out};
use serde_json::{Value, json};

/// Returns what [`info`] does of a disk that is being imaged, of which `bad` is not in the image now.
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

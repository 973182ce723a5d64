//! The JSON documents about a disk: the files next to it in the mounted directory, and the output of the commands with
//! `--json`. docs/SEMANTICS.md has the schemas.

use cdi_image::badmap::{BadRange, Reason, Status};
use cdi_image::disk::Disk;
use cdi_image::text::listing::{Listing, Out};
use serde_json::{Value, json};

/// Returns the metadata of an image: the content of `info.json` and the output of `cdi info --json`.
pub fn info(disk: &Disk) -> Value {
    json!({
        "image": disk.input().path().display().to_string(),
        "image_bytes": disk.input().total_len(),
        "format": disk.format().name,
        "integrity": disk.format().integrity,
        "size_bytes": disk.size(),
        "logical_sector_bytes": disk.sector(),
        "warnings": disk.image().warnings(),
        "blocks": counts(disk),
        "lost_bytes": disk.image().lost().iter().map(|r| r.end - r.start).sum::<u64>(),
        "metadata": disk.metadata(),
    })
}

/// The bad-block map of a disk as JSON, one line per range: the content of `badblocks.json` and the output of
/// `cdi map --bad --json`.
pub struct BadBlocks<'a>(pub &'a Disk);

impl Listing for BadBlocks<'_> {
    fn len(&self) -> usize {
        self.0.bad().ranges().len()
    }

    fn begin(&self, out: &mut impl Out) {
        let (disk, sector) = (self.0, self.0.sector());
        for (name, value) in [
            ("{\n  \"version\": ", json!(1)),
            (",\n  \"size_bytes\": ", json!(disk.size())),
            (",\n  \"logical_sector_bytes\": ", json!(sector)),
            (",\n  \"sectors\": ", json!(disk.size().div_ceil(sector.into()))),
            (",\n  \"blocks\": ", counts(disk)),
        ] {
            out.text(name);
            out.text(&value.to_string());
        }
        out.text(",\n  \"ranges\": [");
    }

    fn item(&self, at: usize, out: &mut impl Out) -> usize {
        let (r, sector) = (&self.0.bad().ranges()[at], u64::from(self.0.sector()));
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
fn counts(disk: &Disk) -> Value {
    let bad = disk.bad();
    let listed: u64 = bad.ranges().iter().map(BadRange::len).sum();
    let mut counts = serde_json::Map::new();
    counts.insert("finished".into(), json!({ "bytes": disk.size().saturating_sub(listed) }));
    for status in Status::LISTED {
        let count = bad.count(status);
        counts.insert(status.name().into(), json!({ "bytes": count.bytes, "ranges": count.ranges }));
    }
    Value::Object(counts)
}

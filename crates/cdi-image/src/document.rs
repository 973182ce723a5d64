//! The metadata of an image as one JSON document: `info.json` in the mounted directory, `cdi info --json`, and the same
//! for libraries. docs/SEMANTICS.md has the schema.

use serde_json::{Value, json};

use crate::badmap::{BadBlocks, BadRange, Status};
use crate::disk::Disk;
use crate::input::PackedFile;
use crate::input::parity::ParitySummary;

/// Returns the metadata of an image: the content of `info.json`, and most of what `cdi info --json` prints.
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

/// Returns the number of bytes, and of ranges, of each status, of a disk of `size` bytes.
pub fn counts(bad: &BadBlocks, size: u64) -> Value {
    let listed: u64 = bad.ranges().iter().map(BadRange::len).sum();
    let mut counts = serde_json::Map::new();
    counts.insert("finished".into(), json!({ "bytes": size.saturating_sub(listed) }));
    for status in Status::LISTED {
        let count = bad.count(status);
        counts.insert(status.name().into(), json!({ "bytes": count.bytes, "ranges": count.ranges }));
    }
    Value::Object(counts)
}

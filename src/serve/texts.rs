//! What is told about a disk as JSON: the texts beside it in the mounted folder, and what the verbs print with
//! `--json`. docs/SEMANTICS.md has the schemas.

use serde_json::{Value, json};

use crate::disk::Disk;
use crate::image::bad::{BadRange, Reason, Status};

/// What the image is: `info.json`, and what `cdi info --json` prints.
pub fn info(disk: &Disk) -> Value {
    json!({
        "image": disk.input().path().display().to_string(),
        "image_bytes": disk.input().len(),
        "format": disk.format().name,
        "integrity": disk.format().integrity,
        "size_bytes": disk.size(),
        "logical_sector_bytes": disk.sector(),
        "remarks": disk.image().remarks(),
        "blocks": counts(disk),
        "lost_bytes": disk.image().lost().iter().map(|r| r.end - r.start).sum::<u64>(),
        "facts": disk.facts(),
    })
}

/// A range of the bad-block map.
fn range_json(r: &BadRange, sector: u32) -> Value {
    let sector = u64::from(sector);
    let mut value = json!({
        "first_sector": r.start / sector,
        "sectors": r.end.div_ceil(sector) - r.start / sector,
        "offset_bytes": r.start,
        "length_bytes": r.len(),
        "status": r.status,
    });
    if let Some(reason) = r.reason {
        value["reason"] = match reason {
            Reason::Errno(errno) => json!({ "errno": errno }),
            Reason::Sense { key, asc, ascq } => json!({ "sense": { "key": key, "asc": asc, "ascq": ascq } }),
        };
    }
    if r.tries > 0 {
        value["tries"] = json!(r.tries);
    }
    value
}

/// The bad-block map of `disk` as JSON: `badblocks.json`, and what `cdi map --bad --json` prints.
pub fn badblocks(disk: &Disk) -> Value {
    let ranges: Vec<Value> = disk.bad().ranges().iter().map(|r| range_json(r, disk.sector())).collect();
    json!({
        "version": 1,
        "size_bytes": disk.size(),
        "logical_sector_bytes": disk.sector(),
        "sectors": disk.size().div_ceil(u64::from(disk.sector())),
        "blocks": counts(disk),
        "ranges": ranges,
    })
}

/// How much of a disk has which status.
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

//! `cdi map IMAGE`: where the bytes are, what is bad, and the forms that other programs take.

use serde_json::{Value, json};

use super::{End, open_disk, plain_reads, refuse_to_write_over};
use crate::capture::target::Target;
use crate::cli::{self, Map};
use crate::disk::Disk;
use crate::error::{Error, ReadError};
use crate::image::bad::Reason;
use crate::image::{Extent, Origin, mapfile};
use crate::serve::texts;
use crate::ui::Ui;

pub(super) fn run(args: &Map, ui: &Ui) -> Result<End, Error> {
    let how = cli::HowToOpen { format: args.format.clone(), ..cli::HowToOpen::default() };
    let image = cli::Image { image: args.image.clone(), how };
    let disk = open_disk(&image, plain_reads(), ui)?;
    if let Some(path) = &args.mapfile {
        let text = mapfile::write(disk.bad(), disk.size());
        if path.as_os_str() == "-" {
            ui.raw(text.as_bytes());
        } else {
            refuse_to_write_over(&image, path)?;
            Target::write(path, args.force, text.as_bytes())?;
            ui.json(&json!({ "mapfile": path.display().to_string() }));
        }
    } else if args.badblocks {
        badblocks(&disk, args.block_size, ui)?;
    } else if args.bad {
        if !ui.json(&texts::badblocks(&disk)) {
            list_bad(&disk, ui);
        }
    } else {
        extents(&disk, ui)?;
    }
    Ok(End::Done)
}

fn list_bad(disk: &Disk, ui: &Ui) {
    let sector = u64::from(disk.sector());
    for r in disk.bad().ranges() {
        let reason = match r.reason {
            None => String::new(),
            Some(Reason::Errno(errno)) => format!("  {}", std::io::Error::from_raw_os_error(errno as i32)),
            Some(Reason::Sense { key, asc, ascq }) => format!("  sense {key:x}/{asc:02x}/{ascq:02x}"),
        };
        let sectors = r.end.div_ceil(sector) - r.start / sector;
        ui.data(format!("{:>14} {:>12} sectors  {:<12}{reason}", r.start / sector, sectors, r.status.name()));
    }
    if disk.bad().is_empty() {
        ui.say("everything is finished");
    }
}

fn badblocks(disk: &Disk, block: u64, ui: &Ui) -> Result<(), Error> {
    if block == 0 {
        return Err(Error::usage("a block of 0 bytes cannot be"));
    }
    let mut next = 0;
    let blocks = disk.bad().ranges().iter().flat_map(|r| {
        let (from, to) = ((r.start / block).max(next), r.end.div_ceil(block));
        next = to.max(next);
        from..to
    });
    if ui.json {
        return ui.json_list(("block_bytes", json!(block)), "blocks", blocks.map(|number| Ok(json!(number))));
    }
    ui.lines(blocks.map(|number| Ok(number.to_string())))
}

fn extents(disk: &Disk, ui: &Ui) -> Result<(), Error> {
    if ui.json {
        let list = merged(disk).map(|extent| extent.map(|e| extent_json(&e)));
        return ui.json_list(("size_bytes", json!(disk.size())), "extents", list);
    }
    let text = |e: Extent| {
        let (kind, place) = words(&e.origin);
        format!("{:>16} {:>14} {kind:<8} {place}", e.disk.start, e.disk.end - e.disk.start)
    };
    ui.lines(merged(disk).map(|extent| extent.map(text)))
}

/// The extents of the disk. Neighbours that only together say something are one: fills and gaps go across chunks.
fn merged(disk: &Disk) -> impl Iterator<Item = Result<Extent, Error>> + '_ {
    let damaged = |e: ReadError| Error::bad_image("the index is damaged").at(disk.input().path()).because(e);
    let mut all = disk.extents(0..disk.size()).peekable();
    std::iter::from_fn(move || {
        let mut extent = match all.next()? {
            Ok(extent) => extent,
            Err(e) => return Some(Err(damaged(e))),
        };
        let joins = matches!(extent.origin, Origin::Unread | Origin::Fill(_));
        while let Some(Ok(next)) =
            all.next_if(|n| joins && n.as_ref().is_ok_and(|n| n.origin == extent.origin))
        {
            extent.disk.end = next.disk.end;
        }
        Some(Ok(extent))
    })
}

fn words(origin: &Origin) -> (&'static str, String) {
    match origin {
        Origin::Unread => ("unread", String::new()),
        Origin::Fill([0, 0, 0, 0, 0, 0, 0, 0]) => ("zero", String::new()),
        Origin::Fill(pattern) => ("fill", pattern.iter().map(|b| format!("{b:02x}")).collect()),
        Origin::Stored { at, .. } => ("stored", format!("at {at}")),
        Origin::Packed(p) => {
            let skip = if p.skip > 0 { format!(", from byte {}", p.skip) } else { String::new() };
            ("packed", format!("at {} ({} bytes of {}{skip})", p.at, p.len, p.codec.name()))
        }
    }
}

fn extent_json(e: &Extent) -> Value {
    let mut value = json!({ "offset_bytes": e.disk.start, "length_bytes": e.disk.end - e.disk.start, "kind": words(&e.origin).0 });
    match &e.origin {
        Origin::Unread => {}
        Origin::Fill(pattern) => value["pattern"] = pattern.iter().map(|b| format!("{b:02x}")).collect(),
        Origin::Stored { at, .. } => value["file_offset_bytes"] = json!(at),
        Origin::Packed(p) => {
            value["file_offset_bytes"] = json!(p.at);
            value["packed_bytes"] = json!(p.len);
            value["skip_bytes"] = json!(p.skip);
            value["codec"] = json!(p.codec.name());
        }
    }
    value
}

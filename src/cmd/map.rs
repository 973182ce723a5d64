//! `cdi map IMAGE`: shows which sectors are bad and where the data is stored, and exports maps for other programs.

mod uses;

use std::io::Write;

use cdi_base::error::{Error, ReadError};
use cdi_base::printable::hex;
use cdi_base::units::human;
use cdi_capture::guard::{refuse_image, refuse_lesser_map};
use cdi_image::badmap::cells::cells;
use cdi_image::badmap::mapfile::Mapfile;
use cdi_image::badmap::{Reason, Status};
use cdi_image::codec::Codec;
use cdi_image::disk::Disk;
use cdi_image::extent::{Extent, Origin};
use cdi_image::formats::raw;
use cdi_image::text::listing;
use cdi_serve::texts;
use serde_json::{Value, json};
use uses::{USES, Use};

use super::info::health;
use super::watch::place::check_name;
use super::{End, Interrupt, guard, open_disk, plain_reads};
use crate::cli::Map;
use crate::ui::picture::Cell;
use crate::ui::{Ui, page, picture};

pub(super) fn run(args: &Map, ui: &Ui) -> Result<End, Error> {
    let image = &args.image;
    let disk = open_disk(image, plain_reads(), ui)?;
    let guard = || guard(args.over, image, Some(&disk));
    if let Some(path) = &args.export_mapfile {
        if disk.format().name == raw::FORMAT.name && disk.bad().is_empty() {
            ui.warning("the image has no map: everything is marked finished");
        }
        let text = Mapfile { map: disk.bad(), size: disk.size() };
        if path.as_os_str() == "-" {
            ui.listing(&text);
        } else {
            guard().for_map().check(path)?;
            refuse_image(path, "a mapfile")?;
            refuse_lesser_map(path, &disk)?;
            guard().for_map().write(path, |file| listing::write(&text, file))?;
            ui.json(&json!({ "mapfile": path.display().to_string() }));
        }
    } else if args.export_badblocks {
        badblocks(&disk, args.export_block_size, ui)?;
    } else if args.bad {
        if ui.json {
            ui.listing(&texts::BadBlocks::of(&disk));
        } else {
            list_bad(&disk, ui)?;
        }
    } else if args.extents {
        extents(&disk, ui)?;
    } else if let Some(path) = &args.picture {
        let name = disk.input().path().file_name().unwrap_or_default().to_string_lossy();
        let count = count(&disk, PICTURE);
        let title = format!("{name}: {}, one cell is {}", human(disk.size()), cell_text(&disk, count));
        let svg = if args.files {
            let cells = uses::uses(&disk, count, &Interrupt::of(disk.input())?)?;
            let legend: Vec<_> = used(&cells).into_iter().map(|u| (u, u.name().to_owned())).collect();
            picture::svg(&title, &legend, &cells, PICTURE.0)
        } else {
            let legend: Vec<_> = legend(&disk)
                .into_iter()
                .map(|(s, bytes)| (s, format!("{}  {}", s.name(), human(bytes))))
                .collect();
            picture::svg(&title, &legend, &cells_of(&disk, PICTURE), PICTURE.0)
        };
        if path.as_os_str() == "-" {
            if !ui.json(&json!({ "picture": "-", "svg": svg })) {
                ui.raw(svg.as_bytes());
            }
        } else {
            guard().check(path)?;
            if path.extension().is_none_or(|suffix| !suffix.eq_ignore_ascii_case("svg")) {
                return Err(Error::usage("the picture is in SVG: use a name that ends in .svg").at(path));
            }
            guard().write(path, |file| file.write_all(svg.as_bytes()))?;
            ui.json(&json!({ "picture": path.display().to_string() }));
        }
    } else if let Some(path) = &args.html {
        let mut state = page::of_image(&disk, "image");
        if let Some(last) = health::reports(&disk)?.last() {
            state["health"] = last.json();
        }
        let name = disk.input().path().file_name().unwrap_or_default().to_string_lossy();
        let html = page::html(&name, &state);
        if path.as_os_str() == "-" {
            if !ui.json(&json!({ "html": "-", "page": html })) {
                ui.raw(html.as_bytes());
            }
        } else {
            guard().check(path)?;
            check_name(path)?;
            guard().write(path, |file| file.write_all(html.as_bytes()))?;
            ui.json(&json!({ "html": path.display().to_string() }));
        }
    } else if args.files {
        let cells = uses::uses(&disk, count(&disk, SCREEN), &Interrupt::of(disk.input())?)?;
        let letters = picture::letters(&cells);
        if !ui.json(&json!({ "size_bytes": disk.size(), "cell_bytes": cell_bytes(&disk, cells.len()), "cells": letters })) {
            draw_cells(&disk, &cells, &used(&cells), ui);
        }
    } else {
        draw(&disk, ui);
    }
    Ok(End::Done)
}

/// The maximum number of columns and rows on a terminal.
const SCREEN: (usize, usize) = (64, 16);
/// The maximum number of columns and rows in a picture.
const PICTURE: (usize, usize) = (100, 60);

/// Returns the number of cells.
fn count(disk: &Disk, (columns, rows): (usize, usize)) -> usize {
    let sectors = disk.size().div_ceil(u64::from(disk.sector()));
    usize::try_from(sectors).unwrap_or(usize::MAX).min(columns * rows)
}

fn cells_of(disk: &Disk, most: (usize, usize)) -> Vec<Status> {
    cells(disk.bad().ranges().iter(), disk.size(), count(disk, most))
}

/// Returns the uses that occur.
fn used(cells: &[Use]) -> Vec<Use> {
    USES.into_iter().filter(|what| cells.contains(what)).collect()
}

/// Returns the size of a cell in bytes.
fn cell_bytes(disk: &Disk, count: usize) -> f64 {
    disk.size() as f64 / count as f64
}

fn cell_text(disk: &Disk, count: usize) -> String {
    human(disk.size().div_ceil(count as u64))
}

/// Returns the statuses that occur, with their sizes in bytes.
fn legend(disk: &Disk) -> Vec<(Status, u64)> {
    let listed: u64 = Status::LISTED.iter().map(|s| disk.bad().count(*s).bytes).sum();
    let bytes = |status| match status {
        Status::Finished => disk.size() - listed,
        status => disk.bad().count(status).bytes,
    };
    picture::STATUSES.map(|s| (s, bytes(s))).into_iter().filter(|(_, bytes)| *bytes > 0).collect()
}

/// Prints the map as letters, or as JSON.
fn draw(disk: &Disk, ui: &Ui) {
    let cells = cells_of(disk, SCREEN);
    let statuses: Vec<Status> = legend(disk).into_iter().map(|(s, _)| s).collect();
    if ui.json(&json!({
        "size_bytes": disk.size(),
        "cell_bytes": cell_bytes(disk, cells.len()),
        "cells": picture::letters(&cells),
        "blocks": legend(disk).into_iter().map(|(s, b)| (s.name().to_owned(), json!(b))).collect::<serde_json::Map<_, _>>(),
    })) {
        return;
    }
    draw_cells(disk, &cells, &statuses, ui);
}

/// Prints cells as letters, and what those mean.
fn draw_cells<C: Cell>(disk: &Disk, cells: &[C], occur: &[C], ui: &Ui) {
    let colours = ui.colours();
    for (row, line) in cells.chunks(SCREEN.0).enumerate() {
        let at = u128::from(disk.size()) * (row * SCREEN.0) as u128 / cells.len() as u128;
        let at = u64::try_from(at).unwrap_or(u64::MAX);
        ui.painted(format!("{:>10}  {}", human(at), picture::line(line, colours)));
    }
    ui.data(format!("{:>10}  one letter is {}", "", cell_text(disk, cells.len())));
    ui.painted(format!("{:>10}  {}", "", picture::legend(occur, colours)));
}

/// Lists the ranges that are not finished.
fn list_bad(disk: &Disk, ui: &Ui) -> Result<(), Error> {
    let sector = u64::from(disk.sector());
    ui.lines(disk.bad().ranges().iter().map(|r| {
        let reason = match r.reason {
            None => String::new(),
            Some(Reason::Errno(errno)) => {
                format!("  {}", std::io::Error::from_raw_os_error(errno.get() as i32))
            }
            Some(Reason::Sense { key, asc, ascq }) => format!("  sense {key:x}/{asc:02x}/{ascq:02x}"),
        };
        let sectors = r.end.div_ceil(sector) - r.start / sector;
        Ok(format!("{:>14} {:>12} sectors  {:<12}{reason}", r.start / sector, sectors, r.status.name()))
    }))?;
    if disk.bad().is_empty() {
        ui.message("no bad sectors: everything is finished");
    }
    Ok(())
}

/// Prints the numbers of blocks that are not finished, as badblocks(8) does.
fn badblocks(disk: &Disk, block: u64, ui: &Ui) -> Result<(), Error> {
    if block == 0 {
        return Err(Error::usage("the block size must not be 0"));
    }
    let mut next = 0;
    let blocks = disk.bad().ranges().iter().flat_map(|r| {
        let (from, to) = ((r.start / block).max(next), r.end.div_ceil(block));
        next = to.max(next);
        from..to
    });
    if ui.json {
        return ui.json_list(
            &[("block_bytes", json!(block))],
            "blocks",
            blocks.map(|number| Ok(json!(number))),
        );
    }
    ui.lines(blocks.map(|number| Ok(number.to_string())))
}

/// Lists where the data is stored.
fn extents(disk: &Disk, ui: &Ui) -> Result<(), Error> {
    if ui.json {
        let list = merged(disk).map(|extent| extent.map(|e| extent_json(&e)));
        return ui.json_list(&[("size_bytes", json!(disk.size()))], "extents", list);
    }
    let text = |e: Extent| {
        let (kind, place) = describe(&e.origin);
        format!("{:>16} {:>14} {kind:<8} {place}", e.disk.start, e.disk.end - e.disk.start)
    };
    ui.lines(merged(disk).map(|extent| extent.map(text)))
}

/// Returns the extents of the disk. Equal fills, and gaps, are merged across chunks.
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

/// Returns the kind of an extent, and where its data is.
fn describe(origin: &Origin) -> (&'static str, String) {
    match origin {
        Origin::Unread => ("unread", String::new()),
        Origin::Fill([0, 0, 0, 0, 0, 0, 0, 0]) => ("zero", String::new()),
        Origin::Fill(pattern) => ("fill", hex(pattern)),
        Origin::Stored { at, .. } => ("stored", format!("at {at}")),
        Origin::Compressed(p) if p.codec == Codec::Stored => {
            ("stored", format!("at {}", p.at + u64::from(p.skip)))
        }
        Origin::Compressed(p) => {
            let skip = if p.skip > 0 { format!(", from byte {}", p.skip) } else { String::new() };
            ("compressed", format!("at {} ({} bytes of {}{skip})", p.at, p.len, p.codec.name()))
        }
    }
}

fn extent_json(e: &Extent) -> Value {
    let mut value = json!({ "offset_bytes": e.disk.start, "length_bytes": e.disk.end - e.disk.start, "kind": describe(&e.origin).0 });
    match &e.origin {
        Origin::Unread => {}
        Origin::Fill(pattern) => value["pattern"] = hex(pattern).into(),
        Origin::Stored { at, .. } => value["file_offset_bytes"] = json!(at),
        Origin::Compressed(p) if p.codec == Codec::Stored => {
            value["file_offset_bytes"] = json!(p.at + u64::from(p.skip));
        }
        Origin::Compressed(p) => {
            value["file_offset_bytes"] = json!(p.at);
            value["compressed_bytes"] = json!(p.len);
            value["skip_bytes"] = json!(p.skip);
            value["codec"] = json!(p.codec.name());
        }
    }
    value
}

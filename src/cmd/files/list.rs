//! The list of files, and what is said of their volumes.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use cdi_base::error::Error;
use cdi_base::units::{human, plural};
use cdi_fs::catalogue::{Catalogue, Entry, State};
use cdi_fs::file_system::{Damage, Kind, Structure};
use cdi_fs::loss::{Loss, Lost};
use cdi_fs::pattern::Patterns;
use cdi_fs::recognize::Recognized;
use cdi_fs::volume::Volume;
use cdi_image::disk::Disk;
use cdi_image::metadata::rfc3339;
use serde_json::{Value, json};

use super::sums::{VolumeSums, missing, sums};
use super::{End, Found, Rest};
use crate::cli::Files;
use crate::ui::Ui;

/// The number of directories that are listed for people.
const DIRECTORIES: usize = 20;

/// Prints the list of files, and the sums.
pub fn list(
    disk: &Disk,
    volumes: &[Found],
    rest: &Rest,
    args: &Files,
    patterns: &Patterns,
    ui: &Ui,
) -> Result<End, Error> {
    let all: Vec<Option<VolumeSums>> =
        volumes.iter().map(|v| v.catalogue.as_ref().map(|c| sums(v, c, patterns))).collect();
    let any = all.iter().flatten().any(|s| s.files.all() + s.directories.all() > 0);
    if !any && !patterns.is_empty() {
        ui.warning("no file matches");
    }
    let rows = volumes.iter().flat_map(|v| v.catalogue.iter().flat_map(|c| rows(v, c, args.all, patterns)));
    if ui.json {
        let about = volumes.iter().zip(&all).map(|(v, sums)| volume_json(disk, v, sums.as_ref())).collect();
        let about = [
            ("partition_table_damage", json!(rest.table)),
            ("other_missing_bytes", json!(rest.bad)),
            ("volumes", Value::Array(about)),
        ];
        ui.json_list(&about, "files", rows.map(|row| Ok(row.json())))?;
    } else {
        ui.lines(rows.map(|row| Ok(row.text())))?;
        for (volume, sums) in volumes.iter().zip(&all) {
            tell_volume(disk, volume, sums.as_ref(), ui);
        }
        let texts = rest.texts();
        if !texts.is_empty() {
            ui.data(format!("\n{}", texts.join("\n")));
        }
    }
    let whole = rest.is_empty()
        && volumes.iter().zip(&all).all(|(volume, sums)| is_whole(disk, volume, sums.as_ref()));
    Ok(if whole { End::Done } else { End::DataMissing })
}

/// Returns whether nothing of a volume is lost, as far as that is known.
fn is_whole(disk: &Disk, volume: &Found, sums: Option<&VolumeSums>) -> bool {
    volume.hides_nothing(disk) && sums.is_none_or(|s| s.files.harmed() + s.directories.harmed() == 0)
}

/// Says what is lost of a volume without a name: what no file in the list stands for.
pub fn hidden(disk: &Disk, volume: &Found) -> Vec<String> {
    let mut all = Vec::new();
    if matches!(volume.part.contents, Recognized::Damaged(..) | Recognized::Unknown(Some(_))) {
        all.push(format!("{}: {}", volume.title, contents_text(volume)));
    }
    let Some(catalogue) = &volume.catalogue else { return all };
    let mut say = |count: u64, what: &str, then: &str| {
        if count > 0 {
            all.push(format!("{}: {} {then}", volume.title, plural(count, what)));
        }
    };
    say(catalogue.lost_without_name, "file", "lost with their names");
    say(catalogue.perhaps_lost, "record", "cannot be read, and nothing says whether there was a file");
    say(catalogue.left_out, "record or name", "left out: there are too many");
    let damaged = structure_texts(&catalogue.structures, &volume.part.volume(disk));
    all.extend(damaged.into_iter().map(|text| format!("{}: {text}", volume.title)));
    all
}

/// A line of the list.
struct Row<'a> {
    volume: &'a Found,
    catalogue: &'a Catalogue,
    entry: &'a Entry,
    state: State,
    paths: Vec<String>,
}

/// Returns the lines of a volume.
fn rows<'a>(
    volume: &'a Found,
    catalogue: &'a Catalogue,
    all: bool,
    patterns: &'a Patterns,
) -> impl Iterator<Item = Row<'a>> {
    catalogue.entries().iter().filter(|e| !e.internal && e.number != catalogue.root()).filter_map(
        move |entry| {
            let state = catalogue.state(entry);
            if !all && state == State::Whole {
                return None;
            }
            let paths: Vec<String> = catalogue.paths(entry.number).into_iter().map(|p| p.text).collect();
            paths.iter().any(|p| patterns.matches(&volume.title, p)).then_some(Row {
                volume,
                catalogue,
                entry,
                state,
                paths,
            })
        },
    )
}

impl Row<'_> {
    fn text(&self) -> String {
        let size = self.entry.size.map_or_else(|| "?".into(), human);
        let (lost, untried) = missing(self.entry);
        let lost = match lost + untried {
            0 => "-".into(),
            bytes => human(bytes),
        };
        let slash = if self.entry.kind == Some(Kind::Directory) { "/" } else { "" };
        let path = self.paths.first().map_or("", String::as_str);
        // Why, where no number says it.
        let record = self.entry.harm.as_ref().and_then(|harm| harm.record.as_ref());
        let why =
            record.filter(|_| lost == "-").map_or_else(String::new, |d| format!(": {}", damage_text(d)));
        format!("{:<11} {lost:>10} {size:>10}  {}/{path}{slash}{why}", self.state.name(), self.volume.title)
    }

    fn json(&self) -> Value {
        let e = self.entry;
        let mut paths = self.paths.iter().map(|path| format!("{}/{path}", self.volume.title));
        json!({
            "path": paths.next(),
            "other_paths": paths.collect::<Vec<_>>(),
            "volume": self.volume.title,
            "record": e.number,
            "kind": e.kind.map(kind_name),
            "state": self.state.name(),
            "size_bytes": e.size,
            "modified": e.modified.and_then(time_text),
            "packed": e.packed,
            "lost": e.harm.as_ref().map_or_else(|| loss_json(&Loss::default()), |harm| loss_json(&harm.contents)),
            "streams": e.harm.iter().flat_map(|harm| &harm.streams).map(stream_json).collect::<Vec<_>>(),
            "name_damage": e.harm.as_ref().and_then(|harm| harm.name.as_ref()).map(damage_text),
            "record_damage": e.harm.as_ref().and_then(|harm| harm.record.as_ref()).map(damage_text),
            "children": (e.kind == Some(Kind::Directory)).then(|| self.catalogue.children(e.number).count()),
        })
    }
}

fn stream_json((name, loss): &(String, Loss)) -> Value {
    let mut value = loss_json(loss);
    value["name"] = json!(name);
    value
}

/// Returns how much is lost, and how much was not read yet.
pub fn loss_text(loss: &Loss) -> String {
    let text = |bytes: u64, what: &str| (bytes > 0).then(|| format!("{} of it {what}", human(bytes)));
    let parts = [text(loss.bad + loss.unknown, "are lost"), text(loss.untried, "were not read yet")];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// Returns a loss for JSON.
pub fn loss_json(loss: &Loss) -> Value {
    let range = |lost: &Lost| {
        let (start, end) = (lost.file.start, lost.file.end);
        json!({ "start": start, "end": end, "volume_byte": lost.volume, "why": lost.why.name() })
    };
    json!({
        "bad_bytes": loss.bad,
        "untried_bytes": loss.untried,
        "unknown_bytes": loss.unknown,
        "ranges": loss.ranges.iter().map(range).collect::<Vec<_>>(),
    })
}

/// Returns a time in nanoseconds since 1970 as text; None if it is before that.
pub fn time_text(nanoseconds: i64) -> Option<String> {
    let since = Duration::from_nanos(u64::try_from(nanoseconds).ok()?);
    Some(rfc3339(SystemTime::UNIX_EPOCH + since))
}

/// Returns the name of a kind, as in JSON.
pub fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Link => "link",
        Kind::Other => "other",
    }
}

/// Returns why something is lost, in words.
pub fn damage_text(damage: &Damage) -> String {
    match damage {
        Damage::Unreadable(e) => e.to_string(),
        Damage::Invalid(what) => what.clone(),
    }
}

/// Returns what is wrong with structures, and what that costs. What differs in its place only is one text, with the number of
/// sectors that cannot be read.
pub fn structure_texts(structures: &[Structure], volume: &Volume<'_>) -> Vec<String> {
    let mut texts: Vec<(&str, &str, String, u64)> = Vec::new();
    let mut known = BTreeMap::new();
    for structure in structures {
        let Some((damage, cost)) = &structure.damage else { continue };
        match known.get(&(&structure.what, cost)) {
            Some(n) => {
                let (.., more): &mut (_, _, _, u64) = &mut texts[*n];
                *more += missing_sectors(structure, volume).max(1);
            }
            None => {
                known.insert((&structure.what, cost), texts.len());
                let more = missing_sectors(structure, volume).saturating_sub(1);
                texts.push((&structure.what, cost, damage_text(damage), more));
            }
        }
    }
    let text = |(what, cost, damage, more): (&str, &str, String, u64)| match more {
        0 => format!("{what}: {damage}; {cost}"),
        more => format!("{what}: {damage}, and {more} more; {cost}"),
    };
    texts.into_iter().map(text).collect()
}

/// Returns how many sectors of a structure cannot be read.
fn missing_sectors(structure: &Structure, volume: &Volume<'_>) -> u64 {
    if !matches!(structure.damage, Some((Damage::Unreadable(_), _))) {
        return 0;
    }
    let missing = structure.at.iter().flat_map(|at| volume.missing(at.clone()));
    missing.map(|m| (m.range.end - m.range.start).div_ceil(volume.sector().into())).sum()
}

/// Returns what is known of the contents of a volume without its files.
pub fn contents_text(volume: &Found) -> String {
    match &volume.part.contents {
        Recognized::Files(found) => found.name().into(),
        Recognized::Damaged(name, damage) => format!("{name}, which cannot be used: {}", damage_text(damage)),
        Recognized::Named(name) => format!("{name}: cdi does not list its files"),
        Recognized::Unknown(Some(e)) => format!("nothing that is known; its start cannot be read: {e}"),
        Recognized::Unknown(None) => "nothing that is known".into(),
    }
}

fn volume_json(disk: &Disk, volume: &Found, sums: Option<&VolumeSums>) -> Value {
    let part = &volume.part;
    let sector = u64::from(disk.sector());
    let found = volume.file_system();
    let catalogue = volume.catalogue.as_ref();
    let metadata = catalogue.iter().flat_map(|c| &c.structures).filter_map(|s| {
        let (damage, cost) = s.damage.as_ref()?;
        let at: Vec<Value> = s.at.iter().map(|r| json!({ "start": r.start, "end": r.end })).collect();
        Some(json!({ "what": s.what, "volume_bytes": at, "damage": damage_text(damage), "cost": cost }))
    });
    json!({
        "title": volume.title,
        "partition": part.number,
        "first_sector": part.range.start / sector,
        "size_bytes": part.range.end - part.range.start,
        "partition_type": if part.kind.is_empty() { Value::Null } else { json!(part.kind) },
        "file_system": found.map(|f| f.name()),
        "contents": contents_text(volume),
        "label": found.and_then(|f| f.label()),
        "block_bytes": found.map(|f| f.block_size()),
        "files": sums.map(|s| s.files.json()),
        "directories": sums.map(|s| s.directories.json()),
        "by_directory": sums.map(|s| s.by_directory.iter().map(|(path, sums)| {
            let mut value = sums.json();
            value["path"] = json!(path);
            value
        }).collect::<Vec<_>>()),
        "more_directories": sums.map(|s| s.more_directories),
        "lost_records": catalogue.map(|c| c.lost_without_name),
        "perhaps_lost_records": catalogue.map(|c| c.perhaps_lost),
        "left_out": catalogue.map(|c| c.left_out),
        "damaged_metadata": metadata.collect::<Vec<_>>(),
    })
}

/// Says what is known of a volume.
fn tell_volume(disk: &Disk, volume: &Found, sums: Option<&VolumeSums>, ui: &Ui) {
    ui.data(format!("\n{}: {}", volume.title, contents_text(volume)));
    let (Some(catalogue), Some(sums)) = (&volume.catalogue, sums) else { return };
    for (what, sums) in [("file", &sums.files), ("directory", &sums.directories)] {
        if sums.all() == 0 && what == "directory" {
            continue;
        }
        let text = match (sums.all(), sums.harmed()) {
            (0, _) => plural(0, what),
            (all, 0) => format!("{}: all whole", plural(all, what)),
            (all, _) => format!("{}: {}{}", plural(all, what), sums.harms(), sums.missing()),
        };
        ui.data(format!("  {text}"));
    }
    if catalogue.lost_without_name > 0 {
        ui.data(format!(
            "  {} lost without a trace but their records",
            plural(catalogue.lost_without_name, "more file")
        ));
    }
    if catalogue.perhaps_lost > 0 {
        let records = plural(catalogue.perhaps_lost, "record");
        ui.data(format!("  {records} cannot be read, and nothing says whether there was a file"));
    }
    if catalogue.left_out > 0 {
        ui.warning(format!(
            "{} are not listed: there are too many",
            plural(catalogue.left_out, "record or name")
        ));
    }
    for text in structure_texts(&catalogue.structures, &volume.part.volume(disk)) {
        ui.data(format!("  {text}"));
    }
    let directories = &sums.by_directory;
    if directories.len() > 1 {
        for (path, sums) in directories.iter().take(DIRECTORIES) {
            ui.data(format!("  in {path}/: {}: {}", plural(sums.all(), "file"), sums.harms()));
        }
        let more = directories.len().saturating_sub(DIRECTORIES) as u64 + sums.more_directories;
        if more > 0 {
            ui.data(format!("  … and in {}", plural(more, "more directory")));
        }
    }
}

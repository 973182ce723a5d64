//! The mark of a directory that files are copied to: of which disk they are.

use std::collections::BTreeMap;

use cdi_fs::file_system::FileSystem;
use cdi_image::disk::Disk;
use serde_json::{Map, Value, json};

use crate::cmd::files::Found;

/// Returns the mark of a directory with copies of this disk, and the names of the directories of volumes; None if it has files
/// of another disk. An image may know more of its disk than it did before: then names stay as they were.
pub fn mark(before: &Value, disk: &Disk, volumes: &[Found]) -> Option<(Value, BTreeMap<u64, String>)> {
    let same = |before: &Value, now: &Value| before.is_null() || now.is_null() || before == now;
    let (size, serial) = (json!(disk.size()), json!(disk.metadata().serial));
    if !same(&before["size_bytes"], &size) || !same(&before["serial"], &serial) {
        return None;
    }
    let mut known: Map<String, Value> = before["volumes"].as_object().cloned().unwrap_or_default();
    for volume in volumes.iter().filter(|v| v.catalogue.is_some()) {
        let id = json!(volume.file_system().and_then(FileSystem::id));
        let key = volume.part.range.start.to_string();
        let titles = || known.values().filter_map(|one| one["title"].as_str());
        let title = match titles().any(|title| title == volume.title) {
            true => format!("{}-{key}", volume.title),
            false => volume.title.clone(),
        };
        let one = known.entry(key).or_insert_with(|| json!({ "title": title, "id": id }));
        if !same(&one["id"], &id) {
            return None;
        }
        if !id.is_null() {
            one["id"] = id;
        }
    }
    let title = |(key, one): (&String, &Value)| Some((key.parse().ok()?, one["title"].as_str()?.to_owned()));
    let titles = known.iter().filter_map(title).collect();
    let serial = if serial.is_null() { before["serial"].clone() } else { serial };
    Some((json!({ "size_bytes": size, "serial": serial, "volumes": known }), titles))
}

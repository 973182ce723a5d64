//! The partition table of an image, as the commands show it.

use cdi_base::error::ReadError;
use cdi_base::units::human;
use cdi_fs::partitions::{Partition, Table};
use serde_json::{Value, json};

use crate::ui::printable;

/// The partition table of a disk, if it has one, or why it cannot be read.
pub(super) type ReadTable = Result<Option<Table>, ReadError>;

/// Returns the error in reading the partition table or part of it.
pub(super) fn unreadable(table: &ReadTable) -> Option<ReadError> {
    match table {
        Ok(table) => table.as_ref().and_then(|table| table.damage),
        Err(e) => Some(*e),
    }
}

/// Returns one line for each partition: its number, and what it is.
pub(super) fn lines(table: &ReadTable) -> Vec<(u32, String)> {
    let tame = |text: &str| printable(text).replace(['\n', '\t'], " ");
    let line = |p: &Partition| {
        let name = p.name.as_ref().map(|name| format!(" '{}'", tame(name))).unwrap_or_default();
        (p.number, format!("{}{name}, {} at byte {}", tame(&p.kind), human(p.size), p.start))
    };
    table.iter().flatten().flat_map(|table| &table.partitions).map(line).collect()
}

/// Adds the table to the JSON of a command.
pub(super) fn add_to(value: &mut Value, table: &ReadTable) {
    if let Some(e) = unreadable(table) {
        value["partition_table_error"] = e.to_string().into();
    }
    if let Ok(Some(table)) = table {
        value["partition_table"] = table.scheme.name().into();
        let partition = |p: &Partition| {
            json!({
                "number": p.number,
                "offset_bytes": p.start,
                "size_bytes": p.size,
                "type": p.kind,
                "name": p.name,
            })
        };
        value["partitions"] = table.partitions.iter().map(partition).collect();
    }
}

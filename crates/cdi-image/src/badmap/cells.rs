//! An overview of a disk: its status in parts of equal size.

use super::{BadRange, Status};

/// Divides a disk of `size` bytes into `count` parts of equal size and returns the least processed status in each.
pub fn cells<'a>(areas: impl Iterator<Item = &'a BadRange>, size: u64, count: usize) -> Vec<Status> {
    let mut cells = vec![Status::Finished; count];
    let cell = |at: u64| {
        let cell = u128::from(at) * count as u128 / u128::from(size.max(1));
        usize::try_from(cell).unwrap_or(0).min(count - 1)
    };
    for area in areas {
        for status in &mut cells[cell(area.start)..=cell(area.end - 1)] {
            *status = (*status).min(area.status);
        }
    }
    cells
}

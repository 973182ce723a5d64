//! In which order a disk is read.

use cdi_base::error::Error;
use cdi_capture::rescue::first::{First, Order};
use cdi_fs::pattern::Patterns;

use crate::cli::{FirstName, OnlyName, Rescue};

/// Returns the order that the options ask for.
pub(super) fn order(rescue: &Rescue) -> Result<Order, Error> {
    let only = rescue.only == Some(OnlyName::Used);
    if rescue.in_order {
        return Ok(Order::default());
    }
    if rescue.first.is_empty() && !only {
        return Ok(Order::automatic());
    }
    let mut first = rescue.first.iter().map(one).collect::<Result<Vec<_>, _>>()?;
    if only {
        // The files of what comes after it are used, and read by then.
        let used = first.iter().position(|what| matches!(what, First::Used));
        first.truncate(used.unwrap_or(first.len()));
        first.push(First::Used);
    }
    Ok(Order { first, in_trouble_only: false, only })
}

fn one(name: &FirstName) -> Result<First, Error> {
    Ok(match name {
        FirstName::Metadata => First::Metadata,
        FirstName::Used => First::Used,
        FirstName::Pattern(text) => {
            let patterns = Patterns::parse([text.as_str()]).map_err(Error::usage)?;
            First::Files { name: text.clone(), patterns }
        }
    })
}

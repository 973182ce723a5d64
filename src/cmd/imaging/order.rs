//! In which order a disk is read.

use cdi_base::error::Error;
use cdi_capture::rescue::first::{First, Order};
use cdi_fs::pattern::Patterns;

use crate::cli::{FirstName, Rescue};

/// Returns the order that the options ask for.
pub(super) fn order(rescue: &Rescue) -> Result<Order, Error> {
    let only = !rescue.only.is_empty();
    if rescue.in_order {
        return Ok(Order::default());
    }
    if rescue.first.is_empty() && !only {
        return Ok(Order::automatic());
    }
    let mut names: Vec<&FirstName> = rescue.first.iter().collect();
    if rescue.only.contains(&FirstName::Used) {
        // The files of what comes after it are used, and read by then.
        let used = names.iter().position(|name| **name == FirstName::Used);
        names.truncate(used.unwrap_or(names.len()));
        names.push(&FirstName::Used);
    } else if only {
        if names.contains(&&FirstName::Used) {
            return Err(Error::usage("--first used reads all files, and --only leaves some out"));
        }
        names.extend(&rescue.only);
    }
    let first = names.into_iter().map(one).collect::<Result<_, _>>()?;
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

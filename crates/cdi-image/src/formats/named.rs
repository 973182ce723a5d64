//! What a user can choose by its name in an image that holds several: errors for names that are not right.

use std::fmt::Display;

use cdi_base::error::Error;

/// How many names are listed in an error.
const LISTED: usize = 50;

/// Returns the error for a name that does not exist; `what` is the kind of thing that has names.
pub(super) fn unknown<N: Display>(what: &str, wanted: &str, names: impl IntoIterator<Item = N>) -> Error {
    Error::usage(match list(names).as_str() {
        "" => format!("the image has no {what} '{wanted}': it has none at all"),
        names => format!("the image has no {what} '{wanted}', but has {names}"),
    })
}

/// Returns the error for a name that fits several.
pub(super) fn ambiguous<N: Display>(what: &str, wanted: &str, fitting: impl IntoIterator<Item = N>) -> Error {
    let fitting = list(fitting);
    Error::usage(format!("'{wanted}' can be more than one {what}: {fitting}; use what only one of them has"))
}

/// Lists names, separated by commas.
pub(super) fn list<N: Display>(names: impl IntoIterator<Item = N>) -> String {
    let mut names = names.into_iter();
    let mut listed: Vec<String> = names.by_ref().take(LISTED).map(|name| name.to_string()).collect();
    if names.next().is_some() {
        listed.push("…".into());
    }
    listed.join(", ")
}

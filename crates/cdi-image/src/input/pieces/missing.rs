//! Notices a piece that is missing between others.

use std::iter;
use std::path::Path;

use cdi_base::error::Error;

use super::names::{Numbered, Strength, Symbols};
use super::{Series, file_name};
use crate::input::Input;

/// How many names after that of a piece that is not there are tried, where files cannot be listed.
const GUESSED: usize = 4;

/// Refuses a disk of which an earlier piece is missing while a later one is present.
pub(super) fn refuse_missing_piece(input: &Input, series: Option<&Series>) -> Result<(), Error> {
    let Some(name) = file_name(input) else { return Ok(()) };
    let count = series.map_or(0, |s| s.others.len()) as u64;
    let known: Vec<(Numbered, Symbols, &str)> = match series {
        Some(s) => {
            let last = s.others.last().map_or(name, |(name, _)| name);
            vec![(s.first.clone(), s.symbols, last)]
        }
        None => Numbered::all(name)
            .into_iter()
            .filter(|n| n.strength() == Strength::Sure)
            .filter_map(|first| Some((first.clone(), first.symbols_if_first()?, name)))
            .collect(),
    };
    for (first, symbols, last) in known {
        let width = first.counter.len();
        let wide = symbols.all()[symbols.all().len() - 1];
        let counter_of = |name: &str| {
            let counter = first.counter_of(name)?;
            let longer = match symbols {
                Symbols::Decimal => !counter.starts_with('0'),
                _ => counter.bytes().next() == Some(wide),
            };
            let fits = counter.len() == width || (counter.len() > width && longer);
            (fits && symbols.contains(counter)).then(|| (counter.len(), counter.to_owned()))
        };
        let Some(last) = counter_of(last) else { continue };
        let next = |counter: &String| symbols.successors(counter).into_iter().next();
        // Where files cannot be listed, as on a web server, only the names that come next can be tried.
        let guessed = || iter::successors(next(&last.1), next).map(|counter| first.with(counter).name());
        let names = input.names(Path::new("."))?.unwrap_or_else(|| guessed().skip(1).take(GUESSED).collect());
        let mut later: Vec<_> = names.iter().filter_map(|name| Some((counter_of(name)?, name))).collect();
        later.retain(|(counter, _)| *counter > last);
        later.sort();
        for (_, later) in later {
            // Something else with such a name, such as a directory, is not part of the disk.
            let Some(file) = input.candidate(Path::new(later))? else { continue };
            let len = input.len_of(file);
            if len == 0 || (len > input.len() && first.strength() != Strength::Sure) {
                continue;
            }
            // Extensions also consist of letters: `disk.log` is a piece only if it has the length of one or a counter
            // close by.
            let ordinals =
                symbols.ordinal(&last.1).zip(symbols.ordinal(first.counter_of(later).unwrap_or_default()));
            let far = ordinals.is_some_and(|(a, b)| b.saturating_sub(a) > 2 * count + 16);
            if matches!(symbols, Symbols::Letters | Symbols::Capitals) && far && len != input.len() {
                continue;
            }
            let missing = next(&last.1).unwrap_or_default();
            let what = format!("piece '{}' is missing, but '{later}' is present", first.with(missing).name());
            return Err(Error::bad_image(what).hint("put all pieces of the disk in one directory"));
        }
    }
    Ok(())
}

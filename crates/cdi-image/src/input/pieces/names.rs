//! Names of pieces: which part is the counter, and how programs count.

use super::RAW_SUFFIXES;

/// The set of symbols that a counter uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Symbols {
    Decimal,
    Hexadecimal,
    Letters,
    Capitals,
}

impl Symbols {
    pub(super) fn all(self) -> &'static [u8] {
        match self {
            Symbols::Decimal => b"0123456789",
            Symbols::Hexadecimal => b"0123456789abcdef",
            Symbols::Letters => b"abcdefghijklmnopqrstuvwxyz",
            Symbols::Capitals => b"ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        }
    }

    /// Returns the counters that can follow `counter`: the plain successor, and the longer one with which GNU split
    /// continues before the first symbol becomes the last one.
    pub(super) fn successors(self, counter: &str) -> Vec<String> {
        let symbols = self.all();
        let (first, last) = (symbols[0], symbols[symbols.len() - 1]);
        let mut found = Vec::new();
        let mut digits = counter.as_bytes().to_vec();
        let mut carry = true;
        for digit in digits.iter_mut().rev() {
            match symbols.iter().position(|s| s == digit) {
                Some(n) if n + 1 < symbols.len() => {
                    (*digit, carry) = (symbols[n + 1], false);
                    break;
                }
                _ => *digit = first,
            }
        }
        if carry && self == Symbols::Decimal {
            digits.insert(0, b'1');
            carry = false;
        }
        if !carry {
            found.extend(String::from_utf8(digits));
        }
        // GNU split: n leading last symbols are followed by n + 2 symbols, of which the first is never the last symbol.
        let bytes = counter.as_bytes();
        let lasts = bytes.iter().take_while(|b| **b == last).count();
        let rest = &bytes[lasts..];
        let full = rest.len() == lasts + 2
            && rest[0] == symbols[symbols.len() - 2]
            && rest[1..].iter().all(|b| *b == last);
        if full {
            let mut widened = vec![last; lasts + 1];
            widened.resize(2 * lasts + 4, first);
            found.extend(String::from_utf8(widened));
        }
        found
    }

    /// Returns the number of counters of the same length before this one, or `None` if it is invalid or too large.
    pub(super) fn ordinal(self, counter: &str) -> Option<u64> {
        let base = self.all().len() as u64;
        counter.bytes().try_fold(0u64, |n, b| {
            let digit = self.all().iter().position(|s| *s == b)? as u64;
            n.checked_mul(base)?.checked_add(digit)
        })
    }

    /// Returns whether every byte of a counter is one of these symbols.
    pub(super) fn contains(self, counter: &str) -> bool {
        counter.bytes().all(|b| self.all().contains(&b))
    }
}

/// How certain it is from the name alone that a file is a piece: separate disks may also have such names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Strength {
    /// Separate disks do not have such names: `disk.001`, `disk.aa`, `xaa`.
    Sure,
    /// Mostly pieces: `disk.01`, `disk_001`, `disk.1`, `disk.partaa`. The contents must confirm it.
    Likely,
    /// Mostly separate disks: `disk-1.raw`, `sda1`. They are pieces only if the contents say so.
    Weak,
}

/// A file name, split around its counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Numbered {
    pub(super) before: String,
    pub(super) counter: String,
    pub(super) after: String,
}

impl Numbered {
    pub(super) fn name(&self) -> String {
        format!("{}{}{}", self.before, self.counter, self.after)
    }

    pub(super) fn with(&self, counter: String) -> Numbered {
        Numbered { counter, ..self.clone() }
    }

    /// Returns the counter of another name that differs from this one only in its counter.
    pub(super) fn counter_of<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(&self.before)?.strip_suffix(&self.after).filter(|counter| !counter.is_empty())
    }

    /// Returns all ways in which a name can be that of a piece: with a counter at the end, or before an extension.
    pub(super) fn all(name: &str) -> Vec<Numbered> {
        let mut found = Vec::new();
        let ends = [Some(name.len()), name.rfind('.').filter(|dot| is_raw_extension(&name[dot + 1..]))];
        for end in ends.into_iter().flatten() {
            let stem = name.as_bytes();
            let run = |is: fn(&u8) -> bool| stem[..end].iter().rev().take_while(|b| is(b)).count();
            let (digits, hexadecimal) =
                (run(u8::is_ascii_digit), run(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
            let (small, large) = (run(u8::is_ascii_lowercase), run(u8::is_ascii_uppercase));
            let mut lens = vec![digits];
            // Hexadecimal counters contain digits and letters, and extend back to a separator.
            lens.extend(Some(hexadecimal).filter(|len| *len > digits && digits > 0));
            // Letter counters: all letters back to a separator, or the last two or three.
            for run in [small, large] {
                lens.extend([run, 2, 3].into_iter().filter(|len| *len <= run && (2..=5).contains(len)));
            }
            lens.retain(|len| *len > 0 && *len < end);
            // `disk.raw` next to `disk.aaa` is not a piece.
            lens.retain(|len| !is_raw_extension(&name[end - len..end]));
            lens.sort_unstable_by(|a, b| b.cmp(a));
            lens.dedup();
            found.extend(lens.into_iter().map(|len| Numbered {
                before: name[..end - len].into(),
                counter: name[end - len..end].into(),
                after: name[end..].into(),
            }));
        }
        found
    }

    /// Returns the symbols of the counter if it is that of a first piece: zeros, or zeros and a one, or `aa`.
    pub(super) fn symbols_if_first(&self) -> Option<Symbols> {
        let all = |byte: u8| (2..=5).contains(&self.counter.len()) && self.counter.bytes().all(|b| b == byte);
        match self.counter.trim_start_matches('0') {
            "" | "1" => Some(Symbols::Decimal),
            _ if all(b'a') => Some(Symbols::Letters),
            _ if all(b'A') => Some(Symbols::Capitals),
            _ => None,
        }
    }

    pub(super) fn strength(&self) -> Strength {
        let digits = self.counter.bytes().any(|b| b.is_ascii_digit());
        let width = self.counter.len();
        let dot = self.before.ends_with('.');
        let separated = self.before.ends_with(['.', '_', '-']);
        match self.after.is_empty() {
            true if self.before == "x" && width > 1 => Strength::Sure,
            true if dot && (if digits { width > 2 } else { width > 1 }) => Strength::Sure,
            true if width > 1 || dot => Strength::Likely,
            false if separated && (width > 2 || (dot && width > 1)) => Strength::Likely,
            false if self.before == "x" && width > 1 => Strength::Likely,
            _ => Strength::Weak,
        }
    }
}

fn is_raw_extension(extension: &str) -> bool {
    RAW_SUFFIXES[..9].contains(&extension.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_continue_as_in_other_programs() {
        let next = |s: Symbols, counter| s.successors(counter).join(" ");
        use Symbols::*;
        assert_eq!(next(Decimal, "001"), "002");
        assert_eq!(next(Decimal, "999"), "1000");
        assert_eq!(next(Decimal, "9"), "10");
        assert_eq!(next(Decimal, "89"), "90 9000");
        assert_eq!(next(Decimal, "9899"), "9900 990000");
        assert_eq!(next(Letters, "az"), "ba");
        assert_eq!(next(Letters, "yz"), "za zaaa");
        assert_eq!(next(Letters, "zyzz"), "zzaa zzaaaa");
        assert_eq!(next(Letters, "zz"), "");
        assert_eq!(next(Hexadecimal, "09"), "0a");
        assert_eq!(next(Hexadecimal, "ef"), "f0 f000");
    }

    #[test]
    fn names_are_split_around_their_counter() {
        let firsts = |name: &str| {
            let found = Numbered::all(name).into_iter().filter(|n| n.symbols_if_first().is_some());
            let shown = |n: Numbered| format!("{}|{}|{} {:?}", n.before, n.counter, n.after, n.strength());
            found.map(shown).collect::<Vec<_>>().join(", ")
        };
        for (name, expect) in [
            ("disk.001", "disk.|001| Sure"),
            ("disk_001", "disk_|001| Likely"),
            ("disk.01", "disk.|01| Likely"),
            ("disk.1", "disk.|1| Likely"),
            ("disk1", "disk|1| Weak"),
            ("disk.img.aa", "disk.img.|aa| Sure"),
            ("DISK.AA", "DISK.|AA| Sure"),
            ("disk.img.partaa", "disk.img.part|aa| Likely"),
            ("xaa", "x|aa| Sure"),
            ("x00", "x|00| Sure"),
            ("disk_001.img", "disk_|001|.img Likely"),
            ("disk.00.raw", "disk.|00|.raw Likely"),
            ("xaa.img", "x|aa|.img Likely"),
            ("vm-disk-0.raw", "vm-disk-|0|.raw Weak"),
            ("disk.002", ""),
            ("disk.raw", ""),
        ] {
            assert_eq!(firsts(name), expect, "{name}");
        }
    }
}

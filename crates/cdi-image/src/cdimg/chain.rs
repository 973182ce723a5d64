//! The hash chain over the lines of the event log: its value after a line depends on this line and on all before it.
//! `docs/FORMAT.md`, "The chain", specifies it.

use cdi_base::printable::hex;

/// The beginning of a line that states the value of the chain after the lines before it, and its end.
const STATES: (&[u8], &[u8]) = (b"{\"event\":\"chain\",\"head\":\"", b"\"}");

/// The chain after some lines of the log of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain([u8; 32]);

/// What the chain says of the lines of one EVENTS record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linked {
    /// Whether the record ends with a line that states the chain. Earlier versions wrote records without one.
    pub closed: bool,
    /// Whether everything that the record states of the chain is right.
    pub right: bool,
}

impl Chain {
    /// Returns the chain of the image with this identifier, before the first line.
    pub fn new(uuid: &[u8; 16]) -> Chain {
        Chain(*blake3::hash(uuid).as_bytes())
    }

    /// Adds a line of the log, without its line feed.
    pub fn add(&mut self, line: &[u8]) {
        let mut hash = blake3::Hasher::new();
        hash.update(&self.0).update(line).update(b"\n");
        self.0 = *hash.finalize().as_bytes();
    }

    /// Adds the lines of an EVENTS record, and passes them to `each`, but for those that state the chain. If one of
    /// these is wrong, what it states counts from there on: so later changes are found as well.
    pub fn add_record<E>(
        &mut self,
        lines: &[u8],
        each: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<Linked, E> {
        let mut linked = Linked { closed: false, right: true };
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let stated = stated(line);
            linked.closed = stated.is_some();
            match stated {
                Some(stated) => {
                    linked.right &= stated == *self;
                    *self = stated;
                }
                None => {
                    self.add(line);
                    each(line)?;
                }
            }
        }
        Ok(linked)
    }

    /// Returns the value in hex.
    pub fn head(&self) -> String {
        hex(&self.0)
    }

    /// Returns the line that states this value, without its line feed.
    pub fn line(&self) -> String {
        let (start, end) = STATES;
        [start, self.head().as_bytes(), end].concat().into_iter().map(char::from).collect()
    }
}

/// Returns whether a line of the log states the chain, and is no event.
pub fn is_chain_line(line: &str) -> bool {
    stated(line.as_bytes()).is_some()
}

fn stated(line: &[u8]) -> Option<Chain> {
    let digits = line.strip_prefix(STATES.0)?.strip_suffix(STATES.1)?;
    let mut value = [0; 32];
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != value.len() || !rest.is_empty() {
        return None;
    }
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    for (byte, [high, low]) in value.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(Chain(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(chain: &mut Chain, lines: &str) -> (Linked, usize) {
        let mut count = 0;
        let linked = chain.add_record::<()>(lines.as_bytes(), &mut |_| {
            count += 1;
            Ok(())
        });
        (linked.unwrap(), count)
    }

    #[test]
    fn what_a_line_states_is_compared_and_is_no_event() {
        let mut chain = Chain::new(&[7; 16]);
        let mut same = chain.clone();
        same.add(b"a");
        same.add(b"b");
        let lines = format!("a\n\nb\n{}\n", same.line());
        assert_eq!(add(&mut chain, &lines), (Linked { closed: true, right: true }, 2));
        assert_eq!(chain, same);
        // Changed, removed, added, and in another order.
        for changed in ["A\nb", "b", "a\nb\nc", "b\na", "a\nb\n{}"] {
            let mut chain = Chain::new(&[7; 16]);
            let (linked, _) = add(&mut chain, &format!("{changed}\n{}", same.line()));
            assert_eq!((linked, &chain), (Linked { closed: true, right: false }, &same), "{changed}");
        }
        // Of another image.
        assert!(!add(&mut Chain::new(&[8; 16]), &lines).0.right);
        assert_eq!(add(&mut chain, "c\n"), (Linked { closed: false, right: true }, 1));
    }

    #[test]
    fn only_the_exact_form_states_the_chain() {
        let line = Chain::new(&[0; 16]).line();
        assert!(is_chain_line(&line));
        for other in [line.replace(':', ": "), line.replace("\"}", "0\"}"), line.to_uppercase(), line + " "] {
            assert!(!is_chain_line(&other), "{other}");
        }
    }
}

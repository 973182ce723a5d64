//! The handshake of an NBD connection: the negotiation of options.

use std::io::{self, Read, Write};

use cdi_base::units::index;

use super::wire::*;

/// The negotiated options.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Agreed {
    /// Whether replies are structured.
    pub(super) structured: bool,
    /// The ids of the metadata contexts that block status reports.
    pub(super) contexts: Vec<u32>,
}

/// The metadata contexts: their ids and names. The second is our own (docs/SEMANTICS.md).
pub(super) const CONTEXTS: [(u32, &str); 2] = [(ALLOCATION, "base:allocation"), (STATUS, "cdi:status")];
pub(super) const ALLOCATION: u32 = 1;
pub(super) const STATUS: u32 = 2;

/// The maximum length of an option in bytes. No well-behaved client sends a longer one.
const MAX_OPTION: u32 = 64 << 10;
/// The maximum number of options. No well-behaved client sends more.
const MAX_OPTIONS: usize = 1000;

/// Negotiates with the client until the transmission phase begins (`Some`) or the connection ends (`None`). `welcome`
/// is called before the last answer is sent, so that a client that has received it has its slot.
pub(super) fn shake<S: Read + Write>(
    stream: &mut S,
    size: u64,
    longest: u32,
    welcome: impl Fn() -> io::Result<()>,
) -> io::Result<Option<Agreed>> {
    let hello = Message::default().u64(MAGIC).u64(OPTION_MAGIC).u16(FIXED_NEWSTYLE | NO_ZEROES);
    stream.write_all(&hello.0)?;
    let flags = read_u32(stream)?;
    if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
        return Ok(None);
    }
    let mut agreed = Agreed::default();
    for _ in 0..MAX_OPTIONS {
        if read_u64(stream)? != OPTION_MAGIC {
            return Ok(None);
        }
        let (option, len) = (read_u32(stream)?, read_u32(stream)?);
        if len > MAX_OPTION {
            return Ok(None);
        }
        let mut data = vec![0; index(len.into())];
        stream.read_exact(&mut data)?;
        let mut reply = |kind: u32, payload: &[u8]| {
            let head = Message::default().u64(OPTION_REPLY_MAGIC).u32(option).u32(kind).u32(len32(payload));
            stream.write_all(&head.bytes(payload).0)
        };
        match option {
            OPT_EXPORT_NAME => {
                if !data.is_empty() {
                    return Ok(None);
                }
                let mut export = Message::default().u64(size).u16(TRANSMISSION_FLAGS);
                if flags & u32::from(NO_ZEROES) == 0 {
                    export = export.bytes(&[0; 124]);
                }
                welcome()?;
                stream.write_all(&export.0)?;
                return Ok(Some(agreed));
            }
            OPT_ABORT => {
                reply(REP_ACK, &[])?;
                return Ok(None);
            }
            OPT_LIST if data.is_empty() => {
                // The default export, whose name is empty.
                reply(REP_SERVER, &Message::default().u32(0).0)?;
                reply(REP_ACK, &[])?;
            }
            OPT_INFO | OPT_GO => match name_of(&data) {
                None => reply(REP_ERR_INVALID, b"malformed request")?,
                Some((name, _)) if !name.is_empty() => {
                    reply(REP_ERR_UNKNOWN, b"unknown export; the only export has an empty name")?
                }
                Some(_) => {
                    if option == OPT_GO {
                        welcome()?;
                    }
                    let export = Message::default().u16(INFO_EXPORT).u64(size).u16(TRANSMISSION_FLAGS);
                    reply(REP_INFO, &export.0)?;
                    let blocks = Message::default().u16(INFO_BLOCK_SIZE).u32(1).u32(4096).u32(longest);
                    reply(REP_INFO, &blocks.0)?;
                    reply(REP_ACK, &[])?;
                    if option == OPT_GO {
                        return Ok(Some(agreed));
                    }
                }
            },
            OPT_STRUCTURED_REPLY if data.is_empty() => {
                agreed.structured = true;
                reply(REP_ACK, &[])?;
            }
            OPT_LIST_META_CONTEXT | OPT_SET_META_CONTEXT => {
                let set = option == OPT_SET_META_CONTEXT;
                match queries(&data) {
                    Some(queries) if agreed.structured => {
                        let all = queries.is_empty() && !set;
                        let wanted = |name: &str| {
                            // When listing, a query that ends in a colon asks for everything in a namespace.
                            all || queries.iter().any(|q| {
                                *q == name.as_bytes()
                                    || (!set && q.ends_with(b":") && name.as_bytes().starts_with(q))
                            })
                        };
                        let chosen: Vec<_> = CONTEXTS.into_iter().filter(|(_, name)| wanted(name)).collect();
                        for (id, name) in &chosen {
                            let id = if set { *id } else { 0 };
                            reply(REP_META_CONTEXT, &Message::default().u32(id).bytes(name.as_bytes()).0)?;
                        }
                        if set {
                            agreed.contexts = chosen.iter().map(|(id, _)| *id).collect();
                        }
                        reply(REP_ACK, &[])?;
                    }
                    _ => reply(
                        REP_ERR_INVALID,
                        b"metadata contexts need structured replies and the default export",
                    )?,
                }
            }
            _ => reply(REP_ERR_UNSUP, b"")?,
        }
    }
    Ok(None)
}

/// Splits off a name that is preceded by its length, and returns it with the rest.
fn name_of(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = data.split_first_chunk::<4>()?;
    rest.split_at_checked(index(u32::from_be_bytes(*len).into()))
}

/// Returns the queries of a metadata context option for the default export.
fn queries(data: &[u8]) -> Option<Vec<&[u8]>> {
    let (name, rest) = name_of(data)?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    let mut queries = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let (query, after) = name_of(rest)?;
        queries.push(query);
        rest = after;
    }
    (name.is_empty() && rest.is_empty()).then_some(queries)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    /// A client that has sent everything in advance, and accepts any reply.
    struct Client(Cursor<Vec<u8>>);

    impl Read for Client {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.0.read(buf)
        }
    }

    impl Write for Client {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_handshake_ends_whatever_a_client_sends() {
        let mut random = 7u64;
        for round in 0..20_000 {
            let mut input = Message::default().u32(3);
            for _ in 0..4 {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let option = u32::try_from(random >> 60).unwrap();
                let len = if round % 3 == 0 { u32::try_from(random >> 40 & 0xFF_FFFF).unwrap() } else { 12 };
                let data: Vec<u8> = (0..12u32)
                    .map(|i| u8::try_from(random >> (i * 5) & [0xFF, 1][round % 2]).unwrap())
                    .collect();
                input = input.u64(OPTION_MAGIC).u32(option).u32(len).bytes(&data);
            }
            let _ = shake(&mut Client(Cursor::new(input.0)), 512, 4096, || Ok(()));
        }
    }
}

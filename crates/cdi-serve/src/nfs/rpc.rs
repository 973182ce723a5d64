//! ONC RPC over TCP (RFC 5531): records, call headers, credentials, and reply headers.

use std::io::{self, BufRead, Read};

use super::xdr::{Call, Garbage, Reply};

/// The number of bytes of a call that are kept. No supported call is longer; a write is, and its data is discarded.
const KEPT: usize = 8 << 10;
/// The maximum length of a call in bytes. A client that claims more does not speak this protocol.
const MAX_LEN: usize = 16 << 20;
/// The maximum number of fragments of a call.
const MAX_FRAGMENTS: usize = 1024;

/// Reads a whole call and returns its first [`KEPT`] bytes, or `None` at the end of the connection.
pub(super) fn read_record(stream: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let bad = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    let mut call = Vec::new();
    let mut length = 0usize;
    if stream.fill_buf()?.is_empty() {
        return Ok(None);
    }
    for _ in 0..MAX_FRAGMENTS {
        let mut mark = [0; 4];
        stream.read_exact(&mut mark)?;
        // The highest bit marks the last fragment.
        let mark = u32::from_be_bytes(mark);
        let len = (mark & 0x7fff_ffff) as usize;
        length += len;
        if length > MAX_LEN {
            return bad("RPC call is too long");
        }
        let kept = len.min(KEPT - call.len());
        let at = call.len();
        call.resize(at + kept, 0);
        stream.read_exact(&mut call[at..])?;
        let rest = (len - kept) as u64;
        if io::copy(&mut stream.by_ref().take(rest), &mut io::sink())? < rest {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if mark >> 31 == 1 {
            return Ok(Some(call));
        }
    }
    bad("RPC call has too many fragments")
}

/// The header of a call, before its arguments.
pub(super) struct Head {
    /// The number by which the client matches replies to calls.
    pub xid: u32,
    pub rpc: u32,
    pub program: u32,
    pub version: u32,
    pub procedure: u32,
    /// The calling user, if the call has one, or an error if the credential is malformed.
    pub user: Result<Option<u32>, Garbage>,
}

/// Reads the header of a call, and leaves its arguments in `call`.
pub(super) fn read_head(call: &mut Call<'_>) -> Result<Head, Garbage> {
    const CALL: u32 = 0;
    /// The maximum length of a credential and of a verifier in bytes (RFC 5531, 8.2).
    const MAX_AUTH: usize = 400;
    let xid = call.u32()?;
    if call.u32()? != CALL {
        return Err(Garbage);
    }
    let (rpc, program, version, procedure) = (call.u32()?, call.u32()?, call.u32()?, call.u32()?);
    let flavor = call.u32()?;
    let credential = call.bytes(MAX_AUTH)?;
    let (_, _) = (call.u32()?, call.bytes(MAX_AUTH)?);
    let user = match flavor {
        0 => Ok(None),
        1 => unix_user(&mut Call(credential)).map(Some),
        _ => Err(Garbage),
    };
    Ok(Head { xid, rpc, program, version, procedure, user })
}

/// Returns the user of an AUTH_UNIX credential: a stamp, the machine's name, user, group, groups.
fn unix_user(credential: &mut Call<'_>) -> Result<u32, Garbage> {
    let (_, _, user) = (credential.u32()?, credential.bytes(255)?, credential.u32()?);
    Ok(user)
}

/// The reason why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    ProgramUnavailable,
    /// Only this version is supported.
    ProgramMismatch(u32),
    ProcedureUnavailable,
    GarbageArguments,
    /// Only version 2 of RPC is supported.
    RpcMismatch,
    BadCredential,
}

/// Writes the reply header of a call that is accepted.
pub(super) fn accept(reply: &mut Reply<'_>, xid: u32) {
    // A reply, accepted, no verifier, success.
    reply.u32(xid).u32(1).u32(0).u32(0).u32(0).u32(0);
}

/// Writes the whole reply to a call that is refused.
pub(super) fn refuse(reply: &mut Reply<'_>, xid: u32, why: Refusal) {
    reply.u32(xid).u32(1);
    match why {
        Refusal::RpcMismatch => reply.u32(1).u32(0).u32(2).u32(2),
        Refusal::BadCredential => reply.u32(1).u32(1).u32(1),
        Refusal::ProgramUnavailable => reply.u32(0).u32(0).u32(0).u32(1),
        Refusal::ProgramMismatch(version) => reply.u32(0).u32(0).u32(0).u32(2).u32(version).u32(version),
        Refusal::ProcedureUnavailable => reply.u32(0).u32(0).u32(0).u32(3),
        Refusal::GarbageArguments => reply.u32(0).u32(0).u32(0).u32(4),
    };
}

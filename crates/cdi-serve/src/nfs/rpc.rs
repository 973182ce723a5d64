//! ONC RPC over TCP (RFC 5531): records, calls, who calls, and how a reply begins.

use std::io::{self, BufRead, Read};

use super::xdr::{Call, Garbage, Reply};

/// How much of a call is kept, in bytes. Nothing that is answered here is longer; what a client would write is, and goes
/// nowhere.
const KEPT: usize = 8 << 10;
/// How long a call may be, in bytes. A client that claims more does not speak this protocol.
const MAX_LEN: usize = 16 << 20;
/// In how many fragments a call may come.
const FRAGMENTS: usize = 1024;

/// Reads a call to its end: the first [`KEPT`] bytes of it. None at the end of the connection.
pub(super) fn read_record(stream: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let bad = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    let mut call = Vec::new();
    let mut length = 0usize;
    if stream.fill_buf()?.is_empty() {
        return Ok(None);
    }
    for _ in 0..FRAGMENTS {
        let mut mark = [0; 4];
        stream.read_exact(&mut mark)?;
        // The highest bit marks the last fragment.
        let mark = u32::from_be_bytes(mark);
        let len = (mark & 0x7fff_ffff) as usize;
        length += len;
        if length > MAX_LEN {
            return bad("a call is longer than any can be");
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
    bad("a call is in more pieces than any can be")
}

/// A call, up to its arguments.
pub(super) struct Head {
    /// What the client tells its calls apart by.
    pub xid: u32,
    pub rpc: u32,
    pub program: u32,
    pub version: u32,
    pub procedure: u32,
    /// The user that calls, if the call says and says it right.
    pub user: Result<Option<u32>, Garbage>,
}

/// Reads the head of a call and leaves its arguments.
pub(super) fn read_head(call: &mut Call<'_>) -> Result<Head, Garbage> {
    const CALL: u32 = 0;
    /// The longest credential and verifier (RFC 5531, 8.2).
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

/// AUTH_UNIX: a stamp, the machine's name, user, group, groups.
fn unix_user(credential: &mut Call<'_>) -> Result<u32, Garbage> {
    let (_, _, user) = (credential.u32()?, credential.bytes(255)?, credential.u32()?);
    Ok(user)
}

/// Why a call is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    ProgramUnavailable,
    /// Only this version is spoken.
    ProgramMismatch(u32),
    ProcedureUnavailable,
    GarbageArguments,
    /// Only version 2 of RPC is spoken.
    RpcMismatch,
    BadCredential,
}

/// Begins the reply to a call that is carried out.
pub(super) fn accept(reply: &mut Reply<'_>, xid: u32) {
    // A reply, accepted, no verifier, success.
    reply.u32(xid).u32(1).u32(0).u32(0).u32(0).u32(0);
}

/// The whole reply to a call that is not.
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

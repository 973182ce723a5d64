//! The disk as an NBD export: read-only, fixed newstyle, structured replies with the offset of a failed byte, block
//! status for zero and bad ranges, many requests at once.

mod handshake;
mod pool;
mod wire;

use cdi_base::workers::lock;
use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cdi_base::error::ReadError;
use cdi_base::units::index;
use handshake::{ALLOCATION, Agreed, STATUS};
use pool::{BLOCK, Pool};
use wire::*;

pub use super::net::Listener;
use super::net::{Limits, Peer, Stream, Until, accept_connections, serve_requests};
use super::served::Served;
use super::tree::read_disk;

/// The maximum length of a read in bytes; the protocol calls it the maximum payload.
const MAX_LEN: u32 = 32 << 20;
/// The maximum number of requests of one connection that wait for a thread; no more are read until one is taken.
const WAITING: usize = 16;
/// The maximum number of simultaneous connections. A client is a stranger until the handshake is over.
const CONNECTIONS: Limits = Limits { known: 32, strangers: 16, idle: Some(Duration::from_secs(10)) };
/// Timeout for the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The maximum number of runs in one block status reply.
const MAX_RUNS: usize = 4096;

/// Serves `disk` to every client that connects, each on threads of its own, and counts those that are connected. Returns only
/// if the listener fails.
pub fn serve(disk: &Served, listener: &Listener, clients: &Arc<AtomicUsize>) -> io::Result<()> {
    let (disk, clients) = (disk.clone(), Arc::clone(clients));
    let pool = Pool::default();
    accept_connections(listener, "nbd", CONNECTIONS, move |stream, peer| {
        clients.fetch_add(1, Ordering::Relaxed);
        let result = connection(&disk, &pool, stream, peer);
        clients.fetch_sub(1, Ordering::Relaxed);
        result
    })
}

/// A request of a client.
struct Request {
    flags: u16,
    kind: u16,
    cookie: u64,
    offset: u64,
    len: u32,
}

/// Answers the requests of one connection.
struct Answers<'a> {
    disk: &'a Served,
    pool: &'a Pool,
    peer: &'a Peer,
    agreed: Agreed,
    out: Mutex<Box<dyn Stream>>,
}

fn connection(disk: &Served, pool: &Pool, mut stream: Box<dyn Stream>, peer: &Peer) -> io::Result<()> {
    let welcome = || peer.introduce();
    let agreed = handshake::shake(&mut Until::new(&mut stream, HANDSHAKE), disk.size(), MAX_LEN, welcome)?;
    let Some(agreed) = agreed else { return Ok(()) };
    let answers = Answers { disk, pool, peer, agreed, out: Mutex::new(stream.another()?) };
    let receive = |take: &dyn Fn(Request) -> bool| receive(&mut BufReader::new(&mut stream), take);
    serve_requests(peer, WAITING, receive, |request, buf| answers.answer(&request, buf))
}

/// Reads requests until the client disconnects or `take` returns that the connection is closed.
fn receive(stream: &mut impl Read, take: impl Fn(Request) -> bool) -> io::Result<()> {
    loop {
        let magic = match read_u32(stream) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            magic => magic?,
        };
        if magic != REQUEST_MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "request with a wrong magic number"));
        }
        let (flags, kind) = (read_u16(stream)?, read_u16(stream)?);
        let (cookie, offset, len) = (read_u64(stream)?, read_u64(stream)?, read_u32(stream)?);
        match kind {
            CMD_DISC => return Ok(()),
            // The data of a write follows the request, and is discarded.
            CMD_WRITE if io::copy(&mut stream.take(len.into()), &mut io::sink())? < u64::from(len) => {
                return Ok(());
            }
            _ => {}
        }
        if !take(Request { flags, kind, cookie, offset, len }) {
            return Ok(());
        }
    }
}

impl Answers<'_> {
    fn answer(&self, request: &Request, buf: &mut Vec<u8>) -> io::Result<()> {
        let end = request.offset.checked_add(request.len.into()).filter(|end| *end <= self.disk.size());
        match request.kind {
            CMD_READ | CMD_BLOCK_STATUS if end.is_none() || request.len == 0 => {
                self.error(request, EINVAL, "request is empty or exceeds the size of the disk", None)
            }
            CMD_READ if request.len > MAX_LEN => {
                self.error(request, EINVAL, "read is longer than 32 MiB", None)
            }
            CMD_READ => self.read(request, buf),
            CMD_BLOCK_STATUS if self.agreed.contexts.is_empty() => {
                self.error(request, EINVAL, "no metadata context was negotiated", None)
            }
            CMD_BLOCK_STATUS => self.block_status(request),
            CMD_WRITE | CMD_WRITE_ZEROES | CMD_TRIM => {
                self.error(request, EPERM, "export is read-only", None)
            }
            _ => self.error(request, EINVAL, "unsupported request", None),
        }
    }

    /// Answers a read. A structured reply is sent block by block; a simple or unfragmented one must not begin before
    /// everything was read.
    fn read(&self, request: &Request, buf: &mut Vec<u8>) -> io::Result<()> {
        let len = index(request.len.into());
        if self.agreed.structured && request.flags & CMD_FLAG_DF == 0 {
            return self.read_by_blocks(request, buf);
        }
        if len <= BLOCK {
            return self.read_whole(request, std::slice::from_mut(buf));
        }
        let mut taken = self.pool.take(len.div_ceil(BLOCK));
        if self.peer.is_closed() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        self.read_whole(request, &mut taken.blocks)
    }

    fn read_by_blocks(&self, request: &Request, buf: &mut Vec<u8>) -> io::Result<()> {
        let end = request.offset + u64::from(request.len);
        let mut at = request.offset;
        while at < end {
            let stop = end.min(at + BLOCK as u64);
            buf.resize(index(stop - at), 0);
            match read_disk(self.disk, buf, at) {
                Ok(()) => self.chunk(request, stop == end, REPLY_OFFSET_DATA, &at.to_be_bytes(), &[buf])?,
                Err(e) => {
                    // The bytes before a bad sector are sent.
                    if let ReadError::Bad { good: good @ 1.., .. } = e {
                        let before = &mut buf[..good];
                        if read_disk(self.disk, before, at).is_ok() {
                            self.chunk(request, false, REPLY_OFFSET_DATA, &at.to_be_bytes(), &[before])?;
                        }
                    }
                    return self.failed(request, at, e);
                }
            }
            at = stop;
        }
        Ok(())
    }

    fn read_whole(&self, request: &Request, blocks: &mut [Vec<u8>]) -> io::Result<()> {
        let end = request.offset + u64::from(request.len);
        let mut at = request.offset;
        for block in &mut *blocks {
            let stop = end.min(at + BLOCK as u64);
            block.resize(index(stop - at), 0);
            if let Err(e) = read_disk(self.disk, block, at) {
                return self.failed(request, at, e);
            }
            at = stop;
        }
        let blocks: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
        if self.agreed.structured {
            self.chunk(request, true, REPLY_OFFSET_DATA, &request.offset.to_be_bytes(), &blocks)
        } else {
            self.simple(request, 0, &blocks)
        }
    }

    /// Reports that the read of the block at `at` failed.
    fn failed(&self, request: &Request, at: u64, e: ReadError) -> io::Result<()> {
        match e {
            ReadError::Bad { good, .. } => self.error(request, EIO, "bad sector", Some(at + good as u64)),
            e => self.error(request, EIO, &e.to_string(), Some(at)),
        }
    }

    fn block_status(&self, request: &Request) -> io::Result<()> {
        let range = request.offset..request.offset + u64::from(request.len);
        let max = if request.flags & CMD_FLAG_REQ_ONE != 0 { 1 } else { MAX_RUNS };
        let ids = &self.agreed.contexts;
        for (i, id) in ids.iter().enumerate() {
            let runs = match *id {
                ALLOCATION => self.allocation(range.clone(), max),
                STATUS => self.status(range.clone(), max),
                _ => Vec::new(),
            };
            let body = runs.into_iter().fold(Message::default(), |m, (len, flags)| m.u32(len).u32(flags));
            self.chunk(request, i + 1 == ids.len(), REPLY_BLOCK_STATUS, &id.to_be_bytes(), &[&body.0])?;
        }
        Ok(())
    }

    /// Returns the runs of base:allocation. Zeros need not be read; bad sectors are reported as data, because reading
    /// them must fail.
    fn allocation(&self, range: Range<u64>, max: usize) -> Vec<(u32, u32)> {
        // A disk that is being imaged changes.
        let Some(disk) = self.disk.image() else { return merge(std::iter::once((range, 0)), max) };
        let failing = disk.failing_ranges();
        let mut seen = range.start;
        let extents = disk.extents(range.clone()).map(move |extent| match extent {
            Ok(extent) => {
                seen = extent.disk.end;
                (extent.disk, extent.origin.is_zero())
            }
            // If the index is damaged, reads will fail, so the rest is reported as data.
            Err(_) => (seen..range.end, false),
        });
        let runs = extents.flat_map(|(disk, zero)| {
            let ranges = if zero { failing.touching(disk.clone()) } else { &[] };
            let (fine, bad) = if zero { (STATE_HOLE | STATE_ZERO, 0) } else { (0, 0) };
            runs(disk, fine, ranges.iter().map(move |r| (r.start..r.end, bad)))
        });
        merge(runs, max)
    }

    /// Returns the runs of cdi:status: 0 for finished ranges, otherwise the number of the status.
    fn status(&self, range: Range<u64>, max: usize) -> Vec<(u32, u32)> {
        let bad = self.disk.bad();
        let ranges = bad.touching(range.clone());
        merge(runs(range, 0, ranges.iter().map(|r| (r.start..r.end, r.status as u32))), max)
    }

    fn error(&self, request: &Request, error: u32, text: &str, at: Option<u64>) -> io::Result<()> {
        if !self.agreed.structured {
            return self.simple(request, error, &[]);
        }
        let text = text.as_bytes();
        let message = Message::default().u32(error).u16(u16::try_from(text.len()).unwrap_or(0)).bytes(text);
        match at {
            Some(at) => self.chunk(request, true, REPLY_ERROR_OFFSET, &[], &[&message.u64(at).0]),
            None => self.chunk(request, true, REPLY_ERROR, &[], &[&message.0]),
        }
    }

    fn simple(&self, request: &Request, error: u32, data: &[&[u8]]) -> io::Result<()> {
        let head = Message::default().u32(SIMPLE_REPLY_MAGIC).u32(error).u64(request.cookie);
        self.send(&head.0, data)
    }

    fn chunk(&self, request: &Request, done: bool, kind: u16, head: &[u8], data: &[&[u8]]) -> io::Result<()> {
        let flags = if done { REPLY_FLAG_DONE } else { 0 };
        let start = Message::default().u32(STRUCTURED_REPLY_MAGIC).u16(flags).u16(kind).u64(request.cookie);
        let len = data.iter().fold(len32(head), |len, part| len.saturating_add(len32(part)));
        self.send(&start.u32(len).bytes(head).0, data)
    }

    fn send(&self, head: &[u8], data: &[&[u8]]) -> io::Result<()> {
        let mut out = lock(&self.out);
        let parts: Vec<&[u8]> = [head].into_iter().chain(data.iter().copied()).collect();
        self.peer.write(&mut **out, &parts, || self.pool.is_wanted())
    }
}

/// Splits `range` into runs: the `listed` ones, in order, and those between them, which get the flags `fine`. Some may
/// be empty.
fn runs(
    range: Range<u64>,
    fine: u32,
    listed: impl Iterator<Item = (Range<u64>, u32)>,
) -> impl Iterator<Item = (Range<u64>, u32)> {
    let last = std::iter::once((range.end..range.end, fine));
    let mut at = range.start;
    listed.chain(last).flat_map(move |(listed, flags)| {
        let start = listed.start.clamp(at, range.end);
        let end = listed.end.clamp(start, range.end);
        let before = at..start;
        at = end;
        [(before, fine), (start..end, flags)]
    })
}

/// Converts runs to the form of the protocol, length and flags: merges adjacent runs with equal flags, and returns at
/// most `max`.
fn merge(runs: impl Iterator<Item = (Range<u64>, u32)>, max: usize) -> Vec<(u32, u32)> {
    let mut out: Vec<(u32, u32)> = Vec::new();
    for (range, flags) in runs.filter(|(range, _)| !range.is_empty()) {
        // A request is at most 4 GiB long, and so is every run of it.
        let len = u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
        if let Some(last) = out.last_mut().filter(|last| last.1 == flags) {
            last.0 = last.0.saturating_add(len);
        } else if out.len() < max {
            out.push((len, flags));
        } else {
            break;
        }
    }
    out
}

//! The disk as an NBD export: read-only, fixed newstyle, structured replies that name the byte that failed, block status
//! with what is zero and what is bad, many requests at once.

mod handshake;
mod wire;

use std::io::{self, BufReader, Read};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

pub use super::net::Listener;
use super::net::{Stream, in_flight, take_connections};
use super::read_disk;
use crate::disk::Disk;
use crate::error::ReadError;
use crate::units::index;
use handshake::{ALLOCATION, Agreed, STATUS};
use wire::*;

/// The longest read that is answered, in bytes; what the protocol calls the maximum payload.
const LONGEST: u32 = 32 << 20;
/// How many requests of one connection wait for a thread; a client that sends more is not read from until then.
const WAITING: usize = 16;
/// How many connections there are at once.
const CONNECTIONS: usize = 32;
/// How many runs one block status tells of.
const MOST_RUNS: usize = 4096;

/// Serves `disk` to whoever connects, each on threads of its own. Does not return but for an error of the listener.
pub fn serve(disk: &Arc<Disk>, listener: &Listener) -> io::Result<()> {
    let disk = Arc::clone(disk);
    take_connections(listener, "nbd", CONNECTIONS, move |stream| connection(&disk, stream))
}

/// A request, its lengths checked.
struct Request {
    flags: u16,
    kind: u16,
    cookie: u64,
    offset: u64,
    len: u32,
}

/// What answers the requests of one connection.
struct Answers<'a> {
    disk: &'a Disk,
    agreed: Agreed,
    out: Mutex<Box<dyn Stream>>,
}

fn connection(disk: &Disk, mut stream: Box<dyn Stream>) -> io::Result<()> {
    let Some(agreed) = handshake::shake(&mut stream, disk.size(), LONGEST)? else { return Ok(()) };
    let answers = Answers { disk, agreed, out: Mutex::new(stream.another()?) };
    let close = || answers.out.lock().unwrap_or_else(PoisonError::into_inner).close();
    let receive = |take: &dyn Fn(Request) -> bool| receive(&mut BufReader::new(&mut stream), take);
    in_flight(WAITING, receive, |request, buf| answers.answer(&request, buf), close)
}

/// Reads requests until the client says goodbye or nobody takes them any more.
fn receive(stream: &mut impl Read, take: impl Fn(Request) -> bool) -> io::Result<()> {
    loop {
        let magic = match read_u32(stream) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            magic => magic?,
        };
        if magic != REQUEST_MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a request does not begin like one"));
        }
        let (flags, kind) = (read_u16(stream)?, read_u16(stream)?);
        let (cookie, offset, len) = (read_u64(stream)?, read_u64(stream)?, read_u32(stream)?);
        match kind {
            CMD_DISC => return Ok(()),
            // What would be written comes behind the request, and goes nowhere.
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
                self.error(request, EINVAL, "outside the disk, or of no length", None)
            }
            CMD_READ if request.len > LONGEST => self.error(request, EINVAL, "longer than 32 MiB", None),
            CMD_READ => self.read(request, buf),
            CMD_BLOCK_STATUS if self.agreed.contexts.is_empty() => {
                self.error(request, EINVAL, "no metadata context was agreed on", None)
            }
            CMD_BLOCK_STATUS => self.block_status(request),
            CMD_WRITE | CMD_WRITE_ZEROES | CMD_TRIM => self.error(request, EPERM, "read-only", None),
            _ => self.error(request, EINVAL, "not a request that is known here", None),
        }
    }

    fn read(&self, request: &Request, buf: &mut Vec<u8>) -> io::Result<()> {
        buf.resize(index(request.len.into()), 0);
        match read_disk(self.disk, buf, request.offset) {
            Ok(()) if self.agreed.structured => {
                self.chunk(request, true, REPLY_OFFSET_DATA, &request.offset.to_be_bytes(), buf)
            }
            Ok(()) => self.simple(request, 0, buf),
            Err(ReadError::Bad { good, .. }) => {
                // What comes before the bad sector is given, unless it is to be all or nothing.
                let before = &mut buf[..good];
                let at = request.offset + good as u64;
                let may = self.agreed.structured && request.flags & CMD_FLAG_DF == 0 && good > 0;
                if may && read_disk(self.disk, before, request.offset).is_ok() {
                    self.chunk(request, false, REPLY_OFFSET_DATA, &request.offset.to_be_bytes(), before)?;
                }
                self.error(request, EIO, "bad sector", Some(at))
            }
            Err(e) => self.error(request, EIO, &e.to_string(), Some(request.offset)),
        }
    }

    fn block_status(&self, request: &Request) -> io::Result<()> {
        let range = request.offset..request.offset + u64::from(request.len);
        let most = if request.flags & CMD_FLAG_REQ_ONE != 0 { 1 } else { MOST_RUNS };
        let ids = &self.agreed.contexts;
        for (i, id) in ids.iter().enumerate() {
            let runs = match *id {
                ALLOCATION => self.allocation(range.clone(), most),
                STATUS => self.status(range.clone(), most),
                _ => Vec::new(),
            };
            let body = runs.into_iter().fold(Message::default(), |m, (len, flags)| m.u32(len).u32(flags));
            self.chunk(request, i + 1 == ids.len(), REPLY_BLOCK_STATUS, &id.to_be_bytes(), &body.0)?;
        }
        Ok(())
    }

    /// base:allocation: what is zero needs no reading. What is bad is data, because reading it must fail.
    fn allocation(&self, range: Range<u64>, most: usize) -> Vec<(u32, u32)> {
        let failing = self.disk.failing();
        let mut told = range.start;
        let extents = self.disk.extents(range.clone()).flat_map(|extent| {
            // Where the index is damaged reading will fail: data, as far as anybody can tell.
            let Ok(extent) = extent else { return vec![(told..range.end, 0)] };
            told = extent.disk.end;
            if !extent.origin.is_zero() {
                return vec![(extent.disk, 0)];
            }
            let mut runs = Vec::new();
            let mut at = extent.disk.start;
            for bad in failing.touching(extent.disk.clone()) {
                runs.push((at..bad.start.max(at), STATE_HOLE | STATE_ZERO));
                at = bad.end.min(extent.disk.end);
                runs.push((bad.start.max(extent.disk.start)..at, 0));
            }
            runs.push((at..extent.disk.end, STATE_HOLE | STATE_ZERO));
            runs
        });
        merge(extents, most)
    }

    /// cdi:status: 0 for what is finished, else the number of its status.
    fn status(&self, range: Range<u64>, most: usize) -> Vec<(u32, u32)> {
        let mut at = range.start;
        let mut runs = Vec::new();
        for bad in self.disk.bad().touching(range.clone()).iter().take(most + 1) {
            runs.push((at..bad.start.max(at), 0));
            let end = bad.end.min(range.end);
            runs.push((bad.start.max(range.start)..end, bad.status as u32));
            at = end;
        }
        if runs.len() <= 2 * most {
            runs.push((at..range.end, 0));
        }
        merge(runs.into_iter(), most)
    }

    fn error(&self, request: &Request, error: u32, words: &str, at: Option<u64>) -> io::Result<()> {
        if !self.agreed.structured {
            return self.simple(request, error, &[]);
        }
        let words = words.as_bytes();
        let message = Message::default().u32(error).u16(u16::try_from(words.len()).unwrap_or(0)).bytes(words);
        match at {
            Some(at) => self.chunk(request, true, REPLY_ERROR_OFFSET, &[], &message.u64(at).0),
            None => self.chunk(request, true, REPLY_ERROR, &[], &message.0),
        }
    }

    fn simple(&self, request: &Request, error: u32, data: &[u8]) -> io::Result<()> {
        let head = Message::default().u32(SIMPLE_REPLY_MAGIC).u32(error).u64(request.cookie);
        self.send(&head.0, data)
    }

    fn chunk(&self, request: &Request, done: bool, kind: u16, head: &[u8], data: &[u8]) -> io::Result<()> {
        let flags = if done { REPLY_FLAG_DONE } else { 0 };
        let start = Message::default().u32(STRUCTURED_REPLY_MAGIC).u16(flags).u16(kind).u64(request.cookie);
        self.send(&start.u32(len32(head) + len32(data)).bytes(head).0, data)
    }

    fn send(&self, head: &[u8], data: &[u8]) -> io::Result<()> {
        let mut out = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        out.write_all(head)?;
        out.write_all(data)
    }
}

/// Runs as the protocol tells them: length and flags, like neighbours as one, at most so many.
fn merge(runs: impl Iterator<Item = (Range<u64>, u32)>, most: usize) -> Vec<(u32, u32)> {
    let mut out: Vec<(u32, u32)> = Vec::new();
    for (range, flags) in runs.filter(|(range, _)| !range.is_empty()) {
        // A request is at most 4 GiB long, and so is every run of it.
        let len = u32::try_from(range.end - range.start).unwrap_or(u32::MAX);
        if let Some(last) = out.last_mut().filter(|last| last.1 == flags) {
            last.0 = last.0.saturating_add(len);
        } else if out.len() < most {
            out.push((len, flags));
        } else {
            break;
        }
    }
    out
}

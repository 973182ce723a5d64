//! The procedures of NFS version 3 (RFC 1813) and of its MOUNT protocol.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::reads::NoBytes;
use super::rpc::Refusal;
use super::xdr::{Call, Garbage, Reply};
use super::{Clients, Export, HANDLE, MAX_READ};
use crate::net::Peer;
use crate::tree::{Attributes, EntryKind, Failure, Id, ROOT};

pub(super) const NFS: u32 = 100_003;
pub(super) const MOUNT: u32 = 100_005;
/// The supported version of both.
pub(super) const VERSION: u32 = 3;

/// The maximum length of a name, and of a path, in bytes.
const NAME: u32 = 255;
const PATH: usize = 1024;

const OK: u32 = 0;
const NOENT: u32 = 2;
const IO: u32 = 5;
const ACCES: u32 = 13;
const NOTDIR: u32 = 20;
const ISDIR: u32 = 21;
const INVAL: u32 = 22;
const ROFS: u32 = 30;
const STALE: u32 = 70;
const TOOSMALL: u32 = 10_005;
const FAULT: u32 = 10_006;
/// "Try again later."
const JUKEBOX: u32 = 10_008;

/// Returns the status for a failure. `missing`: what it is if there is no such entry.
fn status(failure: Failure, missing: u32) -> u32 {
    match failure {
        Failure::Missing => missing,
        Failure::NotDirectory => NOTDIR,
        Failure::NotLink => INVAL,
        Failure::Failed(_) => IO,
    }
}

impl From<NoBytes> for u32 {
    fn from(none: NoBytes) -> u32 {
        match none {
            NoBytes::Error(_) => IO,
            NoBytes::Later => JUKEBOX,
        }
    }
}

impl From<Garbage> for Refusal {
    fn from(_: Garbage) -> Refusal {
        Refusal::GarbageArguments
    }
}

/// The caller of a procedure.
pub(super) struct Caller<'a> {
    /// The other end of the connection.
    pub peer: &'a Arc<Peer>,
    /// When the call was received.
    pub since: Instant,
    /// The user ID, if the call has one.
    pub user: Option<u32>,
}

impl Export {
    /// Carries out a procedure of MOUNT and appends its result to the reply, after the header that accepts the call.
    /// Returns whether the caller knew the export's name.
    pub(super) fn mount(
        &self,
        procedure: u32,
        caller: &Caller<'_>,
        call: &mut Call<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<bool, Refusal> {
        match procedure {
            // NULL; DUMP and EXPORT return empty lists.
            0 => {}
            2 | 5 => {
                reply.bool(false);
            }
            1 => {
                let within = self.within(call.bytes(PATH)?).filter(|_| self.open.load(Ordering::SeqCst));
                match within.ok_or(ACCES).and_then(|path| self.directory(path, caller)) {
                    // The authentication flavors: AUTH_UNIX, AUTH_NONE.
                    Ok(id) => reply.u32(OK).bytes(&self.handle(id)).u32(2).u32(1).u32(0),
                    Err(error) => reply.u32(error),
                };
                return Ok(within.is_some());
            }
            3 => {
                let known = self.within(call.bytes(PATH)?).is_some();
                if known {
                    self.check_mounted();
                }
                return Ok(known);
            }
            4 => {}
            _ => return Err(Refusal::ProcedureUnavailable),
        }
        Ok(false)
    }

    /// Returns the path of a directory in ours from the path that a client mounts, if it knows the name of the export.
    fn within<'p>(&self, path: &'p [u8]) -> Option<&'p [u8]> {
        let (name, within) = path.split_at(path.len().min(self.path.len()));
        // Compared as hashes, in constant time.
        let known = blake3::hash(name) == blake3::hash(self.path.as_bytes());
        let within = if within.is_empty() { within } else { within.strip_prefix(b"/").filter(|_| known)? };
        // For the system, one more component is the name of the volume on macOS, and means nothing here.
        let label = self.clients == Clients::System;
        let one = !within.strip_suffix(b"/").unwrap_or(within).contains(&b'/');
        (known && (!label || one)).then_some(if label { &[] } else { within })
    }

    /// Returns the directory with this path: the tools of libnfs mount the one that a file is in.
    fn directory(&self, path: &[u8], caller: &Caller<'_>) -> Result<Id, u32> {
        let mut here = ROOT;
        for name in path.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            self.scanned(here, false, caller)?;
            let name = std::str::from_utf8(name).map_err(|_| NOENT)?;
            here = self.tree.find(here, name).map_err(|e| status(e, NOENT))?;
        }
        self.scanned(here, true, caller)?;
        match self.tree.kind(here) {
            Some(EntryKind::Directory) => Ok(here),
            _ => Err(NOTDIR),
        }
    }

    /// Waits for a scan while a client mounts.
    fn scanned(&self, id: Id, attributes_only: bool, caller: &Caller<'_>) -> Result<(), u32> {
        // MOUNT has no "try again later".
        self.reads.scanned(id, attributes_only, caller).map_err(|_| FAULT)
    }

    /// Carries out a procedure of NFS and appends its result to the reply, after the header that accepts the call.
    /// Returns whether the caller had a valid handle.
    pub(super) fn nfs(
        &self,
        procedure: u32,
        caller: &Caller<'_>,
        call: &mut Call<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<bool, Refusal> {
        if procedure == 0 {
            return Ok(false);
        }
        // The number of words after an error, all "no attributes follow": attributes before and after the operation.
        let absent = match procedure {
            1 => 0,
            3..=6 | 16..=20 => 1,
            2 | 7..=13 | 21 => 2,
            14 => 4,
            15 => 3,
            _ => return Err(Refusal::ProcedureUnavailable),
        };
        let handle = call.bytes(64)?;
        let found = self.id(handle);
        let result = match found {
            None => Err(STALE),
            // When the kernel reconnects, the end of its old connection may not have been noticed yet.
            Some(_) if !self.admits(caller.peer) => Err(JUKEBOX),
            Some(_) if matches!(procedure, 2 | 7..=15 | 21) => Err(ROFS),
            // Attributes of a directory or of the file system may be read by everyone; they are the same for every
            // image.
            Some(_) if matches!(procedure, 3 | 5 | 6 | 16 | 17) && !self.permits(caller) => Err(ACCES),
            Some(id) => match self.reads.scanned(id, matches!(procedure, 1 | 4 | 18..), caller) {
                // What it is on was not scanned yet.
                Err(none) => Err(none.into()),
                Ok(()) => self.answer_about(id, procedure, caller, call, reply)?,
            },
        };
        if let Err(error) = result {
            reply.u32(error);
            (0..absent).for_each(|_| {
                reply.bool(false);
            });
        }
        Ok(found.is_some() && result != Err(JUKEBOX))
    }

    /// Carries out a procedure that is about an entry. Returns the status if it fails.
    fn answer_about(
        &self,
        id: Id,
        procedure: u32,
        caller: &Caller<'_>,
        call: &mut Call<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<Result<(), u32>, Refusal> {
        Ok(match procedure {
            1 => self.getattr(id, reply),
            3 => self.lookup(id, call.bytes(PATH)?, reply),
            4 => self.access(id, caller, call.u32()?, reply),
            5 => self.readlink(id, caller.since, reply),
            6 => self.read(id, caller.since, call.u64()?, call.u32()?, reply),
            16 => {
                let (cookie, _, count) = (call.u64()?, call.u64()?, call.u32()?);
                self.readdir(id, cookie, count, false, reply)
            }
            17 => {
                let (cookie, _, _, count) = (call.u64()?, call.u64()?, call.u32()?, call.u32()?);
                self.readdir(id, cookie, count, true, reply)
            }
            18 => self.fsstat(id, reply),
            19 => self.fsinfo(id, reply),
            _ => self.pathconf(id, reply),
        })
    }

    fn getattr(&self, id: Id, reply: &mut Reply<'_>) -> Result<(), u32> {
        let all = self.tree.attributes(id).map_err(|e| status(e, STALE))?;
        reply.u32(OK);
        self.attributes(id, &all, reply);
        Ok(())
    }

    fn attributes(&self, id: Id, all: &Attributes, reply: &mut Reply<'_>) {
        // The number of the type, and the size in bytes.
        let (number, size) = match all.kind {
            EntryKind::File(size) => (1, size),
            EntryKind::Directory => (2, 0),
            EntryKind::Link(size) => (5, size),
        };
        reply.u32(number).u32(self.tree.mode(all.kind)).u32(all.links).u32(self.user).u32(self.group);
        reply.u64(size).u64(size).u64(0).u64(self.fsid).u64(id.0);
        for time in [all.modified, all.modified, all.changed] {
            let since: std::time::Duration = since_epoch(time);
            reply.u32(u32::try_from(since.as_secs()).unwrap_or(u32::MAX)).u32(since.subsec_nanos());
        }
    }

    /// Appends the optional attributes of an entry, if it still exists.
    fn optional_attributes(&self, id: Id, reply: &mut Reply<'_>) {
        let all = self.tree.attributes(id);
        reply.bool(all.is_ok());
        if let Ok(all) = all {
            self.attributes(id, &all, reply);
        }
    }

    fn lookup(&self, id: Id, name: &[u8], reply: &mut Reply<'_>) -> Result<(), u32> {
        // All names are UTF-8.
        let name = std::str::from_utf8(name).map_err(|_| NOENT)?;
        let found = self.tree.find(id, name).map_err(|e| status(e, NOENT))?;
        reply.u32(OK).bytes(&self.handle(found));
        self.optional_attributes(found, reply);
        self.optional_attributes(id, reply);
        Ok(())
    }

    fn access(&self, id: Id, caller: &Caller<'_>, wanted: u32, reply: &mut Reply<'_>) -> Result<(), u32> {
        const READ: u32 = 1;
        const LOOKUP: u32 = 2;
        const EXECUTE: u32 = 32;
        let may = match self.tree.kind(id).ok_or(STALE)? {
            _ if !self.permits(caller) => 0,
            EntryKind::Directory => READ | LOOKUP | EXECUTE,
            _ => READ,
        };
        reply.u32(OK);
        self.optional_attributes(id, reply);
        reply.u32(wanted & may);
        Ok(())
    }

    fn readlink(&self, id: Id, since: Instant, reply: &mut Reply<'_>) -> Result<(), u32> {
        let target = match self.tree.kind(id).ok_or(STALE)? {
            EntryKind::Link(_) => self.reads.target(id, since)?,
            _ => return Err(INVAL),
        };
        reply.u32(OK);
        self.optional_attributes(id, reply);
        reply.bytes(&target);
        Ok(())
    }

    fn read(
        &self,
        id: Id,
        since: Instant,
        offset: u64,
        count: u32,
        reply: &mut Reply<'_>,
    ) -> Result<(), u32> {
        let size = match self.tree.kind(id).ok_or(STALE)? {
            EntryKind::File(size) => size,
            EntryKind::Directory => return Err(ISDIR),
            EntryKind::Link(_) => return Err(INVAL),
        };
        let len = u32::try_from(size.saturating_sub(offset)).unwrap_or(u32::MAX).min(count).min(MAX_READ);
        // All bytes or an error: the client gets those before a bad sector by a smaller read.
        let bytes = self.reads.read(id, offset, len as usize, since)?;
        reply.u32(OK);
        self.optional_attributes(id, reply);
        reply.u32(len).bool(offset.saturating_add(len.into()) >= size).bytes(&bytes);
        Ok(())
    }

    fn readdir(&self, id: Id, cookie: u64, max: u32, plus: bool, reply: &mut Reply<'_>) -> Result<(), u32> {
        let before = reply.0.len();
        reply.u32(OK);
        self.optional_attributes(id, reply);
        reply.u64(0);
        let limit = before + (max.min(MAX_READ) as usize).saturating_sub(8);
        let first = reply.0.len();
        let whole = self.tree.entries(id, cookie, &mut |entry| {
            let start = reply.0.len();
            reply.bool(true).u64(entry.id.0).bytes(entry.name.as_bytes()).u64(entry.next);
            if plus {
                self.optional_attributes(entry.id, reply);
                reply.bool(true).bytes(&self.handle(entry.id));
            }
            let fits = reply.0.len() <= limit;
            if !fits {
                reply.0.truncate(start);
            }
            fits
        });
        let refused = match whole {
            Ok(false) if reply.0.len() == first => TOOSMALL,
            Ok(whole) => {
                reply.bool(false).bool(whole);
                return Ok(());
            }
            Err(e) => status(e, STALE),
        };
        reply.0.truncate(before);
        Err(refused)
    }

    fn fsstat(&self, id: Id, reply: &mut Reply<'_>) -> Result<(), u32> {
        reply.u32(OK);
        self.optional_attributes(id, reply);
        // Bytes: total, free, available to the caller; files: the same; how long this is valid.
        reply.u64(self.tree.disk().size()).u64(0).u64(0);
        reply.u64(self.tree.list().len() as u64 + 1).u64(0).u64(0).u32(0);
        Ok(())
    }

    fn fsinfo(&self, id: Id, reply: &mut Reply<'_>) -> Result<(), u32> {
        /// Symbolic links are supported; pathconf is the same for every file.
        const PROPERTIES: u32 = 2 | 8;
        reply.u32(OK);
        self.optional_attributes(id, reply);
        let preferred = self.read_size();
        // Reading: maximum, preferred size, multiple; the same for writing, though it is not possible; preferred size
        // for directories.
        for _ in 0..2 {
            reply.u32(MAX_READ).u32(preferred).u32(512);
        }
        reply.u32(64 << 10);
        reply.u64(i64::MAX.cast_unsigned()).u32(0).u32(1).u32(PROPERTIES);
        Ok(())
    }

    fn pathconf(&self, id: Id, reply: &mut Reply<'_>) -> Result<(), u32> {
        reply.u32(OK);
        self.optional_attributes(id, reply);
        // Maximum links, maximum name length; names are not truncated, chown is restricted, names are case-sensitive
        // and keep their case.
        reply.u32(2).u32(NAME).bool(true).bool(true).bool(false).bool(true);
        Ok(())
    }

    /// Returns the handle of an entry: the proof that it came from us, and the number of the entry. For the same
    /// secret, it is the same after a restart.
    pub(super) fn handle(&self, id: Id) -> [u8; HANDLE] {
        let mut handle = [0; HANDLE];
        handle[..32].copy_from_slice(blake3::keyed_hash(&self.key, &id.0.to_be_bytes()).as_bytes());
        handle[32..].copy_from_slice(&id.0.to_be_bytes());
        handle
    }

    fn id(&self, handle: &[u8]) -> Option<Id> {
        let (proof, id) = handle.split_at_checked(32)?;
        let proof: [u8; 32] = proof.try_into().ok()?;
        let id: [u8; 8] = id.try_into().ok()?;
        // Compared in constant time.
        let right = blake3::keyed_hash(&self.key, &id) == blake3::Hash::from_bytes(proof);
        let id = Id(u64::from_be_bytes(id));
        // What is in `files` may have to be scanned first; that it exists is seen afterwards.
        (right && (self.tree.is_in_files(id) || self.tree.kind(id).is_some())).then_some(id)
    }

    fn permits(&self, caller: &Caller<'_>) -> bool {
        self.tree.allow_other || caller.user.is_some_and(|user| user == 0 || user == self.user)
    }
}

fn since_epoch(time: SystemTime) -> std::time::Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

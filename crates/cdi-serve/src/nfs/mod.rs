//! The folder over NFS version 3, read-only, to this machine alone: what macOS mounts without any driver.
//!
//! Every user of the machine can connect to a port of 127.0.0.1, so what protects the disk is what a client must know.
//! To mount, that is the export's name, which nobody can guess; from then on it is a file handle, which proves by a
//! keyed hash that it is ours. For a mount of the system's both are new and random each time, and neither is enough: `ps`
//! shows the name while mount_nfs runs, and on macOS the system tells every user about its mounts, handles included. So
//! the name opens the export only until the system has mounted it, and handles are good on one connection only, that
//! which used one first, for as long as it lives: the kernel's. (Who is quicker than the system makes the mount fail, and
//! its server end.) For `serve` both come from the image and a secret of the user's, so that they are the same after a
//! restart. Beyond that the modes of the files hold for the users that the kernel's client tells truly.
//!
//! The protocol is spoken here, and not by a library, because of those strangers: what libraries there are allocate by
//! the lengths that a call claims, and list the exports to everybody.

mod procedures;
mod reads;
mod rpc;
mod xdr;

use std::io::{self, BufReader};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cdi_base::advice::Advice;
use cdi_base::error::Error;
use cdi_base::printable::hex;
use cdi_base::workers::{self, lock};
use cdi_system::{NFS_SOURCE, ask, has_program, random};
use procedures::{Caller, MOUNT, NFS, VERSION};
use reads::Reads;
use rpc::Refusal;
use xdr::{Call, Reply};

use super::mounted::Mounted;
use super::net::{Limits, Listener, Peer, Stream, in_flight, take_connections};
use super::transport::{Place, Serving, Transport};
use super::tree::Tree;

/// The largest read that is answered, in bytes.
const LARGEST: u32 = 1 << 20;
/// How much a client should read at once where nothing fails, in bytes: a chunk of most images.
const PREFERRED: u32 = 128 << 10;
/// How much it should read at once where something fails, in bytes: an error then costs no more than a page. (A client
/// may have larger pages; macOS on Apple silicon has 16 KiB.)
const EXACT: u32 = 4096;
/// The length of a file handle, in bytes: the proof and the number.
const HANDLE: usize = 40;
/// How many connections there are at once. A kernel has one for each mount. A client that has not shown that it knows a
/// name or a handle is a stranger.
const CONNECTIONS: Limits = Limits { known: 96, strangers: 32, idle: None };
/// How many calls of one connection wait for a thread.
const WAITING: usize = 32;
/// How long the system may take to mount.
const MOUNTING: Duration = Duration::from_secs(60);

/// A folder that is exported.
pub struct Export {
    tree: Arc<Tree>,
    /// The path that a client mounts.
    path: String,
    /// What handles are proved by.
    key: [u8; 32],
    fsid: u64,
    user: u32,
    group: u32,
    /// Whether it may still be mounted.
    open: AtomicBool,
    /// Whether it is for one connection only, and which that is while it lives.
    single: bool,
    holder: Mutex<Option<Arc<Peer>>>,
    reads: Reads,
    look: SyncSender<()>,
}

impl Export {
    /// The export of `tree`. Its name and handles come from the image and `secret`. The receiver is told when the mount
    /// may be gone. With `single` it is for one client: the first to use a handle has the disk to itself.
    pub fn new(tree: Arc<Tree>, secret: &[u8; 32], single: bool) -> Result<(Export, Receiver<()>), Error> {
        let (look, may_be_gone) = sync_channel(1);
        let identity = tree.disk().identity();
        let derive = |purpose: &[u8]| {
            let mut hash = blake3::Hasher::new_keyed(secret);
            *hash.update(purpose).update(&identity).finalize().as_bytes()
        };
        let name = hex(&derive(b"name")[..16]);
        let prefix = NFS_SOURCE.split_once(':').map_or("/", |(_, path)| path);
        let mut fsid = [0; 8];
        fsid.copy_from_slice(&identity[..8]);
        let export = Export {
            path: format!("{prefix}{name}"),
            key: derive(b"handle"),
            fsid: u64::from_be_bytes(fsid),
            user: nix::unistd::getuid().as_raw(),
            group: nix::unistd::getgid().as_raw(),
            open: AtomicBool::new(true),
            single,
            holder: Mutex::new(None),
            reads: Reads::start(&tree).map_err(|e| Error::failed("cannot start threads").because(e))?,
            look,
            tree,
        };
        Ok((export, may_be_gone))
    }

    /// The export as libnfs and its tools take it.
    pub fn url(&self, port: u16) -> String {
        format!("nfs://127.0.0.1{}?version=3&nfsport={port}&mountport={port}", self.path)
    }

    /// Lets nobody mount it any more.
    fn shut(&self) {
        self.open.store(false, Ordering::SeqCst);
    }

    /// Whether handles are good for this peer.
    fn admits(&self, peer: &Arc<Peer>) -> bool {
        let mut holder = lock(&self.holder);
        !self.single || Arc::ptr_eq(holder.get_or_insert_with(|| Arc::clone(peer)), peer)
    }

    /// Forgets a connection that has ended.
    fn forget(&self, peer: &Arc<Peer>) {
        let mut holder = lock(&self.holder);
        if holder.as_ref().is_some_and(|h| Arc::ptr_eq(h, peer)) {
            *holder = None;
        }
    }

    fn look_whether_mounted(&self) {
        // One that is not yet taken is as good as two.
        let _ = self.look.try_send(());
    }

    /// How much a client should read at once, in bytes.
    fn read_size(&self) -> u32 {
        if self.tree.disk().has_failing_reads() { EXACT } else { PREFERRED }
    }

    /// The reply to a call, with its record mark. Whether the caller showed that it knows something. None: it is no call.
    fn answer(&self, caller: Caller<'_>, call: &[u8], out: &mut Vec<u8>) -> Option<bool> {
        out.clear();
        let mut call = Call(call);
        let mut reply = Reply(out);
        reply.u32(0);
        let head = rpc::read_head(&mut call).ok()?;
        let result = (|| {
            if head.rpc != 2 {
                return Err(Refusal::RpcMismatch);
            }
            if head.program != NFS && head.program != MOUNT {
                return Err(Refusal::ProgramUnavailable);
            }
            if head.version != VERSION {
                return Err(Refusal::ProgramMismatch(VERSION));
            }
            let caller = Caller { user: head.user.map_err(|_| Refusal::BadCredential)?, ..caller };
            rpc::accept(&mut reply, head.xid);
            match head.program {
                NFS => self.nfs(head.procedure, &caller, &mut call, &mut reply),
                _ => self.mount(head.procedure, &mut call, &mut reply),
            }
        })();
        let known = result.unwrap_or_else(|why| {
            reply.0.truncate(4);
            rpc::refuse(&mut reply, head.xid, why);
            false
        });
        // A whole record in one fragment. Replies are far shorter than its 31 bits.
        let mark = u32::try_from(out.len() - 4).unwrap_or(0) | 1 << 31;
        out[..4].copy_from_slice(&mark.to_be_bytes());
        Some(known)
    }
}

/// Serves the export to whoever connects. Does not return but for an error of the listener.
pub fn serve(export: Arc<Export>, listener: TcpListener) -> io::Result<()> {
    take_connections(&Listener::Tcp(listener), "nfs", CONNECTIONS, move |stream, peer| {
        let ended = converse(&export, stream, peer);
        export.forget(peer);
        // The end of a stranger means nothing, and must not cost us a look.
        if peer.is_known() {
            export.look_whether_mounted();
        }
        ended
    })
}

fn converse(export: &Export, stream: Box<dyn Stream>, peer: &Arc<Peer>) -> io::Result<()> {
    let out = Mutex::new(stream.another()?);
    let mut stream = BufReader::new(stream);
    let receive = |take: &dyn Fn((Vec<u8>, Instant)) -> bool| {
        while let Some(call) = rpc::read_record(&mut stream)? {
            if !take((call, Instant::now())) {
                break;
            }
        }
        Ok(())
    };
    let answer = |(call, since): (Vec<u8>, Instant), reply: &mut Vec<u8>| {
        let shown = export.answer(Caller { peer, since, user: None }, &call, reply);
        let shown = shown.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a call"))?;
        if shown {
            peer.introduce()?;
        }
        let mut out = lock(&out);
        peer.write(&mut **out, &[reply], || false)
    };
    in_flight(peer, WAITING, receive, answer)
}

/// Binds a port of this machine; 0: any that is free.
pub fn bind(port: u16) -> Result<(TcpListener, u16), Error> {
    let failed = |e| Error::failed(format!("port {port} of 127.0.0.1 cannot be served")).because(e);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    Ok((listener, port))
}

/// NFS, mounted by the system's own client.
pub struct Nfs;

impl Transport for Nfs {
    fn name(&self) -> &'static str {
        "nfs"
    }

    fn serve(&self, tree: Arc<Tree>, place: &Place<'_>) -> Result<Box<dyn Serving>, Error> {
        let (export, may_be_gone) = Export::new(tree, &random()?, true)?;
        let export = Arc::new(export);
        let (listener, port) = bind(0)?;
        let serving = Arc::clone(&export);
        let serve = move || {
            if let Err(e) = serve(serving, listener) {
                log::error!("no more connections can be taken: {e}");
            }
        };
        workers::spawn("nfs-listener", serve)?;
        let source = format!("127.0.0.1:{}", export.path);
        let mounting = ask(&mut mount_command(&export, &source, port, place.dir), MOUNTING, HINT);
        export.shut();
        mounting.map_err(|e| {
            let error = e.at(place.dir);
            error.hint(Advice::CheckSystem)
        })?;
        Ok(Box::new(Mounted::new(place.dir, Some(may_be_gone))?))
    }
}

const HINT: &str = "it is a part of macOS; on Linux, install nfs-common";

/// The command that mounts. Never a hard mount: if we are gone, readers are to get errors and not to wait for ever, and
/// macOS stops the whole machine after a device has hung for a minute.
fn mount_command(export: &Export, source: &str, port: u16, dir: &Path) -> Command {
    let size = export.read_size();
    // Small reads need more of them in flight.
    let ahead = if size == EXACT { 128 } else { 16 };
    let both = format!(
        "vers=3,port={port},mountport={port},soft,timeo=100,retrans=3,rsize={size},wsize={size},nosuid,nodev"
    );
    let mut command;
    if cfg!(target_os = "macos") || has_program("mount_nfs") {
        // BSD's and macOS's: mount_nfs(8).
        command = Command::new("mount_nfs");
        let own = format!("tcp,rdonly,intr,deadtimeout=45,locallocks,readahead={ahead},nobrowse,noresvport");
        command.arg("-o").arg(format!("{both},{own}"));
    } else {
        // Linux's: nfs(5).
        command = Command::new("mount");
        command.args(["-t", "nfs", "-o"]).arg(format!("{both},proto=tcp,mountproto=tcp,ro,nolock,noexec"));
    }
    command.arg(source).arg(dir);
    command
}

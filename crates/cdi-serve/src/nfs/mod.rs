//! The directory over NFS version 3, read-only, for this machine unless `--listen` is given: macOS mounts it without any
//! driver.
//!
//! Every user of the machine can connect to a port of 127.0.0.1, so the disk is protected by what a client must know.
//! To mount, that is the export's random name; afterwards it is a file handle, which carries a keyed hash as proof that
//! it is ours. For a mount by the system, both are new and random each time, and neither is sufficient: `ps` shows the
//! name while mount_nfs runs, and macOS shows every user its mounts, handles included. So the name can be mounted only
//! until the system has mounted it, and handles are valid on a single connection: the first one that uses a handle, for
//! as long as it lives, which is the kernel's. (If another client connects first, the mount fails and the server
//! exits.) For `serve`, both are derived from the image and the user's secret, so that they are the same after a
//! restart. In addition, the file modes apply to the user IDs that the kernel's client truthfully sends.
//!
//! The protocol is implemented here, without a library, because of untrusted clients: the available libraries allocate
//! memory by the lengths that a call claims, and list the exports to everyone.

mod procedures;
mod reads;
mod rpc;
mod xdr;

use std::io::{self, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
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
use cdi_system::confine::Needs;
use cdi_system::{NFS_SOURCE, ask, has_program, random};
use procedures::{Caller, MOUNT, NFS, VERSION};
use reads::Reads;
pub use reads::{HUNG, TIMEOUT};
use rpc::Refusal;
use xdr::{Call, Reply};

use super::mounted::Mounted;
use super::net::{Limits, Listener, Peer, Stream, accept_connections, serve_requests};
use super::transport::{Place, Serving, Transport, volume_name};
use super::tree::Tree;

/// The maximum length of a read in bytes.
const MAX_READ: u32 = 1 << 20;
/// The preferred length of a read in bytes if no reads fail: a chunk of most images.
const PREFERRED: u32 = 128 << 10;
/// The number of bytes that a client may read ahead if some reads fail.
const EXACT_AHEAD: u32 = 512 << 10;
/// The length of a file handle in bytes: the proof and the number of the entry.
const HANDLE: usize = 40;
/// The maximum number of simultaneous connections. A kernel has one for each mount. A client is a stranger until it has
/// shown that it knows the name or a handle.
const CONNECTIONS: Limits = Limits { known: 96, strangers: 32, idle: None };
/// The maximum number of calls of one connection that wait for a thread.
const WAITING: usize = 32;
/// Timeout for the system to mount.
const MOUNTING: Duration = Duration::from_secs(60);

/// Whom an export is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// The client of this system, which mounts it: only the first connection that uses a handle can use the disk. The path
    /// may have one more component, the name of the volume.
    System,
    /// Every user with the URL, on this machine.
    ThisMachine,
    /// Every user with the URL, on any machine. Others may read the network: the URL is not that for this machine.
    OtherMachines,
}

/// An exported directory.
pub struct Export {
    tree: Arc<Tree>,
    /// The path that a client mounts.
    path: String,
    /// The key of the hash that authenticates handles.
    key: [u8; 32],
    fsid: u64,
    user: u32,
    group: u32,
    /// Whether it can still be mounted.
    open: AtomicBool,
    clients: Clients,
    /// The connection of the system's client, while it lives.
    holder: Mutex<Option<Arc<Peer>>>,
    reads: Reads,
    check: SyncSender<()>,
}

impl Export {
    /// Creates an export of `tree`. Its name and handles are derived from the image and `secret`. The receiver gets a
    /// message when the mount may be gone.
    pub fn new(
        tree: Arc<Tree>,
        secret: &[u8; 32],
        clients: Clients,
    ) -> Result<(Export, Receiver<()>), Error> {
        let (check, may_be_gone) = sync_channel(1);
        let identity = tree.disk().identity();
        let derive = |purpose: &[u8]| {
            let mut hash = blake3::Hasher::new_keyed(secret);
            if clients == Clients::OtherMachines {
                hash.update(b"other machines ");
            }
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
            clients,
            holder: Mutex::new(None),
            reads: Reads::start(&tree).map_err(|e| Error::failed("cannot start threads").because(e))?,
            check,
            tree,
        };
        Ok((export, may_be_gone))
    }

    /// Returns the URL of the export for libnfs and its tools. `at` is where it is served.
    pub fn url(&self, at: SocketAddr) -> String {
        let (host, port) = (at.to_string(), at.port());
        let host = host.rsplit_once(':').map_or("", |(host, _)| host);
        // As libnfs reads it, and differently from other URLs: without brackets.
        let host = host.trim_matches(['[', ']']);
        format!("nfs://{host}{}?version=3&nfsport={port}&mountport={port}", self.path)
    }

    /// Refuses any further mounts.
    fn close_to_mounts(&self) {
        self.open.store(false, Ordering::SeqCst);
    }

    /// Returns whether handles are valid for this client.
    fn admits(&self, peer: &Arc<Peer>) -> bool {
        let mut holder = lock(&self.holder);
        self.clients != Clients::System || Arc::ptr_eq(holder.get_or_insert_with(|| Arc::clone(peer)), peer)
    }

    /// Forgets a connection that has ended.
    fn forget(&self, peer: &Arc<Peer>) {
        let mut holder = lock(&self.holder);
        if holder.as_ref().is_some_and(|h| Arc::ptr_eq(h, peer)) {
            *holder = None;
        }
    }

    fn check_mounted(&self) {
        // If an earlier message is still pending, another is not needed.
        let _ = self.check.try_send(());
    }

    /// Returns the preferred length of a read in bytes. If some reads fail, it is a page of this machine: an error affects
    /// a page of the client's cache, never less, and a page in several reads only takes longer.
    fn read_size(&self) -> u32 {
        if self.tree.disk().has_failing_reads() { page_size() } else { PREFERRED }
    }

    /// Writes the reply to a call, with its record mark, to `out`. Returns whether the caller has authenticated, by the
    /// name or a handle, or `None` if this is not a call.
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
                _ => self.mount(head.procedure, &caller, &mut call, &mut reply),
            }
        })();
        let known = result.unwrap_or_else(|why| {
            reply.0.truncate(4);
            rpc::refuse(&mut reply, head.xid, why);
            false
        });
        // The whole record in one fragment. Replies are far shorter than 31 bits can express.
        let mark = u32::try_from(out.len() - 4).unwrap_or(0) | 1 << 31;
        out[..4].copy_from_slice(&mark.to_be_bytes());
        Some(known)
    }
}

/// Serves the export to every client that connects. Returns only if the listener fails.
pub fn serve(export: Arc<Export>, listener: TcpListener) -> io::Result<()> {
    accept_connections(&Listener::Tcp(listener), "nfs", CONNECTIONS, move |stream, peer| {
        let ended = converse(&export, stream, peer);
        export.forget(peer);
        // The end of a stranger's connection means nothing, and must not trigger a check.
        if peer.is_known() {
            export.check_mounted();
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
        let known = export.answer(Caller { peer, since, user: None }, &call, reply);
        let known = known.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an RPC call"))?;
        if known {
            peer.introduce()?;
        }
        let mut out = lock(&out);
        peer.write(&mut **out, &[reply], || false)
    };
    serve_requests(peer, WAITING, receive, answer)
}

/// Binds a port of this address, or any free port if it is 0. Returns the listener and the port.
pub fn bind(address: IpAddr, port: u16) -> Result<(TcpListener, u16), Error> {
    let failed = |e| Error::failed(format!("cannot listen on {}", SocketAddr::new(address, port))).because(e);
    let listener = TcpListener::bind((address, port)).map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    Ok((listener, port))
}

/// NFS, mounted by the system's own client.
pub struct Nfs;

impl Transport for Nfs {
    fn name(&self) -> &'static str {
        "nfs"
    }

    fn needs(&self, needs: &mut Needs) {
        super::mounted::needs(needs);
    }

    fn serve(&self, tree: Arc<Tree>, place: &Place<'_>) -> Result<Box<dyn Serving>, Error> {
        let (listener, port) = bind(Ipv4Addr::LOCALHOST.into(), 0)?;
        let secret = random()?;
        let start = || {
            let (export, may_be_gone) = Export::new(tree, &secret, Clients::System)?;
            let export = Arc::new(export);
            let serving = Arc::clone(&export);
            let serve = move || {
                if let Err(e) = serve(serving, listener) {
                    log::error!("cannot accept connections any more: {e}");
                }
            };
            workers::spawn("nfs-listener", serve)?;
            Ok::<_, Error>((export, may_be_gone))
        };
        let started = place.confine.threads(start);
        let (export, may_be_gone) =
            started.map_err(|e| Error::failed("cannot start threads").because(e))??;
        let mounting = ask(&mut mount_command(&export, port, place), MOUNTING, HINT);
        export.close_to_mounts();
        mounting.map_err(|e| {
            let error = e.at(place.dir);
            error.hint(Advice::CheckSystem)
        })?;
        Ok(Box::new(Mounted::new(place.dir, Some(may_be_gone))?))
    }
}

/// Returns the size of a page of memory in bytes.
fn page_size() -> u32 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok().flatten();
    size.and_then(|size| u32::try_from(size).ok())
        .filter(|size| size.is_power_of_two())
        .map_or(4096, |size| size.max(4096))
}

const HINT: &str = "it is a part of macOS; on Linux, install nfs-common";

/// How macOS's client waits, as options of mount_nfs(8). What each is for, by its source (NFS-339, kext/nfs_socket.c; the
/// lines are those of that version), is simulated in `tests/nfs/macos_client.rs`:
///
/// - `dumbtimer`: `timeo` counts for reads, too. Without it their time is learnt from those before (line 5709), and a
///   server that answers quickly may not take two seconds once.
/// - `timeo=100`, ten seconds: longer than [`reads::TIMEOUT`].
/// - `retrans=5`: the number of timeouts until a request fails, unless its time is over before.
/// - `mutejukebox`: "try again later" does not count as a sign that the server is dead (line 6642).
/// - `deadtimeout=30`: a server that has not answered for this long is dead, and everything fails at once.
pub const MACOS_TIMERS: &str = "timeo=100,dumbtimer,retrans=5,mutejukebox,deadtimeout=30";

/// The same for Linux, nfs(5). A server that does not answer is an error after 8.5 seconds: longer than
/// [`reads::TIMEOUT`], and less than 9 seconds, when the client of Linux 6.1 tries for the third time to connect to a
/// server that died. It notices only then; the next time would be after 15 seconds. Nothing is sent a second time:
/// over TCP that could not help.
const LINUX_TIMERS: &str = "timeo=85,retrans=0";

/// Returns the command that mounts the export. Never a hard mount: if the server dies, readers must get errors instead
/// of waiting forever, and macOS stops the whole machine after a device has hung for a minute.
fn mount_command(export: &Export, port: u16, place: &Place<'_>) -> Command {
    let size = export.read_size();
    // Small reads need more requests in flight.
    let ahead = if size == PREFERRED { 16 } else { (EXACT_AHEAD / size).clamp(1, 128) };
    let both = format!("vers=3,port={port},mountport={port},soft,rsize={size},wsize={size},nosuid,nodev");
    let mut command;
    if cfg!(target_os = "macos") || has_program("mount_nfs") {
        // BSD's and macOS's: mount_nfs(8).
        command = Command::new("mount_nfs");
        let mut own = format!("tcp,rdonly,intr,locallocks,readahead={ahead},noresvport");
        if !place.desktop.show {
            own += ",nobrowse";
        }
        command.arg("-o").arg(format!("{both},{MACOS_TIMERS},{own}"));
        command.arg(format!("{HOST}{}/{}", export.path, label(place.image)));
    } else {
        // Linux's: nfs(5).
        command = Command::new("mount");
        let own = "proto=tcp,mountproto=tcp,ro,nolock,noexec";
        command.args(["-t", "nfs", "-o"]).arg(format!("{both},{LINUX_TIMERS},{own}"));
        command.arg(format!("{HOST}{}", export.path));
    }
    command.arg(place.dir);
    command
}

/// The server, as the source of a mount has it.
const HOST: &str = "127.0.0.1:";

/// Returns the last component of the path that macOS mounts: its NFS client takes the name of the volume from there
/// (NFS-339, kext/nfs_vfsops.c, `nfs_get_volname`). Our server accepts any. A comma could begin another server
/// (mount_nfs.c, `parse_fs_locations`).
fn label(image: &Path) -> String {
    volume_name(image).replace(',', "_")
}

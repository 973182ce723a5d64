//! `cdi serve IMAGE --nbd SOCKET|PORT` and `cdi serve IMAGE --nfs`: serve an image until interrupted.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

use cdi_base::error::{ErrnoStyle, Error, Kind};
use cdi_base::workers;
use cdi_image::disk::Disk;
use cdi_serve::nbd::Listener;
use cdi_serve::nfs::{Clients, Export};
use cdi_serve::tree::Tree;
use cdi_serve::{nbd, nfs};
use cdi_system::confine::Confine;
use cdi_system::{ending_signals, raise_open_file_limit};
use nix::sys::stat::{Mode, umask};
use serde_json::json;
use signal_hook::iterator::Signals;

use super::{End, open_part};
use crate::cli::Serve;
use crate::mount::confined;
use crate::mount::helper::{Helper, Job, remove_socket};
use crate::mount::record::secret;
use crate::ui::Ui;

pub(super) fn run(args: &Serve, ui: &Ui) -> Result<End, Error> {
    if let Some(address) = args.listen.map(|address| address.to_canonical())
        && (address.is_multicast() || address == Ipv4Addr::BROADCAST)
    {
        return Err(Error::usage(format!("{address} is no address of a machine")));
    }
    let disk = Arc::new(open_part(&args.image, &args.part, (&args.reads).into(), ui)?.0);
    let confine = confined::confine(&Arc::clone(&disk).into(), |_| ());
    let mut signals = Signals::new(ending_signals())
        .map_err(|e| Error::failed("cannot install signal handlers").because(e))?;
    let (front, url, mut socket) = match &args.nbd {
        Some(at) => listen(at, args.listen)?,
        None => export(args, &disk, &confine)?,
    };
    // Before a thread runs that reads the image: it removes the socket, which takes a permission that this process gives up.
    let helped = socket.as_mut().map_or(Ok(()), Socket::leave_to_helper);
    raise_open_file_limit();
    let cores = workers::cores();
    // The threads that read a remote image are started again by those that are confined.
    cdi_image::input::rest();
    confine.threads(|| disk.start_readahead(cores)).flatten().map_err(threads)?;

    let (ended, end) = channel();
    let by_signal = ended.clone();
    let wait = move || {
        let _ = signals.forever().next();
        let _ = by_signal.send(Ok(()));
    };
    confine.threads(|| workers::spawn("signals", wait)).map_err(threads)??;
    let size = disk.size();
    let serve = move || {
        let _ = ended.send(match front {
            Front::Nbd(listener) => nbd::serve(&disk.into(), &listener, &Arc::default()),
            Front::Nfs(export, listener) => nfs::serve(export, listener),
        });
    };
    confine.threads(|| workers::spawn("listener", serve)).map_err(threads)??;
    let (_, warning) = confined::conclude(&confine, helped.as_ref().copied(), None);
    if !ui.json(&json!({ "url": url, "size_bytes": size })) {
        ui.exact(&url);
    }
    if let Some(address) = other_machines(args) {
        let who =
            if args.nfs { "everyone who can reach it and has this URL" } else { "everyone who can reach it" };
        ui.warning(format!("the disk is served at {address}, unencrypted: {who} can read it"));
        if address.to_canonical().is_unspecified() {
            ui.message(format!("in the URL, put an address of this machine in place of {address}"));
        }
    }
    if let Some(warning) = warning {
        ui.warning(warning);
    }
    ui.message("press Ctrl-C to stop");
    match end.recv() {
        Ok(Err(e)) => Err(Error::failed("cannot accept connections").because(e)),
        Ok(Ok(())) | Err(_) => Ok(End::Done),
    }
}

/// Returns the address at which other machines are served.
fn other_machines(args: &Serve) -> Option<IpAddr> {
    args.listen.filter(|address| !address.to_canonical().is_loopback())
}

/// A socket in the file system; removed on drop.
pub(super) struct Socket {
    path: PathBuf,
    /// What removes it if this process cannot.
    helper: Option<Helper>,
}

impl Socket {
    /// Leaves it to a process with the permission, because this one is to be confined.
    fn leave_to_helper(&mut self) -> Result<(), Error> {
        self.helper = Some(Helper::start(Job::Socket(self.path.clone()))?);
        Ok(())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        match &mut self.helper {
            Some(helper) => helper.remove_socket(),
            None => remove_socket(&self.path),
        }
    }
}

fn threads(e: std::io::Error) -> Error {
    Error::failed("cannot start threads").because(e)
}

/// The protocol, and the socket that it is served on.
pub(super) enum Front {
    Nbd(Listener),
    Nfs(Arc<Export>, TcpListener),
}

/// Binds a port for NFS. Returns what to serve, and its URL.
fn export(
    args: &Serve,
    disk: &Arc<Disk>,
    confine: &Confine,
) -> Result<(Front, String, Option<Socket>), Error> {
    let others = other_machines(args);
    // The users of other machines have other numbers.
    let everyone = args.allow_other || others.is_some();
    let mut tree = Tree::new(Arc::clone(disk), ErrnoStyle::Io, everyone);
    if args.files {
        tree.show_files();
    }
    let clients = if others.is_some() { Clients::OtherMachines } else { Clients::ThisMachine };
    let secret = secret()?;
    let export = confine.threads(|| Export::new(Arc::new(tree), &secret, clients)).map_err(threads)?;
    let (export, _) = export?;
    let address = args.listen.unwrap_or(Ipv4Addr::LOCALHOST.into());
    let (listener, port) = nfs::bind(address, args.port)?;
    let url = export.url(SocketAddr::new(address, port));
    Ok((Front::Nfs(Arc::new(export), listener), url, None))
}

/// Binds a port or a socket for NBD. Returns what to serve, its URL, and the socket to remove at the end.
pub(super) fn listen(at: &Path, address: Option<IpAddr>) -> Result<(Front, String, Option<Socket>), Error> {
    if let Some(port) = at.to_str().and_then(|text| text.parse::<u16>().ok()) {
        let failed = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::AddrInUse => Error::new(Kind::Busy, "this port is in use").at(at),
            _ => Error::io("cannot listen on this port", at, e),
        };
        let listener =
            TcpListener::bind((address.unwrap_or(Ipv4Addr::LOCALHOST.into()), port)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        return Ok((Front::Nbd(Listener::Tcp(listener)), format!("nbd://{address}"), None));
    }
    if address.is_some() {
        return Err(Error::usage("--listen is for a port: name one with --nbd").at(at));
    }
    let path = std::path::absolute(at).map_err(|e| Error::io("not a valid path", at, e))?;
    // Only this user may connect, from the moment that the socket exists.
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(&path);
    umask(before);
    let listener = listener.map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => Error::new(Kind::Busy, "file exists")
            .at(at)
            .hint("remove it if no other program listens there, or use another name"),
        _ => Error::io("cannot listen on this socket", at, e),
    })?;
    let url = format!("nbd+unix:///?socket={}", path.display());
    Ok((Front::Nbd(Listener::Unix(listener)), url, Some(Socket { path, helper: None })))
}

//! What is refused, tried: each test confines a thread of its own.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::Command;

use nix::errno::Errno;

use super::*;

/// Runs `test` on a thread that keeps `needs`, if this system can enforce that.
fn confined(needs: Needs, test: impl FnOnce() + Send) {
    let held = enforceable();
    if held.landlock == 0 || !held.seccomp {
        // What follows would test nothing. CI runs on a kernel that has both.
        assert!(std::env::var_os("CI").is_none(), "{held:?}");
        return;
    }
    Confine::to(needs).threads(test).unwrap();
}

/// Asserts that the system refused it.
#[track_caller]
fn refused<T>(result: io::Result<T>) {
    match result {
        Ok(_) => panic!("this was allowed"),
        Err(e) => assert_eq!(e.kind(), ErrorKind::PermissionDenied, "{e}"),
    }
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let dir = std::env::temp_dir().join(format!("cdi-test-confine-{name}-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("file"), b"text").unwrap();
        Folder(dir)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn files_that_are_open_are_read_and_no_others() {
    let folder = Folder::new("read");
    let (named, other) = (folder.0.join("file"), folder.0.join("other"));
    fs::write(&other, b"other").unwrap();
    let open = File::open(&other).unwrap();
    confined(Needs { read: vec![named.clone()], ..Needs::default() }, || {
        let mut text = String::new();
        (&open).read_to_string(&mut text).unwrap();
        assert_eq!(text, "other");
        assert_eq!(fs::read(&named).unwrap(), b"text");
        refused(File::open(&other));
        refused(File::open("/etc/passwd"));
        refused(fs::read_dir("/"));
        refused(File::options().write(true).open(&named));
        refused(File::create(folder.0.join("new")));
        refused(fs::remove_file(&named));
        refused(fs::rename(&named, &other));
        refused(fs::hard_link(&named, folder.0.join("link")));
        refused(std::os::unix::fs::symlink("/", folder.0.join("link")));
        refused(open.set_permissions(open.metadata().unwrap().permissions()));
        refused(open.set_len(0));
    });
    assert_eq!(fs::read(&named).unwrap(), b"text");
}

#[test]
fn files_are_written_only_in_the_folders_that_are_named() {
    let folder = Folder::new("write");
    let file = folder.0.join("file");
    confined(Needs { write: vec![folder.0.clone()], ..Needs::default() }, || {
        fs::write(&file, b"new").unwrap();
        fs::rename(&file, folder.0.join("renamed")).unwrap();
        fs::remove_file(folder.0.join("renamed")).unwrap();
        refused(File::create(std::env::temp_dir().join("cdi-test-confine-nowhere")));
        refused(File::open("/etc/passwd"));
    });
}

#[test]
fn files_that_are_written_keep_their_modes_and_times() {
    let folder = Folder::new("modes");
    let (read, written) = (folder.0.join("file"), folder.0.join("cache"));
    fs::create_dir(&written).unwrap();
    confined(Needs { read: vec![read.clone()], write: vec![written.clone()], ..Needs::default() }, || {
        // Landlock has no say in these.
        let new = File::create(written.join("new")).unwrap();
        for file in [File::open(&read).unwrap(), new] {
            refused(file.set_permissions(file.metadata().unwrap().permissions()));
            refused(file.set_modified(std::time::SystemTime::UNIX_EPOCH));
        }
        refused(fs::set_permissions(&read, fs::metadata(&read).unwrap().permissions()));
    });
}

#[test]
fn no_program_is_run_and_threads_are_started() {
    confined(Needs::default(), || {
        refused(Command::new("/bin/true").spawn());
        assert_eq!(thread::spawn(|| 7).join().unwrap(), 7);
        // A thread that it starts is as confined.
        thread::spawn(|| refused(Command::new("/bin/true").spawn())).join().unwrap();
    });
    // The thread that confined another is not.
    assert!(Command::new("/bin/true").status().unwrap().success());
}

#[test]
fn sockets_that_listen_accept_and_none_are_made() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"x").unwrap();
    confined(Needs::default(), || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream.write_all(&byte).unwrap();
        refused(TcpStream::connect(address));
        refused(TcpListener::bind("127.0.0.1:0"));
        refused(UdpSocket::bind("127.0.0.1:0"));
        refused(UnixStream::connect("/run/no-such-socket"));
        refused(UnixStream::pair());
    });
    client.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    assert!(client.read(&mut [0]).is_ok_and(|read| read == 1) || enforceable() == Confined::default());
}

#[test]
fn who_needs_to_connects_and_cannot_listen() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, version) = (listener.local_addr().unwrap(), enforceable().landlock);
    confined(Needs { connects: true, ..Needs::default() }, || {
        TcpStream::connect(address).unwrap();
        if version >= 4 {
            refused(TcpListener::bind("127.0.0.1:0"));
        }
        refused(Command::new("/bin/true").spawn());
    });
}

#[test]
fn who_connects_to_other_machines_does_not_reach_programs_of_this_one() {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
    let folder = Folder::new("unix");
    let path = folder.0.join("socket");
    let _listener = UnixListener::bind(&path).unwrap();
    let read = ["/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf"].map(PathBuf::from);
    let needs =
        Needs { connects: true, read: [&read[..], std::slice::from_ref(&path)].concat(), ..Needs::default() };
    confined(needs, || {
        refused(UnixStream::connect(&path));
        refused(UnixDatagram::unbound());
        let made = |family, kind, protocol: Option<SockProtocol>| {
            socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol)
        };
        let refused = |family, kind, protocol| {
            assert_eq!(made(family, kind, protocol).map(|_| ()), Err(Errno::EPERM), "{family:?} {kind:?}");
        };
        refused(AddressFamily::Netlink, SockType::Raw, None);
        refused(AddressFamily::Vsock, SockType::Stream, None);
        refused(AddressFamily::Packet, SockType::Datagram, None);
        refused(AddressFamily::Inet, SockType::Raw, Some(SockProtocol::Icmp));
        refused(AddressFamily::Inet, SockType::Datagram, Some(SockProtocol::Icmp));
        // Names are looked up even so.
        assert!(std::net::ToSocketAddrs::to_socket_addrs(&("localhost", 80)).is_ok());
        made(AddressFamily::Inet, SockType::Datagram, None).unwrap();
        made(AddressFamily::Inet, SockType::Stream, Some(SockProtocol::Tcp)).unwrap();
    });
}

#[test]
fn no_connection_is_made_by_sending() {
    use nix::sys::socket::{MsgFlags, Shutdown, UnixAddr, sendmsg, sendto, shutdown};
    let target = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = target.local_addr().unwrap();
    // Any: the filter sees the flag alone.
    let address = UnixAddr::new("/nowhere").unwrap();
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    let fast_open = MsgFlags::from_bits_retain(0x2000_0000);
    for connects in [false, true] {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        confined(Needs { connects, ..Needs::default() }, || {
            // A socket that does not listen any more may connect.
            shutdown(server.as_raw_fd(), Shutdown::Both).unwrap();
            assert_eq!(sendto(server.as_raw_fd(), b"x", &address, fast_open), Err(Errno::EPERM));
            let text = [io::IoSlice::new(b"x")];
            let sent = sendmsg(server.as_raw_fd(), &text, &[], fast_open, Some(&address));
            assert_eq!(sent, Err(Errno::EPERM));
            match datagrams.send_to(b"x", at) {
                Ok(_) => assert!(connects, "a datagram was sent"),
                Err(e) => assert!(!connects && e.kind() == ErrorKind::PermissionDenied, "{e}"),
            }
        });
    }
}

#[test]
fn mounts_namespaces_and_other_processes_are_out_of_reach() {
    use nix::sys::signal::kill;
    use nix::unistd::{Pid, getppid};
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let pid = Pid::from_raw(child.id().cast_signed());
    let denied = |result: nix::Result<()>| assert_eq!(result, Err(Errno::EPERM));
    confined(Needs::default(), || {
        denied(kill(pid, None));
        denied(nix::unistd::setsid().map(|_| ()));
        denied(nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0));
        denied(rustix::thread::set_capabilities(None, none()).map_err(|e| Errno::from_raw(e.raw_os_error())));
        assert!(fs::read(format!("/proc/{}/environ", getppid())).is_err());
    });
    // Its child is the only one that it may end.
    confined(Needs { child: Some(child.id()), ..Needs::default() }, || {
        kill(pid, None).unwrap();
        for other in
            [getppid(), Pid::this(), Pid::from_raw(0), Pid::from_raw(-1), Pid::from_raw(-pid.as_raw())]
        {
            denied(kill(other, None));
        }
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn what_is_not_enforced_is_not_reported() {
    // This thread is not the last one: that of the tests is not confined.
    let held = thread::spawn(|| Confine::to(Needs::default()).last_thread(None)).join().unwrap().unwrap();
    assert!(!held.seccomp, "{held:?}");
    let root = nix::unistd::geteuid().is_root();
    assert!(!(root && held.capabilities), "{held:?}");
    // One that may not confine itself: capset, Landlock and seccomp are all refused.
    confined(Needs::default(), || {
        assert_eq!(Confine::to(Needs::default()).last_thread(None), Some(Confined::default()));
    });
    assert_eq!(Confine::nothing().last_thread(None), None);
}

fn none() -> rustix::thread::CapabilitySets {
    let empty = rustix::thread::CapabilitySet::empty();
    rustix::thread::CapabilitySets { effective: empty, permitted: empty, inheritable: empty }
}

/// Calls that nothing here can make without `unsafe`, and some that others above try.
#[test]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn dangerous_system_calls_are_not_listed() {
    let listed = |call| seccomp::rules(&Needs::default()).unwrap().contains_key(&call);
    for call in [
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_delete_module,
        libc::SYS_kexec_load,
        libc::SYS_reboot,
        libc::SYS_socket,
        libc::SYS_socketpair,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_io_uring_setup,
        libc::SYS_userfaultfd,
        libc::SYS_open_by_handle_at,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_getfd,
        libc::SYS_seccomp,
        libc::SYS_unlinkat,
        libc::SYS_pwrite64,
        libc::SYS_kill,
    ] {
        assert!(!listed(call), "system call {call}");
    }
    assert!(listed(libc::SYS_pread64));
    for call in
        [libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fchown, libc::SYS_utimensat, libc::SYS_fsetxattr]
    {
        let needs = Needs { write: vec!["/".into()], connects: true, child: Some(1), ..Needs::default() };
        assert!(!seccomp::rules(&needs).unwrap().contains_key(&call), "system call {call}");
    }
    // Allowed with conditions only.
    for call in [
        libc::SYS_clone,
        libc::SYS_fcntl,
        libc::SYS_ioctl,
        libc::SYS_prctl,
        libc::SYS_sendto,
        libc::SYS_sendmsg,
    ] {
        assert!(!seccomp::rules(&Needs::default()).unwrap()[&call].is_empty(), "system call {call}");
    }
}

/// A process would outlive this one, with its connections.
#[test]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn clone_makes_threads_only() {
    let rules = seccomp::rules(&Needs::default()).unwrap();
    let rule = format!("{:?}", rules[&libc::SYS_clone]);
    let thread = libc::CLONE_VM | libc::CLONE_THREAD;
    assert!(rule.contains(&format!("value: {thread}")) && rule.contains("MaskedEq"), "{rule}");
}

#[test]
fn a_confined_thread_has_no_privileges() {
    let (send, receive) = std::sync::mpsc::channel();
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let reader = thread::spawn(move || {
        let status = receive.recv().map(|tid: nix::unistd::Pid| {
            fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap()
        });
        drop(done);
        status.unwrap_or_default()
    });
    confined(Needs::default(), move || {
        send.send(nix::unistd::gettid()).unwrap();
        let _ = wait.recv();
    });
    let status = reader.join().unwrap();
    for (name, value) in [
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("CapEff", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
        ("CapInh", "0000000000000000"),
    ] {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        assert!(status.is_empty() || line.map(str::trim) == Some(value), "{name}: {line:?}");
    }
}

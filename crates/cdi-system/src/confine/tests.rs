//! What is refused, tried: each test confines a thread of its own.

#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
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
    // Which signals are sent is Landlock's to decide if the process has a child.
    confined(Needs { child: true, ..Needs::default() }, || kill(pid, None).unwrap());
    child.kill().unwrap();
    child.wait().unwrap();
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

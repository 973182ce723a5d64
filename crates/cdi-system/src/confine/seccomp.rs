//! The system calls that a thread may make; every other one returns EPERM.
//!
//! The list is what Rust's standard library, glibc and musl call to read open files, to answer on open sockets, to start
//! threads, to wait and to allocate memory. The kernel decides about calls without conditions by a table, so their number
//! costs nothing.

use std::collections::BTreeMap;

use libc::*;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use super::Needs;

/// Calls that serving takes.
const SERVING: &[c_long] = &[
    // Open files, and connections on sockets that listen already.
    SYS_read,
    SYS_write,
    SYS_readv,
    SYS_writev,
    SYS_pread64,
    SYS_preadv,
    SYS_preadv2,
    SYS_lseek,
    SYS_close,
    SYS_fstat,
    SYS_newfstatat,
    SYS_statx,
    SYS_dup,
    SYS_dup3,
    SYS_pipe2,
    SYS_ppoll,
    SYS_accept,
    SYS_accept4,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_shutdown,
    SYS_getsockname,
    SYS_getpeername,
    SYS_getsockopt,
    SYS_setsockopt,
    // Files: Landlock decides which.
    SYS_openat,
    SYS_readlinkat,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_getdents64,
    SYS_getcwd,
    // Memory.
    SYS_brk,
    SYS_mmap,
    SYS_munmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_madvise,
    SYS_mincore,
    // Threads, and what they wait for.
    SYS_clone3,
    SYS_set_robust_list,
    SYS_get_robust_list,
    SYS_set_tid_address,
    SYS_rseq,
    SYS_membarrier,
    SYS_futex,
    SYS_futex_waitv,
    SYS_sched_yield,
    SYS_sched_getaffinity,
    SYS_getcpu,
    SYS_nanosleep,
    SYS_clock_nanosleep,
    SYS_clock_gettime,
    SYS_clock_getres,
    SYS_gettimeofday,
    SYS_restart_syscall,
    SYS_exit,
    SYS_exit_group,
    // Signals of its own.
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_rt_sigtimedwait,
    SYS_sigaltstack,
    // What it is.
    SYS_getpid,
    SYS_getppid,
    SYS_gettid,
    SYS_getuid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getegid,
    SYS_getgroups,
    SYS_getrusage,
    SYS_getrandom,
    SYS_uname,
    SYS_sysinfo,
    // Older forms of the above.
    #[cfg(target_arch = "x86_64")]
    SYS_open,
    #[cfg(target_arch = "x86_64")]
    SYS_stat,
    #[cfg(target_arch = "x86_64")]
    SYS_lstat,
    #[cfg(target_arch = "x86_64")]
    SYS_access,
    #[cfg(target_arch = "x86_64")]
    SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    SYS_poll,
    #[cfg(target_arch = "x86_64")]
    SYS_dup2,
    #[cfg(target_arch = "x86_64")]
    SYS_pipe,
    #[cfg(target_arch = "x86_64")]
    SYS_time,
];

/// Calls that writing files takes as well. None that changes the mode, the owner or the times of a file: Landlock has no
/// say in those, so that they would reach every file that may be read.
const WRITING: &[c_long] = &[
    SYS_pwrite64,
    SYS_pwritev,
    SYS_ftruncate,
    SYS_fallocate,
    SYS_fsync,
    SYS_fdatasync,
    SYS_flock,
    SYS_mkdirat,
    SYS_unlinkat,
    SYS_renameat,
    SYS_renameat2,
    SYS_linkat,
    #[cfg(target_arch = "x86_64")]
    SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    SYS_rename,
    #[cfg(target_arch = "x86_64")]
    SYS_link,
];

/// Calls that connecting to other machines takes as well, including looking up their names.
const CONNECTING: &[c_long] = &[
    SYS_connect,
    SYS_bind,
    SYS_recvmmsg,
    SYS_eventfd2,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    SYS_epoll_wait,
];

/// The ioctls of files and sockets that are open: whether it is a terminal (TCGETS), and its width (TIOCGWINSZ); not to
/// wait (FIONBIO); what has arrived (FIONREAD). As numbers, because their type is not the same in every C library.
const IOCTLS: [u64; 4] = [0x5401, 0x5413, 0x5421, 0x541b];
/// Another descriptor for a connection of FUSE (`FUSE_DEV_IOC_CLONE` in the kernel's fuse.h).
const FUSE_CLONE: u64 = 0x8004_e500;
/// The flag of send(2) that connects a socket, past the filter for connect (`MSG_FASTOPEN` in the kernel's socket.h).
const FASTOPEN: u64 = 0x2000_0000;
/// The commands of fcntl. None that names who gets the signals of a descriptor, and which: that is a way to kill.
const FCNTLS: [c_int; 6] = [F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD, F_GETFL, F_SETFL];
/// The kinds of sockets that connect to other machines, without the flags that are passed with them: TCP and UDP. By other
/// protocols (MPTCP), a connection is not one of TCP for Landlock.
const FAMILIES: [c_int; 2] = [AF_INET, AF_INET6];
const TYPES: [c_int; 2] = [SOCK_STREAM, SOCK_DGRAM];
const TYPE_MASK: u64 = 0xf;
const PROTOCOLS: [c_int; 3] = [0, IPPROTO_TCP, IPPROTO_UDP];
/// Every flag of clone(2) that makes a namespace.
const NAMESPACES: c_int =
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

/// Filters the system calls of this thread. Returns whether it could.
pub(super) fn filter(needs: &Needs) -> bool {
    let installed = programs(needs).and_then(|programs| {
        programs.iter().try_for_each(|program| apply_filter(program).map_err(|e| e.to_string()))
    });
    if let Err(e) = &installed {
        log::info!("cannot restrict system calls (seccomp): {e}");
    }
    installed.is_ok()
}

/// Returns the filters, in the order in which they are installed.
fn programs(needs: &Needs) -> Result<[BpfProgram; 2], String> {
    let allowed = rules(needs).map_err(|e| e.to_string())?;
    // The flags of clone3 are in memory, which a filter cannot read. Without it, libraries call clone.
    let clone3 = BTreeMap::from([(SYS_clone3, Vec::new())]);
    let eperm = SeccompAction::Errno(EPERM.unsigned_abs());
    let enosys = SeccompAction::Errno(ENOSYS.unsigned_abs());
    let allow = SeccompAction::Allow;
    // The list last: it does not allow another filter. Of two errors, that of clone3 is the only one for it.
    Ok([compile(clone3, allow.clone(), enosys)?, compile(allowed, eperm, allow)?])
}

fn compile(
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
    others: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, String> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(|e| e.to_string())?;
    let filter = SeccompFilter::new(rules, others, listed, arch).map_err(|e| e.to_string())?;
    BpfProgram::try_from(filter).map_err(|e| e.to_string())
}

/// Returns the calls that are allowed, each with the arguments of which one must match, if any.
pub(super) fn rules(needs: &Needs) -> Result<BTreeMap<c_long, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<c_long, Vec<SeccompRule>> =
        SERVING.iter().map(|call| (*call, Vec::new())).collect();
    let one = |condition: SeccompCondition| SeccompRule::new(vec![condition]);
    let mut also = |calls: &[c_long]| rules.extend(calls.iter().map(|call| (*call, Vec::new())));
    if !needs.write.is_empty() {
        also(WRITING);
    }
    if needs.connects {
        also(CONNECTING);
    }
    let is = |argument: u8, value: c_int| one(when(argument, Op::Eq, u64::from(value.cast_unsigned()))?);
    if let Some(child) = needs.child {
        also(&[SYS_wait4, SYS_waitid]);
        rules.insert(SYS_kill, vec![one(when(0, Op::Eq, child.into())?)?]);
    }
    // No packet is sent to an address but by who needs connections; no connection is made by sending.
    let connects_not = |flags: u8| when(flags, Op::MaskedEq(FASTOPEN), 0);
    let mut sendto = vec![connects_not(3)?];
    if needs.connects {
        rules.insert(SYS_socket, sockets()?);
        rules.insert(SYS_sendmmsg, vec![one(connects_not(3)?)?]);
    } else {
        sendto.push(SeccompCondition::new(4, Len::Qword, Op::Eq, 0)?);
    }
    rules.insert(SYS_sendto, vec![SeccompRule::new(sendto)?]);
    rules.insert(SYS_sendmsg, vec![one(connects_not(2)?)?]);
    let clone = if needs.devices.is_empty() { None } else { Some(FUSE_CLONE) };
    let ioctls = IOCTLS.into_iter().chain(clone).map(|ioctl| one(when(1, Op::Eq, ioctl)?));
    rules.insert(SYS_ioctl, ioctls.collect::<Result<_, _>>()?);
    rules.insert(SYS_fcntl, FCNTLS.into_iter().map(|command| is(1, command)).collect::<Result<_, _>>()?);
    // Threads, but no processes: one of those would keep connections and files when this one has ended.
    let thread = u64::from((CLONE_VM | CLONE_THREAD).cast_unsigned());
    let namespaces = u64::from(NAMESPACES.cast_unsigned());
    rules.insert(SYS_clone, vec![one(when(0, Op::MaskedEq(thread | namespaces), thread)?)?]);
    rules.insert(SYS_prctl, vec![is(0, PR_SET_NAME)?]);
    // To abort after a fatal error.
    rules.insert(SYS_tgkill, vec![is(0, std::process::id().cast_signed())?]);
    // To look a limit up, but not to change it.
    rules.insert(SYS_prlimit64, vec![one(SeccompCondition::new(2, Len::Qword, Op::Eq, 0)?)?]);
    Ok(rules)
}

/// Returns the condition that the lower half of an argument is so.
fn when(argument: u8, op: Op, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(argument, Len::Dword, op, value)
}

/// Returns the sockets that may be made.
fn sockets() -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let mut sockets = Vec::new();
    for family in FAMILIES {
        for kind in TYPES {
            for protocol in PROTOCOLS {
                sockets.push(SeccompRule::new(vec![
                    when(0, Op::Eq, u64::from(family.cast_unsigned()))?,
                    when(1, Op::MaskedEq(TYPE_MASK), u64::from(kind.cast_unsigned()))?,
                    when(2, Op::Eq, u64::from(protocol.cast_unsigned()))?,
                ])?);
            }
        }
    }
    Ok(sockets)
}

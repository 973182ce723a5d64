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
    SYS_fcntl,
    SYS_dup,
    SYS_dup3,
    SYS_pipe2,
    SYS_ppoll,
    SYS_accept,
    SYS_accept4,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_sendto,
    SYS_sendmsg,
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

/// Calls that writing files takes as well.
const WRITING: &[c_long] = &[
    SYS_pwrite64,
    SYS_pwritev,
    SYS_ftruncate,
    SYS_fallocate,
    SYS_fsync,
    SYS_fdatasync,
    SYS_flock,
    SYS_fchmod,
    SYS_mkdirat,
    SYS_unlinkat,
    SYS_renameat,
    SYS_renameat2,
    SYS_linkat,
    SYS_utimensat,
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
    SYS_sendmmsg,
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
    let mut also = |calls: &[c_long]| rules.extend(calls.iter().map(|call| (*call, Vec::new())));
    if !needs.write.is_empty() {
        also(WRITING);
    }
    if needs.connects {
        also(CONNECTING);
    }
    if needs.child {
        also(&[SYS_wait4, SYS_waitid, SYS_kill]);
    }
    let when = |argument: u8, op: Op, value: u64| {
        SeccompRule::new(vec![SeccompCondition::new(argument, Len::Dword, op, value)?])
    };
    let is = |argument: u8, value: c_int| when(argument, Op::Eq, u64::from(value.cast_unsigned()));
    if needs.connects {
        // Names are looked up with a local service and the list of interfaces, too.
        let families = [AF_INET, AF_INET6, AF_UNIX, AF_NETLINK];
        let families = families.into_iter().map(|family| is(0, family)).collect::<Result<_, _>>()?;
        rules.insert(SYS_socket, families);
    }
    let clone = if needs.devices.is_empty() { None } else { Some(FUSE_CLONE) };
    let ioctls = IOCTLS.into_iter().chain(clone).map(|ioctl| when(1, Op::Eq, ioctl));
    rules.insert(SYS_ioctl, ioctls.collect::<Result<_, _>>()?);
    let namespaces = u64::from(NAMESPACES.cast_unsigned());
    rules.insert(SYS_clone, vec![when(0, Op::MaskedEq(namespaces), 0)?]);
    rules.insert(SYS_prctl, vec![is(0, PR_SET_NAME)?]);
    // To abort after a fatal error.
    rules.insert(SYS_tgkill, vec![is(0, std::process::id().cast_signed())?]);
    // To look a limit up, but not to change it.
    let no_change = SeccompCondition::new(2, Len::Qword, Op::Eq, 0)?;
    rules.insert(SYS_prlimit64, vec![SeccompRule::new(vec![no_change])?]);
    Ok(rules)
}

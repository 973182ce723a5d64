//! Capabilities, and Landlock: which files, connections and processes a thread may reach.

use std::fs::{self, File};
use std::io::{self, Read};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::Needs;

/// The newest version that is used. What a kernel does not have of it is left out.
const VERSION: ABI = ABI::V7;

/// Returns the capabilities that are kept: root goes on to open the files that it needs, of any owner.
fn kept(needs: &Needs) -> CapabilitySet {
    match needs.read.is_empty() {
        true => CapabilitySet::empty(),
        false => CapabilitySet::DAC_READ_SEARCH,
    }
}

/// Gives up all other capabilities of this thread. Returns whether it has none of them any more.
pub(super) fn drop_capabilities(needs: &Needs) -> bool {
    let dropped = capabilities(None).and_then(|had| {
        let kept = kept(needs) & had.permitted;
        // Nothing to give up: an ordinary user, or a thread that was started by a confined one.
        if (had.effective | had.permitted) == kept && had.inheritable.is_empty() {
            return Ok(());
        }
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
        set_capabilities(None, sets)
    });
    if let Err(e) = &dropped {
        log::info!("cannot give up capabilities: {e}");
    }
    dropped.is_ok()
}

/// The status of each thread of this process, as files that are open: a confined thread could not open them.
pub(super) struct Statuses(Vec<File>);

impl Statuses {
    /// Opens them.
    pub(super) fn open() -> io::Result<Statuses> {
        let mut files = Vec::new();
        for task in fs::read_dir("/proc/self/task")? {
            match File::open(task?.path().join("status")) {
                Ok(file) => files.push(file),
                // It has ended.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Statuses(files))
    }

    /// Returns whether the system calls of all these threads are filtered, and whether none of them has a capability
    /// that is not kept, as the kernel says now.
    pub(super) fn read(self, needs: &Needs) -> (bool, bool) {
        let (mut filtered, mut without) = (true, true);
        for mut file in self.0 {
            let mut status = String::new();
            // A thread that has ended has none.
            if file.read_to_string(&mut status).is_err() || status.is_empty() {
                continue;
            }
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                line.map(str::trim)
            };
            // SECCOMP_MODE_FILTER.
            filtered &= field("Seccomp") == Some("2");
            let none = |name| {
                let held = field(name).and_then(|set| u64::from_str_radix(set, 16).ok());
                held.is_some_and(|held| held & !kept(needs).bits() == 0)
            };
            without &= none("CapEff") && none("CapPrm");
        }
        (filtered, without)
    }
}

/// Restricts this thread with Landlock. Returns the version that is enforced, 0 for none.
pub(super) fn landlock(needs: &Needs) -> u32 {
    match restrict(needs) {
        Ok(version) => version,
        Err(e) => {
            log::info!("cannot restrict which files are opened (Landlock): {e}");
            0
        }
    }
}

fn restrict(needs: &Needs) -> Result<u32, RulesetError> {
    let net = if needs.connects { AccessNet::BindTcp.into() } else { AccessNet::from_all(VERSION) };
    let scope =
        if needs.child.is_some() { Scope::AbstractUnixSocket.into() } else { Scope::from_all(VERSION) };
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let write = read
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer;
    let device: BitFlags<AccessFs> = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let devices = needs.devices.iter().filter_map(|path| PathFd::new(path).ok());
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(VERSION))?
        .handle_access(net)?
        .scope(scope)?
        .create()?
        .add_rules(path_beneath_rules(&needs.read, read))?
        .add_rules(path_beneath_rules(&needs.write, write))?
        .add_rules(devices.map(|file| Ok::<_, RulesetError>(PathBeneath::new(file, device))))?
        .restrict_self()?;
    Ok(match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, _) => 0,
        (_, LandlockStatus::Available { effective_abi, .. }) => (effective_abi as u32).min(VERSION as u32),
        _ => 0,
    })
}

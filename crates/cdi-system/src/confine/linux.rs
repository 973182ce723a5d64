//! Capabilities, and Landlock: which files, connections and processes a thread may reach.

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

use super::Needs;

/// The newest version that is used. What a kernel does not have of it is left out.
const VERSION: ABI = ABI::V7;

/// Gives up all capabilities of this thread, except that root goes on to open the files that it needs,
/// of any owner.
pub(super) fn drop_capabilities(needs: &Needs) {
    let kept = match needs.read.is_empty() {
        true => CapabilitySet::empty(),
        false => CapabilitySet::DAC_READ_SEARCH,
    };
    let dropped = capabilities(None).and_then(|had| {
        let kept = kept & had.permitted;
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
        set_capabilities(None, sets)
    });
    if let Err(e) = dropped {
        log::info!("cannot give up capabilities: {e}");
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
    let scope = if needs.child { Scope::AbstractUnixSocket.into() } else { Scope::from_all(VERSION) };
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

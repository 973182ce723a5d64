#!/usr/bin/env bash
# Builds cdi.app with the FSKit extension on a Mac, signs it and registers it.
#
#     fskit-ext/bundle/bundle.sh [DIRECTORY]
#
# The app is created in DIRECTORY (default: target/). It must not be moved: macOS finds the extension by its path.
#
#     IDENTITY   the signing identity ('security find-identity -v -p codesigning'); default: '-', ad hoc, which is valid
#                on this Mac only
#     PROFILE    the provisioning profile of that identity, with com.apple.developer.fskit.fsmodule
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
identity=${IDENTITY:--}
profile=${PROFILE:-}

fail() {
    echo "bundle.sh: $*" >&2
    exit 1
}

[ "$(uname -s)" = Darwin ] || fail "this script only runs on macOS"
version=$(sw_vers -productVersion)
[ "${version%%.*}" -ge 26 ] || fail "mounting a file with FSKit needs macOS 26 or newer; this is macOS $version"
if [ "$identity" != - ]; then
    [ -n "$profile" ] || fail "with IDENTITY, set PROFILE to the provisioning profile that allows an FSKit module"
    [ -r "$profile" ] || fail "$profile cannot be read"
fi

directory=${1:-$root/target}
mkdir -p "$directory"
directory=$(cd "$directory" && pwd)
app=$directory/cdi.app
appex=$app/Contents/Extensions/cdi-fskit.appex

target=${CARGO_TARGET_DIR:-$root/target}
cargo build --release --locked --manifest-path "$root/Cargo.toml" --target-dir "$target" -p cdi -p cdi-fskit --bins

# Replacing the app terminates the extension, and its mounts would hang.
! mount | grep -F '(cdi,' >/dev/null || fail "the extension has mounted images; unmount them first"
rm -rf "$app"
mkdir -p "$app/Contents/MacOS" "$appex/Contents/MacOS"
cp "$here/App-Info.plist" "$app/Contents/Info.plist"
cp "$target/release/cdi-app" "$app/Contents/MacOS/cdi-app"
# Opening an image in the Finder runs it.
cp "$target/release/cdi" "$app/Contents/MacOS/cdi"
cp "$here/Extension-Info.plist" "$appex/Contents/Info.plist"
cp "$target/release/cdi-fskit" "$appex/Contents/MacOS/cdi-fskit"

# From the inside out: the app's signature covers the extension's.
entitlements=$here/Extension-adhoc.entitlements
timestamp=--timestamp=none
if [ "$identity" != - ]; then
    timestamp=--timestamp
    cp "$profile" "$appex/Contents/embedded.provisionprofile"
    # The profile is for this team and this extension; the signature has to name both.
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    security cms -D -i "$profile" >"$work/profile.plist"
    team=$(plutil -extract TeamIdentifier.0 raw "$work/profile.plist") || fail "$profile does not name a team"
    entitlements=$work/Extension.entitlements
    cp "$here/Extension.entitlements" "$entitlements"
    /usr/libexec/PlistBuddy -c "Add :com.apple.application-identifier string $team.org.cdimg.cdi.fskit" \
        -c "Add :com.apple.developer.team-identifier string $team" "$entitlements"
fi
codesign --force --sign "$identity" "$timestamp" --options runtime --generate-entitlement-der \
    --entitlements "$entitlements" "$appex"
codesign --force --sign "$identity" "$timestamp" --options runtime --identifier org.cdimg.cdi.cli "$app/Contents/MacOS/cdi"
codesign --force --sign "$identity" "$timestamp" --options runtime "$app"
codesign --verify --strict --deep "$app"

# An earlier copy of the extension may still be running, and would continue to answer.
pluginkit -r "$appex" 2>/dev/null || true
launch_services=/System/Library/Frameworks/CoreServices.framework/Frameworks/LaunchServices.framework
"$launch_services/Support/lsregister" -f -R -trusted "$app"
pluginkit -a "$appex"
pluginkit -e use -p com.apple.fskit.fsmodule -i org.cdimg.cdi.fskit

cat <<NEXT

$app is built and registered.

1. Switch the extension on, once:   open '$app'
   (System Settings > General > Login Items & Extensions > File System Extensions > cdi)
2. Check that it is registered:      pluginkit -m -A -D -v -i org.cdimg.cdi.fskit   (a line with a '+')
   and switched on:                  plutil -p "\$HOME/Library/Group Containers/group.com.apple.fskit.settings/enabledModules.plist"
3. Mount, as yourself, without sudo: mkdir -m 700 private && mkdir private/disk &&
                                     mount -F -o rdonly,nobrowse -t cdi image.cdimg private/disk
   (In a private directory: on such a mount every user counts as the owner.)
4. Open a .cdimg in the Finder: it is attached and its volumes are shown; eject them to close it.
5. View its log:                     log stream --predicate 'process == "cdi-fskit"'
NEXT

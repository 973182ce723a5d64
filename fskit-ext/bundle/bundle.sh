#!/usr/bin/env bash
# Builds cdi.app with the FSKit extension in it on a Mac, signs and registers it.
#
#     fskit-ext/bundle/bundle.sh [FOLDER]
#
# The app goes into FOLDER, by default target/. It has to stay where it is: macOS finds the extension by it.
#
#     IDENTITY   what to sign with ('security find-identity -v -p codesigning'); by default '-', ad hoc, which is for
#                this Mac alone
#     PROFILE    the provisioning profile with com.apple.developer.fskit.fsmodule that goes with it
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
identity=${IDENTITY:--}
profile=${PROFILE:-}

fail() {
    echo "bundle.sh: $*" >&2
    exit 1
}

[ "$(uname -s)" = Darwin ] || fail "this is for a Mac"
version=$(sw_vers -productVersion)
[ "${version%%.*}" -ge 26 ] || fail "FSKit mounts a file from macOS 26 on; this is macOS $version"
if [ "$identity" != - ]; then
    [ -n "$profile" ] || fail "an identity needs PROFILE, the provisioning profile that allows an FSKit module"
    [ -r "$profile" ] || fail "$profile cannot be read"
fi

folder=${1:-$root/target}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
app=$folder/cdi.app
appex=$app/Contents/Extensions/cdi-fskit.appex

target=${CARGO_TARGET_DIR:-$root/target}
cargo build --release --locked --manifest-path "$root/Cargo.toml" --target-dir "$target" -p cdi-fskit --bins

# Replacing the app ends the extension, and hangs what it has mounted.
! mount | grep -F '(cdi,' >/dev/null || fail "something is mounted by the extension; unmount it first"
rm -rf "$app"
mkdir -p "$app/Contents/MacOS" "$appex/Contents/MacOS"
cp "$here/App-Info.plist" "$app/Contents/Info.plist"
cp "$target/release/cdi-app" "$app/Contents/MacOS/cdi-app"
cp "$here/Extension-Info.plist" "$appex/Contents/Info.plist"
cp "$target/release/cdi-fskit" "$appex/Contents/MacOS/cdi-fskit"

# From the inside out: the app's signature covers the extension's.
entitlements=$here/Extension-adhoc.entitlements
timestamp=--timestamp=none
if [ "$identity" != - ]; then
    timestamp=--timestamp
    cp "$profile" "$appex/Contents/embedded.provisionprofile"
    # The profile allows this team and this extension; the signature has to say that it is they.
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    security cms -D -i "$profile" >"$work/profile.plist"
    team=$(plutil -extract TeamIdentifier.0 raw "$work/profile.plist") || fail "$profile names no team"
    entitlements=$work/Extension.entitlements
    cp "$here/Extension.entitlements" "$entitlements"
    /usr/libexec/PlistBuddy -c "Add :com.apple.application-identifier string $team.org.cdimg.cdi.fskit" \
        -c "Add :com.apple.developer.team-identifier string $team" "$entitlements"
fi
codesign --force --sign "$identity" "$timestamp" --options runtime --generate-entitlement-der \
    --entitlements "$entitlements" "$appex"
codesign --force --sign "$identity" "$timestamp" --options runtime "$app"
codesign --verify --strict --deep "$app"

# An earlier copy of the extension may still run, and would go on answering.
pluginkit -r "$appex" 2>/dev/null || true
launch_services=/System/Library/Frameworks/CoreServices.framework/Frameworks/LaunchServices.framework
"$launch_services/Support/lsregister" -f -R -trusted "$app"
pluginkit -a "$appex"
pluginkit -e use -p com.apple.fskit.fsmodule -i org.cdimg.cdi.fskit

cat <<NEXT

$app is built and registered.

1. Switch the extension on, once:   open '$app'
   (System Settings > General > Login Items & Extensions > File System Extensions > cdi)
2. Look whether the system knows it: pluginkit -m -A -D -v -i org.cdimg.cdi.fskit   (a line with a '+')
   and whether it is switched on:    plutil -p "\$HOME/Library/Group Containers/group.com.apple.fskit.settings/enabledModules.plist"
3. Mount, as yourself, without sudo: mkdir -m 700 private && mkdir private/disk &&
                                     mount -F -o rdonly,nobrowse -t cdi image.cdimg private/disk
   (In a folder that is yours alone: on such a mount every user counts as the owner.)
4. What it says:                     log stream --predicate 'process == "cdi-fskit"'
NEXT

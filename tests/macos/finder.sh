#!/usr/bin/env bash
# The two uses of a mount by hand on a real Mac: browsing it in the Finder, and 'hdiutil attach DIR/disk.raw' typed in
# Terminal; ejecting; and what all that reads. Not run on a Mac yet. Needs a logged-in user, and no root; with
# passwordless sudo (as in CI) it also makes /Volumes/cdi, and removes it again if it was not there.
#
#     CDI=/path/cdi tests/macos/finder.sh     # exit code 0 if nothing failed; about a minute and a half
#
# Lines that begin with "measured" are results that can only be had on a Mac (docs/MACOS.md, "In the Finder").
set -u
cd "$(dirname "$0")/../.." || exit 1
[ "$(uname -s)" = Darwin ] || { echo "this script only runs on macOS"; exit 1; }
CDI=${CDI:-$PWD/target/release/cdi}
[ -x "$CDI" ] || { echo "set CDI to the program, or build it: cargo build --release"; exit 1; }

lab=$(cd "$(mktemp -d)" && pwd -P)
export CDI_RUNTIME_DIR=$lab/run
failed=0
made_volumes=
# With stand-ins, on Linux (tests/standin.rs).
dry=${CDI_DRY_RUN-}
cleanup() {
    [ -z "${device-}" ] || hdiutil detach -force "$device" >/dev/null 2>&1
    for image in "$lab"/*.cdimg; do "$CDI" -q detach --force "$image" 2>/dev/null; done
    [ -z "$made_volumes" ] || sudo -n rmdir /Volumes/cdi/.cdi /Volumes/cdi
    [ ! -e "$lab/root" ] || sudo -n "CDI_RUNTIME_DIR=$lab/root" "$CDI" -q unmount --all --force 2>/dev/null
    if mount | grep -F "$lab"; then
        echo "FAILED    cleaning up: still mounted"
    else
        rm -rf "$lab" 2>/dev/null || sudo -n rm -rf "$lab"
    fi
}
trap cleanup EXIT

# limited SECONDS COMMAND...: ends the command when it takes longer.
limited() { perl -e 'alarm shift; exec @ARGV or exit 127' "$@"; }
# check WHAT COMMAND...: checks that the command succeeds. A command that may hang is run by limited.
check() {
    local what=$1
    shift
    if "$@" >"$lab/said" 2>&1; then
        echo "ok        $what"
    else
        echo "FAILED    $what (exit code $?): $*"
        sed 's/^/          | /' "$lab/said"
        failed=$((failed + 1))
    fi
}
# measure WHAT COMMAND...: prints how the command ended and what it printed.
measure() {
    local what=$1 code
    shift
    limited 60 "$@" >"$lab/said" 2>&1
    code=$?
    echo "measured  $what: exit code $code"
    head -20 "$lab/said" | sed 's/^/          | /'
}
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.5
    done
}
not() { ! "$@"; }
# fails SECONDS COMMAND...: whether the command ends by itself, and not with success. (limited ends it by SIGALRM: 142.)
fails() {
    local code
    limited "$@"
    code=$?
    [ $code != 0 ] && [ $code -lt 126 ]
}
cdi() { limited 120 "$CDI" "$@"; }
code() {
    local expect=$1 got
    shift
    "$@"
    got=$?
    [ $got = "$expect" ] || { echo "exit code $got instead of $expect"; return 1; }
}
number() { sed -n "s/.*\"$1\": *\\([0-9]*\\).*/\\1/p" | head -1; }
word() { sed -n "s/.*\"$1\": *\"\\([^\"]*\\)\".*/\\1/p" | head -1; }
reads() { "$CDI" stats --json | number reads; }
options() { mount | grep -F " on $1 (" | sed 's/.* (//'; }
nothing_is_mounted() { [ -z "$("$CDI" list --json | word mountpoint)" ] && ! mount | grep -qF "$lab"; }
# read_by WHAT COMMAND...: prints how many reads of the disk the command causes.
read_by() {
    local what=$1 before
    shift
    before=$(reads)
    limited 60 "$@" >"$lab/said" 2>&1
    local code=$?
    echo "measured  reads of the disk by $what: $(($(reads) - before)) (exit code $code)"
}

echo "macOS $(sw_vers -productVersion) ($(sw_vers -buildVersion)), $(uname -m), $("$CDI" --version)"
check "cdi demo" cdi demo --keep "$lab/sample"
cp "$lab/sample/disk.cdimg" "$lab/finder sample.cdimg"
image="$lab/finder sample.cdimg"
size=$(stat -f %z "$lab/sample/disk.raw")

# --- where ----------------------------------------------------------------------------------------------------------
if [ ! -e /Volumes/cdi ] && sudo -n true 2>/dev/null; then
    check "/Volumes/cdi is made as MACOS.md says" sudo -n install -d -o "$(id -un)" -m 700 /Volumes/cdi /Volumes/cdi/.cdi
    made_volumes=1
fi
check "mount without a directory" cdi mount "$image"
dir=$("$CDI" list --json | word mountpoint)
echo "measured  it is mounted at $dir, with: $(options "$dir")"
if [ -w /Volumes/cdi ]; then
    check "that is in /Volumes/cdi" test "$dir" = "/Volumes/cdi/finder sample"
fi
check "it is not hidden" not sh -c "mount | grep -F ' on $dir (' | grep -q nobrowse"

# --- in the Finder --------------------------------------------------------------------------------------------------
measure "the name of the volume (should be 'finder sample')" sh -c "diskutil info '$dir' | grep -i 'volume name'"
measure "the Finder's disks" osascript -e 'tell application "Finder" to get name of every disk'
read_by "ls -la@e" ls -la@e "$dir"
read_by "the Finder's window" sh -c "open '$dir' && sleep 8"
read_by "Get Info" osascript -e "tell application \"Finder\" to open information window of (POSIX file \"$dir/disk.raw\" as alias)"
read_by "mdls" mdls "$dir/disk.raw"
read_by "mdimport -t" mdimport -t "$dir/disk.raw"
read_by "a Quick Look thumbnail" qlmanage -t -s 256 -o "$lab" "$dir/disk.raw"
read_by "a Quick Look thumbnail of disk.dmg" qlmanage -t -s 256 -o "$lab" "$dir/disk.dmg"
osascript -e 'tell application "Finder" to close every window' >/dev/null 2>&1
check "nothing was left in the directory" test "$(find "$dir" -mindepth 1 | wc -l | tr -d ' ')" = 6
check "the directory cannot be written to" not touch "$dir/.DS_Store"

# --- copies: the image has a bad sector -----------------------------------------------------------------------------
for copier in cp ditto "rsync -a"; do
    # shellcheck disable=SC2086 # words
    check "$copier over the bad sector fails" fails 60 $copier "$dir/disk.raw" "$lab/copy"
    check "and leaves no file of the disk's size" test "$(stat -f %z "$lab/copy" 2>/dev/null || echo 0)" -lt "$size"
    rm -rf "$lab/copy"
done
mkdir "$lab/copies"
measure "a copy by the Finder" osascript -e "with timeout of 50 seconds
tell application \"Finder\" to duplicate (POSIX file \"$dir/disk.raw\" as alias) to (POSIX file \"$lab/copies\" as alias)
end timeout"
check "it leaves no file of the disk's size" test "$(stat -f %z "$lab/copies/disk.raw" 2>/dev/null || echo 0)" -lt "$size"

# --- attached by hand -----------------------------------------------------------------------------------------------
by_hand() {
    device=
    limited 60 hdiutil attach -nomount "$@" >"$lab/said" 2>&1
    local ended=$?
    device=$(grep -o '^/dev/disk[0-9]*' "$lab/said" | head -1)
    return $ended
}
is_the_disk() {
    local raw=/dev/r${device#/dev/}
    # The stand-ins make no device.
    [ -z "$dry" ] || raw=$dir/disk.raw
    [ -n "$device" ] && cmp -n 65536 "$raw" "$lab/sample/disk.raw"
}
release() {
    [ -z "$device" ] || hdiutil detach "$device" >/dev/null
    device=
}
by_hand "$dir/disk.raw"
echo "measured  'hdiutil attach $dir/disk.raw' without -imagekey: exit code $?"
sed 's/^/          | /' "$lab/said"
[ -z "$device" ] || check "it is the disk" is_the_disk
release
check "hdiutil attach -imagekey diskimage-class=CRawDiskImage disk.raw" by_hand -imagekey diskimage-class=CRawDiskImage "$dir/disk.raw"
check "it is the disk" is_the_disk
if [ -z "$dry" ]; then
    check "unmounting below it is refused" code 5 cdi unmount "$dir"
    check "the device still reads correctly" is_the_disk
fi
release
check "hdiutil attach disk.dmg" by_hand "$dir/disk.dmg"
check "it is the disk" is_the_disk
release

# --- ejected --------------------------------------------------------------------------------------------------------
pid=$("$CDI" list --json | number pid)
measure "eject in the Finder" osascript -e "tell application \"Finder\" to eject (POSIX file \"$dir\" as alias)"
if [ -n "$dry" ]; then
    # Nothing tells the server here.
    cdi unmount "$dir"
elif mount | grep -qF " on $dir ("; then
    check "diskutil unmount, which asks the same daemon" within 20 diskutil unmount "$dir"
fi
check "the daemon and its record are gone" within 40 nothing_is_mounted
check "its process is gone" within 10 not kill -0 "$pid"
check "its directory is gone" not test -e "$dir"
[ -z "$made_volumes" ] || check "/Volumes/cdi is still there" test -d /Volumes/cdi

check "mount --no-browse" cdi mount "$image" "$lab/mnt" --no-browse
check "it is hidden" sh -c "mount | grep -F ' on $lab/mnt (' | grep -q nobrowse"
check "unmount" cdi unmount "$lab/mnt"

check "attach" cdi -q attach "$image"
device=$("$CDI" list --json | word device)
check "its directory is hidden" sh -c "mount | grep -F '$lab/run' | grep -q nobrowse"
check "ejecting the device" diskutil eject "$device"
[ -z "$dry" ] || cdi detach --all
device=
check "the daemon and its record are gone" within 40 nothing_is_mounted

if sudo -n true 2>/dev/null; then
    check "root mounts in /Volumes" sudo -n "CDI_RUNTIME_DIR=$lab/root" "$CDI" mount "$image" --allow-other
    check "there the user can read it" cmp -n 65536 "/Volumes/finder sample/disk.raw" "$lab/sample/disk.raw"
    check "unmount" sudo -n "CDI_RUNTIME_DIR=$lab/root" "$CDI" unmount "$image"
    check "its directory is gone" not test -e "/Volumes/finder sample"
    sudo -n rm -rf "$lab/root"
fi

# --- the app --------------------------------------------------------------------------------------------------------
if mdfind "kMDItemCFBundleIdentifier == 'org.cdimg.cdi'" 2>/dev/null | grep -q .; then
    unset CDI_RUNTIME_DIR
    measure "opening the image with the app" open -b org.cdimg.cdi "$image"
    check "its volume is shown" within 60 test -e "/Volumes/CDI DEMO/LETTER.TXT"
    check "ejecting it" diskutil eject "/Volumes/CDI DEMO"
    check "the daemon and its record are gone" within 40 sh -c "! '$CDI' list --json | grep -qF '$image'"
else
    echo "measured  the app is not installed (fskit-ext/bundle/bundle.sh)"
fi

[ $failed = 0 ] && echo "all checks passed" || echo "$failed checks failed"
[ $failed = 0 ]

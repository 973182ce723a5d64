#!/usr/bin/env bash
# Tests that need a real Mac: NFS mounted by the system, devices created by hdiutil and diskutil, their bad sectors, a
# killed daemon, the service. Needs a stock Mac and Rust, but neither root nor a driver; takes about two minutes:
#
#     tests/macos.sh              # builds and tests; exit code 0 if nothing failed
#     CDI=/path/cdi tests/macos.sh
#     CDI_AGENT=1 tests/macos.sh  # also installs, starts and uninstalls the LaunchAgent (unless a configuration exists
#                                 # in ~/.config/cdi/service.json)
#
# Please attach the output to the report of a failure: its first line identifies the system, and lines that begin with
# "measured" are results that can only be obtained on a Mac (docs/MACOS.md).
set -u
cd "$(dirname "$0")/.." || exit 1
[ "$(uname -s)" = Darwin ] || { echo "this script only runs on macOS"; exit 1; }
if [ -z "${CDI-}" ]; then
    cargo build --release || exit 1
    CDI=$PWD/target/release/cdi
fi

lab=$(cd "$(mktemp -d)" && pwd -P)
export CDI_RUNTIME_DIR=$lab/run
failed=0
cleanup() {
    [ -z "${service-}" ] || kill "$service" 2>/dev/null
    for image in "$lab"/*.cdimg; do "$CDI" -q detach --force "$image" 2>/dev/null; done
    rm -rf "$lab"
}
trap cleanup EXIT

# check WHAT COMMAND...: checks that the command succeeds.
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
# code CODE COMMAND...: checks that the command ends with this exit code.
code() {
    local expect=$1
    shift
    "$@"
    local got=$?
    [ $got = "$expect" ] || { echo "exit code $got instead of $expect"; return 1; }
}
# within SECONDS COMMAND...: repeats the command until it succeeds; fails after this many seconds.
within() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.2
    done
}
not() { ! "$@"; }
number() { sed -n "s/.*\"$1\": *\\([0-9]*\\).*/\\1/p" | head -1; }
word() { sed -n "s/.*\"$1\": *\"\\([^\"]*\\)\".*/\\1/p" | head -1; }

echo "macOS $(sw_vers -productVersion) ($(sw_vers -buildVersion)), $(uname -m), pages of $(sysctl -n hw.pagesize) bytes, $("$CDI" --version)"
check "the unit tests" cargo test -q --lib
check "cdi doctor" "$CDI" doctor
"$CDI" doctor | sed 's/^/          | /'

cd "$lab" || exit 1
check "cdi demo" "$CDI" demo --keep "$lab/sample"
cp sample/disk.cdimg sample/disk.raw .
bad=$("$CDI" map --bad --json disk.cdimg | number first_sector)
size=$(stat -f %z disk.raw)
echo "          the sample has $size bytes; sector $bad is bad"

# --- the directory, over NFS ----------------------------------------------------------------------------------------
check "mount over NFS, without root" "$CDI" mount disk.cdimg mnt
check "mount lists it as NFS" sh -c "mount | grep ' on $lab/mnt (nfs'"
check "disk.raw has the right size" test "$(stat -f %z mnt/disk.raw)" = "$size"
check "its first MiB is right" cmp -n 1048576 mnt/disk.raw disk.raw
check "badblocks.json names the sector" grep -q "\"first_sector\": $bad" mnt/badblocks.json
check "disk.dmg is the same file" test "$(stat -f %i mnt/disk.raw)" = "$(stat -f %i mnt/disk.dmg)"
check "the file that disables Spotlight exists" test -e mnt/.metadata_never_index
check "no file can be created" not touch mnt/.DS_Store
check "no file can be written" not dd if=/dev/zero of=mnt/disk.raw bs=512 count=1 conv=notrunc
check "the bad sector is an error" not dd if=mnt/disk.raw of=/dev/null bs=512 skip="$bad" count=1
echo "measured  what nfsstat -m shows every user about the mount:"
nfsstat -m "$lab/mnt" 2>&1 | head -20 | sed 's/^/          | /'
check "unmount" "$CDI" unmount mnt
check "it is unmounted" not sh -c "mount | grep $lab"

# --- the device -----------------------------------------------------------------------------------------------------
attach() { device=$("$CDI" -q attach "$@" </dev/null) && [ -b "$device" ]; }
sector() { dd if="$raw" bs=512 skip="$1" count=1 2>/dev/null; }
is_right() { sector "$1" | cmp -s - <(dd if="$lab/disk.raw" bs=512 skip="$1" count=1 2>/dev/null); }

# The disk before sector $first and after sector $last.
part() { dd if="$1" bs=512 "$2" 2>/dev/null; }
rest_is_right() {
    cmp <(part "$raw" "count=$first") <(part disk.raw "count=$first") &&
        cmp <(part "$raw" "skip=$((last + 1))") <(part disk.raw "skip=$((last + 1))")
}

attaching() {
    check "attach with $1" attach disk.cdimg --with "$1"
    [ -n "${device-}" ] || return
    raw=/dev/r${device#/dev/}
    check "$raw exists" test -c "$raw"
    check "the first sector is right" is_right 0
    check "the last sector is right" is_right $((size / 512 - 1))
    check "the bad sector is an error" not sector "$bad"
    # Measures how far the error extends. The map is exact in any case.
    first=$bad last=$bad
    while [ "$first" -gt 0 ] && ! is_right $((first - 1)); do first=$((first - 1)); done
    while [ "$last" -lt $((size / 512 - 1)) ] && ! is_right $((last + 1)); do last=$((last + 1)); done
    echo "measured  one bad sector of 512 bytes makes reads fail for $(((last - first + 1) * 512)) bytes on $raw (sectors $first to $last)"
    check "the rest of the disk is right" rest_is_right
    check "it cannot be written to" not dd if=/dev/zero of="$raw" bs=512 count=1
    check "diskutil knows it" diskutil info "$device"
    check "attaching it again is refused" code 5 "$CDI" attach disk.cdimg
    exec 9<"$raw"
    check "detaching a device in use is refused" code 5 "$CDI" detach disk.cdimg
    check "the device still reads correctly" is_right 0
    exec 9<&-
    check "detach" "$CDI" detach disk.cdimg
    check "the device is gone" within 5 not test -e "$device"
    check "nothing is mounted" not sh -c "mount | grep $lab"
    device=
}
attaching hdiutil
if diskutil image attach --help 2>&1 | grep -q readOnly; then
    attaching diskutil
else
    echo "measured  this macOS does not have 'diskutil image attach'"
fi

check "attach" attach disk.cdimg
exec 9<"/dev/r${device#/dev/}"
check "detach --force while it is in use" "$CDI" detach --force disk.cdimg
exec 9<&-
check "the device is gone" within 10 not test -e "$device"

check "attach, and let macOS mount it" attach disk.cdimg --mount
check "the volume is mounted" within 10 test -e "/Volumes/CDI DEMO/LETTER.TXT"
check "its files are right" grep -q . "/Volumes/CDI DEMO/LETTER.TXT"
check "detach while it is mounted" "$CDI" detach disk.cdimg
check "the volume is gone" not test -e "/Volumes/CDI DEMO/LETTER.TXT"

"$CDI" -q create disk.raw four.cdimg --sector-size 4096
check "attach with sectors of 4096 bytes" attach four.cdimg --with hdiutil
check "diskutil reports 4096 bytes" sh -c "diskutil info $device | grep 'Block Size' | grep 4096"
check "detach" "$CDI" detach four.cdimg

# --- a daemon that dies ---------------------------------------------------------------------------------------------
check "attach" attach disk.cdimg
raw=/dev/r${device#/dev/}
kill -9 "$("$CDI" list --json | number pid)"
start=$SECONDS
sector 5 >/dev/null
echo "measured  a read from the device of a dead daemon ended after $((SECONDS - start)) s"
check "detach cleans up" "$CDI" detach disk.cdimg
check "nothing is left" not sh -c "mount | grep $lab || test -e $device"
check "attach again" attach disk.cdimg
raw=/dev/r${device#/dev/}
check "it reads correctly" is_right 0
check "detach" "$CDI" detach disk.cdimg

# --- the service ----------------------------------------------------------------------------------------------------
printf '{ "version": 1, "images": [ { "image": "%s" }, { "image": "%s" } ] }\n' "$lab/disk.cdimg" "$lab/later.cdimg" >service.json
"$CDI" -q service run --config service.json 2>service.log &
service=$!
state() { "$CDI" service status --json | word phase; }
is_up() { [ "$(state)" = up ]; }
check "the service attaches an image" within 30 is_up
check "the service waits for the other image" sh -c "'$CDI' service status | grep waiting"
cp disk.cdimg later.cdimg
check "the other image is attached when it appears" within 30 "$CDI" -q service status
kill -9 "$("$CDI" list --json | number pid)"
check "a killed child is restarted" within 60 "$CDI" -q service status
kill "$service"
check "SIGTERM ends the service cleanly" wait "$service"
service=
check "nothing stays mounted" not sh -c "mount | grep $lab"

config=$HOME/.config/cdi/service.json
if [ -n "${CDI_AGENT-}" ] && [ ! -e "$config" ]; then
    unset CDI_RUNTIME_DIR
    check "install the agent" "$CDI" service install
    check "its property list is valid" plutil -lint "$HOME/Library/LaunchAgents/org.cdimg.cdi.plist"
    printf '{ "version": 1, "images": [ { "image": "%s" } ] }\n' "$lab/disk.cdimg" >"$config"
    check "start it" "$CDI" service start
    check "the image is attached" within 60 is_up
    check "stop it" "$CDI" service stop
    check "it is detached" not sh -c "mount | grep cdi-"
    check "uninstall the agent" "$CDI" service uninstall
    rm "$config"
fi

# --- the extension --------------------------------------------------------------------------------------------------
if "$CDI" doctor | grep -q 'FSKit extension *installed and switched on'; then
    check "mount with FSKit" "$CDI" mount disk.cdimg fskit --via fskit
    check "its first MiB is right" cmp -n 1048576 fskit/disk.raw disk.raw
    check "the bad sector is an error" not dd if=fskit/disk.raw of=/dev/null bs=512 skip="$bad" count=1
    check "unmount" "$CDI" unmount fskit
    check "attach through FSKit" attach disk.cdimg --via fskit
    check "detach" "$CDI" detach disk.cdimg
else
    echo "measured  the FSKit extension is not installed or not switched on"
fi

[ $failed = 0 ] && echo "all checks passed" || echo "$failed checks failed"
[ $failed = 0 ]

# Shared by the scripts of this directory; sourced, never run.
. "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
HERE=$ROOT/scripts/windows
# mtools and wimlib take names of files in the locale's encoding.
export LC_ALL=C.UTF-8
PATH=$PATH:/usr/sbin:/sbin
SEVEN=$(command -v 7zz || command -v 7z || echo 7zz)

# usage SCRIPT: the comment at the top of a script.
usage() { sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "$1"; }
refuse() { die "$*" 2; }

# need_tools COMMAND...
need_tools() {
    local tool missing=()
    for tool; do have "$tool" || missing+=("$tool"); done
    [ ${#missing[@]} = 0 ] || die "these programs are missing: ${missing[*]}; on Debian:  scripts/setup windows"
}

# The first line of what comes in. All of it is read: whoever writes it must not be ended for want of a reader.
first() { awk 'NR == 1'; }

# run COMMAND...: a command that may take long, beside which a signal to this script is answered at once.
CHILD=
run() {
    "$@" &
    CHILD=$!
    local status=0
    wait "$CHILD" || status=$?
    CHILD=
    return "$status"
}
# What runs is ended before what it writes to is removed.
stop_child() {
    [ -z "$CHILD" ] || { kill "$CHILD" && wait "$CHILD"; } 2>/dev/null || true
    CHILD=
}

# a_file WHAT PATH: a file that can be read.
a_file() {
    [ -e "$2" ] || refuse "$1 $2: there is no such file"
    [ -f "$2" ] || refuse "$1 $2: not a regular file"
    [ -r "$2" ] || refuse "$1 $2: not readable"
}

# a_guest_name WHAT PATH: the name is to be a part of commands of the guest, of registry paths and of 8-bit texts.
a_guest_name() {
    [[ ${2##*/} =~ ^[A-Za-z0-9_][A-Za-z0-9_+.-]*$ ]] ||
        refuse "$1 $2: the name of the file may have letters, digits and . _ + - only (its directory may have any)"
}

# number FILE OFFSET BYTES: a little-endian number in a file; 0 beyond its end.
number() {
    local text
    text=$(od -An -v --endian=little -tu"$3" -j"$2" -N"$3" -- "$1" 2>/dev/null | tr -d ' \n') || text=
    echo "${text:-0}"
}

# a_driver PATH: a kernel-mode PE image for x64, by its headers. Sets SIGNED if there is a signature in it.
a_driver() {
    local at machine magic
    a_file --driver "$1"
    a_guest_name --driver "$1"
    case ${1,,} in *.sys) ;; *) refuse "--driver $1: the name does not end in .sys" ;; esac
    at=$(number "$1" 60 4)
    if [ "$(number "$1" 0 2)" != $((0x5A4D)) ] || [ "$(number "$1" "$at" 4)" != $((0x4550)) ]; then
        refuse "--driver $1: not a PE image"
    fi
    machine=$(number "$1" $((at + 4)) 2)
    magic=$(number "$1" $((at + 24)) 2)
    case $machine in
    $((0x8664))) [ "$magic" = $((0x20B)) ] || refuse "--driver $1: not a PE32+ image" ;;
    $((0x14C))) refuse "--driver $1: a 32-bit driver; Windows x64 needs one for amd64" ;;
    $((0xAA64))) refuse "--driver $1: a driver for ARM64; Windows x64 needs one for amd64" ;;
    *) refuse "$(printf -- '--driver %s: for machine %04Xh, not for amd64 (8664h)' "$1" "$machine")" ;;
    esac
    [ "$(number "$1" $((at + 24 + 68)) 2)" = 1 ] ||
        refuse "--driver $1: not a kernel-mode image (its subsystem is not native)"
    SIGNED=
    # The fifth data directory is that of the signatures.
    [ "$(number "$1" $((at + 24 + 108)) 4)" -le 4 ] || [ "$(number "$1" $((at + 24 + 148)) 4)" = 0 ] || SIGNED=1
}

# unsigned_note PATH
unsigned_note() {
    say "note: $1 has no signature in the file. With test signing on, Windows loads a driver that is signed with any" \
        "certificate, but none that is not signed; of a boot-start driver the file itself has to be"
}

# The number of bytes that can be written to the file system of a directory.
free_bytes() { df --output=avail -B1 -- "$1" | tail -n 1 | tr -d ' '; }

# enter_work FILE: makes a directory beside FILE for what is in the making, and goes there; it is removed when the script ends.
# Those of former runs that were killed are removed, too: what is in use has a lock. Sets work.
enter_work() {
    local remains directory=${1%/*} base=${1##*/}
    for remains in "$directory/.$base".??????; do
        [ -f "$remains/lock" ] || continue
        if flock --nonblock "$remains/lock" true; then rm -rf "$remains"; fi
    done
    work=$(mktemp -d "$directory/.$base.XXXXXX") || die "the directory $directory cannot be written to"
    trap 'leave_work' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    cd "$work" || exit
    shopt -s dotglob
    : >lock
    exec 9<lock
    flock 9
}
leave_work() {
    stop_child
    cd /
    rm -rf "$work"
}

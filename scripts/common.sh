# Shared by the scripts of this directory; sourced, never run. Sets ROOT (the checkout) and CACHE (what scripts
# download or build once, outside the tree; STORLOCK_CACHE moves it).
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${STORLOCK_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/storlock}
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    say "$1"
    exit "${2:-5}"
}

# Whether every argument is a command on the PATH.
have() {
    local c
    for c; do command -v "$c" >/dev/null 2>&1 || return 1; done
}

# Prints the paths of llvm-cov and llvm-profdata that can read what the compiler's code writes: its own, or the
# distribution's of the same LLVM version.
llvm_tools() {
    local own major
    own=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
    major=$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')
    if [ -x "$own/llvm-cov" ] && [ -x "$own/llvm-profdata" ]; then
        echo "$own/llvm-cov $own/llvm-profdata"
    elif have "llvm-cov-$major" "llvm-profdata-$major"; then
        echo "$(command -v "llvm-cov-$major") $(command -v "llvm-profdata-$major")"
    else
        return 1
    fi
}

# Every command line of a guest, a lab or a test gets its own directory, removed when the script ends.
# Sets WORK.
make_work_dir() {
    WORK=$(mktemp -d "${TMPDIR:-/tmp}/storlock.XXXXXX")
    trap 'rm -rf "$WORK"' EXIT
}

#!/bin/bash
# Show that the README's commands work on a fresh Debian:
#
#     tests/platforms/fresh_debian.sh RELEASE [COMMAND]...
#
# debootstrap makes a system of that release (bookworm, trixie), with nothing prepared but make, git, python3, sudo and
# ca-certificates. In it a user with sudo runs each COMMAND in a clean clone of the last commit here; unless told otherwise
# `make demo`, `make check`, and `sudo make demo`. Packages come from where this machine gets its own, for apt and for pip.
# It says how long each command took, and ends with the status of the first that fails.
#
# All runs in mount, PID, IPC and UTS namespaces of its own, and is gone when this process is, however that ends; what a
# killed one leaves on the disk is removed by the next. The bare system (for a week), Debian's packages and pip's are kept in
# STATE/platforms for the next run; STATE is .state unless the environment says otherwise. It takes root, for Debian's
# packages set owners and make devices.
set -euo pipefail

say() { echo "== $*"; }
[ $# -ge 1 ] || { echo "usage: fresh_debian.sh RELEASE [COMMAND]..." >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "fresh_debian.sh: a fresh Debian can be made by root only; run it with sudo" >&2; exit 1; }
release=$1
shift
[ $# -gt 0 ] || set -- 'make demo' 'make check' 'sudo make demo'
case "$release" in *[!a-z]* | '') echo "fresh_debian.sh: $release is no name of a Debian release" >&2; exit 2 ;; esac

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
state=${STATE:-$top/.state}
"$top/lab/setup.sh" full "$state"
cache=$(cd "$state" && pwd)/platforms/$release
mkdir -p "$cache"/{archives,pip}
exec 9> "$cache/.lock"
flock -n 9 || { say "waiting for another run with $release"; flock 9; }
rm -rf --one-file-system "$cache"/run.*

run=$(mktemp -d "$cache/run.XXXXXX") child=''
clean_up() {
    # unshare ends once the first process of the namespace is gone, and all others with it.
    if [ -n "$child" ]; then
        # shellcheck disable=SC2046
        kill -KILL $(cat "/proc/$child/task/$child/children" 2>/dev/null || echo "$child") 2>/dev/null || true
        wait "$child" 2>/dev/null || true
    fi
    rm -rf --one-file-system "$run"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

mkdir "$run/root"
git clone -q --no-hardlinks "$top" "$run/clone"
# Its own process group: what runs in the background would ignore SIGINT otherwise, and all that it starts too.
set -m
setpriv --pdeathsig KILL unshare --mount --pid --ipc --uts --fork --kill-child --mount-proc \
    "$here/inside.sh" "$release" "$run" "$cache" "$@" < /dev/null &
child=$!
status=0
wait "$child" || status=$?
child=''
say "Debian $release: $([ $status = 0 ] && echo passed || echo "FAILED with status $status"), $SECONDS s in all"
exit $status

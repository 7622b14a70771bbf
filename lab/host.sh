#!/bin/bash
# Run a private libvirt host, for tests and demos:
#
#     lab/host.sh DIR [--no-kvm] [--share-net] [--tcp PORT] [--number N]
#
# libvirtd and its guests run in mount, UTS, IPC, PID and network namespaces of their own, over a copy-on-write /etc and
# /var and an empty /run: nothing of them is seen outside DIR, and all of it is gone when this process is (kill -9 too, and
# when the process that started it ends). Not as root, it takes a user namespace as well, where libvirtd finds itself root,
# and the guests have KVM if /dev/kvm is open to the user itself or to all: libvirt leaves the user's groups.
# It stays in the foreground; stop it with Ctrl-C, or from elsewhere with
#
#     kill -9 $(cat DIR/host.pid)
#
# Connect with qemu+unix:///system?socket=DIR/libvirt-sock once that works; the socket is there a little earlier.
# The host has two networks, lab and spare: one bridge, which its guests' interfaces are in and nothing else.
# DIR is the same inside: what guests shall use lies in it, or anywhere outside /etc, /var and /run.
#
#     --no-kvm      hide /dev/kvm
#     --share-net   keep the caller's network: for hosts that migrate guests to each other, under one `unshare -n`
#     --tcp PORT    listen on 127.0.0.1 as well, without a password
#     --number N    1 to 99, another one for each host that shares a network: keeps their ports apart
set -euo pipefail

say() { echo "host.sh: $*" >&2; }
missing=()
want() { command -v "$1" >/dev/null || missing+=("$2"); }

dir='' kvm=1 net=--net tcp='' number=1
while [ $# -gt 0 ]; do
    case "$1" in
        --no-kvm) kvm='' ;;
        --share-net) net='' ;;
        --tcp) tcp=$2; shift ;;
        --number) number=$2; shift ;;
        -*) say "unknown option $1"; exit 2 ;;
        *) dir=$1 ;;
    esac
    shift
done
[ -n "$dir" ] || { say "usage: host.sh DIR [--no-kvm] [--share-net] [--tcp PORT] [--number N]"; exit 2; }
PATH=$PATH:/usr/sbin:/sbin
user=()
if [ "$(id -u)" != 0 ]; then
    # libvirt sets its guests' supplementary groups, which a namespace of a single user would refuse.
    user=(--user --map-root-user --map-auto)
    want newuidmap uidmap
fi
want libvirtd libvirt-daemon
want qemu-system-x86_64 qemu-system-x86
want qemu-img qemu-utils
want unshare util-linux
want setpriv util-linux
want ip iproute2
for driver in qemu network storage; do
    [ -e "/usr/lib/x86_64-linux-gnu/libvirt/connection-driver/libvirt_driver_$driver.so" ] ||
        missing+=("libvirt-daemon-driver-$driver")
done
[ ${#missing[@]} = 0 ] || { say "missing; install: apt-get install ${missing[*]}"; exit 1; }
# The namespaces without ids first: where even those are refused, util-linux 2.38 would wait for ever to map some.
if ! why=$(unshare ${user:+--user} --mount true 2>&1 && unshare "${user[@]}" --mount true 2>&1); then
    say "no namespaces to be had ($why)"
    say "it takes root, or a user with ids in /etc/subuid and /etc/subgid; and a container must allow it"
    exit 1
fi

mkdir -p "$dir"
dir=$(cd "$dir" && pwd -P)
case "$dir/" in /etc/*|/var/*|/run/*|/dev/*|/proc/*) say "$dir wouldn't be seen inside; take one in /tmp"; exit 1 ;; esac
[ ${#dir} -le 80 ] || { say "$dir is too long for the path of a socket"; exit 1; }
# Held by every process of the host: free again when the last one is gone.
exec 9>"$dir/.lock"
flock -w 5 9 || { say "a host runs in $dir already"; exit 1; }
rm -rf "$dir"/libvirt-sock* "$dir"/libvirt-admin-sock "$dir"/private
mkdir -p "$dir/private"
echo $$ > "$dir/host.pid"

# Where control groups of version 1 can be made, guests' CPUs are weighed by one of the host's own, which each process of
# the host holds a lock on. A host that was killed has left its group without. Process ids would not tell: other hosts may
# run in other PID namespaces.
cpu=/sys/fs/cgroup/cpu group='' controllers=''
rm -f "$dir/group"
if [ ${#user[@]} = 0 ] && [ -e "$cpu/cpu.shares" ]; then
    for old in "$cpu"/fluidvm-host-*; do
        { { flock -n 8 && find "$old" -depth -type d -exec rmdir {} +; } 8< "$old" || true; } 2>/dev/null
    done
    while group=$(mktemp -d "$cpu/fluidvm-host-XXXXXXXXXX" 2>/dev/null); do
        # Until it is locked, another host may take it for one that was left.
        if exec 8< "$group" && flock 8 && [ -d "$group" ]; then break; fi 2>/dev/null
    done
    if [ -n "$group" ]; then
        controllers='"cpu"'
        echo "$group" > "$dir/group"
    fi
fi

# Cores of guests: libvirt would allow them even where the caller's limit, which sudo sets to none, can't be raised.
cat > "$dir/qemu.conf" <<C
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
max_core = 0
cgroup_controllers = [$controllers]
stdio_handler = "file"
remote_display_port_min = $((5900 + number * 100))
remote_display_port_max = $((5999 + number * 100))
remote_websocket_port_min = $((15700 + number * 50))
remote_websocket_port_max = $((15749 + number * 50))
migration_port_min = $((49152 + number * 100))
migration_port_max = $((49251 + number * 100))
C
# Hosts that migrate to each other must not have one UUID, which they would take from the machine's firmware.
cat > "$dir/libvirtd.conf" <<C
unix_sock_dir = "$dir"
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_ro_perms = "0700"
unix_sock_rw_perms = "0700"
listen_tcp = $([ -n "$tcp" ] && echo 1 || echo 0)
listen_tls = 0
listen_addr = "127.0.0.1"
tcp_port = "${tcp:-16509}"
auth_tcp = "none"
host_uuid = "$(cat /proc/sys/kernel/random/uuid)"
max_clients = 500
log_outputs = "3:file:$dir/libvirtd.log"
C

# Hidden as on a host whose libvirtd has the drop-in.
hidden=$(sed -n 's/^InaccessiblePaths=//p' "$(dirname "$0")/../systemd/libvirtd.service.d/files.conf" | tr '\n' ' ')

# Each process of the chain is killed with the one before it: the caller, this one, the namespace's first, all the others.
# shellcheck disable=SC2016
exec setpriv --pdeathsig KILL unshare "${user[@]}" --mount --uts --ipc --pid $net --fork --kill-child \
    --mount-proc --propagation private /bin/bash -c '
set -euo pipefail
dir=$1 kvm=$2 net=$3 tcp=$4 number=$5 group=$6 hidden=$7 own=$1/private
trap "exit 0" INT TERM
mount -t tmpfs -o mode=700 fluidvm-lab "$own"
# In a user namespace, what the real root owns is writable only where an upper directory holds it from the beginning.
mkdir -p "$own"/{etc,var}/{up,work} "$own/etc/up/libvirt" "$own"/var/up/{cache,lib,log}/libvirt
cp /etc/passwd /etc/group "$own/etc/up"
for part in etc var; do
    mount -t overlay fluidvm-lab -o "lowerdir=/$part,upperdir=$own/$part/up,workdir=$own/$part/work" "/$part"
done
mount -t tmpfs -o mode=755 fluidvm-lab /run
mkdir -p /run/lock
if [ -z "$kvm" ]; then
    # Covering /dev/kvm by another device instead makes libvirt probe QEMU anew at each call, for seconds.
    mkdir "$own/dev" "$own/dev/pts" "$own/dev/shm" "$own/dev/net"
    for name in null zero full random urandom tty net/tun loop-control; do
        if [ -e "/dev/$name" ]; then touch "$own/dev/$name"; mount --bind "/dev/$name" "$own/dev/$name"; fi
    done
    ln -s /proc/self/fd "$own/dev/fd"
    mount -t devpts -o mode=620,ptmxmode=666 devpts "$own/dev/pts"
    ln -s pts/ptmx "$own/dev/ptmx"
    mount --rbind "$own/dev" /dev
fi
for path in $hidden; do
    path=${path#-}
    if [ -d "$path" ]; then
        mount -t tmpfs -o ro,mode=0 fluidvm-lab "$path"
    elif [ -e "$path" ]; then
        mount --bind /dev/null "$path"
    fi
done
# libvirt takes what it finds mounted of version 2 for controllers as well, and then fails to start guests.
if [ -n "$group" ]; then
    mount --bind "$group" "${group%/*}"
    if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
fi
hostname "fluidvm-lab-$number"
if [ -n "$net" ]; then ip link set lo up; fi
# libvirt wants to know this account even where the guests run as another.
if ! grep -q ^libvirt-qemu: /etc/passwd; then
    echo "libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin" >> /etc/passwd
    echo "libvirt-qemu:x:64055:" >> /etc/group
fi
for part in /etc/libvirt /var/{cache,lib,log}/libvirt; do mount -t tmpfs -o mode=755 fluidvm-lab "$part"; done
cp "$dir/qemu.conf" /etc/libvirt/qemu.conf
# A bridge that libvirt only uses: for one of its own it wants iptables, and dnsmasq.
ip link add "fluidvm$number" type bridge
ip link set "fluidvm$number" up
networks=/etc/libvirt/qemu/networks
mkdir -p "$networks/autostart"
for name in lab spare; do
    echo "<network><name>$name</name><forward mode=\"bridge\"/><bridge name=\"fluidvm$number\"/></network>" > "$networks/$name.xml"
    ln -s "$networks/$name.xml" "$networks/autostart/$name.xml"
done
# The first process stays a shell, for libvirt waits for processes that only this one can reap. A daemon that ends comes
# back, as under systemd; its guests live on meanwhile.
failures=0
while [ "$failures" -lt 3 ]; do
    rm -f /run/libvirtd.pid
    began=$SECONDS
    libvirtd ${tcp:+--listen} --config "$dir/libvirtd.conf" --pid-file /run/libvirtd.pid & wait $! || true
    if [ $((SECONDS - began)) -lt 3 ]; then failures=$((failures + 1)); fi
    sleep 1
done
echo "host.sh: libvirtd does not stay up; see $dir/libvirtd.log" >&2
exit 1
' _ "$dir" "$kvm" "$net" "$tcp" "$number" "$group" "$hidden"

#!/bin/bash
# Run a private libvirt host, for tests and demos:
#
#     lab/host.sh DIR [--no-kvm] [--share-net] [--tcp PORT] [--number N]
#
# libvirtd and its guests run in their own mount, UTS, IPC, PID and network namespaces, with a copy-on-write /etc and
# /var and an empty /run. Nothing of them is visible outside DIR, and everything ends with this process (also after kill -9,
# and when the process that started it ends). If it isn't run as root, it also uses a user namespace, in which libvirtd is
# root. Then the guests have KVM if the user itself or everybody can open /dev/kvm: libvirt leaves the user's groups.
# The script stays in the foreground. Stop it with Ctrl-C, or from elsewhere with
#
#     kill -9 $(cat DIR/host.pid)
#
# Connect with qemu+unix:///system?socket=DIR/libvirt-sock, and retry until it works; the socket exists a little earlier.
# The host has two networks, lab and spare. Both are the same bridge, which only the guests' interfaces are connected to.
# DIR is the same inside. Files for guests must be in DIR, or anywhere outside /etc, /var and /run.
#
#     --no-kvm      hide /dev/kvm
#     --share-net   keep the caller's network, for hosts that migrate guests to each other, under one `unshare -n`
#     --tcp PORT    also listen on 127.0.0.1, without a password
#     --number N    1 to 99, a different one for each host that shares a network, so that their ports differ
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
    # libvirt sets the supplementary groups of its guests, which a namespace with a single user would refuse.
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
# Try the namespaces without mapping IDs first: if even those are refused, util-linux 2.38 would wait forever to map IDs.
if ! why=$(unshare ${user:+--user} --mount true 2>&1 && unshare "${user[@]}" --mount true 2>&1); then
    say "can't create namespaces ($why)"
    say "run it as root, or as a user with IDs in /etc/subuid and /etc/subgid; a container must allow namespaces"
    exit 1
fi

mkdir -p "$dir"
dir=$(cd "$dir" && pwd -P)
case "$dir/" in /etc/*|/var/*|/run/*|/dev/*|/proc/*) say "$dir isn't visible inside; use a directory in /tmp"; exit 1 ;; esac
[ ${#dir} -le 80 ] || { say "$dir is too long for the path of a socket"; exit 1; }
# Every process of the host holds this lock: it is free again when the last one has ended.
exec 9>"$dir/.lock"
flock -w 5 9 || { say "a host is already running in $dir"; exit 1; }
rm -rf "$dir"/libvirt-sock* "$dir"/libvirt-admin-sock "$dir"/private
mkdir -p "$dir/private"
echo $$ > "$dir/host.pid"

# If control groups of version 1 can be created, this host gets its own, for the CPU weights of its guests. Each process of
# the host holds a lock on it. A group without a lock was left by a host that was killed. Process IDs can't show this, since
# other hosts may run in other PID namespaces.
cpu=/sys/fs/cgroup/cpu group='' controllers=''
rm -f "$dir/group"
if [ ${#user[@]} = 0 ] && [ -e "$cpu/cpu.shares" ]; then
    for old in "$cpu"/fluidvm-host-*; do
        { { flock -n 8 && find "$old" -depth -type d -exec rmdir {} +; } 8< "$old" || true; } 2>/dev/null
    done
    while group=$(mktemp -d "$cpu/fluidvm-host-XXXXXXXXXX" 2>/dev/null); do
        # Before it is locked, another host may remove it as one that was left.
        if exec 8< "$group" && flock 8 && [ -d "$group" ]; then break; fi 2>/dev/null
    done
    if [ -n "$group" ]; then
        controllers='"cpu"'
        echo "$group" > "$dir/group"
    fi
fi

# max_core: otherwise libvirt would allow core dumps of guests, even if the caller's limit (sudo sets it to 0) can't be raised.
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
# Hosts that migrate guests to each other must have different UUIDs; by default, all use that of the machine's firmware.
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

# Hide the same files as the systemd drop-in for libvirtd does.
hidden=$(sed -n 's/^InaccessiblePaths=//p' "$(dirname "$0")/../systemd/libvirtd.service.d/files.conf" | tr '\n' ' ')

# Each process of this chain is killed when the one before it ends: the caller, this one, the namespace's first, all others.
# shellcheck disable=SC2016
exec setpriv --pdeathsig KILL unshare "${user[@]}" --mount --uts --ipc --pid $net --fork --kill-child \
    --mount-proc --propagation private /bin/bash -c '
set -euo pipefail
dir=$1 kvm=$2 net=$3 tcp=$4 number=$5 group=$6 hidden=$7 own=$1/private
trap "exit 0" INT TERM
mount -t tmpfs -o mode=700 fluidvm-lab "$own"
# In a user namespace, files of the real root are writable only if they are in an upper directory from the start.
mkdir -p "$own"/{etc,var}/{up,work} "$own/etc/up/libvirt" "$own"/var/up/{cache,lib,log}/libvirt
cp /etc/passwd /etc/group "$own/etc/up"
for part in etc var; do
    mount -t overlay fluidvm-lab -o "lowerdir=/$part,upperdir=$own/$part/up,workdir=$own/$part/work" "/$part"
done
mount -t tmpfs -o mode=755 fluidvm-lab /run
mkdir -p /run/lock
if [ -z "$kvm" ]; then
    # If /dev/kvm were only covered by another device, libvirt would probe QEMU again at each call, for seconds.
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
# libvirt also uses mounted control groups of version 2 as controllers, and then fails to start guests.
if [ -n "$group" ]; then
    mount --bind "$group" "${group%/*}"
    if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
fi
hostname "fluidvm-lab-$number"
if [ -n "$net" ]; then ip link set lo up; fi
# libvirt needs this account to exist even if the guests run as another.
if ! grep -q ^libvirt-qemu: /etc/passwd; then
    echo "libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin" >> /etc/passwd
    echo "libvirt-qemu:x:64055:" >> /etc/group
fi
for part in /etc/libvirt /var/{cache,lib,log}/libvirt; do mount -t tmpfs -o mode=755 fluidvm-lab "$part"; done
cp "$dir/qemu.conf" /etc/libvirt/qemu.conf
# libvirt only uses this bridge: to create one itself, it would need iptables and dnsmasq.
ip link add "fluidvm$number" type bridge
ip link set "fluidvm$number" up
networks=/etc/libvirt/qemu/networks
mkdir -p "$networks/autostart"
for name in lab spare; do
    echo "<network><name>$name</name><forward mode=\"bridge\"/><bridge name=\"fluidvm$number\"/></network>" > "$networks/$name.xml"
    ln -s "$networks/$name.xml" "$networks/autostart/$name.xml"
done
# The first process stays a shell, because libvirt waits for processes that only this one can reap. A daemon that ends is
# restarted, as under systemd; its guests continue to run.
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

#!/bin/bash
# Build a tiny Linux guest for tests and demos:
#
#     lab/guest.sh DIR
#
# Makes in DIR, unless they are there already:
#     vmlinuz     Debian's cloud kernel
#     vmlinux     the same, unpacked: boots faster where the CPU is emulated
#     initrd.gz   busybox: says GUEST-UP on the serial console, then runs each line it reads there as a command;
#                 obeys ACPI's power button, takes hot-plugged CPUs and disks
#     initrd-agent.gz   the same with QEMU's guest agent, and an account, root, that it can give a password
#     disk.img    a raw disk that boots the two by its own boot loader (GRUB)
#
# Nothing is installed: kernel, boot loader and agent come out of their packages with apt-get download and dpkg-deb.
set -euo pipefail

say() { echo "guest.sh: $*" >&2; }
missing=()
want() { command -v "$1" >/dev/null || [ -x "/sbin/$1" ] || missing+=("$2"); }

[ $# = 1 ] || { say "usage: guest.sh DIR"; exit 2; }
want busybox busybox-static
want cpio cpio
want lz4 lz4
want xz xz-utils
want zstd zstd
want python3 python3
want mke2fs e2fsprogs
want strip binutils
want /usr/sbin/chpasswd passwd
want apt-get apt
[ ${#missing[@]} = 0 ] || { say "missing; install: apt-get install ${missing[*]}"; exit 1; }
if ldd "$(command -v busybox)" >/dev/null 2>&1; then say "busybox isn't static; install: apt-get install busybox-static"; exit 1; fi

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
out=$(cd "$1" && pwd)
# Two builds at once would mix their files: the second waits, and finds the first one's work.
exec 9>"$out/.lock"
flock 9

# What this script would build is named by its own text; an old guest is built anew.
stamp=$(sha256sum "$0" "$here/unpack_kernel.py" | sha256sum | cut -c1-16)
if [ "$(cat "$out/.stamp" 2>/dev/null)" = "$stamp" ]; then exit 0; fi

work=$(mktemp -d "$out/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"

fetch() {  # PACKAGE...: its .deb into ./, whoever may read it (apt's own user can't, in a private directory)
    apt-get -qq -o APT::Sandbox::User=root download "$@" >&2 ||
        { say "can't download $*; run apt-get update, and check /etc/apt/sources.list"; exit 1; }
}

kernel=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | awk '/Depends:/ {print $2; exit}')
[ -n "$kernel" ] || { say "apt knows no linux-image-cloud-amd64; run apt-get update"; exit 1; }
fetch "$kernel" grub-pc-bin grub-common libdevmapper1.02.1 qemu-guest-agent

dpkg-deb -x linux-image-*.deb kernel
mv kernel/boot/vmlinuz-* vmlinuz
python3 "$here/unpack_kernel.py" vmlinuz vmlinux
strip -s vmlinux

mkdir -p root/{bin,dev,proc,sys,mod,etc/acpi/PWRF,tmp,run}
cp "$(command -v busybox)" root/bin/busybox
for applet in sh mount insmod acpid poweroff reboot cat echo sleep mknod ls nproc grep awk ip dd date free seq sync true \
    false kill pidof head setsid; do
    ln -s busybox root/bin/$applet
done
# Each after what it needs. Newer kernels have some of them built in, and the others compressed.
modules=(drivers/virtio/virtio_ring drivers/virtio/virtio drivers/virtio/virtio_pci_legacy_dev
    drivers/virtio/virtio_pci_modern_dev drivers/virtio/virtio_pci drivers/block/virtio_blk net/core/failover
    drivers/net/net_failover drivers/net/virtio_net drivers/virtio/virtio_balloon drivers/char/virtio_console
    drivers/input/evdev drivers/acpi/button)
# Debian 12 has them in /lib, Debian 13 in /usr/lib.
for tree in kernel/{,usr/}lib/modules/*; do if [ -d "$tree" ]; then break; fi; done
for module in "${modules[@]}"; do
    file=$(compgen -G "$tree/kernel/$module.ko*" || true)
    case "$file" in
        *.ko) cp "$file" root/mod/ ;;
        *.ko.xz) xz -dc "$file" > "root/mod/${module##*/}.ko" ;;
        *.ko.zst) zstd -qdc "$file" > "root/mod/${module##*/}.ko" ;;
        *) grep -qx "kernel/$module.ko" "$tree/modules.builtin" || { say "$kernel has no module $module"; exit 1; }
           continue ;;
    esac
    echo "${module##*/}.ko" >> root/mod/order
done
strip --strip-debug root/mod/*.ko

cat > root/etc/acpi/PWRF/00000080 <<'GUEST'
#!/bin/sh
echo GUEST-POWEROFF >/dev/ttyS0
poweroff -f
GUEST
cat > root/init <<'GUEST'
#!/bin/sh
export PATH=/bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
for m in $(cat /mod/order); do insmod /mod/$m; done 2>/dev/ttyS0
# A test of a guest that doesn't obey says so on the kernel's command line.
case " $(cat /proc/cmdline) " in
    *" deaf "*) ;;
    *) acpid -f -c /etc/acpi -l /dev/null -p /run/acpid.pid >/dev/null 2>&1 & ;;
esac
# A hot-plugged CPU is brought up once: doing it again would defeat its ejection.
( seen=""; while sleep 0.5; do
    now=""
    for c in /sys/devices/system/cpu/cpu[0-9]*/online; do
        [ -e $c ] || continue
        case "$seen" in *"$c "*) ;; *) read v <$c; [ "$v" = 0 ] && echo 1 >$c ;; esac
        now="$now$c "
    done
    seen=$now
done ) 2>/dev/null &
# udev's work: the agent's channel is found by its name.
for p in /sys/class/virtio-ports/*; do
    [ -x /bin/qemu-ga ] && [ "$(cat $p/name)" = org.qemu.guest_agent.0 ] || continue
    qemu-ga -m virtio-serial -p /dev/${p##*/} -t /run >/run/qemu-ga.log 2>&1 &
done
read up rest </proc/uptime
exec </dev/ttyS0 >/dev/ttyS0 2>&1
echo "GUEST-UP uptime=$up cpus=$(nproc) $(grep MemTotal /proc/meminfo) cmdline=$(cat /proc/cmdline)"
while :; do while read -r line; do eval "$line"; echo "RC=$?"; done; sleep 0.2; done
GUEST
chmod +x root/init root/etc/acpi/PWRF/00000080
(cd root && find . | sort | cpio -o -H newc --quiet --owner 0:0) | gzip -1n > initrd.gz

# The agent with its libraries. It gives chpasswd passwords, which would ask PAM how to hash them unless it is told.
cp -a root agent
dpkg-deb -x qemu-guest-agent_*.deb qga
mkdir -p agent/{usr/sbin,root}
cp qga/usr/sbin/qemu-ga agent/bin/
cp -L /usr/sbin/chpasswd agent/usr/sbin/
for program in agent/bin/qemu-ga agent/usr/sbin/chpasswd; do
    if ldd $program | grep -q 'not found'; then say "no libraries for $program: $(ldd $program | grep 'not found')"; exit 1; fi
    strip -s $program
    ldd $program | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "agent$(dirname "$library")"
        cp -L "$library" "agent$library"
    done
done
printf '#!/bin/sh\nexec /usr/sbin/chpasswd -c SHA512\n' > agent/bin/chpasswd
chmod +x agent/bin/chpasswd
echo 'root:x:0:0:root:/root:/bin/sh' > agent/etc/passwd
echo 'root:x:0:' > agent/etc/group
echo 'root:*:1::::::' > agent/etc/shadow
(cd agent && find . | sort | cpio -o -H newc --quiet --owner 0:0) | gzip -1n > initrd-agent.gz

# The disk: GRUB's first stage in the boot sector, its core right behind it, and one ext2 partition from 1 MiB on.
dpkg-deb -x grub-pc-bin_*.deb grub
dpkg-deb -x grub-common_*.deb grub
dpkg-deb -x libdevmapper1.02.1_*.deb grub
libraries=$(dirname "$(find "$PWD/grub" -name 'libdevmapper.so.*' | head -1)")
mkdir -p part/boot/grub
cp vmlinuz initrd.gz part/boot/
cat > part/boot/grub/grub.cfg <<'GRUB'
serial --unit=0 --speed=115200
terminal_output serial
echo DISK-BOOT
linux /boot/vmlinuz console=ttyS0 quiet from=disk
initrd /boot/initrd.gz
boot
GRUB
LD_LIBRARY_PATH=$libraries grub/usr/bin/grub-mkimage -d grub/usr/lib/grub/i386-pc -O i386-pc -p '(hd0,msdos1)/boot/grub' -o core.img \
    biosdisk part_msdos ext2 linux normal serial terminal echo boot
mib=$(( ($(du -sk part | cut -f1) + 4095) / 1024 + 4 ))
/sbin/mke2fs -q -t ext2 -d part part.img "${mib}M" >/dev/null
python3 - "$mib" <<'PY'
import struct, sys
from pathlib import Path

start, sectors = 2048, int(sys.argv[1]) * 2048
core = Path("core.img").read_bytes()
assert len(core) <= (start - 1) * 512, "GRUB's core doesn't fit before the partition"
head = bytearray(start * 512)
head[:440] = Path("grub/usr/lib/grub/i386-pc/boot.img").read_bytes()[:440]
# One active Linux partition; its old CHS fields say "beyond them".
head[446:462] = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", start, sectors)
head[510:512] = b"\x55\xaa"
head[512 : 512 + len(core)] = core
Path("disk.img").write_bytes(bytes(head) + Path("part.img").read_bytes())
PY

mv -f vmlinuz vmlinux initrd.gz initrd-agent.gz disk.img "$out/"
echo "$stamp" > "$out/.stamp"

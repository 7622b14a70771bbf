#!/bin/bash
# Build a machine that runs Xen, for tests:
#
#     tests/xen/image.sh DIR
#
# Makes in DIR, unless they are there already:
#     xen, vmlinuz, initrd.gz    the hypervisor, dom0's kernel, and what finds dom0's disk
#     dom0.img                   dom0's disk: Xen's tools, libvirtd with its Xen driver, sshd, and a tiny guest in /srv/guest
#     pki/                       a CA, and what a client of dom0's libvirtd needs to be let in over TLS
#     ssh/                       a key that root in dom0 takes, and dom0's own as a known_hosts line
#     password                   of the user fluidvm, whom dom0's libvirtd lets in over TCP
#
# Nothing is installed: all comes out of Debian's packages, as apt knows them here, unpacked without their scripts. It takes
# no root: only the disk is written in a user namespace, for its files to be root's.
set -euo pipefail

say() { echo "image.sh: $*" >&2; }
missing=()
want() { command -v "$1" >/dev/null || missing+=("$2"); }

[ $# = 1 ] || { say "usage: image.sh DIR"; exit 2; }
PATH=$PATH:/usr/sbin:/sbin
want apt-get apt
want cpio cpio
want lz4 lz4
want xz xz-utils
want zstd zstd
want modprobe kmod
want mke2fs e2fsprogs
want openssl openssl
want python3 python3
want ssh-keygen openssh-client
want strip binutils
want unshare util-linux
[ ${#missing[@]} = 0 ] || { say "missing; install: apt-get install ${missing[*]}"; exit 1; }

here=$(cd "$(dirname "$0")" && pwd)
unpack_kernel=$here/../../lab/unpack_kernel.py
mkdir -p "$1"
out=$(cd "$1" && pwd)
exec 9>"$out/.lock"
flock 9

# What this script would build is named by its own text; an old machine is built anew.
stamp=$(cat "$0" "$unpack_kernel" "$here"/dom0/* | sha256sum | cut -c1-16)
if [ "$(cat "$out/.stamp" 2>/dev/null)" = "$stamp" ]; then exit 0; fi
rm -f "$out/.stamp"

umask 022
work=$(mktemp -d "$out/.work.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
mkdir debs debs/partial root kernel

depends() {  # PACKAGE PATTERN: the first package matching PATTERN that PACKAGE depends on
    apt-cache depends "$1" 2>/dev/null | sed -n "s/^ *Depends: \($2\)$/\1/p" | head -1
}
linux=$(depends linux-image-amd64 'linux-image-[0-9].*')  # the cloud kernel can't be dom0
tools=$(depends xen-system-amd64 'xen-utils-[0-9].*')
version=${tools#xen-utils-}
[ -n "$linux" ] && [ -n "$tools" ] ||
    { say "apt knows no linux-image-amd64 or xen-system-amd64; run apt-get update"; exit 1; }

# As for a system that has nothing yet, so that everything needed is fetched.
: > status
apt=(apt-get -qq -y -o "Dir::State::status=$work/status" -o "Dir::Cache::archives=$work/debs"
    -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o Debug::NoLocking=1 -o APT::Sandbox::User=root
    -o APT::Install-Recommends=0 -o APT::Install-Suggests=0)
# Debian 12 has these two in libvirt-daemon.
drivers=()
for package in libvirt-daemon-driver-{network,storage}; do
    if apt-cache show "$package" >/dev/null 2>&1; then drivers+=("$package"); fi
done
say "fetching packages"
"${apt[@]}" --download-only install base-files base-passwd bash bridge-utils busybox-static coreutils dash findutils \
    gawk grep grub-xen-host hostname iproute2 kmod libc-bin libsasl2-modules libsasl2-modules-db libvirt-clients \
    libvirt-daemon libvirt-daemon-driver-xen "${drivers[@]}" login mount netcat-openbsd openssh-server passwd qemu-system-xen qemu-utils \
    sasl2-bin sed "$tools" util-linux "xen-hypervisor-$version-amd64" xenstore-utils >&2 ||
    { say "can't fetch them; run apt-get update, and check /etc/apt/sources.list"; exit 1; }
(cd debs && apt-get -qq -o APT::Sandbox::User=root download "$linux" >&2)

say "unpacking"
# Debian's merged /usr, as its installer makes it before the first package.
mkdir -p root/usr/{bin,sbin,lib,lib64}
for part in bin sbin lib lib64; do ln -s "usr/$part" "root/$part"; done
for deb in debs/*.deb; do
    case $deb in debs/linux-image-*) continue ;; esac
    dpkg-deb --fsys-tarfile "$deb" | tar -x --no-same-owner --keep-directory-symlink -C root \
        --exclude './usr/share/doc/*' --exclude './usr/share/man/*' --exclude './usr/share/locale/*' \
        --exclude './usr/share/info/*' --exclude './usr/lib/debug/*' --exclude './usr/share/qemu/edk2-*'
done
dpkg-deb -x debs/linux-image-*.deb kernel
# Debian 13 has the modules in /usr/lib.
[ -d kernel/lib ] || ln -s usr/lib kernel/lib
release=$(ls kernel/lib/modules)
depmod -b kernel "$release"

modules_of() {  # MODULE...: the files of these and of all that they need, each after what it needs
    local module
    for module in "$@"; do modprobe -d "$work/kernel" -S "$release" --show-depends "$module"; done |
        awk '$1 == "insmod" && !seen[$2]++ {print $2}'
}
initrd() {  # DIR INIT OUTPUT MODULE...
    local dir=$1 init=$2 output=$3 applet module name
    shift 3
    mkdir -p "$dir"/{bin,dev,proc,sys,mnt,mod,run,tmp}
    ln -s bin "$dir/sbin"
    cp root/bin/busybox "$dir/bin/busybox"
    for applet in sh mount insmod switch_root cat ls echo sleep mknod nproc grep awk ip dd date free seq sync true mkdir ln; do
        ln -s busybox "$dir/bin/$applet"
    done
    for module in $(modules_of "$@"); do
        # busybox's insmod wants them unpacked.
        name=$(basename "${module%.xz}")
        case $module in *.xz) xz -dc "$module" > "$dir/mod/$name" ;; *) cp "$module" "$dir/mod/" ;; esac
        echo "$name" >> "$dir/mod/order"
    done
    strip --strip-debug "$dir"/mod/*.ko
    cp "$init" "$dir/init"
    chmod 755 "$dir/init"
    (cd "$dir" && find . | sort | cpio -o -H newc --quiet --owner 0:0) | gzip -1n > "$output"
}

say "making dom0"
cp "kernel/boot/vmlinuz-$release" vmlinuz
python3 "$unpack_kernel" vmlinuz vmlinux
strip -s vmlinux
gzip -dc "root/boot/xen-$version-amd64.gz" > xen
initrd ird0 "$here/dom0/initrd-init" initrd.gz virtio_pci virtio_blk ext4
initrd irdu "$here/dom0/guest-init" guest.gz xen-blkfront xen-netfront
for module in $(modules_of virtio_net virtio_rng xenfs xen-evtchn xen-gntdev xen-gntalloc xen-privcmd xen-blkback \
    xen-netback loop bridge tun ext4); do
    install -D -m 644 "$module" "root/${module#"$work/kernel/"}"
done
cp kernel/lib/modules/"$release"/modules.{order,builtin,builtin.modinfo} "root/lib/modules/$release/"
depmod -b root "$release"

cp root/usr/share/base-passwd/passwd.master root/etc/passwd
cp root/usr/share/base-passwd/group.master root/etc/group
echo 'sshd:x:101:65534::/run/sshd:/usr/sbin/nologin' >> root/etc/passwd
sed 's/:.*/:*:19000:0:99999:7:::/' root/etc/passwd > root/etc/shadow
# What the packages' scripts would make.
rm -rf root/var/run root/var/lock
ln -s /run root/var/run
ln -s /run/lock root/var/lock
ln -s nc.openbsd root/usr/bin/nc
ln -s gawk root/usr/bin/awk
rm -f root/sbin/init
install -m 755 "$here/dom0/init" root/sbin/init
install -D -m 644 "$here/dom0/libvirtd.conf" root/etc/libvirt/libvirtd.conf
install -D -m 644 "$here/dom0/sasl.conf" root/etc/sasl2/libvirt.conf
# Newer ones want iptables or nft otherwise, which a bridge that libvirt only uses doesn't need.
echo 'firewall_backend = "none"' > root/etc/libvirt/network.conf
echo "XEN=/usr/lib/xen-$version" > root/etc/fluidvm-xen
echo xendom0 > root/etc/hostname
echo '127.0.0.1 localhost xendom0 xendom1' > root/etc/hosts
mkdir -p root/{proc,sys,dev,run,tmp,root,srv/guest,etc/ssh} root/var/{log/xen,log/libvirt/libxl,lib/xen,lib/libvirt/images}
printf 'UseDNS no\nUsePAM no\nPermitRootLogin prohibit-password\nMaxStartups 100\n' > root/etc/ssh/sshd_config
# Without these two drivers libvirtd neither looks for QEMU's abilities, which emulated takes long, nor needs ebtables.
rm -f root/usr/lib/*/libvirt/connection-driver/libvirt_driver_{qemu,nwfilter,lxc,vbox}.so
# Under emulation Xen shows a CPU without SEP; libvirtd would find no model for it ("Cannot find suitable CPU model").
sed -i "/name='sep'/d" root/usr/share/libvirt/cpu_map/x86_{qemu64,Opteron_G?}.xml
rm -rf root/boot/*

say "making keys"
mkdir -p ssh pki root/etc/pki/{CA,libvirt/private} root/root/.ssh
chmod 700 ssh pki root/root/.ssh
ssh-keygen -q -t ed25519 -N '' -C test -f ssh/id
ssh-keygen -q -t ed25519 -N '' -C dom0 -f root/etc/ssh/ssh_host_ed25519_key
echo "xendom0 $(cut -d' ' -f1,2 root/etc/ssh/ssh_host_ed25519_key.pub)" > ssh/known_hosts
cp ssh/id.pub root/root/.ssh/authorized_keys
certificate() {  # NAME SUBJECT EXTENSIONS: pki/NAMEkey.pem and pki/NAMEcert.pem, signed by the CA
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout "pki/$1key.pem" -out request.pem \
        -subj "/CN=$2" 2>/dev/null
    openssl x509 -req -in request.pem -CA pki/cacert.pem -CAkey cakey.pem -CAcreateserial -days 3650 -out "pki/$1cert.pem" \
        -extfile <(printf '%s\n' "$3") 2>/dev/null
}
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3650 -keyout cakey.pem -out pki/cacert.pem \
    -subj '/CN=Xen test CA' -addext keyUsage=critical,keyCertSign 2>/dev/null
certificate server xendom0 $'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth'
certificate client fluidvm 'extendedKeyUsage=clientAuth'
cp pki/cacert.pem root/etc/pki/CA/cacert.pem
mv pki/servercert.pem root/etc/pki/libvirt/
mv pki/serverkey.pem root/etc/pki/libvirt/private/
(umask 077 && openssl rand -hex 16 > password)
cp password root/etc/libvirt/password
chmod 600 root/etc/libvirt/password

say "making the guest"
cp vmlinux guest.gz root/srv/guest/
mv root/srv/guest/guest.gz root/srv/guest/initrd.gz
cp vmlinuz root/srv/guest/vmlinuz
mkdir -p part/boot/grub
cp vmlinuz guest.gz part/boot/
cat > part/boot/grub/grub.cfg <<'GRUB'
set default=0
set timeout=0
menuentry 'guest' {
    linux /boot/vmlinuz console=hvc0 quiet from=disk
    initrd /boot/guest.gz
}
GRUB
mke2fs -q -t ext2 -d part root/srv/guest/disk.img "$(( $(du -sm part | cut -f1) + 4 ))M" >/dev/null

say "making dom0's disk"
# shellcheck disable=SC2016
as_root='chown -hR 0:0 root && mke2fs -q -t ext4 -O ^has_journal -E root_owner=0:0 -m 0 -L dom0 -d root dom0.img 1400M >/dev/null'
if [ "$(id -u)" = 0 ]; then bash -c "$as_root"; else unshare --user --map-root-user bash -c "$as_root"; fi
rm -rf "$out"/{ssh,pki}
mv -f xen vmlinuz initrd.gz dom0.img password ssh pki "$out/"
echo "$stamp" > "$out/.stamp"

#!/bin/sh
# Make the smallest root file system that boots: busybox, and an init that says when it is up.
#
#     ./template.sh DIRECTORY
set -eu
mkdir -p "$1/bin" "$1/sbin" "$1/etc/init.d"
cp "$(command -v busybox)" "$1/bin/busybox"
for name in sh sleep touch cat hostname; do ln -sf busybox "$1/bin/$name"; done
ln -sf ../bin/busybox "$1/sbin/init"
printf '::sysinit:/etc/init.d/rcS\n::respawn:/bin/sleep 86400\n' > "$1/etc/inittab"
printf '#!/bin/sh\n/bin/touch /run/up\n' > "$1/etc/init.d/rcS"
chmod 755 "$1/etc/init.d/rcS"

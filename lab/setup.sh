#!/bin/bash
# Install the missing dependencies of the Makefile's commands on Debian 12 or later:
#
#     lab/setup.sh demo|check|test|full STATE
#
# Installs Debian packages (as root, or with sudo), and creates a Python environment in STATE/venv.
set -euo pipefail
cd "$(dirname "$0")/.."
purpose=$1 state=$2
python=${PYTHON:-python3}

say() { echo "== $*"; }

root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
known() { apt-cache show "$1" >/dev/null 2>&1; }

if ! known linux-image-cloud-amd64; then
    say "reading apt's package lists"
    root apt-get update -qq
fi

# To compile libvirt-python. The tests that start no process need nothing else.
packages=(gcc pkg-config libvirt-dev python3-dev python3-venv)
if [ "$purpose" != check ]; then
    # For the private libvirt host, and the guest.
    packages+=(libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 qemu-utils iproute2 util-linux
        busybox-static cpio lz4 xz-utils zstd e2fsprogs binutils)
    # On Debian 12, libvirt-daemon contains these two.
    for package in libvirt-daemon-driver-{network,storage}; do if known "$package"; then packages+=("$package"); fi; done
    [ "$(id -u)" = 0 ] || packages+=(uidmap)  # for the host's user namespace
fi
case $purpose in
    test|full)
        # For systemd units, the machine with Xen, and the tests' own PostgreSQL.
        packages+=(openssl git systemd kmod libsasl2-modules openssh-client openssh-server postgresql) ;;
esac
[ "$purpose" != full ] || packages+=(debootstrap)  # to install other releases of Debian

missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
# Debian creates and starts a database cluster when PostgreSQL is installed. Prevent that: only the programs are needed.
no_cluster=/etc/postgresql-common/createcluster.d/fluidvm.conf
if [ ${#missing[@]} -gt 0 ]; then
    say "installing with apt-get: ${missing[*]}"
    root apt-get update -qq
    if [[ " ${missing[*]} " = *" postgresql "* ]]; then
        trap 'root rm -f "$no_cluster"' EXIT
        root mkdir -p "${no_cluster%/*}"
        echo "create_main_cluster = false" | root tee "$no_cluster" >/dev/null
    fi
    root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "setup.sh: $python is older than 3.11; name another one: make $purpose PYTHON=..." >&2; exit 1; }

mkdir -p "$state"
if ! "$state/venv/bin/python" -c '' 2>/dev/null; then
    say "creating a Python environment in $state/venv"
    "$python" -m venv --clear "$state/venv"
fi
if [ "$purpose" = demo ]; then wanted=(-e '.[libvirt]') mark=pyproject.toml; else wanted=(tox) mark=tox.ini; fi
stamp="$state/venv/.$purpose-$(sha256sum "$mark" setup.py | sha256sum | cut -c1-16)"
if [ ! -e "$stamp" ]; then
    say "installing with pip: ${wanted[*]}"
    "$state/venv/bin/pip" install -q --disable-pip-version-check "${wanted[@]}"
    touch "$stamp"
fi

#!/bin/bash
# The part of fresh_debian.sh that runs in namespaces of its own:
#
#     inside.sh RELEASE RUN CACHE COMMAND...
#
# RUN has the clone, and an empty directory, root, for the system. All that this mounts is gone with its namespace.
set -euo pipefail
release=$1 run=$2 cache=$3
shift 3
root=$run/root
prepared=make,git,python3,sudo,ca-certificates
user=fluidvm

say() { echo "== $*"; }

# Where this machine's apt gets Debian from: lines of address and suite.
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
# shellcheck disable=SC2016
repositories=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Origin: Debian' |
    sort -u | sed -n "s/ $codename\(-[a-z]*\)\?\$/ $release\1/p")
[ -n "$repositories" ] || repositories="http://deb.debian.org/debian $release"
mirror=$(awk -v suite="$release" '$2 == suite {print $1; exit}' <<< "$repositories")

make_system() {
    local system=$cache/system.tar
    if [ -n "$(find "$system" -mtime -7 2>/dev/null)" ] && [ "$(cat "$system.from")" = "$mirror $prepared" ]; then
        say "unpacking the system that debootstrap made on $(date -r "$system" +%F)"
        tar -C "$root" -xf "$system"
        return
    fi
    say "making a system: debootstrap $release, from $mirror"
    debootstrap --variant=minbase --include="$prepared" --cache-dir="$cache/archives" "$release" "$root" "$mirror" \
        > "$run/debootstrap.log" || { tail -20 "$run/debootstrap.log" >&2; exit 1; }
    tar -C "$root" --one-file-system -cf "$run/system.tar" .
    mv "$run/system.tar" "$system"
    echo "$mirror $prepared" > "$system.from"
}

# What this machine's packages come through: mirrors, proxies, name servers, certificates, pip's settings.
reach_as_here() {
    local file home path parent
    sed 's/^/deb /; s/$/ main/' <<< "$repositories" > "$root/etc/apt/sources.list"
    apt-config dump | grep -iE '^Acquire::(https?|retries)\b' > "$root/etc/apt/apt.conf.d/50as-here" || true
    cp --dereference /etc/resolv.conf "$root/etc/resolv.conf"
    cp -r /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/" 2>/dev/null || true
    chroot "$root" update-ca-certificates > /dev/null
    for file in /etc/pip.conf /etc/xdg/pip; do
        if [ -e "$file" ]; then mkdir -p "$root${file%/*}"; cp -r "$file" "$root$file"; fi
    done
    for file in .config/pip .pip; do
        for home in /root "/home/$user"; do
            if [ -e ~/"$file" ]; then mkdir -p "$root$home/${file%/*}"; cp -r ~/"$file" "$root$home/${file%/*}/"; fi
        done
    done
    # Directories on this machine that pip is told to look into; an index has its files beside it.
    for path in $({ env | grep '^PIP_'; cat /etc/pip.conf /etc/xdg/pip/* ~/.config/pip/* ~/.pip/*; } 2>/dev/null |
        grep -oE '(^|[ =]|file://)/[^ ,]+' | sed -E 's,^([ =]|file://),,'); do
        parent=$(dirname "$path")
        [ "$parent" != / ] || parent=$path
        if [ ! -d "$path" ] || [ -e "$root$path" ]; then continue; fi
        if [ -n "$(ls -A "$root$parent" 2>/dev/null)" ]; then parent=$path; fi
        mkdir -p "$root$parent"
        mount --bind -o ro "$parent" "$root$parent"
    done
}

enter() {
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount --rbind /dev "$root/dev"
    mount -t devpts -o mode=620,gid=5,ptmxmode=666 devpts "$root/dev/pts"
    mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mkdir -p "$root/run/lock"
    # Not in /var: lab/host.sh's user namespaces can't lay a copy over it with something mounted in it.
    mkdir "$root/.archives"
    mount --bind "$cache/archives" "$root/.archives"
    # The system lives for minutes: it may be lost with the machine.
    echo force-unsafe-io > "$root/etc/dpkg/dpkg.cfg.d/50unsafe-io"
    echo 'Dir::Cache::archives "/.archives";' > "$root/etc/apt/apt.conf.d/50archives"
    cd "$root"
    mkdir .old
    # Not chroot: in one, no user namespaces can be made.
    pivot_root . .old
    cd /
    umount --lazy .old
    rmdir .old
}

settings=()
while IFS= read -r line; do settings+=("$line"); done < <(env | grep -iE '^(PIP_|(https?|all|no)_proxy=)' | grep -v '^PIP_CACHE_DIR=')

mount --bind "$root" "$root"
make_system
hostname fresh-debian
echo '127.0.0.1 localhost fresh-debian' > "$root/etc/hosts"
echo fresh-debian > "$root/etc/hostname"
chroot "$root" useradd --create-home --shell /bin/bash "$user"
echo "$user ALL=(ALL) NOPASSWD: ALL" > "$root/etc/sudoers.d/$user"
reach_as_here
clone=/home/$user/fluidvm
mv "$run/clone" "$root$clone"
mkdir -p "$root$clone/.state/cache/pip"
mount --bind "$cache/pip" "$root$clone/.state/cache/pip"
chroot "$root" chown -R "$user:$user" "/home/$user"
enter

for command in "$@"; do
    began=$SECONDS status=0
    say "as $user on Debian $(cat /etc/debian_version): $command"
    runuser -u "$user" -- env -i HOME="/home/$user" USER="$user" LOGNAME="$user" LANG=C.UTF-8 \
        PATH=/usr/local/bin:/usr/bin:/bin "${settings[@]}" bash -c "cd '$clone' && { $command; }" || status=$?
    say "$command: status $status, $((SECONDS - began)) s"
    [ "$status" = 0 ] || exit "$status"
done

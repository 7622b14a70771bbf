"""Containers made and destroyed, by the stand-in for vzctl."""

from __future__ import annotations

import os
import shutil

from .host import Conf, Fail, Host, unknown

FAILED = "Creation of container private area failed"
ARCHIVES = (".tar", ".tar.gz", ".tar.bz2", ".tar.xz")
HALT = """\
#!/bin/sh
if [ -e "$CT_RUN/booting" ]; then
    echo "Failed to talk to init daemon." >&2
    exit 1
fi
[ ! -e "$CT_RUN/deaf" ] || exit 0
if [ -e "$CT_RUN/fast" ]; then
    : >"$CT_RUN/dying"
else
    rm -f "$CT_RUN/running"
fi
"""
PASSWD = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
CHPASSWD = '#!/bin/sh\nwhile read -r line; do printf "%s\\n" "$line" >>"$CT_FS/etc/passwords"; done\n'
HOSTNAME = "#!/bin/sh\necho tpl\n"


def create(host: Host, ctid: str, options: dict[str, str]) -> None:
    """C{vzctl create}."""
    if host.dialect == 7 and (os.path.lexists(host.private(ctid)) or host.has_conf(ctid)):
        raise Fail(44, f"Container {ctid} already exists")
    sample = options.get("--config", "vswap-256m")
    sample_file = host.path("etc/vz/conf", f"ve-{sample}.conf-sample")
    if not os.path.exists(sample_file):
        what = f"Sample config {host.shown(sample_file)} not found: No such file or directory"
        raise Fail(82, what, FAILED)
    if host.dialect == 7:
        make(host, ctid, options, sample)
        return
    known = host.has_conf(ctid)
    if known and "--config" in options:
        path = host.shown(host.conf_path(ctid))
        raise Fail(82, f"Error: container config file {path} already exists, can not use --config option", FAILED)
    if known:
        host.say(
            "Warning: CT config file already exists, not applying a default config sample.",
            "It might lead to incomplete CT configuration, you can use --applyconfig to fix.",
        )
    else:
        # As the sample has it: who made it is written at the end.
        host.write(host.read("etc/vz/conf", f"ve-{sample}.conf-sample"), "etc/vz/conf", f"{ctid}.conf")
    try:
        make(host, ctid, options, sample)
    except Fail:
        if not known:
            host.remove("etc/vz/conf", f"{ctid}.conf")  # and the link of its name stays
        raise


def make(host: Host, ctid: str, options: dict[str, str], sample: str) -> None:
    """
    Make a container.

    Dialect 4 links the name first, unpacks into a directory beside the private area, which is empty so long, and writes the
    configuration last.
    """
    private = host.private(ctid)
    if os.path.isdir(private) and os.listdir(private):
        raise Fail(44, f"Private area already exists in {host.shown(private)}", FAILED)
    layout = options.get("--layout", host.settings.get("LAYOUT", "ploop" if host.dialect == 7 else "simfs")).partition(":")[
        0
    ]
    if layout == "ploop" and not host.on("PLOOP"):
        raise Fail(99, "No ploop support in the kernel, or kernel is way too old.", FAILED)
    if layout == "simfs" and host.dialect == 7:
        raise Fail(212, "Layout simfs is not supported")
    name = options.get("--name", "")
    if name:
        taken = host.named(name)
        if taken and taken != ctid:
            raise Fail(137 if host.dialect == 7 else 131, f"Conflict: name {name} already used by container {taken}", FAILED)
        if host.dialect == 4 and taken != ctid:
            link_name(host, ctid, name)
        host.say(f"Name {name} assigned")
    template = options.get("--ostemplate", "busybox-1-x86_64")
    found = [host.path("vz/template/cache", template + end) for end in ARCHIVES]
    found = [path for path in found if os.path.exists(path)]
    if not found:
        if host.dialect == 7:
            raise Fail(91, f"Can't find OS template {template}", "Creation of Container private area failed")
        where = host.shown(host.path("vz/template/cache", template))
        host.err(f"vztmpl-dl ERROR: template {template} not found!")
        raise Fail(91, f"Cached OS template {where}.tar[.gz|.bz2|.xz] not found", FAILED)
    os.makedirs(private, exist_ok=True)
    host.say(f"Creating container private area ({template})")
    if host.dialect == 7:
        host.meet_fault("create-halfway")
        unpack(host, ctid, found[0])
    else:
        fill(host, ctid, found[0])
    if host.on("WARN_DIST"):
        default = host.shown(host.path("etc/vz/dists/default"))
        host.err(f"Warning: configuration file for distribution {template} not found, using defaults from {default}")
    host.mark(ctid, "mounted")
    host.say("Performing postcreate actions")
    host.meet_fault("create-late")
    host.unmark(ctid, "mounted")
    conf = host.conf(ctid) if host.dialect == 4 else Conf(host.read("etc/vz/conf", f"ve-{sample}.conf-sample"))
    for option, key in (
        ("--ipadd", "IP_ADDRESS"),
        ("--diskspace", "DISKSPACE"),
        ("--diskinodes", "DISKINODES"),
        ("--hostname", "HOSTNAME"),
        ("--description", "DESCRIPTION"),
    ):
        if option in options:
            conf.set(key, options[option])
    conf.set("VE_ROOT", host.shown(host.path("vz/root")) + "/$VEID")
    conf.set("VE_PRIVATE", host.shown(host.path("vz/private")) + "/$VEID")
    conf.set("VE_LAYOUT", layout)
    conf.set("OSTEMPLATE", template)
    conf.set("ORIGIN_SAMPLE", sample)
    if name:
        conf.set("NAME", name)
        if host.dialect == 7:
            link_name(host, ctid, name)
    host.save(ctid, conf)
    host.say(f"CT configuration saved to {host.shown(host.conf_path(ctid))}", "Container private area was created")


def fill(host: Host, ctid: str, archive: str) -> None:
    """Unpack beside the private area, and put that in its place. What an earlier attempt left there goes."""
    private, beside = host.private(ctid), host.private(f"{ctid}.tmp")
    try:
        if os.path.exists(beside):
            host.err(f"Warning: Temp dir {host.shown(beside)} already exists, deleting")
            shutil.rmtree(beside)
        os.mkdir(beside)
        host.meet_fault("create-halfway")
        unpack(host, f"{ctid}.tmp", archive)
        os.rmdir(private)
        os.rename(beside, private)
    except Fail:
        shutil.rmtree(beside, ignore_errors=True)
        os.rmdir(private)
        raise


def unpack(host: Host, ctid: str, archive: str) -> None:
    """The guest's files: commands that it has, one shell script each; what the archive names beside C{halt}."""
    tools = {"halt": HALT, "hostname": HOSTNAME}
    with open(archive) as file:
        if "chpasswd" in file.read():
            tools["chpasswd"] = CHPASSWD
    for name, text in tools.items():
        path = host.path("vz/private", ctid, "fs/bin", name)
        host.write(text, "vz/private", ctid, "fs/bin", name)
        os.chmod(path, 0o755)
    host.write(PASSWD, "vz/private", ctid, "fs/etc/passwd")
    os.makedirs(host.path("vz/private", ctid, "fs/root"), exist_ok=True)


def link_name(host: Host, ctid: str, name: str) -> None:
    """Make the link by which a container is found by its name."""
    os.makedirs(host.path("etc/vz/names"), exist_ok=True)
    if "/" in name:
        raise unknown(name)
    host.remove("etc/vz/names", name)
    os.symlink(host.conf_path(ctid), host.path("etc/vz/names", name))


def destroy(host: Host, ctid: str) -> None:
    """C{vzctl destroy}: what it says goes to standard output."""
    if host.running(ctid):
        raise Fail(32, "Container is currently running. Stop it first.", out=True)
    if host.mounted(ctid):
        if host.dialect == 4:
            raise Fail(41, "Container is currently mounted (umount first)", out=True)
        host.unmark(ctid, "mounted")
        host.say("Container is unmounted")
    private = host.private(ctid)
    host.say(f"Destroying container private area: {host.shown(private)}")
    host.meet_fault("destroy-halfway")
    if host.on("VZQUOTA"):
        host.err(*["File /usr/sbin/vzquota not found"] * 2)
    text = host.conf(ctid).text()
    for name in host.names_of(ctid):
        host.remove("etc/vz/names", name)
    host.remove("vz/dump", f"Dump.{ctid}")
    host.remove("etc/vz/conf", f"{ctid}.conf")
    host.write(text, "etc/vz/conf", f"{ctid}.conf.destroyed")
    if os.path.isdir(private):
        os.makedirs(host.path("vz/vztmp"), exist_ok=True)
        doomed = host.path("vz/vztmp", f"vzctl-rm-me.{ctid}.{host.pid}")
        os.rename(private, doomed)
        remove_later(host, doomed)
    host.say("Container private area was destroyed")


def remove_later(host: Host, path: str) -> None:
    """By a process of its own, as vzctl does; it may live on with vzctl's output in its hands."""
    if os.fork():
        return
    os.setsid()
    if host.on("LINGER"):
        os.execvp("sh", ["sh", "-c", 'rm -rf "$0"; echo $$ >"$1"; exec sleep 600', path, host.path("lingers")])
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.execvp("rm", ["rm", "-rf", path])

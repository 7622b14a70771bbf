"""The stand-in for vzmigrate: moves a container's files to another node, which is another directory."""

from __future__ import annotations

import os
import shutil

from .host import Fail, Host, run, unknown

FLAGS = ("--live", "--online", "--check-only", "--dry-run", "--keep-dst", "-v", "-c", "-s", "-f")
VALUES = ("-r", "--ssh", "--rsync", "--new-name")
CODES = {
    4: {"usage": 1, "connect": 4, "exists": 9, "missing": 10, "locked": 20, "stopped": 2, "address": 12},
    7: {"usage": 1, "connect": 4, "exists": 9, "missing": 10, "locked": 3, "stopped": 5, "address": 12},
}


def main(host: Host, argv: list[str]) -> int:
    """Run C{vzmigrate}."""
    codes = CODES[host.dialect]
    flags, values, words = set(), {}, []
    rest = iter(argv)
    for word in rest:
        name, equals, value = word.partition("=")
        if word in FLAGS:
            flags.add(word)
        elif name in VALUES:
            values[name] = value if equals else next(rest, "")
        elif word.startswith("-"):
            raise unknown(word)
        else:
            words.append(word)
    if len(words) != 2:
        raise Fail(codes["usage"], "Usage: vzmigrate [options] <destination> <CTID>")
    destination, ctid = words[0].rpartition("@")[2], words[1]
    host.meet_fault("vzmigrate")
    lock(host, ctid, codes["locked"])
    if not host.is_there(ctid):
        raise Fail(codes["missing"], f"CT {ctid} doesn't exist")
    live = bool(flags & {"--live", "--online"})
    running = host.running(ctid)
    root = dict(line.split("=", 1) for line in host.read("nodes").splitlines()).get(destination, "")
    if not root:
        raise Fail(codes["connect"], f"Can't connect to destination address {destination} using public key")
    other = Host(root, host.pid)
    if os.path.lexists(other.private(ctid)) or other.has_conf(ctid):
        raise Fail(codes["exists"], f"CT {ctid} already exists on destination node")
    if live and not running and host.dialect == 4:
        raise Fail(codes["stopped"], "CT is not running, can't do live migration")
    if flags & {"--check-only", "--dry-run"}:
        host.say(f"Checking migration of CT {ctid} to {destination}")
        return 104 if host.dialect == 7 else 0
    host.say(f"Starting {'live ' if live else ''}migration of CT {ctid} to {destination}")
    prepare(host, other, ctid)
    try:
        host.meet_fault("vzmigrate-halfway")
    except Fail:
        forget(other, ctid)
        raise
    move(host, other, ctid, running, live)
    host.say("Cleaning up")
    return 0


def lock(host: Host, ctid: str, locked: int) -> None:
    """
    Take the container's lock.

    Dialect 4's vzmigrate is a script of its own: unlike vzctl it doesn't look whether who has the lock is still alive.
    """
    path = host.path("vz/lock", f"{ctid}.lck")
    if host.dialect == 4 and os.path.exists(path):
        pid = host.read("vz/lock", f"{ctid}.lck").strip()
        what = f"/usr/sbin/vzmigrate: line 202: {host.shown(path)}: cannot overwrite existing file"
        raise Fail(locked, what, f"Error: CT {ctid} already locked by PID {pid}")
    try:
        host.lock(ctid, "migrating" if host.dialect == 7 else "")
    except Fail as fail:
        raise Fail(locked, *fail.lines) from None


def prepare(host: Host, other: Host, ctid: str) -> None:
    """Make the container's configuration and an empty private area: from here on it is told on both nodes."""
    os.makedirs(other.private(ctid))
    conf = host.conf(ctid)
    conf.set("VE_ROOT", other.shown(other.path("vz/root")) + "/$VEID")
    conf.set("VE_PRIVATE", other.shown(other.path("vz/private")) + "/$VEID")
    other.save(ctid, conf)
    if conf.get("NAME"):
        os.makedirs(other.path("etc/vz/names"), exist_ok=True)
        os.symlink(other.conf_path(ctid), other.path("etc/vz/names", conf.get("NAME")))


def forget(other: Host, ctid: str) -> None:
    """Undo that."""
    for name in other.names_of(ctid):
        other.remove("etc/vz/names", name)
    other.remove("etc/vz/conf", f"{ctid}.conf")
    shutil.rmtree(other.private(ctid))


def move(host: Host, other: Host, ctid: str, running: bool, live: bool) -> None:
    def here(directory: str, names: list[str]) -> list[str]:
        return ["ve.conf"] if directory == host.private(ctid) else []

    shutil.copytree(host.private(ctid), other.private(ctid), symlinks=True, ignore=here, dirs_exist_ok=True)
    for name in host.names_of(ctid):
        host.remove("etc/vz/names", name)
    if host.suspended(ctid):
        other.write(host.read("vz/dump", f"Dump.{ctid}"), "vz/dump", f"Dump.{ctid}")
        host.remove("vz/dump", f"Dump.{ctid}")
    if running:
        other.mark(ctid, "mounted")
        other.mark(ctid, "addresses", host.read("run", ctid, "addresses"))
        other.mark(ctid, "running", host.read("run", ctid, "running"))
    host.unmark(ctid, "running", "mounted", "addresses", "frozen")
    host.remove("etc/vz/conf", f"{ctid}.conf")
    shutil.rmtree(host.private(ctid))


def command(root: str, pid: int, argv: list[str]) -> int:
    """Run it on the node in a directory, as the process C{pid}."""
    return run(Host(root, pid), ["vzmigrate", *argv], main)

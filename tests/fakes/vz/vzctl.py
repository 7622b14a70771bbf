"""The stand-in for vzctl: command lines, and containers' life."""

from __future__ import annotations

import os
import time
from typing import Any

from . import checkpoint, create, guest, kernel, parameters, snapshots
from .host import Fail, Host, is_uuid, run, unknown

UNLOCKED = ("status", "exec", "exec2", "exec3", "enter", "console")
SYNONYMS = {"delete": "destroy", "chkpnt": "suspend", "restore": "resume", "umount": "umount", "unmount": "umount"}
POWER_OPTIONS = {
    "start": ("--wait", "--force", "--skip-fsck", "--skip-remount"),
    "stop": ("--fast", "--skip-umount"),
    "restart": ("--wait", "--force", "--fast", "--skip-fsck", "--skip-remount"),
}
ALL_POWER = {option for options in POWER_OPTIONS.values() for option in options}
HIGHEST = 2147483644


def main(host: Host, argv: list[str]) -> int:
    """Run C{vzctl}."""
    skiplock = False
    while argv and argv[0].startswith("-"):
        flag = argv.pop(0)
        if flag == "--version":
            host.say(f"vzctl version {host.settings['VERSION']}")
            return 0
        if flag == "--quiet":
            host.quiet = True
        elif flag == "--skiplock":
            skiplock = True
        else:
            raise unknown(flag)
    if not argv:
        host.say(*host.read("usage").splitlines())
        return 20
    word = argv.pop(0)
    verb = SYNONYMS.get(word, word)
    if verb not in VERBS or (verb == "reinstall" and host.dialect == 4) or (verb == "pause" and host.dialect == 4):
        raise Fail(20, f"Bad command: {word}")
    if not argv:
        raise Fail(21, "CT ID missing")
    ctid = find(host, argv.pop(0), creating=verb == "create")
    if ctid == "0" and verb != "set":
        raise Fail(21, "Only set actions are allowed for CT0")
    if verb in POWER_OPTIONS:
        check_power(verb, argv, host)
    parsed = parameters.parse(host, verb, argv) if verb in ("set", "create") else argv
    if host.on("NOTICE") and verb != "status":
        host.say("Directory /proc/vz not found, assuming non-OpenVZ kernel")
    if host.on("NO_KERNEL") and verb != "set":
        raise Fail(5, "Unable to open /dev/vzctl: No such file or directory")
    host.meet_fault(verb)
    if verb not in ("create", "set", "status") and not host.has_conf(ctid):
        raise Fail(14, "Container config file does not exist")
    if not skiplock and verb not in UNLOCKED and not (verb == "snapshot-list" and host.dialect == 7):
        host.lock(ctid, {"create": "creating", "destroy": "destroying"}.get(verb, "") if host.dialect == 7 else "")
    return VERBS[verb](host, ctid, parsed) or 0


def find(host: Host, word: str, *, creating: bool) -> str:
    """The container that a word names. @raise Fail: none can be."""
    if word.isdigit():
        if int(word) > HIGHEST:
            raise Fail(21, f"Bad CT ID {word}")
        return word
    if host.dialect == 7 and is_uuid(word):
        return word
    ctid = "" if creating else host.named(word)
    if not ctid:
        raise Fail(21, f"Bad CT ID {word}")
    if host.conf(ctid).get("NAME") not in ("", word):
        raise Fail(21, f"Unable to find container by name {word}")
    return ctid


def check_power(verb: str, argv: list[str], host: Host) -> None:
    for word in argv:
        if word.startswith("--") and word not in ALL_POWER:
            raise Fail(20, f"vzctl: unrecognized option '{word}'")
        if word.startswith("--") and word not in POWER_OPTIONS[verb]:
            raise Fail(20, f"Option {word} is not applicable to {verb} command")
        if not word.startswith("--"):
            raise Fail(20, f"Invalid extra arguments: {word}")
    if verb == "restart" and host.dialect == 7 and "--fast" in argv:
        raise Fail(20, "Option --fast is not applicable to restart command")


def nothing_more(argv: list[str]) -> None:
    if argv:
        raise Fail(20, f"Invalid extra arguments: {' '.join(argv)}")


def status(host: Host, ctid: str, argv: list[str]) -> None:
    nothing_more(argv)
    there = "exist" if host.is_there(ctid) else "deleted"
    mounted = "mounted" if host.mounted(ctid) else "unmounted"
    suspended = there == "exist" and host.suspended(ctid)
    if host.dialect == 7:
        state = "running" if host.running(ctid) else "suspended" if suspended else "down"
        host.say(f"VEID {ctid} {there} {mounted} {'paused' if host.frozen(ctid) else state}")
        return
    if there == "deleted" and not host.has_conf(ctid) and host.on("STAT_LINE"):
        host.err(f"stat({host.shown(host.path('vz/root', ctid))}): No such file or directory")
    # A frozen container is a running one here.
    state = "running" if host.running(ctid) else "down"
    host.say(f"CTID {ctid} {there} {mounted} {state}{' suspended' if suspended else ''}")


def warn_distribution(host: Host, template: str) -> None:
    if host.on("WARN_DIST"):
        default = host.shown(host.path("etc/vz/dists/default"))
        host.err(f"Warning: configuration file for distribution {template} not found, using defaults from {default}")


def start(host: Host, ctid: str, argv: list[str]) -> None:
    conf = host.conf(ctid)
    if host.running(ctid):
        if host.dialect == 7 and host.frozen(ctid):
            host.unmark(ctid, "frozen")
            return
        raise Fail(32, "Container is already running")
    if conf.get("DISABLED") == "yes" and "--force" not in argv:
        raise Fail(105, "Container start disabled")
    if not os.path.isdir(host.private(ctid)):
        raise Fail(43, f"Container private area {host.shown(host.private(ctid))} does not exist")
    if host.suspended(ctid):
        checkpoint.resume(host, ctid, [])
        return
    host.say("Starting Container ..." if host.dialect == 7 else "Starting container...")
    warn_distribution(host, conf.get("OSTEMPLATE"))
    if host.mounted(ctid):
        host.unmark(ctid, "mounted")
        host.say("Container is unmounted")
    host.mark(ctid, "mounted")
    host.say("Container is mounted")
    addresses = conf.get("IP_ADDRESS").split()
    if addresses:
        if "IP_IN_USE" in host.settings and host.settings["IP_IN_USE"] in addresses:
            host.unmark(ctid, "mounted")
            raise Fail(
                78, f"Unable to add IP {host.settings['IP_IN_USE']}: Address already in use", "Container is unmounted"
            )
        host.say(f"Adding IP address(es): {' '.join(addresses)}")
        if host.on("UPSTREAM"):
            host.err(*["vps-net_add WARNING: Device list is empty"] * 2)
    if host.on("UPSTREAM") and (conf.has("IOLIMIT") or conf.has("IOPSLIMIT")):
        host.unmark(ctid, "mounted")
        raise Fail(*kernel.NO_RATES, "Container is unmounted")
    run_guest(host, ctid, addresses)
    host.say("Container start in progress...")


def run_guest(host: Host, ctid: str, addresses: list[str]) -> None:
    host.mark(ctid, "addresses", " ".join(addresses))
    host.unmark(ctid, "frozen", "dying")
    if host.on("FAST"):
        host.mark(ctid, "fast")
    if host.on("FREEZER"):
        host.write("THAWED\n", "freezer", f"vz-{ctid}", "freezer.state")
    kernel.bound_memory(host, ctid, host.conf(ctid).get("PHYSPAGES"))
    host.mark(ctid, "running", repr(time.time()))


def stop(host: Host, ctid: str, argv: list[str]) -> None:
    if not host.running(ctid):
        host.err("Container is not running" if host.dialect == 7 else "Unable to stop: container is not running")
        return
    killing = "--fast" in argv
    if not killing:
        host.say("Stopping the Container ..." if host.dialect == 7 else "Stopping container ...")
        seconds = float(host.conf(ctid).get("STOP_TIMEOUT") or 0) or float(host.settings.get("STOP_TIMEOUT", "120"))
        deadline = time.monotonic() + seconds
        guest.shell(host, ctid, "halt", quiet=True)
        while host.running(ctid) and time.monotonic() < deadline:
            time.sleep(0.01)
        killing = host.running(ctid)
    if killing:
        host.say("Killing the Container ..." if host.dialect == 7 else "Killing container ...")
        if host.on("IMMORTAL") or host.frozen(ctid):
            raise Fail(33, "Failed to wait for CT tasks to die", "Unable to stop container: operation timed out")
    host.unmark(ctid, "running", "frozen", "addresses")
    host.say("Container was stopped")
    if "--skip-umount" not in argv:
        host.unmark(ctid, "mounted")
        host.say("Container is unmounted")


def restart(host: Host, ctid: str, argv: list[str]) -> None:
    host.say("Restarting container")
    if host.running(ctid):
        stop(host, ctid, [word for word in argv if word == "--fast"])
    start(host, ctid, [])


def mount(host: Host, ctid: str, argv: list[str]) -> None:
    nothing_more(argv)
    if host.mounted(ctid):
        host.say("Container is already mounted")
        return
    host.mark(ctid, "mounted")
    host.say("Container is mounted")


def umount(host: Host, ctid: str, argv: list[str]) -> None:
    nothing_more(argv)
    if host.running(ctid):
        raise Fail(32, "Container is running -- stop it first")
    if not host.mounted(ctid):
        raise Fail(40, "CT is not mounted")
    host.unmark(ctid, "mounted")
    host.say("Container is unmounted")


def destroy(host: Host, ctid: str, argv: list[str]) -> None:
    nothing_more(argv)
    create.destroy(host, ctid)


def compact(host: Host, ctid: str, argv: list[str]) -> None:
    if host.layout(host.conf(ctid)) != "ploop":
        host.say("Compact only makes sense for ploop containers")


def quota(code: int) -> object:
    def command(host: Host, ctid: str, argv: list[str]) -> int:
        if host.dialect == 7:
            host.err("Warning: quota commands are deprecated")
            return 0
        raise Fail(code, "Disk quota is not enabled, skipping operation")

    return command


def console(host: Host, ctid: str, argv: list[str]) -> None:
    raise Fail(3, "Error in VE_CONFIGURE_OPEN_TTY: Bad file descriptor")


def enter(host: Host, ctid: str, argv: list[str]) -> None:
    if not host.running(ctid):
        raise Fail(31, "Container is not running")
    raise unknown("enter")


def reinstall(host: Host, ctid: str, argv: list[str]) -> None:
    raise unknown("reinstall")


VERBS: dict[str, Any] = {
    "status": status,
    "create": create.create,
    "start": start,
    "stop": stop,
    "restart": restart,
    "mount": mount,
    "umount": umount,
    "destroy": destroy,
    "set": parameters.set_parameters,
    "exec": guest.exec_folded,
    "exec2": guest.exec_plain,
    "exec3": guest.exec_argv,
    "suspend": checkpoint.suspend,
    "resume": checkpoint.resume,
    "pause": checkpoint.pause,
    "snapshot": snapshots.create,
    "snapshot-list": snapshots.listing,
    "snapshot-switch": snapshots.switch,
    "snapshot-delete": snapshots.delete,
    "compact": compact,
    "quotaon": quota(60),
    "quotaoff": quota(66),
    "quotainit": quota(61),
    "console": console,
    "enter": enter,
    "reinstall": reinstall,
}


def command(root: str, pid: int, argv: list[str]) -> int:
    """Run it on the node in a directory, as the process C{pid}."""
    return run(Host(root, pid), ["vzctl", *argv], main)

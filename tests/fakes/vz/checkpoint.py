"""Freezing, saving and restoring, by the stand-in for vzctl."""

from __future__ import annotations

import time

from .host import Fail, Host

ONLY_ONE = ("--dump", "--suspend", "--resume", "--kill")


def suspend(host: Host, ctid: str, argv: list[str]) -> None:
    """C{suspend} and C{chkpnt}: saves to disk, or with an option freezes, thaws or kills."""
    chosen = [word for word in argv if word in ONLY_ONE]
    if len(chosen) > 1:
        raise Fail(20, "Only one of --dump, --suspend, --resume, --kill can be used")
    if not host.running(ctid):
        raise Fail(31, "Unable to setup checkpointing: container is not running")
    if host.on("NO_CPT"):
        raise Fail(16, "Failed to checkpoint the Container")
    host.say("Setting up checkpoint...")
    if chosen == ["--suspend"]:
        if host.frozen(ctid):
            raise Fail(16, "Can not suspend container: Device or resource busy", "Checkpointing failed")
        host.say("\tsuspend...")
        host.mark(ctid, "frozen")
    elif chosen == ["--resume"]:
        if not host.frozen(ctid):
            raise Fail(16, "Can not resume container: Invalid argument", "Checkpointing failed")
        host.say("\tresume...")
        host.unmark(ctid, "frozen")
    elif chosen == ["--kill"]:
        host.say("\tkill...")
        host.unmark(ctid, "frozen", "running", "addresses")
    else:
        host.meet_fault("suspend-to-disk")
        host.say("\tsuspend...", "\tdump...", "\tkill...")
        host.write(host.read("run", ctid, "addresses"), _dump(argv, ctid))
        host.unmark(ctid, "frozen", "running", "addresses", "mounted")
        host.say("Checkpointing completed successfully", "Container is unmounted")
        return
    host.say("Checkpointing completed successfully")


def _dump(argv: list[str], ctid: str) -> str:
    if "--dumpfile" in argv:
        raise Fail(250, "stand-in for vzctl: --dumpfile isn't in use")
    return f"vz/dump/Dump.{ctid}"


def resume(host: Host, ctid: str, argv: list[str]) -> None:
    """C{resume} and C{restore}."""
    if host.running(ctid):
        if host.dialect == 7 and host.frozen(ctid):
            host.unmark(ctid, "frozen")
            return
        raise Fail(32, "Unable to perform restore: container already running")
    if not host.suspended(ctid):
        raise Fail(17, f"Unable to open {host.shown(host.path(_dump(argv, ctid)))}: No such file or directory")
    host.say("Restoring container ...")
    host.mark(ctid, "mounted")
    host.say("Container is mounted", "\tundump...", "\tresume...")
    host.mark(ctid, "addresses", host.read("vz/dump", f"Dump.{ctid}"))
    host.mark(ctid, "running", repr(time.time()))
    host.remove("vz/dump", f"Dump.{ctid}")
    host.say("Restoring completed successfully")


def pause(host: Host, ctid: str, argv: list[str]) -> None:
    """Dialect 7's C{pause}."""
    if not host.running(ctid):
        raise Fail(31, "Container is not running")
    host.mark(ctid, "frozen")

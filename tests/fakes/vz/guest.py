"""What runs in a container, by the stand-in for vzctl: a real shell, with the guest's own commands."""

from __future__ import annotations

import subprocess
import sys
import time

from .host import Fail, Host

KILLED = 3
"""What C{exec2} ends with when a signal ended the command: vzctl's own code for a system error."""
CONTEXTS = ("cgroup", "time", "time_for_children")
"""What vzctl 4.11.1 can't enter off OpenVZ's kernels, and says so."""


def shell(host: Host, ctid: str, line: str, quiet: bool = False) -> int:
    """Run a line in the guest's shell."""
    return call(host, ctid, ["/bin/bash", "-c", line], quiet)


def call(host: Host, ctid: str, argv: list[str], quiet: bool = False) -> int:
    """
    Run a command in the guest. One that is frozen never answers.

    As vzctl does it: C{HOME} is the guest's C{/} whatever its users' file says.
    """
    while host.frozen(ctid):
        time.sleep(0.05)
    files = host.path("vz/private", ctid, "fs")
    environment = {
        "PATH": f"{files}/bin:{host.path('guest-bin')}",
        "HOME": f"{files}/",
        "TERM": "linux",
        "CT_FS": files,
        "CT_RUN": host.path("run", ctid),
    }
    output = subprocess.DEVNULL if quiet else None
    argv = [inside(host, ctid, word) for word in argv]
    done = subprocess.run(argv, env=environment, cwd=files, stdout=output, stderr=output, check=False)
    if host.exists("run", ctid, "dying"):
        host.err("Got signal 9")
        return KILLED
    if done.returncode < 0:
        host.err(f"Got signal {-done.returncode}")
        return KILLED
    return done.returncode


def inside(host: Host, ctid: str, line: str) -> str:
    """
    Have a line find the guest's users where it looks for them, in C{/etc/passwd}: the guest's files are a directory of this
    machine's, which isn't the root directory of what runs in the guest.
    """
    if "/etc/passwd" not in line:
        return line
    files = host.path("vz/private", ctid, "fs")
    users = [entry.split(":") for entry in host.read("vz/private", ctid, "fs/etc/passwd").splitlines()]
    host.mark(ctid, "passwd", "".join(":".join((*user[:5], files + user[5], *user[6:])) + "\n" for user in users))
    return line.replace("/etc/passwd", host.path("run", ctid, "passwd"))


def _run(host: Host, ctid: str, argv: list[str]) -> int:
    if not host.running(ctid):
        raise Fail(31, "Container is not running")
    if not argv:
        raise Fail(20, "No command line given for exec")
    if host.exists("run", ctid, "dying"):
        raise Fail(6, "Container doesn't seem to be started (no pids in container cgroup)")
    if host.on("NOTICE"):
        host.err(*(f"Failed to set context for {one}: Operation not permitted" for one in CONTEXTS))
    if argv == ["-"]:
        return shell(host, ctid, sys.stdin.read())
    # All words are joined by blanks, and the guest's shell reads them anew.
    return shell(host, ctid, " ".join(word or "''" for word in argv))


def exec_plain(host: Host, ctid: str, argv: list[str]) -> int:
    """C{exec2}: the command's own exit code."""
    return _run(host, ctid, argv)


def exec_folded(host: Host, ctid: str, argv: list[str]) -> int:
    """C{exec}: 8 for whatever went wrong."""
    try:
        return 8 if _run(host, ctid, argv) else 0
    except Fail as fail:
        raise Fail(8 if fail.code == 31 else fail.code, *fail.lines) from None


def exec_argv(host: Host, ctid: str, argv: list[str]) -> int:
    """C{exec3}: without a shell."""
    if not host.running(ctid):
        raise Fail(31, "Container is not running")
    if not argv:
        raise Fail(20, "No command line given for exec")
    return call(host, ctid, argv)

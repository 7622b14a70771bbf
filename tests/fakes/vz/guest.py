"""What runs in a container, by the stand-in for vzctl: a real shell, with the guest's own commands."""

from __future__ import annotations

import subprocess
import sys
import time

from .host import Fail, Host


def shell(host: Host, ctid: str, line: str, quiet: bool = False) -> int:
    """Run a line in the guest's shell."""
    return call(host, ctid, ["/bin/bash", "-c", line], quiet)


def call(host: Host, ctid: str, argv: list[str], quiet: bool = False) -> int:
    """Run a command in the guest. One that is frozen never answers."""
    while host.frozen(ctid):
        time.sleep(0.05)
    files = host.path("vz/private", ctid, "fs")
    environment = {
        "PATH": f"{files}/bin:{host.path('guest-bin')}", "HOME": f"{files}/root", "TERM": "linux", "CT_FS": files,
        "CT_RUN": host.path("run", ctid),
    }  # fmt: skip
    output = subprocess.DEVNULL if quiet else None
    done = subprocess.run(argv, env=environment, cwd=f"{files}/root", stdout=output, stderr=output, check=False)
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


def _run(host: Host, ctid: str, argv: list[str]) -> int:
    if not host.running(ctid):
        raise Fail(31, "Container is not running")
    if not argv:
        raise Fail(20, "No command line given for exec")
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

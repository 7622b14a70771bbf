"""Unit tests start no process: it is forbidden to them."""

from __future__ import annotations

import sys

STARTS = {"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system", "pty.spawn", "subprocess.Popen"}
"""The events by which Python tells its audit hooks that a process is about to be started."""


def forbid_processes() -> None:
    """From now on, to the end of this process, starting another one raises C{RuntimeError}."""

    def refuse(event: str, arguments: tuple[object, ...]) -> None:
        if event in STARTS:
            raise RuntimeError(f"a unit test must start no process ({event} {arguments}); move it to tests/real")

    sys.addaudithook(refuse)

"""Finds, freezes, thaws and limits the processes of a guest, through /proc. All functions here block."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fluidvm.driver import DriverError
from fluidvm_driver_namespaces.guest import MIB

PASSES = 2000
"""Maximum number of passes over a guest that keeps creating processes."""
GONE = "ZX"
FROZEN = "Tt"
BLOCKED = "D"
_FLOCK = "hhqqi4x"
"""struct flock, see fcntl(2)."""


def holder(lock: Path) -> int:
    """
    Find out who holds a lock, without taking it.

    @return: the process id; 0: nobody.
    """
    try:
        file = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return 0
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, asked))
    finally:
        os.close(file)
    if kind == fcntl.F_UNLCK:
        return 0
    if pid <= 1:
        raise DriverError(f"The guest of {lock} runs in a container from which this host's processes can't be seen.")
    return int(pid)


def init_of(supervisor: int) -> int:
    """The first process of a supervisor's guest; 0 while there is none."""
    for middle in children(supervisor):
        for first in children(middle):
            return first
    return 0


def frozen(pid: int) -> bool:
    """Whether a process is stopped by a signal."""
    return state(pid) in FROZEN


def freeze(init: int) -> None:
    """
    Stop all processes of a guest.

    @raise DriverError: not all of them could be stopped; then they are all resumed.
    """
    try:
        _until_done(init, lambda pid: state(pid) in FROZEN + GONE, _stop)
    except DriverError:
        thaw(init)
        raise


def _stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    if state(pid) == BLOCKED:
        # It may wait for a child of vfork(2) that was stopped before its exec(2), which the child must reach.
        for child in children(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGCONT)
        time.sleep(0.02)


def thaw(init: int) -> None:
    """Resume all processes of a guest."""
    _until_done(init, lambda pid: state(pid) not in FROZEN, lambda pid: os.kill(pid, signal.SIGCONT))


def limit_memory(init: int, memory: int) -> None:
    """Limit the memory of each process of a guest. @param memory: MiB."""
    _until_done(
        init,
        lambda pid: resource.prlimit(pid, resource.RLIMIT_DATA)[0] == memory * MIB,
        lambda pid: _limit(pid, memory * MIB),
    )


def _limit(pid: int, size: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_DATA, (size, resource.prlimit(pid, resource.RLIMIT_DATA)[1]))


def limit_cpus(init: int, cpus: set[int]) -> None:
    """Restrict the processes of a guest to these CPUs."""

    def pin(pid: int) -> None:
        for thread in _threads(pid):
            os.sched_setaffinity(thread, cpus)

    _until_done(init, lambda pid: all(os.sched_getaffinity(thread) == cpus for thread in _threads(pid)), pin)


def _until_done(init: int, done: Callable[[int], bool], do: Callable[[int], None]) -> None:
    """Change each process of a guest, until a pass finds all of them changed: new processes inherit from their parents."""
    for _ in range(PASSES):
        left = 0
        for pid in (init, *descendants(init)):
            with contextlib.suppress(ProcessLookupError):
                if not done(pid):
                    left += 1
                    do(pid)
        if not left:
            return
        time.sleep(0.005)
    raise DriverError(f"The guest's processes (the first is {init}) couldn't all be changed.")


def descendants(pid: int) -> Iterator[int]:
    """A process's children, their children, and so on."""
    for child in children(pid):
        yield child
        yield from descendants(child)


def _threads(pid: int) -> list[int]:
    try:
        return [int(thread.name) for thread in Path(f"/proc/{pid}/task").iterdir()]
    except FileNotFoundError:
        return []


def children(pid: int) -> list[int]:
    """A process's children; none if it has ended."""
    found = []
    for thread in _threads(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += [int(word) for word in Path(f"/proc/{pid}/task/{thread}/children").read_text().split()]
    return found


def state(pid: int) -> str:
    """The letter of a process's state, as in proc(5); C{X} if it has ended."""
    try:
        # The name in parentheses can contain anything; the state is the first field after it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"

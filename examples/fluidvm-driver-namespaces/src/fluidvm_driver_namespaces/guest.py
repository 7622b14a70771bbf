"""
One boot of a guest: namespaces, a root file system, limits, and then its init in this process's place.

Standard library only: this runs in the guest's supervisor, which must start fast and stay small.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

# From <linux/sched.h>, <linux/mount.h>, <linux/prctl.h> and, for pivot_root, <asm/unistd_64.h>.
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
NAMESPACES = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE = 0x2, 0x4, 0x8, 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}

MIB = 1024 * 1024
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_libc = ctypes.CDLL(None, use_errno=True)


def _call(what: str, function: Callable[..., int], *args: Any) -> None:
    if function(*args):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def _mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    _call(f"mount {target}", _libc.mount, source.encode(), target.encode(), kind.encode(), flags, options.encode())


def _die_with_parent(parent: int) -> None:
    _call("prctl", _libc.prctl, PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # It may already have ended.
    if os.getppid() not in (parent, 0):
        os._exit(1)


def cpus(uuid: str, count: int) -> set[int]:
    """
    Choose the host CPUs of a domain, spread over the domains.

    @return: never empty; if C{count} is higher, all CPUs that this process can use.
    """
    there = sorted(os.sched_getaffinity(0))
    first = int(uuid[:8], 16)
    return {there[(first + number) % len(there)] for number in range(min(count, len(there)))}


def boot(domain: dict[str, Any], template: str, place: str, report: int) -> int:
    """
    Boot a guest, and wait until it ends.

    @param domain: its definition, as stored by L{fluidvm_driver_namespaces.domains}.
    @param template: the directory with its root file system, on which the guest sees a writable layer in memory.
    @param place: a directory that the guest doesn't see, where its root file system is assembled.
    @param report: a file descriptor to which errors are written; it is closed when the guest's init runs.
    @return: a wait status: the signal is SIGHUP for a guest that reboots, SIGINT for one that powers off (reboot(2)).
    """
    parent = os.getpid()
    middle = os.fork()
    if not middle:
        _run(lambda: _unshare(parent, domain, template, place, report), report)
    os.close(report)
    return os.waitpid(middle, 0)[1]


def _run(step: Callable[[], NoReturn], report: int) -> NoReturn:
    """Continue in a new process; errors are reported, and end it."""
    try:
        step()
    except BaseException as error:
        what = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else repr(error)
        os.write(report, what.encode())
    os._exit(1)


def _unshare(parent: int, domain: dict[str, Any], template: str, place: str, report: int) -> NoReturn:
    """Enter the namespaces; the first process of the new PID namespace is a child of this process."""
    user, group = os.geteuid(), os.getegid()
    _call("unshare", _libc.unshare, NAMESPACES)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _die_with_parent(parent)
    me = os.getpid()
    first = os.fork()
    if not first:
        _run(lambda: _become_init(me, domain, template, place), report)
    os.close(report)
    status = os.waitpid(first, 0)[1]
    if os.WIFSIGNALED(status):
        # The supervisor must get the same wait status as this process.
        if os.WTERMSIG(status) != signal.SIGKILL:
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _become_init(parent: int, domain: dict[str, Any], template: str, place: str) -> NoReturn:
    """Run as the guest's first process: assemble its root file system, and run its init."""
    _die_with_parent(parent)
    os.setsid()
    _mount("none", "/", flags=MS_REC | MS_PRIVATE)
    os.chdir(template)
    _mount("fluidvm", place, "tmpfs", MS_NOSUID | MS_NODEV, f"mode=755,size={domain['memory']}m")
    for part in ("root", "upper", "work"):
        (Path(place) / part).mkdir()
    # The template is accessed as ".": its path may be hidden now.
    _mount("fluidvm", f"{place}/root", "overlay", options=f"lowerdir=.,upperdir={place}/upper,workdir={place}/work")
    os.chdir(f"{place}/root")
    for part in ("proc", "dev", "run", "tmp"):
        Path(part).mkdir(exist_ok=True)
    _mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _mount("fluidvm", "dev", "tmpfs", MS_NOSUID, "mode=755,size=64k")
    for name in DEVICES:
        Path("dev", name).touch()
        _mount(f"/dev/{name}", f"dev/{name}", flags=MS_BIND)
    socket.sethostname(domain["name"][:64])
    # The old root is mounted over the new one, and then unmounted (pivot_root(2), "pivot_root(".", ".")").
    _call("pivot_root", _libc.syscall, SYS_PIVOT_ROOT[os.uname().machine], b".", b".")
    _call("umount", _libc.umount2, b".", MNT_DETACH)
    os.chdir("/")
    os.umask(0o022)
    os.sched_setaffinity(0, cpus(domain["uuid"], domain["vcpus"]))
    resource.setrlimit(resource.RLIMIT_DATA, (domain["memory"] * MIB, domain["max_memory"] * MIB))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execve("/sbin/init", ["init"], {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "container": "fluidvm"})

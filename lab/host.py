"""The lab from Python: C{host.sh} and C{guest.sh} started, waited for and stopped."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import libvirt

from fluidvm.drivers.libvirt.events import ensure_loop

LAB = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("FLUIDVM_GUEST") or LAB.parent / ".state" / "guest")
"""Where the guest is kept between runs."""

GONE = 5.0
"""Seconds that a killed host's processes have to be gone."""

READY = 30.0
"""Seconds that a host has until it answers."""


class LabError(Exception):
    """The lab can't be had here; says what is missing."""


def guest(directory: Path = CACHE) -> Path:
    """
    Build the guest, or find it built.

    @return: the directory with C{vmlinux}, C{vmlinuz}, C{initrd.gz}, C{initrd-agent.gz} and C{disk.img}.
    @raise LabError: what is missing.
    """
    done = subprocess.run([LAB / "guest.sh", directory], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise LabError(done.stderr.strip())
    return directory


class LibvirtHost:
    """
    A private libvirt host with its own libvirtd, in namespaces of its own.

    @param directory: made if it isn't there; holds all that the host leaves. At most 80 characters.
    @param kvm: whether the host sees /dev/kvm.
    @param share_net: keep this process's network; then C{number} must differ.
    @param number: 1 to 99.
    @param tcp: a port of 127.0.0.1 to listen on as well.
    """

    def __init__(
        self, directory: Path, kvm: bool = True, share_net: bool = False, number: int = 1, tcp: int | None = None
    ) -> None:
        self.directory = Path(directory).resolve()
        self._command: list[str | Path] = [LAB / "host.sh", self.directory, "--number", str(number)]
        self._command += [] if kvm else ["--no-kvm"]
        self._command += ["--share-net"] if share_net else []
        self._command += ["--tcp", str(tcp)] if tcp else []
        self._process: subprocess.Popen[str] | None = None

    @property
    def uri(self) -> str:
        """What libvirt opens, and a compute node's address."""
        return f"qemu+unix:///system?socket={self.directory}/libvirt-sock"

    def start(self) -> None:
        """
        Start the host, and wait until it answers. Call it in the main thread: the host dies with the thread that started it.

        @raise LabError: it doesn't come up; says why.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        errors = self.directory / "host.err"
        with errors.open("w") as sink:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, text=True, start_new_session=True
            )
        atexit.register(self.stop)
        self.wait_ready()

    def wait_ready(self) -> None:
        """Wait until libvirtd answers. @raise LabError: it doesn't."""
        ensure_loop()
        deadline = time.monotonic() + READY
        while True:
            try:
                libvirt.open(self.uri).close()
                return
            except libvirt.libvirtError as error:
                ended = self._process is None or self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    self.stop()
                    said = (self.directory / "host.err").read_text().strip()
                    raise LabError(said or f"{self.uri}: {error}; see {self.directory}/libvirtd.log") from error
            time.sleep(0.05)

    def daemon(self) -> int:
        """The process id of libvirtd, as seen from outside. @raise LabError: none runs."""
        if self._process is not None:
            for first in _children(self._process.pid):
                for child in _children(first):
                    if Path(f"/proc/{child}/comm").read_text().strip() == "libvirtd":
                        return child
        raise LabError(f"no libvirtd runs in {self.directory}")

    def signal_daemon(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send libvirtd a signal. Killed, it comes back after a second; its guests run on."""
        os.kill(self.daemon(), number)

    def stop(self) -> None:
        """Kill the host and all in it. A repetition does nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            _remove_group(self.directory)
        atexit.unregister(self.stop)


def _remove_group(directory: Path) -> None:
    """Remove a host's control groups, if C{host.sh} made some, once what was in them has died."""
    named = directory / "group"
    if not named.exists():
        return
    group = Path(named.read_text().strip())
    deadline = time.monotonic() + GONE
    while group.exists() and time.monotonic() < deadline:
        for inner, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(inner).rmdir()
        time.sleep(0.01)


def _children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name in parentheses may hold anything; the parent is the second field behind it.
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


if __name__ == "__main__":
    sys.exit("use lab/host.sh and lab/guest.sh; this is for importing")

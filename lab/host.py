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
"""Where the guest is cached between runs."""

GONE = 5.0
"""Seconds in which the processes of a killed host must end."""

READY = 30.0
"""Seconds in which a host must answer."""


class LabError(Exception):
    """The lab can't run here; the message says what is missing."""


def guest(directory: Path = CACHE) -> Path:
    """
    Build the guest, unless it exists.

    @return: the directory with C{vmlinux}, C{vmlinuz}, C{initrd.gz}, C{initrd-agent.gz} and C{disk.img}.
    @raise LabError: something is missing.
    """
    done = subprocess.run([LAB / "guest.sh", directory], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise LabError(done.stderr.strip())
    return directory


class LibvirtHost:
    """
    A private libvirt host with its own libvirtd, in its own namespaces.

    @param directory: created if it doesn't exist; contains everything that the host leaves. At most 80 characters.
    @param kvm: whether the host sees /dev/kvm.
    @param share_net: keep this process's network; then each host needs a different C{number}.
    @param number: 1 to 99.
    @param tcp: a port of 127.0.0.1 on which it also listens.
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
        """The URI for libvirt; also the address of a compute node."""
        return f"qemu+unix:///system?socket={self.directory}/libvirt-sock"

    def start(self) -> None:
        """
        Start the host and wait until it answers. Call it in the main thread: the host ends with the thread that started it.

        @raise LabError: the host doesn't start; the message says why.
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
        """Wait until libvirtd answers. @raise LabError: it doesn't answer."""
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
        """The process ID of libvirtd, outside the namespaces. @raise LabError: libvirtd isn't running."""
        if self._process is not None:
            for first in _children(self._process.pid):
                for child in _children(first):
                    if Path(f"/proc/{child}/comm").read_text().strip() == "libvirtd":
                        return child
        raise LabError(f"libvirtd isn't running in {self.directory}")

    def signal_daemon(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send libvirtd a signal. If it is killed, it is restarted after a second; its guests continue to run."""
        os.kill(self.daemon(), number)

    def stop(self) -> None:
        """Kill the host and everything in it. A repetition does nothing."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            _remove_group(self.directory)
        atexit.unregister(self.stop)


def _remove_group(directory: Path) -> None:
    """Remove a host's control groups, if C{host.sh} created any, once their processes have ended."""
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
            # The name in parentheses can contain anything; the parent is the second field after it.
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


if __name__ == "__main__":
    sys.exit("run lab/host.sh or lab/guest.sh instead; this module is only for importing")

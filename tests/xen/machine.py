"""A machine that runs Xen, emulated by QEMU: built, booted, waited for, taken down."""

from __future__ import annotations

import atexit
import os
import shlex
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import libvirt

from fluidvm.drivers.libvirt.events import ensure_loop
from lab.host import LAB, LabError

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("FLUIDVM_XEN") or LAB.parent / ".state" / "xen")
"""Where the machine's disk is kept between runs."""

BOOT = 240.0
"""Seconds that the machine has until libvirtd answers; it takes 15 on a quiet host."""
TRIES = 2
"""How often it is booted: its ports may be taken in between, and an emulated CPU has died in Xen's start."""
MEMORY, DOM0_MEMORY = 2560, 768
"""MiB of the machine, and of dom0 in it."""
USER = "fluidvm"
"""Whom dom0's libvirtd lets in over TCP."""


def image(directory: Path = CACHE) -> Path:
    """
    Build the machine's disk, or find it built.

    @return: the directory with what C{image.sh} makes.
    @raise LabError: what is missing.
    """
    done = subprocess.run([HERE / "image.sh", directory], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise LabError(done.stderr.strip())
    return directory


class XenMachine:
    """
    An emulated machine with Xen and a dom0. What it writes to its disk is gone when it is.

    @param files: from L{image}.
    @param first: another machine, already up, which this one is to share a network with; two machines are the most.
    @ivar address: where other machines reach dom0.
    @ivar directory: a new one, gone after L{stop}: the machine's serial port (C{serial.log}), ssh's settings.
    """

    def __init__(self, files: Path, first: XenMachine | None = None) -> None:
        self.files = files
        self._number = 1 if first is None else 2
        self.address = f"192.168.78.{self._number}"
        self.directory = Path(tempfile.mkdtemp(prefix="fluidvm-xen-"))
        self._cable = (self if first is None else first).directory / "cable"
        self._process: subprocess.Popen[bytes] | None = None
        self._ports: dict[int, int] = {}

    # Where it is.

    @property
    def tcp(self) -> str:
        """dom0's libvirtd over TCP, with a user's name and password."""
        return f"xen+tcp://127.0.0.1:{self._ports[16509]}/system"

    @property
    def tls(self) -> str:
        """dom0's libvirtd over TLS, with a client's certificate."""
        return f"xen+tls://127.0.0.1:{self._ports[16514]}/system?pkipath={quote(str(self.files / 'pki'))}"

    @property
    def ssh(self) -> str:
        """dom0's libvirtd over SSH, with a key; the command names key and host key, for the tests have no home."""
        return f"xen+ssh://root@xendom0:{self._ports[22]}/system?command={quote(str(self.directory / 'ssh'))}"

    @property
    def password_file(self) -> Path:
        """Holds L{USER}'s password."""
        return self.files / "password"

    def open(self) -> libvirt.virConnect:
        """Open a connection of the tests' own."""
        ensure_loop()
        return libvirt.open(self.tls)

    # Up and down.

    def start(self) -> None:
        """
        Boot, and wait until libvirtd answers.

        @raise LabError: it doesn't; says what the machine said.
        """
        atexit.register(self.stop)
        for tries_left in reversed(range(TRIES)):
            try:
                self._boot()
                self.wait_ready(BOOT)
                return
            except LabError:
                self._end()
                if not tries_left:
                    self.stop()
                    raise

    def _boot(self) -> None:
        self._ports = dict(zip((22, 16509, 16514), _free_ports(3), strict=True))
        self._write_ssh()
        forwards = ",".join(f"hostfwd=tcp:127.0.0.1:{port}-:{inside}" for inside, port in self._ports.items())
        memory = f"dom0_mem={DOM0_MEMORY}M,max:{DOM0_MEMORY}M"
        xen = f"console=com1 com1=115200,8n1 {memory} dom0_max_vcpus=2 guest_loglvl=info spec-ctrl=no xpti=no noreboot"
        linux = f"console=hvc0 earlyprintk=xen mitigations=off net.ifnames=0 panic=5 machine={self._number}"
        cable = _comma(self._cable)
        command: list[str | Path] = [
            # Emulated even where there is KVM: Xen must be the first to use the CPU's virtualisation. Of a CPU with SMAP
            # ("max") dom0's kernel dies.
            "qemu-system-x86_64",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-machine",
            "pc",
            "-accel",
            "tcg,thread=multi,tb-size=512",
            "-cpu",
            "qemu64,+svm,+npt",
            "-smp",
            "2",
            "-m",
            str(MEMORY),
            "-kernel",
            self.files / "xen",
            "-append",
            xen,
            "-initrd",
            f"{_comma(self.files / 'vmlinuz')} {linux},{_comma(self.files / 'initrd.gz')}",
            "-drive",
            f"file={_comma(self.files / 'dom0.img')},format=raw,if=none,id=disk,snapshot=on,cache=unsafe",
            "-device",
            "virtio-blk-pci,drive=disk",
            "-netdev",
            f"user,id=net,restrict=on,{forwards}",
            "-device",
            "virtio-net-pci,netdev=net,romfile=",
            "-netdev",
            f"stream,id=lan,server={'on' if self._number == 1 else 'off'},addr.type=unix,addr.path={cable}",
            "-device",
            f"virtio-net-pci,netdev=lan,romfile=,mac=52:54:00:12:34:{self._number:02}",
            "-device",
            "virtio-rng-pci",
            "-serial",
            f"file:{_comma(self.directory / 'serial.log')}",
        ]
        with (self.directory / "qemu.err").open("wb") as errors:
            # setpriv: the machine ends with the process that started it, however that ends. nice, where that is allowed:
            # libxl within the machine waits for devices for fixed times (10 to 40 s), too short if the machine hardly runs.
            self._process = subprocess.Popen(
                ["nice", "-n", "-10", "setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
                env={**os.environ, "TMPDIR": str(self.directory)},
            )

    def _write_ssh(self) -> None:
        keys = self.files / "ssh"
        config = self.directory / "ssh_config"
        config.write_text(
            f"Host xendom0\n  HostName 127.0.0.1\n  Port {self._ports[22]}\n  User root\n  BatchMode yes\n"
            f"  HostKeyAlias xendom0\n  IdentityFile {keys / 'id'}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {keys / 'known_hosts'}\n  GlobalKnownHostsFile /dev/null\n"
        )
        wrapper = self.directory / "ssh"
        wrapper.write_text(f'#!/bin/sh\nexec ssh -F {shlex.quote(str(config))} "$@"\n')
        wrapper.chmod(0o755)

    def wait_ready(self, seconds: float = 60.0) -> None:
        """Wait until libvirtd answers. @raise LabError: it doesn't."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                self.open().close()
                return
            except libvirt.libvirtError as error:
                ended = self._process is None or self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise LabError(f"Xen doesn't answer ({error}).\n{self.said()}") from error
            time.sleep(0.2)

    def said(self) -> str:
        """The end of what QEMU and the machine's serial port said."""
        texts = []
        for name in ("qemu.err", "serial.log"):
            path = self.directory / name
            if path.exists():
                texts.append(path.read_text(errors="replace")[-4000:])
        return "\n".join(texts)

    def run(self, *command: str) -> str:
        """Run a command in dom0, and give what it says. @raise LabError: it fails."""
        line = " ".join(shlex.quote(word) for word in command)
        done = subprocess.run(
            [self.directory / "ssh", "xendom0", line], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise LabError(f"{line}: {done.stderr.strip() or done.returncode}")
        return done.stdout

    def stop(self) -> None:
        """Pull the plug, and remove what is left. A repetition does nothing."""
        self._end()
        subprocess.run(["rm", "-rf", self.directory], check=False)
        atexit.unregister(self.stop)

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


def _comma(path: Path) -> str:
    """A path as QEMU's options want it, where a comma separates."""
    return str(path).replace(",", ",,")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()

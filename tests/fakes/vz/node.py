"""Nodes with the stand-ins for OpenVZ's tools: installed into a directory, with what tests look at and break."""

from __future__ import annotations

import shutil
from pathlib import Path

from .server import tool_server

SAMPLE = """\
PHYSPAGES="0:256M"

# Swap
SWAPPAGES="0:512M"

# Disk quota parameters (in form of softlimit:hardlimit)
DISKSPACE="2G:2.2G"
DISKINODES="131072:144179"
QUOTATIME="0"

# CPU fair scheduler parameter
CPUUNITS="1000"

NETFILTER="stateless"
"""
VERSIONS = {4: "4.11.1-3.ga3f732ef", 7: "9.0.1"}
TOOLS = ("vzctl", "vzlist", "vzmigrate")
GUEST_TOOLS = ("cat", "rm", "sleep", "mkdir", "chmod", "touch", "tee", "id", "sh", "head")
TEMPLATES = {"debian-12-x86_64.tar.gz": "chpasswd", "busybox-1-x86_64.tar": ""}


LS = """\
#!/bin/sh
# /proc/vz is that of the node's kernel, not of this machine's.
[ "$*" = "-d /proc/vz" ] || exec /bin/ls "$@"
if grep -qx UPSTREAM=1 {settings}; then
    echo "ls: cannot access '/proc/vz': No such file or directory" >&2
    exit 2
fi
echo /proc/vz
"""


class FakeNode:
    """
    One node in a directory.

    @param settings: as L{tests.fakes.vz.host.Host} reads them, over those of a node of that dialect.
    @ivar bin: where the commands are.
    """

    def __init__(self, root: Path, dialect: int = 4, **settings: object) -> None:
        self.root = root.absolute()
        self.bin = self.root / "bin"
        self.conf_dir = self.root / "etc/vz/conf"
        self.dialect = dialect
        self.settings: dict[str, object] = {
            "DIALECT": dialect,
            "VERSION": VERSIONS[dialect],
            "VSWAP": 1,
            "PLOOP": 1,
            "VEINFO": 1,
            "PROC": 1,
            "CPUS": 2,
            "STOP_TIMEOUT": 5,
            "LOCK_WAIT": 0,
        }
        for directory in (
            "bin",
            "etc/vz/conf",
            "etc/vz/names",
            "vz/private",
            "vz/template/cache",
            "vz/lock",
            "faults",
            "guest-bin",
        ):
            (self.root / directory).mkdir(parents=True, exist_ok=True)
        self._install()
        self.set(**settings)
        (self.conf_dir / "ve-vswap-256m.conf-sample").write_text(SAMPLE)
        (self.conf_dir / "0.conf").write_text('ONBOOT="no"\n')
        template = self.root / "vz/template"
        (self.root / "etc/vz/vz.conf").write_text(f"TEMPLATE={template}\nLOCKDIR={self.root / 'vz/lock'}\n")
        for name, text in TEMPLATES.items():
            (template / "cache" / name).write_text(text)

    def _install(self) -> None:
        for tool in TOOLS:
            self.bin.joinpath(tool).write_text(f"#!{tool_server().launcher}\n")
            self.bin.joinpath(tool).chmod(0o755)
        (self.bin / "ls").write_text(LS.format(settings=self.root / "settings"))
        (self.bin / "ls").chmod(0o755)
        for tool in GUEST_TOOLS:
            link = self.root / "guest-bin" / tool
            if not link.exists():
                link.symlink_to(shutil.which(tool) or f"/bin/{tool}")

    def set(self, **settings: object) -> None:
        """Change settings."""
        self.settings |= settings
        (self.root / "settings").write_text("".join(f"{key}={value}\n" for key, value in self.settings.items()))

    def upstream(self) -> None:
        """Have it run a kernel that isn't OpenVZ's, as vzctl 4.11.1 shows it."""
        self.set(UPSTREAM=1, NOTICE=1, VSWAP=0, VEINFO=0, PROC=0, PLOOP=0, FREEZER=1, NO_CPT=1, FAST=1)

    def bound(self, ctid: str) -> int:
        """The MiB that such a kernel bounds a running container's memory to."""
        return int((self.root / "cgroup" / f"vz-{ctid}" / "memory.limit_in_bytes").read_text()) // 2**20

    def fault(self, verb: str, **what: object) -> None:
        """Have the next run of a verb go wrong: C{times}, C{rc}, C{stdout}, C{stderr}, C{delay}, C{hang}."""
        (self.root / "faults" / verb).write_text("".join(f"{key}={value}\n" for key, value in what.items()))

    def hold(self, verb: str) -> Path:
        """Have the next run of a verb wait until the file that is given is removed."""
        held = self.root / "faults" / f"{verb}-held"
        held.touch()
        self.fault(verb, held=1)
        return held

    def calls(self) -> list[list[str]]:
        """Every command line that ran."""
        log = self.root / "calls.log"
        return [eval(line) for line in log.read_text().splitlines()] if log.exists() else []

    def ctid(self, uuid: str) -> str:
        """The container that is marked with a UUID."""
        for path in self.conf_dir.glob("*.conf"):
            if f"fluidvm:{uuid}:" in path.read_text():
                return path.stem
        raise LookupError(uuid)

    def conf(self, ctid: str) -> str:
        """A container's configuration."""
        return (self.conf_dir / f"{ctid}.conf").read_text()

    def power_off(self, ctid: str) -> None:
        """As the guest does."""
        (self.root / "run" / ctid / "running").unlink()

    def have(self, ctid: str, what: str) -> None:
        """Make a guest C{deaf} (it doesn't obey), C{fast} (it dies at once when it is told to halt) or C{booting}."""
        (self.root / "run" / ctid).mkdir(parents=True, exist_ok=True)
        (self.root / "run" / ctid / what).touch()

    def deafen(self, ctid: str) -> None:
        """Make a guest that doesn't obey."""
        self.have(ctid, "deaf")

    def leftovers(self) -> list[str]:
        """What is there of containers: configurations, private areas, names, locks, dumps."""
        places = ("etc/vz/conf/[0-9a-f]*.conf", "vz/private/*", "etc/vz/names/*", "vz/lock/*", "vz/dump/*")
        found = [str(path.relative_to(self.root)) for place in places for path in self.root.glob(place)]
        return sorted(name for name in found if name != "etc/vz/conf/0.conf")

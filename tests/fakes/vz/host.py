"""The node's state, as the real tools keep it: configurations, private areas, locks; and what runs, in small files."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable

NO_SUCH_CASE = 250
"""What a command line ends with that the stand-in doesn't know, so that tests notice."""
MAX = 9223372036854775807
DYING = 0.5
"""Seconds that a guest which is dying is told as running."""
SUFFIXES = {"T": 1 << 40, "G": 1 << 30, "M": 1 << 20, "K": 1 << 10, "P": 4096, "B": 1}
UUID_CHARS = "0123456789abcdef"


class Fail(Exception):
    """A command's end: its exit code, after these lines on standard error (C{out}: on standard output)."""

    def __init__(self, code: int, *lines: str, out: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.lines = lines
        self.out = out


def unknown(words: object) -> Fail:
    """The end of a command line that isn't known."""
    return Fail(NO_SUCH_CASE, f"stand-in for vzctl: this isn't in the contract: {words}")


def is_uuid(text: str) -> bool:
    """Whether this is a UUID without braces."""
    parts = text.split("-")
    return [len(part) for part in parts] == [8, 4, 4, 4, 12] and all(c in UUID_CHARS for part in parts for c in part)


def scaled(value: str, unit: int) -> float:
    """Read a number with a suffix. @param unit: what a bare number counts. @raise ValueError: it is none."""
    suffix = value[-1:].upper()
    return float(value[:-1]) * SUFFIXES[suffix] if suffix in SUFFIXES else float(value) * unit


class Conf:
    """A configuration file: lines as they are, values by key."""

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()

    @staticmethod
    def key_of(line: str) -> str:
        return line.partition("=")[0] if "=" in line and not line.startswith("#") else ""

    def get(self, key: str, default: str = "") -> str:
        for line in reversed(self.lines):
            if self.key_of(line) == key:
                return line.partition("=")[2].strip('"') if line.count('"') <= 2 else line.partition("=")[2][1:-1]
        return default

    def has(self, key: str) -> bool:
        return any(self.key_of(line) == key for line in self.lines)

    def set(self, key: str, value: str) -> None:
        """Where it was; else at the end. Nothing is escaped."""
        new = f'{key}="{value}"'
        for number, line in enumerate(self.lines):
            if self.key_of(line) == key:
                self.lines[number] = new
                return
        self.lines.append(new)

    def text(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)


class Host:
    """
    The node.

    Its settings, in the file C{settings} of the directory, one C{KEY=VALUE} a line: DIALECT (4 or 7), VERSION, VSWAP, PLOOP,
    NOTICE and WARN_DIST and VZQUOTA (lines that vzctl prints off OpenVZ's kernel), VEINFO (whether vzlist sees what runs),
    PROC (whether it sees anything), SHORT (paths are told without the directory), ZERO_UPTIME, NPROC, STOP_TIMEOUT,
    LOCK_WAIT; UPSTREAM (a kernel that isn't OpenVZ's: memory is bounded by PHYSPAGES' barrier, by a control group, and file
    systems can't be held to rates), MEMORY_IN_USE (bytes, below which that kernel takes no bound), FAST
    (guests die at once when they are told to halt).

    @ivar pid: the process that others know as the command's.
    """

    def __init__(self, root: str, pid: int) -> None:
        self.root = root
        self.pid = pid
        self.quiet = False
        self.settings: dict[str, str] = {}
        for line in self.read("settings").splitlines():
            key, _, value = line.partition("=")
            self.settings[key] = value
        self.dialect = int(self.settings.get("DIALECT", "4"))
        self.locked: list[str] = []

    def on(self, key: str) -> bool:
        return self.settings.get(key, "0") != "0"

    # files

    def path(self, *parts: str) -> str:
        return "/".join((self.root, *parts))

    def shown(self, path: str) -> str:
        return path[len(self.root) :] if self.on("SHORT") else path

    def read(self, *parts: str) -> str:
        try:
            with open(self.path(*parts), encoding="utf-8", errors="surrogateescape") as file:
                return file.read()
        except OSError:
            return ""

    def write(self, text: str, *parts: str) -> None:
        path = self.path(*parts)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(f"{path}.new", "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
        os.rename(f"{path}.new", path)

    def remove(self, *parts: str) -> None:
        if os.path.lexists(self.path(*parts)):
            os.remove(self.path(*parts))

    def exists(self, *parts: str) -> bool:
        return os.path.exists(self.path(*parts))

    # talking

    def say(self, *lines: str) -> None:
        """As vzctl's log does on level 0: standard output."""
        self._write(1, lines)

    def err(self, *lines: str) -> None:
        """As vzctl's log does on level -1: standard error."""
        self._write(2, lines)

    def _write(self, stream: int, lines: Iterable[str]) -> None:
        """Like vzctl, it goes on when nobody listens any more."""
        with contextlib.suppress(BrokenPipeError):
            for line in lines if not self.quiet else ():
                os.write(stream, f"{line}\n".encode(errors="surrogateescape"))

    def log(self, argv: list[str]) -> None:
        with open(self.path("calls.log"), "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(repr(argv) + "\n")

    # faults

    def meet_fault(self, verb: str) -> None:
        """
        What tests want to go wrong: a file C{faults/VERB} with C{KEY=VALUE}: times, rc, stdout, stderr, delay, hang; held
        waits until there is no file C{faults/VERB-held} any more.
        """
        if not self.exists("faults", verb):
            return
        fault = dict(line.split("=", 1) for line in self.read("faults", verb).splitlines())
        left = int(fault.get("times", "1")) - 1
        if left == 0:
            self.remove("faults", verb)
        else:
            fault["times"] = str(left)
            self.write("".join(f"{key}={value}\n" for key, value in fault.items()), "faults", verb)
        if "stdout" in fault:
            self.say(fault["stdout"])
        if "stderr" in fault:
            self.err(fault["stderr"])
        if "delay" in fault:
            time.sleep(float(fault["delay"]))
        while "hang" in fault:
            time.sleep(60)
        while "held" in fault and self.exists("faults", f"{verb}-held"):
            time.sleep(0.02)
        if "rc" in fault:
            raise Fail(int(fault["rc"]))

    # containers

    def confs(self) -> list[str]:
        """The ids of all that have a configuration."""
        ids = [name[:-5] for name in os.listdir(self.path("etc/vz/conf")) if name.endswith(".conf")]
        known = [id for id in ids if id != "0" and (id.isdigit() or is_uuid(id))]
        return sorted(known, key=lambda id: (len(id), id))

    def has_conf(self, ctid: str) -> bool:
        return self.exists("etc/vz/conf", f"{ctid}.conf")

    def conf(self, ctid: str) -> Conf:
        return Conf(self.read("etc/vz/conf", f"{ctid}.conf"))

    def save(self, ctid: str, conf: Conf) -> None:
        if self.dialect == 7:
            self.write(conf.text(), "vz/private", ctid, "ve.conf")
            if not os.path.lexists(self.conf_path(ctid)):
                os.symlink(self.path("vz/private", ctid, "ve.conf"), self.conf_path(ctid))
        else:
            self.write(conf.text(), "etc/vz/conf", f"{ctid}.conf")

    def conf_path(self, ctid: str) -> str:
        return self.path("etc/vz/conf", f"{ctid}.conf")

    def private(self, ctid: str) -> str:
        return self.path("vz/private", ctid)

    def is_there(self, ctid: str) -> bool:
        return self.has_conf(ctid) and os.path.isdir(self.private(ctid))

    def running(self, ctid: str) -> bool:
        """A guest that dies fast takes the commands in it along, and is told as running for a moment longer."""
        dying = self.path("run", ctid, "dying")
        if os.path.exists(dying) and time.time() - os.path.getmtime(dying) > DYING:
            self.unmark(ctid, "running", "dying")
        return self.exists("run", ctid, "running")

    def mounted(self, ctid: str) -> bool:
        return self.exists("run", ctid, "mounted")

    def frozen(self, ctid: str) -> bool:
        frozen = (
            self.exists("run", ctid, "frozen") or self.read("freezer", f"vz-{ctid}", "freezer.state").strip() == "FROZEN"
        )
        return self.running(ctid) and frozen

    def suspended(self, ctid: str) -> bool:
        return self.exists("vz/dump", f"Dump.{ctid}") and not self.running(ctid)

    def mark(self, ctid: str, what: str, value: str = "") -> None:
        self.write(value, "run", ctid, what)

    def unmark(self, ctid: str, *what: str) -> None:
        for one in what:
            self.remove("run", ctid, one)

    def named(self, name: str) -> str:
        """The container of a name; empty: none. As the links in C{names} say, whatever the configuration does."""
        link = self.path("etc/vz/names", name)
        if not name or "/" in name or not os.path.exists(link):
            return ""
        return os.path.basename(os.readlink(link))[:-5]

    def names_of(self, ctid: str) -> list[str]:
        """The links in C{names} that lead to a container."""
        links = self.path("etc/vz/names")
        return [name for name in os.listdir(links) if os.path.basename(os.readlink(f"{links}/{name}")) == f"{ctid}.conf"]

    def layout(self, conf: Conf) -> str:
        return conf.get("VE_LAYOUT") or ("ploop" if self.dialect == 7 else "simfs")

    # locks

    def lock(self, ctid: str, status: str) -> None:
        """Take the container's lock file. @raise Fail: a living process has it."""
        path = self.path("vz/lock", f"{ctid}.lck")
        temporary = f"{path}.{self.pid}"
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(temporary, "w") as file:
            file.write(f"{self.pid}\n{status}\n")
        patience = time.monotonic() + (float(self.settings.get("LOCK_WAIT", "60")) if self.dialect == 7 else 0)
        try:
            while True:
                try:
                    os.link(temporary, path)
                    break
                except FileExistsError:
                    self._meet_owner(path, patience)
        finally:
            os.remove(temporary)
        self.locked.append(path)
        signal.signal(signal.SIGTERM, lambda *_: self.say("Cancelling..."))
        signal.signal(signal.SIGINT, lambda *_: self.say("Cancelling..."))

    def _meet_owner(self, path: str, patience: float) -> None:
        try:
            with open(path) as file:
                pid = int(file.readline() or "0")
        except (OSError, ValueError):
            return
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            self.say(f"Removing stale lock file {self.shown(path)}")
            os.remove(path)
            return
        except PermissionError:
            pass
        if time.monotonic() < patience:
            time.sleep(0.02)
            return
        if self.dialect == 7:
            raise Fail(9, f"Locked info: pid={pid} cmdline={cmdline(pid)}", "Cannot lock the Container")
        raise Fail(9, f"Locked by: pid {pid}, cmdline {cmdline(pid)}", "Container already locked")

    def unlock(self) -> None:
        while self.locked:
            os.remove(self.locked.pop())


def cmdline(pid: int) -> str:
    """A process's command line; of the stand-ins, as if they were the real tools."""
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            words = file.read().split("\0")[:-1]
    except OSError:
        return ""
    for number, word in enumerate(words):
        name = os.path.basename(word)
        if name in ("vzctl", "vzmigrate"):
            return " ".join((name, *words[number + 1 :]))
    return " ".join(words)


def run(host: Host, argv: list[str], command: object) -> int:
    """Run a command to its exit code, and let its locks go."""
    host.log(argv)
    try:
        return int(command(host, argv[1:]) or 0)  # type: ignore[operator]
    except Fail as fail:
        (host.say if fail.out else host.err)(*fail.lines)
        return fail.code
    finally:
        host.unlock()

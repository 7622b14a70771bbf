"""
Parsers of the output of vzctl and vzlist, in both dialects, as pure functions.

Dialect 4 is vzctl 4.x (and 3.x), dialect 7 that of OpenVZ 7, whose versions are 7 to 9. Exit codes: vzctl(8), and vzerror.h
of each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fluidvm.driver import AlreadyThere, DomainState, DriverError, NoSuchThing, Unreachable, Unsupported, WrongState

PAGE = 4096
MIB = 1024 * 1024
UNLIMITED_PAGES = 2**40
"""An amount of pages from here on means "unlimited": vzctl uses C{LONG_MAX} and its quotients for that."""
LOCKED = 9
NO_CONFIG = 14
BAD_VALUE = 21
NOT_RUNNING = 31
AREA_EXISTS = 44
LIST_FIELDS = (
    "ctid",
    "status",
    "physpages",
    "swappages",
    "cpus",
    "cpuunits",
    "cpulimit",
    "onboot",
    "layout",
    "diskspace",
    "diskinodes",
    "ip",
    "uptime",
    "laverage",
    "ostemplate",
    "private",
)
"""The fields requested from vzlist. No free text: vzlist doesn't escape it, so one quote would make the output invalid."""


@dataclass(frozen=True)
class Dialect:
    """
    The differences between the two families of tools.

    @ivar number: 4 or 7.
    @ivar version: as reported by C{vzctl --version}.
    @ivar uuids: whether containers' ids are UUIDs, which the caller chooses.
    """

    number: int
    version: str
    uuids: bool


def parse_version(stdout: str) -> Dialect:
    """
    Read C{vzctl --version}.

    @raise Unsupported: it isn't vzctl's, or the version is too old.
    """
    found = re.search(r"^vzctl version (\d+)\.(\S*)", stdout, re.MULTILINE)
    if found is None:
        raise Unsupported("This isn't OpenVZ's vzctl: it reports no version.")
    major, version = int(found[1]), f"{found[1]}.{found[2]}"
    if major >= 7:
        return Dialect(7, version, True)
    if major >= 4:
        return Dialect(4, version, False)
    raise Unsupported(f"vzctl {version} is too old: FluidVM needs 4.0 or later, whose vzlist writes JSON.")


@dataclass(frozen=True)
class Status:
    """The output of C{vzctl status}. C{state} is one of C{running}, C{paused}, C{suspended} and C{down}."""

    exists: bool
    mounted: bool
    state: str


def parse_status(stdout: str) -> Status:
    """
    Read C{vzctl status}, in any dialect.

    @raise DriverError: the status line is missing.
    """
    for line in stdout.splitlines():
        words = line.split()
        if len(words) >= 5 and words[0] in ("CTID", "VEID"):
            state = words[4]
            if state == "down" and "suspended" in words[5:]:
                state = "suspended"
            return Status(words[2] == "exist", words[3] == "mounted", state)
    raise DriverError(f"vzctl status gave unexpected output: {first_line(stdout)!r}.")


STATES = {
    "running": DomainState.RUNNING,
    "paused": DomainState.PAUSED,
    "suspended": DomainState.SAVED,
    "down": DomainState.STOPPED,
    "stopped": DomainState.STOPPED,
    "mounted": DomainState.STOPPED,
    "unknown": DomainState.CRASHED,
}
"""The states in C{vzctl status} and in vzlist's C{status}."""


@dataclass(frozen=True)
class Listed:
    """
    A container as vzlist reports it.

    @ivar ctid: its id, a number or a UUID.
    @ivar state: vzlist's own word.
    @ivar memory: MiB; C{None}: unlimited.
    @ivar bound: the memory barrier in MiB, which is the limit on kernels other than OpenVZ's; C{None}: unlimited there.
    @ivar swap: MiB; C{None}: unlimited.
    @ivar used_memory: MiB; C{None}: unknown, as vzlist reports 0 if there are no beancounters.
    @ivar cpus: 0: all of the host's.
    @ivar cpulimit: percent of one CPU; 0: unlimited.
    @ivar disk: MiB of its file system's soft limit; 0: not reported.
    @ivar used_disk: MiB.
    @ivar addresses: as in the kernel or the configuration.
    @ivar uptime: seconds.
    """

    ctid: str
    state: str
    memory: int | None
    bound: int | None
    swap: int | None
    used_memory: int | None
    cpus: int
    cpuunits: int
    cpulimit: int
    disk: int
    used_disk: int
    inodes: int
    used_inodes: int
    addresses: tuple[str, ...]
    uptime: float
    onboot: bool
    layout: str
    ostemplate: str
    private: str


def parse_list(stdout: str) -> list[Listed]:
    """
    Read C{vzlist -j} with L{LIST_FIELDS}: an array, which has three shapes when it is empty.

    @raise DriverError: it isn't valid.
    """
    try:
        told = json.loads(stdout or "[]")
        return [_listed(one) for one in told]
    except (ValueError, TypeError, KeyError, AttributeError):
        raise DriverError(f"vzlist gave unexpected output: {first_line(stdout)!r}.") from None


def _listed(one: Mapping[str, Any]) -> Listed:
    disk, inodes = one.get("diskspace") or {}, one.get("diskinodes") or {}
    return Listed(
        ctid=str(one["ctid"]),
        state=str(one["status"]),
        memory=_mib(one["physpages"]["limit"]),
        bound=_mib(one["physpages"]["barrier"]) or None,
        swap=_mib(one["swappages"]["limit"]),
        used_memory=_held(one["physpages"]["held"]),
        cpus=int(one.get("cpus") or 0),
        cpuunits=int(one.get("cpuunits") or 0),
        cpulimit=int(one.get("cpulimit") or 0),
        disk=-(-int(disk.get("softlimit") or 0) // 1024),
        used_disk=-(-int(disk.get("usage") or 0) // 1024),
        inodes=int(inodes.get("softlimit") or 0),
        used_inodes=int(inodes.get("usage") or 0),
        addresses=tuple(one.get("ip") or ()),
        uptime=float(one.get("uptime") or 0.0),
        onboot=bool(one.get("onboot")),
        layout=str(one.get("layout") or ""),
        ostemplate=str(one.get("ostemplate") or ""),
        private=str(one.get("private") or ""),
    )


def _held(pages: int) -> int | None:
    return -(-pages * PAGE // MIB) if pages else None


def _mib(pages: int) -> int | None:
    return None if pages >= UNLIMITED_PAGES else -(-pages * PAGE // MIB)


def parse_conf(text: str) -> dict[str, str]:
    """Read a configuration file, C{KEY="value"}: the last line for a key counts, and nothing is unescaped."""
    values = {}
    for line in text.splitlines():
        found = re.fullmatch(r"\s*([A-Z_][A-Z0-9_]*)=(.*?)\s*", line)
        if found:
            value = found[2]
            values[found[1]] = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'" else value
    return values


GREP_KEYS = "^(NAME|DESCRIPTION|VE_PRIVATE|OSTEMPLATE|ORIGIN_SAMPLE|PHYSPAGES|CPUUNITS|IOLIMIT|IOPSLIMIT)="
"""The keys read from configurations; each configuration has at least one of them."""
SURVEY = """\
grep -RsHE '--include=*.conf' "$1" "$2"
echo "-- $?"
find "$3" -type l -printf '%l\n'
echo --
fields=$4
shift 4
exec vzlist -j -o "$fields" "$@"
"""
"""
A shell script that runs both grep and vzlist: most verbs need both, and over SSH each command takes time.

Its arguments are a pattern, the directory of configurations, that of names, the fields, and further arguments of vzlist.
"""


def split_survey(stdout: str) -> tuple[str, set[str], str]:
    """
    Parse the output of L{SURVEY}. Each line of grep begins with a path.

    @return: the output of grep, the ids to which names are linked, and the output of vzlist.
    @raise DriverError: grep failed.
    """
    end = re.search(r"^-- (\d+)\n((?:.*\n)*?)--\n", stdout, re.MULTILINE)
    # 1: nothing was found; 2: for example, a file was removed meanwhile.
    if end is None or int(end[1]) > 2:
        raise DriverError("The node's containers can't be listed: grep failed.")
    links = {line.rpartition("/")[2].removesuffix(".conf") for line in end[2].splitlines()}
    return stdout[: end.start()], links, stdout[end.end() :]


def parse_grep(stdout: str) -> dict[str, dict[str, str]]:
    """
    Read C{grep -H} over a directory of configuration files.

    @return: what was found in each container's file, by its id; samples and the host's own file are left out.
    """
    found: dict[str, list[str]] = {}
    for line in stdout.splitlines():
        path, colon, rest = line.partition(".conf:")
        ctid = path.rpartition("/")[2]
        if colon and is_ctid(ctid):
            found.setdefault(ctid, []).append(rest)
    return {ctid: parse_conf("\n".join(lines)) for ctid, lines in found.items()}


def is_ctid(text: str) -> bool:
    """Whether this is the id of a container: a number other than 0 (the host), or a UUID."""
    return bool(re.fullmatch(r"[1-9][0-9]{0,9}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text))


@dataclass(frozen=True)
class Snapshot:
    """A snapshot from C{vzctl snapshot-list}. C{parent} is empty at the root; C{created} is the host's local time."""

    uuid: str
    parent: str
    current: bool
    created: str
    name: str = ""


def parse_snapshots(stdout: str) -> list[Snapshot]:
    """Read C{vzctl snapshot-list -H -o uuid,parent_uuid,current,date,name}: columns of 38, 38, 1 and 19, and the rest."""
    made = []
    for line in stdout.splitlines():
        uuid = line[:38].strip().strip("{}")
        if is_ctid(uuid):
            parent = line[39:77].strip().strip("{}")
            made.append(Snapshot(uuid, parent, line[78:79] == "*", line[80:99].strip(), line[100:].strip()))
    return made


def parse_templates(stdout: str) -> list[str]:
    """Read the listing of a template cache: the names of the archives that C{vzctl create} of dialect 4 takes."""
    names = set()
    for line in stdout.splitlines():
        found = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._+-]*?)\.tar(\.gz|\.bz2|\.xz)?", line.strip())
        if found:
            names.add(found[1])
    return sorted(names)


def parse_host(told: str) -> tuple[int, int]:
    """
    Read C{/proc/stat} and C{/proc/meminfo}.

    @return: the number of CPUs that are online, and the RAM in MiB.
    @raise DriverError: one of them is missing.
    """
    cpus = len(re.findall(r"^cpu\d+ ", told, re.MULTILINE))
    memory = re.search(r"^MemTotal:\s+(\d+) kB", told, re.MULTILINE)
    if not cpus or memory is None:
        raise DriverError("The node doesn't report its CPUs and its memory.")
    return cpus, int(memory[1]) // 1024


def is_openvz(dialect: Dialect, told: str) -> bool:
    """
    Whether a node's kernel is OpenVZ's: dialect 7 runs on no other kernel, dialect 4 runs on any.

    @param told: output that includes that of C{ls -d /proc/vz}, which is what vzctl checks.
    """
    return dialect.number == 7 or re.search("^/proc/vz$", told, re.MULTILINE) is not None


@dataclass(frozen=True)
class Moment:
    """A point in time on the node: the boot, and the seconds since."""

    boot: int
    uptime: float


def parse_moment(stdout: str) -> Moment:
    """Read C{/proc/sys/kernel/random/boot_id} and C{/proc/uptime}. @raise DriverError: they aren't there."""
    found = re.fullmatch(r"([0-9a-f]{8})-\S+\s+([0-9.]+)\s.*", stdout.strip(), re.DOTALL)
    if found is None:
        raise DriverError("The node doesn't report its uptime.")
    return Moment(int(found[1], 16), float(found[2]))


def first_line(text: str) -> str:
    """The first line that isn't empty, for messages."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")[:200]


# Codes that mean the same in both dialects; all others become a plain DriverError.
_MEANINGS: dict[int, type[DriverError]] = {
    5: Unsupported,  # no OpenVZ kernel
    LOCKED: WrongState,
    11: Unsupported,  # a helper script is missing
    NO_CONFIG: NoSuchThing,
    NOT_RUNNING: WrongState,
    32: WrongState,  # running
    40: WrongState,  # not mounted
    41: WrongState,  # mounted
    43: NoSuchThing,  # its private area
    AREA_EXISTS: AlreadyThere,
    78: AlreadyThere,  # an address is in use
    91: NoSuchThing,  # an OS template
    105: WrongState,  # starting is disabled
    127: Unreachable,  # env: vzctl no longer exists
}
_MEANINGS_OF: dict[int, dict[int, type[DriverError]]] = {
    4: {99: Unsupported, 131: AlreadyThere},
    7: {131: Unsupported, 137: AlreadyThere, 141: WrongState, 221: NoSuchThing, 233: Unsupported},
}
_WORDS = {LOCKED: "another command holds the container's lock", 5: "the node doesn't run an OpenVZ kernel"}


def explain(dialect: Dialect, subject: str, code: int, stdout: str, stderr: str) -> DriverError:
    """
    Convert a failure of vzctl: the class depends on the exit code alone, the sentence contains vzctl's message.

    @param subject: the operation, as the beginning of the sentence.
    """
    kind = _MEANINGS_OF[dialect.number].get(code) or _MEANINGS.get(code, DriverError)
    said = [line.strip() for line in (*stderr.splitlines(), *stdout.splitlines()) if line.strip()]
    words = _WORDS.get(code) or "; ".join(line.rstrip(".") for line in said[:3]) or "no reason was given"
    return kind(f"{subject}: {words[:400]} (vzctl's exit code {code}).")

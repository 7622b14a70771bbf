"""
Maps containers to domains by a line in the container's description, and chooses ids for new containers.

vzctl 4.x identifies containers by numbers, which don't show who created them and are reused. So a container's description
begins with what FluidVM must find again after a crash. As it is stored on the node, it can't get lost, and it migrates too.
"""

from __future__ import annotations

import re
import uuid as uuids
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from fluidvm.driver import DriverError

FIRST_ID, LAST_ID = 1_000_000, 9_999_999
"""Ids of new containers in dialect 4: seven digits, because C{veth1000000.0} must fit into 15 characters."""
_NAMESPACE = uuids.UUID("6f2c3f0e-6d0b-5a51-9c8e-2f1d6d2c9b57")
_MARK = re.compile(
    r"fluidvm:(?P<uuid>[0-9a-f-]{36}):(?P<ctid>[0-9a-f-]+):(?P<vcpus>\d+):(?P<memory>\d+)(?P<new>:new)?"
    r"(:paused@(?P<paused>\d+))?(?: (?P<rest>.*))?"
)
_UNSAFE = re.compile(r'[\x00-\x1f\x7f"\\`$]')


@dataclass(frozen=True)
class Mark:
    """
    FluidVM's data in a container's description.

    @ivar ctid: the container for which it was written, to detect a configuration that somebody has copied.
    @ivar paused: when the container that was then frozen had started, in seconds since the epoch; C{None}: not frozen.
        Dialect 4 can't distinguish frozen containers from running ones; after a restart this value is ignored.
    @ivar rest: the description for users.
    @ivar new: it was created, but hasn't been configured as specified yet.
    """

    uuid: str
    ctid: str
    max_vcpus: int
    max_memory: int
    paused: int | None = None
    rest: str = ""
    new: bool = False

    def __str__(self) -> str:
        more = (":new" if self.new else "") + ("" if self.paused is None else f":paused@{self.paused}")
        return f"fluidvm:{self.uuid}:{self.ctid}:{self.max_vcpus}:{self.max_memory}{more} {self.rest}".rstrip()


@dataclass(frozen=True)
class Identity:
    """
    The container of a domain.

    @ivar name: empty if it has none.
    @ivar description: the whole description, including the mark.
    @ivar conf: what else was read from its configuration, by keys: its weight and its rate limits, if it has any.
    @ivar unfinished: C{vzctl create} is still creating it, or was killed: it isn't a container yet.
    """

    uuid: str
    ctid: str
    name: str
    mark: Mark | None
    description: str
    conf: Mapping[str, str]
    unfinished: bool = False

    def marked(self, max_vcpus: int, max_memory: int) -> Mark:
        """
        Return its new mark; text from users in its description stays.

        @raise DriverError: that text can't be stored safely.
        """
        rest = self.mark.rest if self.mark else check_text(f"Description of container {self.ctid}", self.description)
        return Mark(self.uuid, self.ctid, max_vcpus, max_memory, rest=rest)


def parse_mark(description: str) -> Mark | None:
    """Read a description; C{None} if it isn't marked."""
    found = _MARK.fullmatch(description.strip())
    if found is None:
        return None
    paused = found["paused"]
    return Mark(
        found["uuid"],
        found["ctid"],
        int(found["vcpus"]),
        int(found["memory"]),
        int(paused) if paused else None,
        found["rest"] or "",
        bool(found["new"]),
    )


def check_text(what: str, text: str) -> str:
    """
    Refuse text that must not get into a configuration file, because shell scripts on the host execute that file.

    @raise DriverError: it contains a control character or one of C{" \\ ` $}.
    """
    if _UNSAFE.search(text):
        raise DriverError(f'{what} must not contain control characters or any of " \\ ` $ on an OpenVZ node.')
    return text


def identify(node: str, descriptions: Mapping[str, str]) -> dict[str, tuple[str, Mark | None]]:
    """
    Map containers to domains.

    A container without a mark gets a UUID derived from its id and its node. If a mark is found twice, somebody has copied a
    container: the mark is valid for the container for which it was written, and the copy is treated as unmarked.

    @param descriptions: by the containers' ids.
    @return: by UUID, the id and the mark.
    """
    marks = {ctid: parse_mark(text) for ctid, text in descriptions.items()}
    owners: dict[str, str] = {}
    for ctid in sorted(marks):
        mark = marks[ctid]
        if mark is not None and (mark.uuid not in owners or mark.ctid == ctid):
            owners[mark.uuid] = ctid
    found: dict[str, tuple[str, Mark | None]] = {}
    for ctid, mark in marks.items():
        if mark is not None and owners[mark.uuid] == ctid:
            found[mark.uuid] = ctid, mark
        else:
            found[foreign_uuid(node, ctid)] = ctid, None
    return found


def foreign_uuid(node: str, ctid: str) -> str:
    """The UUID of an unmarked container: its own in dialect 7, else one derived from its id and its node's name."""
    return str(uuids.uuid5(_NAMESPACE, f"{node}/{ctid}")) if ctid.isdigit() else ctid


WRITTEN_LAST = ("NAME", "DESCRIPTION", "OSTEMPLATE", "ORIGIN_SAMPLE", "VE_PRIVATE")
"""What C{vzctl create} of dialect 4 adds to a copy of the sample configuration as its last step."""


def is_unfinished(ctid: str, conf: Mapping[str, str], named: Collection[str]) -> bool:
    """
    Whether a container of dialect 4 is still being created, or was when vzctl was killed: the link of its name comes first.

    @param named: the ids to which names are linked.
    """
    return ctid in named and not any(key in conf for key in WRITTEN_LAST)


def own_id(uuid: str) -> str:
    """The first choice of an id for a container with this UUID."""
    return next(iter(new_ids(uuid, ())))


def new_ids(uuid: str, taken: Iterable[str]) -> Iterable[str]:
    """
    Yield ids for a new container, the best first.

    The first is derived from the UUID: a repetition while an unnoticed first attempt is still running finds the lock of that
    attempt, instead of creating a second container. Ids on different nodes seldom collide, so containers can be migrated.
    """
    used = set(taken)
    size = LAST_ID - FIRST_ID + 1
    first = uuids.UUID(uuid).int % size
    return (ctid for step in range(size) if (ctid := str(FIRST_ID + (first + step) % size)) not in used)


def unpaused(mark: Mark) -> Mark:
    """The same mark for a container that isn't frozen."""
    return replace(mark, paused=None)

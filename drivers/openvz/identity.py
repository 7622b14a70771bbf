"""
Which container is which domain: a line in the container's own description, and ids for new containers.

vzctl 4.x names containers by numbers, which say nothing about who made them and are used again. So a container's description
begins with what FluidVM has to find again after a crash, on the node itself: nothing to lose, and migration takes it along.
"""

from __future__ import annotations

import re
import uuid as uuids
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from fluidvm.driver import DriverError

FIRST_ID, LAST_ID = 1_000_000, 9_999_999
"""Ids of new containers in dialect 4: seven digits, for C{veth1000000.0} has to fit the 15 characters of an interface."""
_NAMESPACE = uuids.UUID("6f2c3f0e-6d0b-5a51-9c8e-2f1d6d2c9b57")
_MARK = re.compile(
    r"fluidvm:(?P<uuid>[0-9a-f-]{36}):(?P<ctid>[0-9a-f-]+):(?P<vcpus>\d+):(?P<memory>\d+)(?P<new>:new)?"
    r"(:paused@(?P<paused>\d+))?(?: (?P<rest>.*))?"
)
_UNSAFE = re.compile(r'[\x00-\x1f\x7f"\\`$]')


@dataclass(frozen=True)
class Mark:
    """
    What a container's description says to FluidVM.

    @ivar ctid: the container it was written for: a configuration that somebody copied shows by it.
    @ivar paused: when the container that was then frozen had started, in seconds since the epoch; C{None}: not frozen.
        Dialect 4 can't tell frozen containers from running ones; once it has been started anew, this counts no more.
    @ivar rest: the description that people see.
    @ivar new: it was made, and hasn't been given what its spec says yet.
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
    Which container a domain is.

    @ivar name: empty where it has none.
    @ivar description: the whole, mark and all.
    @ivar conf: what else was read of its configuration, by keys: its weight and its rates, where it has any.
    @ivar unfinished: C{vzctl create} has begun to make it and goes on, or was killed: it is no container yet.
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
        The mark that it is to have; what people wrote into its description stays.

        @raise DriverError: that can't be kept safely.
        """
        rest = self.mark.rest if self.mark else check_text(f"Description of container {self.ctid}", self.description)
        return Mark(self.uuid, self.ctid, max_vcpus, max_memory, rest=rest)


def parse_mark(description: str) -> Mark | None:
    """Read a description; C{None} where it isn't marked."""
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
    Refuse text that mustn't get into a configuration file: shell scripts on the host read that as a part of themselves.

    @raise DriverError: it holds a control character or one of C{" \\ ` $}.
    """
    if _UNSAFE.search(text):
        raise DriverError(f'{what} must not contain control characters or any of " \\ ` $ on an OpenVZ node.')
    return text


def identify(node: str, descriptions: Mapping[str, str]) -> dict[str, tuple[str, Mark | None]]:
    """
    Say which domain each container is.

    One that isn't marked has a UUID by its id and its node. When a mark is found twice, somebody has copied a container: it
    counts where it was written for, and the copy is one of others.

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
    """The UUID of a container that isn't marked: its own in dialect 7, else one made of its id and its node's name."""
    return str(uuids.uuid5(_NAMESPACE, f"{node}/{ctid}")) if ctid.isdigit() else ctid


WRITTEN_LAST = ("NAME", "DESCRIPTION", "OSTEMPLATE", "ORIGIN_SAMPLE", "VE_PRIVATE")
"""What C{vzctl create} of dialect 4 adds to a copy of the sample configuration when all else is done."""


def is_unfinished(ctid: str, conf: Mapping[str, str], named: Collection[str]) -> bool:
    """
    Say whether a container of dialect 4 is still being made, or was when vzctl was killed: the link of its name comes first.

    @param named: the ids that names lead to.
    """
    return ctid in named and not any(key in conf for key in WRITTEN_LAST)


def own_id(uuid: str) -> str:
    """The first number that a container of this UUID is given."""
    return next(iter(new_ids(uuid, ())))


def new_ids(uuid: str, taken: Iterable[str]) -> Iterable[str]:
    """
    Give numbers for a new container, the best first.

    The first is made of the UUID: a creation that is repeated while its first attempt goes on unseen meets that attempt's
    lock, instead of making a second container. Two nodes' containers seldom have the same, so they can be migrated.
    """
    used = set(taken)
    size = LAST_ID - FIRST_ID + 1
    first = uuids.UUID(uuid).int % size
    return (ctid for step in range(size) if (ctid := str(FIRST_ID + (first + step) % size)) not in used)


def unpaused(mark: Mark) -> Mark:
    """The same, of a container that isn't frozen."""
    return replace(mark, paused=None)

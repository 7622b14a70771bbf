"""The audit log: who did what to which object, from which address, and with which outcome."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from fluidvm.model.declare import Method
from fluidvm.model.kinds import Array, Kind, Struct
from fluidvm.model.object_fields import Fields
from fluidvm.model.xmlvalue import moment
from fluidvm.store import audit as stored
from fluidvm.store.database import Database, OutcomeUnknown

INTERVAL = 1.0
"""Maximum number of seconds until a line is stored."""
MOST_WAITING = 10_000
LONGEST_STRING, LONGEST_ARGUMENTS = 200, 4000
HIDDEN = "***"

FIELDS: Fields = {
    "id": int,
    "time": datetime,
    "event": str,
    "user": int,
    "name": str,
    "address": str,
    "method": str,
    "target_type": str,
    "target": int,
    "execution_context": int,
    "task": int,
    "code": int,
    "arguments": str,
    "error": str,
}
"""A line's keys on the wire; a key without a value is absent."""
Line = dict[str, Any]


class AuditLog:
    """
    Collects lines and stores them.

    A line that belongs to a transaction (a commit or an outcome) is made by L{line} and stored in that transaction by
    C{stored.add}. All other lines are added by L{note} or L{count}, and stored within a second.

    @param clock: for timers.
    @param wall_clock: seconds since the epoch.
    """

    _log = Logger()

    def __init__(self, database: Database, clock: IReactorTime, wall_clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock
        self._wall_clock = wall_clock
        self._waiting: list[Line] = []
        self._counted: dict[tuple[str, str], Line] = {}
        self._timer: IDelayedCall | None = None
        self._lost = 0

    def line(self, event: str, **fields: Any) -> Line:
        """Make a line. Fields that are not given are empty."""
        return {
            "time": self._wall_clock(),
            "event": event,
            "user": None,
            "name": "",
            "address": "",
            "method": "",
            "target_type": "",
            "target": None,
            "execution_context": None,
            "task": None,
            "code": 0,
            "arguments": "",
            "error": "",
        } | fields

    def note(self, event: str, **fields: Any) -> None:
        """Add a line, to be stored soon."""
        if len(self._waiting) >= MOST_WAITING:
            self._lost += 1
            return
        self._waiting.append(self.line(event, **fields))
        self._schedule()

    def count(self, event: str, address: str, **fields: Any) -> None:
        """As L{note}, for events that anybody can cause at any rate: one line per address and second, with their number."""
        key = (event, address)
        if key not in self._counted:
            if len(self._counted) >= MOST_WAITING:
                self._lost += 1
                return
            self._counted[key] = self.line(event, address=address, **fields) | {"times": 0}
        self._counted[key]["times"] += 1
        self._schedule()

    def _schedule(self) -> None:
        if self._timer is None:
            self._timer = self._clock.callLater(INTERVAL, self._store_soon)

    def _store_soon(self) -> None:
        self._timer = None
        storing = Deferred.fromCoroutine(self.flush())
        storing.addErrback(lambda failure: self._log.failure("The audit log failed", failure))

    def take(self) -> list[Line]:
        """Take the waiting lines, to store them in another transaction. If that fails, call L{put_back}."""
        lines, self._waiting = self._waiting, []
        return lines

    def put_back(self, lines: list[Line]) -> None:
        """Undo L{take}, before lines added since."""
        self._waiting[:0] = lines

    async def flush(self) -> None:
        """Store the waiting lines. If the store fails, they go on waiting."""
        for counted in self._counted.values():
            times = counted.pop("times")
            counted["arguments"] = f"{times} times" if times > 1 else ""
            self._waiting.append(counted)
        self._counted = {}
        if self._lost:
            self._waiting.append(self.line("lost", error=f"{self._lost} lines lost: the store was unavailable too long"))
            self._lost = 0
        lines = self.take()
        if not lines:
            return
        try:
            await self._database.run(stored.add, lines)
        except OutcomeUnknown as unknown:
            # If they were put back at once, they could be stored twice.
            unknown.outcome.addErrback(lambda failure: self.put_back(lines))
        except Exception as error:
            self.put_back(lines)
            self._log.error("The audit log can't be stored: {error}", error=str(error))
            self._schedule()

    async def stop(self) -> None:
        """Store the waiting lines, and stop the timer."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        await self.flush()

    async def page(self, wanted: Mapping[str, Any], limit: int) -> list[Line]:
        """Return one page of lines in their wire form. C{wanted}: a checked filter."""
        await self.flush()
        equal = {key: value for key, value in wanted.items() if key in FIELDS}
        since, until = (_seconds(wanted.get(key)) for key in ("since", "until"))
        if "time" in equal:  # the wire form has whole seconds, the store has fractions
            second = equal.pop("time").timestamp()
            since = second if since is None else max(since, second)
            until = second + 1 if until is None else min(until, second + 1)
        rows = await self._database.run(stored.page, equal, since, until, wanted.get("after", 0), limit)
        return [_wire(row) for row in rows]

    async def forget(self, before: float) -> None:
        """Delete the lines that were written before a point in time (seconds since the epoch)."""
        while await self._database.run(stored.drop, before):
            pass


def _seconds(value: Any) -> Any:
    return value.timestamp() if isinstance(value, datetime) else value


def _wire(row: Line) -> Line:
    row["time"] = moment(row["time"])
    return {key: row[key] for key in FIELDS if row[key] not in (None, "")}


def shown(method: Method, values: Sequence[Any]) -> str:
    """Format a call's checked arguments as JSON, without secrets and with bounded length."""
    named = {
        parameter.name: _redacted(parameter.kind, value) for parameter, value in zip(method.parameters, values, strict=False)
    }
    text = json.dumps(named, default=str)
    return text if len(text) <= LONGEST_ARGUMENTS else text[:LONGEST_ARGUMENTS] + "..."


def _redacted(kind: Kind, value: Any) -> Any:
    if kind.secret:
        return HIDDEN
    if isinstance(kind, Struct) and isinstance(value, dict):
        fields = kind.fields or {}
        return {key: _redacted(fields[key], member) if key in fields else _cut(member) for key, member in value.items()}
    if isinstance(kind, Array) and isinstance(value, list):
        return [_redacted(kind.of, member) for member in value]
    return _cut(value)


def _cut(value: Any) -> Any:
    return value[:LONGEST_STRING] + "..." if isinstance(value, str) and len(value) > LONGEST_STRING else value

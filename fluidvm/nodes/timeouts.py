"""Timeouts for the verbs of a connection to a compute node."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from zope.interface import directlyProvides, providedBy
from zope.interface.interface import Method

from fluidvm.driver import DriverError, IPatience, Unreachable
from fluidvm.driver.answers import within

LOOKS = 4
"""How many times per timeout the pending verbs are checked."""
_AT_ONCE = frozenset({"close", "on_lost", "subscribe"})


class _UnderWay:
    """A pending verb."""

    __slots__ = ("deadline", "ended", "name", "outcome", "timeout", "work")

    def __init__(self, name: str, work: Deferred[Any], now: float, timeout: float) -> None:
        self.name = name
        self.work = work
        self.timeout = timeout
        self.deadline = now + timeout
        self.outcome: Deferred[Any] = Deferred(self._cancel)
        self.ended = False

    def _cancel(self, outcome: Deferred[Any]) -> None:
        self.work.cancel()

    def end(self, result: Any) -> None:
        """Set the outcome. Later calls are ignored."""
        if not self.ended:
            self.ended = True
            if not self.outcome.called:
                self.outcome.callback(result)

    async def wait(self) -> Any:
        """Wait for the outcome. If cancelled, wait until the driver has stopped: the task keeps its claims until then."""
        try:
            return await self.outcome
        except CancelledError:
            if not self.ended:
                self.outcome = Deferred()
                await self.outcome.addErrback(lambda failure: None)
            raise


class TimedConnection:
    """
    Wraps a connection. If a verb neither ends nor reports progress within the timeout, all pending verbs fail with
    L{Unreachable}, and C{on_hang} is called with the reason: the connection must not be used any more.

    Results are limited to what can be sent and stored.

    It provides the same interfaces as the connection.

    @param node: the name of the compute node, for errors.
    @param timeout: in seconds; longer for the verbs in the connection's C{patience}.
    @param told: rewrites a driver's error for users.
    """

    def __init__(
        self,
        connection: Any,
        clock: IReactorTime,
        node: str,
        timeout: float,
        on_hang: Callable[[str], None],
        told: Callable[[DriverError], DriverError] = lambda error: error,
    ) -> None:
        self._connection = connection
        self._clock = clock
        self._node = node
        self._timeout = timeout
        self._longer: Mapping[str, float] = connection.patience if IPatience.providedBy(connection) else {}
        self._on_hang = on_hang
        self._told = told
        self._under_way: dict[_UnderWay, None] = {}
        self._looking: IDelayedCall | None = None
        provided = providedBy(connection)
        directlyProvides(self, provided)
        members = {name: interface[name] for interface in provided for name in interface.names(all=True)}
        self._verbs = {name for name, member in members.items() if isinstance(member, Method)} - _AT_ONCE

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._connection, name)
        if name not in self._verbs:
            return found

        def verb(*arguments: Any) -> Deferred[Any]:
            return self._call(name, found, arguments)

        self.__dict__[name] = verb  # so __getattr__ is not called again
        return verb

    def _call(self, name: str, method: Callable[..., Deferred[Any]], arguments: tuple[Any, ...]) -> Deferred[Any]:
        calls: list[_UnderWay] = []

        def alive(progress: Callable[[int], None]) -> Callable[[int], None]:
            def tell(percentage: int) -> None:
                for call in calls:
                    call.deadline = self._clock.seconds() + call.timeout
                progress(percentage)

            return tell

        # Callables among a verb's arguments are progress callbacks.
        work = method(*(alive(argument) if callable(argument) else argument for argument in arguments))
        work.addCallback(within)
        work.addErrback(self._in_words)
        if work.called and not work.paused:
            return work
        timeout = max(self._timeout, self._longer.get(name, 0.0))
        call = _UnderWay(name, work, self._clock.seconds(), timeout)
        calls.append(call)
        self._under_way[call] = None
        if self._looking is None:
            self._looking = self._clock.callLater(self._timeout / LOOKS, self._look)
        work.addBoth(self._ended, call)
        return Deferred.fromCoroutine(call.wait())

    def _in_words(self, failure: Failure) -> Failure:
        if not isinstance(failure.value, DriverError):
            return failure
        told = self._told(failure.value)
        return failure if told is failure.value else Failure(told, type(told), failure.getTracebackObject())

    def _ended(self, result: Any, call: _UnderWay) -> None:
        self._under_way.pop(call, None)
        if not self._under_way:
            self._rest()
        call.end(result)  # also handles the failure of a verb that ended too late

    def _rest(self) -> None:
        if self._looking is not None and self._looking.active():
            self._looking.cancel()
        self._looking = None

    def _look(self) -> None:
        now = self._clock.seconds()
        late = next((call for call in self._under_way if call.deadline <= now), None)
        if late is None:
            self._looking = self._clock.callLater(self._timeout / LOOKS, self._look)
        else:
            reason = f"no answer to {late.name} within {late.timeout:g} s"
            self._on_hang(reason)
            self.give_up(reason)

    def give_up(self, reason: str) -> None:
        """Fail all pending verbs."""
        calls, self._under_way = list(self._under_way), {}
        self._rest()
        for call in calls:
            words = f"Compute node {self._node}: {reason}; the outcome of {call.name} is unknown."
            call.end(Failure(Unreachable(words)))
            call.work.cancel()

"""Claims: no two tasks use the same object at the same time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred

Key = tuple[str, int]
"""An object's type and id."""


class Claim:
    """The objects that one task holds or waits for."""

    __slots__ = ("blocked", "granted", "keys")

    def __init__(self, keys: frozenset[Key], granted: Deferred[Claim]) -> None:
        self.keys = keys
        self.granted = granted
        self.blocked = 0


class Watch:
    """Watches objects without holding them: calls a function when a task claims one of them."""

    __slots__ = ("_watches", "called", "keys")

    def __init__(self, watches: dict[Key, list[Watch]], keys: frozenset[Key], called: Callable[[], None]) -> None:
        self.keys = keys
        self.called = called
        self._watches = watches

    def end(self) -> None:
        """Stop watching. A second call does nothing."""
        for key in self.keys:
            others = self._watches.get(key, [])
            if self in others:
                others.remove(self)
            if not others:
                self._watches.pop(key, None)


class Claims:
    """
    All claims of all tasks.

    A claim queues for all its objects in one step, and is granted when it is first in the queue of each of them. So claims
    of the same object are granted in the order in which they were made; no task holds one object while it waits for another,
    so there are no deadlocks; and a task that uses different objects never waits.
    """

    def __init__(self) -> None:
        self._queues: dict[Key, deque[Claim]] = {}
        self._watches: dict[Key, list[Watch]] = {}

    def watch(self, keys: Iterable[Key], called: Callable[[], None]) -> Watch:
        """Call C{called} when a task claims one of the objects, before it holds them, until L{Watch.end}."""
        watch = Watch(self._watches, frozenset(keys), called)
        for key in watch.keys:
            self._watches.setdefault(key, []).append(watch)
        return watch

    def take(self, keys: Iterable[Key]) -> Deferred[Claim]:
        """Queue for objects. Fires with the claim when it holds all of them; cancelling the Deferred leaves the queues."""
        claim = Claim(frozenset(keys), Deferred(lambda _: self.release(claim)))
        for watch in [watch for key in claim.keys for watch in self._watches.get(key, ())]:
            watch.called()
        for key in claim.keys:
            queue = self._queues.setdefault(key, deque())
            if queue:
                claim.blocked += 1
            queue.append(claim)
        if not claim.blocked:
            claim.granted.callback(claim)
        return claim.granted

    def release(self, claim: Claim) -> None:
        """Release all objects of a claim, and grant the claims that are next in the queues."""
        following = []
        for key in claim.keys:
            queue = self._queues[key]
            first = queue[0] is claim
            queue.remove(claim)
            if not queue:
                del self._queues[key]
            elif first:
                queue[0].blocked -= 1
                if not queue[0].blocked:
                    following.append(queue[0])
        for next_claim in following:
            next_claim.granted.callback(next_claim)

    def held(self, key: Key) -> bool:
        """Return whether a task holds an object or waits for it."""
        return key in self._queues


class Holding:
    """
    The objects that one task holds.

    @param claims: where it queues.
    @param keys: returns the objects that the task must hold. There can be more of them when the claim is granted, such as
        the disks of a VM.
    @ivar waiting: the claim that it waits for; C{None} if it isn't waiting.
    """

    def __init__(self, claims: Claims, keys: Callable[[], set[Key]]) -> None:
        self._claims = claims
        self._keys = keys
        self._claim: Claim | None = None
        self.waiting: Deferred[Claim] | None = None

    async def take(self) -> None:
        """Release all objects, then wait for those that it needs now. It never holds some while it waits for others."""
        while True:
            self.release()
            self.waiting = self._claims.take(self._keys())
            try:
                self._claim = await self.waiting
            finally:
                self.waiting = None
            if self._keys() <= self._claim.keys:
                return

    def release(self) -> None:
        """Release all objects."""
        claim, self._claim = self._claim, None
        if claim is not None:
            self._claims.release(claim)

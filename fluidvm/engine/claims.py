"""Claims: no two tasks touch the same object at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from twisted.internet.defer import Deferred

Key = tuple[str, int]
"""An object's type and id."""


class Claim:
    """What one task holds, or waits for."""

    __slots__ = ("blocked", "granted", "keys")

    def __init__(self, keys: frozenset[Key], granted: Deferred[Claim]) -> None:
        self.keys = keys
        self.granted = granted
        self.blocked = 0


class Watch:
    """Who looks at objects without holding them."""

    __slots__ = ("_watches", "called", "keys")

    def __init__(self, watches: dict[Key, list[Watch]], keys: frozenset[Key], called: Callable[[], None]) -> None:
        self.keys = keys
        self.called = called
        self._watches = watches

    def end(self) -> None:
        """Look no more. A repetition does nothing."""
        for key in self.keys:
            others = self._watches.get(key, [])
            if self in others:
                others.remove(self)
            if not others:
                self._watches.pop(key, None)


class Claims:
    """
    Who holds which objects.

    A claim queues for all its objects at once, in one step, and is granted when it is first for each of them. So claims of
    the same object are granted in the order in which they were made, nobody holds one object while waiting for another (no
    deadlock), and who touches other objects never waits.
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
        """Queue for objects. Fires with the claim once it holds them all; cancelling gives the place up."""
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
        """Let go of everything; the next in line are granted."""
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
        """Tell whether a task holds an object or waits for it."""
        return key in self._queues


class Holding:
    """
    What one task holds.

    @param claims: where it queues.
    @param keys: tells what it is to hold, which may be more by the time it gets it: a VM's disks.
    """

    def __init__(self, claims: Claims, keys: Callable[[], set[Key]]) -> None:
        self._claims = claims
        self._keys = keys
        self._claim: Claim | None = None
        self.waiting: Deferred[Claim] | None = None

    async def take(self) -> None:
        """Let go of what it holds, and wait for what it is to hold now. Nobody holds one thing and waits for another."""
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
        """Let go."""
        claim, self._claim = self._claim, None
        if claim is not None:
            self._claims.release(claim)

"""Tests of moving domains to another host."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from fluidvm.conformance.case import RUNNING, STOPPED, ContractCase
from fluidvm.conformance.connection import NOBODY
from fluidvm.driver import AlreadyThere, DomainDisk, DomainSpec, DomainState, IDisks, NoSuchThing, Unreachable, WrongState

SIZE = 4


class MigrationContract(ContractCase):
    """Tests of L{IMigration}."""

    async def setUp(self) -> None:  # type: ignore[override]
        await super().setUp()
        self.other = await self.wait("connect", lambda: _deferred(self.factory.connect_other()))
        self.opened.append(self.other)
        self.other_before = await self.listing(self.other)
        self.addCleanup(self.leave_other)

    async def leave_other(self) -> None:
        """Remove what the test has moved to the other host, and check that nothing is left there."""
        other = await self.wait("connect", lambda: _deferred(self.factory.connect_other()))
        self.opened.append(other)
        there = {domain.uuid for domain in await self.on(other, "list_domains")}
        for uuid in self.made:
            if uuid in there:
                await self.on(other, "stop", uuid)
                await self.on(other, "undefine_domain", uuid)
        for name in self.volumes:
            await self.on(other, "delete_volume", self.factory.pool, name)
        self.assertEqual(await self.listing(other), self.other_before, "nothing is left on the other host after the test")

    async def on_other(self, uuid: str) -> DomainState | None:
        """Return a domain's state on the other host; C{None}: it isn't there."""
        told = {domain.uuid: domain.state for domain in await self.on(self.other, "list_domains")}
        return told.get(uuid)

    async def is_moved(self, state: DomainState, uuid: str, what: str) -> None:
        """Check that a domain is on the other host only."""
        promise = f"migrate: {what} is on the other host, in the state in which it was"
        self.assertIs(await self.on_other(uuid), state, promise)
        here = [domain.uuid for domain in await self.ask("list_domains")]
        self.assertNotIn(uuid, here, f"migrate: {what} isn't on the first host anymore")

    def _arguments(self, spec: DomainSpec, live: bool = False, copy: bool = False, told: Any = None) -> tuple[Any, ...]:
        return spec, self.other, live, copy, (lambda percentage: None) if told is None else told

    async def test_a_stopped_one(self) -> None:
        spec, stays = await self.defined(autostart=True), await self.defined()
        told: list[int] = []
        await self.ask("migrate", *self._arguments(spec, told=told.append), promise="a stopped domain is moved")
        self.assertEqual(told, sorted(told), "migrate: progress never decreases")
        await self.is_moved(STOPPED, spec.uuid, "a stopped domain")
        info = await self.on(self.other, "get_domain", spec.uuid)
        self.assertEqual(
            (info.name, info.memory, info.vcpus, info.autostart),
            (spec.name, spec.memory, spec.vcpus, True),
            "migrate: the domain is the same on the other host",
        )
        await self.again("migrate", *self._arguments(spec))
        await self.is_moved(STOPPED, spec.uuid, "a domain that was moved twice")
        await self.is_in(STOPPED, stays.uuid, "migrate: another domain stays")
        await self.on(self.other, "start", spec.uuid, promise="a domain that was moved is booted")

    async def test_a_running_one(self) -> None:
        spec = await self.started()
        await self.factory.booted(self.connection, spec.uuid)
        if self.connection.migrates_live:
            await self.ask("migrate", *self._arguments(spec, live=True), promise="a running domain is moved")
            await self.is_moved(RUNNING, spec.uuid, "a running domain")
            await self.again("migrate", *self._arguments(spec, live=True))
        else:
            await self.refuses(WrongState, "a running domain", "migrate", *self._arguments(spec, live=True))
            self.assertIsNone(await self.on_other(spec.uuid), "migrate: after failure the other host doesn't know it")

    async def test_its_disks(self) -> None:
        # A driver without storage pools moves a domain's files by itself.
        if IDisks.providedBy(self.connection):  # type: ignore[attr-defined]
            for format in self.connection.formats:
                await self._with_a_disk(format)

    async def _with_a_disk(self, format: str) -> None:
        def ignore(percentage: int) -> None:
            pass

        names = self.name(), self.name()
        self.volumes.extend(names)
        here = await self.ask("create_volume", self.factory.pool, names[0], SIZE, format, ignore)
        spec = await self.defined(disks=(DomainDisk(here.path, format, "vda"),))
        wrong = replace(spec, disks=(DomainDisk(f"{here.path}-none", format, "vda"),))
        await self.refuses(NoSuchThing, "a volume that doesn't exist", "migrate", *self._arguments(wrong, copy=True))
        self.assertIsNone(await self.on_other(spec.uuid), "migrate: after failure the other host doesn't know it")
        there = await self.on(self.other, "create_volume", self.factory.pool, names[1], SIZE, format, ignore)
        moved = replace(spec, disks=(DomainDisk(there.path, format, "vda"),))
        await self.ask("migrate", *self._arguments(moved, copy=True), promise="a domain with a disk is moved")
        await self.is_moved(STOPPED, spec.uuid, "a domain with a disk")
        info = await self.on(self.other, "get_domain", spec.uuid)
        self.assertEqual(info.disks, moved.disks, "migrate: its disks have the other host's paths")
        formats = dict.fromkeys(names, format)
        listed = await self.on(self.other, "list_volumes", self.factory.pool, formats)
        self.assertIn(there, listed, f"migrate: the copy is as large, in the same format ({format})")
        self.assertIn(here, await self.ask("list_volumes", self.factory.pool, formats), "migrate: its old volume stays")

    async def test_cancelled(self) -> None:
        spec = await self.defined()
        moving = self.connection.migrate(*self._arguments(spec))
        moving.cancel()
        try:
            await self.wait("migrate", lambda: moving)
        except CancelledError:
            await self.is_in(STOPPED, spec.uuid, "migrate: after cancelling, the domain is here as before")
            self.assertIsNone(await self.on_other(spec.uuid), "migrate: after cancelling, the other host doesn't know it")
        else:
            await self.is_moved(STOPPED, spec.uuid, "a domain whose move could no longer be stopped")

    async def test_what_can_not_be_moved(self) -> None:
        spec = await self.defined()
        nobody = replace(spec, uuid=NOBODY)
        await self.refuses(NoSuchThing, "a domain that doesn't exist", "migrate", *self._arguments(nobody))
        await self.on(self.other, "define_domain", self.spec(name=spec.name))
        await self.refuses(AlreadyThere, "a name that is used on the other host", "migrate", *self._arguments(spec))
        self.assertIsNone(await self.on_other(spec.uuid), "migrate: after failure the other host doesn't know it")
        paused = await self.started()
        await self.factory.booted(self.connection, paused.uuid)
        await self.ask("pause", paused.uuid)
        await self.refuses(WrongState, "a paused domain", "migrate", *self._arguments(paused, live=True))

    async def test_closed_connections(self) -> None:
        spec = await self.defined()
        other = await self.wait("connect", lambda: _deferred(self.factory.connect_other()))
        await self.on(other, "close")
        arguments = spec, other, False, False, lambda percentage: None
        await self.refuses(Unreachable, "a closed connection to the other host", "migrate", *arguments)
        await self.ask("close")
        await self.raises(Unreachable, "a closed connection", "migrate", *self._arguments(spec))


def _deferred(coroutine: Any) -> Any:
    return Deferred.fromCoroutine(coroutine)

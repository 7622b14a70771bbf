"""Tests of snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fluidvm.conformance.case import PAUSED, RUNNING, STOPPED, ContractCase
from fluidvm.conformance.connection import NOBODY
from fluidvm.driver import (
    DomainDisk,
    DomainInfo,
    DomainSpec,
    IDisks,
    ISave,
    NoSuchThing,
    Snapshot,
    Unreachable,
    WrongState,
)

VERBS = ("create_snapshot", "revert_snapshot", "delete_snapshot")


class SnapshotsContract(ContractCase):
    """Tests of L{ISnapshots}."""

    async def disk(self, target: str) -> DomainDisk:
        """Create a volume of the default format, and return it as a disk."""
        name, format = self.name(), self.connection.formats[0]
        self.volumes.append(name)
        volume = await self.ask("create_volume", self.factory.pool, name, 16, format, lambda percentage: None)
        return DomainDisk(volume.path, volume.format, target)

    async def equipped(self, **changes: Any) -> DomainSpec:
        """Define a domain that can have snapshots: with a disk, if the driver supports them."""
        if IDisks.providedBy(self.connection):  # type: ignore[attr-defined]
            changes["disks"] = (await self.disk("vdy"),)
        return await self.defined(**changes)

    async def snapshots(self, uuid: str, promise: str) -> list[str]:
        """List a domain's snapshots by name."""
        told: Sequence[Snapshot] = await self.ask("list_snapshots", uuid, promise=promise)
        for one in told:
            self.assertIsInstance(one, Snapshot, "list_snapshots: it returns Snapshots")
        return [one.name for one in told]

    async def has(self, spec: DomainSpec, names: list[str], promise: str) -> None:
        """Check the names and the order of a domain's snapshots."""
        self.assertEqual(await self.snapshots(spec.uuid, promise), names, promise)

    async def test_a_stopped_domain(self) -> None:
        spec, other = await self.equipped(), await self.equipped()
        uuid = spec.uuid
        await self.has(spec, [], "list_snapshots: a new domain has none")
        before = await self.told(uuid, "get_domain: it describes the domain")
        await self.ask("create_snapshot", uuid, "first", promise="a snapshot of a stopped domain is created")
        await self.has(spec, ["first"], "create_snapshot: list_snapshots lists it")
        (told,) = await self.ask("list_snapshots", uuid)
        self.assertEqual(
            (told.name, told.running), ("first", False), "create_snapshot: the snapshot of a stopped domain has no memory"
        )
        self.assertGreater(told.created, 0, "list_snapshots: it reports when a snapshot was created")
        await self.again("create_snapshot", uuid, "first")
        self.assertEqual(await self.ask("list_snapshots", uuid), [told], "create_snapshot: a repetition changes nothing")
        promise = "create_snapshot: the domain continues as before"
        self.assertEqual(await self.told(uuid, promise), before, promise)
        await self.ask("create_snapshot", uuid, "second")
        await self.has(spec, ["first", "second"], "list_snapshots: the oldest comes first")
        await self.ask("revert_snapshot", uuid, "first", promise="it can be reverted to an older snapshot")
        promise = "revert_snapshot: a domain without memory is stopped"
        self.assertEqual(await self.told(uuid, promise), before, promise)
        await self.again("revert_snapshot", uuid, "first")
        await self.has(spec, ["first", "second"], "revert_snapshot: snapshots stay")
        await self.ask("delete_snapshot", uuid, "first", promise="a snapshot is deleted")
        await self.has(spec, ["second"], "delete_snapshot: list_snapshots doesn't list it")
        await self.again("delete_snapshot", uuid, "first")
        await self.has(other, [], "create_snapshot: another domain isn't affected")

    async def test_a_running_domain(self) -> None:
        spec, other = await self.equipped(), await self.equipped()
        uuid = spec.uuid
        await self.ask("create_snapshot", uuid, "off")
        await self.ask("start", uuid)
        await self.factory.booted(self.connection, uuid)
        before = await self.told(uuid, "get_domain: it describes the domain")
        await self.ask("create_snapshot", uuid, "on", promise="a snapshot of a running domain is created")
        told = {one.name: one.running for one in await self.ask("list_snapshots", uuid)}
        self.assertEqual(
            told, {"off": False, "on": True}, "create_snapshot: the snapshot of a running domain has its memory"
        )
        promise = "create_snapshot: the domain continues as before"
        self.assertEqual(await self.told(uuid, promise), before, promise)
        await self.again("create_snapshot", uuid, "on")
        for name, state in (("on", RUNNING), ("off", STOPPED), ("on", RUNNING)):
            await self.ask("revert_snapshot", uuid, name)
            await self.becomes(state, uuid, "revert_snapshot: it runs if the snapshot has its memory, else it is stopped")
        promise = "revert_snapshot: its definition stays the same"
        self.assertEqual(await self.told(uuid, promise), before, promise)
        await self.ask("delete_snapshot", uuid, "off", promise="a running domain's snapshot is deleted")
        await self.is_in(RUNNING, uuid, "delete_snapshot: the domain continues as it is")
        await self.has(spec, ["on"], "delete_snapshot: list_snapshots doesn't list it")
        await self.is_in(STOPPED, other.uuid, "revert_snapshot: another domain isn't affected")

    async def unlike(self, spec: DomainSpec, name: str, now: DomainInfo) -> None:
        """Revert after a change of the definition: it works or is refused, and the definition stays as it is now."""
        try:
            await self.wait("revert_snapshot", self.connection.revert_snapshot, spec.uuid, name)
        except WrongState as error:
            self.assertTrue(str(error).strip(), "revert_snapshot: the message says what is different")
        except NoSuchThing as error:
            raise self.failureException(f"revert_snapshot: a snapshot that was created exists; it raised {error}") from error
        is_now = await self.told(spec.uuid, "revert_snapshot: get_domain reports it")
        promise = "revert_snapshot: its definition stays the same"
        for field in ("vcpus", "max_vcpus", "memory", "max_memory", "disks", "name", "autostart", "interfaces"):
            self.assertEqual(getattr(is_now, field), getattr(now, field), f"{promise}; {field}")

    async def test_a_definition_that_has_changed(self) -> None:
        spec = await self.equipped()
        await self.ask("create_snapshot", spec.uuid, "off")
        await self.ask("start", spec.uuid)
        await self.factory.booted(self.connection, spec.uuid)
        await self.ask("create_snapshot", spec.uuid, "on")
        await self.ask("stop", spec.uuid)
        await self.ask("set_memory", spec.uuid, spec.memory + 16)
        await self.ask("set_vcpus", spec.uuid, spec.vcpus + 1)
        now = await self.told(spec.uuid, "set_memory: get_domain reports it")
        for name in ("on", "off"):
            await self.unlike(spec, name, now)
        if IDisks.providedBy(self.connection):  # type: ignore[attr-defined]
            await self.ask("stop", spec.uuid)
            await self.ask("attach_disk", spec.uuid, await self.disk("vdz"))
            now = await self.told(spec.uuid, "attach_disk: get_domain reports it")
            await self.unlike(spec, "off", now)

    async def test_states_that_allow_none(self) -> None:
        spec = await self.equipped()
        await self.ask("start", spec.uuid)
        await self.factory.booted(self.connection, spec.uuid)
        await self.ask("create_snapshot", spec.uuid, "on")
        await self.ask("pause", spec.uuid)
        for verb in ("create_snapshot", "revert_snapshot"):
            await self.refuses(WrongState, "a paused domain", verb, spec.uuid, "on" if verb == "revert_snapshot" else "new")
        await self.is_in(PAUSED, spec.uuid, "create_snapshot: after failure the domain continues as before")
        if ISave.providedBy(self.connection):  # type: ignore[attr-defined]
            await self.ask("resume", spec.uuid)
            await self.ask("save", spec.uuid, lambda percentage: None)
            await self.refuses(WrongState, "a saved domain", "create_snapshot", spec.uuid, "new")
            await self.refuses(WrongState, "a saved domain", "revert_snapshot", spec.uuid, "on")
        await self.has(spec, ["on"], "create_snapshot: after failure nothing of it is left")

    async def test_an_undefined_domain_takes_them_with_it(self) -> None:
        spec = await self.equipped()
        await self.ask("create_snapshot", spec.uuid, "first")
        await self.ask("undefine_domain", spec.uuid, promise="a domain with snapshots is undefined")
        await self.ask("define_domain", spec)
        await self.has(spec, [], "undefine_domain: a domain's snapshots are removed with it")

    async def test_what_is_not_there(self) -> None:
        spec = await self.equipped()
        await self.refuses(NoSuchThing, "a snapshot that doesn't exist", "revert_snapshot", spec.uuid, "none")
        await self.ask("delete_snapshot", spec.uuid, "none", promise="a repetition (no such snapshot) succeeds")
        for verb in VERBS:
            await self.refuses(NoSuchThing, "a domain that doesn't exist", verb, NOBODY, "first")
        await self.refuses(NoSuchThing, "a domain that doesn't exist", "list_snapshots", NOBODY)
        await self.ask("close")
        await self.raises(Unreachable, "a closed connection", "list_snapshots", spec.uuid)
        for verb in VERBS:
            await self.raises(Unreachable, "a closed connection", verb, spec.uuid, "first")

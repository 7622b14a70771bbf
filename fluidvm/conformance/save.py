"""Tests of saving, restoring and resetting domains."""

from __future__ import annotations

from twisted.internet.defer import CancelledError

from fluidvm.conformance.case import RUNNING, STOPPED, ContractCase
from fluidvm.conformance.connection import NOBODY
from fluidvm.driver import DomainState, NoSuchThing, Unreachable, WrongState

SAVED = DomainState.SAVED


def ignore(percentage: int) -> None:
    """A progress callback that does nothing."""


class SaveContract(ContractCase):
    """Tests of L{ISave}."""

    async def test_saved_and_restored(self) -> None:
        spec, other = await self.started(), await self.started()
        await self.factory.booted(self.connection, spec.uuid)
        told: list[int] = []
        await self.ask("save", spec.uuid, told.append, promise="a running domain is saved")
        self.assertEqual(told, sorted(told), "save: progress never decreases")
        await self.is_in(SAVED, spec.uuid, "save: its state is saved")
        await self.again("save", spec.uuid, ignore)
        await self.refuses(WrongState, "a saved domain", "start", spec.uuid)
        await self.ask("restore", spec.uuid, ignore, promise="a saved domain is restored")
        await self.is_in(RUNNING, spec.uuid, "restore: it is running")
        await self.again("restore", spec.uuid, ignore)
        await self.is_in(RUNNING, other.uuid, "save, restore: another domain isn't affected")
        await self.ask("stop", spec.uuid)
        await self.refuses(WrongState, "a domain without a saved state", "restore", spec.uuid, ignore)

    async def test_a_paused_one_is_saved_and_thrown_away(self) -> None:
        spec = await self.started()
        await self.factory.booted(self.connection, spec.uuid)
        await self.ask("pause", spec.uuid)
        await self.ask("save", spec.uuid, ignore, promise="a paused domain is saved")
        await self.is_in(SAVED, spec.uuid, "save: its state is saved")
        await self.ask("stop", spec.uuid, promise="the saved state is discarded")
        await self.is_in(STOPPED, spec.uuid, "stop: a saved domain is stopped")
        await self.ask("start", spec.uuid)
        await self.is_in(RUNNING, spec.uuid, "start: it is running after a saved state was discarded")

    async def test_cancelled(self) -> None:
        spec = await self.started()
        await self.factory.booted(self.connection, spec.uuid)
        saving = self.connection.save(spec.uuid, ignore)
        saving.cancel()
        state = SAVED
        try:
            await self.wait("save", lambda: saving)
        except CancelledError:
            state = RUNNING
        await self.is_in(state, spec.uuid, "save: after cancelling, the domain runs as before")

    async def test_what_can_not_be_saved(self) -> None:
        spec = await self.defined()
        await self.refuses(WrongState, "a stopped domain", "save", spec.uuid, ignore)
        for verb in ("save", "restore"):
            await self.refuses(NoSuchThing, "a domain that doesn't exist", verb, NOBODY, ignore)
        await self.ask("close")
        for verb in ("save", "restore"):
            await self.raises(Unreachable, "a closed connection", verb, spec.uuid, ignore)


class ResetContract(ContractCase):
    """Tests of L{IReset}."""

    async def test_reset(self) -> None:
        spec, other = await self.started(), await self.started()
        await self.factory.booted(self.connection, spec.uuid)
        await self.ask("reset", spec.uuid, promise="a running domain is reset")
        await self.is_in(RUNNING, spec.uuid, "reset: it is running")
        await self.factory.booted(self.connection, spec.uuid)
        await self.again("reset", spec.uuid)
        await self.is_in(RUNNING, other.uuid, "reset: another domain isn't affected")
        await self.ask("pause", spec.uuid)
        await self.refuses(WrongState, "a paused domain", "reset", spec.uuid)
        await self.ask("stop", spec.uuid)
        await self.refuses(WrongState, "a stopped domain", "reset", spec.uuid)
        await self.refuses(NoSuchThing, "a domain that doesn't exist", "reset", NOBODY)
        await self.ask("close")
        await self.raises(Unreachable, "a closed connection", "reset", spec.uuid)

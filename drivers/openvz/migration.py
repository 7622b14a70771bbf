"""Moving containers to another node with vzmigrate, and describing containers for adoption."""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from fluidvm.driver import (
    AlreadyThere,
    DomainSpec,
    DomainState,
    DriverError,
    IAdoption,
    IMigration,
    NoSuchThing,
    Progress,
    Unsupported,
    Volume,
    WrongState,
)
from fluidvm.drivers.openvz.dialect import LOCKED, first_line
from fluidvm.drivers.openvz.node import FIRST_RETRY, LONG, Container, VzNode, verb

# From vzmigrate(8) of each dialect; all other codes become a plain DriverError.
CODES: dict[int, dict[int, type[DriverError]]] = {
    4: {
        2: WrongState,
        9: AlreadyThere,
        10: NoSuchThing,
        14: Unsupported,
        16: Unsupported,
        17: Unsupported,
        18: Unsupported,
        20: WrongState,
    },
    7: {
        3: WrongState,
        9: AlreadyThere,
        10: NoSuchThing,
        32: Unsupported,
        37: Unsupported,
        45: AlreadyThere,
        48: Unsupported,
        56: Unsupported,
        57: Unsupported,
    },
}


LOCKED_CODES = {4: 20, 7: 3}
"""The exit codes of vzmigrate if another command has the container's lock: it doesn't wait."""


@implementer(IMigration, IAdoption)
class VzMigration(VzNode):
    """
    vzmigrate runs on the source and logs in to the destination as root by SSH, with a key of the source.

    It always copies a container's file system, unless both nodes see the same one.
    """

    migrates_live = True

    @property
    def peer(self) -> str:
        """The host name under which other nodes reach this one; empty if it isn't known."""
        return str(self._options.get("peer_name") or getattr(self._runner, "peer", ""))

    @verb
    async def migrate(self, spec: DomainSpec, to: Any, live: bool, copy_storage: bool, progress: Progress) -> None:
        await self._alone(spec.uuid, lambda: self._migrate(spec, to, live, progress))

    async def _migrate(self, spec: DomainSpec, to: Any, live: bool, progress: Progress) -> None:
        begun = self._host.clock.seconds()
        while not await self._try_to_migrate(spec, to, live, progress, self._host.clock.seconds() - begun < LONG):
            progress(1)

    async def _try_to_migrate(self, spec: DomainSpec, to: Any, live: bool, progress: Progress, again: bool) -> bool:
        """
        Move a container. Returns false if another command had its lock, perhaps a move from before a restart of the server:
        this has waited for that command, and everything must be checked again.

        @param again: whether it can return false.
        """
        here = await self._find(spec.uuid)
        try:
            there = await to.get_domain(spec.uuid)
        except NoSuchThing:
            there = None
        if here is None:
            if there is None:
                raise NoSuchThing(f"The node has no container {spec.uuid}.")
            return True
        name = here.info.name
        if there is not None:
            if again and await self._was_locked(here):
                return False
            raise AlreadyThere(f"Container {name} is on both nodes: remove the wrong one.")
        if here.state is DomainState.PAUSED:
            raise WrongState(f"Container {name} is paused: resume it first.")
        if any(domain.name == name for domain in await to.list_domains()):
            raise AlreadyThere(f"The other node already has another container {name}.")
        if not to.peer:
            raise Unsupported("The host name of the other node is unknown: set its option peer_name.")
        words = ["vzmigrate"]
        if live and here.state is DomainState.RUNNING:
            words.append("--online" if self._dialect.number == 7 else "--live")
        progress(1)
        if here.identity.mark is None and not self._dialect.uuids:
            # Without a mark the other node would derive another UUID from its own name.
            mark = here.identity.marked(here.info.max_vcpus, here.info.max_memory)
            await self._set(f"marking of container {name}", here.ctid, ["--description", str(mark)], [])
        outcome = await self._run([*words, to.peer, here.ctid], LONG)
        if outcome.code == LOCKED_CODES[self._dialect.number] and again:
            # vzmigrate doesn't notice that the lock's owner was killed; vzctl does, and removes the lock.
            await self._unlocked(f"migration of container {name}", here.ctid)
            await self._wait(FIRST_RETRY)
            return False
        if outcome.code != 0:
            kind = CODES[self._dialect.number].get(outcome.code, DriverError)
            said = first_line(outcome.stderr) or first_line(outcome.stdout)
            raise kind(f"migration of container {name}: {said} (vzmigrate's exit code {outcome.code}).")
        await to.get_domain(spec.uuid)
        if await self._find(spec.uuid) is not None:
            raise DriverError(f"Container {name} is still here, though vzmigrate reported success.")
        progress(100)
        return True

    async def _was_locked(self, here: Container) -> bool:
        """Whether another command has a container's lock; if so, this waits for its end."""
        if (await self._run(["vzctl", "umount", here.ctid])).code != LOCKED:
            return False
        await self._unlocked(f"migration of container {here.info.name}", here.ctid)
        return True

    @verb
    async def get_spec(self, uuid: str) -> DomainSpec:
        there = await self._container(uuid)
        info = there.info
        try:
            there.identity.marked(info.max_vcpus, info.max_memory)
        except DriverError as error:
            words = f"Container {info.name} can't be taken over: {str(error).rstrip('.')}; change it with vzctl."
            raise Unsupported(words) from None
        return DomainSpec(
            info.uuid, info.name, info.vcpus, info.max_vcpus, info.memory, info.max_memory, autostart=info.autostart
        )

    @verb
    async def volume_of(self, path: str, format: str) -> Volume:
        self._check_open()
        raise NoSuchThing(f"There is no volume {path}: an OpenVZ node has none.")

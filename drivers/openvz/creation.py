"""Creating and removing containers, and cleaning up after an interrupted creation."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fluidvm.driver import DomainSpec, DriverError, NoSuchThing, WrongState
from fluidvm.drivers.openvz.dialect import AREA_EXISTS, LOCKED, NO_CONFIG
from fluidvm.drivers.openvz.identity import Identity, Mark, new_ids, own_id
from fluidvm.drivers.openvz.node import FIRST_RETRY, LONG, LONGEST_RETRY, ON, Container
from fluidvm.drivers.openvz.settings import VzSettings

HOST_NAME = 63
"""Maximum length of a guest's host name: a kernel accepts 64 characters."""


class VzCreation(VzSettings):
    """
    Creation with C{vzctl create}, removal with C{vzctl destroy}.

    C{vzctl create} continues when the server or its connection is lost. In dialect 4 it marks the container only at its end,
    so a repetition recognizes the container by its id, which is derived from the UUID: both attempts use the same lock.
    """

    async def _create(self, spec: DomainSpec, identities: Mapping[str, Identity]) -> Container:
        """
        Create the container, or use the one of an earlier attempt, which may still be running. Its mark says that it is new.

        @param identities: the identities of all containers.
        """
        template = await self._template_of(spec)
        taken = {identity.ctid for identity in identities.values() if not identity.unfinished}
        candidates = iter([spec.uuid] if self._dialect.uuids else new_ids(spec.uuid, taken - {own_id(spec.uuid)}))
        ctid, delay, waited = next(candidates), FIRST_RETRY, 0.0
        subject = f"creation of container {spec.name}"
        while True:
            known = any(identity.ctid == ctid for identity in identities.values())
            outcome = await self._run(["vzctl", *self._words_of(spec, ctid, template, known)], LONG)
            if outcome.code == 127:
                raise self._vanished()
            there, identities = await self._search(spec.uuid)
            if there is not None and outcome.code in (0, LOCKED, AREA_EXISTS):
                return there
            if outcome.code == LOCKED and waited < LONG:
                # Most probably an earlier attempt is still running, from before a restart of the server.
                await self._wait(delay)
                waited += delay
                delay = min(2 * delay, LONGEST_RETRY)
            elif outcome.code == AREA_EXISTS and unfinished(identities, ctid):
                # It was killed after it created files and before it wrote the configuration.
                await self._wipe(subject, ctid)
            elif outcome.code == AREA_EXISTS and (another := next(candidates, None)):
                ctid = another
            else:
                if outcome.code not in (0, LOCKED, AREA_EXISTS):
                    await self._remove(spec.uuid)
                    await self._unlink(spec.name)
                raise self._explain(subject, outcome)

    async def _template_of(self, spec: DomainSpec) -> str:
        if spec.template and spec.template not in await self.list_templates():
            raise NoSuchThing(f"Container {spec.name}: the node has no OS template {spec.template}.")
        template = spec.template or str(self._options.get("template", ""))
        if not template:
            raise DriverError(f"Container {spec.name}: no OS template is given, and the node's option template isn't set.")
        return template

    def _words_of(self, spec: DomainSpec, ctid: str, template: str, known: bool) -> list[str]:
        """@param known: there already is a configuration, a copy of the sample: vzctl accepts no other sample then."""
        mark = Mark(spec.uuid, ctid, spec.max_vcpus, spec.max_memory, new=True)
        words = [
            "create",
            ctid,
            "--ostemplate",
            template,
            "--name",
            spec.name,
            "--description",
            str(mark),
            "--hostname",
            re.sub(r"[^A-Za-z0-9-]", "-", spec.name)[:HOST_NAME].rstrip("-"),
        ]
        if "layout" in self._options:
            words += ["--layout", self._options["layout"]]
        if "sample" in self._options and not known:
            words += ["--config", self._options["sample"]]
        return words

    async def _remove(self, uuid: str) -> None:
        """Remove a container, or what an interrupted creation has left of it; it waits for a creation in progress."""
        there, identities = await self._search(uuid)
        own = "" if self._dialect.uuids else own_id(uuid)
        if there is None and unfinished(identities, own):
            subject = f"removal of container {uuid}, which isn't created yet"
            await self._unlocked(subject, own)  # this waits for its end
            there, identities = await self._search(uuid)
            if unfinished(identities, own):
                await self._wipe(subject, own)
        if there is None:
            return
        if there.state in ON:
            raise WrongState(f"Container {there.info.name} is {there.state}: stop it first.")
        subject = f"removal of container {there.info.name}"
        if there.mounted:
            await self._do(subject, "umount", there.ctid)
        outcome = await self._vz(subject, "destroy", there.ctid, timeout=LONG)
        if outcome.code not in (0, NO_CONFIG):  # an earlier attempt has removed it in between
            raise self._explain(subject, outcome)

    async def _wipe(self, subject: str, ctid: str) -> None:
        """Remove what a killed creation has left: C{vzctl destroy} doesn't find the files that it had unpacked."""
        listed = await self._list(ctid) or await self._list("-S", ctid)
        await self._unlocked(subject, ctid)  # it is mounted while its distribution's scripts run
        await self._do(subject, "destroy", ctid, timeout=LONG)
        if listed and listed[0].private.endswith(f"/{ctid}"):
            await self._run(["rm", "-rf", f"{listed[0].private}.tmp"], LONG)

    async def _unlink(self, name: str) -> None:
        """Remove the dangling link of a name, which C{vzctl create} leaves when it fails."""
        await self._run(["sh", "-c", 'test -e "$1" || rm -f "$1"', "sh", f"{self._names_dir}/{name}"])


def unfinished(identities: Mapping[str, Identity], ctid: str) -> bool:
    """Whether C{vzctl create} has begun to create this container and hasn't ended."""
    return any(identity.ctid == ctid and identity.unfinished for identity in identities.values())

"""Tests of resizing running domains."""

from __future__ import annotations

from fluidvm.conformance.case import ContractCase
from fluidvm.conformance.connection import NOBODY
from fluidvm.driver import DomainInfo, DomainSpec, NoSuchThing, Unreachable, WrongState

VERBS = ("resize_memory", "resize_vcpus")


class LiveResizeContract(ContractCase):
    """Tests of L{ILiveResize}."""

    async def amounts(self, spec: DomainSpec, promise: str) -> tuple[int, int, int, int]:
        """Read memory and CPUs, each with its maximum."""
        info = await self.told(spec.uuid, promise)
        return info.memory, info.max_memory, info.vcpus, info.max_vcpus

    async def info_of_another(self) -> DomainInfo:
        """Define a domain that must not change."""
        return await self.told((await self.defined()).uuid, "define_domain: get_domain reports it")

    async def test_a_running_domain_is_resized(self) -> None:
        another = await self.info_of_another()
        spec = await self.started()
        uuid = spec.uuid
        await self.factory.booted(self.connection, uuid)
        grown = spec.max_memory, spec.max_memory, spec.max_vcpus, spec.max_vcpus
        promise = "resize_memory: get_domain reports what was requested"
        await self.ask("resize_memory", uuid, spec.max_memory, promise=promise)
        self.assertEqual(await self.amounts(spec, promise), (*grown[:2], spec.vcpus, spec.max_vcpus), promise)
        await self.again("resize_memory", uuid, spec.max_memory)
        promise = "resize_vcpus: get_domain reports what was requested"
        await self.ask("resize_vcpus", uuid, spec.max_vcpus, promise=promise)
        self.assertEqual(await self.amounts(spec, promise), grown, promise)
        await self.again("resize_vcpus", uuid, spec.max_vcpus)

        for verb, amount in (("resize_memory", spec.max_memory + 16), ("resize_vcpus", spec.max_vcpus + 1)):
            words = await self.refuses(WrongState, "more than its maximum", verb, uuid, amount)
            self.assertIn("stop", words.lower(), f"{verb}: over the maximum, the message says that it needs a stop")
        promise = "resize_memory: less is given, too"
        await self.ask("resize_memory", uuid, spec.memory, promise=promise)
        self.assertEqual(await self.amounts(spec, promise), (spec.memory, *grown[1:]), promise)
        await self.ask("resize_memory", uuid, spec.max_memory)

        await self.ask("stop", uuid)
        promise = "resize_memory, resize_vcpus: they are still in effect after a stop"
        self.assertEqual(await self.amounts(spec, promise), grown, promise)
        await self.ask("start", uuid)
        promise = "resize_memory, resize_vcpus: they are still in effect after a stop and a start"
        self.assertEqual(await self.amounts(spec, promise), grown, promise)
        promise = "resize_memory, resize_vcpus: another domain isn't affected"
        self.assertEqual(await self.told(another.uuid, promise), another, promise)

    async def test_only_running_domains_are(self) -> None:
        spec = await self.defined()
        another = await self.defined()
        amounts = dict(zip(VERBS, (spec.max_memory, spec.max_vcpus), strict=True))
        for verb, amount in amounts.items():
            await self.refuses(NoSuchThing, "a domain that doesn't exist", verb, NOBODY, amount)
            await self.refuses(WrongState, "a stopped domain", verb, spec.uuid, amount)
        await self.ask("start", spec.uuid)
        await self.ask("pause", spec.uuid)
        for verb, amount in amounts.items():
            await self.refuses(WrongState, "a paused domain", verb, spec.uuid, amount)
        promise = "resize_memory, resize_vcpus: another domain isn't affected"
        self.assertEqual((await self.told(another.uuid, promise)).memory, another.memory, promise)

    async def test_a_closed_connection(self) -> None:
        spec = await self.defined()
        await self.ask("close")
        for verb in VERBS:
            await self.raises(Unreachable, "a closed connection", verb, spec.uuid, 1)

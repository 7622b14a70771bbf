"""Tests of the core, which every driver must pass: domains and connections."""

from __future__ import annotations

import re
from dataclasses import replace

from zope.interface.verify import verifyClass, verifyObject

from fluidvm.conformance.case import PAUSED, RUNNING, STOPPED, ContractCase
from fluidvm.driver import (
    ABILITIES,
    NAME_PATTERN,
    AlreadyThere,
    DomainInfo,
    DomainSpec,
    DomainState,
    HostInfo,
    IConnection,
    IDriver,
    NoSuchThing,
    Struct,
    Unreachable,
    WrongState,
)

NOBODY = "00000000-0000-4000-8000-00000000c0de"
OF_ONE_DOMAIN = (
    ("start",),
    ("shutdown",),
    ("stop",),
    ("reboot",),
    ("pause",),
    ("resume",),
    ("set_memory", 64),
    ("set_vcpus", 1),
)


def expected(spec: DomainSpec, state: DomainState = STOPPED) -> DomainInfo:
    """What C{get_domain} must report for a domain with this definition."""
    return DomainInfo(
        spec.uuid, spec.name, state, spec.vcpus, spec.max_vcpus, spec.memory, spec.max_memory, spec.disks, spec.autostart
    )


class ConnectionContract(ContractCase):
    """Tests of L{IDriver} and L{IConnection}."""

    # the driver

    def test_the_driver_is_one(self) -> None:
        driver = self.factory.driver
        verifyObject(IDriver, driver)
        self.assertTrue(re.fullmatch(NAME_PATTERN, driver.name), f"name: {driver.name!r} is a name")
        self.assertEqual(len(driver.summary.splitlines()), 1, "summary: a line of text")
        self.assertIsInstance(driver.options, Struct, "options: a Struct kind")
        self.assertEqual(
            driver.options.check(dict(self.factory.options), "options", []),
            self.factory.options,
            "options: the host's options are accepted unchanged",
        )

    def test_its_connections_are_what_they_declare(self) -> None:
        declared = self.factory.driver.connection
        self.assertIsInstance(self.connection, declared, "connect: gives a connection of the declared class")
        self.assertTrue(IConnection.implementedBy(declared), "connection: every driver's provide the core")  # type: ignore[attr-defined]
        for ability in ABILITIES:
            if ability.implementedBy(declared):  # type: ignore[attr-defined]
                verifyClass(ability, declared)
                verifyObject(ability, self.connection)

    def test_addresses(self) -> None:
        driver = self.factory.driver
        self.assertIsNone(driver.check_address(self.factory.address), "check_address: a host's address is accepted")
        with self.assertRaises(
            ValueError, msg="check_address: ValueError is raised for an address that isn't valid"
        ) as caught:
            driver.check_address("\0 no address")
        self.assertTrue(str(caught.exception), "check_address: the error says what an address looks like")

    async def test_host_info(self) -> None:
        info = await self.ask("host_info")
        self.assertIsInstance(info, HostInfo, "host_info: it describes the host")
        for number in ("vcpus", "memory"):
            self.assertIs(type(getattr(info, number)), int, f"host_info: {number} is a whole number")
            self.assertGreater(getattr(info, number), 0, f"host_info: {number} is positive")
        for words in ("hypervisor_version", "driver_version"):
            self.assertTrue(getattr(info, words), f"host_info: {words} says something")
        self.assertEqual(await self.ask("host_info"), info, "host_info: success changes nothing")

    # definitions

    async def test_what_is_defined_reads_back(self) -> None:
        spec = await self.defined(autostart=True)
        promise = "define_domain: get_domain reports what was requested"
        self.assertEqual(await self.told(spec.uuid, promise), expected(spec), promise)
        listed = {domain.uuid: domain for domain in await self.ask("list_domains")}
        self.assertEqual(
            listed.get(spec.uuid), expected(spec), "list_domains: each domain is listed as get_domain reports it"
        )
        await self.again("define_domain", spec)
        other = replace(
            spec,
            name=self.name(),
            vcpus=spec.max_vcpus,
            max_vcpus=spec.max_vcpus + 1,
            memory=spec.max_memory,
            max_memory=spec.max_memory + 16,
            autostart=False,
        )
        promise = "define_domain: a stopped domain that exists gets this definition"
        await self.ask("define_domain", other, promise=promise)
        self.assertEqual(await self.told(spec.uuid, promise), expected(other), promise)

    async def test_a_definition_outlives_connection_and_host(self) -> None:
        spec = await self.defined()
        await self.let_go()
        await self.factory.stop()
        await self.factory.start()
        self.connection = await self.connect()
        promise = "define_domain: the definition survives a restart of the host"
        self.assertEqual(await self.told(spec.uuid, promise), expected(spec), promise)

    async def test_names_are_taken_once(self) -> None:
        spec = await self.defined()
        await self.refuses(AlreadyThere, "a name that another domain has", "define_domain", self.spec(name=spec.name))
        other = await self.defined()
        await self.refuses(
            AlreadyThere, "an existing domain that takes another's name", "define_domain", replace(other, name=spec.name)
        )

    async def test_undefine_forgets(self) -> None:
        spec, other = await self.defined(), await self.defined()
        await self.ask("undefine_domain", spec.uuid, promise="a stopped domain is undefined")
        left = {domain.uuid for domain in await self.ask("list_domains")}
        self.assertNotIn(spec.uuid, left, "undefine_domain: list_domains doesn't list it")
        self.assertIn(other.uuid, left, "undefine_domain: another domain isn't affected")
        await self.raises(NoSuchThing, "a domain that was undefined", "get_domain", spec.uuid)
        await self.again("undefine_domain", spec.uuid)
        await self.ask("define_domain", spec, promise="after undefine_domain, UUID and name are free")

    async def test_a_domain_that_is_not_there(self) -> None:
        await self.defined()
        await self.refuses(NoSuchThing, "a domain that doesn't exist", "get_domain", NOBODY)
        for verb, *rest in OF_ONE_DOMAIN:
            await self.refuses(NoSuchThing, "a domain that doesn't exist", str(verb), NOBODY, *rest)

    # stopped domains

    async def test_a_stopped_domain(self) -> None:
        spec = await self.defined()
        for verb in ("stop", "shutdown"):
            await self.again(verb, spec.uuid)
        for verb in ("pause", "resume", "reboot"):
            await self.refuses(WrongState, "a stopped domain", verb, spec.uuid)

    async def test_a_stopped_domain_is_resized(self) -> None:
        spec, other = await self.defined(), await self.defined()
        info = expected(spec)
        more = spec.max_memory + 16
        for verb, amount, changed in (
            ("set_memory", spec.max_memory, replace(info, memory=spec.max_memory)),
            ("set_memory", more, replace(info, memory=more, max_memory=more)),
            ("set_memory", spec.memory, replace(info, max_memory=more)),
            ("set_vcpus", spec.max_vcpus, replace(info, max_memory=more, vcpus=spec.max_vcpus)),
            (
                "set_vcpus",
                spec.max_vcpus + 1,
                replace(info, max_memory=more, vcpus=spec.max_vcpus + 1, max_vcpus=spec.max_vcpus + 1),
            ),
            ("set_vcpus", spec.vcpus, replace(info, max_memory=more, max_vcpus=spec.max_vcpus + 1)),
        ):
            promise = f"{verb}: get_domain reports what was requested, and as the maximum where that was less"
            await self.ask(verb, spec.uuid, amount, promise=promise)
            self.assertEqual(await self.told(spec.uuid, promise), changed, promise)
            await self.again(verb, spec.uuid, amount)
        promise = "set_memory, set_vcpus: another domain isn't affected"
        self.assertEqual(await self.told(other.uuid, promise), expected(other), promise)
        await self.ask("set_memory", spec.uuid, spec.max_memory)
        await self.ask("start", spec.uuid)
        promise = "set_memory: it is still in effect after a start"
        self.assertEqual((await self.told(spec.uuid, promise)).memory, spec.max_memory, promise)

    # running domains

    async def test_power(self) -> None:
        spec, other = await self.defined(), await self.defined()
        uuid = spec.uuid
        await self.ask("start", uuid, promise="a stopped domain is booted")
        self.assertEqual(await self.told(uuid, "start: it is running"), expected(spec, RUNNING), "start: it is running")
        await self.again("start", uuid)
        await self.again("resume", uuid)
        await self.refuses(WrongState, "a domain that runs", "define_domain", replace(spec, memory=spec.max_memory))
        await self.refuses(WrongState, "a domain that runs", "undefine_domain", uuid)
        await self.refuses(WrongState, "a domain that runs", "set_memory", uuid, spec.max_memory)
        await self.refuses(WrongState, "a domain that runs", "set_vcpus", uuid, spec.max_vcpus)

        await self.ask("pause", uuid, promise="a running domain is paused")
        self.assertEqual(await self.told(uuid, "pause: it is paused"), expected(spec, PAUSED), "pause: it is paused")
        await self.again("pause", uuid)
        for verb in ("start", "shutdown", "reboot", "undefine_domain"):
            await self.refuses(WrongState, "a paused domain", verb, uuid)
        await self.refuses(WrongState, "a paused domain", "set_memory", uuid, spec.max_memory)
        await self.ask("resume", uuid, promise="a paused domain is resumed")
        await self.is_in(RUNNING, uuid, "resume: it is running")
        await self.again("resume", uuid)

        await self.ask("stop", uuid, promise="a running domain is stopped")
        self.assertEqual(await self.told(uuid, "stop: it is stopped"), expected(spec), "stop: it is stopped")
        await self.again("stop", uuid)
        await self.ask("start", uuid, promise="a domain that was stopped boots again")
        await self.ask("pause", uuid)
        await self.ask("stop", uuid, promise="a paused domain is stopped, too")
        await self.is_in(STOPPED, uuid, "stop: a paused domain is stopped, too")
        promise = "start, pause, resume, stop: another domain isn't affected"
        self.assertEqual(await self.told(other.uuid, promise), expected(other), promise)

    async def test_two_domains_that_run(self) -> None:
        one, two = await self.started(), await self.started()
        for verb in ("pause", "resume", "stop", "undefine_domain"):
            await self.ask(verb, one.uuid)
            promise = f"{verb}: another domain that runs isn't affected"
            self.assertEqual(await self.told(two.uuid, promise), expected(two, RUNNING), promise)

    async def test_guests_obey(self) -> None:
        one, two = await self.started(), await self.started()
        for spec in (one, two):
            await self.factory.booted(self.connection, spec.uuid)
        await self.ask("reboot", one.uuid, promise="a guest is asked to reboot")
        await self.is_in(RUNNING, one.uuid, "reboot: the domain stays running")
        await self.is_in(RUNNING, two.uuid, "reboot: another domain that runs isn't affected")
        await self.ask("shutdown", two.uuid, promise="a guest is asked to shut down")
        await self.ask("shutdown", two.uuid, promise="a repetition asks again")
        await self.becomes(STOPPED, two.uuid, "shutdown: a guest that obeys shuts down")
        await self.is_in(RUNNING, one.uuid, "shutdown: another domain isn't affected")
        for promise in ("a guest is asked to reboot", "a repetition asks again"):
            await self.ask("reboot", one.uuid, promise=promise)
            for _ in range(4):
                await self.is_in(RUNNING, one.uuid, "reboot: the domain stays running")
                await self.factory.pass_time(0.25)
        await self.is_in(STOPPED, two.uuid, "reboot: another domain isn't affected")

    async def test_what_others_do_is_seen(self) -> None:
        spec = await self.started()
        await self.is_in(RUNNING, spec.uuid, "start: it is running")
        await self.factory.power_off_behind(spec.uuid)
        await self.becomes(STOPPED, spec.uuid, "get_domain: a repetition reads again, whoever stopped the domain")
        await self.ask("start", spec.uuid, promise="a domain that somebody else stopped boots again")
        await self.is_in(RUNNING, spec.uuid, "start: it is running")

    # the connection

    async def fails_as_unreachable(self, spec: DomainSpec, when: str) -> None:
        """Check that every verb of the core is refused."""
        for verb in ("host_info", "list_domains"):
            await self.raises(Unreachable, when, verb)
        await self.raises(Unreachable, when, "define_domain", spec)
        for verb in ("get_domain", "undefine_domain"):
            await self.raises(Unreachable, when, verb, spec.uuid)
        for verb, *rest in OF_ONE_DOMAIN:
            await self.raises(Unreachable, when, str(verb), spec.uuid, *rest)

    async def test_close(self) -> None:
        spec = await self.started()
        another = await self.connect()
        lost: list[str] = []
        self.connection.on_lost(lost.append)
        await self.ask("close", promise="it doesn't fail")
        await self.ask("close", promise="a repetition does nothing")
        await self.fails_as_unreachable(spec, "a closed connection")
        await self.factory.pass_time(1.0)
        self.assertEqual(lost, [], "on_lost: it isn't called after close")
        self.connection = another
        await self.is_in(RUNNING, spec.uuid, "close: domains keep running, and another connection stays open")

    async def test_a_lost_connection(self) -> None:
        spec = await self.defined()
        first: list[str] = []
        second: list[str] = []
        self.connection.on_lost(first.append)
        self.connection.on_lost(second.append)
        await self.factory.pass_time(0.1)
        self.assertEqual(first + second, [], "on_lost: it isn't called while the host can be reached")
        await self.factory.cut(self.connection)
        await self.raises(Unreachable, "a lost connection", "get_domain", spec.uuid)
        self.assertEqual(len(first), 1, "on_lost: it is called once, at the latest when the next verb fails")
        self.assertTrue(first[0].strip(), "on_lost: the reason is given")
        self.assertEqual(second, first, "on_lost: each repetition adds a callback")
        await self.fails_as_unreachable(spec, "a lost connection")
        self.assertEqual(len(first), 1, "on_lost: it is called once")
        await self.ask("close", promise="it doesn't fail on a lost connection")
        self.connection = await self.connect()
        promise = "connect: a host that answers again can be connected to, and has its domains"
        self.assertEqual(await self.told(spec.uuid, promise), expected(spec), promise)

"""What the tests of all abilities share: the interface of the factory, and the base class of the test cases."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from fluidvm.driver import DomainInfo, DomainSpec, DomainState, DriverError, DriverHost, IDisks, Volume

STOPPED, RUNNING, PAUSED = DomainState.STOPPED, DomainState.RUNNING, DomainState.PAUSED
FIRST_POLL, POLL = 0.001, 0.02
"""Polling intervals in seconds: at first, when most verbs answer, and later."""


class ContractFactory(Protocol):
    """
    A driver, and a host to test it on. One object is used for all tests, one after the other.

    The host can have other domains and volumes. The tests don't touch them, but none must appear or disappear during a test.
    """

    @property
    def driver(self) -> Any:
        """The driver: provides L{fluidvm.driver.IDriver}."""

    @property
    def address(self) -> str:
        """The host's address, as for C{add_compute_node}."""

    @property
    def options(self) -> Mapping[str, Any]:
        """The driver's options for this host."""

    @property
    def pool(self) -> str:
        """A storage pool on the host with 32 MiB of free space. Used only if the driver provides L{IDisks}."""

    @property
    def network(self) -> str:
        """An active network on the host. Used only if the driver provides L{INetworks}."""

    @property
    def model(self) -> str:
        """A model of network interface that its guests support. Used only if the driver provides L{INetworks}."""

    @property
    def console(self) -> tuple[bytes, bytes]:
        """
        An input line for a booted guest's serial console, and bytes that the answer contains but the line doesn't.

        Used only if the driver provides L{ISerialConsole}.
        """

    @property
    def patience(self) -> float:
        """The time-out in seconds for verbs to answer, and for guests to react, before a test fails."""

    async def start(self) -> None:
        """Start the host if it isn't running. Called before each test, and after a L{stop}."""

    async def stop(self) -> None:
        """
        Stop the host, or leave it running if stopping is too slow. Called after each test, and within tests to restart it.

        What is stored on the host must last until the next L{start}. No domain runs, and no connection is open.
        """

    def host(self) -> DriverHost:
        """Create a L{DriverHost}. Each connection gets one; the node and its directory are always the same."""

    def spec(self, name: str, **changes: Any) -> DomainSpec:
        """
        Describe a domain whose guest boots, and shuts down when it is asked to.

        @param changes: fields of L{DomainSpec} to set.
        @return: a specification with a new UUID unless one is given, with C{max_vcpus} above C{vcpus}, C{max_memory} above
            C{memory}, no disk C{vdy} or C{vdz}, and no interfaces unless they are given.
        """

    async def booted(self, connection: Any, uuid: str) -> None:
        """
        Wait until the guest of a domain reacts to requests. Called at most once for a domain, after its first start.

        @raise AssertionError: it doesn't boot.
        """

    async def pass_time(self, seconds: float) -> None:
        """Let time pass: advance the clock of L{host}, or wait if that is the reactor."""

    async def connect_other(self) -> Any:
        """
        Open a connection to a second host, to which domains can be moved; the caller closes it.

        Used only if the driver provides L{IMigration}. It is a separate host with a pool of the same name, and empty.
        """

    async def power_off_behind(self, uuid: str) -> None:
        """Stop a running domain without the driver, as its guest or an administrator on the host would."""

    async def cut(self, connection: Any) -> None:
        """Break a connection, like a failing network or daemon. New connections can be opened afterwards."""


class ContractCase(TestCase):
    """
    Base class of the tests; L{fluidvm.conformance.driver_contract} sets the factory.

    Each test starts with one open connection. At its end everything that it created is removed, and listings are compared.
    """

    factory: ContractFactory
    connection: Any

    async def setUp(self) -> None:  # type: ignore[override]
        self.opened: list[Any] = []
        self.made: list[str] = []
        self.volumes: list[str] = []
        self.formats: dict[str, str] = {}
        await self.factory.start()
        self.addCleanup(self.factory.stop)
        self.addCleanup(self.let_go)
        self.connection = await self.connect()
        self.before = await self.listing(self.connection)
        # No tearDown: trial calls that after the cleanups, when the host is down.
        self.addCleanup(self.remove)

    async def remove(self) -> None:
        """Remove what the test created, and check that nothing is left."""
        self.connection = await self.connect()
        there = {domain.uuid: domain for domain in await self.ask("list_domains")}
        for uuid in self.made:
            if uuid in there:
                await self.ask("stop", uuid, promise="on a stopped domain it succeeds, too")
                await self.ask("undefine_domain", uuid, promise="a stopped domain is undefined")
        for name in self.volumes:
            await self.ask("delete_volume", self.factory.pool, name, promise="a repetition succeeds, too")
        left = await self.listing(self.connection)
        self.assertEqual(left, self.before, "nothing is left on the host after the test")

    async def let_go(self) -> None:
        """Close every connection."""
        for connection in self.opened:
            await self.on(connection, "close")

    async def connect(self) -> Any:
        """Open another connection; it is closed after the test."""
        factory = self.factory
        given = factory.address, factory.options, factory.host()
        connection = await self.on(factory.driver, "connect", *given, promise="a running host can be connected to")
        self.opened.append(connection)
        return connection

    # asking

    async def wait(self, verb: str, call: Callable[..., Any], *args: Any) -> Any:
        """
        Call a verb, and let time pass until it answers.

        @raise AssertionError: it didn't return a Deferred, or didn't answer in time.
        @raise Exception: what the verb raised.
        """
        try:
            deferred = call(*args)
        except Exception as error:
            promise = f"{verb}: a verb returns a Deferred, which fails; it raised {type(error).__name__} at once"
            raise self.failureException(promise) from error
        self.assertIsInstance(deferred, Deferred, f"{verb}: a verb returns a Deferred")
        answers: list[Any] = []
        deferred.addBoth(answers.append)
        passed, poll = 0.0, FIRST_POLL
        while not answers:
            self.assertLess(passed, self.factory.patience, f"{verb}: it answers within {self.factory.patience:g} s")
            await self.factory.pass_time(poll)
            passed += poll
            poll = min(2 * poll, POLL)
        if isinstance(answers[0], Failure):
            answers[0].raiseException()
        return answers[0]

    async def on(self, provider: Any, verb: str, *args: Any, promise: str = "it succeeds") -> Any:
        """
        Call a verb that must succeed.

        @param provider: a connection, or the driver.
        @param promise: the promise that is broken if it doesn't.
        """
        try:
            return await self.wait(verb, getattr(provider, verb), *args)
        except self.failureException:
            raise
        except Exception as error:
            raise self.failureException(f"{verb}: {promise}; it raised {type(error).__name__}: {error}") from error

    async def ask(self, verb: str, *args: Any, promise: str = "it succeeds") -> Any:
        """Call a verb of the test's connection, which must succeed."""
        return await self.on(self.connection, verb, *args, promise=promise)

    async def again(self, verb: str, *args: Any) -> Any:
        """Repeat a verb, and check that this changes nothing."""
        before = await self.own()
        answer = await self.ask(verb, *args, promise="a repetition succeeds")
        self.assertEqual(await self.own(), before, f"{verb}: a repetition changes nothing")
        return answer

    async def refuses(self, error: type[DriverError], when: str, verb: str, *args: Any) -> str:
        """Check that a verb fails with this error, and changes nothing. Returns the error's text."""
        before = await self.own()
        words = await self.raises(error, when, verb, *args)
        self.assertEqual(await self.own(), before, f"{verb}: after failure ({when}) it is as before")
        return words

    async def raises(self, error: type[DriverError], when: str, verb: str, *args: Any) -> str:
        """Check that a verb fails with this error, and that it has a text. Returns the text."""
        promise = f"{verb}: {error.__name__} is raised for {when}"
        try:
            answer = await self.wait(verb, getattr(self.connection, verb), *args)
        except error as raised:
            self.assertTrue(str(raised).strip(), f"{promise}, with a text that says what is wrong")
            return str(raised)
        except self.failureException:
            raise
        except Exception as other:
            raise self.failureException(f"{promise}; it raised {type(other).__name__}: {other}") from other
        else:
            self.fail(f"{promise}; it answered {answer!r}")

    # looking

    async def listing(self, connection: Any) -> tuple[list[str], list[tuple[str, str]]]:
        """List all domains, and all volumes of the pool."""
        domains = await self.on(connection, "list_domains")
        volumes = []
        if IDisks.providedBy(connection):  # type: ignore[attr-defined]
            volumes = await self.on(connection, "list_volumes", self.factory.pool)
        return sorted(domain.uuid for domain in domains), sorted((volume.name, volume.path) for volume in volumes)

    async def own(self) -> tuple[dict[str, DomainInfo], dict[str, Volume]]:
        """Return all existing domains and volumes that this test created."""
        told = [domain for domain in await self.ask("list_domains") if domain.uuid in self.made]
        domains = {domain.uuid: domain for domain in told}
        self.assertEqual(len(domains), len(told), "list_domains: each domain is listed once")
        if not self.volumes:
            return domains, {}
        volumes = await self.ask("list_volumes", self.factory.pool, self.formats)
        return domains, {volume.name: volume for volume in volumes if volume.name in self.volumes}

    async def told(self, uuid: str, promise: str) -> DomainInfo:
        """Get a domain that must exist."""
        info: DomainInfo = await self.ask("get_domain", uuid, promise=promise)
        return info

    async def is_in(self, state: DomainState, uuid: str, promise: str) -> None:
        """Check a domain's state."""
        self.assertEqual((await self.told(uuid, promise)).state, state, promise)

    async def becomes(self, state: DomainState, uuid: str, promise: str) -> None:
        """Let time pass until a domain is in a state."""
        passed = 0.0
        while (seen := (await self.told(uuid, promise)).state) is not state:
            self.assertLess(passed, self.factory.patience, f"{promise}; it is still {seen}")
            await self.factory.pass_time(10 * POLL)
            passed += 10 * POLL

    # making

    def name(self) -> str:
        """An unused name."""
        return f"contract-{uuids.uuid4().hex[:12]}"

    def spec(self, **changes: Any) -> DomainSpec:
        """Describe a domain; it is removed after the test if it was defined."""
        spec = self.factory.spec(changes.pop("name", self.name()), **changes)
        self.made.append(spec.uuid)
        return spec

    async def defined(self, **changes: Any) -> DomainSpec:
        """Define a domain."""
        spec = self.spec(**changes)
        await self.ask("define_domain", spec, promise="a domain is defined")
        return spec

    async def started(self, **changes: Any) -> DomainSpec:
        """Define a domain and start it, without waiting for its guest."""
        spec = await self.defined(**changes)
        await self.ask("start", spec.uuid, promise="a stopped domain is booted")
        return spec

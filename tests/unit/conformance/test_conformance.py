"""The driver contract finds drivers that break it, and says which promise they break."""

from __future__ import annotations

import functools
import inspect
import unittest
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer_only

from fluidvm.conformance import CONTRACTS, driver_contract
from fluidvm.driver import (
    ABILITIES,
    AlreadyThere,
    DomainInfo,
    DomainSpec,
    DomainState,
    DomainStats,
    DriverError,
    HostStats,
    IConnection,
    IDisks,
    Unreachable,
    Volume,
    WrongState,
)
from fluidvm.drivers.simulator.driver import SimulatedConnection
from fluidvm.drivers.simulator.host import SimulatedHost
from tests.unit.drivers.simulator.test_contract import SimulatorFactory


class LiesAtStart(SimulatedConnection):
    def start(self, uuid: str) -> Deferred[None]:
        return self.get_domain(uuid).addCallback(lambda info: None)


class KeepsTheUndefined(SimulatedConnection):
    def undefine_domain(self, uuid: str) -> Deferred[None]:
        return succeed(None)


class ForgetsMemory(SimulatedConnection):
    def set_memory(self, uuid: str, memory: int) -> Deferred[None]:
        return super().set_memory(uuid, self.simulated.domain(uuid).memory)


class RefusesRepetition(SimulatedConnection):
    def define_domain(self, spec: DomainSpec) -> Deferred[None]:
        if any(domain.uuid == spec.uuid for domain in self.simulated.domains()):
            return fail(AlreadyThere(f"There is a domain {spec.uuid}."))
        return super().define_domain(spec)


class RaisesKeyError(SimulatedConnection):
    def get_domain(self, uuid: str) -> Deferred[DomainInfo]:
        return self._do("get_domain", lambda: self.simulated._domains[uuid])


class RaisesAtOnce(SimulatedConnection):
    def get_domain(self, uuid: str) -> Deferred[DomainInfo]:
        return succeed(self.simulated.domain(uuid))


class TellsNothing(SimulatedConnection):
    def subscribe(self, callback: Any) -> None:
        pass


class TellsItsOwnOnly(SimulatedConnection):
    """Changes that the driver didn't make itself aren't reported."""

    def _do(self, verb: str, effect: Callable[[], Any], progress: Any = None, subject: str = "") -> Deferred[Any]:
        def mine() -> Any:
            self.simulated.by_driver = True  # type: ignore[attr-defined]
            try:
                return effect()
            finally:
                self.simulated.by_driver = False  # type: ignore[attr-defined]

        return super()._do(verb, mine, progress, subject)

    def subscribe(self, callback: Any) -> None:
        super().subscribe(lambda *event: callback(*event) if self.simulated.by_driver else None)  # type: ignore[attr-defined]


class TellsLate(SimulatedConnection):
    def subscribe(self, callback: Any) -> None:
        clock = self._faults.clock
        super().subscribe(lambda uuid, state: clock.callLater(1.5, callback, uuid, state))  # type: ignore[arg-type]


class TellsOneOnly(SimulatedConnection):
    """The last to subscribe."""

    def subscribe(self, callback: Any) -> None:
        self._listeners.clear()
        super().subscribe(callback)


class TellsOnAfterClose(SimulatedConnection):
    def close(self) -> Deferred[None]:
        self._open = False  # and the host goes on telling it
        return succeed(None)


class ReplacesVolumes(SimulatedConnection):
    def create_volume(self, pool: str, name: str, size: int, format: str, progress: Any) -> Deferred[Volume]:
        there = self.simulated._volumes.get(name)
        if there is not None and (there.size, there.format) != (size, format):
            self.simulated._volumes.pop(name)
        return super().create_volume(pool, name, size, format, progress)


class SpoilsTheOther(SimulatedConnection):
    """Raises the right error, but after it has made a change."""

    def create_volume(self, pool: str, name: str, size: int, format: str, progress: Any) -> Deferred[Volume]:
        there = self.simulated._volumes.get(name)
        if there is not None and there.size != size:
            self.simulated._volumes[name] = replace(there, size=size)
            return fail(AlreadyThere(f"There is a volume {name}."))
        return super().create_volume(pool, name, size, format, progress)


class DetachesNothing(SimulatedConnection):
    def detach_disk(self, uuid: str, target: str) -> Deferred[None]:
        return succeed(None)


class ResizesForNow(SimulatedConnection):
    """What was attached to a running domain is lost when it is stopped."""

    def stop(self, uuid: str) -> Deferred[None]:
        def back(_: None) -> None:
            info = self.simulated.domain(uuid)
            if info.memory == info.max_memory:
                self.simulated.resize(uuid, memory=128)

        return super().stop(uuid).addCallback(back)


class StopsAll(SimulatedConnection):
    def shutdown(self, uuid: str) -> Deferred[None]:
        for domain in self.simulated.domains():
            self.simulated.stop(domain.uuid)
        return super().shutdown(uuid)


class RebootsByStopping(SimulatedConnection):
    def reboot(self, uuid: str) -> Deferred[None]:
        return super().reboot(uuid).addCallback(lambda _: self.simulated.stop(uuid))


class PausesTheStopped(SimulatedConnection):
    def pause(self, uuid: str) -> Deferred[None]:
        return super().pause(uuid).addErrback(lambda failure: failure.trap(DriverError) and None)


class AnswersAfterClose(SimulatedConnection):
    def _check(self) -> None:
        pass


class FailsTheSecondClose(SimulatedConnection):
    def close(self) -> Deferred[None]:
        if not self._open:
            return fail(Unreachable("It is closed."))
        return super().close()


class DiesInSilence(SimulatedConnection):
    def on_lost(self, callback: Callable[[str], None]) -> None:
        pass


class Hangs(SimulatedConnection):
    def resume(self, uuid: str) -> Deferred[None]:
        return Deferred()


class AnswersAtOnce(SimulatedConnection):
    def host_info(self) -> Any:
        return self.simulated.info()


class KeepsToItself(SimulatedConnection):
    """Its definitions aren't written to the journal."""

    def define_domain(self, spec: DomainSpec) -> Deferred[None]:
        journal = self.simulated._journal
        write, journal.write = journal.write, lambda *args: None  # type: ignore[method-assign, union-attr]

        def back(result: Any) -> Any:
            journal.write = write  # type: ignore[method-assign, union-attr]
            return result

        return super().define_domain(spec).addBoth(back)


class TellsTwice(SimulatedConnection):
    def list_domains(self) -> Deferred[Any]:
        return super().list_domains().addCallback(lambda domains: [*domains, *domains])


class ReachesTheOthers(SimulatedConnection):
    """Changes of a running domain also affect other running domains."""

    def _all(self, verb: str, uuid: str) -> Deferred[None]:
        def rest(_: None) -> None:
            for domain in self.simulated.domains():
                if domain.uuid != uuid and domain.state is DomainState.RUNNING:
                    getattr(self.simulated, verb)(domain.uuid)

        return getattr(super(), verb)(uuid).addCallback(rest)


class PausesTheOthers(ReachesTheOthers):
    def pause(self, uuid: str) -> Deferred[None]:
        return self._all("pause", uuid)


class StopsTheOthers(ReachesTheOthers):
    def stop(self, uuid: str) -> Deferred[None]:
        return self._all("stop", uuid)


class StopsTheOthersAtReboot(SimulatedConnection):
    def reboot(self, uuid: str) -> Deferred[None]:
        def rest(_: None) -> None:
            for domain in self.simulated.domains():
                if domain.uuid != uuid:
                    self.simulated.stop(domain.uuid)

        return super().reboot(uuid).addCallback(rest)


class ResizesTheOthers(SimulatedConnection):
    def resize_memory(self, uuid: str, memory: int) -> Deferred[None]:
        def rest(_: None) -> None:
            for domain in self.simulated.domains():
                if domain.uuid != uuid and domain.state is DomainState.STOPPED:
                    self.simulated.resize(domain.uuid, memory=memory)

        return super().resize_memory(uuid, memory).addCallback(rest)


class DoesNotSayHow(SimulatedConnection):
    def resize_memory(self, uuid: str, memory: int) -> Deferred[None]:
        def say(failure: Any) -> None:
            failure.trap(WrongState)
            raise WrongState("That is too much.")

        return super().resize_memory(uuid, memory).addErrback(say)


class TakesWhatIsMissing(SimulatedConnection):
    """While the domain runs."""

    def attach_disk(self, uuid: str, disk: Any) -> Deferred[None]:
        domain = self.simulated._domains.get(uuid)
        if domain is not None and domain.state is DomainState.RUNNING:
            self.patched = self.simulated._check_file
            self.simulated._check_file = lambda disk: None  # type: ignore[method-assign]

            def back(result: Any) -> Any:
                self.simulated._check_file = self.patched  # type: ignore[method-assign]
                return result

            return super().attach_disk(uuid, disk).addBoth(back)
        return super().attach_disk(uuid, disk)


class TellsOfTheStopped(SimulatedConnection):
    def domain_stats(self, uuid: str) -> Deferred[DomainStats]:
        return self._do("domain_stats", lambda: DomainStats(cpu_time=1.0, memory=self.simulated.domain(uuid).memory))


class CountsBackwards(SimulatedConnection):
    left = 1000

    def domain_stats(self, uuid: str) -> Deferred[DomainStats]:
        self.left -= 1
        running = self.simulated.domain(uuid).state is DomainState.RUNNING
        return self._do("domain_stats", lambda: DomainStats(1.0, 1, self.left) if running else DomainStats())


class KnowsNothing(SimulatedConnection):
    def domain_stats(self, uuid: str) -> Deferred[DomainStats]:
        return super().domain_stats(uuid).addCallback(lambda told: DomainStats())


class UsesMoreThanThereIs(SimulatedConnection):
    def host_stats(self) -> Deferred[HostStats]:
        return self._do("host_stats", lambda: HostStats(140.0, 2**30))


class GrowsTheOthers(SimulatedConnection):
    def resize_volume(self, pool: str, name: str, format: str, size: int) -> Deferred[Volume]:
        for volume in self.simulated.volumes(pool):
            if volume.name != name and volume.size < size:
                self.simulated.put_volume(replace(volume, size=size))
        return super().resize_volume(pool, name, format, size)


class SaysItGrew(SimulatedConnection):
    def resize_volume(self, pool: str, name: str, format: str, size: int) -> Deferred[Volume]:
        def grown() -> Volume:
            (found,) = [volume for volume in self.simulated.volumes(pool) if volume.name == name]
            return replace(found, size=size)

        return self._do("resize_volume", grown)


class LinksInsteadOfCopying(SimulatedConnection):
    def clone_volume(self, pool: str, name: str, format: str, new: str, progress: Any) -> Deferred[Volume]:
        def linked(copy: Volume) -> Volume:
            self.simulated.put_volume(replace(copy, path=f"/simulated/{pool}/{name}"))
            return replace(copy, path=f"/simulated/{pool}/{name}")

        return super().clone_volume(pool, name, format, new, progress).addCallback(linked)


class HasMoreFreeThanThereIs(SimulatedConnection):
    def list_pools(self) -> Deferred[Any]:
        return super().list_pools().addCallback(lambda pools: [replace(pool, free=pool.capacity + 1) for pool in pools])


class LeavesTheCancelled(SimulatedConnection):
    def create_volume(self, pool: str, name: str, size: int, format: str, progress: Any) -> Deferred[Volume]:
        async def make() -> Volume:
            made: Volume = await super(LeavesTheCancelled, self).create_volume(pool, name, size, format, progress)
            await deferLater(self._faults.clock, 0.1, lambda: None)
            return made

        return Deferred.fromCoroutine(make())


class ForgetsWhatItSaved(SimulatedConnection):
    def save(self, uuid: str, progress: Any) -> Deferred[None]:
        return super().save(uuid, progress).addCallback(lambda _: self.simulated.put_state(uuid, DomainState.STOPPED))


class SavesTheOthers(SimulatedConnection):
    def save(self, uuid: str, progress: Any) -> Deferred[None]:
        for domain in self.simulated.domains():
            if domain.state is DomainState.RUNNING:
                self.simulated.put_state(domain.uuid, DomainState.SAVED)
        return super().save(uuid, progress)


class KeepsWhatWasSaved(SimulatedConnection):
    def stop(self, uuid: str) -> Deferred[None]:
        if self.simulated.domain(uuid).state is DomainState.SAVED:
            return succeed(None)
        return super().stop(uuid)


class ResetsByStopping(SimulatedConnection):
    def reset(self, uuid: str) -> Deferred[None]:
        return super().reset(uuid).addCallback(lambda _: self.simulated.stop(uuid))


class ResetsThePaused(SimulatedConnection):
    def reset(self, uuid: str) -> Deferred[None]:
        if self.simulated.domain(uuid).state is DomainState.PAUSED:
            return succeed(None)
        return super().reset(uuid)


FAULTY: tuple[tuple[type[SimulatedConnection], str], ...] = (
    (LiesAtStart, "start: it is running"),
    (KeepsTheUndefined, "undefine_domain: list_domains doesn't list it"),
    (KeepsTheUndefined, "nothing is left on the host after the test"),
    (ForgetsMemory, "set_memory: get_domain reports what was requested"),
    (RefusesRepetition, "define_domain: a repetition succeeds"),
    (RaisesKeyError, "get_domain: NoSuchThing is raised for a domain that doesn't exist; it raised KeyError"),
    (RaisesAtOnce, "get_domain: a verb returns a Deferred, which fails; it raised NoSuchThing at once"),
    (TellsItsOwnOnly, "subscribe: a change behind the driver's back is reported within a second"),
    (TellsNothing, "subscribe: the change by start is reported within a second"),
    (TellsLate, "subscribe: the change by start is reported within a second"),
    (TellsOneOnly, "subscribe: the change by start is reported within a second"),
    (TellsOnAfterClose, "close: no events come afterwards"),
    (ReplacesVolumes, "create_volume: AlreadyThere is raised for a name that a volume of another size has"),
    (SpoilsTheOther, "create_volume: after failure (a name that a volume of another size has) it is as before"),
    (DetachesNothing, "detach_disk: get_domain doesn't report the disk"),
    (ResizesForNow, "resize_memory, resize_vcpus: they are still in effect after a stop"),
    (StopsAll, "shutdown: another domain isn't affected"),
    (RebootsByStopping, "reboot: the domain stays running"),
    (PausesTheStopped, "pause: WrongState is raised for a stopped domain"),
    (AnswersAfterClose, "host_info: Unreachable is raised for a closed connection"),
    (FailsTheSecondClose, "close: a repetition does nothing"),
    (DiesInSilence, "on_lost: it is called once, at the latest when the next verb fails"),
    (Hangs, "resume: it answers within 5 s"),
    (AnswersAtOnce, "host_info: a verb returns a Deferred"),
    (KeepsToItself, "define_domain: the definition survives a restart of the host"),
    (TellsTwice, "list_domains: each domain is listed once"),
    (PausesTheOthers, "pause: another domain that runs isn't affected"),
    (StopsTheOthers, "stop: another domain that runs isn't affected"),
    (StopsTheOthersAtReboot, "reboot: another domain that runs isn't affected"),
    (ResizesTheOthers, "resize_memory, resize_vcpus: another domain isn't affected"),
    (DoesNotSayHow, "resize_memory: over the maximum, the message says that it needs a stop"),
    (TellsOfTheStopped, "domain_stats: nothing is reported for a domain that isn't running"),
    (CountsBackwards, "domain_stats: usage doesn't decrease"),
    (KnowsNothing, "domain_stats: a domain that has booted has used CPU or memory"),
    (UsesMoreThanThereIs, "host_stats: cpu is a percentage"),
    (GrowsTheOthers, "resize_volume: another volume isn't affected"),
    (SaysItGrew, "resize_volume: list_volumes reports the size"),
    (LinksInsteadOfCopying, "clone_volume: the copy is another volume"),
    (HasMoreFreeThanThereIs, "list_pools: the free space isn't more than the capacity"),
    (ForgetsWhatItSaved, "save: its state is saved"),
    (SavesTheOthers, "save, restore: another domain isn't affected"),
    (KeepsWhatWasSaved, "stop: a saved domain is stopped"),
    (ResetsByStopping, "reset: it is running"),
    (ResetsThePaused, "reset: WrongState is raised for a paused domain"),
    (LeavesTheCancelled, "create_volume: after cancelling, it stops and nothing of it is left"),
    (TakesWhatIsMissing, "attach_disk: NoSuchThing is raised for a file that doesn't exist"),
)


class Strict(SimulatorFactory):
    """Records the state of the host at each stop."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[tuple[int, int]] = set()

    async def stop(self) -> None:
        simulated = SimulatedHost.at(self._place(), self.options)
        running = [domain for domain in simulated.domains() if domain.state is not DomainState.STOPPED]
        self.found.add((len(simulated.connections), len(running)))
        await super().stop()


@implementer_only(IConnection, IDisks)
class WithDisksOnly(SimulatedConnection):
    """The core and disks; the other abilities' methods are there, but not promised."""

    def subscribe(self, callback: Callable[[str, DomainState | None], None]) -> None:
        raise AssertionError("not promised")


class _Until(unittest.TestResult):
    """Stops the tests at the first failure whose message contains a certain text."""

    def __init__(self, wanted: str) -> None:
        super().__init__()
        self._wanted = wanted

    def stopTest(self, test: Any) -> None:
        super().stopTest(test)
        if self._wanted and any(self._wanted in text for text in self.messages()):
            self.stop()

    def messages(self) -> list[str]:
        return [text for _, text in (*self.failures, *self.errors, *self.skipped)]


_source = functools.cache(inspect.getsource)


def broken_promises(connection: type[SimulatedConnection], wanted: str = "") -> tuple[int, list[str]]:
    """
    Run the contract for a driver.

    @param wanted: text of a message that is expected: tests that contain it run first, and the run ends at such a message.
    @return: the number of tests, and the message of each failure.
    """
    return run_contract(SimulatorFactory(connection), wanted)


def run_contract(factory: SimulatorFactory, wanted: str = "") -> tuple[int, list[str]]:
    """Like L{broken_promises}, with a factory."""
    tests = [
        contract(name)
        for contract in driver_contract(factory).values()
        for name in unittest.defaultTestLoader.getTestCaseNames(contract)
    ]
    if wanted:
        tests.sort(key=lambda test: wanted not in _source(getattr(type(test), test._testMethodName)))
    result = _Until(wanted)
    unittest.TestSuite(tests).run(result)
    return result.testsRun, result.messages()


class ConformanceTests(SynchronousTestCase):
    """
    Trial's test cases run inside of others here: all that they wait for is on a clock that they turn, so that no reactor
    need run, and L{SynchronousTestCase} has none running.
    """

    def test_a_driver_that_keeps_its_promises(self) -> None:
        ran, broken = broken_promises(SimulatedConnection)
        self.assertEqual(broken, [])
        self.assertGreater(ran, 25)

    def test_the_host_is_left_before_it_stops(self) -> None:
        """No connection is open then, and no domain runs, so a factory can really stop its host."""
        factory = Strict()
        self.assertEqual(run_contract(factory)[1], [])
        self.assertEqual(factory.found, {(0, 0)})

    def test_every_ability_has_its_tests(self) -> None:
        self.assertEqual(list(CONTRACTS), list(ABILITIES))

    def test_what_is_not_promised_is_not_tested(self) -> None:
        made = driver_contract(SimulatorFactory(WithDisksOnly))
        self.assertEqual(sorted(made), ["ConnectionContract", "DisksContract"])
        ran, broken = broken_promises(WithDisksOnly)
        self.assertEqual(broken, [])
        self.assertGreater(ran, 15)

    def test_a_host_that_can_not_be_connected_to(self) -> None:
        contract = driver_contract(SimulatorFactory(fail=["connect"]))["ConnectionContract"]
        result = unittest.TestResult()
        contract("test_host_info").run(result)
        ((_, text),) = (*result.failures, *result.errors)
        self.assertIn(
            "connect: a running host can be connected to; it raised Unreachable: The simulator is configured to", text
        )

    def test_it_is_of_the_factory_s_module(self) -> None:
        for name, contract in driver_contract(SimulatorFactory()).items():
            self.assertEqual((contract.__module__, contract.__name__), (SimulatorFactory.__module__, name))

    def test_two_drivers_have_their_own(self) -> None:
        one, two = SimulatorFactory(), SimulatorFactory(WithDisksOnly)
        first, second = (driver_contract(factory)["ConnectionContract"] for factory in (one, two))
        self.assertIs(first.factory, one)
        self.assertIs(second.factory, two)


def _finds(connection: type[SimulatedConnection], promise: str) -> Callable[[ConformanceTests], None]:
    def test(self: ConformanceTests) -> None:
        _, broken = broken_promises(connection, promise)
        self.assertTrue(any(promise in text for text in broken), "\n".join([f"not found: {promise}", *broken]))

    return test


for _number, (_connection, _promise) in enumerate(FAULTY):
    setattr(ConformanceTests, f"test_it_finds_{_number:02d}_{_connection.__name__}", _finds(_connection, _promise))

"""The simulator's own features: its journal, and its configurable faults."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.driver import DomainDisk, DomainSpec, DomainState, DriverError, Unreachable
from fluidvm.drivers.simulator.driver import STEPS, SimulatedConnection, SimulatorDriver
from fluidvm.drivers.simulator.host import SimulatedHost
from fluidvm.drivers.simulator.journal import SLACK
from fluidvm.model.faults import InvalidParams
from tests.unit.drivers.simulator.test_contract import ClockHost

RUNNING, STOPPED = DomainState.RUNNING, DomainState.STOPPED


def a_spec(name: str = "web1", **changes: Any) -> DomainSpec:
    fields = {"uuid": str(uuid.uuid4()), "name": name, "vcpus": 1, "max_vcpus": 2, "memory": 128, "max_memory": 192}
    return DomainSpec(**{**fields, **changes})


class JournalTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.journal = self.directory / "simulator.journal"

    def host(self) -> SimulatedHost:
        """Open the same directory as a new host, as after the server was killed."""
        return SimulatedHost(self.directory)

    def test_state_survives_a_restart(self) -> None:
        host = self.host()
        kept, gone = a_spec("kept", autostart=True), a_spec("gone")
        volume = host.create_volume("default", "disk1", 10, "qcow2")
        host.create_volume("default", "disk2", 10, "raw")
        for spec in (kept, gone):
            host.define(spec)
        host.attach(kept.uuid, DomainDisk(volume.path, "qcow2", "vda"))
        host.start(kept.uuid)
        host.undefine(gone.uuid)
        host.delete_volume("default", "disk2")
        for after in (self.host(), self.host()):
            self.assertEqual(after.domains(), host.domains())
            self.assertEqual(after.domain(kept.uuid).state, RUNNING)
            self.assertEqual(after.volumes("default"), [volume])

    def test_the_journal_is_private(self) -> None:
        self.host().define(a_spec())
        self.assertEqual(self.directory.stat().st_mode & 0o777, 0o700)
        self.assertEqual(self.journal.stat().st_mode & 0o777, 0o600)

    def test_an_incomplete_last_line(self) -> None:
        host = self.host()
        first, last = a_spec("first"), a_spec("last")
        host.define(first)
        whole = self.journal.stat().st_size
        host.define(last)
        written = self.journal.read_bytes()
        for length in range(whole, len(written) - 1):
            self.journal.write_bytes(written[:length])
            self.assertEqual([domain.name for domain in self.host().domains()], ["first"], written[whole:length])
        # Data after an incomplete line begins on a new line.
        self.journal.write_bytes(written[:-5])
        after = self.host()
        after.define(a_spec("next"))
        self.assertEqual([domain.name for domain in self.host().domains()], ["first", "next"])

    def test_a_damaged_line(self) -> None:
        """The journal is refused and left unchanged for inspection: later lines aren't dropped."""
        host = self.host()
        for name in ("one", "two", "three"):
            host.define(a_spec(name))
        lines = self.journal.read_bytes().splitlines(keepends=True)
        for damaged in (lines[1][:30] + b"\n", b"5\n", b"\n"):
            written = lines[0] + damaged + lines[2]
            self.journal.write_bytes(written)
            connecting = SimulatorDriver().connect("", {}, ClockHost(self.directory, Clock()))
            self.assertIn("line 2", str(self.failureResultOf(connecting, DriverError).value))
            self.assertEqual(self.journal.read_bytes(), written)

    def test_a_full_disk(self) -> None:
        """A failed write leaves nothing in memory or in the journal, and doesn't corrupt later writes."""
        host = self.host()
        first, last = a_spec("first"), a_spec("last")
        host.define(first)
        volume = host.create_volume("default", "disk1", 10, "raw")
        write = os.write
        for room in (0, 20):

            def full(file: int, line: bytes, room: int = room) -> int:
                if not room:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return write(file, line[:room])

            patch = self.patch(os, "write", full)
            for change, *arguments in (
                (host.define, last),
                (host.start, first.uuid),
                (host.undefine, first.uuid),
                (host.create_volume, "default", "disk2", 10, "raw"),
                (host.delete_volume, "default", "disk1"),
            ):
                with self.assertRaisesRegex(DriverError, "No space left"):
                    change(*arguments)
            patch.restore()
            for seen in (host, self.host()):
                self.assertEqual([(domain.name, domain.state) for domain in seen.domains()], [("first", STOPPED)])
                self.assertEqual(seen.volumes("default"), [volume])
            host = self.host()
        host.define(last)
        self.assertEqual([domain.name for domain in self.host().domains()], ["first", "last"])

    def test_no_room_for_compaction(self) -> None:
        host = self.host()
        spec = a_spec()
        host.define(spec)
        (self.directory / "simulator.new").mkdir()
        for _ in range(SLACK):
            host.start(spec.uuid)
            host.stop(spec.uuid)
        host.start(spec.uuid)
        (self.directory / "simulator.new").rmdir()
        self.assertEqual(self.host().domain(spec.uuid).state, RUNNING)

    def test_compaction(self) -> None:
        host = self.host()
        spec = a_spec()
        host.define(spec)
        line = self.journal.stat().st_size
        most = 0
        for _ in range(SLACK):
            host.start(spec.uuid)
            host.stop(spec.uuid)
            most = max(most, self.journal.stat().st_size)
        host.start(spec.uuid)
        self.assertLessEqual(most, line * (SLACK + 2))
        self.assertGreater(most, line * (SLACK - 2) // 2)  # when it was started is a shorter line
        self.assertEqual(self.host().domain(spec.uuid).state, RUNNING)
        self.assertEqual(list(self.directory.iterdir()), [self.journal])

    def test_a_repetition_writes_nothing(self) -> None:
        host = self.host()
        spec = a_spec()
        host.define(spec)
        written = self.journal.read_bytes()
        host.define(spec)
        host.stop(spec.uuid)
        self.assertEqual(self.journal.read_bytes(), written)

    def test_a_directory_that_can_not_be_created(self) -> None:
        self.directory.write_text("a file")
        connecting = SimulatorDriver().connect("", {}, ClockHost(self.directory, Clock()))
        self.assertIn("journal", str(self.failureResultOf(connecting, DriverError).value))


class FaultsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = Path(self.mktemp())

    def connecting(self, **options: Any) -> Deferred[SimulatedConnection]:
        checked = SimulatorDriver.options.check(options, "options", [])
        return SimulatorDriver().connect("", checked, ClockHost(self.directory, self.clock))

    def connected(self, **options: Any) -> SimulatedConnection:
        """Connect, and define one domain."""
        connection = self.successResultOf(self.connecting(**options))
        self.spec = a_spec()
        connection.simulated.define(self.spec)
        return connection

    def state(self, connection: SimulatedConnection) -> DomainState:
        """The domain's state, read behind the driver's back."""
        return connection.simulated.domain(self.spec.uuid).state

    def delayed(self) -> SimulatedConnection:
        """Connect to a host with a delay of 2 s for each verb."""
        connecting = self.connecting(delay=2.0)
        self.assertNoResult(connecting)
        self.clock.advance(2)
        connection = self.successResultOf(connecting)
        self.spec = a_spec()
        connection.simulated.define(self.spec)
        return connection

    def test_the_effect_comes_at_the_end_of_the_delay(self) -> None:
        connection = self.delayed()
        starting = connection.start(self.spec.uuid)
        self.clock.advance(1.9)
        self.assertNoResult(starting)
        self.assertEqual(self.state(connection), STOPPED)
        self.clock.advance(0.1)
        self.successResultOf(starting)
        self.assertEqual(self.state(connection), RUNNING)

    def test_a_verb_that_is_cancelled_has_no_effect(self) -> None:
        connection = self.delayed()
        starting = connection.start(self.spec.uuid)
        self.clock.advance(1.9)
        starting.cancel()
        self.failureResultOf(starting, CancelledError)
        self.clock.advance(10)
        self.assertEqual(self.state(connection), STOPPED)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_verb_whose_connection_is_closed_meanwhile_has_no_effect(self) -> None:
        connection = self.delayed()
        starting = connection.start(self.spec.uuid)
        self.successResultOf(connection.close())
        self.clock.advance(2)
        self.failureResultOf(starting, Unreachable)
        self.assertEqual(self.state(connection), STOPPED)

    def test_progress_comes_in_steps(self) -> None:
        connection = self.delayed()
        told: list[int] = []
        making = connection.create_volume("default", "disk1", 10, "raw", told.append)
        for step in range(STEPS):
            self.assertEqual(len(told), step)
            self.clock.advance(2 / STEPS + 1e-9)
        self.assertEqual(told, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100])
        self.assertEqual(self.successResultOf(making).name, "disk1")

    def test_fail(self) -> None:
        connection = self.connected(fail=["start"])
        error = self.failureResultOf(connection.start(self.spec.uuid), DriverError).value
        self.assertEqual(str(error), "The simulator is configured to fail at start.")
        self.assertEqual(self.state(connection), STOPPED)
        self.successResultOf(connection.set_memory(self.spec.uuid, 64))

    def test_fail_at_connect(self) -> None:
        self.failureResultOf(self.connecting(fail=["connect"]), Unreachable)

    def test_hang(self) -> None:
        connection = self.connected(hang=["start"])
        starting = connection.start(self.spec.uuid)
        self.clock.advance(86400)
        self.assertNoResult(starting)
        starting.cancel()
        self.failureResultOf(starting, CancelledError)
        self.assertEqual(self.state(connection), STOPPED)

    def test_guests_that_are_deaf(self) -> None:
        connection = self.connected(deaf=True)
        self.successResultOf(connection.start(self.spec.uuid))
        self.successResultOf(connection.shutdown(self.spec.uuid))
        self.assertEqual(self.state(connection), RUNNING)
        self.successResultOf(connection.stop(self.spec.uuid))
        self.assertEqual(self.state(connection), STOPPED)

    def test_the_pool_has_its_size(self) -> None:
        connection = self.connected(pool_size=10)

        def create(name: str, size: int) -> Deferred[Any]:
            return connection.create_volume("default", name, size, "raw", lambda part: None)

        self.successResultOf(create("a", 6))
        error = self.failureResultOf(create("b", 5), DriverError).value
        self.assertEqual(str(error), "Storage pool default has no space for 5 MiB.")
        self.successResultOf(create("c", 4))
        self.successResultOf(create("a", 6))
        self.successResultOf(connection.delete_volume("default", "a"))
        self.successResultOf(create("b", 5))

    def test_what_the_host_has(self) -> None:
        info = self.successResultOf(self.connected(vcpus=4, memory=4096).host_info())
        self.assertEqual((info.vcpus, info.memory), (4, 4096))

    def test_options_are_checked(self) -> None:
        options = SimulatorDriver.options
        self.assertEqual(options.check({"delay": 2, "fail": ["stop"]}, "options", []), {"delay": 2.0, "fail": ["stop"]})
        for wrong, words in (
            ({"fail": ["start", "explode"]}, "options.fail[1]"),
            ({"hang": ["meet"]}, "options.hang[0]"),
            ({"delay": -1.0}, "options.delay"),
            ({"vcpus": 0}, "options.vcpus"),
            ({"pool_size": -1}, "options.pool_size"),
            ({"color": "red"}, "color"),
        ):
            with self.assertRaises(InvalidParams) as caught:
                options.check(wrong, "options", [])
            self.assertIn(words, str(caught.exception))

    def test_there_is_no_address(self) -> None:
        SimulatorDriver().check_address("")
        with self.assertRaises(ValueError):
            SimulatorDriver().check_address("host1")

    def test_one_host_for_each_directory(self) -> None:
        one, two = self.successResultOf(self.connecting()), self.successResultOf(self.connecting())
        self.assertIs(one.simulated, two.simulated)
        lost: list[str] = []
        for connection in (one, two):
            connection.on_lost(lost.append)
        one.simulated.cut("The host died.")
        self.assertEqual(lost, ["The host died."] * 2)
        self.assertEqual(one.simulated.connections, [])

    def test_start_of_a_running_domain_whose_file_is_gone(self) -> None:
        connection = self.connected()
        volume = connection.simulated.create_volume("default", "disk1", 10, "raw")
        connection.simulated.attach(self.spec.uuid, DomainDisk(volume.path, "raw", "vda"))
        connection.simulated.start(self.spec.uuid)
        connection.simulated.delete_volume("default", "disk1")
        self.successResultOf(connection.start(self.spec.uuid))
        self.assertEqual(self.state(connection), RUNNING)

    def test_a_failing_callback_affects_nothing_else(self) -> None:
        connection = self.connected()
        told: list[object] = []
        connection.subscribe(lambda uuid, state: 1 // 0)  # type: ignore[arg-type]
        connection.subscribe(lambda uuid, state: told.append(state))
        self.successResultOf(connection.start(self.spec.uuid))
        connection.on_lost(lambda reason: 1 // 0)  # type: ignore[arg-type]
        connection.on_lost(told.append)
        connection.cut("The network broke.")
        self.assertEqual(told, [RUNNING, "The network broke."])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_a_loss_is_reported_to_later_callbacks(self) -> None:
        connection = self.connected()
        connection.cut("The network broke.")
        told: list[str] = []
        connection.on_lost(told.append)
        self.assertEqual(told, ["The network broke."])
        self.successResultOf(connection.close())
        connection.on_lost(told.append)
        self.assertEqual(told, ["The network broke."])

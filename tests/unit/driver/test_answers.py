"""Whatever a driver, a host or a guest returns: it can be sent, or it becomes an error of the driver."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from fluidvm.driver import (
    DomainInfo,
    DomainState,
    DomainStats,
    DriverError,
    GuestNetwork,
    GuestOutput,
    HostInfo,
    IConnection,
    Limits,
    Pool,
    Snapshot,
    Volume,
)
from fluidvm.driver import values as driver_values
from fluidvm.driver.answers import COUNTER, LONGEST, within
from fluidvm.model.xmlvalue import INT_HIGH, INT_LOW, carries, moment, render
from fluidvm.nodes.timeouts import TimedConnection
from tests.unit.model.test_xmlvalue import CALM

GOOD = DomainInfo("u", "web", DomainState.RUNNING, 1, 2, 64, 128, (), False)
ODD = (
    st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=()))
    | st.booleans()
    | st.none()
    | st.binary()
    | st.lists(st.integers(), max_size=2)
    | st.just({"a": 2**40})
)
SAMPLES: list[Any] = [
    GOOD,
    HostInfo(1, 2, "a", "b"),
    Volume("p", "n", "/x", "raw", 5),
    Pool("p", 1, 2),
    Snapshot("s", 5.0, True),
    GuestOutput(0, "out", "err"),
    Limits(1, 2, 3, 4),
    GuestNetwork(("192.0.2.1",), "host"),
    DomainStats(1.0, 2, 3, 4, 5, 6),
]


def sendable(answer: Any) -> None:
    """In the forms of the API: counters of bytes as doubles, points in time as dates."""
    shown = asdict(answer)
    if isinstance(answer, DomainStats):
        shown = {name: value if name == "memory" or value is None else float(value) for name, value in shown.items()}
    if isinstance(answer, Snapshot):
        shown["created"] = moment(shown["created"])
    render(shown)
    assert "\\u0000" not in json.dumps(asdict(answer))  # PostgreSQL refuses it


class WithinTests(SynchronousTestCase):
    @settings(CALM, max_examples=500)
    @given(st.data())
    def test_anything(self, data: st.DataObject) -> None:
        sample = data.draw(st.sampled_from(SAMPLES))
        odd = {one.name: data.draw(ODD, one.name) for one in fields(sample) if data.draw(st.booleans())}
        try:
            found = within(replace(sample, **odd))
        except DriverError:
            return
        sendable(found)

    def test_every_answer_has_a_sample(self) -> None:
        asked = {"DomainSpec", "DomainDisk", "DomainInterface", "Boot", "Shares", "Network", "HostStats"}  # as others are
        there = {name for name, cls in vars(driver_values).items() if is_dataclass(cls)}
        self.assertEqual(there - asked - {type(sample).__name__ for sample in SAMPLES}, set())

    def test_valid_answers_stay_the_same(self) -> None:
        for sample in SAMPLES:
            self.assertIs(within(sample), sample)
        for value in (None, 2**61, b"\0", True):
            self.assertIs(within(value), value)
        self.assertEqual(within([GOOD, GOOD]), [GOOD, GOOD])

    def test_numbers(self) -> None:
        self.assertEqual(within(GuestOutput(2**40, "", "")).code, INT_HIGH)
        self.assertEqual(within(GuestOutput(-(2**40), "", "")).code, INT_LOW)
        self.assertEqual(within(replace(GOOD, memory=2**50)).memory, INT_HIGH)
        self.assertEqual(within(DomainStats(disk_read=2**40)).disk_read, 2**40)
        self.assertEqual(within(DomainStats(disk_read=2**80)).disk_read, COUNTER)
        self.assertEqual(moment(within(Snapshot("s", 1e300, False)).created).year, 9999)

    def test_texts(self) -> None:
        self.assertEqual(within(GuestOutput(0, "a\0b\ud800\x1b", "")).stdout, "a\ufffdb\ufffd\ufffd")
        self.assertEqual(len(within(GuestOutput(0, "x" * (LONGEST + 5), "")).stdout), LONGEST)
        self.assertEqual(within(["a\0"]), ["a\ufffd"])
        self.assertTrue(all(carries(one) for one in within(GuestNetwork(("\0",), "\x01")).addresses))

    def test_wrong_types(self) -> None:
        for wrong in (
            GuestOutput("0", "", ""),  # type: ignore[arg-type]
            GuestOutput(True, "", ""),
            GuestOutput(0, b"", ""),  # type: ignore[arg-type]
            replace(GOOD, state="running"),  # type: ignore[arg-type]
            Snapshot("s", float("nan"), False),
            replace(GOOD, disks=(5,)),  # type: ignore[arg-type]
            replace(GOOD, disks=5),  # type: ignore[arg-type]
            Snapshot("s", 0.0, 1),  # type: ignore[arg-type]
            HostInfo(None, 5, "", ""),  # type: ignore[arg-type]
        ):
            self.assertRaises(DriverError, within, wrong)


@implementer(IConnection)
class Liar:  # type: ignore[misc]
    """A connection to a host that returns invalid answers."""

    def host_info(self) -> Any:
        return succeed(HostInfo(2**40, -(2**40), "a\0", "b"))

    def list_domains(self) -> Any:
        return succeed([GOOD, replace(GOOD, state="dancing")])  # type: ignore[arg-type]


class ConnectionTests(SynchronousTestCase):
    def test_all_queries_of_a_node(self) -> None:
        connection = TimedConnection(Liar(), Clock(), "node1", 10, lambda reason: None)
        self.assertEqual(self.successResultOf(connection.host_info()), HostInfo(INT_HIGH, INT_LOW, "a\ufffd", "b"))
        self.failureResultOf(connection.list_domains(), DriverError)

"""The contract of consoles finds drivers that break it, and says which promise they break."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.driver import DomainState, DriverError
from fluidvm.drivers.simulator.driver import SimulatedConnection
from tests.unit.conformance.test_conformance import broken_promises


class KeepsTheFormer(SimulatedConnection):
    def open_serial(self, uuid: str, viewer: Any) -> Deferred[None]:
        self._serial.pop(uuid, None)
        return super().open_serial(uuid, viewer)


class OutlivesItsDomain(SimulatedConnection):
    def end_consoles(self, uuid: str | None = None) -> None:
        if uuid is None:
            super().end_consoles()


class OutlivesItsNode(SimulatedConnection):
    def end_consoles(self, uuid: str | None = None) -> None:
        if uuid is not None:
            super().end_consoles(uuid)


class HearsNothing(SimulatedConnection):
    def open_serial(self, uuid: str, viewer: Any) -> Deferred[None]:
        def deafen(done: None) -> None:
            viewer.transport.typed = lambda data: None

        return super().open_serial(uuid, viewer).addCallback(deafen)


class TellsTheNeighbours(SimulatedConnection):
    def open_serial(self, uuid: str, viewer: Any) -> Deferred[None]:
        def share(done: None) -> None:
            typed = viewer.transport.typed

            def for_all(data: bytes) -> None:
                typed(data)
                for other in self._serial.values():
                    if other is not viewer.transport:
                        other.show(b" heard: " + data)

            viewer.transport.typed = for_all

        return super().open_serial(uuid, viewer).addCallback(share)


class NeverPauses(SimulatedConnection):
    def open_serial(self, uuid: str, viewer: Any) -> Deferred[None]:
        def go_on(done: None) -> None:
            viewer.transport.pauseProducing = lambda: None

        return super().open_serial(uuid, viewer).addCallback(go_on)


class LosesWhatCameMeanwhile(SimulatedConnection):
    def open_serial(self, uuid: str, viewer: Any) -> Deferred[None]:
        def forget(done: None) -> None:
            resume = viewer.transport.resumeProducing

            def resume_afresh() -> None:
                viewer.transport._coming.clear()
                resume()

            viewer.transport.resumeProducing = resume_afresh

        return super().open_serial(uuid, viewer).addCallback(forget)


class OpensWhatIsOff(SimulatedConnection):
    def _on(self, uuid: str) -> str:
        return self.simulated.domain(uuid).name


class ConnectsAndFails(SimulatedConnection):
    def open_vnc(self, uuid: str, viewer: Any) -> Deferred[None]:
        def after(failure: Failure) -> Failure:
            failure.trap(DriverError)
            viewer.connectionMade()
            return failure

        return super().open_vnc(uuid, viewer).addErrback(after)


class NeverConnects(SimulatedConnection):
    def open_serial(self, uuid: str, viewer: Any) -> Deferred[None]:
        return self._do("open_serial", lambda: self._on(uuid) and None)  # type: ignore[arg-type]


class LosesTwice(SimulatedConnection):
    def tell(self, uuid: str, state: DomainState | None) -> None:
        viewers = [transport._viewer for transport in self._serial.values()]
        super().tell(uuid, state)
        if state is DomainState.STOPPED:
            for viewer in viewers:
                viewer.connectionLost(Failure(ConnectionDone()))


class TakesTheScreen(SimulatedConnection):
    def open_vnc(self, uuid: str, viewer: Any) -> Deferred[None]:
        for transport in list(self._screens):
            transport.loseConnection()
        return super().open_vnc(uuid, viewer)


class WantsAPassword(SimulatedConnection):
    def open_vnc(self, uuid: str, viewer: Any) -> Deferred[None]:
        def lock(done: None) -> None:
            transport = viewer.transport
            show = transport.show
            transport.typed.__self__._show = lambda data: show(b"\x01\x02" if data == b"\x01\x01" else data)

        return super().open_vnc(uuid, viewer).addCallback(lock)


class ShowsNothing(SimulatedConnection):
    def open_vnc(self, uuid: str, viewer: Any) -> Deferred[None]:
        def blind(done: None) -> None:
            viewer.transport.typed.__self__._picture = lambda: b""

        return super().open_vnc(uuid, viewer).addCallback(blind)


FAULTS = {
    KeepsTheFormer: "open_serial: another viewer disconnects the first one",
    OutlivesItsDomain: "open_serial: connectionLost is called when the domain stops",
    OutlivesItsNode: "open_serial: connectionLost is called when the node's connection is closed",
    HearsNothing: "open_serial: input reaches the guest",
    TellsTheNeighbours: "open_serial: each domain has its own console",
    NeverPauses: "open_serial: nothing comes after pauseProducing",
    LosesWhatCameMeanwhile: "open_serial: earlier output comes after resumeProducing",
    OpensWhatIsOff: "open_serial: WrongState is raised for a domain that isn't running",
    ConnectsAndFails: "open_vnc: after failure the viewer has never been connected",
    NeverConnects: "open_serial: the viewer is connected after success",
    LosesTwice: "open_serial: connectionLost is called once",
    TakesTheScreen: "open_vnc: several viewers can share the screen",
    WantsAPassword: "open_vnc: it requires no password",
    ShowsNothing: "open_vnc: a picture comes when it is requested",
}


class FaultyDriverTests(SynchronousTestCase):
    """Each breaks one promise; the contract names it."""

    def test_found(self) -> None:
        for connection, promise in FAULTS.items():
            _, broken = broken_promises(connection, promise)
            self.assertTrue(any(promise in words for words in broken), f"{connection.__name__}: {promise!r} in {broken}")

    def test_a_node_s_end(self) -> None:
        promise = "open_vnc: connectionLost is called when the node's connection breaks"
        _, broken = broken_promises(OutlivesItsNode, promise)
        self.assertTrue(any(promise in words for words in broken), broken)

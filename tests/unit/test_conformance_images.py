"""The contract of volumes' bytes finds drivers that break it, and says which promise they break."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.drivers.simulator import SimulatedConnection
from fluidvm.drivers.simulator_images import place, read, volume, write  # type: ignore[attr-defined]
from tests.unit.test_conformance import broken_promises


class WritesFromTheStart(SimulatedConnection):
    def write_volume(self, pool: str, name: str, offset: int, data: bytes) -> Deferred[None]:
        def begin_anew() -> None:
            write(self.simulated, pool, name, offset, data)
            with place(self.simulated, volume(self.simulated, pool, name)).open("r+b") as file:
                file.truncate(offset + len(data))

        return self._do("write_volume", begin_anew)


class WritesNothing(SimulatedConnection):
    def write_volume(self, pool: str, name: str, offset: int, data: bytes) -> Deferred[None]:
        return self._do("write_volume", lambda: read(self.simulated, pool, name, offset, 0) and None)  # type: ignore[arg-type]


class GoesBeyondTheEnd(SimulatedConnection):
    def read_volume(self, pool: str, name: str, offset: int, length: int) -> Deferred[bytes]:
        return super().read_volume(pool, name, offset, length).addCallback(lambda data: data.ljust(length, b"\0"))


class CutsWhatIsTooLong(SimulatedConnection):
    def write_volume(self, pool: str, name: str, offset: int, data: bytes) -> Deferred[None]:
        room = [one.size * 2**20 - offset for one in self.simulated.volumes(pool) if one.name == name]
        return super().write_volume(pool, name, offset, data[: max(0, room[0])] if room else data)


class ReadsWhatIsInUse(SimulatedConnection):
    def read_volume(self, pool: str, name: str, offset: int, length: int) -> Deferred[bytes]:
        def in_use(failure: Any) -> Any:
            return succeed(b"") if "in use" in str(failure.value) else failure

        return super().read_volume(pool, name, offset, length).addErrback(in_use)


class TellsTheDisksSize(SimulatedConnection):
    def measure_volume(self, pool: str, name: str) -> Deferred[int]:
        return super().measure_volume(pool, name).addCallback(lambda count: count + 1)


class OneFileForAll(SimulatedConnection):
    def write_volume(self, pool: str, name: str, offset: int, data: bytes) -> Deferred[None]:
        def spread() -> None:
            write(self.simulated, pool, name, offset, data)
            for other in self.simulated.volumes(pool):
                if other.name.startswith("contract-") and other.size * 2**20 >= offset + len(data):
                    write(self.simulated, pool, other.name, offset, data)

        return self._do("write_volume", spread)


FAULTS = {
    WritesFromTheStart: "write_volume: what is beside the piece stays",
    WritesNothing: "read_volume: it gives what was written",
    GoesBeyondTheEnd: "read_volume: fewer bytes come where the volume ends",
    CutsWhatIsTooLong: "write_volume: WrongState is raised for a piece beyond a raw volume's end",
    ReadsWhatIsInUse: "read_volume: WrongState is raised for a volume that a running domain has",
    TellsTheDisksSize: "measure_volume: it tells how many bytes read_volume has",
    OneFileForAll: "write_volume: another volume isn't disturbed",
}


class FaultyDriverTests(SynchronousTestCase):
    """Each breaks one promise; the contract names it."""

    def test_found(self) -> None:
        for connection, promise in FAULTS.items():
            _, broken = broken_promises(connection)
            self.assertTrue(any(promise in words for words in broken), f"{connection.__name__}: {promise!r} in {broken}")

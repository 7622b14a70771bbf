"""The contract of volumes' bytes finds drivers that break it, and says which promise they break."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.driver import Volume
from fluidvm.drivers.simulator.driver import SimulatedConnection
from fluidvm.drivers.simulator.images import place, read, volume, write  # type: ignore[attr-defined]
from tests.unit.conformance.test_conformance import broken_promises


class WritesFromTheStart(SimulatedConnection):
    def write_volume(self, pool: str, name: str, format: str, offset: int, data: bytes) -> Deferred[None]:
        def begin_anew() -> None:
            write(self.simulated, pool, name, format, offset, data)
            with place(self.simulated, volume(self.simulated, pool, name, format)).open("r+b") as file:
                file.truncate(offset + len(data))

        return self._do("write_volume", begin_anew)


class WritesNothing(SimulatedConnection):
    def write_volume(self, pool: str, name: str, format: str, offset: int, data: bytes) -> Deferred[None]:
        return self._do("write_volume", lambda: read(self.simulated, pool, name, format, offset, 0) and None)  # type: ignore[arg-type]


class GoesBeyondTheEnd(SimulatedConnection):
    def read_volume(self, pool: str, name: str, format: str, offset: int, length: int) -> Deferred[bytes]:
        return super().read_volume(pool, name, format, offset, length).addCallback(lambda data: data.ljust(length, b"\0"))


class CutsWhatIsTooLong(SimulatedConnection):
    def write_volume(self, pool: str, name: str, format: str, offset: int, data: bytes) -> Deferred[None]:
        room = [one.size * 2**20 - offset for one in self.simulated.volumes(pool) if one.name == name]
        return super().write_volume(pool, name, format, offset, data[: max(0, room[0])] if room else data)


class ReadsWhatIsInUse(SimulatedConnection):
    def read_volume(self, pool: str, name: str, format: str, offset: int, length: int) -> Deferred[bytes]:
        def in_use(failure: Any) -> Any:
            return succeed(b"") if "in use" in str(failure.value) else failure

        return super().read_volume(pool, name, format, offset, length).addErrback(in_use)


class TellsTheDisksSize(SimulatedConnection):
    def measure_volume(self, pool: str, name: str, format: str) -> Deferred[int]:
        return super().measure_volume(pool, name, format).addCallback(lambda count: count + 1)


class OneFileForAll(SimulatedConnection):
    def write_volume(self, pool: str, name: str, format: str, offset: int, data: bytes) -> Deferred[None]:
        def spread() -> None:
            write(self.simulated, pool, name, format, offset, data)
            for other in self.simulated.volumes(pool):
                if other.name.startswith("contract-") and other.size * 2**20 >= offset + len(data):
                    write(self.simulated, pool, other.name, other.format, offset, data)

        return self._do("write_volume", spread)


class BelievesWhatIsWritten(SimulatedConnection):
    """Like a driver whose tools detect the format of a volume."""

    def list_volumes(self, pool: str, formats: Mapping[str, str] = {}) -> Deferred[Sequence[Volume]]:
        def probed(told: Sequence[Volume]) -> list[Volume]:
            found = []
            for one in told:
                file = place(self.simulated, one)
                looks = file.exists() and file.read_bytes()[:4] == b"QFI\xfb"
                found.append(replace(one, format="qcow2") if looks else one)
            return found

        return super().list_volumes(pool, formats).addCallback(probed)


class FollowsTheHead(SimulatedConnection):
    """Like a driver whose tools copy a volume according to its header, and not its bytes."""

    def clone_volume(self, pool: str, name: str, format: str, new: str, progress: Any) -> Deferred[Volume]:
        def follow(copy: Volume) -> Volume:
            file = place(self.simulated, copy)
            if file.exists() and file.read_bytes()[:4] == b"QED\0":
                file.write_bytes(Path("/etc/hostname").read_bytes())
            return copy

        return super().clone_volume(pool, name, format, new, progress).addCallback(follow)


FAULTS = {
    WritesFromTheStart: "write_volume: the rest of the volume is unchanged",
    WritesNothing: "read_volume: it returns what was written",
    GoesBeyondTheEnd: "read_volume: fewer bytes come where the volume ends",
    CutsWhatIsTooLong: "write_volume: WrongState is raised for a piece beyond the end of a raw volume",
    ReadsWhatIsInUse: "read_volume: WrongState is raised for a volume that a running domain has",
    TellsTheDisksSize: "measure_volume: it returns how many bytes read_volume has",
    BelievesWhatIsWritten: "list_volumes: a raw volume that looks like qcow2 with a backing file is raw",
    FollowsTheHead: "clone_volume: the copy of a raw volume that looks like QED with a backing file has its bytes",
    OneFileForAll: "write_volume: another volume isn't affected",
}


class FaultyDriverTests(SynchronousTestCase):
    """Each breaks one promise; the contract names it."""

    def test_found(self) -> None:
        for connection, promise in FAULTS.items():
            _, broken = broken_promises(connection, promise)
            self.assertTrue(any(promise in words for words in broken), f"{connection.__name__}: {promise!r} in {broken}")

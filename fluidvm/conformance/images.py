"""Tests of reading and writing the contents of volumes."""

from __future__ import annotations

from typing import Any

from fluidvm.conformance.disks import NO_POOL, SIZE, VolumeCase
from fluidvm.driver import DomainDisk, NoSuchThing, Unreachable, Volume, WrongState

MIB = 2**20
PIECE = bytes(range(256)) * 1024
"""256 KiB of data that doesn't repeat."""


EACH: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("measure_volume", ()),
    ("read_volume", (0, 10)),
    ("write_volume", (0, b"x")),
)


class ImagesContract(VolumeCase):
    """Tests of L{IImages}."""

    async def read(self, volume: Volume, offset: int, length: int, promise: str) -> Any:
        return await self.ask("read_volume", volume.pool, volume.name, volume.format, offset, length, promise=promise)

    async def write(self, volume: Volume, offset: int, data: bytes) -> None:
        arguments = volume.pool, volume.name, volume.format, offset, data
        await self.ask("write_volume", *arguments, promise="a piece is written")

    async def test_a_raw_volume(self) -> None:
        volume, other = await self.volume("raw"), await self.volume("raw")
        end = SIZE * MIB
        promise = "read_volume: a new raw volume's bytes are zeros"
        self.assertEqual(await self.read(volume, MIB, 1000, promise), bytes(1000), promise)
        promise = "read_volume: it returns what was written"
        for offset in (0, MIB + 12345, end - len(PIECE)):
            await self.write(volume, offset, PIECE)
            self.assertEqual(await self.read(volume, offset, len(PIECE), promise), PIECE, promise)
        await self.again("write_volume", volume.pool, volume.name, "raw", 0, PIECE)
        promise = "write_volume: the rest of the volume is unchanged"
        self.assertEqual(await self.read(volume, MIB + 12345 + len(PIECE), 1000, promise), bytes(1000), promise)
        self.assertEqual(await self.read(volume, MIB + 12000, 400, promise), bytes(345) + PIECE[:55], promise)
        promise = "read_volume: fewer bytes come where the volume ends"
        self.assertEqual(await self.read(volume, end - 100, 1000, promise), PIECE[-100:], promise)
        promise = "read_volume: no bytes come beyond its end"
        self.assertEqual(await self.read(volume, end, 1000, promise), b"", promise)
        self.assertEqual(await self.read(volume, 2 * end, 1000, promise), b"", promise)
        arguments = volume.pool, volume.name, "raw", end - 10, PIECE
        await self.refuses(WrongState, "a piece beyond the end of a raw volume", "write_volume", *arguments)
        promise = "write_volume: another volume isn't affected"
        self.assertEqual(await self.read(other, 0, len(PIECE), promise), bytes(len(PIECE)), promise)
        self.assertEqual((await self.listed(promise))[volume.name], volume, "write_volume: the volume is as large as before")

    async def test_other_formats(self) -> None:
        """The complete contents of one volume are copied to another."""
        for format in self.connection.formats:
            source, target = await self.volume(format), await self.volume(format)
            promise = f"read_volume: pieces make up the whole ({format})"
            whole, offset = b"", 0
            while piece := await self.read(source, offset, 3 * MIB, promise):
                whole, offset = whole + piece, offset + len(piece)
                self.assertLessEqual(offset, 2 * SIZE * MIB, "read_volume: no bytes come beyond its end")
            promise = f"measure_volume: it returns how many bytes read_volume has ({format})"
            self.assertEqual(await self.ask("measure_volume", source.pool, source.name, format), len(whole), promise)
            await self.write(target, 0, whole)
            promise = f"write_volume: the volume has the bytes ({format})"
            self.assertEqual(await self.read(target, 0, len(whole) or 1, promise), whole, promise)
            listed = await self.listed(promise)
            self.assertEqual(listed[target.name], target, f"write_volume: it is a {format} volume of its size still")

    async def test_a_volume_in_use(self) -> None:
        spec, volume = await self.defined(), await self.volume()
        await self.ask("attach_disk", spec.uuid, DomainDisk(volume.path, volume.format, "vdz"))
        await self.read(volume, 0, 10, "a stopped domain's volume is read")
        await self.ask("start", spec.uuid)
        at = volume.pool, volume.name, volume.format
        for verb, arguments in (("read_volume", (0, 10)), ("write_volume", (0, b"x"))):
            await self.refuses(WrongState, "a volume that a running domain has", verb, *at, *arguments)

    async def test_refusals(self) -> None:
        pool, nobody = self.factory.pool, self.name()
        for verb, arguments in EACH:
            await self.refuses(NoSuchThing, "a volume that doesn't exist", verb, pool, nobody, "raw", *arguments)
            await self.refuses(NoSuchThing, "a pool that doesn't exist", verb, NO_POOL, "x", "raw", *arguments)
        await self.ask("close")
        for verb, arguments in EACH:
            await self.raises(Unreachable, "a closed connection", verb, pool, nobody, "raw", *arguments)

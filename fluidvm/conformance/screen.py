"""Tests of screenshots."""

from __future__ import annotations

import struct
import zlib

from fluidvm.conformance.case import ContractCase
from fluidvm.conformance.connection import NOBODY
from fluidvm.driver import NoSuchThing, Unreachable, WrongState

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunks(picture: bytes) -> dict[bytes, bytes]:
    """
    Read a PNG file's parts by their types (ISO/IEC 15948, section 5.3).

    @raise ValueError: it isn't a PNG file, or the checksum of a part is wrong.
    """
    if not picture.startswith(SIGNATURE):
        raise ValueError("it doesn't begin like a PNG file")
    parts: dict[bytes, bytes] = {}
    place = len(SIGNATURE)
    while place < len(picture):
        length, kind = struct.unpack_from(">I4s", picture, place)
        body = picture[place + 8 : place + 8 + length]
        (checksum,) = struct.unpack_from(">I", picture, place + 8 + length)
        if zlib.crc32(kind + body) != checksum:
            raise ValueError(f"the checksum of part {kind!r} is wrong")
        parts[kind] = parts.get(kind, b"") + body
        place += 12 + length
    return parts


class ScreenshotContract(ContractCase):
    """Tests of L{IScreenshot}."""

    async def test_a_running_one(self) -> None:
        spec = await self.started()
        for state in ("running", "paused"):
            promise = f"screenshot: it is a PNG file of a {state} domain's screen"
            picture = await self.ask("screenshot", spec.uuid, promise=promise)
            try:
                parts = chunks(picture)
                width, height = struct.unpack_from(">II", parts[b"IHDR"])
                zlib.decompress(parts[b"IDAT"])
            except (ValueError, KeyError, struct.error, zlib.error) as error:
                raise self.failureException(f"{promise}: {error}") from error
            self.assertIn(b"IEND", parts, promise)
            self.assertTrue(0 < width <= 10000 and 0 < height <= 10000, promise)
            await self.again("screenshot", spec.uuid)
            if state == "running":
                await self.ask("pause", spec.uuid)

    async def test_refusals(self) -> None:
        spec = await self.defined()
        await self.refuses(NoSuchThing, "a domain that doesn't exist", "screenshot", NOBODY)
        await self.refuses(WrongState, "a stopped domain", "screenshot", spec.uuid)
        await self.ask("close")
        await self.raises(Unreachable, "a closed connection", "screenshot", spec.uuid)

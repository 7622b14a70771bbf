"""Screenshots of domains, through libvirt."""

from __future__ import annotations

import io
import re
from contextlib import suppress
from typing import Any

import libvirt
import png
from zope.interface import implementer

from fluidvm.driver import DomainState, DriverError, IScreenshot, Unsupported, WrongState
from fluidvm.drivers.libvirt.connection import verb
from fluidvm.drivers.libvirt.domains import LibvirtDomains

MOST = 64 * 2**20
"""Maximum size of a screenshot: four bytes for each of 16 million pixels."""


@implementer(IScreenshot)
class LibvirtScreen(LibvirtDomains):
    """A host whose domains have screens. QEMU returns PNG since version 7.1, and PPM before."""

    @verb
    async def screenshot(self, uuid: str) -> bytes:
        # A large screenshot over a slow connection must not block the node's other calls.
        return await self._call_in(self._host.run_long, f"screen of domain {uuid}", self._do_screenshot, uuid)

    def _do_screenshot(self, uuid: str) -> bytes:
        domain = self._do_find(uuid)
        state = self._do_state(domain)
        if state not in (DomainState.RUNNING, DomainState.PAUSED) or not domain.isActive():
            raise WrongState(f"Domain {domain.name()} is {state}; it has a screen only while it is running or paused.")
        stream = self._connection.newStream()
        try:
            kind = domain.screenshot(stream, 0)
            picture = _read(stream)
        except libvirt.libvirtError as error:
            if not self._alive() or "<video" in domain.XMLDesc(0):
                raise
            raise Unsupported(f"Domain {domain.name()} has no screen.") from error
        return picture if kind == "image/png" else to_png(picture)


def _read(stream: Any) -> bytes:
    picture = bytearray()
    try:
        while part := stream.recv(262144):
            picture += part
            if len(picture) > MOST:
                raise DriverError("The screenshot is too large.")
        stream.finish()
    except (DriverError, libvirt.libvirtError):
        with suppress(libvirt.libvirtError):
            stream.abort()
        raise
    return bytes(picture)


def to_png(picture: bytes) -> bytes:
    """
    Convert a PPM file to PNG (U{https://netpbm.sourceforge.net/doc/ppm.html})as QEMU writes it, without comments.

    @raise DriverError: it isn't a valid PPM file.
    """
    head = re.match(rb"P6\s+(\d+)\s+(\d+)\s+255\s", picture)
    columns, rows = (int(number) for number in head.groups()) if head else (0, 0)
    points = picture[head.end() :] if head else b""
    if not points or len(points) != 3 * columns * rows:
        raise DriverError("The host returned an invalid screenshot.")
    made = io.BytesIO()
    lines = (points[start : start + 3 * columns] for start in range(0, len(points), 3 * columns))
    png.Writer(columns, rows, greyscale=False, bitdepth=8).write(made, lines)
    return made.getvalue()

"""A server of RFB, the protocol of VNC (RFC 6143), for the simulator's screens, which show static images."""

from __future__ import annotations

import struct
from collections.abc import Callable

from fluidvm.driver import DomainInfo
from fluidvm.drivers.simulator.screen import HEIGHT, WIDTH, rows

VERSION = b"RFB 003.008\n"
PIXELS = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
"""Four bytes per pixel, blue first (section 7.4)."""
# Messages of clients after the handshake (section 7.5): the length, or that of the header, which ends with the number of
# following elements, and the length of each element.
MESSAGES: dict[int, tuple[int, str, int]] = {
    0: (20, "", 0),
    2: (4, ">2xH", 4),
    3: (10, "", 0),
    4: (8, "", 0),
    5: (6, "", 0),
    6: (8, ">4xI", 1),
}
LONGEST = 65536


class Screen:
    """
    One viewer's session.

    @param look: returns the current domain.
    @param show: sends data to the viewer.
    @param end: ends the connection.
    """

    def __init__(
        self, name: str, look: Callable[[], DomainInfo], show: Callable[[bytes], None], end: Callable[[], None]
    ) -> None:
        self._name = name.encode()
        self._look = look
        self._show = show
        self._end = end
        self._came = bytearray()
        self._wanted = False
        self._next: Callable[[], bool] = self._version
        show(VERSION)

    def received(self, data: bytes) -> None:
        """Process data from the viewer."""
        self._came += data
        while self._next():
            pass
        if self._wanted:
            self._wanted = False
            self._show(self._picture())

    def _take(self, count: int) -> bytes | None:
        if len(self._came) < count:
            return None
        taken = bytes(self._came[:count])
        del self._came[:count]
        return taken

    def _version(self) -> bool:
        version = self._take(len(VERSION))
        if version is None:
            return False
        if version != VERSION:
            self._end()
            return False
        self._show(b"\x01\x01")  # one security type: none
        self._next = self._security
        return True

    def _security(self) -> bool:
        chosen = self._take(1)
        if chosen is None:
            return False
        if chosen != b"\x01":
            self._end()
            return False
        self._show(bytes(4))
        self._next = self._init
        return True

    def _init(self) -> bool:
        if self._take(1) is None:
            return False
        self._show(struct.pack(">HH", WIDTH, HEIGHT) + PIXELS + struct.pack(">I", len(self._name)) + self._name)
        self._next = self._message
        return True

    def _message(self) -> bool:
        if not self._came:
            return False
        kind = self._came[0]
        if kind not in MESSAGES:
            self._end()
            return False
        length, count, size = MESSAGES[kind]
        if count and len(self._came) >= length:
            length += size * struct.unpack_from(count, self._came)[0]
        if length > LONGEST:
            self._end()
            return False
        message = self._take(length)
        if message is None:
            return False
        # An image is sent if a full update is requested: nothing changes between. One answers all requests that came
        # together (section 7.5.3).
        if kind == 3 and not message[1]:
            self._wanted = True
        return True

    def _picture(self) -> bytes:
        points = bytes(
            value
            for row in rows(self._look())
            for place in range(0, len(row), 3)
            for value in (*reversed(row[place : place + 3]), 0)
        )
        return struct.pack(">BxHHHHHi", 0, 1, 0, 0, WIDTH, HEIGHT, 0) + points

"""Screenshots of the simulator's domains."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import png
from twisted.internet.defer import Deferred
from zope.interface import implementer

from fluidvm.driver import DomainInfo, DomainState, IScreenshot, WrongState
from fluidvm.drivers.simulator.host import SimulatedHost

WIDTH, HEIGHT = 64, 48
COLOURS = {DomainState.RUNNING: (0, 96, 0), DomainState.PAUSED: (96, 96, 0)}


def rows(domain: DomainInfo) -> list[list[int]]:
    """
    A screen in the colour of its domain's state, with a dot for each four bits of its UUID.

    @return: rows of red, green and blue, pixel by pixel.
    """
    marks = [int(digit, 16) for digit in domain.uuid if digit != "-"]
    lines = []
    for row in range(HEIGHT):
        line: list[int] = []
        for column in range(WIDTH):
            marked = column % 2 == 0 and row == 2 * marks[column // 2]
            line += (255, 255, 255) if marked else COLOURS.get(domain.state, (0, 0, 0))
        lines.append(line)
    return lines


def picture(host: SimulatedHost, uuid: str) -> bytes:
    """A domain's screen as a PNG file."""
    domain = host.domain(uuid)
    if domain.state not in COLOURS:
        raise WrongState(f"Domain {domain.name} is {domain.state}: it has a screen only while it is running or paused.")
    made = io.BytesIO()
    png.Writer(WIDTH, HEIGHT, greyscale=False, bitdepth=8).write(made, rows(domain))
    return made.getvalue()


@implementer(IScreenshot)
class SimulatedScreen:
    """The verb of this ability."""

    simulated: SimulatedHost
    _do: Callable[..., Deferred[Any]]

    def screenshot(self, uuid: str) -> Deferred[bytes]:
        """Take a screenshot."""
        return self._do("screenshot", lambda: picture(self.simulated, uuid))

"""Finds drivers by entry point, group C{fluidvm.drivers}; loads one when asked for; lists a broken one with its error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from zope.interface import implementedBy
from zope.interface.verify import verifyClass, verifyObject

from fluidvm.driver import IConnection, IDriver, Interface

GROUP = "fluidvm.drivers"


class UnknownDriver(Exception):
    """No distribution that is installed has a driver of this name."""


class BrokenDriver(Exception):
    """The driver is installed, but can't be loaded or isn't one."""


@dataclass(frozen=True)
class DriverDescription:
    """What is known of a driver; C{abilities} are the names of the interfaces that its connections provide."""

    name: str
    distribution: str
    version: str
    abilities: tuple[str, ...]
    error: str


class DriverLoader:
    """@param points: entry points to look at; default: those of the environment."""

    def __init__(self, points: Iterable[EntryPoint] | None = None) -> None:
        found = entry_points(group=GROUP) if points is None else points
        self._points = {point.name: point for point in found}
        self._loaded: dict[str, Any] = {}

    def names(self) -> list[str]:
        """The names of all drivers; loads none."""
        return sorted(self._points)

    def get(self, name: str) -> Any:
        """Load a driver. @raise UnknownDriver: there is none. @raise BrokenDriver: says what is wrong with it."""
        if name not in self._loaded:
            point = self._points.get(name)
            if point is None:
                raise UnknownDriver(f"there is no driver {name}; there are: {', '.join(self.names()) or 'none'}")
            try:
                driver = point.load()()
                verifyObject(IDriver, driver)
                for ability in abilities(driver):
                    verifyClass(ability, driver.connection)
            except Exception as error:
                raise BrokenDriver(f"driver {name} can't be loaded: {error}") from error
            self._loaded[name] = driver
        return self._loaded[name]


def abilities(driver: Any) -> list[type[Interface]]:
    """The interfaces that a driver's connections provide."""
    return [ability for ability in implementedBy(driver.connection) if ability.extends(Interface) or ability is IConnection]

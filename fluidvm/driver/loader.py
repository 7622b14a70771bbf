"""Finds drivers by the entry points of group C{fluidvm.drivers}, loads them on demand, and describes the broken ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from zope.interface.verify import verifyClass, verifyObject

from fluidvm.driver import ABILITIES, IConnection, IDriver, Interface, Struct

GROUP = "fluidvm.drivers"


class UnknownDriver(Exception):
    """No installed distribution has a driver of this name."""


class BrokenDriver(Exception):
    """The driver is installed, but can't be loaded or isn't a valid driver."""


@dataclass(frozen=True)
class DriverDescription:
    """
    A driver's name, origin and abilities.

    @ivar distribution: the distribution that contains it; empty if that isn't known, like its C{version}.
    @ivar summary: the driver's own one-line description; empty if it is broken.
    @ivar abilities: the names of the interfaces that its connections provide, the core first; none if it is broken.
    @ivar error: why it is broken, in one sentence; empty if it isn't.
    """

    name: str
    distribution: str
    version: str
    summary: str
    abilities: tuple[str, ...]
    error: str


class DriverLoader:
    """@param points: entry points to use; default: those of the environment."""

    def __init__(self, points: Iterable[EntryPoint] | None = None) -> None:
        self._points: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=GROUP) if points is None else points:
            self._points.setdefault(point.name, []).append(point)
        self._loaded: dict[str, Any] = {}

    def names(self) -> list[str]:
        """The names of all drivers; loads none."""
        return sorted(self._points)

    def get(self, name: str) -> Any:
        """
        Load a driver. Later calls return the same object; a broken driver is loaded again at each call.

        @return: provides L{IDriver}; its connections have the verbs of each ability that they declare.
        @raise UnknownDriver: there is no such driver.
        @raise BrokenDriver: its text says in one sentence what is wrong with the driver.
        """
        if name not in self._loaded:
            points = self._points.get(name)
            if points is None:
                raise UnknownDriver(f"there is no driver {name}; installed drivers: {', '.join(self.names()) or 'none'}")
            try:
                self._loaded[name] = _load(name, points)
            except (Exception, SystemExit) as error:  # a module that exits while it is imported is broken, too
                raise BrokenDriver(f"driver {name} can't be loaded: {_sentence(error)}") from error
        return self._loaded[name]

    def describe(self) -> list[DriverDescription]:
        """
        Describe all drivers, sorted by name. Loads them all; a broken one is described with its error.

        @return: one description for each of L{names}.
        """
        return [self.description(name) for name in self.names()]

    def description(self, name: str) -> DriverDescription:
        """
        Load and describe one driver. If it is broken, the description says so.

        @raise UnknownDriver: there is no such driver.
        """
        # If two drivers have the name, neither is loaded, and the error names both.
        distribution = self._points[name][0].dist if name in self._points else None
        of, version = ("", "") if distribution is None else (distribution.name, distribution.version)
        try:
            driver = self.get(name)
        except BrokenDriver as error:
            return DriverDescription(name, of, version, "", (), str(error))
        provided = tuple(ability.__name__ for ability in abilities(driver))
        return DriverDescription(name, of, version, driver.summary, provided, "")


def _load(name: str, points: list[EntryPoint]) -> Any:
    """Import a driver, create it, and check that it is valid."""
    if len(points) > 1:
        owners = sorted(f"{point.dist.name} {point.dist.version}" if point.dist else point.value for point in points)
        raise ImportError(f"several distributions provide a driver of this name; uninstall all but one: {', '.join(owners)}")
    driver = points[0].load()()
    verifyObject(IDriver, driver)
    if not isinstance(driver.options, Struct) or driver.options.fields is None:
        raise TypeError("its options must be a Struct with fields")
    verifyClass(IConnection, driver.connection)
    # Each is checked by itself: zope's check of one interface ignores the others that the class declares.
    for ability in abilities(driver):
        verifyClass(ability, driver.connection)
    if driver.name != name:
        raise TypeError(f"its entry point is named {name}, but its name is {driver.name!r}")
    return driver


def abilities(driver: Any) -> list[type[Interface]]:
    """
    The abilities that a driver's connections declare.

    @param driver: provides L{IDriver}.
    @return: in the order of L{ABILITIES}; other interfaces of the driver are ignored.
    """
    return [ability for ability in ABILITIES if ability.implementedBy(driver.connection)]  # type: ignore[attr-defined]


def _sentence(error: BaseException) -> str:
    """An exception's text in one line, or its type if it has no text."""
    return " ".join(str(error).split()) or type(error).__name__

"""Finds drivers by entry point, group C{fluidvm.drivers}; loads one when asked for; lists a broken one with its error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from zope.interface.verify import verifyClass, verifyObject

from fluidvm.driver import ABILITIES, IConnection, IDriver, Interface, Struct

GROUP = "fluidvm.drivers"


class UnknownDriver(Exception):
    """No distribution that is installed has a driver of this name."""


class BrokenDriver(Exception):
    """The driver is installed, but can't be loaded or isn't one."""


@dataclass(frozen=True)
class DriverDescription:
    """
    What is known of a driver.

    @ivar distribution: what it was installed by; empty where that isn't known, as its C{version}.
    @ivar summary: the driver's line about itself; empty if it is broken.
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
    """@param points: entry points to look at; default: those of the environment."""

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
        Load a driver; once loaded it is the same object each time, while one that is broken is tried anew.

        @return: provides L{IDriver}; its connections have the verbs of each ability that they declare.
        @raise UnknownDriver: there is none.
        @raise BrokenDriver: says in one sentence what is wrong with it.
        """
        if name not in self._loaded:
            points = self._points.get(name)
            if points is None:
                raise UnknownDriver(f"there is no driver {name}; installed drivers: {', '.join(self.names()) or 'none'}")
            try:
                self._loaded[name] = _load(name, points)
            except (Exception, SystemExit) as error:  # a module that ends the program while it is imported is broken, too
                raise BrokenDriver(f"driver {name} can't be loaded: {_sentence(error)}") from error
        return self._loaded[name]

    def describe(self) -> list[DriverDescription]:
        """
        Tell of every driver, by name. Loads all; a broken one is told with its error, and nothing is raised.

        @return: one for each of L{names}.
        """
        return [self.description(name) for name in self.names()]

    def description(self, name: str) -> DriverDescription:
        """
        Tell of one driver, and load it; that it is broken is told, not raised.

        @raise UnknownDriver: there is none.
        """
        # Of two with the name neither is loaded, and the error names both.
        distribution = self._points[name][0].dist if name in self._points else None
        of, version = ("", "") if distribution is None else (distribution.name, distribution.version)
        try:
            driver = self.get(name)
        except BrokenDriver as error:
            return DriverDescription(name, of, version, "", (), str(error))
        provided = tuple(ability.__name__ for ability in abilities(driver))
        return DriverDescription(name, of, version, driver.summary, provided, "")


def _load(name: str, points: list[EntryPoint]) -> Any:
    """Import a driver, make it, and check that it is one."""
    if len(points) > 1:
        owners = sorted(f"{point.dist.name} {point.dist.version}" if point.dist else point.value for point in points)
        raise ImportError(f"several distributions provide a driver of this name; uninstall all but one: {', '.join(owners)}")
    driver = points[0].load()()
    verifyObject(IDriver, driver)
    if not isinstance(driver.options, Struct) or driver.options.fields is None:
        raise TypeError("its options must be a Struct with fields")
    verifyClass(IConnection, driver.connection)
    # Each by itself: zope's check of an interface doesn't look at the others that a class declares.
    for ability in abilities(driver):
        verifyClass(ability, driver.connection)
    if driver.name != name:
        raise TypeError(f"its entry point is named {name}, but its name is {driver.name!r}")
    return driver


def abilities(driver: Any) -> list[type[Interface]]:
    """
    The abilities that a driver's connections declare.

    @param driver: provides L{IDriver}.
    @return: of L{ABILITIES}, in that order; other interfaces are the driver's own business.
    """
    return [ability for ability in ABILITIES if ability.implementedBy(driver.connection)]  # type: ignore[attr-defined]


def _sentence(error: BaseException) -> str:
    """What an exception says, in one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__

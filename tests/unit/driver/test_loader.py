"""Drivers are found by entry point, loaded on demand, and listed with their error if they are broken."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase
from zope.interface import Interface, implementer

from fluidvm.driver import ABILITIES, IConnection, IDisks, IDriver, IEvents, Struct
from fluidvm.driver.loader import GROUP, BrokenDriver, DriverDescription, DriverLoader, UnknownDriver, abilities
from fluidvm.drivers.simulator.driver import SimulatedConnection, SimulatorDriver

HERE = __name__


class NotADriver:
    """Doesn't declare that it provides L{IDriver}."""


class Undeclared(SimulatorDriver):
    """Its connections declare no interface."""

    connection = object  # type: ignore[assignment]


@implementer(IConnection)
class WithoutStart:  # type: ignore[misc]
    """Declares that it provides the core, but lacks a verb of it."""

    for _name in IConnection.names():
        if _name != "start":
            locals()[_name] = getattr(SimulatedConnection, _name)


class LacksAVerb(SimulatorDriver):
    connection = WithoutStart  # type: ignore[assignment]


@implementer(IDisks)
class WithoutDetach:  # type: ignore[misc]
    """Has the complete core, but lacks one verb of another ability."""

    for _name in (*IConnection.names(), *IDisks.names()):
        if _name != "detach_disk":
            locals()[_name] = getattr(SimulatedConnection, _name)


implementer(IConnection)(WithoutDetach)


class LacksAVerbOfAnAbility(SimulatorDriver):
    connection = WithoutDetach  # type: ignore[assignment]


@implementer(IDriver)
class WithoutOptions:  # type: ignore[misc]
    name = summary = "x"
    connection = SimulatedConnection
    check_address = SimulatorDriver.check_address
    connect = SimulatorDriver.connect


class Silent(SimulatorDriver):
    def __init__(self) -> None:
        raise RuntimeError


class WithFreeOptions(SimulatorDriver):
    options = Struct("anything")


class EndsTheProgram(SimulatorDriver):
    def __init__(self) -> None:
        sys.exit("not on this machine")


class IPrivate(Interface):
    """An interface that the server doesn't know."""


@implementer(IEvents, IPrivate, IConnection)
class Narrow:  # type: ignore[misc]
    """The core and one ability, in another order, and an unknown interface."""


class NarrowDriver(SimulatorDriver):
    connection = Narrow  # type: ignore[assignment]


def loader(**values: str) -> DriverLoader:
    """Create a loader of drivers, given by their locations."""
    return DriverLoader([EntryPoint(name, value, GROUP) for name, value in values.items()])


class DriverLoaderTests(SynchronousTestCase):
    def broken(self, value: str) -> str:
        with self.assertRaises(BrokenDriver) as caught:
            loader(bad=value).get("bad")
        words = str(caught.exception)
        self.assertTrue(words.startswith("driver bad can't be loaded: "), words)
        self.assertEqual(len(words.splitlines()), 1, words)
        self.assertGreater(len(words), len("driver bad can't be loaded: "))
        return words

    def test_the_environment_has_our_drivers(self) -> None:
        ours = {driver.name for driver in DriverLoader().describe() if driver.distribution == "fluidvm"}
        self.assertEqual(ours, {"kvm", "openvz", "simulator", "xen"})

    def test_get(self) -> None:
        found = loader(simulator="fluidvm.drivers.simulator.driver:SimulatorDriver")
        driver = found.get("simulator")
        self.assertIsInstance(driver, SimulatorDriver)
        self.assertIs(found.get("simulator"), driver)

    def test_unknown(self) -> None:
        with self.assertRaises(UnknownDriver) as caught:
            loader(one="a:A", another="b:B").get("xen")
        self.assertEqual(str(caught.exception), "there is no driver xen; installed drivers: another, one")
        with self.assertRaises(UnknownDriver) as caught:
            loader().get("xen")
        self.assertEqual(str(caught.exception), "there is no driver xen; installed drivers: none")

    def test_imports_that_fail(self) -> None:
        self.assertIn("no_such_module", self.broken("no_such_module:Driver"))
        self.assertIn("NoSuchClass", self.broken(f"{HERE}:NoSuchClass"))
        self.assertIn("RuntimeError", self.broken(f"{HERE}:Silent"))
        self.assertIn("not on this machine", self.broken(f"{HERE}:EndsTheProgram"))

    def test_a_module_that_is_not_python(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "fluidvm_torn_driver.py").write_text("class Driver(\n")
        self.patch(sys, "path", [str(directory), *sys.path])
        self.assertIn("fluidvm_torn_driver.py", self.broken("fluidvm_torn_driver:Driver"))

    def test_invalid_drivers(self) -> None:
        self.assertIn("IDriver", self.broken(f"{HERE}:NotADriver"))
        self.assertIn("options", self.broken(f"{HERE}:WithoutOptions"))
        self.assertIn("IConnection", self.broken(f"{HERE}:Undeclared"))
        self.assertIn("Struct", self.broken(f"{HERE}:WithFreeOptions"))
        self.assertIn("its name is 'simulator'", self.broken("fluidvm.drivers.simulator.driver:SimulatorDriver"))

    def test_a_verb_that_is_missing(self) -> None:
        self.assertIn("start(uuid)", self.broken(f"{HERE}:LacksAVerb"))
        self.assertIn("detach_disk(uuid, target)", self.broken(f"{HERE}:LacksAVerbOfAnAbility"))

    def test_names_imports_nothing(self) -> None:
        before = set(sys.modules)
        self.assertEqual(loader(b="wave:Driver", a="no_such_module:Driver").names(), ["a", "b"])
        self.assertEqual(set(sys.modules), before)

    def test_abilities(self) -> None:
        self.assertEqual(abilities(SimulatorDriver()), list(ABILITIES))
        self.assertEqual(abilities(NarrowDriver()), [IConnection, IEvents])

    def test_describe(self) -> None:
        found = loader(
            simulator="fluidvm.drivers.simulator.driver:SimulatorDriver",
            bad=f"{HERE}:LacksAVerb",
            gone="no_such_module:Driver",
        )
        bad, gone, good = found.describe()
        names = tuple(ability.__name__ for ability in ABILITIES)
        self.assertEqual(good, DriverDescription("simulator", "", "", good.summary, names, ""))
        self.assertEqual((bad.name, bad.abilities), ("bad", ()))
        self.assertIn("start(uuid)", bad.error)
        self.assertEqual((gone.name, gone.abilities), ("gone", ()))
        self.assertIn("no_such_module", gone.error)

    def test_describe_names_the_distribution(self) -> None:
        described = {driver.name: driver for driver in DriverLoader().describe()}
        simulator = described["simulator"]
        self.assertEqual((simulator.distribution, simulator.error), ("fluidvm", ""))
        self.assertTrue(simulator.version)

    def test_two_drivers_with_the_same_name(self) -> None:
        """Neither is loaded, whichever was installed first, and other drivers aren't affected."""
        directory = Path(self.mktemp()).absolute()
        for distribution in ("one", "two"):
            info = directory / f"fluidvm_test_{distribution}-1.0.dist-info"
            info.mkdir(parents=True)
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fluidvm-test-{distribution}\nVersion: 1.0\n")
            (info / "entry_points.txt").write_text(f"[{GROUP}]\ntwice = {HERE}:NarrowDriver\n")
        self.patch(sys, "path", [str(directory), *sys.path])
        found = DriverLoader()
        twice = found.description("twice")
        self.assertIn("fluidvm-test-one 1.0, fluidvm-test-two 1.0", twice.error)
        self.assertEqual(found.description("simulator").error, "")

    def test_description_of_one(self) -> None:
        with self.assertRaises(UnknownDriver):
            loader().description("xen")
        found = loader(gone="no_such_module:Driver", simulator="fluidvm.drivers.simulator.driver:SimulatorDriver")
        self.assertEqual(found.description("simulator"), found.describe()[1])

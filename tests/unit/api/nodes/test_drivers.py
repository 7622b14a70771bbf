from __future__ import annotations

import sys
from pathlib import Path

from fluidvm.driver import ABILITIES
from fluidvm.driver.loader import GROUP
from tests.support import ServerCase


class DriverTests(ServerCase):
    def install_broken(self) -> None:
        """A distribution whose driver can't be imported."""
        directory = self.directory / "site"
        info = directory / "fluidvm_broken-2.1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fluidvm-broken\nVersion: 2.1\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\nbroken = no_such_module:Driver\n")
        self.patch(sys, "path", [str(directory), *sys.path])

    async def test_list(self) -> None:
        self.install_broken()
        admin = await self.serve().login()
        listed = await admin.call("list_drivers")
        names = [driver["name"] for driver in listed]
        self.assertEqual(names, sorted(names))
        told = {driver["name"]: driver for driver in listed}
        self.assertEqual(told["simulator"]["abilities"], [ability.__name__[1:] for ability in ABILITIES])
        self.assertEqual(told["simulator"]["distribution"], "fluidvm")
        self.assertNotIn("error", told["simulator"])
        error = "driver broken can't be loaded: No module named 'no_such_module'"
        broken = {"name": "broken", "distribution": "fluidvm-broken", "version": "2.1", "abilities": [], "error": error}
        self.assertEqual(told["broken"], broken)
        self.assertEqual(await admin.call("get_driver", "broken"), broken)
        self.assertIn(error, await self.refused(501, admin.call("add_compute_node", "node1", "broken", "", {})))

    async def test_a_driver_is_loaded_when_it_is_needed(self) -> None:
        directory = self.directory / "site"
        info = directory / "fluidvm_late-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fluidvm-late\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\nlate = fluidvm_late_driver:Late\n")
        Path(directory, "fluidvm_late_driver.py").write_text(
            "from fluidvm.drivers.simulator.driver import SimulatorDriver\n\n"
            "class Late(SimulatorDriver):\n    name = 'late'\n"
        )
        self.patch(sys, "path", [str(directory), *sys.path])
        self.addCleanup(sys.modules.pop, "fluidvm_late_driver", None)
        admin = await self.serve().login()
        await admin.node()
        self.assertNotIn("fluidvm_late_driver", sys.modules)
        await admin.do("add_compute_node", "node2", "late", "", {})
        self.assertIn("fluidvm_late_driver", sys.modules)

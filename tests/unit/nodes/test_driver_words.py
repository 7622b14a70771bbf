"""Faults are sentences that use the names of VMs, not those of their hypervisor."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

import fluidvm
from fluidvm.driver import DriverError, Unreachable, WrongState
from fluidvm.model import faults
from fluidvm.model.faults import sentence
from fluidvm.model.objects import VM
from fluidvm.nodes.driver_words import Words
from tests.sentences import NoSentence, is_told
from tests.support import ServerCase
from tests.unit.api.nodes.test_nodes import simulated
from tests.unit.api.vms.test_adoption import stranger

ROOT = Path(fluidvm.__file__).parents[1]
RAISED = {cls.__name__ for cls in (*faults.FAULTS.values(), *DriverError.__subclasses__(), DriverError)}


def made(path: Path) -> Iterator[tuple[int, str]]:
    """Find the faults and driver errors in a file: line and text. Those that end with another error are left out."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        words = node.args[0]
        parts = words.values if isinstance(words, ast.JoinedStr) else [words]
        if name in RAISED and isinstance(parts[-1], ast.Constant) and isinstance(parts[-1].value, str):
            yield node.lineno, "".join(str(part.value) if isinstance(part, ast.Constant) else "?" for part in parts)


class SentenceTests(SynchronousTestCase):
    def test_every_fault_in_the_code_is_a_sentence(self) -> None:
        """Check the code of the server and of the drivers, including faults that no test raises."""
        seen = 0
        for directory in ("fluidvm", "drivers", "examples"):
            for path in (ROOT / directory).rglob("*.py"):
                for line, words in made(path):
                    seen += 1
                    self.assertTrue(is_told(words), f"{path}:{line}: {words!r}")
        self.assertGreater(seen, 300)

    def test_one_full_stop(self) -> None:
        for said, told in (
            ("It is so", "It is so."),
            ("It is so.", "It is so."),
            ("It is so...", "It is so."),
            ("It is so. ", "It is so."),
            ("", ""),
            (".", ""),
        ):
            self.assertEqual(sentence(said), told)

    def test_texts_that_are_not_sentences_are_logged(self) -> None:
        for text in ("It is so", "It is so..", "", "It is so. ", "It failed.: why."):
            self.assertFalse(is_told(text), text)
            faults.Conflict(text)
            self.assertEqual(len(self.flushLoggedErrors(NoSentence)), 1)


class _Known:
    """An inventory of one compute node's VMs."""

    def __init__(self, *vms: VM) -> None:
        self._vms = vms

    def vms_on(self, node: int) -> tuple[VM, ...]:
        return self._vms


def vm(name: str, uuid: str, domain: str = "") -> VM:
    return VM(
        id=1,
        name=name,
        owner=1,
        state="running",
        uuid=uuid,
        compute_node=1,
        driver="kvm",
        vcpus=1,
        max_vcpus=1,
        memory=64,
        max_memory=64,
        interfaces=(),
        description="",
        tags=(),
        autostart=False,
        boot={},
        created=0.0,
        domain=domain,
    )


class NameTests(SynchronousTestCase):
    OWN, OTHER = "b26eaa09-0000-4000-8000-000000000001", "c37fbb10-0000-4000-8000-000000000002"

    def test_names(self) -> None:
        known: Any = _Known(vm("own", self.OWN), vm("taken", self.OTHER, "is"))
        words = Words(known, 1)
        for said, told in (
            ("Domain own-b26eaa09 is saved", "VM own is saved."),
            (f"start of domain {self.OWN}: no memory.", "start of VM own: no memory."),
            ("Container own-b26eaa09: the command didn't end.", "VM own: the command didn't end."),
            ("x: domain 'own-b26eaa09' is already active", "x: VM own is already active."),
            (f"no domain with matching uuid '{self.OWN}' (own-b26eaa09)", "no domain with matching uuid 'own' (own)."),
            ("Domain is is paused.", "VM taken is paused."),
            ("What is is.", "What is is."),
            ("The domain own-b26eaa09.", "The VM own."),
            ("can't open /run/own-b26eaa09/socket", "can't open /run/own-b26eaa09/socket."),
            ("Domain own-b26eaa09x is another's.", "Domain own-b26eaa09x is another's."),
            ("Domain other-12345678 is another's.", "Domain other-12345678 is another's."),
        ):
            error = words.told(WrongState(said))
            self.assertEqual((type(error), str(error)), (WrongState, told))
        same = Unreachable("It is away.")
        self.assertIs(words.told(same), same)


class FaultTests(ServerCase):
    async def test_tasks_plans_and_queries(self) -> None:
        running = self.serve()
        admin = await running.login()
        node = await admin.node()
        vm = await admin.do("create_vm", {"name": "own"})
        adopted = await admin.do("adopt_vm", node, stranger(running, node, "is"), 1)
        await admin.do("set_vm_name", vm, "renamed")
        await admin.do("set_vm_name", adopted, "taken")
        for id, name in ((vm, "renamed"), (adopted, "taken")):
            words = f"VM {name} is stopped: it can be rebooted only while it is running."
            self.assertEqual(await admin.fail("reboot_vm", id), (409, words))
            await admin.call("reboot_vm", id)
            self.assertEqual([task["error"] for task in await admin.call("plan_tasks")], [words])
            await admin.call("discard_tasks")
            told = await self.refused(409, admin.call("set_vm_password", id, "root", "secret"))
            self.assertTrue(told.startswith(f"VM {name} is stopped"), told)
        simulated(running, node).remove((await admin.call("get_vm", vm))["uuid"])
        for method in ("start_vm", "shutdown_vm", "set_vm_autostart"):
            code, words = await admin.fail(method, vm, *([True] if method == "set_vm_autostart" else []))
            self.assertEqual((code, "VM renamed" in words), (404, True), words)
            self.assertEqual((await admin.call("get_vm", vm))["state"], "missing")

    async def test_an_offline_node(self) -> None:
        """The reason is a sentence from its driver."""
        admin = await self.serve().login()
        node = await admin.do("add_compute_node", "away", "simulator", "", {"fail": ["connect"]})
        words = "Compute node away is offline: The simulator is configured to fail at connect."
        self.assertEqual(await self.refused(503, admin.call("list_networks", node)), words)
        self.assertEqual(await admin.fail("refresh_compute_node", node), (503, words))

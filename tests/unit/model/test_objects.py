"""What the declaration of the objects says."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from fluidvm.model.objects import vm_state
from fluidvm.store.objects import Update


class VmStateTests(SynchronousTestCase):
    def test_a_state_says_whether_the_vm_counts_as_running(self) -> None:
        for state in ("running", "paused", "starting", "stopping", "migrating"):
            self.assertEqual(vm_state(state), {"state": state, "powered": True})
        for state in ("creating", "stopped", "crashed", "saved", "missing"):
            self.assertEqual(vm_state(state), {"state": state, "powered": False})

    def test_no_update_of_a_state_leaves_that_out(self) -> None:
        self.assertRaises(AssertionError, Update, "vm", 1, {"state": "running"})
        Update("vm", 1, {"state": "unknown"})
        Update("vm", 1, vm_state("running"))
        Update("disk", 1, {"state": "ready"})

    def test_while_its_node_cannot_tell_it_counts_as_before(self) -> None:
        self.assertEqual(vm_state("unknown"), {"state": "unknown"})

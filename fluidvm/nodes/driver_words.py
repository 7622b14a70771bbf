"""
What drivers say, as people are told it: whole sentences, in which VMs have the names that their owners gave them.

A hypervisor knows a VM as a domain, or a container, by its UUID and by a name of its own; so do its driver's errors.
"""

from __future__ import annotations

import re

from fluidvm.driver import DriverError
from fluidvm.inventory.inventory import Inventory
from fluidvm.model.faults import sentence
from fluidvm.model.objects import VM

_KIND = r"(?P<kind>\b(?:[Dd]omain|[Cc]ontainer) )?"
_NO_PATH = r"(?<![\w./-])", r"(?![\w/-]|\.\w)"
"""What stands before and after a name that is no part of a longer word or of a path."""


class Words:
    """
    The words of one compute node's driver.

    @param node: the compute node's id.
    """

    def __init__(self, inventory: Inventory, node: int) -> None:
        self._inventory = inventory
        self._node = node

    def told(self, error: DriverError) -> DriverError:
        """Give a driver's error as people are told it."""
        text = self.names(sentence(str(error)))
        return error if text == str(error) else type(error)(text)

    def names(self, text: str) -> str:
        """Put VMs' own names in the place of their hypervisor's."""
        vms = [vm for vm in self._inventory.vms_on(self._node) if vm.uuid in text or vm.domain_name in text]
        known = {called: vm for vm in vms for called in (vm.uuid, vm.domain_name)}
        if not known:
            return text
        longest_first = sorted(known, key=len, reverse=True)
        called = "|".join(re.escape(one) for one in longest_first)
        pattern = f"{_NO_PATH[0]}{_KIND}(?P<quote>['\"]?)(?P<called>{called})(?P=quote){_NO_PATH[1]}"

        def named(found: re.Match[str]) -> str:
            vm = known[found["called"]]
            if found["kind"]:
                return f"VM {vm.name}"
            return f"{found['quote']}{vm.name}{found['quote']}" if _is_unmistakable(vm, found["called"]) else found[0]

        return re.sub(pattern, named, text)


def _is_unmistakable(vm: VM, called: str) -> bool:
    """Whether something can only be meant for a VM, wherever it stands: a guest that was taken over may be called C{is}."""
    return vm.uuid[:8] in called

"""A server loads what an earlier one has stored."""

from __future__ import annotations

from typing import Any

from tests.support import PASSWORD, Client, ServerCase


class ServerTests(ServerCase):
    async def test_everything_is_loaded_again(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.node()
        vm = await admin.do("create_vm", {"name": "web", "disks": [{"size": 1}], "description": 'émoji \U0001f600 "'})
        await admin.do("create_user", "alice", PASSWORD)
        await admin.do("start_vm", vm)
        await admin.do("create_vm_snapshot", vm, "one")
        before = await self.look(admin, vm)
        serial = (await admin.call("get_changes", 0))["serial"]
        admin = await (await self.restart(running)).login()
        self.assertEqual(await self.look(admin, vm), before)
        self.assertIs((await admin.call("get_changes", serial))["reset"], False)
        await admin.do("stop_vm", vm)
        await admin.do("delete_vm", vm)

    async def look(self, client: Client, vm: int) -> list[Any]:
        """Query objects of each type."""
        return [
            await client.call("list_vm_snapshots", vm),
            await client.call("get_vm", vm),
            await client.call("get_disk", 1),
            await client.call("get_user", 2),
        ]

"""Images and disks made to read the host's files, over the wire, against a real host: nothing comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.real.hostile import MIB, hidden
from tests.real.test_contract_images import ImageCase
from tests.support import PASSWORD

SIZE, LARGER = 12, 16


class HostileContractTests(ImageCase):
    timeout = 1200

    async def setUp(self) -> None:
        await super().setUp()
        self.secret, self.images = hidden(self, self.lab.directory)
        self.before = self.secret.state()
        self.node = await self.add_node()
        self.options = {"compute_node": self.node, "pool": "contract", "format": "raw"}

    async def done(self, *tasks: Any) -> list[str]:
        """Commit tasks together, and give each one's error."""
        ids = [await self.call(*task) for task in tasks]
        errors = await self.commit()
        self.assertEqual(len(errors), len(ids))
        return errors

    async def disks(self) -> dict[str, Any]:
        """What the records say of all disks."""
        return {disk["name"]: disk for disk in await self.call("list_disks")}

    async def content(self, disk: int) -> bytes:
        code, data = await self.http(b"GET", f"/disks/{disk}/content")
        self.assertEqual(code, 200, data[:200])
        return data

    async def look(self) -> None:
        """Have the server compare its records with the host."""
        await self.call("refresh_compute_node", self.node)
        self.assertEqual(await self.commit(), [""])

    async def test_what_guests_have_written(self) -> None:
        everything = list(self.images.items())
        self.assertGreater(len(everything), 15)
        wanted = 3 * len(everything) * LARGER
        plan = await self.call("create_resource_plan", "small", {"disk_space": wanted})
        user = await self.call("create_user", "alice", PASSWORD, {"resource_plan": plan})
        self.assertEqual(await self.commit(), ["", ""])
        names = {f"disk{number}": what for number, what in enumerate(self.images)}
        owned = {**self.options, "owner": user, "size": SIZE}
        await self.succeed(*(("create_disk", {**owned, "name": name}) for name in names))
        made = await self.disks()
        for name, what in names.items():
            with Path(made[name]["path"]).open("r+b") as file:
                file.write(self.images[what])
        await self.look()
        self.assertEqual(await self.disks(), made, "the records are what they were")
        # libvirt takes this one for a directory; all else works.
        (odd,) = [name for name, what in names.items() if what == "parallels"]
        work = [name for name in names if name != odd]
        await self.succeed(*(("resize_disk", made[name]["id"], LARGER) for name in work))
        await self.succeed(*(("clone_disk", made[name]["id"], f"{name}-copy") for name in work))
        for error in await self.done(("resize_disk", made[odd]["id"], LARGER), ("clone_disk", made[odd]["id"], "x")):
            self.assertIn("begins like a Virtuozzo image", error)
        for error in await self.done(*(("create_disk_snapshot", made[name]["id"], "one") for name in names)):
            self.assertIn("only qcow2 supports snapshots", error)
        errors = await self.done(*(("create_image", made[name]["id"], name) for name in work))
        await self.look()
        now = await self.disks()
        for name, error in zip(work, errors, strict=True):
            what = names[name]
            whole = self.images[what].ljust(LARGER * MIB, b"\0")
            for one in (name, f"{name}-copy"):
                self.assertEqual((now[one]["size"], now[one]["format"], now[one]["state"]), (LARGER, "raw", "ready"), what)
                data = await self.content(now[one]["id"])
                self.assertTrue(data == whole, f"{what}: exactly what was written comes out")
                self.assertEqual(self.secret.is_in(data), False, what)
            if error:
                self.assertIn("The file is not a raw image: it starts like", error, what)
        made_images = {image["name"] for image in await self.call("list_images")}
        self.assertEqual(made_images, {name for name, error in zip(work, errors, strict=True) if not error})
        self.assertEqual(self.secret.state(), self.before)
        used = (await self.call("get_resource_plan_usage", plan))["disk_space"]["used"]
        images_used = LARGER * len(made_images)
        self.assertEqual(used, (2 * len(work)) * LARGER + SIZE + images_used, "what is counted")
        on_host = sum(path.stat().st_size for path in self.pool.iterdir())
        self.assertEqual(on_host, ((2 * len(work)) * LARGER + SIZE) * MIB, "what is there")
        # A VM runs with them, and its disks grow as it runs.
        attached = [{"disk": made[name]["id"]} for name in work]
        vm = await self.call(
            "create_vm",
            {
                "name": "web",
                "memory": 128,
                "owner": user,
                "compute_node": self.node,
                "boot": self.kernel(),
                "disks": attached,
            },
        )
        self.assertEqual(await self.commit(), [""])
        await self.succeed(("start_vm", vm))
        await self.boots(vm)
        (error,) = await self.done(("create_vm_snapshot", vm, "one"))
        self.assertIn("only qcow2 supports snapshots", error)
        self.assertEqual(self.secret.state(), self.before)
        await self.succeed(("stop_vm", vm), ("delete_vm", vm))
        await self.succeed(*(("delete_disk", disk["id"]) for disk in (await self.disks()).values()))
        self.assertEqual(list(self.pool.iterdir()), [])

    async def succeed(self, *tasks: Any) -> None:
        """Commit tasks together; each succeeds."""
        self.assertEqual([error for error in await self.done(*tasks) if error], [])

    async def test_what_is_uploaded(self) -> None:
        """As raw, and as qcow2 what is one."""
        file = Path(self.mktemp())
        taken: dict[str, int] = {}
        for what, data in self.images.items():
            file.write_bytes(data)
            for format in ("raw", "qcow2"):
                code, _ = await self.http(b"PUT", "/images/upload?upload=up", file)
                self.assertEqual(code, 200)
                name = f"image{len(taken)}"
                image = await self.call("import_image", {"name": name, "format": format, "upload": "up"})
                (error,) = await self.commit()
                self.assertTrue(not error or "image" in error, error)
                if not error:
                    self.assertEqual(format, "raw", what)
                    taken[what] = image
        self.assertEqual(set(taken), {"raw", "LUKS", "Bochs", "cloop", "DMG", "QEMU's options", "vpc fixed"})
        specs: list[dict[str, Any]] = [{**self.options, "name": f"of{image}", "image": image} for image in taken.values()]
        await self.succeed(*(("create_disk", spec) for spec in specs))
        made = await self.disks()
        await self.succeed(*(("clone_disk", made[spec["name"]]["id"], f"{spec['name']}-copy") for spec in specs))
        await self.succeed(*(("resize_disk", made[spec["name"]]["id"], SIZE) for spec in specs))
        await self.look()
        now = await self.disks()
        for what, image in taken.items():
            disk, copy = now[f"of{image}"], now[f"of{image}-copy"]
            self.assertEqual((disk["size"], copy["size"]), (SIZE, made[f"of{image}"]["size"]), what)
            for one in (disk, copy):
                data = await self.content(one["id"])
                self.assertTrue(data == self.images[what].ljust(one["size"] * MIB, b"\0"), what)
        self.assertEqual(self.secret.state(), self.before)

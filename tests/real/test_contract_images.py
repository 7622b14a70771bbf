"""Images over the wire, by a client that knows HTTP and XML-RPC alone; the guest boots from what was uploaded."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import Cooperator
from twisted.internet.threads import deferToThread
from twisted.web.client import Agent, FileBodyProducer, readBody
from twisted.web.http_headers import Headers

from tests.real.test_contract import ContractCase
from tests.support import port_of

MIB = 2**20


class ImageCase(ContractCase):
    """A server with transfers."""

    async def http(self, method: bytes, path: str, file: Path | None = None) -> tuple[int, bytes]:
        """Ask for something beside the calls."""
        url = f"http://127.0.0.1:{port_of(self.server)}{path}".encode()
        headers = Headers({b"X-FluidVM-Cookie": [str(self.cookie).encode()]})
        if file is None:
            answer: Any = await Agent(reactor).request(method, url, headers)
            return answer.code, await readBody(answer)
        with file.open("rb") as opened:
            cooperator = Cooperator(scheduler=lambda call: reactor.callLater(0, call))
            body = FileBodyProducer(opened, cooperator=cooperator)
            answer = await Agent(reactor).request(method, url, headers, body)
            return answer.code, await readBody(answer)


class ImageTests(ImageCase):
    async def imported(self, file: Path, format: str) -> int:
        """Make an image of a file."""
        code, said = await self.http(b"PUT", f"/images/upload?upload={format}", file)
        self.assertEqual((code, json.loads(said)["size"]), (200, file.stat().st_size))
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        spec = {"name": f"guest-{format}", "format": format, "upload": format, "sha256": sha256}
        image: int = await self.call("import_image", spec)
        return image

    async def test_a_guest_of_an_uploaded_image(self) -> None:
        node = await self.add_node()
        raw, qcow2 = self.guest / "disk.img", Path(self.mktemp()).absolute()
        convert = ["qemu-img", "convert", "-O", "qcow2", str(raw), str(qcow2)]
        await deferToThread(subprocess.run, convert, check=True)
        size = -(-raw.stat().st_size // MIB)
        vms = []
        for file, format in ((raw, "raw"), (qcow2, "qcow2")):
            image = await self.imported(file, format)
            spec = {
                "name": f"web-{format}",
                "memory": 128,
                "compute_node": node,
                "boot": {"order": ["disk"]},
                "disks": [{"image": image, "size": size + 8, "pool": "contract"}],
            }
            vm = await self.call("create_vm", spec)
            self.assertEqual(await self.commit(), ["", ""])
            (disk,) = (await self.call("get_vm", vm))["disks"]
            record = await self.call("get_disk", disk)
            self.assertEqual((record["size"], record["format"], record["backing_image"]), (size + 8, format, image))
            vms.append((vm, disk))
        code, content = await self.http(b"GET", f"/disks/{vms[0][1]}/content")
        self.assertEqual((code, content), (200, raw.read_bytes().ljust((size + 8) * MIB, b"\0")))
        await self.call("rebuild_vm", vms[0][0], image)
        self.assertEqual(await self.commit(), [""])
        self.assertEqual((await self.call("get_disk", vms[0][1]))["format"], "qcow2")
        copy = await self.call("create_image", vms[1][1], "copy")
        self.assertEqual(await self.commit(), [""])
        self.assertEqual((await self.call("get_image", copy))["size"], size + 8)
        for vm, _ in vms:
            await self.call("start_vm", vm)
        self.assertEqual(await self.commit(), ["", ""])
        for vm, disk in vms:
            await self.boots(vm, "DISK-BOOT")
            self.assertEqual((await self.http(b"GET", f"/disks/{disk}/content"))[0], 409)

"""Compression of answers: how they are counted meanwhile, and which are not compressed."""

from __future__ import annotations

import gzip
import random
import xmlrpc.client
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.trial.unittest import TestCase

from fluidvm.wire import compression
from fluidvm.wire.answers import Confidential
from fluidvm.wire.compression import AT_ONCE, LEAST, MOST_WAITING, Compressor, Gzipped
from fluidvm.wire.forms import Form
from fluidvm.wire.peer import Peer
from fluidvm.wire.unsent import Unsent
from tests.support import PASSWORD, ServerCase


class CompressorTests(TestCase):
    def setUp(self) -> None:
        self.unsent = Unsent(reactor)  # type: ignore[arg-type]
        self.compressor = Compressor(reactor, self.unsent)
        self.compressor.start()
        self.addCleanup(self.compressor.stop)

    def test_short_answers_are_not_compressed(self) -> None:
        document = b"x" * (LEAST - 1)
        self.assertIs(self.compressor.compress(document, "a"), document)

    def test_small_answers_are_compressed_at_once(self) -> None:
        for size in (LEAST, AT_ONCE):
            found = self.compressor.compress(b"x" * size, "a")
            assert isinstance(found, Gzipped)
            self.assertEqual(gzip.decompress(found), b"x" * size)
        self.assertEqual(self.unsent.held, 0)

    async def test_large_answers_are_compressed_in_a_thread(self) -> None:
        sizes = [AT_ONCE + 1, 3 * 2**20, AT_ONCE + 2]
        working: list[Any] = [self.compressor.compress(b"x" * size, "a") for size in sizes]
        self.assertEqual([type(one) for one in working], [Deferred] * 3)
        self.assertEqual(self.unsent.held, sum(sizes))
        self.assertFalse(self.unsent.has_room("a", 2**27 - sum(sizes) + 1))
        found = await gatherResults(working)
        self.assertEqual([len(gzip.decompress(one)) for one in found], sizes)
        self.assertEqual((self.unsent.held, self.compressor._waiting), (0, 0))

    async def test_the_queue_is_limited(self) -> None:
        large = b"x" * (MOST_WAITING - AT_ONCE)
        working = self.compressor.compress(large, "a")
        document = b"x" * (AT_ONCE + 1)
        self.assertIs(self.compressor.compress(document, "a"), document)
        self.assertEqual(self.unsent.held, len(large))
        await working  # type: ignore[misc]
        self.assertIsInstance(self.compressor.compress(document, "b"), Deferred)

    async def test_answers_that_do_not_shrink(self) -> None:
        for size in (LEAST, AT_ONCE + 1):
            document = random.Random(5).randbytes(size)
            found: Any = self.compressor.compress(document, "a")
            self.assertEqual(await found if isinstance(found, Deferred) else found, document)

    async def test_a_failure(self) -> None:
        def fail(document: bytes) -> bytes:
            raise MemoryError

        self.patch(compression, "_gzip", fail)
        document = b"x" * (AT_ONCE + 1)
        self.assertIs(await self.compressor.compress(document, "a"), document)  # type: ignore[misc]
        self.assertEqual((self.unsent.held, self.compressor._waiting), (0, 0))
        self.assertEqual(len(self.flushLoggedErrors(MemoryError)), 1)

    def test_secrets_are_not_compressed(self) -> None:
        document = Confidential(b"x" * LEAST)
        self.assertIs(self.compressor.compress(document, "a"), document)


class ServerTests(ServerCase):
    """Answers of the whole server."""

    async def ask(self, name: str, *arguments: Any) -> tuple[bool, Any]:
        """Return whether the answer was compressed, and its value."""
        body = xmlrpc.client.dumps(arguments, name).encode()
        answer: Any = self.there.server._site.calls.call(body, Peer("192.0.2.1"), Form("", True))
        if isinstance(answer, Deferred):
            answer = await answer
        packed = isinstance(answer, Gzipped)
        (value,), _ = xmlrpc.client.loads(gzip.decompress(answer) if packed else answer)
        return packed, value

    async def test_lists(self) -> None:
        self.there = self.serve()
        admin = await self.there.login()
        for number in range(100):
            await admin.call("create_resource_plan", f"plan{number}", {"vms": number})
        await admin.commit()
        packed, plans = await self.ask("list_resource_plans", admin.cookie)
        self.assertEqual((packed, len(plans)), (True, 100))
        packed, plans = await self.ask("list_resource_plans", admin.cookie, {"limit": 1})
        self.assertEqual((packed, len(plans)), (False, 1))
        large = [{"methodName": "list_resource_plans", "params": [admin.cookie]}] * 20
        packed, answers = await self.ask("system.multicall", large)
        self.assertEqual((packed, len(answers)), (True, 20))
        self.assertEqual(self.there.server.dispatcher._unsent.held, 0)

    async def test_boxcars_with_secrets_are_not_compressed(self) -> None:
        """Else the compressed length would reveal how much a secret has in common with text that others choose."""
        self.there = self.serve()
        admin = await self.there.login()
        node = await admin.node()
        vm = await admin.do("create_vm", {"name": "web", "compute_node": node})
        await admin.do("start_vm", vm)
        many: Any = [{"methodName": "system.listMethods", "params": []}] * 10
        secrets: dict[str, Any] = {
            "authenticate": ["admin", PASSWORD],
            "get_vm_console": [admin.cookie, vm],
            "begin_second_factor": [admin.cookie, PASSWORD],
        }
        self.assertEqual((await self.ask("system.multicall", many))[0], True)
        for name, arguments in secrets.items():
            packed, answers = await self.ask("system.multicall", [*many, {"methodName": name, "params": arguments}])
            self.assertIsInstance(answers[-1], list, name)
            self.assertFalse(packed, name)
        odd = [5, {"methodName": 5}, {"methodName": []}, []]
        self.assertTrue((await self.ask("system.multicall", [*many, *odd]))[0])

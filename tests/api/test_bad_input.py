"""Every method, given what its declaration doesn't allow: a documented fault that names the argument, and nothing queued."""

from __future__ import annotations

import re
import xmlrpc.client
from collections.abc import Iterator
from typing import Any

from fluidvm.declare import METHODS, Method
from fluidvm.kinds import Array, Bool, Choice, Double, Id, Int, Kind, Plain, Serial, Struct, Text

from ..support import Client, ServerCase

WRONG = {int: "1", str: 1, bool: 1, float: "1", dict: [], list: {}}


def sample(kind: Kind) -> Any:
    """A value that a kind takes, as far as the kind alone can tell."""
    if isinstance(kind, Id):
        return 1
    if isinstance(kind, Int):
        return kind.low if kind.low > 0 else 1
    if isinstance(kind, Serial | Double):
        return 1
    if isinstance(kind, Bool):
        return True
    if isinstance(kind, Choice):
        return kind.choices[0]
    if isinstance(kind, Text):
        return "vda" if kind.pattern.startswith("vd") else "/a" if kind.pattern.startswith("(/") else "qcow2"
    if isinstance(kind, Array):
        return []
    if isinstance(kind, Struct):
        return {key: sample(kind.fields[key]) for key in kind.required} if kind.fields is not None else {}
    raise TypeError(kind)


def wrong_values(kind: Kind, value: Any, path: str) -> Iterator[tuple[Any, str]]:
    """Values that a kind refuses, and the path that the fault must name."""
    if isinstance(kind, Plain):
        yield {int: "x", str: 5, bool: 5, list: 5, dict: 5}.get(kind.type, 5), path
        return
    if kind.wire != "any":
        yield WRONG[kind.python], path
        if kind.python is int:
            yield True, path
    if isinstance(kind, Int):
        if kind.low > -(2**31):
            yield kind.low - 1, path
        if kind.high < 2**31 - 1:
            yield kind.high + 1, path
    elif isinstance(kind, Double):
        yield kind.low - 1, path
        yield kind.high + 1, path
    elif isinstance(kind, Choice):
        yield "no such word", path
    elif isinstance(kind, Text):
        yield "x" * (kind.longest + 1), path
        if kind.pattern:
            for bad in ("../x", "a b", "x\u202e", "<x>", "a'b", 'a"b', "a\nb", "\t"):
                if re.fullmatch(kind.pattern, bad) is None:
                    yield bad, path
    elif isinstance(kind, Array):
        yield [sample(kind.of)] * (kind.longest + 1), path
        for bad, where in wrong_values(kind.of, sample(kind.of), f"{path}[0]"):
            yield [bad], where
    elif isinstance(kind, Struct) and kind.fields is not None:
        yield {**value, "no_such_key": 1}, f"{path}.no_such_key"
        for key in kind.required:
            yield {other: member for other, member in value.items() if other != key}, f"{path}.{key}"
        for key, member in kind.fields.items():
            good = None if isinstance(member, Plain) else sample(member)
            for bad, where in wrong_values(member, good, f"{path}.{key}"):
                yield {**value, key: bad}, where


class BadInputTests(ServerCase):
    async def setUpClient(self) -> Client:
        return await self.serve().login()

    def methods(self) -> Iterator[tuple[Method, list[Any]]]:
        for name, method in sorted(METHODS.items()):
            if name != "logout":
                yield method, [sample(parameter.kind) for parameter in method.parameters]

    async def send(self, client: Client, method: Method, arguments: list[Any]) -> Any:
        call = client.running.call if method.anonymous else client.call
        return await call(method.name, *arguments)

    async def test_number_of_arguments(self) -> None:
        client = await self.setUpClient()
        for method, arguments in self.methods():
            words = await self.refused(-32602, self.send(client, method, [*arguments, 1]))
            self.assertIn(method.usage(), words)
            if method.required:
                await self.refused(-32602, self.send(client, method, arguments[: method.required - 1]))
            if not method.anonymous:
                self.assertIn("cookie", await self.refused(-32602, client.running.call(method.name)))

    async def test_wrong_values(self) -> None:
        client = await self.setUpClient()
        tried = 0
        for method, arguments in self.methods():
            for place, parameter in enumerate(method.parameters):
                for bad, path in wrong_values(parameter.kind, arguments[place], parameter.name):
                    given = [*arguments]
                    given[place] = bad
                    words = await self.refused(-32602, self.send(client, method, given))
                    self.assertTrue(words.startswith(path + ":"), f"{method.name} with {bad!r}: {words}")
                    tried += 1
        self.assertGreater(tried, 400)
        self.assertEqual(await client.call("get_pending_tasks"), [])

    async def test_ints_over_32_bits_name_the_argument(self) -> None:
        client = await self.setUpClient()
        for method, arguments in self.methods():
            for place, parameter in enumerate(method.parameters):
                if isinstance(parameter.kind, Int | Id):
                    given = [client.cookie, *arguments]
                    given[place + 1] = 777
                    body = xmlrpc.client.dumps(tuple(given), method.name).replace("<int>777</int>", "<int>4294967296</int>")
                    words = await self.refused(-32602, client.running.post(body.encode()))
                    self.assertIn(parameter.name, words)

    async def test_wrong_cookies(self) -> None:
        client = await self.setUpClient()
        other = client.cookie ^ 1
        for method, arguments in self.methods():
            if not method.anonymous:
                for wrong in (0, other):
                    await self.refused(401, client.running.call(method.name, wrong, *arguments))
                await self.refused(401, client.running.call(method.name, client.cookie, *arguments, address="192.0.2.99"))
                for wrong in ("1", 1.0, True, [], {}):
                    await self.refused(-32602, client.running.call(method.name, wrong, *arguments))

    async def test_roles(self) -> None:
        """A plain user and an auditor are told 403 for what their role may not do, whatever the arguments."""
        admin = await self.setUpClient()
        for role in ("user", "auditor"):
            client = await admin.user(f"some-{role}", role)
            for method, arguments in self.methods():
                if not method.anonymous and role not in method.roles:
                    await self.refused(403, self.send(client, method, arguments))

    async def test_foreign_ids_are_not_there(self) -> None:
        """What is another's is answered with the very words of what isn't there."""
        admin = await self.setUpClient()
        await admin.node()
        for name in ("one", "two"):
            await admin.do("create_vm", {"name": name})
            await admin.do("create_disk", {"name": name, "size": 1})
        user = await admin.user("stranger")
        tried = 0
        for method, arguments in self.methods():
            if "user" not in method.roles or method.anonymous:
                continue
            for place, parameter in enumerate(method.parameters):
                if isinstance(parameter.kind, Id) and parameter.kind.type in ("vm", "disk", "user", "execution_context"):
                    words = []
                    for id in (1, 4711, -5):
                        given = [*arguments]
                        given[place] = id
                        words.append(re.sub(r" -?\d+", "", await self.refused(404, self.send(user, method, given))))
                    self.assertEqual(len(set(words)), 1, words)
                    tried += 1
        self.assertGreater(tried, 15)

    async def test_an_auditor_changes_nothing(self) -> None:
        admin = await self.setUpClient()
        auditor = await admin.user("watcher", "auditor")
        await self.refused(403, auditor.call("set_user_password", 1, "x"))
        await self.refused(403, auditor.call("create_vm", {"name": "x"}))
        self.assertEqual((await auditor.call("get_user", 1))["name"], "admin")

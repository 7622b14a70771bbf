"""Every method, called with arguments that its declaration doesn't allow: a documented fault that names the argument."""

from __future__ import annotations

import re
import xmlrpc.client
from collections.abc import Callable, Iterator
from typing import Any

from fluidvm.model.declare import METHODS, Method
from fluidvm.model.kinds import Array, Bool, Choice, Double, Id, Int, Kind, Plain, Serial, Struct, Text
from tests.support import PASSWORD, Client, ServerCase

WRONG = {int: "1", str: 1, bool: 1, float: "1", dict: [1], list: {}}


def sample(kind: Kind) -> Any:
    """A value that a kind accepts, as far as the kind alone can tell."""
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
        words = ("192.0.2.1", "qcow2", "vda", "/a", "6b2c1f0e-8d5a-4c39-9f7b-0123456789ab", "ssh-ed25519 AAAA")
        return next((word for word in words if re.fullmatch(kind.pattern or ".*", word)), words[0])
    if isinstance(kind, Array):
        return [sample(kind.of)] * kind.shortest
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
                # They count as wrong cookies, so each comes from its own address.
                odds: tuple[Any, ...] = ("1", 1.0, True, [], {}, b"", "1" * 9999)
                for place, odd in enumerate(odds):
                    call = client.running.call(method.name, odd, *arguments, address=f"198.51.100.{place}")
                    self.assertTrue((await self.refused(-32602, call)).startswith("cookie:"))

    async def test_cookies_over_32_bits(self) -> None:
        client = await self.setUpClient()
        for method, arguments in self.methods():
            if not method.anonymous:
                body = xmlrpc.client.dumps((777, *arguments), method.name)
                for number in (2**31, -(2**31) - 1, 10**31):
                    odd = body.replace("<int>777</int>", f"<int>{number}</int>", 1).encode()
                    words = await self.refused(-32602, client.running.post(odd, f"198.51.100.{number % 7}"))
                    self.assertTrue(words.startswith("cookie:"), words)

    async def test_roles(self) -> None:
        """A plain user and an auditor get fault 403 for what their role must not do, whatever the arguments."""
        admin = await self.setUpClient()
        for role in ("user", "auditor"):
            client = await admin.user(f"some-{role}", role)
            for method, arguments in self.methods():
                if not method.anonymous and role not in method.roles:
                    await self.refused(403, self.send(client, method, arguments))

    async def test_ids_of_other_users_objects_are_answered_like_unknown_ids(self) -> None:
        """The fault for another user's object is exactly the one for an object that doesn't exist."""
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

    async def test_a_disabled_user(self) -> None:
        admin = await self.setUpClient()
        user = await admin.user("gone")
        await admin.do("set_user_enabled", 2, False)
        for method, arguments in self.methods():
            if not method.anonymous:
                await self.refused(401, self.send(user, method, arguments))
        await self.refused(402, admin.running.call("authenticate", "gone", PASSWORD))

    async def test_a_deleted_user(self) -> None:
        admin = await self.setUpClient()
        user = await admin.user("gone")
        await admin.do("delete_user", 2)
        for method, arguments in self.methods():
            if not method.anonymous:
                await self.refused(401, self.send(user, method, arguments))

    async def test_an_auditor_reads_everything_and_changes_nothing(self) -> None:
        """Every task except changing their own password is refused; every query answers for other users' objects."""
        admin = await self.setUpClient()
        await admin.node()
        vm = await admin.do("create_vm", {"name": "one", "disks": [{"size": 1, "format": "raw"}]})
        await admin.do("create_image", 1, "one")
        await admin.do("start_vm", vm)
        await admin.do("create_resource_plan", "one", {})
        auditor = await admin.user("watcher", "auditor")
        before = await self.everything(admin)
        for method, arguments in self.methods():
            if method.anonymous or method.name == "set_user_password":
                continue
            if "auditor" not in method.roles:
                await self.refused(403, self.send(auditor, method, arguments))
            elif not method.audited and method.name != "get_driver":
                await self.send(auditor, method, arguments)
        await auditor.commit()
        self.assertEqual(await self.everything(admin), before)

    async def everything(self, admin: Client) -> list[Any]:
        """Everything that the server shows of its objects."""
        lists = ("list_vms", "list_disks", "list_users", "list_compute_nodes", "list_resource_plans", "list_images")
        return [await admin.call(name) for name in lists]


HOSTILE = (
    "'; DROP TABLE vms; --",
    '"><script>alert(1)</script>',
    "../../etc/passwd",
    "%s %n {0} {x!r}",
    "$(reboot) `reboot`",
    "\u202egnp.exe",
    "\u0000",
    "\x1b[2J",
    "\ud800",
    "\r\nSet-Cookie: x",
    "<![CDATA[x]]>",
    "&amp;&lt;",
    "\U0001f600",
    "\ufeff",
    "a" * 4097,
    "x" * 2**20,
)


class HostileStringTests(ServerCase):
    """Strings that other programs have trouble with: refused, or returned unchanged."""

    def carried(self, text: str) -> bool:
        """Whether XML can carry a string."""
        return re.fullmatch("[\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]*", text) is not None

    async def test_free_text(self) -> None:
        running = self.serve()
        admin = await running.login()
        await admin.node()
        kept = {}
        for number, text in enumerate(HOSTILE):
            if self.carried(text) and len(text) <= 255:
                spec = {"name": f"vm{number}", "description": text}
                kept[await admin.do("create_vm", spec)] = text
                user = await admin.do("create_user", f"u{number}", PASSWORD, {"full_name": text, "email": text})
                shown = await admin.call("get_user", user)
                self.assertEqual((shown["full_name"], shown["email"]), (text, text))
        self.assertGreater(len(kept), 8)
        admin = await (await self.restart(running)).login()
        for vm, text in kept.items():
            self.assertEqual((await admin.call("get_vm", vm))["description"], text)
            self.assertEqual(await admin.call("list_vms", {"description": text, "fields": ["id"]}), [{"id": vm}])

    async def test_text_that_is_too_long_or_not_valid_in_xml(self) -> None:
        admin = await self.serve().login()
        for text in HOSTILE:
            if len(text) > 4096:
                await self.refused(-32602, admin.call("create_vm", {"name": "x", "description": text}))
            elif not self.carried(text):
                body = xmlrpc.client.dumps((admin.cookie, {"name": "x", "description": "TEXT"}), "create_vm").encode()
                for form in (text.encode("utf-8", "surrogatepass"), b"&#%d;" % ord(text[0])):
                    await self.refused(-32700, admin.running.post(body.replace(b"TEXT", form)))
        self.assertEqual(await admin.call("get_pending_tasks"), [])

    async def test_names_and_words(self) -> None:
        admin = await self.serve().login()
        calls: tuple[Callable[[str], tuple[Any, ...]], ...] = (
            lambda text: ("create_vm", {"name": text}),
            lambda text: ("create_vm", {"name": "x", "tags": [text]}),
            lambda text: ("create_vm", {"name": "x", "driver": text}),
            lambda text: ("create_vm", {"name": "x", "labels": [text]}),
            lambda text: ("create_vm", {"name": "x", "disks": [{"size": 1, "pool": text}]}),
            lambda text: ("create_vm", {"name": "x", "boot": {"kernel": text}}),
            lambda text: ("create_disk", {"name": text, "size": 1}),
            lambda text: ("create_disk", {"name": "x", "size": 1, "format": text}),
            lambda text: ("create_user", text, PASSWORD),
            lambda text: ("create_resource_plan", text, {}),
            lambda text: ("add_compute_node", text, "simulator", "", {}),
            lambda text: ("add_compute_node", "x", text, "", {}),
        )
        for text in ("", ".", "..", *HOSTILE):
            for call in calls:
                if self.carried(text):
                    await self.refused(-32602, admin.call(*call(text)))
        self.assertEqual(await admin.call("get_pending_tasks"), [])

    async def test_login_names(self) -> None:
        running = self.serve()
        words = set()
        for number, text in enumerate(HOSTILE):
            if self.carried(text) and len(text) <= 1024:
                address = f"198.51.100.{number}"
                words.add(await self.refused(402, running.call("authenticate", text, text, address=address)))
        self.assertEqual(len(words), 1)

"""Tests of commands in guests, and of the abilities of containers."""

from __future__ import annotations

from fluidvm.conformance.case import ContractCase
from fluidvm.conformance.connection import NOBODY
from fluidvm.driver import DomainSpec, DriverError, GuestNetwork, Limits, NoSuchThing, Unreachable, WrongState

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA7cUXVEPbjTQ9a9zHYwBh3VfQ5T4hBZ0b3l3X0m2Fqk contract"
WORDS = ("two  blanks", "$HOME", "*", "'", '"', "\\", "ü")
SECONDS = 30.0


class GuestContract(ContractCase):
    """Tests of L{IGuest}."""

    async def up(self) -> DomainSpec:
        """Start a domain, and wait until its guest reacts to requests."""
        spec = await self.started()
        await self.factory.booted(self.connection, spec.uuid)
        return spec

    async def test_commands(self) -> None:
        spec = await self.up()
        promise = "run_in_guest: the arguments reach the command unchanged"
        said = await self.ask("run_in_guest", spec.uuid, ["echo", *WORDS], b"", SECONDS, promise=promise)
        self.assertEqual((said.code, said.stdout), (0, " ".join(WORDS) + "\n"), promise)
        promise = "run_in_guest: the command gets its standard input"
        said = await self.ask("run_in_guest", spec.uuid, ["cat"], b"some\nlines\n", SECONDS, promise=promise)
        self.assertEqual(said.stdout, "some\nlines\n", promise)
        promise = "run_in_guest: its exit code is returned"
        self.assertEqual(
            (await self.ask("run_in_guest", spec.uuid, ["false"], b"", SECONDS, promise=promise)).code, 1, promise
        )

    async def test_keys_and_passwords(self) -> None:
        spec = await self.up()
        await self.ask("set_password", spec.uuid, "root", "it's $ecret")
        await self.again("set_password", spec.uuid, "root", "it's $ecret")
        await self.ask("add_ssh_key", spec.uuid, KEY)
        await self.again("add_ssh_key", spec.uuid, KEY)
        words = await self.raises(DriverError, "a password of two lines", "set_password", spec.uuid, "root", "hid\nden")
        self.assertNotIn("hid", words, "set_password: an error doesn't reveal the password")

    async def test_who_can_be_told(self) -> None:
        spec = await self.defined()
        for verb, arguments in (
            ("run_in_guest", (["true"], b"", SECONDS)),
            ("set_password", ("root", "secret")),
            ("add_ssh_key", (KEY,)),
        ):
            await self.refuses(NoSuchThing, "a domain that doesn't exist", verb, NOBODY, *arguments)
            await self.refuses(WrongState, "a domain that isn't running", verb, spec.uuid, *arguments)
        await self.ask("close")
        await self.raises(Unreachable, "a closed connection", "run_in_guest", spec.uuid, ["true"], b"", SECONDS)


class TemplatesContract(ContractCase):
    """Tests of L{ITemplates}."""

    async def test_each_is_made_into_a_domain(self) -> None:
        templates = await self.ask("list_templates", promise="list_templates: there is at least one")
        self.assertTrue(templates, "list_templates: there is at least one")
        self.assertEqual(len(templates), len(set(templates)), "list_templates: each is listed once")
        for template in templates:
            spec = await self.defined(template=template)
            await self.ask("start", spec.uuid, promise=f"define_domain: a domain from template {template} boots")
        nothing = self.spec(template="contract-no-such-template")
        await self.refuses(NoSuchThing, "a template that doesn't exist", "define_domain", nothing)

    async def test_a_closed_connection(self) -> None:
        await self.ask("close")
        await self.raises(Unreachable, "a closed connection", "list_templates")


class GuestNetworkContract(ContractCase):
    """Tests of L{IGuestNetwork}."""

    async def told_network(self, spec: DomainSpec, promise: str) -> GuestNetwork:
        """A guest's network settings."""
        told: GuestNetwork = await self.ask("guest_network", spec.uuid, promise=promise)
        return told

    async def test_addresses(self) -> None:
        another = await self.defined()
        for running in (False, True):
            spec = await (self.started() if running else self.defined())
            one, two = f"192.0.2.{10 + running}/24", f"2001:db8::{10 + running}"
            promise = "add_address: guest_network reports it"
            for address in (one, two):
                await self.ask("add_address", spec.uuid, address, promise=promise)
                await self.again("add_address", spec.uuid, address)
            self.assertEqual((await self.told_network(spec, promise)).addresses, (one, two), promise)
            promise = "remove_address: guest_network doesn't report it"
            await self.ask("remove_address", spec.uuid, one, promise=promise)
            await self.again("remove_address", spec.uuid, one)
            self.assertEqual((await self.told_network(spec, promise)).addresses, (two,), promise)
            if running:
                await self.ask("stop", spec.uuid)
                promise = "add_address: it is still in effect after a stop"
                self.assertEqual((await self.told_network(spec, promise)).addresses, (two,), promise)
        promise = "add_address: another domain isn't affected"
        self.assertEqual((await self.told_network(another, promise)).addresses, (), promise)

    async def test_names(self) -> None:
        spec = await self.defined()
        promise = "set_hostname: guest_network reports it"
        await self.ask("set_hostname", spec.uuid, "www.example.org", promise=promise)
        await self.again("set_hostname", spec.uuid, "www.example.org")
        self.assertEqual((await self.told_network(spec, promise)).hostname, "www.example.org", promise)
        promise = "set_nameservers: guest_network reports them"
        await self.ask("set_nameservers", spec.uuid, ["192.0.2.53", "2001:db8::53"], ["example.org"], promise=promise)
        told = await self.told_network(spec, promise)
        self.assertEqual(
            (told.nameservers, told.search_domains), (("192.0.2.53", "2001:db8::53"), ("example.org",)), promise
        )
        promise = "set_nameservers: the previous ones are replaced"
        await self.ask("set_nameservers", spec.uuid, ["192.0.2.54"], [], promise=promise)
        told = await self.told_network(spec, promise)
        self.assertEqual((told.nameservers, told.search_domains), (("192.0.2.54",), ("example.org",)), promise)

    async def test_refusals(self) -> None:
        for verb, arguments in (
            ("guest_network", ()),
            ("add_address", ("192.0.2.9",)),
            ("remove_address", ("192.0.2.9",)),
            ("set_hostname", ("a",)),
            ("set_nameservers", (["192.0.2.53"], [])),
        ):
            await self.refuses(NoSuchThing, "a domain that doesn't exist", verb, NOBODY, *arguments)
        spec = await self.defined()
        await self.ask("close")
        await self.raises(Unreachable, "a closed connection", "guest_network", spec.uuid)


class LimitsContract(ContractCase):
    """Tests of L{ILimits}."""

    async def limits(self, spec: DomainSpec, promise: str) -> Limits:
        """A domain's limits."""
        told: Limits = await self.ask("get_limits", spec.uuid, promise=promise)
        return told

    async def test_they_are_changed(self) -> None:
        another = await self.defined()
        before = await self.limits(another, "get_limits: they are returned")
        for running in (False, True):
            spec = await (self.started() if running else self.defined())
            promise = "set_limits: get_limits reports it"
            await self.ask("set_limits", spec.uuid, Limits(swap=64, cpu_limit=150), promise=promise)
            await self.again("set_limits", spec.uuid, Limits(swap=64, cpu_limit=150))
            told = await self.limits(spec, promise)
            self.assertEqual((told.swap, told.cpu_limit), (64, 150), promise)
            promise = "set_limits: other limits stay the same"
            await self.ask("set_limits", spec.uuid, Limits(disk_space=(told.disk_space or 1024) + 1024), promise=promise)
            after = await self.limits(spec, promise)
            self.assertEqual(
                (after.swap, after.cpu_limit, after.disk_space), (64, 150, (told.disk_space or 1024) + 1024), promise
            )
        promise = "set_limits: another domain isn't affected"
        self.assertEqual(await self.limits(another, promise), before, promise)

    async def test_refusals(self) -> None:
        await self.refuses(NoSuchThing, "a domain that doesn't exist", "get_limits", NOBODY)
        await self.refuses(NoSuchThing, "a domain that doesn't exist", "set_limits", NOBODY, Limits(swap=1))
        spec = await self.defined()
        await self.ask("close")
        await self.raises(Unreachable, "a closed connection", "get_limits", spec.uuid)

"""The options of the server: the command line, the configuration file, and the defaults."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from fluidvm.images.urls import ImageUrls
from fluidvm.model.kinds import Int
from fluidvm.server.option_kinds import Switch
from fluidvm.server.options import OPTIONS, Options, Settings
from fluidvm.wire.tls import TLSFiles

GIVEN: dict[str, Any] = {
    "state": "/s",
    "database": "sqlite:////d.db",
    "http": ["tcp:1", "tcp:2"],
    "https": ["tcp:3"],
    "tls-cert": "/c.pem",
    "tls-key": "/k.pem",
    "tls-client-ca": "/a.pem",
    "tls-clients": "optional",
    "certificate-users": "/u.toml",
    "hosts": "One.example, two",
    "session-timeout": 5,
    "keepalive": "any-call",
    "admin-password-file": "/p",
    "max-request": 2048,
    "max-image": 6,
    "images": "/i",
    "disk-reserve": 0,
    "image-urls": "http://a/, https://b/c",
    "connections-per-address": 7,
    "tasks-per-node": 9,
    "placement": "pack",
    "poll-interval": 11,
    "node-timeout": 12,
    "store-timeout": 13,
    "keep-contexts": 0,
    "trusted-proxies": "10.0.0.0/8,local",
    "forwarded-header": "x-forwarded-for",
    "keep-audit": 14,
    "password-length": 15,
    "password-memory": 64,
    "password-rounds": 16,
    "password-lanes": 2,
    "access-log": True,
}
"""A value for every option other than its default, as in the configuration file."""


def parse(*arguments: str) -> Settings:
    """Parse a command line."""
    options = Options()
    options.parseOptions(list(arguments))
    return options.settings


def plain(settings: Settings) -> dict[str, Any]:
    """Settings as values that can be compared."""
    found = {one.name: getattr(settings, one.name) for one in fields(settings)}
    return found | {"image_urls": vars(found["image_urls"])}


class OptionTests(SynchronousTestCase):
    def file(self, values: dict[str, Any]) -> str:
        path = Path(self.mktemp())
        path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
        return str(path)

    def command_line(self, values: dict[str, Any]) -> list[str]:
        found = []
        for name, value in values.items():
            if value is True:
                found.append(f"--{name}")
            else:
                found += [f"--{name}={one}" for one in (value if isinstance(value, list) else [value])]
        return found

    def test_defaults(self) -> None:
        settings = parse("--state", "/s")
        self.assertEqual(
            plain(settings),
            {
                "state": Path("/s"),
                "database": "sqlite:////s/fluidvm.db",
                "http": ("tcp:8000:interface=127.0.0.1",),
                "https": (),
                "tls_cert": None,
                "tls_key": None,
                "tls_client_ca": None,
                "tls_clients": "required",
                "certificate_users": None,
                "hosts": (),
                "session_timeout": 30,
                "keepalive": "ping",
                "admin_password_file": None,
                "max_request": 1048576,
                "max_image": 65536,
                "images": Path("/s"),
                "disk_reserve": 1024,
                "image_urls": vars(ImageUrls([])),
                "connections_per_address": 1000,
                "tasks_per_node": 8,
                "placement": "spread",
                "poll_interval": 10,
                "node_timeout": 120,
                "store_timeout": 20,
                "keep_contexts": 30,
                "trusted_proxies": (),
                "forwarded_header": "forwarded",
                "keep_audit": 365,
                "password_length": 8,
                "password_memory": 65536,
                "password_rounds": 3,
                "password_lanes": 4,
                "access_log": False,
            },
        )
        self.assertIsNone(settings.tls)

    def test_every_option_from_both_sources(self) -> None:
        self.assertEqual(set(GIVEN), {option.name for option in OPTIONS})
        settings = parse(*self.command_line(GIVEN))
        self.assertEqual(plain(parse("--config", self.file(GIVEN))), plain(settings))
        defaults = plain(parse("--state", "/other"))
        for name, value in plain(settings).items():
            self.assertNotEqual(value, defaults[name], name)
        self.assertEqual(settings.http, ("tcp:1", "tcp:2"))
        self.assertEqual(settings.hosts, ("one.example", "two"))
        self.assertEqual(settings.trusted_proxies, ("10.0.0.0/8", "local"))
        self.assertEqual(settings.images, Path("/i"))
        self.assertEqual(settings.tls, TLSFiles(Path("/c.pem"), Path("/k.pem"), Path("/a.pem"), "optional"))
        self.assertEqual(settings.image_urls.admit("https://B/cd"), "https://b/cd")

    def test_the_command_line_takes_precedence(self) -> None:
        config = self.file({"session-timeout": 60, "http": ["tcp:1"], "hosts": "a", "access-log": True, "max-image": "7"})
        settings = parse("--config", config, "--session-timeout", "5", "--http", "tcp:2", "--hosts", "")
        self.assertEqual(settings.session_timeout, 5)
        self.assertEqual(settings.http, ("tcp:2",))
        self.assertEqual(settings.hosts, ())
        self.assertIs(settings.access_log, True)
        self.assertEqual(settings.max_image, 7)

    def test_https_disables_the_default_http_endpoint(self) -> None:
        tls = ("--https", "tcp:1", "--tls-cert", "c", "--tls-key", "k")
        self.assertEqual(parse(*tls).http, ())
        self.assertEqual(parse("--config", self.file({"http": []}), *tls).http, ())
        self.assertEqual(parse("--config", self.file({"http": [], "https": "tcp:1"}), *tls[2:]).https, ("tcp:1",))
        self.assertNotEqual(parse("--config", self.file({"http": [], "https": []})).http, ())

    def test_the_help_says_what_each_does_with_its_unit_and_default(self) -> None:
        shown = " ".join(Options().getUsage(width=10000).split())
        for option in OPTIONS:
            self.assertIn(option.help, shown)
            if not isinstance(option.kind, Switch) and option.default not in (None, ()):
                self.assertIn("[default: ", option.help)
            if isinstance(option.kind, Int) and option.kind.unit:
                self.assertRegex(option.help, rf"\d {option.kind.unit}\) \[default: \d+ {option.kind.unit}\]$")

"""
The options of the server. Each is declared once, in L{Settings}.

The command line, the configuration file, the help and C{docs/options.md} follow from there.
"""

# ruff: noqa: RUF009 - the fields of Settings are made by dataclasses.field, in _option
from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from twisted.python import usage

from fluidvm import __version__
from fluidvm.engine.placement import STRATEGIES
from fluidvm.images.urls import ImageUrls
from fluidvm.model.faults import InvalidParams
from fluidvm.model.kinds import Choice, Int, Kind
from fluidvm.server.option_kinds import DatabaseUrl, DirectoryPath, Endpoints, FilePath, Switch, Words
from fluidvm.wire.proxies import HEADERS, Proxies
from fluidvm.wire.tls import CLIENTS, TLSFiles

DEFAULT_HTTP = "tcp:8000:interface=127.0.0.1"
SHOWN = 200
"""Maximum number of characters of an invalid value that an error message shows."""


def default_state() -> Path:
    """The default state directory: C{/var/lib/fluidvm} for root, else the one of the XDG base directory specification."""
    if os.geteuid() == 0:
        return Path("/var/lib/fluidvm")
    base = os.environ.get("XDG_STATE_HOME", "")
    # The specification says that a relative path is invalid and must be ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".local/state") / "fluidvm"


@dataclass(frozen=True)
class Default:
    """
    A default that is computed or only described.

    @ivar words: describes the default in the help.
    @ivar make: computes the value from the values of the other options, which are C{None} where not given.
    """

    words: str
    make: Callable[[Mapping[str, Any]], Any] = lambda values: None


@dataclass(frozen=True)
class Option:
    """
    One option.

    @ivar name: its name on the command line, without the leading dashes.
    @ivar kind: validates the value, and describes the option.
    @ivar default: the value if the option is not given, or a L{Default}.
    """

    name: str
    kind: Kind
    default: Any

    @property
    def help(self) -> str:
        """The help on one line: what the option does, the allowed values, and the default."""
        allowed = "" if isinstance(self.kind, Switch | FilePath) else f" ({self.kind.bounds()})"
        default = f" [default: {self.shown_default}]" if self.shown_default else ""
        return self.kind.words + allowed + default

    @property
    def shown_default(self) -> str:
        """The default as the help shows it; empty if there is none."""
        if isinstance(self.default, Default):
            return self.default.words
        if self.default is None or self.default is False or self.default == ():
            return ""
        return f"{self.default} {self.kind.unit}".rstrip() if isinstance(self.kind, Int) else str(self.default)

    def check(self, value: Any) -> Any:
        """
        Check a value.

        @param value: the string from the command line, or the value from the configuration file.
        @return: the value to use.
        @raise usage.UsageError: the value is not valid; the message says what is.
        """
        try:
            given = int(value) if isinstance(value, str) and self.kind.python is int else value
            return self.kind.check(given, self.name, [])
        except (ValueError, InvalidParams):
            raise usage.UsageError(f"--{self.name}: {_line(value)} is not valid: give {self.kind.bounds()}") from None


def _line(value: Any) -> str:
    """Show a value on one line, shortened to L{SHOWN} characters."""
    shown = " ".join((str(value).lower() if isinstance(value, bool) else str(value)).split())
    return f"{shown[:SHOWN]}..." if len(shown) > SHOWN else shown or "an empty value"


def _option(kind: Kind, default: Any = None) -> Any:
    return field(metadata={"kind": kind, "default": default})


def _proxies(words: tuple[str, ...]) -> tuple[str, ...]:
    Proxies(words, "forwarded")
    return words


def _hosts(words: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word.lower() for word in words)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the server runs: the value of each option. An option's name is its field's, with dashes."""

    state: Path = _option(
        DirectoryPath("Directory for everything that the server stores"),
        Default("/var/lib/fluidvm as root, else $XDG_STATE_HOME/fluidvm", lambda values: default_state()),
    )
    database: str = _option(
        DatabaseUrl("URL of the database"),
        Default("SQLite in the state directory", lambda values: f"sqlite:///{values['state'] / 'fluidvm.db'}"),
    )
    http: tuple[str, ...] = _option(
        Endpoints("Endpoint on which the server listens for HTTP; can be repeated"),
        Default(f"{DEFAULT_HTTP}, unless --https is given", lambda values: () if values["https"] else (DEFAULT_HTTP,)),
    )
    https: tuple[str, ...] = _option(
        Endpoints("Endpoint on which the server listens for HTTPS; can be repeated; requires --tls-cert and --tls-key"), ()
    )
    tls_cert: Path | None = _option(FilePath("PEM file with the certificate for --https, followed by its chain", "*.pem"))
    tls_key: Path | None = _option(FilePath("PEM file with the private key of the certificate", "*.pem"))
    tls_client_ca: Path | None = _option(
        FilePath("PEM file with the certificate authorities that issue client certificates", "*.pem")
    )
    tls_clients: str = _option(
        Choice("Whether clients must present a certificate if --tls-client-ca is given", CLIENTS), "required"
    )
    certificate_users: Path | None = _option(FilePath("TOML file that maps names in client certificates to users", "*.toml"))
    hosts: tuple[str, ...] = _option(
        Words(
            "Host names, separated by commas, that clients may use for the server on loopback addresses, "
            "in addition to localhost, the name of this machine, and IP addresses",
            "host names",
            _hosts,
        ),
        (),
    )
    session_timeout: int = _option(
        Int("Time after which a client that does not call ping is logged out", unit="seconds", low=1, high=86400), 30
    )
    keepalive: str = _option(Choice("What keeps a client logged in: ping only, or any call", ("ping", "any-call")), "ping")
    admin_password_file: Path | None = _option(
        FilePath("File with the initial password of the user admin"),
        Default("$FLUIDVM_ADMIN_PASSWORD, else a random one, written to the file admin-password in the state directory"),
    )
    max_request: int = _option(Int("Maximum size of a request body", unit="bytes", low=1024, high=2**26), 2**20)
    max_image: int = _option(Int("Maximum size of an image file", unit="MiB", low=1, high=2**30), 65536)
    images: Path = _option(
        DirectoryPath("Directory for image files and uploads"),
        Default("the state directory", lambda values: values["state"]),
    )
    disk_reserve: int = _option(
        Int("Space to keep free on the disk of --images; what would use it is refused", unit="MiB", low=0, high=2**40),
        1024,
    )
    image_urls: ImageUrls = _option(
        Words(
            "URL prefixes, separated by commas, from which images may be fetched",
            "URLs with a host and a slash, such as https://images.example/",
            ImageUrls,
        ),
        Default("none", lambda values: ImageUrls(())),
    )
    connections_per_address: int = _option(
        Int("Maximum number of open connections from one client address", low=1, high=1000000), 1000
    )
    tasks_per_node: int = _option(
        Int("Maximum number of tasks that run on one compute node at the same time", low=1, high=10000), 8
    )
    placement: str = _option(
        Choice(
            "Placement of a VM whose spec names no compute node: on the node with the most free memory (spread), "
            "or on the node with the least free memory that is enough (pack)",
            STRATEGIES,
        ),
        "spread",
    )
    poll_interval: int = _option(
        Int("Interval at which a compute node that reports no events is polled", unit="seconds", low=1, high=3600), 10
    )
    node_timeout: int = _option(
        Int(
            "Time that a compute node may take for one operation without reporting progress before it is marked offline",
            unit="seconds",
            low=1,
            high=86400,
        ),
        120,
    )
    store_timeout: int = _option(
        Int(
            "Time that the database may take for one operation before callers get fault 503 and the server reconnects",
            unit="seconds",
            low=2,
            high=3600,
        ),
        20,
    )
    keep_contexts: int = _option(
        Int("Time after which a complete execution context is deleted", unit="days", low=0, high=36500), 30
    )
    trusted_proxies: tuple[str, ...] = _option(
        Words(
            "Addresses and networks, separated by commas, of proxies that are trusted to report the address of a client",
            "IP addresses, networks, or local for a UNIX socket",
            _proxies,
        ),
        (),
    )
    forwarded_header: str = _option(
        Choice("Header in which trusted proxies report the address of a client", tuple(HEADERS)), "forwarded"
    )
    keep_audit: int = _option(
        Int("Time after which a line of the audit log is deleted", unit="days", low=0, high=36500), 365
    )
    password_length: int = _option(Int("Minimum length of a new password", unit="characters", low=1, high=64), 8)
    password_memory: int = _option(Int("Memory used to hash a password (argon2id)", unit="KiB", low=8, high=2**22), 65536)
    password_rounds: int = _option(Int("Number of passes over the memory when a password is hashed", low=1, high=100), 3)
    password_lanes: int = _option(Int("Number of threads used to hash a password", low=1, high=64), 4)
    access_log: bool = _option(Switch("Log a line for every request"), False)

    @property
    def tls(self) -> TLSFiles | None:
        """The files for HTTPS; C{None} if the certificate or the key is not given."""
        if self.tls_cert is None or self.tls_key is None:
            return None
        return TLSFiles(self.tls_cert, self.tls_key, self.tls_client_ca, self.tls_clients)


OPTIONS = tuple(Option(one.name.replace("_", "-"), **one.metadata) for one in fields(Settings))
"""Every option of both the command line and the configuration file."""
CONFIG = Option("config", FilePath("TOML file with the same options; the command line takes precedence", "*.toml"), None)
"""The one option that exists on the command line only."""
_SWITCHES = [option for option in OPTIONS if isinstance(option.kind, Switch)]
_REPEATED = [option for option in OPTIONS if isinstance(option.kind, Endpoints)]
_SINGLE = [option for option in (*OPTIONS, CONFIG) if option not in (*_SWITCHES, *_REPEATED)]


def _completion(kind: FilePath) -> usage.Completer:
    return usage.CompleteDirs() if isinstance(kind, DirectoryPath) else usage.CompleteFiles(kind.pattern)


class Options(usage.Options):  # type: ignore[misc]
    """
    The options of C{twistd fluidvm}.

    @ivar settings: the values, after parsing.
    """

    synopsis = "[options]"
    longdesc = (
        "The FluidVM management server: XML-RPC clients log in, queue tasks for virtual machines, commit them, and watch "
        "them run on the hypervisor hosts. Example: twistd --nodaemon fluidvm --state ./state. The first start creates the "
        "user admin and logs where its password is."
    )
    optParameters = [[option.name, None, None, option.help] for option in _SINGLE]
    optFlags = [[option.name, None, option.help] for option in _SWITCHES]
    compData = usage.Completions(
        optActions={option.name: _completion(option.kind) for option in _SINGLE if isinstance(option.kind, FilePath)}
    )
    settings: Settings

    def __init__(self) -> None:
        super().__init__()
        for option in _REPEATED:
            self[option.name] = []

    def opt_version(self) -> None:
        """Display FluidVM's version and exit."""
        print(f"FluidVM {__version__}")  # noqa: T201
        raise SystemExit(0)

    def parseOptions(self, options: Any = None) -> None:
        """Parse the options; an error ends the program with one line instead of a page of help."""
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            raise SystemExit(f"fluidvm: {error} (twistd fluidvm --help lists the options)") from None

    def postOptions(self) -> None:
        """Read the configuration file and validate all options."""
        file = None if self[CONFIG.name] is None else CONFIG.check(self[CONFIG.name])
        config = {} if file is None else _read_config(file)
        known = {option.name for option in OPTIONS}
        for name in config:
            if name not in known:
                raise usage.UsageError(f"{file}: {_line(name)} is not an option")
        self.settings = _settle({option.name: self._given(option, config) for option in OPTIONS})

    def _given(self, option: Option, config: Mapping[str, Any]) -> Any:
        """Give the unchecked value of an option; C{None} if it is not given."""
        value = self[option.name]
        if value in (None, 0, []):  # the values of an option that is not on the command line
            value = config.get(option.name)
            return None if value == [] else value
        return True if isinstance(option.kind, Switch) else value


def _accumulates(option: Option) -> Callable[[Options, str], None]:
    def more(self: Options, endpoint: str) -> None:
        self[option.name].append(endpoint)

    more.__doc__ = option.help
    return more


for _one in _REPEATED:
    setattr(Options, f"opt_{_one.name}", _accumulates(_one))


def _settle(given: Mapping[str, Any]) -> Settings:
    values: dict[str, Any] = {
        option.name: None if given[option.name] is None else option.check(given[option.name]) for option in OPTIONS
    }
    for option in OPTIONS:
        if values[option.name] is None:
            default = option.default
            values[option.name] = default.make(values) if isinstance(default, Default) else default
    settings = Settings(**{name.replace("-", "_"): value for name, value in values.items()})
    _check_together(settings)
    return settings


def _check_together(settings: Settings) -> None:
    """Check options that depend on each other."""
    if settings.https and settings.tls is None:
        raise usage.UsageError("--https requires --tls-cert and --tls-key")
    if not settings.https and (settings.tls_client_ca or settings.certificate_users):
        raise usage.UsageError("--tls-client-ca and --certificate-users require --https")
    if settings.certificate_users and not settings.tls_client_ca:
        raise usage.UsageError("--certificate-users requires --tls-client-ca")
    memory, lanes = settings.password_memory, settings.password_lanes
    if memory < 8 * lanes:  # RFC 9106, section 3.1
        raise usage.UsageError(
            f"--password-memory: {memory} KiB is not enough for --password-lanes {lanes}: give at least {8 * lanes}"
        )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise usage.UsageError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise usage.UsageError(f"{path}: {error}") from None

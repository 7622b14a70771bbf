"""What the command line and the configuration file say: data only."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twisted.python import usage

from fluidvm import __version__
from fluidvm.engine.placement import STRATEGIES
from fluidvm.image_urls import ImageUrls
from fluidvm.wire.proxies import HEADERS, Proxies
from fluidvm.wire.tls import CLIENTS, TLSFiles

DEFAULT_HTTP = "tcp:8000:interface=127.0.0.1"


@dataclass(frozen=True)
class Settings:
    """
    How the server runs.

    @ivar session_timeout: seconds.
    @ivar max_request: bytes of one request's body.
    @ivar max_image: MiB of one image's file.
    @ivar images: the directory for images' files and uploads.
    @ivar disk_reserve: MiB of its disk that stay free.
    @ivar image_urls: from where images may be fetched.
    @ivar poll_interval: seconds.
    @ivar node_timeout: seconds.
    @ivar store_timeout: seconds.
    @ivar keep_contexts: days.
    @ivar trusted_proxies: addresses, networks, or C{local}.
    @ivar keep_audit: days.
    @ivar password_length: characters that a new password has at least.
    @ivar password_memory: KiB that hashing one takes.
    @ivar password_rounds: how often hashing goes over them.
    @ivar password_lanes: threads that hashing one uses.
    """

    state: Path
    database: str
    http: tuple[str, ...]
    https: tuple[str, ...]
    tls: TLSFiles | None
    certificate_users: Path | None
    hosts: tuple[str, ...]
    session_timeout: int
    keepalive: str
    admin_password_file: Path | None
    max_request: int
    max_image: int
    images: Path
    disk_reserve: int
    image_urls: ImageUrls
    connections_per_address: int
    tasks_per_node: int
    placement: str
    poll_interval: int
    node_timeout: int
    store_timeout: int
    keep_contexts: int
    keep_audit: int
    password_length: int
    password_memory: int
    password_rounds: int
    password_lanes: int
    access_log: bool
    trusted_proxies: tuple[str, ...]
    forwarded_header: str


def default_state() -> Path:
    """Where the state lies when nobody says: C{/var/lib/fluidvm} for root, else by the XDG base directory specification."""
    if os.geteuid() == 0:
        return Path("/var/lib/fluidvm")
    base = os.environ.get("XDG_STATE_HOME", "")
    # The specification: a relative path is invalid and to be ignored.
    return (Path(base) if base.startswith("/") else Path.home() / ".local/state") / "fluidvm"


class Options(usage.Options):  # type: ignore[misc]
    """The options of C{twistd fluidvm}."""

    synopsis = "[options]"
    longdesc = (
        "The FluidVM management server: XML-RPC clients log in, queue tasks for virtual machines, commit them, and watch "
        "them run on the hypervisor hosts. Example: twistd --nodaemon fluidvm --state ./state. The first start makes the "
        "user admin and says where its password is."
    )
    optParameters = [
        ["state", None, None, "Directory for everything the server remembers "
         "[default: /var/lib/fluidvm as root, else $XDG_STATE_HOME/fluidvm]"],
        ["database", None, None, "sqlite:///PATH or postgresql://USER@HOST/NAME [default: SQLite in the state directory]"],
        ["tls-cert", None, None, "PEM file: certificate for --https, followed by its chain"],
        ["tls-key", None, None, "PEM file: key of the certificate"],
        ["tls-client-ca", None, None, "PEM file: authorities; clients show a certificate of one of them"],
        ["tls-clients", None, None, "What of clients without: required (they are refused) or optional [default: required]"],
        ["certificate-users", None, None, "TOML file: which names in clients' certificates stand for which users"],
        ["hosts", None, None, "Names, separated by commas, that clients may call the server by where it listens on loopback "
         "alone, beside localhost and addresses"],
        ["session-timeout", None, None, "Seconds without a ping after which a client is logged out [default: 30]"],
        ["keepalive", None, None, "What keeps a client logged in: ping or any-call [default: ping]"],
        ["config", None, None, "TOML file with these options by the same names; the command line wins"],
        ["admin-password-file", None, None, "File with the password that the user admin gets at the first start "
         "[default: $FLUIDVM_ADMIN_PASSWORD, else a random one in the state directory's file admin-password]"],
        ["max-request", None, None, "Bytes that one request may have [default: 1048576]"],
        ["max-image", None, None, "MiB that one image's file may have [default: 65536]"],
        ["images", None, None, "Directory for images' files and uploads [default: the state directory]"],
        ["disk-reserve", None, None, "MiB that stay free on the disk of --images: what would take them is refused "
         "[default: 1024]"],
        ["image-urls", None, None, "What the URLs begin with, separated by commas, that images may be fetched from, e.g. "
         "https://cloud.debian.org/ [default: none]"],
        ["connections-per-address", None, None, "Connections that one client address may have open [default: 1000]"],
        ["tasks-per-node", None, None, "Tasks that may have one compute node at work at once [default: 8]"],
        ["placement", None, None, "Where a VM goes that names no compute node: spread (most memory free) or pack (least) "
         "[default: spread]"],
        ["poll-interval", None, None, "Seconds between two looks at a compute node without events [default: 10]"],
        ["node-timeout", None, None, "Seconds that a compute node may take for one thing without telling of progress; "
         "then it is taken for gone [default: 120]"],
        ["store-timeout", None, None, "Seconds that the database may take for one thing; then callers get fault 503, and it "
         "is connected to again [default: 20]"],
        ["keep-contexts", None, None, "Days after which a complete execution context is forgotten [default: 30]"],
        ["trusted-proxies", None, None, "Addresses and networks, separated by commas, of proxies that tell whom they speak "
         "for; local: a UNIX socket"],
        ["forwarded-header", None, None, "The header by which they do: forwarded or x-forwarded-for [default: forwarded]"],
        ["keep-audit", None, None, "Days after which a line of the audit log is dropped [default: 365]"],
        ["password-length", None, None, "Characters that a new password must have [default: 8]"],
        ["password-memory", None, None, "KiB of memory that hashing a password takes (argon2id) [default: 65536]"],
        ["password-rounds", None, None, "Times that hashing a password goes over the memory [default: 3]"],
        ["password-lanes", None, None, "Threads that hashing a password uses [default: 4]"],
    ]  # fmt: skip
    optFlags = [["access-log", None, "Log a line for every request"]]
    compData = usage.Completions(
        optActions={
            "state": usage.CompleteDirs(), "images": usage.CompleteDirs(),
            "config": usage.CompleteFiles("*.toml"), "tls-cert": usage.CompleteFiles("*.pem"),
            "tls-key": usage.CompleteFiles("*.pem"), "tls-client-ca": usage.CompleteFiles("*.pem"),
            "certificate-users": usage.CompleteFiles("*.toml"), "admin-password-file": usage.CompleteFiles(),
        }
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self["http"] = []
        self["https"] = []

    def opt_http(self, endpoint: str) -> None:
        """Listen for HTTP on a Twisted endpoint; can be repeated [default, without --https: tcp:8000:interface=127.0.0.1]"""
        self["http"].append(endpoint)

    def opt_https(self, endpoint: str) -> None:
        """Listen for HTTPS on a Twisted endpoint, such as tcp:8443; can be repeated; wants --tls-cert and --tls-key"""
        self["https"].append(endpoint)

    def opt_version(self) -> None:
        """Display FluidVM's version and exit."""
        print(f"FluidVM {__version__}")  # noqa: T201
        raise SystemExit(0)

    def parseOptions(self, options: Any = None) -> None:
        """Parse; a mistake ends the program with one line instead of a page of help."""
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            raise SystemExit(f"fluidvm: {error} (twistd fluidvm --help lists the options)") from None

    def postOptions(self) -> None:
        """Take in the configuration file and check everything."""
        self.settings = self._settle(_read_config(self["config"]) if self["config"] else {})

    def _settle(self, config: dict[str, Any]) -> Settings:
        known = {row[0] for row in self.optParameters if row[0] != "config"} | {"http", "https", "access-log"}
        for name in config:
            if name not in known:
                raise usage.UsageError(f"{self['config']}: {name} is no option")

        def one(name: str, default: Any = None) -> Any:
            return self[name] if self[name] is not None else config.get(name, default)

        def path(name: str, default: Path | None = None) -> Path | None:
            value = one(name)
            if value is None:
                return default
            if not isinstance(value, str) or not value:
                raise usage.UsageError(f"--{name}: wants a path")
            return Path(value).absolute()

        def number(name: str, default: int, low: int, high: int) -> int:
            value = one(name, default)
            try:
                found = int(value) if isinstance(value, str) else value
            except ValueError:
                found = None
            if type(found) is not int or not low <= found <= high:
                raise usage.UsageError(f"--{name}: wants a whole number from {low} to {high}, not {value}")
            return found

        def many(name: str) -> tuple[str, ...]:
            value = self[name] or config.get(name, [])
            value = [value] if isinstance(value, str) else value
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise usage.UsageError(f"--{name}: wants endpoints")
            return tuple(value)

        state = path("state", default_state())
        assert state is not None
        database = one("database", f"sqlite:///{state / 'fluidvm.db'}")
        keepalive = one("keepalive", "ping")
        if keepalive not in ("ping", "any-call"):
            raise usage.UsageError(f"--keepalive: wants ping or any-call, not {keepalive}")
        if not isinstance(database, str):
            raise usage.UsageError("--database: wants a URL")
        access_log = bool(self["access-log"]) or config.get("access-log", False)
        if not isinstance(access_log, bool):
            raise usage.UsageError("--access-log: wants true or false")
        proxies = one("trusted-proxies", "")
        trusted = tuple(word.strip() for word in proxies.split(",") if word.strip()) if isinstance(proxies, str) else ("?",)
        try:
            Proxies(trusted, "forwarded")
        except (ValueError, TypeError):
            raise usage.UsageError(f"--trusted-proxies: wants addresses and networks, not {proxies}") from None
        header = one("forwarded-header", "forwarded")
        if header not in HEADERS:
            raise usage.UsageError(f"--forwarded-header: wants {' or '.join(HEADERS)}, not {header}")
        placement = one("placement", "spread")
        if placement not in STRATEGIES:
            raise usage.UsageError(f"--placement: wants {' or '.join(STRATEGIES)}, not {placement}")
        http, https = many("http"), many("https")
        cert, key, client_ca = path("tls-cert"), path("tls-key"), path("tls-client-ca")
        clients = one("tls-clients", "required")
        if clients not in CLIENTS:
            raise usage.UsageError(f"--tls-clients: wants {' or '.join(CLIENTS)}, not {clients}")
        if https and (cert is None or key is None):
            raise usage.UsageError("--https wants --tls-cert and --tls-key")
        tls = None if cert is None or key is None else TLSFiles(cert, key, client_ca, clients)
        users = path("certificate-users")
        if (users is not None or client_ca is not None) and not https:
            raise usage.UsageError("--tls-client-ca and --certificate-users want --https")
        if users is not None and client_ca is None:
            raise usage.UsageError("--certificate-users wants --tls-client-ca")
        hosts = one("hosts", "")
        if not isinstance(hosts, str):
            raise usage.UsageError("--hosts: wants names separated by commas")
        image_urls = one("image-urls", "")
        try:
            urls = ImageUrls(url.strip() for url in image_urls.split(",") if url.strip())
        except (AttributeError, ValueError):
            raise usage.UsageError(
                "--image-urls: wants beginnings of URLs with a host and a slash: https://images.example/"
            ) from None
        if not http and not https:
            http = (DEFAULT_HTTP,)
        memory, lanes = number("password-memory", 65536, 8, 2**22), number("password-lanes", 4, 1, 64)
        if memory < 8 * lanes:  # RFC 9106, section 3.1
            raise usage.UsageError(
                f"--password-memory: {memory} KiB are too few for --password-lanes {lanes}: give at least {8 * lanes}"
            )
        return Settings(
            state=state, database=database, http=http, https=https, tls=tls, certificate_users=users,
            hosts=tuple(name.strip().lower() for name in hosts.split(",") if name.strip()),
            session_timeout=number("session-timeout", 30, 1, 86400), keepalive=keepalive,
            admin_password_file=path("admin-password-file"), max_request=number("max-request", 2**20, 1024, 2**26),
            max_image=number("max-image", 65536, 1, 2**30), image_urls=urls,
            images=path("images", state) or state, disk_reserve=number("disk-reserve", 1024, 0, 2**40),
            connections_per_address=number("connections-per-address", 1000, 1, 1000000),
            tasks_per_node=number("tasks-per-node", 8, 1, 10000), keep_contexts=number("keep-contexts", 30, 0, 36500),
            placement=placement, poll_interval=number("poll-interval", 10, 1, 3600),
            node_timeout=number("node-timeout", 120, 1, 86400), store_timeout=number("store-timeout", 20, 2, 3600),
            keep_audit=number("keep-audit", 365, 0, 36500), password_length=number("password-length", 8, 1, 64),
            password_memory=memory, password_rounds=number("password-rounds", 3, 1, 100), password_lanes=lanes,
            access_log=access_log, trusted_proxies=trusted, forwarded_header=header,
        )  # fmt: skip


def _read_config(name: str) -> dict[str, Any]:
    try:
        with Path(name).open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise usage.UsageError(f"{name}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise usage.UsageError(f"{name}: {error}") from None

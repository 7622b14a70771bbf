"""The running server: what is built, opened and stopped, and in which order."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGHUP, signal
from threading import current_thread, main_thread
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import wrapServerTLS
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IReactorTime
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from fluidvm.access.call import Services
from fluidvm.access.consoles import Consoles
from fluidvm.access.transfers import Transfers
from fluidvm.auth.audit import AuditLog
from fluidvm.auth.certificates import MappingError, read_mapping
from fluidvm.auth.logins import ADDRESSES_PER_USER, Logins
from fluidvm.auth.passwords import Hasher
from fluidvm.auth.sessions import Sessions
from fluidvm.driver.loader import DriverLoader
from fluidvm.engine.engine import Engine
from fluidvm.engine.job import Resources
from fluidvm.engine.rehearsal import Rehearsals
from fluidvm.images import belonging
from fluidvm.images.belonging import BelongingError
from fluidvm.images.files import MIB, ImageFiles
from fluidvm.images.uploads import Uploads
from fluidvm.inventory.inventory import Inventory
from fluidvm.model.faults import Unavailable
from fluidvm.model.objects import Image
from fluidvm.nodes.nodes import Nodes
from fluidvm.nodes.watch import Policy
from fluidvm.server.admin import PasswordError, ensure_admin, read_password
from fluidvm.server.model import model_of
from fluidvm.server.options import Options, Settings
from fluidvm.server.preflight import (
    Lock,
    StartError,
    become,
    check_endpoints,
    check_files,
    check_hashing,
    claim,
    hand_over_log,
    migrate_database,
)
from fluidvm.store.connecting import sentence
from fluidvm.store.database import Database, DatabaseError
from fluidvm.store.users import load_known
from fluidvm.wire.compression import Compressor
from fluidvm.wire.dispatch import Dispatcher
from fluidvm.wire.listening import endpoint
from fluidvm.wire.proxies import Proxies
from fluidvm.wire.site import make_site
from fluidvm.wire.tls import Certificates, TLSError
from fluidvm.wire.unsent import Unsent

__all__ = ["Options", "Server", "makeService"]

FORGET_INTERVAL = 3600.0
REREAD_INTERVAL = 10.0
"""Seconds between two checks whether the certificates have changed."""
TIMEOUT = 10.0
"""Seconds that running tasks have to complete when the server stops."""


class Server(Service):  # type: ignore[misc]
    """
    The whole server.

    @ivar dispatcher: answers calls.
    @ivar inventory: all objects.
    @ivar sessions: all sessions.
    @ivar transfers: uploads and downloads in progress.
    @ivar uploads: uploaded files that are not images yet.
    @ivar ports: the ports that it listens on.
    @param settings: the values of its options.
    @param reactor: for ports and threads.
    @param clock: the clock for timers; default: the reactor.
    @param wall_clock: gives the seconds since the epoch.
    @param lock: the lock on the state directory and the database, held until the server has stopped.
    @param fail: makes the exception that a failed start raises.
    @param end: stops the program after a fatal error.
    """

    _log = Logger()

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        clock: IReactorTime | None = None,
        wall_clock: Callable[[], float] = time.time,
        lock: Lock | None = None,
        fail: Callable[[str], BaseException] = StartError,
        end: Callable[[], object] = lambda: None,
    ) -> None:
        self._fail = fail
        self._end = end
        self._lock = lock
        self.ports: list[IListeningPort] = []
        self._settings = settings
        self._reactor = reactor
        self._wall_clock = wall_clock
        clock = reactor if clock is None else clock
        self._clock = clock
        self._forgetting: IDelayedCall | None = None
        self._certificates: Certificates | None = None
        self._rereading: IDelayedCall | None = None
        self._mapping: dict[str, str] = {}
        self._mapping_trouble = ""
        self._admin_password: str | None = None
        self._old_handler: Any = None
        self._dropping: Deferred[None] = succeed(None)
        drivers = DriverLoader()
        self._database = Database(settings.database, reactor, settings.store_timeout, self._displaced)
        self.inventory = Inventory(self._database)
        self._audit = AuditLog(self._database, clock, wall_clock)
        hasher = Hasher(settings.password_memory, settings.password_rounds, settings.password_lanes)
        self._logins = Logins(reactor, clock, hasher, settings.password_length)
        self.sessions = Sessions(clock, settings.session_timeout, settings.keepalive == "any-call", wall_clock)
        policy = Policy(settings.poll_interval, settings.node_timeout)
        self._nodes = Nodes(reactor, clock, drivers, self.inventory, settings.state, policy)
        self._images = ImageFiles(
            settings.images, reactor, settings.max_image * MIB, settings.image_urls, settings.disk_reserve * MIB
        )
        self.uploads = Uploads(self.inventory, self._images, wall_clock)
        resources = Resources(
            clock,
            wall_clock,
            self.inventory,
            self._nodes,
            drivers,
            self.sessions,
            self._images,
            self.uploads,
            settings.placement,
        )
        self._engine = Engine(resources, settings.tasks_per_node, self._audit)
        self._nodes.busy = lambda type, id: self._engine.claims.held((type, id))
        consoles = Consoles(resources, self._audit)
        services = Services(
            resources,
            self._database,
            self._engine,
            self._logins,
            self._audit,
            self._mapping,
            consoles,
            Rehearsals(resources, model_of, lambda: deferLater(reactor, 0, lambda: None)),
        )
        unsent = Unsent(clock)
        self._compressor = Compressor(reactor, unsent)
        self.dispatcher = Dispatcher(services, unsent)
        self.transfers = Transfers(resources, self._engine.claims, self._audit)
        self._site = make_site(
            self.dispatcher,
            self.health,
            reactor=reactor,
            max_request=settings.max_request,
            connections_per_address=settings.connections_per_address,
            access_log=settings.access_log,
            proxies=Proxies(settings.trusted_proxies, settings.forwarded_header),
            hosts=settings.hosts,
            consoles=consoles,
            transfers=self.transfers,
            unsent=unsent,
            compressor=self._compressor,
        )

    def health(self) -> tuple[bool, dict[str, Any]]:
        """Tell whether the server can answer calls, and the reasons if not."""
        reasons = []
        if not self.running:
            reasons.append("the server is starting or stopping")
        reasons += self._database.reasons()
        certificates = "" if self._certificates is None else self._certificates.trouble
        return not reasons, {
            "status": "failing" if reasons else "ok",
            "reasons": reasons,
            "warnings": [f"TLS: {words}" for words in (certificates, self._mapping_trouble) if words],
            "store_waits": round(self._database.waits(), 1),
        }

    def _displaced(self, reason: str) -> None:
        self._log.critical("The server stops because it must not write to its database any more: {reason}", reason=reason)
        self._end()

    def privilegedStartService(self) -> None:
        """Open the ports, and read the files that only root may be able to read. Raises if that fails."""
        settings = self._settings
        try:
            self._admin_password = self._password()
        except PasswordError as error:
            raise self._fail(str(error)) from None
        for description in settings.http:
            self._listen(endpoint(self._reactor, description), "--http", description)
        if settings.https and settings.tls is not None:
            try:
                self._certificates = Certificates(settings.tls)
            except TLSError as error:
                raise self._fail(str(error)) from None
            self._map(self._read_mapping())
            for description in settings.https:
                place = wrapServerTLS(self._certificates, endpoint(self._reactor, description))
                self._listen(place, "--https", description)

    def _password(self) -> str:
        path = self._settings.admin_password_file
        return "" if path is None else read_password(path)

    def _listen(self, place: Any, option: str, description: str) -> None:
        failed: list[Failure] = []
        place.listen(self._site).addCallbacks(self.ports.append, failed.append)
        if failed:
            error = failed[0].value
            why = error.socketError.strerror if isinstance(error, CannotListenError) else error
            raise self._fail(f"{option}: the server can't listen on {description}: {why}")

    def startService(self) -> None:
        """Open the store, load its contents, and continue the unfinished tasks. Raises if the store can't be used."""
        settings = self._settings
        try:
            connection = self._database.open()
            for directory in {settings.state, settings.images}:
                belonging.mark(directory, self._database.identity)
            password = self._password() if self._admin_password is None else self._admin_password
            ensure_admin(connection, self._logins.hash_now, self._wall_clock(), password, settings.state)
            self._admin_password = None
            self.inventory.load(connection)
            with connection.begin():
                self._logins.load(load_known(connection, ADDRESSES_PER_USER))
            self._engine.load(connection)
        except (BelongingError, DatabaseError, PasswordError) as error:
            raise self._fail(str(error)) from None
        except SQLAlchemyError as error:
            raise self._fail(f"database: {sentence(error)}") from None
        try:
            self._images.start({image.id for image in self.inventory.all(Image)})
            self.uploads.load(connection)
        except OSError as error:
            raise self._fail(f"images directory {settings.images}: {error.strerror}") from None
        self._logins.start()
        self._compressor.start()
        self._nodes.start()
        self._engine.start()
        self._forget_contexts()
        if self._certificates is not None:
            self._certificates.look()
            self._map(self._read_mapping())
            self._rereading = self._clock.callLater(REREAD_INTERVAL, self._reread)
        if current_thread() is main_thread():
            # Also without TLS: service managers send SIGHUP to reload, and its default action ends the program.
            self._old_handler = signal(SIGHUP, lambda number, frame: self._reactor.callFromThread(self.reread))
        super().startService()
        for port in self.ports:
            self._log.info("FluidVM answers on {address}", address=port.getHost())

    def _forget_contexts(self) -> None:
        """Delete old execution contexts, uploads and audit lines, now and every hour."""
        self._forgetting = self._clock.callLater(FORGET_INTERVAL, self._forget_contexts)
        self._dropping = Deferred.fromCoroutine(self._forget_old())
        self._dropping.addErrback(self._not_dropped)

    def _not_dropped(self, failure: Failure) -> None:
        if failure.check(Unavailable):  # tried again in an hour
            self._log.error("Deleting old contexts, uploads or audit lines: {error}", error=failure.getErrorMessage())
        else:
            self._log.failure("Deleting old contexts, uploads or audit lines failed", failure)

    async def _forget_old(self) -> None:
        now = self._wall_clock()
        await self._engine.forget(now - 86400 * self._settings.keep_contexts)
        await self.uploads.forget_old()
        await self._audit.forget(now - 86400 * self._settings.keep_audit)

    def reread(self) -> None:
        """Reload the TLS files, even if they seem unchanged."""
        if self._certificates is None:
            self._log.info("SIGHUP: without --https there is nothing to reload")
        else:
            self._read_files(True)

    def _reread(self) -> None:
        if self._certificates is not None:
            self._rereading = self._clock.callLater(REREAD_INTERVAL, self._reread)
            self._read_files(False)

    def _read_files(self, always: bool) -> None:
        assert self._certificates is not None
        for reading in (
            self._in_thread(self._certificates.reload, always),
            self._in_thread(self._read_mapping).addCallback(self._map),
        ):
            reading.addErrback(lambda failure: self._log.failure("TLS: reloading the files failed", failure))

    def _in_thread(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), function, *args)

    def _read_mapping(self) -> dict[str, str]:
        path = self._settings.certificate_users
        try:
            found = {} if path is None else read_mapping(path)
        except MappingError as error:
            self._mapping_trouble = f"the previous user mapping stays in use: {error}"
            self._log.error("TLS: {trouble}", trouble=self._mapping_trouble)
            return dict(self._mapping)
        self._mapping_trouble = ""
        return found

    def _map(self, found: dict[str, str]) -> None:
        self._mapping.clear()
        self._mapping.update(found)

    def stopService(self) -> Deferred[None]:
        """Stop tasks, listeners, sessions, nodes and the store, in this order. Fires when everything has stopped."""
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._old_handler is not None:
            signal(SIGHUP, self._old_handler)
        for waiting in (self._forgetting, self._rereading):
            if waiting is not None and waiting.active():
                waiting.cancel()
        # Clients can still query their tasks while these complete, but commits are refused.
        await self._engine.stop(TIMEOUT)
        for port in self.ports:
            await _done(port.stopListening())
        await self.transfers.stop()
        await self.uploads.stop()
        self.sessions.stop()
        await self._nodes.stop()
        self._logins.stop()
        self._compressor.stop()
        await self._images.stop()
        await self._dropping
        await self._audit.stop()
        await self._database.close()
        if self._lock is not None:
            self._lock.close()


async def _done(stopping: Any) -> None:
    if stopping is not None:
        await stopping


def makeService(options: Options) -> Server:
    """
    Build the server from its options, without starting it.

    Ends the program with one line if the server couldn't start.
    """
    from twisted.internet import reactor

    # The threads of the reactor and the store wait for each other. The default of 5 ms is longer than a commit takes.
    sys.setswitchinterval(0.0005)
    # Nobody else may read what the server writes, whatever the umask was.
    os.umask(0o077)
    twistd: Any = options.parent or {}
    uid, gid = twistd.get("uid"), twistd.get("gid")
    log = twistd.get("logfile") or ("" if twistd.get("nodaemon") else "twistd.log")
    settings, lock = options.settings, Lock()
    become(uid)
    try:
        if log not in ("", "-") and not twistd.get("syslog"):
            hand_over_log(Path(log), uid, gid)
        claim(lock, settings, uid, gid)
        check_files(settings)
        check_hashing(settings)
        check_endpoints(settings, reactor)
        migrate_database(settings, uid, gid)
    except BaseException as error:
        lock.close()
        if isinstance(error, StartError):
            raise SystemExit(f"fluidvm: {error}") from None
        raise
    if twistd.get("nodaemon"):
        return Server(
            settings, reactor, lock=lock, fail=lambda text: SystemExit(f"fluidvm: {text}"), end=lambda: _end(reactor)
        )
    # The parent process of a daemon reports only exceptions to the terminal.
    return Server(settings, reactor, lock=lock, end=lambda: _end(reactor))


def _end(reactor: Any) -> None:
    """Stop as for a signal, but exit with status 1: twistd itself would exit with 0."""
    atexit.register(os._exit, 1)
    reactor.stop()

"""Turns a call into its answer: parse, check cookie, role, arguments and objects, run the method. Independent of HTTP."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from fluidvm import api
from fluidvm.access.call import Call, Services
from fluidvm.auth.audit import shown
from fluidvm.auth.permissions import check_role, session_user
from fluidvm.auth.sessions import HeldBack, PendingTask, Session, UnderWay
from fluidvm.engine.errors import fault_of
from fluidvm.model.declare import METHODS, Method
from fluidvm.model.faults import ApiFault, InvalidParams, InvalidRequest, NoSuchMethod, Unavailable
from fluidvm.model.kinds import Int, wire_name
from fluidvm.model.xmlvalue import Rendered
from fluidvm.wire.answers import Boxcar, Confidential, document, when_there_is_room
from fluidvm.wire.bounds import SMALL
from fluidvm.wire.peer import Peer
from fluidvm.wire.unsent import Room, Unsent
from fluidvm.wire.xmlrpc import parse_call, render_answer, render_fault

LONGEST_BOXCAR = 1000
MOST_BOXCARS = 64 * 2**20
"""Bytes of the boxcar requests that run at the same time. Their arguments take a few times as much memory."""
_BOXCARS = "The server runs too many large system.multicall requests: try again later, or send fewer calls at once."
SLICE = 0.02
"""Seconds that the calls of a boxcar may take before other requests get a turn."""
CLAIMED = ("vm", "disk")
"""Types of objects that a task claims when its arguments name them."""

assert api  # importing it declares the methods


class Dispatcher:
    """
    Answers calls.

    @param services: what API methods use.
    @param unsent: counts the bytes of unsent answers.
    """

    def __init__(self, services: Services, unsent: Unsent) -> None:
        self._services = services
        self._unsent = unsent
        self._boxcars = Room(MOST_BOXCARS)
        self._system: dict[str, Callable[..., Any]] = {
            "system.listMethods": self._list_methods,
            "system.methodHelp": self._method_help,
            "system.methodSignature": self._method_signature,
        }

    def dispatch(self, body: bytes, peer: Peer) -> bytes | Deferred[bytes]:
        """
        Answer one request.

        @param body: the body of the request.
        @return: a C{methodResponse} document; the Deferred never fails.
        """
        try:
            name, arguments = parse_call(body)
            if name == "system.multicall":
                return Deferred.fromCoroutine(self._multicall(arguments, peer, len(body)))
            callers: list[Session] = []
            value = self._call(name, arguments, peer, callers.append)
            if inspect.isawaitable(value):
                return Deferred.fromCoroutine(self._answer_later(name, value, peer, callers))
            if type(value) is Rendered or not value:  # one object, or nothing
                return render_answer(value)
            answer = document(value, self._unsent, peer.address)
            return answer if type(answer) is bytes else Deferred.fromCoroutine(self._wait(name, answer, peer, callers))
        except Exception as error:
            return _fault(error, "reading a call")

    async def _answer_later(self, name: str, value: Awaitable[Any], peer: Peer, callers: Iterable[Session]) -> bytes:
        with UnderWay(self._services.resources.sessions, callers):
            try:
                answer = document(await value, self._unsent, peer.address)
            except Exception as error:
                return _fault(error, name)
            return answer if type(answer) is bytes else await self._wait(name, answer, peer, ())

    async def _wait(self, name: str, pieces: Any, peer: Peer, callers: Iterable[Session]) -> bytes:
        with UnderWay(self._services.resources.sessions, callers):
            try:
                return await when_there_is_room(pieces, self._unsent, peer.address)
            except Exception as error:
                return _fault(error, name)

    def _call(self, name: str, arguments: list[Any], peer: Peer, begins: Callable[[Session], None]) -> Any:
        """
        Call one method.

        @param begins: called with the session, once it is known.
        @return: the answer, or an awaitable of it.
        """
        method = METHODS.get(name)
        if method is None:
            system = self._system.get(name)
            if system is None:
                raise NoSuchMethod(f"There is no method {name}; system.listMethods lists them.")
            return system(*arguments)
        try:
            if method.anonymous:
                values, _ = method.check(arguments)
                return method.function(Call(self._services, peer.address, certificate=peer.certificate), *values)
            try:
                call = self._admit(method, arguments, peer)
            except HeldBack as fault:
                return self._refuse_later(fault, peer)
            begins(call.session)
            if method.audited:
                return self._audited(call, method, arguments[1:])
            check_role(call.user, method.roles, method.name)
            values, references = method.check(arguments[1:])
            call.admit(method, references)
            return method.function(call, *values)
        except ApiFault:
            raise
        except Exception as error:
            raise fault_of(error, name) from None

    def _admit(self, method: Method, arguments: list[Any], peer: Peer) -> Call:
        """Identify the caller, before anything else about the call is checked."""
        if not arguments:
            raise InvalidParams(f"{method.name}: expected {method.usage()}; got 0 arguments.")
        resources = self._services.resources
        session = resources.sessions.find(arguments[0], peer.address)
        user = session_user(resources.inventory, resources.sessions, session)
        return Call(self._services, peer.address, session, user)

    async def _refuse_later(self, fault: HeldBack, peer: Peer) -> None:
        resources = self._services.resources
        await deferLater(resources.clock, resources.sessions.hold(peer.address))
        raise fault

    def _audited(self, call: Call, method: Method, given: list[Any]) -> Any:
        values: list[Any] = []  # unchecked arguments are not logged: one may be a secret in the wrong place
        try:
            check_role(call.user, method.roles, method.name)
            values, references = method.check(given)
            call.admit(method, references)
            answer = self._queue(call, method, values, references) if method.task else method.function(call, *values)
        except Exception as error:
            raise self._note(call, method, values, fault=fault_of(error, method.name)) from None
        if inspect.isawaitable(answer):
            return self._audited_later(call, method, values, answer)
        self._note(call, method, values, answer)
        return answer

    async def _audited_later(self, call: Call, method: Method, values: list[Any], awaitable: Awaitable[Any]) -> Any:
        try:
            answer = await awaitable
        except Exception as error:
            raise self._note(call, method, values, fault=fault_of(error, method.name)) from None
        self._note(call, method, values, answer)
        return answer

    def _note(self, call: Call, method: Method, values: list[Any], answer: Any = None, fault: Any = None) -> Any:
        """Write a call to the audit log. Returns the fault."""
        self._services.audit.note(
            "call",
            user=call.user.id,
            name=call.user.name,
            address=call.address,
            method=method.name,
            target_type=method.target,
            target=answer if method.task else None,
            code=0 if fault is None else fault.faultCode,
            arguments=shown(method, values) if values else "",
            error="" if fault is None else fault.faultString,
        )
        return fault

    def _queue(self, call: Call, method: Method, values: list[Any], references: Any) -> Any:
        call.session.admit()
        if method.precheck is not None:
            method.precheck(call, *values)
        if any(parameter.kind.secret for parameter in method.parameters):
            return self._queue_secret(call, method, values, references)
        return self._queued(call, method, values, references)

    async def _queue_secret(self, call: Call, method: Method, values: list[Any], references: Any) -> int:
        # Pending tasks can be listed, and committed tasks are stored: neither may contain a password.
        for place, parameter in enumerate(method.parameters[: len(values)]):
            if parameter.kind.secret:
                values[place] = await self._services.logins.hash(values[place])
        return self._queued(call, method, values, references)

    def _queued(self, call: Call, method: Method, values: list[Any], references: Any) -> int:
        target = call.inventory.next_id(method.target) if method.creates else references[0].id
        claims = {(reference.type, reference.id) for reference in references if reference.type in CLAIMED}
        claims.add((method.target, target))
        if method.exclusive:
            claims.add((method.exclusive, 0))
        call.session.queue(PendingTask(method, target, tuple(values), frozenset(claims)))
        return int(target)

    # system.*

    def _list_methods(self, *given: Any) -> list[str]:
        _count("system.listMethods()", given, 0)
        return sorted([*METHODS, *self._system, "system.multicall"])

    def _method_help(self, *given: Any) -> str:
        _count("system.methodHelp(name)", given, 1)
        method = self._named(given[0])
        return _SYSTEM_HELP[given[0]] if method is None else method.describe()

    def _method_signature(self, *given: Any) -> list[list[str]]:
        _count("system.methodSignature(name)", given, 1)
        method = self._named(given[0])
        return _SYSTEM_SIGNATURES[given[0]] if method is None else method.signatures()

    def _named(self, name: Any) -> Method | None:
        if type(name) is not str:
            raise InvalidParams(f"name: must be a string, not {wire_name(name)}.")
        if name not in METHODS and name not in _SYSTEM_HELP:
            raise NoSuchMethod(f"There is no method {name}; system.listMethods lists them.")
        return METHODS.get(name)

    async def _multicall(self, arguments: list[Any], peer: Peer, size: int) -> bytes:
        """Run a boxcar. C{size}: bytes of the request, which count for its arguments while it runs."""
        counted = size if size > SMALL else 0
        if counted and not self._boxcars.has_room(peer.address, counted):
            return _fault(Unavailable(_BOXCARS), "system.multicall")
        self._boxcars.take(peer.address, counted)
        try:
            _count("system.multicall(calls)", arguments, 1)
            calls = arguments[0]
            if type(calls) is not list:
                raise InvalidParams(f"calls: must be an array, not {wire_name(calls)}.")
            Int("calls", high=LONGEST_BOXCAR).check(len(calls), "the number of calls", [])
            boxcar = Boxcar(self._unsent, peer.address, len(calls))
            secret = any(map(_confidential, calls))
            with UnderWay(self._services.resources.sessions) as under_way:
                try:
                    await self._run(calls, boxcar, peer, under_way.add)
                    answer = boxcar.document()
                    return Confidential(answer) if secret else answer
                finally:
                    boxcar.close()
        except Exception as error:
            return _fault(error, "system.multicall")
        finally:
            self._boxcars.give(peer.address, counted)

    async def _run(self, calls: list[Any], boxcar: Boxcar, peer: Peer, begins: Callable[[Session], None]) -> None:
        clock = self._services.resources.clock
        turn = clock.seconds()
        fault: ApiFault | None = None
        calls.reverse()
        while calls:
            call = calls.pop()  # so that the arguments of a finished call can be freed
            boxcar.next()
            if not isinstance(fault, HeldBack):  # after one wrong cookie too many, the rest of the request is not tried
                fault = await self._run_one(call, boxcar, peer, begins)
            del call
            if fault is not None:
                boxcar.refuse(fault)
            if clock.seconds() - turn > SLICE:
                await deferLater(clock, 0)
                turn = clock.seconds()

    async def _run_one(self, call: Any, boxcar: Boxcar, peer: Peer, begins: Callable[[Session], None]) -> ApiFault | None:
        name = "system.multicall"
        try:
            if type(call) is not dict or set(call) - {"methodName", "params"}:
                raise InvalidRequest("A call in system.multicall must be a struct of methodName and params.")
            name, arguments = call.get("methodName", ""), call.get("params", [])
            if type(name) is not str or type(arguments) is not list:
                raise InvalidRequest("A call in system.multicall must have a string methodName and an array params.")
            if name == "system.multicall":
                raise InvalidRequest("system.multicall must not call itself.")
            value = self._call(name, arguments, peer, begins)
            if inspect.isawaitable(value):
                value = await value
            await boxcar.add(value)
        except Exception as error:
            return fault_of(error, str(name))
        return None


_SYSTEM_HELP = {
    "system.listMethods": "system.listMethods()\n\nList the names of all methods.",
    "system.methodHelp": "system.methodHelp(name)\n\nDescribe a method and its arguments.",
    "system.methodSignature": "system.methodSignature(name)\n\n"
    "List a method's signatures, one for each number of arguments: arrays of types, the type of the answer first.",
    "system.multicall": "system.multicall(calls)\n\n"
    "Run several calls, structs of methodName and params, in order. Returns for each call an array that holds its answer, "
    "or the struct of its fault.",
}
_SYSTEM_SIGNATURES = {
    "system.listMethods": [["array"]],
    "system.methodHelp": [["string", "string"]],
    "system.methodSignature": [["array", "string"]],
    "system.multicall": [["array", "array"]],
}


def _confidential(call: Any) -> bool:
    """Tell whether the answer to a call of a boxcar is secret. Secret answers to single calls are too short to compress."""
    method = METHODS.get(call["methodName"]) if type(call) is dict and type(call.get("methodName")) is str else None
    return method is not None and method.confidential


def _count(usage: str, given: Any, wanted: int) -> None:
    if len(given) != wanted:
        raise InvalidParams(f"{usage}: got {len(given)} arguments instead of {wanted}.")


def _fault(error: Exception, what: str) -> bytes:
    fault = fault_of(error, what)
    return render_fault(fault.faultCode, fault.faultString)

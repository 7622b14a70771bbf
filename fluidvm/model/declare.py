"""
The declaration of API methods: each is declared once, by its function.

The function's name is the method's name, its C{Annotated} parameters give the kinds of the arguments, and its docstring is
the help. Dispatch, validation, C{system.*}, the reference and the command line read L{METHODS}.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar, get_type_hints

from zope.interface import Interface

from fluidvm.model.faults import InvalidParams
from fluidvm.model.kinds import Int, Kind, References
from fluidvm.model.objects import ROLES

F = TypeVar("F", bound=Callable[..., Any])
Precheck = Callable[..., None]

COOKIE = Int("the number that authenticate returned")
WORKERS = ("admin", "user")
"""The roles that are allowed to make changes."""


class AfterCrash(Enum):
    """What happens to a task that was running when the server died."""

    RUN_AGAIN = "it runs again; a repetition does no harm"
    LOOK = "the hypervisor is asked for the current state, then the task is completed or run"
    REPORT = "it ends with an error that says that it was interrupted"
    LOOK_AND_REPORT = (
        "if the hypervisor was asked to act, the outcome is stored and the task ends with an error that says that it was "
        "interrupted; otherwise it runs"
    )


@dataclass(frozen=True)
class Parameter:
    """One argument after the cookie."""

    name: str
    kind: Kind
    optional: bool


@dataclass(frozen=True)
class Method:
    """
    A declared method.

    @ivar task: whether it queues a task; otherwise it answers at once.
    @ivar returns: the XML-RPC type of its answer.
    @ivar anonymous: whether it can be called without a cookie.
    @ivar target: the type of object that the task acts on: that of its first argument, or of the object that it creates.
    @ivar creates: whether the task creates its target.
    @ivar confidential: whether its answer is a secret, which must not be compressed together with data that somebody else
        can choose.
    @ivar audited: whether calls are written to the audit log. Calls of tasks always are.
    @ivar exclusive: a keyword; tasks with the same keyword never run at the same time.
    @ivar needs: the abilities that a driver must have for it.
    @ivar optional_abilities: further abilities, and what the method does additionally with a driver that has one.
    @ivar precheck: further checks of the arguments when a task is queued: called with the call and the arguments.
    """

    name: str
    function: Callable[..., Any]
    parameters: tuple[Parameter, ...]
    help: str
    returns: str
    roles: tuple[str, ...]
    task: bool
    anonymous: bool = False
    target: str = ""
    creates: bool = False
    after_crash: AfterCrash = AfterCrash.RUN_AGAIN
    precheck: Precheck | None = None
    exclusive: str = ""
    audited: bool = False
    confidential: bool = False
    needs: tuple[type[Interface], ...] = ()
    optional_abilities: tuple[tuple[type[Interface], str], ...] = ()

    @property
    def required(self) -> int:
        """The minimum number of arguments, without the cookie."""
        return sum(not parameter.optional for parameter in self.parameters)

    def check(self, given: Sequence[Any]) -> tuple[list[Any], References]:
        """
        Check arguments after the cookie.

        @return: the values to use, and the objects that they name.
        @raise InvalidParams: an argument is not valid; the fault names it.
        """
        if not self.required <= len(given) <= len(self.parameters):
            raise InvalidParams(f"{self.name}: expected {self.usage()}; got {len(given) + (not self.anonymous)} arguments.")
        found: References = []
        values = [
            parameter.kind.check(value, parameter.name, found)
            for parameter, value in zip(self.parameters, given, strict=False)
        ]
        return values, found

    def usage(self) -> str:
        """The arguments by name: C{set_vm_memory(cookie, vm, memory)}."""
        names = [] if self.anonymous else ["cookie"]
        shown = ", ".join(names + [parameter.name for parameter in self.parameters[: self.required]])
        rest = "".join(f"[, {parameter.name}" for parameter in self.parameters[self.required :])
        return f"{self.name}({shown}{rest}{']' * rest.count('[')})"

    def signatures(self) -> list[list[str]]:
        """The answer of C{system.methodSignature}: one list of types for each possible number of arguments."""
        types = [] if self.anonymous else [COOKIE.wire]
        types += [parameter.kind.wire for parameter in self.parameters]
        least = len(types) - (len(self.parameters) - self.required)
        return [[self.returns, *types[:count]] for count in range(least, len(types) + 1)]

    def describe(self) -> str:
        """The answer of C{system.methodHelp}."""
        lines = [self.usage(), "", self.help, ""]
        lines += [
            f"{parameter.name}{' (optional)' if parameter.optional else ''}: {parameter.kind.describe()}"
            for parameter in self.parameters
        ]
        if self.task:
            lines.append(f"A task: runs after commit_tasks. Returns the {self.target.replace('_', ' ')}'s id.")
        if self.roles != ROLES and not self.anonymous:
            lines.append(f"Roles: {', '.join(self.roles)}.")
        return "\n".join(lines).strip()


METHODS: dict[str, Method] = {}
"""Every declared method by name; filled when C{fluidvm.api} is imported."""


def query(
    returns: str,
    *,
    roles: tuple[str, ...] = ROLES,
    anonymous: bool = False,
    audited: bool = False,
    confidential: bool = False,
) -> Callable[[F], F]:
    """
    Declare a method that answers at once.

    The function takes an L{fluidvm.access.call.Call}, then the arguments; it may be a coroutine function.

    @param returns: the XML-RPC type of the answer. The other parameters are L{Method}'s attributes.
    """

    def declare(function: F) -> F:
        _add(
            function,
            returns=returns,
            roles=roles,
            task=False,
            anonymous=anonymous,
            audited=audited,
            confidential=confidential,
        )
        return function

    return declare


def task(
    target: str,
    *,
    creates: bool = False,
    roles: tuple[str, ...] = WORKERS,
    after_crash: AfterCrash = AfterCrash.RUN_AGAIN,
    precheck: Precheck | None = None,
    exclusive: str = "",
    needs: tuple[type[Interface], ...] = (),
    optional_abilities: tuple[tuple[type[Interface], str], ...] = (),
) -> Callable[[F], F]:
    """
    Declare a method that queues a task.

    The function is a coroutine function; it takes an L{fluidvm.engine.job.Job}, then the arguments, runs after
    C{commit_tasks}, and returns the task's result, or C{None} if it has none. The parameters are L{Method}'s attributes.
    """

    def declare(function: F) -> F:
        _add(
            function,
            returns="int",
            roles=roles,
            task=True,
            audited=True,
            target=target,
            creates=creates,
            after_crash=after_crash,
            precheck=precheck,
            exclusive=exclusive,
            needs=needs,
            optional_abilities=optional_abilities,
        )
        return function

    return declare


def _add(function: Callable[..., Any], **attributes: Any) -> None:
    hints = get_type_hints(function, include_extras=True)
    parameters = []
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        kinds = [item for item in getattr(hints[parameter.name], "__metadata__", ()) if isinstance(item, Kind)]
        if len(kinds) != 1:
            raise TypeError(f"{function.__name__}: parameter {parameter.name} is declared without a kind")
        optional = parameter.default is not inspect.Parameter.empty
        parameters.append(Parameter(parameter.name, kinds[0], optional))
    name = function.__name__
    if name in METHODS:
        raise TypeError(f"{name} is declared twice")
    METHODS[name] = Method(
        name=name, function=function, parameters=tuple(parameters), help=inspect.getdoc(function) or "", **attributes
    )

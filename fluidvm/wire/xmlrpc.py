"""
XML-RPC documents (U{http://xmlrpc.com/spec.md}): parses calls, and writes answers.

The parser accepts what the specification defines and nothing else. It is a state table driven by expat, so neither nesting
nor length can exhaust the stack, and the cost of a call is bounded by its length.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any
from xml.parsers import expat

from fluidvm.model.faults import InvalidRequest, ParseError
from fluidvm.model.xmlvalue import Rendered, render

DEEPEST = 64
"""Maximum depth of nested arrays and structs."""

MOST_VALUES = 200_000
"""Maximum number of C{<value>} elements in a call."""

_BLANK = " \t\r\n"  # XML 1.0, section 2.3; str.isspace() knows many more
_NAME = re.compile(r"[A-Za-z0-9_.:/]{1,255}")
_INT = re.compile(r"[+-]?[0-9]{1,32}")
_DOUBLE = re.compile(r"[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?|\.[0-9]{1,400})(?:[eE][+-]?[0-9]{1,4})?")
# RFC 4648, section 4; the strict mode of binascii accepts more padding than that.
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*+(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
_MOMENT = re.compile(r"([0-9]{4})(-?)([0-9]{2})\2([0-9]{2})T([0-9]{2}):([0-9]{2}):([0-9]{2})Z?")


def _integer(text: str) -> int:
    if _INT.fullmatch(text) is None:
        raise ValueError("an int must be 1 to 32 digits with an optional sign")
    return int(text)


def _boolean(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError("a boolean must be 0 or 1")
    return text == "1"


def _double(text: str) -> float:
    if _DOUBLE.fullmatch(text) is None:
        raise ValueError("a double must be a decimal number")
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError("a double is too large")
    return number


def _moment(text: str) -> datetime:
    found = _MOMENT.fullmatch(text)
    if found is None:
        raise ValueError("a dateTime.iso8601 must be YYYYMMDDTHH:MM:SS, in UTC")
    year, _, month, day, hour, minute, second = found.groups()
    try:
        return datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=UTC)
    except ValueError:
        raise ValueError("a dateTime.iso8601 is not an existing date and time") from None


_NO_BLANKS = {ord(character): None for character in _BLANK}


def _base64(text: str) -> bytes:
    text = text.translate(_NO_BLANKS)
    if _BASE64.fullmatch(text) is None:
        raise ValueError("a base64 value is not valid")
    return binascii.a2b_base64(text)


_SCALARS: dict[str, Callable[[str], Any]] = {
    "int": _integer,
    "i4": _integer,
    "string": str,
    "boolean": _boolean,
    "double": _double,
    "dateTime.iso8601": _moment,
    "base64": _base64,
}

# The grammar: for each state, which elements may begin, the state inside them, and the state after them. The name of a state
# is the current element, and what that element contains already.
_GRAMMAR: dict[str, dict[str, tuple[str, str]]] = {
    "": {"methodCall": ("methodCall", "whole")},
    "methodCall": {"methodName": ("methodName", "methodCall named")},
    "methodCall named": {"params": ("params", "methodCall whole")},
    "params": {"param": ("param", "params")},
    "param": {"value": ("value", "param whole")},
    "value": {kind: (kind, "value whole") for kind in (*_SCALARS, "array", "struct")},
    "array": {"data": ("data", "array whole")},
    "data": {"value": ("value", "data")},
    "struct": {"member": ("member", "struct")},
    "member": {"name": ("name", "member named")},
    "member named": {"value": ("value", "member whole")},
}

# States in which the element must not end yet.
_LACKS = {
    "methodCall": "a methodCall has no methodName",
    "param": "a param has no value",
    "array": "an array has no data",
    "member": "a member has no name",
    "member named": "a member has no value",
}

_TEXTUAL = frozenset([*_SCALARS, "methodName", "name", "value"])


# The form of nearly all calls: ASCII, with a few params, and without references, CDATA, comments and nesting. Two regular
# expressions parse them, in a tenth of expat's time. Expat parses all others, and all errors. Nothing here backtracks.
_S = rb"[ \t\r\n]*+"
_PLAIN = re.compile(
    rb"(?:<\?xml version=(?:'1\.0'|\"1\.0\")(?: encoding=(?:'(?i:utf-8)'|\"(?i:utf-8)\"))? ?\?>)?"
    + _S
    + rb"<methodCall>"
    + _S
    + rb"<methodName>([A-Za-z0-9_.:/]{1,255})</methodName>"
    + _S
    + rb"(?:<params>"
    + _S
    + rb"((?:<param>"
    + _S
    + rb"<value>(?:<int>[+-]?[0-9]{1,32}</int>|<i4>[+-]?[0-9]{1,32}</i4>"
    + rb"|<string>[\t\n -%'-;=?-~]*+</string>|<boolean>[01]</boolean>)</value>"
    + _S
    + rb"</param>"
    + _S
    + rb"){0,64}+)"
    + rb"</params>"
    + _S
    + rb")?+</methodCall>"
    + _S
)
_PLAIN_VALUE = re.compile(rb"<value><([a-z4]+)>([^<]*)")


def _parse_plain(body: bytes) -> tuple[str, list[Any]] | None:
    """Parse a call of the usual form. @return: C{None} if it has another form."""
    found = _PLAIN.fullmatch(body)
    if found is None:
        return None
    name, params = found.groups()
    return name.decode("ascii"), [
        text.decode("ascii") if kind == b"string" else text == b"1" if kind == b"boolean" else int(text)
        for kind, text in (_PLAIN_VALUE.findall(params) if params else ())
    ]


class _Reader:
    """The callbacks for expat while it parses one document."""

    __slots__ = ("_containers", "_left", "_parser", "_result", "_stack", "_state", "_text", "arguments", "name", "wrong")

    def __init__(self, parser: expat.XMLParserType) -> None:
        self.name = ""
        self.arguments: list[Any] = []
        self.wrong: str | None = None
        self._parser = parser
        self._state = ""
        self._stack: list[str] = []
        self._text: list[str] = []
        # The open arrays and structs, each with the name of the member whose value comes next.
        self._containers: list[list[Any]] = []
        self._result: Any = None
        self._left = MOST_VALUES
        parser.buffer_text = True
        parser.StartElementHandler = self._begins
        parser.EndElementHandler = self._ends
        parser.CharacterDataHandler = self._text.append
        parser.StartDoctypeDeclHandler = self._doctype

    def _refuse(self, why: str) -> None:
        # The rest is parsed only to see whether it is well-formed, which decides between the two faults.
        self.wrong = why
        self._parser.StartElementHandler = self._parser.EndElementHandler = self._parser.CharacterDataHandler = None

    def _doctype(self, *_: object) -> None:
        # At once, before any entity is declared: the expansion of entities has no limit.
        raise InvalidRequest("This is not an XML-RPC call: it has a document type declaration.")

    def _begins(self, tag: str, attributes: dict[str, str]) -> None:
        if self._text:
            if "".join(self._text).strip(_BLANK):
                return self._refuse(f"there is text before <{tag[:40]}>")
            self._text.clear()
        states = _GRAMMAR.get(self._state, {}).get(tag)
        if states is None:
            return self._refuse(self._misplaced(tag))
        # Some libraries declare namespaces of extensions in every call. The specification has no other attributes.
        if attributes and not all(name.partition(":")[0] == "xmlns" for name in attributes):
            return self._refuse(f"<{tag}> has an attribute")
        self._state = states[0]
        self._stack.append(states[1])
        if tag == "value":
            self._left -= 1
            if self._left < 0:
                return self._refuse(f"it has more than {MOST_VALUES} values")
        elif tag == "array" or tag == "struct":
            if len(self._containers) == DEEPEST:
                return self._refuse(f"it is nested deeper than {DEEPEST} levels")
            self._containers.append([[] if tag == "array" else {}, None])
        return None

    def _misplaced(self, tag: str) -> str:
        element, _, has = self._state.partition(" ")
        if not element:
            return f"it is a <{tag[:40]}>, not a <methodCall>"
        if element == "value" and not has:
            return f"{tag[:40]} is not a type"
        return f"<{tag[:40]}> is not allowed there in <{element}>"

    def _ends(self, tag: str) -> None:
        state = self._state
        text = ""
        if self._text:
            text = "".join(self._text)
            self._text.clear()
            if state not in _TEXTUAL and text.strip(_BLANK):
                return self._refuse(f"there is text in <{tag}>")
        self._state = after = self._stack.pop()
        convert = _SCALARS.get(state)
        if convert is not None:
            try:
                self._result = convert(text)
            except ValueError as error:
                return self._refuse(str(error))
        elif tag == "value":
            result = text if state == "value" else self._result
            if after == "param whole":
                self.arguments.append(result)
            elif after == "data":
                self._containers[-1][0].append(result)
            else:
                struct, name = self._containers[-1]
                struct[name] = result
        elif state in _LACKS:
            return self._refuse(_LACKS[state])
        elif tag == "name":
            container = self._containers[-1]
            if text in container[0]:
                return self._refuse(f"a struct has two members named {text[:40]}")
            container[1] = text
        elif tag == "array" or tag == "struct":
            self._result = self._containers.pop()[0]
        elif tag == "methodName":
            if _NAME.fullmatch(text) is None:
                return self._refuse("its methodName must be 1 to 255 of the characters A-Z a-z 0-9 _ . : /")
            self.name = text
        return None


def parse_call(body: bytes) -> tuple[str, list[Any]]:
    """
    Parse a call.

    @param body: the document.
    @return: the name of the method, and its arguments: C{int} (of any size up to 32 digits), C{bool}, C{str}, C{float},
        C{bytes}, C{datetime} (UTC), C{list} and C{dict}.
    @raise ParseError: the document is not well-formed XML.
    @raise InvalidRequest: it is well-formed, but not an XML-RPC call.
    """
    return _parse_plain(body) or _parse_any(body)


def _parse_any(body: bytes) -> tuple[str, list[Any]]:
    parser = expat.ParserCreate()
    reader = _Reader(parser)
    try:
        parser.Parse(body, True)
    except expat.ExpatError as error:
        raise ParseError(
            f"The request is not well-formed XML: {expat.ErrorString(error.code)} "
            f"(line {error.lineno}, column {error.offset + 1})."
        ) from None
    except (LookupError, ValueError):  # the XML declaration names an encoding that does not exist or is not for text
        raise ParseError("The request is not well-formed XML: its encoding is unknown.") from None
    if reader.wrong is not None:
        raise InvalidRequest(f"This is not an XML-RPC call: {reader.wrong}.")
    return reader.name, reader.arguments


_ANSWER = b"<?xml version='1.0'?>\n<methodResponse><params><param>"
_ANSWER_END = b"</param></params></methodResponse>\n"
_FAULT = b"<?xml version='1.0'?>\n<methodResponse><fault>"
_FAULT_END = b"</fault></methodResponse>\n"


def frame_answer(parts: Iterable[bytes]) -> bytes:
    """
    Write the answer of a method from rendered parts.

    @param parts: the pieces of the C{<value>} element, which are copied once.
    @return: the C{methodResponse} document.
    """
    return b"".join((_ANSWER, *parts, _ANSWER_END))


def render_answer(value: Any) -> bytes:
    """
    Write the answer of a method.

    @param value: as for L{fluidvm.model.xmlvalue.render}.
    @return: the C{methodResponse} document.
    @raise TypeError: the value has no XML-RPC type.
    @raise OverflowError: a number is out of the range of its XML-RPC type.
    """
    return b"".join((_ANSWER, value if type(value) is Rendered else render(value), _ANSWER_END))


def render_fault(code: int, text: str) -> bytes:
    """
    Write a fault.

    @param code: its code.
    @param text: one sentence for users.
    @return: the C{methodResponse} document.
    """
    return b"".join((_FAULT, render({"faultCode": code, "faultString": text}), _FAULT_END))

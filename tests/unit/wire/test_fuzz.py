"""Anything may come in: only documented faults go out, and every answer is well-formed."""

from __future__ import annotations

import xmlrpc.client
from typing import Any
from xml.parsers import expat

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from fluidvm.model.faults import FAULTS, ApiFault, InvalidRequest, ParseError
from fluidvm.wire.peer import Peer
from fluidvm.wire.site import make_site
from fluidvm.wire.xmlrpc import _parse_any, _parse_plain, parse_call, render_answer, render_fault
from tests.unit.model.test_xmlvalue import CALM, VALUES, sent
from tests.unit.wire.support import answers

TAGS = [
    b"methodCall",
    b"methodName",
    b"params",
    b"param",
    b"value",
    b"int",
    b"string",
    b"array",
    b"data",
    b"struct",
    b"member",
    b"name",
    b"double",
    b"base64",
    b"dateTime.iso8601",
    b"boolean",
    b"nil",
    b"i8",
]
PIECES = st.sampled_from(
    [
        *(form % tag for tag in TAGS for form in (b"<%s>", b"</%s>", b"<%s/>")),
        b"<methodName>m</methodName>",
        b"m",
        b"5",
        b"-",
        b"1e999",
        b"20240101T00:00:00",
        b"AA==",
        b" ",
        b"\n",
        b"&",
        b"&lt;",
        b"&#0;",
        b"&#13;",
        b"\0",
        b"\xff",
        b"\xc3\xa9",
        b"<![CDATA[",
        b"]]>",
        b"<!--",
        b"-->",
        b"<!DOCTYPE x [",
        b"=",
        b"<!ENTITY a 'b'>",
        b"<?xml version='1.0'?>",
        b"<?xml version='1.0' encoding='",
        b"utf-16",
        b"idna",
        b"rot13",
        b"'?>",
    ]
)
HEADERS = st.sampled_from(
    [
        b"POST /RPC2 HTTP/1.1\r\n",
        b"GET /health HTTP/1.0\r\n",
        b"HEAD / HTTP/1.1\r\n",
        b"Content-Length: 10\r\n",
        b"Content-Length: 1",
        b"\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"5\r\nhello\r\n",
        b"0\r\n\r\n",
        b"0123456789",
        b"Expect: 100-continue\r\n",
        b"Connection: close\r\n",
        b"Content-Type: text/xml\r\n",
        b"\n",
        b"x" * 3000,
        b" ",
        b":",
        b"\0",
        b"Host: x\r\n",
        b"POST http://x/RPC2 HTTP/1.1\r\nHost: x\r\n",
        b"Accept-Encoding: gzip\r\n",
        b"Content-Type: text/xml; charset=utf-16\r\n",
    ]
)
CALLS = st.lists(VALUES, max_size=4).map(lambda arguments: _dumps(tuple(arguments)))


def _dumps(arguments: tuple[Any, ...]) -> bytes:
    return xmlrpc.client.dumps(arguments, "m").encode("utf-8", "surrogatepass")


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A call with a few things put in, taken out or overwritten."""
    body = draw(CALLS)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(body)))
        size = draw(st.integers(0, 20))
        body = body[:place] + draw(PIECES | st.binary(max_size=4) | st.just(b"")) + body[place + size :]
    return body


@st.composite
def usual(draw: st.DrawFn) -> bytes:
    """A call near to the form that is read the short way."""
    blank = st.sampled_from(["", "", " ", "\n", "\r\n\t", "\x0b", "x"])
    kind = st.sampled_from(["int", "i4", "string", "boolean", "double", "i8"])
    text = st.sampled_from(["", "1", "0", "-5", "+007", " 1", "9" * 32, "9" * 33, "a]]", "é", "&lt;", "\r", "\x7f", "]]>"])
    declaration = st.sampled_from(
        [
            "",
            "<?xml version='1.0'?>",
            '<?xml version="1.0" encoding="UTF-8"?>',
            "<?xml version='1.0' encoding='utf-8' ?>",
            "<?xml version='1.1'?>",
            "<?xml version='1.0' encoding='utf-16'?>",
            " <?xml version='1.0'?>",
            "<?xml version='1.0\"?>",
        ]
    )
    params = [
        f"<param>{draw(blank)}<value><{(tag := draw(kind))}>{draw(text)}</{draw(st.just(tag) | kind)}></value></param>"
        for _ in range(draw(st.integers(0, 3) | st.just(65)))
    ]
    inside = f"<params>{draw(blank)}{draw(blank).join(params)}</params>" if params or not draw(st.integers(0, 1)) else ""
    name = draw(st.sampled_from(["m", "a.b:c/d_1", "", "a b", "m" * 255, "m" * 256]))
    return (
        f"{draw(declaration)}{draw(blank)}<methodCall>{draw(blank)}<methodName>{name}</methodName>{inside}{draw(blank)}"
        f"</methodCall>{draw(blank)}"
    ).encode()


BODIES = st.binary() | mutated() | st.lists(PIECES | st.binary(max_size=3)).map(b"".join)


def well_formed(body: bytes) -> bool:
    """Ask expat alone."""
    try:
        expat.ParserCreate().Parse(body, True)
    except (expat.ExpatError, ValueError, LookupError):
        return False
    return True


class Dispatcher:
    """Parses as the server does, and answers with the arguments."""

    def dispatch(self, body: bytes, peer: Peer) -> bytes:
        try:
            return render_answer(parse_call(body)[1])
        except ApiFault as fault:
            return render_fault(fault.faultCode, fault.faultString)
        except OverflowError as error:
            return render_fault(-32602, str(error))


class FuzzTests(SynchronousTestCase):
    @settings(CALM, max_examples=1000)
    @given(BODIES)
    def test_parse(self, body: bytes) -> None:
        try:
            name, arguments = parse_call(body)
        except ParseError:
            self.assertFalse(well_formed(body))
        except InvalidRequest:
            # What has a document type is refused before its end is seen.
            self.assertTrue(well_formed(body) or b"<!DOCTYPE" in body or b"\0" in body)
        else:
            self.assertTrue(well_formed(body))
            self.assertEqual((type(name), type(arguments)), (str, list))

    @settings(CALM, max_examples=1000)
    @given(BODIES | usual())
    def test_both_ways_to_read_agree(self, body: bytes) -> None:
        plain = _parse_plain(body)
        if plain is not None:
            found = _parse_any(body)
            self.assertEqual((plain, [*map(type, plain[1])]), (found, [*map(type, found[1])]))

    def test_the_usual_is_read_the_short_way(self) -> None:
        for arguments in ((), (5,), (-5, 7, "web", True), ("\n\t ", "")):
            body = _dumps(arguments)
            self.assertEqual(_parse_plain(body), ("m", [*arguments]))
            self.assertEqual(_parse_any(body), ("m", [*arguments]))

    @settings(CALM)
    @given(st.lists(VALUES.map(sent), max_size=4))  # two names that XML can't carry would be one
    def test_answers_come_back_as_calls(self, arguments: list[Any]) -> None:
        document = render_answer(arguments).replace(b"methodResponse>", b"methodCall>")
        found = parse_call(document.replace(b"<params>", b"<methodName>m</methodName><params>"))[1]
        self.assertEqual(render_answer(found), render_answer([arguments]))

    def through(self, data: bytes, cut: int) -> bytes:
        site = make_site(Dispatcher(), lambda: (True, {}), reactor=Clock(), max_request=2000)
        channel: Any = site.buildProtocol(None)
        transport: Any = StringTransport()
        channel.makeConnection(transport)
        channel.dataReceived(data[:cut])
        channel.dataReceived(data[cut:])
        return bytes(transport.value())

    @settings(CALM, max_examples=300)
    @given(BODIES, st.integers(0, 400))
    def test_body(self, body: bytes, cut: int) -> None:
        data = b"POST /RPC2 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        ((code, _, document),) = answers(self.through(data, cut))
        self.assertEqual(code, 200)
        try:
            xmlrpc.client.loads(document)
        except xmlrpc.client.Fault as fault:
            self.assertIn(fault.faultCode, FAULTS)

    @settings(CALM, max_examples=300)
    @given(st.lists(HEADERS | st.binary(max_size=5), max_size=15).map(b"".join), st.integers(0, 400))
    def test_http(self, data: bytes, cut: int) -> None:
        sent = self.through(data, cut)
        if b"HEAD" not in data:
            for code, headers, _ in answers(sent.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")):
                self.assertIn(code, (200, 400, 404, 405, 411, 415))
                self.assertIn("content-length", headers)

"""Charsets of calls, and compression of answers."""

from __future__ import annotations

import xmlrpc.client
from typing import Any

from twisted.internet.defer import succeed
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from fluidvm.model.faults import ParseError
from fluidvm.wire.forms import Form, form_of, takes_gzip, to_utf8
from fluidvm.wire.peer import Peer
from fluidvm.wire.xmlrpc import parse_call, render_answer
from tests.unit.wire.support import CALL, SiteTests, answers, post

WORD = "Grüße, Łukasz"
XML = (
    '<?xml version="1.0"{}?>\n<methodCall><methodName>m</methodName>'
    "<params><param><value>{}</value></param></params></methodCall>"
)


def form(kind: str, accepted: str = "") -> Form | None:
    return form_of(Headers({"Content-Type": [kind], "Accept-Encoding": [accepted]}))


class CharsetTests(SynchronousTestCase):
    def test_names(self) -> None:
        for name, codec in (
            ("utf-8", "utf_8"),
            ("UTF8", "utf_8"),
            ('"utf-8"', "utf_8"),
            ("us-ascii", "ascii"),
            ("ISO-8859-1", "latin_1"),
            ("latin1", "latin_1"),
            ("iso-8859-15", "iso8859_15"),
            ("windows-1252", "cp1252"),
            ("cp1250", "cp1250"),
            ("utf-16", "utf_16"),
            ("utf-16le", "utf_16_le"),
            ("KOI8-R", "koi8_r"),
            ("Shift_JIS", "shift_jis"),
            ("gb18030", "gb18030"),
            ("big5", "big5"),
            ("euc-kr", "euc_kr"),
        ):
            self.assertEqual(form(f"text/xml; charset={name}"), Form(codec), name)
            self.assertEqual(form(f"text/xml;x=y ;  Charset = {name} ; z=1"), Form(codec), name)

    def test_unknown_charsets(self) -> None:
        """Python has codecs that are not charsets, and some that are slow."""
        for name in (
            "",
            "x",
            "idna",
            "punycode",
            "rot13",
            "zlib",
            "bz2",
            "hex",
            "base64",
            "unicode_escape",
            "raw_unicode_escape",
            "utf-7",
            "undefined",
            "mbcs",
            "os",
            "\xff",
            "utf-8 x",
            "../utf-8",
            "." * 300,
        ):
            self.assertIsNone(form(f"text/xml; charset={name}"), name)

    def test_no_charset(self) -> None:
        for kind in ("text/xml", "text/xml; x=y", "text/xml; xcharset=utf-16", ""):
            self.assertEqual(form(kind), Form(), kind)

    def read(self, body: bytes, charset: str) -> Any:
        return parse_call(to_utf8(body, charset))[1][0]

    def test_decoding(self) -> None:
        for charset, word in (
            ("utf_8", WORD),
            ("utf_16", WORD),
            ("utf_16_le", WORD),
            ("utf_16_be", WORD),
            ("utf_32", WORD),
            ("latin_1", "Grüße"),
            ("cp1252", "10 €"),
            ("iso8859_15", "10 €"),
            ("ascii", "plain"),
            ("koi8_r", "привет"),
            ("shift_jis", "日本"),
            ("gb18030", WORD),
            ("big5", "中文"),
            ("euc_kr", "한국"),
        ):
            for declared in ("", f' encoding="{charset}"', " encoding='utf-8'", ' encoding="iso-8859-1" standalone="yes"'):
                body = XML.format(declared, word).encode(charset)
                self.assertEqual(self.read(body, charset), word, (charset, declared))

    def test_the_http_charset_overrides_the_document(self) -> None:
        self.assertEqual(self.read(XML.format(' encoding="utf-8"', "é").encode("latin-1"), "latin_1"), "é")
        self.assertEqual(self.read(XML.format(' encoding="latin-1"', "é").encode("utf-8"), "utf_8"), "é")

    def test_byte_order_mark(self) -> None:
        self.assertEqual(self.read(b"\xef\xbb\xbf" + XML.format("", WORD).encode(), "utf_8"), WORD)
        self.assertEqual(self.read(b"\xef\xbb\xbf" + XML.format(' encoding="latin1"', WORD).encode(), "utf_8"), WORD)

    def test_invalid_bytes(self) -> None:
        for charset, body in (
            ("ascii", b"<a>\xe9</a>"),
            ("utf_8", b'<?xml version="1.0" encoding="latin-1"?>\xe9'),
            ("utf_16_le", b"abc"),
            ("utf_16_be", b"\xd8\x00\x00a"),
            ("shift_jis", b"\x81"),
        ):
            fault = self.assertRaises(ParseError, to_utf8, body, charset)
            self.assertIn("Content-Type", str(fault))
        self.assertRaises(ParseError, parse_call, to_utf8(b"<a>\xe9</a>", "utf_8"))

    def test_long_blanks_cost_nothing(self) -> None:
        body = b"<?xml " + b" " * 2**20 + b"?>"
        self.assertEqual(to_utf8(body, "latin_1"), body)


class WeightTests(SynchronousTestCase):
    def test_takes_gzip(self) -> None:
        for accepted in (
            "gzip",
            "x-gzip",
            "GZIP",
            "gzip, deflate, br",
            "deflate, gzip;q=1.0, *;q=0.5",
            "*",
            "br;q=1, *;q=0.1",
            "gzip;q=0.001",
            "identity;q=0.5, gzip;q=0.5",
            "identity;q=0, *",
            "gzip ; q=1",
            "gzip;Q=0.5",
            "x, gzip",
        ):
            self.assertTrue(takes_gzip(accepted), accepted)

    def test_does_not_take_gzip(self) -> None:
        for accepted in (
            "",
            "identity",
            "br",
            "gzip;q=0",
            "gzip;q=0.000",
            "*;q=0",
            "gzip;q=0, *",
            "gzip;q=0.5, identity",
            "gzip;q=2",
            "gzip;q=-1",
            "gzip;q=x",
            "gzip;x=1",
            "identity;q=1, *;q=0.5",
            "notgzip",
            "gzip gzip",
        ):
            self.assertFalse(takes_gzip(accepted), accepted)

    def test_several_headers(self) -> None:
        found = form_of(Headers({"Accept-Encoding": ["br", "gzip;q=0.5"]}))
        self.assertEqual(found, Form("", True))


class Marking:
    """A fake compressor that marks the documents."""

    def compress(self, document: bytes, address: str) -> Any:
        return succeed(b"compressed for " + address.encode() + b": " + document)


class CallTests(SiteTests):
    """Each request is sent three times: parsed first, then found by its cached head, which is another path in the code."""

    def kept(self, *requests: bytes) -> list[tuple[int, bytes]]:
        site = self.site()
        self.patch(site.calls, "_compressor", Marking())
        channel, transport = self.connect(site)
        for request in requests * 3:
            channel.dataReceived(request)
        found = [(code, body) for code, _, body in answers(transport.value())]
        self.assertEqual(found[: len(requests)], found[len(requests) : 2 * len(requests)])
        return found[: len(requests)]

    def test_calls_of_one_connection_can_have_different_forms(self) -> None:
        kinds = {b"utf-8": b"\xc3\xa9", b"iso-8859-1": b"\xe9", b"utf-16le": b"\xe9\0"}
        requests = [
            post(body, b"Content-Type: text/xml; charset=%s\r\n%s" % (name, accepted))
            for name, body in kinds.items()
            for accepted in (b"", b"Accept-Encoding: gzip\r\n")
        ]
        plain = render_answer(2)
        self.assertEqual(self.kept(*requests), [(200, plain), (200, b"compressed for 10.0.0.1: " + plain)] * 3)
        self.assertEqual(set(self.dispatcher.bodies), {b"\xc3\xa9"})

    def test_refused(self) -> None:
        ((code, body),) = self.kept(post(headers=b"Content-Type: text/xml; charset=rot13\r\n"))
        self.assertEqual((code, b"UTF-8" in body), (415, True))
        self.assertEqual(self.dispatcher.bodies, [])
        ((code, body),) = self.kept(post(b"\xe9", b"Content-Type: text/xml; charset=us-ascii\r\n"))
        fault = self.assertRaises(xmlrpc.client.Fault, xmlrpc.client.loads, body)
        self.assertEqual((code, fault.faultCode), (200, -32700))

    def test_uncompressed_answers(self) -> None:
        for headers in (b"", b"Accept-Encoding: gzip;q=0\r\n", b"Accept-Encoding: identity\r\n"):
            ((_, body),) = self.kept(post(headers=headers))
            self.assertEqual(body, render_answer(len(CALL)))
        self.assertIsNone(self.site().calls._compressor)
        self.assertEqual(self.site().calls.call(CALL, Peer("a"), Form("", True)), render_answer(len(CALL)))

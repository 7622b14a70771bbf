"""The charset of a call and the compression of its answer, from the HTTP headers."""

from __future__ import annotations

import re
from encodings.aliases import aliases
from typing import Any, NamedTuple

from fluidvm.model.faults import ParseError

# Python's own list has codecs that are not charsets, and some that are slow or unsafe. Looking up an unknown name leaks
# memory.
_CODECS = (
    "utf_8",
    "utf_16",
    "utf_16_be",
    "utf_16_le",
    "utf_32",
    "utf_32_be",
    "utf_32_le",
    "ascii",
    "latin_1",
    "koi8_r",
    "koi8_u",
    "shift_jis",
    "euc_jp",
    "euc_kr",
    "gb2312",
    "gbk",
    "gb18030",
    "big5",
    *(f"iso8859_{part}" for part in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16)),
    *(f"cp125{page}" for page in range(9)),
)
_CHARSETS = {name: name for name in _CODECS} | {alias: codec for alias, codec in aliases.items() if codec in _CODECS}
_PARAMETER = re.compile(r";[ \t]*charset[ \t]*=[ \t]*(\"[^\"]*\"|[^;\"]*)", re.IGNORECASE)
# The encoding in an XML declaration, and the text before it.
_DECLARED = re.compile(r"(<\?xml[ \t\r\n][^>]{0,100}?)[ \t\r\n]+encoding[ \t\r\n]*=[ \t\r\n]*(?:\"[^\">]*\"|'[^'>]*')")
_UTF8 = re.compile(rb"<\?xml[^>]{0,100}?encoding[ \t\r\n]*=[ \t\r\n]*[\"'](?i:utf-8)[\"']")
_LONGEST_DECLARATION = 300
_WEIGHT = re.compile(r"[qQ][ \t]*=[ \t]*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)")


class Form(NamedTuple):
    """
    The form of a call and of its answer.

    @ivar charset: the charset of the body, by its Python name; empty: the document declares it.
    @ivar gzip: whether the answer may be compressed.
    """

    charset: str = ""
    gzip: bool = False


PLAIN_FORM = Form()


def form_of(headers: Any) -> Form | None:
    """
    Read a request's headers.

    @param headers: those of twisted.web.
    @return: C{None} if the charset is unknown.
    """
    kinds = headers.getRawHeaders(b"Content-Type", ())
    found = _PARAMETER.search(kinds[0].decode("latin-1")) if kinds else None
    charset = ""
    if found is not None:
        word = re.sub("[^a-z0-9]+", "_", found[1].strip(' \t"').lower())
        if word not in _CHARSETS:
            return None
        charset = _CHARSETS[word]
    accepted = b",".join(headers.getRawHeaders(b"Accept-Encoding", ()))
    return Form(charset, bool(accepted) and takes_gzip(accepted.decode("latin-1")))


def takes_gzip(accepted: str) -> bool:
    """
    Tell whether the client accepts a compressed answer, and does not prefer an uncompressed one.

    @param accepted: a header C{Accept-Encoding} (RFC 9110, section 12.5.3).
    """
    weights: dict[str, float] = {}
    for element in accepted.split(","):
        coding, _, parameter = element.partition(";")
        weight = _WEIGHT.fullmatch(parameter.strip())
        if weight is not None or not parameter.strip():
            weights[coding.strip().lower().removeprefix("x-")] = 1.0 if weight is None else float(weight[1])
    gzip = weights.get("gzip", weights.get("*", 0.0))
    return gzip > 0 and gzip >= weights.get("identity", 0.0)


def to_utf8(body: bytes, charset: str) -> bytes:
    """
    Convert a document to UTF-8. The charset in the HTTP header overrides the one in the document (RFC 7303, section 3.2).

    @param charset: its Python name.
    @raise ParseError: the document is not valid in that charset.
    """
    head = body[:_LONGEST_DECLARATION]
    if charset == "utf_8" and (b"encoding" not in head or _UTF8.match(head)):
        return body  # the parser reports invalid UTF-8
    try:
        text = body.decode(charset).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ParseError(
            f"The request is not valid in the charset of its Content-Type: byte {error.start + 1} can't be decoded."
        ) from None
    declared = _DECLARED.match(text[:_LONGEST_DECLARATION])
    if declared is not None:
        text = declared[1] + text[declared.end() :]
    return text.encode("utf-8", "surrogatepass")

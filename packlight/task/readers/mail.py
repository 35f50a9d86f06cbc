"""The words that a reader of an e-mail sees: no headers, no markup, no attachments."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from email.errors import MessageError
from email.message import Message
from email.parser import HeaderParser, Parser

_MOST_MARKUP = 200_000  # characters of one part that are looked at
_ENCODINGS = ("quoted-printable", "base64", "x-uuencode", "uuencode", "uue", "x-uue")
# Character sets that mails come in; Python knows others that are no character sets, and slow ones.
_CHARSET = re.compile(
    r"us-ascii|utf-?8|iso-?8859-\d\d?|(windows-|cp)125\d|koi8-[ru]|big5|gb(2312|k|18030)|euc-(kr|jp)|"
    r"ks_c_5601-1987|iso-2022-(jp|kr)|shift_jis"
)
_HIDDEN = [(re.compile(start, re.IGNORECASE), re.compile(end, re.IGNORECASE)) for start, end in (
    ("<!--", "-->"), (r"<script\b", "</script>"), (r"<style\b", "</style>"), (r"<head\b", "</head>"),
)]  # fmt: skip
_CONTENT_HEADER = re.compile(r"^content-.*(?:\n[ \t].*)*", re.IGNORECASE | re.MULTILINE)
_BREAK = re.compile(r"<(?:br|p|/p|div|/div|tr|/tr|td|/td|li|h[1-6])\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"<[^<>]*>")


def visible_text(mail: str) -> str:
    """The readable text of a raw mail (RFC 5322, MIME): headers stripped, transfer encodings and character sets
    decoded, HTML without its tags, attachments left out. "" where nothing can be read.

    Of alternatives the plain one is taken. A mail that names no known character set is read as Latin-1.
    """
    mail = mail.encode(errors="replace").decode()  # no lone surrogates
    head, _, body = mail.replace("\r\n", "\n").partition("\n\n")
    content_headers = "\n".join(_CONTENT_HEADER.findall(head))
    message = HeaderParser().parsestr(content_headers)
    try:
        if message.get_content_maintype() in ("multipart", "message"):
            message = Parser().parsestr(f"{content_headers}\n\n{body}")
        else:
            message.set_payload(body)
        return "\n".join(_texts(message)).strip()
    except (MessageError, RecursionError):  # hopeless MIME structure: what stands below the headers is the text
        return body.strip()


def _texts(message: Message) -> Iterator[str]:
    if message.is_multipart():
        parts = [part for part in message.get_payload() if isinstance(part, Message)]
        if message.get_content_subtype() == "alternative":
            parts = _plainest(parts)
        for part in parts:
            yield from _texts(part)
    elif message.get_content_maintype() in ("text", "multipart") and message.get_content_disposition() != "attachment":
        text = _decoded(message)
        yield _without_tags(text) if _is_html(message, text) else text


def _plainest(parts: list[Message]) -> list[Message]:
    plain = [part for part in parts if part.get_content_type() == "text/plain" and _decoded(part).strip()]
    return plain[:1] or parts[-1:]


def _decoded(message: Message) -> str:
    """A text part without its transfer encoding; one that has none is text already."""
    payload = message.get_payload()
    if str(message.get("content-transfer-encoding", "")).strip().lower() not in _ENCODINGS:
        return str(payload)
    content = message.get_payload(decode=True)
    assert isinstance(content, bytes)  # decode=True of a part that is not multipart
    charset = message.get_content_charset() or ""
    return content.decode(charset if _CHARSET.fullmatch(charset) else "latin-1", errors="replace")


def _is_html(message: Message, text: str) -> bool:
    return message.get_content_subtype() == "html" or text.lstrip()[:6].lower() == "<html>"


def _without_tags(markup: str) -> str:
    markup = markup[:_MOST_MARKUP]
    for start, end in _HIDDEN:
        markup = _without(markup, start, end)
    return html.unescape(_TAG.sub("", _BREAK.sub(" ", markup)))


def _without(text: str, start: re.Pattern[str], end: re.Pattern[str]) -> str:
    """The text without what stands from each `start` to the next `end`; an open end leaves the rest as it is."""
    kept, position = [], 0
    while (begin := start.search(text, position)) and (stop := end.search(text, begin.end())):
        kept.append(text[position : begin.start()])
        position = stop.end()
    return " ".join([*kept, text[position:]])

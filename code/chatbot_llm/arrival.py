"""Whether a request has come whole, judged from the bytes that are here: so that no thread waits for the rest.

Says nothing about right and wrong. What cannot be judged counts as whole: the server's parser then refuses it.
"""

import re
from enum import Enum, auto

_LENGTH = re.compile(rb"^content-length:[ \t]*(\d{1,18})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
# Any other coding is refused by the parser.
_CHUNKED = re.compile(rb"^transfer-encoding:[ \t]*chunked[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_EXPECTS = re.compile(rb"^expect:[ \t]*100-continue", re.IGNORECASE | re.MULTILINE)
#: Longest chunk-size line that may still be on its way, bytes.
_SIZE_LINE = 256


class Arrival(Enum):
    PARTIAL = auto()
    #: The client wants "100 Continue" before it sends the body.
    EXPECTS = auto()
    WHOLE = auto()
    #: The body is larger than allowed: answer now, do not read it.
    TOO_LARGE = auto()


def judge(data: bytes, most_head: int, most_body: int) -> Arrival:
    """How far a request is that begins with `data`. Sizes are bytes."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return Arrival.WHOLE if len(data) > most_head else Arrival.PARTIAL
    head, body = data[: end + 2], end + 4
    if _CHUNKED.search(head):
        state = _chunks(data, body, most_body)
    else:
        length = _LENGTH.search(head)
        state = _sized(int(length[1]) if length else 0, len(data) - body, most_body)
    if state is Arrival.PARTIAL and _EXPECTS.search(head):
        return Arrival.EXPECTS
    return state


def _sized(length: int, here: int, most: int) -> Arrival:
    if length > most:
        return Arrival.TOO_LARGE
    return Arrival.WHOLE if here >= length else Arrival.PARTIAL


def _chunks(data: bytes, at: int, most: int) -> Arrival:
    """Walk the chunks of RFC 9112 section 7.1."""
    if len(data) - at > 2 * most + _SIZE_LINE:
        return Arrival.TOO_LARGE
    while True:
        line = data.find(b"\r\n", at)
        if line < 0:
            return Arrival.WHOLE if len(data) - at > _SIZE_LINE else Arrival.PARTIAL
        digits = data[at:line].split(b";")[0].strip()
        if not re.fullmatch(rb"[0-9a-fA-F]{1,16}", digits):
            return Arrival.WHOLE
        size = int(digits, 16)
        if size > most:
            return Arrival.TOO_LARGE
        if size == 0:
            return Arrival.WHOLE if data.find(b"\r\n\r\n", line) >= 0 else Arrival.PARTIAL
        at = line + 2 + size + 2
        if at > len(data):
            return Arrival.PARTIAL

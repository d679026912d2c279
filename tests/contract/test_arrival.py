"""Judging whether a request is here whole, byte by byte."""

from __future__ import annotations

import pytest

from chatbot_llm.arrival import Arrival, judge

HEAD, BODY = 1000, 100

GET = b"GET /health HTTP/1.1\r\nHost: t\r\n\r\n"
SIZED = b"POST /chat HTTP/1.1\r\nHost: t\r\ncontent-length:  7\r\n\r\n{'a':1}"
CHUNKED = b"POST /chat HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\n{\r\n\r\r\n3\r\n:1}\r\n0\r\n\r\n"
TRAILED = CHUNKED[:-2] + b"Digest: none\r\n\r\n"


@pytest.mark.parametrize("request_", [GET, SIZED, CHUNKED, TRAILED])
def test_a_request_is_whole_with_its_last_byte_and_not_before(request_: bytes) -> None:
    for end in range(len(request_)):
        assert judge(request_[:end], HEAD, BODY) is Arrival.PARTIAL, request_[:end]
    assert judge(request_, HEAD, BODY) is Arrival.WHOLE
    assert judge(request_ + GET, HEAD, BODY) is Arrival.WHOLE, "what follows belongs to the next request"


def head(*lines: str) -> bytes:
    return "\r\n".join(["POST /chat HTTP/1.1", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    "data",
    [
        head(f"Content-Length: {BODY + 1}"),
        head("Transfer-Encoding: chunked") + b"65\r\n",
        head("Transfer-Encoding: chunked") + b"1\r\na\r\n" * 500,
    ],
)
def test_a_body_that_is_too_large_is_known_by_its_head(data: bytes) -> None:
    assert judge(data, HEAD, BODY) is Arrival.TOO_LARGE


@pytest.mark.parametrize(
    "data",
    [
        b"x" * (HEAD + 1),
        head("Content-Length: many"),
        head("Transfer-Encoding: chunked") + b"-5\r\n",
        head("Transfer-Encoding: chunked") + b"zz\r\n",
        head("Transfer-Encoding: chunked") + b"1" * 300,
    ],
)
def test_what_cannot_be_judged_is_left_to_the_parser_that_refuses_it(data: bytes) -> None:
    assert judge(data, HEAD, BODY) is Arrival.WHOLE


def test_a_client_that_expects_to_be_told_is_recognised_until_its_body_is_here() -> None:
    asking = head("Expect: 100-Continue", "Content-Length: 3")
    assert judge(asking, HEAD, BODY) is Arrival.EXPECTS
    assert judge(asking + b"abc", HEAD, BODY) is Arrival.WHOLE
    assert judge(head("Expect: 100-continue"), HEAD, BODY) is Arrival.WHOLE

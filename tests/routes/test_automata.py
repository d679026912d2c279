"""The worst patterns and schemas that are accepted, on the real engine: costly, and yet nobody else waits for them."""

import json
from typing import Any

import pytest

from callers import Later
from launcher import Service

pytestmark = pytest.mark.engine

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0}
_DOUBLING = "root ::= r0\n" + "".join(f"r{n} ::= r{n + 1} r{n + 1}\n" for n in range(20)) + 'r20 ::= "a"'
#: Each at the limits of chatbot_llm/routes/validation.py, or of a kind known to explode.
WORST: dict[str, Any] = {
    "optionals": {"regex": ".?" * 20},
    "empty alternatives": {"regex": "(.|)" * 10},
    "a counted dot": {"regex": ".{0,128}"},
    "a late choice": {"regex": "(a|b)*a(a|b){20}"},
    "nested loops": {"regex": "((a+)+b?)+c"},
    "loops counted": {"regex": "(.*[a-z].*){60}"},
    "rules that double": {"grammar": _DOUBLING},
    "a rule that calls itself": {"grammar": 'root ::= root "a" | "b"'},
    "rules that match nothing": {"grammar": "root ::= a*\na ::= b*\nb ::= a*"},
    "arrays in arrays": {"json": {"type": "array", "maxItems": 1000, "items": {"type": "array", "maxItems": 1000}}},
    "long strings": {"json": {"properties": {f"p{n}": {"type": "string", "maxLength": 10_000} for n in range(50)}}},
    "references that double": {
        "json": {
            "$ref": "#/$defs/d0",
            "$defs": {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)} | {"d40": {}},
        }
    },
    "for the second backend": {"json": {"properties": {"a": {"pattern": "(.*[a-z].*){60}", "minLength": 3}}}},
}


def ask(server: Service, constraint: dict[str, Any]) -> int:
    return server.call("POST", "/chat", {**CHAT, "structured_outputs": constraint}, timeout=240).status


@pytest.mark.timeout(600)
def test_nobody_waits_for_somebody_elses_automaton(server: Service) -> None:
    later = {name: Later(lambda constraint=constraint: ask(server, constraint)) for name, constraint in WORST.items()}
    for _ in range(5):
        answer = server.call("POST", "/chat", CHAT)
        assert answer.status in (200, 429), "a plain chat is served meanwhile"
        health = server.call("GET", "/health")
        assert health.status == 200 and health.seconds < 5
    statuses = {name: answer.get(240) for name, answer in later.items()}
    assert set(statuses.values()) <= {200, 400, 429}, json.dumps(statuses)
    server.wait_idle()
    assert server.call("POST", "/chat", CHAT).status == 200

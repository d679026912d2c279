"""What a schema costs is measured in a helper, with the real library and the bundled model's tokenizer."""

import asyncio
import json
import os
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from chatbot_llm.engine import weights
from chatbot_llm.engine.schema_check import SchemaCheck
from chatbot_llm.engine.schema_helper import COMPILE_S, WALK_S
from chatbot_llm.errors import BadRequest

pytestmark = pytest.mark.engine

Trial = Callable[[SchemaCheck], Coroutine[Any, Any, Any]]
Run = Callable[..., list[Any]]


def optional(number: int, **more: Any) -> dict[str, Any]:
    properties = {f"p{at}": {"type": "string"} for at in range(number)}
    return {"type": "object", "properties": properties, "additionalProperties": False, **more}


#: Would take seconds before the first token.
HOSTILE = {"const": "x" * 100_000}
SMALL = optional(2)
UUID = (
    "^([0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[1-8][0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}|0{8}(-0{4}){3}-0{12})$"
)


def tools(*schemas: Any, **more: Any) -> dict[str, Any]:
    listed = [
        {"type": "function", "function": {"name": f"f{at}", "parameters": schema, **more}}
        for at, schema in enumerate(schemas)
    ]
    return {"tools": listed}


def wanted(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


@contextmanager
def checking() -> Iterator[Run]:
    """What runs trials one after the other with one helper; afterwards no process is left of it."""
    before = set(psutil.Process().children(recursive=True))
    with asyncio.Runner() as runner:
        check = SchemaCheck(str(weights.bundled(os.environ.get("CHATBOT_CACHE_DIR", ""))))
        try:
            yield lambda *trials: [runner.run(trial(check)) for trial in trials]
        finally:
            runner.run(check.close())
    psutil.wait_procs(left := set(psutil.Process().children(recursive=True)) - before, timeout=5)
    assert not [process for process in left if process.is_running()]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with checking() as started:
        yield started


def helper_process() -> psutil.Process:
    """The newest helper among this process's children, which may be services, too."""
    return [one for one in psutil.Process().children() if any("schema_helper" in word for word in one.cmdline())][-1]


def test_the_helper_does_without_torch(run: Run) -> None:
    """It would be two thirds of its start and of its memory."""
    run(outcome(wanted(SMALL)))
    mapped = [part.path for part in helper_process().memory_maps()]
    assert any("llguidance" in path for path in mapped) and not [path for path in mapped if "torch" in path]


def outcome(body: dict[str, Any]) -> Trial:
    """The message with which a body is refused, or the tools whose schemas are not enforced."""

    async def ask(check: SchemaCheck) -> Any:
        try:
            return await check.admit(body)
        except BadRequest as refused:
            return f"{refused.param} | {refused.message}"

    return ask


def test_honest_schemas_are_enforced(run: Run) -> None:
    honest = {
        "small": SMALL,
        "uuid": {"properties": {"id": {"type": "string", "format": "uuid", "pattern": UUID}}},
        "bounded": {"type": "string", "maxLength": 65_536},
        "different lengths": {"properties": {f"p{at}": {"type": "string", "maxLength": 50 + at} for at in range(40)}},
        "enum": {"enum": [f"value {at}" for at in range(1_000)]},
        "many": optional(100),
        "recursive": {"$ref": "#/$defs/n", "$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}},
        "money": {"type": "number", "multipleOf": 0.01, "minimum": 0, "maximum": 1e15},
        "length beside a pattern": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 30},
        "a union": {
            "oneOf": [{"properties": {"k": {"const": one}}, "required": ["k"], "type": "object"} for one in "ab"]
        },
    }
    found = run(*(outcome(wanted(schema)) for schema in honest.values()))
    assert dict(zip(honest, found, strict=True)) == dict.fromkeys(honest, frozenset())


#: What must be obeyed and cannot be, and a word of the reason.
IMPOSSIBLE: list[tuple[Any, str]] = [
    ({"$ref": "#"}, "nothing can satisfy it"),
    ({"properties": {"a": {"enum": []}}, "required": ["a"], "type": "object"}, "nsatisfiable"),
    ({"type": "string", "minLength": 5, "maxLength": 2}, "minLength (5)"),
    ({"type": "string", "pattern": "("}, "unclosed group"),
    ({"type": "string", "format": "iri"}, "Unknown format: iri"),
    ({"type": "array", "items": {"type": "array", "uniqueItems": True}}, '["uniqueItems"]'),
    ({"not": {"type": "string"}}, '["not"]'),
    (optional(300, minProperties=150, maxProperties=290), "min/maxProperties"),
    ({"type": "integer", "multipleOf": 999_983}, "CPU time"),
    ({"anyOf": [optional(4, title=str(at)) for at in range(1_000)]}, "CPU time"),
    (HOSTILE, "CPU time"),
]


def test_what_must_be_obeyed_and_cannot_be_is_refused_by_name(run: Run) -> None:
    bodies = [body for schema, _ in IMPOSSIBLE for body in (wanted(schema), tools(schema, strict=True))]
    for at, message in enumerate(run(*map(outcome, bodies))):
        assert isinstance(message, str) and IMPOSSIBLE[at // 2][1] in message, (IMPOSSIBLE[at // 2], message)
        assert message.startswith(("response_format.json_schema.schema | ", "tools[0].function.parameters | "))


def test_a_pattern_that_costs_too_much_is_quoted(run: Run) -> None:
    pattern = "(.?){60}x" + ".?" * 60
    (message,) = run(outcome(wanted({"properties": {"a": {"type": "string", "pattern": pattern}, "b": {}}})))
    assert pattern[:100] in message


def test_a_hint_is_never_a_reason_to_refuse(run: Run) -> None:
    hints = [SMALL, HOSTILE, {"$ref": "#"}, {"type": "string", "minLength": -5}, {"not": {}}]
    assert run(outcome(tools(*hints)), outcome({**tools(HOSTILE), "tool_choice": "none"})) == [
        {1, 2, 3, 4},
        frozenset(),
    ]


def test_tools_whose_schemas_together_cost_too_much_are_not_all_enforced(run: Run) -> None:
    def large(at: int) -> dict[str, Any]:
        return {"enum": [f"{at} {n}" for n in range(9_000)]}

    async def all_tried(check: SchemaCheck) -> tuple[int, frozenset[int]]:
        alone = (await check.verdict("json", json.dumps(large(0)))).cpu_s
        count = int(2 * COMPILE_S / alone)  # what one costs is this machine's
        return count, await outcome(tools(SMALL, *map(large, range(count))))(check)

    ((count, free),) = run(all_tried)
    assert free and 0 not in free and len(free) < count


@pytest.mark.parametrize(
    ("kind", "text", "sound"),
    [
        ("grammar", "root ::= root", False),
        ("grammar", 'root ::= "a" | "b"', True),
        ("regex", "[a-z]{1,10}", True),
        ("regex", ".?" * 80, True),
        ("regex", "(a", False),
        ("choice", '["yes", "no", "\\"quoted\\""]', True),
    ],
)
def test_raw_grammars_are_measured_too_where_they_are_allowed(run: Run, kind: str, text: str, sound: bool) -> None:
    (verdict,) = run(lambda check: check.verdict(kind, text))
    assert (not verdict.problem) is sound


def test_a_small_schema_does_not_wait_for_hostile_ones(run: Run) -> None:
    """Only as long as trials may cost: CPU seconds, so it is the same on a busy machine."""

    async def beside(check: SchemaCheck) -> float:
        def ended_s() -> float:
            times = helper.cpu_times()
            return float(times.children_user + times.children_system)

        await check.admit(wanted(optional(3)))
        helper = helper_process()
        before = ended_s()
        attack = [asyncio.ensure_future(outcome(wanted({**HOSTILE, "title": str(at)}))(check)) for at in range(4)]
        await asyncio.sleep(0.1)
        await check.admit(wanted(SMALL))
        cost = ended_s() - before
        for one in attack:
            one.cancel()
        await asyncio.gather(*attack, return_exceptions=True)
        return cost

    assert run(beside)[0] < 5 * (COMPILE_S + WALK_S)


def test_a_trial_ends_with_its_request_and_the_next_one_begins(run: Run) -> None:
    async def leave(check: SchemaCheck) -> tuple[int, float]:
        await check.admit(wanted(SMALL))
        helper = helper_process()
        for at in range(3):
            gone = asyncio.ensure_future(check.admit(wanted({**HOSTILE, "title": f"to be left {at}"})))
            while not gone.done() and not helper.children():
                await asyncio.sleep(0.01)
            assert not gone.done()
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            await asyncio.sleep(0.3)
        begun = time.monotonic()
        await check.admit(wanted(optional(4)))
        took = time.monotonic() - begun
        await asyncio.sleep(0.3)
        return len(helper.children()), took

    left, took = run(leave)[0]
    assert left == 0 and took < 1


def test_the_helper_comes_back_when_it_has_been_killed(run: Run) -> None:
    async def kill(check: SchemaCheck) -> Any:
        await check.admit(wanted(SMALL))
        helper_process().kill()
        return await check.admit(wanted(optional(5)))

    assert run(kill) == [frozenset()]


def test_the_helper_holds_no_socket_and_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATBOT_API_KEYS", "secret-0123456789abcdef")

    async def look(check: SchemaCheck) -> tuple[list[str], str]:
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            await check.admit(wanted(SMALL))
            helper = helper_process()
            folder = f"/proc/{helper.pid}/fd"
            # 0 and 1 are its line to this process.
            opened = [os.readlink(f"{folder}/{at}") for at in os.listdir(folder) if int(at) > 1]
            return opened, json.dumps(helper.environ())

    with checking() as started:
        ((opened, environment),) = started(look)
    assert not [one for one in opened if one.startswith("socket")]
    assert "secret-0123456789abcdef" not in environment


def test_verdicts_are_remembered(run: Run) -> None:
    async def twice(check: SchemaCheck) -> float:
        await check.verdict("json", json.dumps(SMALL))
        begun = time.monotonic()
        await check.verdict("json", json.dumps(SMALL))
        return time.monotonic() - begun

    assert run(twice)[0] < 0.01

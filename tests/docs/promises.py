"""The tables of promises in tests/README.md and README.md: what is promised, what was measured, by which tests.

The figures are figures.json, which `make figures` writes and nobody types; `{name}` stands for one, see figures.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).with_name("figures.json")
#: What stands in the table where holding is all there is to measure.
HOLDS = "–"
#: Seconds below this are not told apart.
TICK_S = 0.01


class Promise(NamedTuple):
    text: str
    measured: str
    #: pytest ids: files with the name of a test, or a folder.
    tests: tuple[str, ...]


CONTRACT = "tests/contract/test_"
OVERLOAD, DISCONNECTS, DEATH = (f"{CONTRACT}{name}.py::test_" for name in ("overload", "disconnects", "engine_death"))
DRAIN, FREEZE, FC = (f"{CONTRACT}{name}.py::test_" for name in ("drain", "freeze", "fc"))
SLOW, DEADLINES, REAL = (f"{CONTRACT}{name}.py::test_" for name in ("slow_clients", "deadlines", "real_engine_faults"))
OPENAI = "tests/engine/test_openai_client.py::test_"
PROTOCOLS = "tests/engine/test_real_protocols.py::test_"
SECURITY = "tests/security/test_"
RAG = "tests/rag/test_"

PROMISES = (
    Promise(
        "Too many callers: each of 16 times the capacity gets exactly one answer, `200` or `429` with `Retry-After`; "
        "`/health` keeps answering, memory and threads stay flat, throughput stays",
        "{overload_clients} for {overload_span}: {overload_200} `200`, {overload_429} `429`, nothing else; `/health` "
        "within {overload_health}; throughput {overload_throughput} of that without the crowd; memory "
        "{overload_memory:+}; {overload_threads} at most",
        (f"{OVERLOAD}sixteen_times_the_capacity_gets_exactly_one_answer_each",),
    ),
    Promise(
        "Many streams at once lose nothing",
        "{streams_whole} whole",
        (f"{OVERLOAD}three_hundred_streams_at_once_lose_nothing",),
    ),
    Promise("First come, first served", "all {in_turn} in their order", (f"{OVERLOAD}first_come_first_served",)),
    Promise(
        "`Retry-After` is measured, not guessed",
        HOLDS,
        (f"{OVERLOAD}retry_after_follows_the_measured_service_time",),
    ),
    Promise(
        "At its deadline a request ends with what there is, as a valid object or stream, and its KV cache is free",
        "whole {late} after the deadline; with vLLM {vllm_late}, its cache free {vllm_late_cache} after the answer",
        (
            f"{DEADLINES}the_partial_answer_is_a_valid_object",
            f"{REAL}a_deadline_gives_the_partial_text_and_frees_the_cache",
            f"{OPENAI}the_deadline_returns_partial_text_and_frees_the_cache",
        ),
    ),
    Promise(
        "A client that hangs up, silent or streaming, frees its slot within half a second",
        "silent {freed_silent}, streaming {freed_streaming}; with vLLM {vllm_freed}, its cache {vllm_freed_cache}",
        (f"{DISCONNECTS}a_client_that_leaves_frees_its_slot_at_once", f"{REAL}a_client_that_leaves_frees_vllm_too"),
    ),
    Promise(
        "Half-open and slow clients hold no slot and harm nobody",
        "`/health` within {slow_health.most} beside {slow_held.most} that stall, six ways, and {idle_health.most} "
        "beside {idle_held}; who reads nothing is cut after {reads_nothing_cut}, allowed are {reads_nothing_limit}",
        (
            f"{SLOW}a_crowd_that_never_finishes_its_requests_harms_nobody",
            f"{SLOW}more_idle_connections_than_the_service_has_room_for_shut_nobody_out",
            f"{DISCONNECTS}a_client_that_reads_nothing_is_cut_off",
        ),
    ),
    Promise(
        "Bad inputs of any kind are answered or cut off, never with a fault of ours, and leave nothing behind",
        "{fuzz_inputs.total}, memory up to {fuzz_memory.most:+}",
        ("tests/fuzz",),
    ),
    Promise(
        "A dead engine (killed, out of memory): `/health` reports it within a second, everybody inside is answered, "
        "the process ends within 5 s with a status that is not 0, a new one serves on the same port",
        "`/health` after {death_noticed}, the process has ended after {death_ended}; vLLM killed {vllm_death_noticed} "
        "and {vllm_death_ended}, vLLM out of memory {memory_noticed} and {memory_ended}",
        (
            f"{DEATH}everybody_inside_is_told_and_the_process_ends",
            f"{DEATH}after_a_death_a_new_process_serves_on_the_same_port",
            f"{REAL}kill_9_of_the_engine_process",
            f"{REAL}a_card_that_runs_out_of_memory",
        ),
    ),
    Promise(
        "An engine that hangs is noticed within 30 s and ends the same way",
        "noticed after {hang_noticed}, the process has ended after {hang_ended}",
        (
            f"{DEATH}everybody_inside_is_told_and_the_process_ends",
            f"{DEATH}a_hang_is_noticed_within_thirty_seconds",
            f"{REAL}an_engine_process_that_hangs",
        ),
    ),
    Promise(
        "A failure while loading is the answer to `/initialize`, with its reason",
        HOLDS,
        (f"{DEATH}a_failure_while_loading_is_the_answer_to_initialize",),
    ),
    Promise(
        "Going down: what runs is finished, at the limit cut short with notice, nothing new is begun, exit status 0",
        "`/pre-stop` answers {drained} after the last answer, the process ends in {drained_exit}; at the limit all are "
        "answered {drain_cut_late} after it",
        (
            f"{DRAIN}pre_stop_lets_everything_finish_and_refuses_the_rest",
            f"{DRAIN}at_the_limit_what_still_runs_is_cut_and_says_so",
        ),
    ),
    Promise(
        "No process is left behind, whatever was killed",
        "{killed_left} {killed_gone} after `kill -9`; with vLLM {vllm_killed_left} after {vllm_killed_gone}",
        (f"{DEATH}no_process_outlives_a_master_that_was_killed", f"{REAL}no_engine_process_is_orphaned"),
    ),
    Promise(
        "Frozen for any time, idle or amid answers: it goes on, and deadlines move with it",
        "{frozen} amid answers: the deadline came {frozen_moved} later, the stream was whole with all {frozen_words}; "
        "{frozen_idle} idle; with vLLM {vllm_frozen} amid a stream, and {vllm_frozen_idle} idle, five tokens within "
        "{vllm_woken} of waking",
        (
            f"{FREEZE}frozen_with_nobody_inside_it_serves_on",
            f"{FREEZE}frozen_amid_answers_they_go_on_and_deadlines_move",
            f"{REAL}frozen_amid_a_stream_it_goes_on",
            f"{REAL}frozen_with_nobody_inside_it_serves_on",
        ),
    ),
    Promise(
        "A model that answers garbage does not become ready",
        HOLDS,
        ("tests/routes/test_platform.py::test_garbage_from_the_engine_keeps_it_from_being_ready",),
    ),
    Promise(
        "No key, no answer; keys change without a gap",
        HOLDS,
        (
            f"{SECURITY}keys.py::test_without_the_right_key_nothing_is_told",
            f"{SECURITY}keys.py::test_rotation_has_no_gap",
        ),
    ),
    Promise(
        "A deployment tells Serverless Devs no key: neither its output nor its logs hold one",
        HOLDS,
        ("tests/infra/fc/test_serverless_devs.py::test_a_plain_key_reaches_neither_what_s_prints_nor_what_it_keeps",),
    ),
    Promise(
        "A secret in a header or body appears in no log, metric or error",
        HOLDS,
        (
            f"{SECURITY}secrets.py::test_a_secret_comes_out_nowhere",
            f"{SECURITY}secrets.py::test_a_secret_comes_out_of_the_real_engine_nowhere",
        ),
    ),
    Promise(
        "A body that asks for too much is refused before the engine sees it",
        HOLDS,
        ("tests/routes/test_validation.py::test_a_body_that_asks_for_too_much_is_refused",),
    ),
    Promise(
        "A document is text: no control token of the model and no marker of its template comes out of one",
        HOLDS,
        (
            f"{RAG}documents.py::test_no_control_token_of_the_model_comes_out_of_a_document",
            "tests/engine/test_real_documents.py::test_a_hostile_document_writes_no_control_token",
        ),
    ),
    Promise(
        "Citations are exact: what is called verbatim stands in both texts at the places told, whatever the script",
        HOLDS,
        (
            f"{RAG}citations.py::test_every_span_is_found_and_exact_in_both_texts",
            f"{RAG}citations.py::test_offsets_are_exact_for_every_text",
        ),
    ),
    Promise(
        "Hostile structured output (schemas, patterns, counts) is tried in another process and stops nobody's stream",
        "a neighbour's longest gap {hostile_schema_gap}, without them {neighbour_usual_gap}, vLLM on two cores",
        (
            "tests/engine/test_schemas.py::test_no_schema_makes_a_neighbour_wait",
            "tests/engine/test_schemas.py::test_the_work_ends_with_its_request",
        ),
    ),
    Promise(
        "Lifecycle routes are closed to the HTTP trigger",
        HOLDS,
        (f"{FC}nobody_reaches_the_lifecycle_through_the_trigger",),
    ),
    Promise(
        "Responses and Messages say what `/chat` says: the same text and counts, cut the same way",
        HOLDS,
        (
            f"{PROTOCOLS}text_and_counts_are_those_of_chat",
            f"{PROTOCOLS}a_conversation_with_tools_is_the_same_prompt",
            f"{PROTOCOLS}the_deadline_returns_partial_text_and_frees_the_engine",
        ),
    ),
    Promise(
        "Nothing of a request is kept after its answer, whatever it asks",
        HOLDS,
        (
            "tests/routes/test_protocols.py::test_a_thousand_requests_leave_nothing_behind",
            f"{PROTOCOLS}vllm_keeps_nothing_of_a_thousand_requests",
        ),
    ),
    Promise(
        "`/invoke` answers what the route answers",
        HOLDS,
        (
            "tests/routes/test_invoke.py::test_an_event_answers_what_the_route_answers",
            f"{OPENAI}an_event_says_the_same_as_the_route",
        ),
    ),
    Promise(
        "`s.yaml` and the service fit together, from start to end, as Function Compute runs them",
        HOLDS,
        (f"{FC}the_shipped_s_yaml_passes_the_rehearsal", f"{FC}a_wrong_s_yaml_fails_the_rehearsal"),
    ),
    Promise(
        "Requests really run together in the engine",
        "{batched} at once in vLLM",
        (f"{OPENAI}ten_requests_are_batched_in_the_engine",),
    ),
)


@dataclass(frozen=True)
class Figure:
    """The values of one name; in the table the only one, or the smallest and the largest."""

    values: tuple[float, ...]
    unit: str

    @property
    def most(self) -> Figure:
        return Figure((max(self.values),), self.unit)

    @property
    def total(self) -> Figure:
        return Figure((sum(self.values),), self.unit)

    def __format__(self, sign: str) -> str:
        ends = (min(self.values), max(self.values))
        short = (f"<{TICK_S}" if self.unit == "s" and value < TICK_S else _short(value, sign) for value in ends)
        shown = dict.fromkeys(short)
        return "–".join(shown) + (self.unit if self.unit == "%" else f" {self.unit}")


def _short(value: float, sign: str) -> str:
    """Two digits of what is small, and no fractions of what is large."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:{sign},.0f}"
    return f"{value:{sign}.2f}" if abs(value) < 1 else f"{value:{sign}.1f}"


def load() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def table() -> str:
    """All promises, with the tests that prove them."""
    figures = _figures()
    rows = ["| promise | measured | proven by |", "|---|---|---|"]
    for text, measured, tests in PROMISES:
        rows.append(f"| {text} | {measured.format(**figures)} | {', '.join(f'`{test}`' for test in tests)} |")
    return "\n".join([*rows, "", _machine()])


def short_table() -> str:
    """The promises that have figures."""
    figures = _figures()
    rows = [f"| {text} | {measured.format(**figures)} |" for text, measured, _ in PROMISES if measured != HOLDS]
    return "\n".join(["| promise | measured |", "|---|---|", *rows, "", _machine()])


def _figures() -> dict[str, Figure]:
    return {name: Figure(tuple(one["values"]), one["unit"]) for name, one in load()["figures"].items()}


def _machine() -> str:
    on = load()["measured"]
    vllm = next(version for name, version in on["versions"].items() if name.startswith("vllm"))
    return (
        f"Measured {on['when']} on {on['cores']} cores of {on['cpu']}, {on['memory_gib']:g} GiB, with Python "
        f"{on['python']} and vLLM {vllm}. Where a test measures more than once, both ends are given."
    )

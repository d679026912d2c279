"""The deployed function, from its start to its end: the real process under the FC double, as s.yaml says."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from fc import BadGateway, Ended, FunctionCompute, FunctionTimeout, StartFailed, Throttled, hurried

from callers import Answer, Later, chat_body
from launcher import until
from speakers import KINDS, PATHS, error_of, scripted, streamed, whole

Deploy = Callable[..., FunctionCompute]
Props = dict[str, Any]

#: The rehearsal's clock runs this much faster; a second's margin in s.yaml becomes 1/60 s.
HURRY = 60
ENDLESS = {"token_s": 0.05}


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "What is the capital of France?"}], **fields}


def rehearse_start(function: FunctionCompute) -> None:
    function.start_instance()
    preflight = function.http("OPTIONS", "/chat")
    assert preflight.status < 400, "a browser's preflight does not reach the service"


def rehearse_load(function: FunctionCompute) -> None:
    """As many endless requests at once as s.yaml allows: all run, all end well before the function's timeout."""
    rehearse_start(function)
    calls = [
        Later(lambda: function.http("POST", "/chat", chat_body(4096, **ENDLESS))) for _ in range(function.concurrency)
    ]
    until(lambda: function.service.health()["running"] == function.concurrency, "all of them run at once", 5)
    with pytest.raises(Throttled):
        function.http("GET", "/health")
    for answer in [call.get() for call in calls]:
        assert (answer.status, answer.finish) == (200, "length"), "the deadline's partial answer"
        assert answer.seconds < function.timeout_s


def rehearse_end(function: FunctionCompute) -> None:
    """The instance ends while a stream runs: it is cut in good order, within the platform's time."""
    rehearse_start(function)
    last = Later(lambda: function.stream("/chat", chat_body(4096, stream=True, **ENDLESS)))
    until(lambda: function.service.health()["running"] == 1, "a stream runs")
    ended = function.stop_instance()
    assert ended.pre_stop is not None, "/pre-stop was cut off"
    assert ended.exit_status == 0
    assert last.get().finish == "length" and last.get().done, "cut short without saying so"


@pytest.mark.parametrize("rehearse", [rehearse_load, rehearse_end])
def test_the_shipped_s_yaml_passes_the_rehearsal(
    deploy: Deploy, props: Props, rehearse: Callable[[FunctionCompute], None]
) -> None:
    rehearse(deploy(hurried(props, HURRY), script={"load_s": 1}))


def no_initializer(props: Props) -> None:
    del props["instanceLifecycleConfig"]["initializer"]


def empty_initializer(props: Props) -> None:
    props["instanceLifecycleConfig"]["initializer"]["handler"] = ""


def short_initializer(props: Props) -> None:
    props["instanceLifecycleConfig"]["initializer"]["timeout"] = 0.2


def wrong_health_path(props: Props) -> None:
    props["customContainerConfig"]["healthCheckConfig"]["httpGetUrl"] = "/healthz"


def wrong_port(props: Props) -> None:
    props["customContainerConfig"] |= {"port": 9000, "command": ["--port=8000", "--host=127.0.0.77"]}


def misspelt_setting(props: Props) -> None:
    props["environmentVariables"]["CHATBOT_DEADLINE"] = "350"


def no_preflight(props: Props) -> None:
    props["triggers"][0]["triggerConfig"]["methods"].remove("OPTIONS")


def more_requests_than_slots(props: Props) -> None:
    props["instanceConcurrency"] += 1


def deadline_after_timeout(props: Props) -> None:
    props["environmentVariables"]["CHATBOT_DEADLINE_S"] = str(props["timeout"] + 1)


def drain_after_pre_stop(props: Props) -> None:
    props["environmentVariables"]["CHATBOT_DRAIN_S"] = str(props["instanceLifecycleConfig"]["preStop"]["timeout"] + 1)


def no_pre_stop(props: Props) -> None:
    del props["instanceLifecycleConfig"]["preStop"]


@pytest.mark.parametrize(
    ("mistake", "rehearse", "error", "message"),
    [
        (no_initializer, rehearse_start, StartFailed, "check function health failed with status code 503"),
        (empty_initializer, rehearse_start, StartFailed, "check function health failed with status code 503"),
        (short_initializer, rehearse_start, StartFailed, "no answer within 0.2 s"),
        (wrong_health_path, rehearse_start, StartFailed, "status code 404"),
        (wrong_port, rehearse_start, StartFailed, "port 9000"),
        (misspelt_setting, rehearse_start, StartFailed, "CHATBOT_DEADLINE"),
        (no_preflight, rehearse_start, AssertionError, "preflight"),
        (more_requests_than_slots, rehearse_load, AssertionError, "all of them run at once"),
        (deadline_after_timeout, rehearse_load, FunctionTimeout, "the function ran for"),
        (drain_after_pre_stop, rehearse_end, AssertionError, "/pre-stop was cut off"),
        (no_pre_stop, rehearse_end, AssertionError, "/pre-stop was cut off"),
    ],
)
def test_a_wrong_s_yaml_fails_the_rehearsal(
    deploy: Deploy,
    props: Props,
    monkeypatch: pytest.MonkeyPatch,
    mistake: Callable[[Props], None],
    rehearse: Callable[[FunctionCompute], None],
    error: type[Exception],
    message: str,
) -> None:
    quick = hurried(props, HURRY)
    mistake(quick)
    if mistake is wrong_port:
        monkeypatch.setattr("fc.quotas.LISTEN_WITHIN_S", 3)
    monkeypatch.setattr("fc.TERM_GRACE_S", 1)
    with pytest.raises(error, match=message):
        rehearse(deploy(quick, script={"load_s": 1.5}))


@pytest.fixture
def function(deploy: Deploy, props: Props) -> FunctionCompute:
    made = deploy(props)
    made.start_instance()
    return made


def is_frozen(function: FunctionCompute) -> bool:
    return {process.status() for process in function.service.tree()} == {psutil.STATUS_STOPPED}


def test_frozen_between_requests_it_answers_on_the_connection_fc_has_kept(function: FunctionCompute) -> None:
    until(lambda: is_frozen(function), "frozen before the first request", 2)
    for _ in range(3):
        assert function.http("POST", "/chat", chat()).status == 200
        until(lambda: is_frozen(function), "frozen after a request", 2)


def test_the_trigger_streams(function: FunctionCompute) -> None:
    answer = function.stream("/chat", chat_body(20, stream=True, token_s=0.01))
    assert len(answer.words) == 20 and answer.done


@pytest.mark.parametrize("kind", KINDS)
def test_every_protocol_passes_the_trigger_and_the_event_call(function: FunctionCompute, kind: str) -> None:
    raw = function.http("POST", PATHS[kind], scripted(kind, 20, stream=True, token_s=0.01)).body.decode()
    assert streamed(kind, raw).pieces == 20
    sent = scripted(kind, 5) | ({"system": "Be brief."} if kind == "messages" else {})
    assert whole(kind, json.loads(function.invoke(json.dumps(sent).encode()))).completion == 5
    refused = json.loads(function.invoke(json.dumps({**sent, "think_harder": True}).encode()))
    assert error_of(kind, refused)["status"] == 400


def test_invoke_says_in_the_body_what_fc_drops(function: FunctionCompute) -> None:
    through_trigger: Answer = function.http("POST", "/chat", chat())
    event = json.loads(function.invoke(json.dumps(chat()).encode()))
    assert event["choices"] == through_trigger.json["choices"]
    refused = json.loads(function.invoke(json.dumps(chat(max_tokens=-1)).encode()))
    assert refused["error"]["status"] == 400
    assert "messages" in json.loads(function.invoke(b"{}"))["error"]["message"]


def test_nobody_reaches_the_lifecycle_through_the_trigger(function: FunctionCompute) -> None:
    for method, path in (("POST", "/initialize"), ("GET", "/pre-stop"), ("POST", "/invoke")):
        answer = function.http(method, path, b"{}", headers={"x-fc-control-path": path})
        assert answer.status == 403, f"{method} {path}"
    assert function.http("POST", "/chat", chat()).status == 200, "it is not draining"


def test_it_ends_clean_after_pre_stop_and_sigterm(function: FunctionCompute) -> None:
    ended: Ended = function.stop_instance()
    assert ended.pre_stop is not None and ended.pre_stop.status == 200
    assert ended.exit_status == 0
    function.service.assert_nothing_left()


def test_a_model_that_does_not_load_fails_the_initializer_with_its_reason(deploy: Deploy, props: Props) -> None:
    function = deploy(props, script={"load_s": 0.5, "fail_load": "no kernel image for sm_75"})
    with pytest.raises(StartFailed, match="500 .*no kernel image for sm_75"):
        function.start_instance()
    assert function.service.wait_exit(5) != 0
    function.service.assert_nothing_left()


def test_fc_sees_a_dead_process_as_a_bad_gateway_and_not_as_silence(deploy: Deploy, props: Props) -> None:
    function = deploy(props)
    function.start_instance()
    call = Later(lambda: function.http("POST", "/chat", chat_body(4096, **ENDLESS)))
    until(lambda: function.service.health()["running"] == 1, "a request runs")
    function.service.worker.kill()
    with pytest.raises(BadGateway):
        call.get(10)

"""smoke: what a good service passes, and every way a bad one must fail."""

from __future__ import annotations

import json
from typing import Any

import pytest
from alibabacloud_fc20230330 import models  # type: ignore[import-untyped]

from fake_fc import FakeFC
from infra.__main__ import main
from infra.commands.smoke import (
    READ_TIMEOUT_S,
    Answer,
    Deployment,
    judge,
    over_http,
    over_invoke,
    trigger_url,
)
from infra.errors import CheckFailed, InfraError
from infra.fc.client import FunctionCompute
from service_double import ServiceDouble

NAME = "chatbot-llm"


def smoke(double: ServiceDouble, key: str = "") -> dict[str, Answer]:
    return {answer.check: answer for answer in over_http(Deployment(double.url, key, read_timeout_s=10))}


class TestOverHttp:
    def test_a_good_service_passes_every_check_and_is_measured(self) -> None:
        with ServiceDouble() as double:
            results = smoke(double)
        assert [(name, result.fault) for name, result in results.items()] == [
            ("health", ""),
            ("chat", ""),
            ("stream", ""),
            ("generate", ""),
        ]
        streamed = results["stream"]
        assert streamed.text == "The capital of France is Paris."
        assert streamed.tokens == 6
        assert streamed.ttft_s is not None and 0 < streamed.ttft_s <= streamed.seconds

    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            ("wrong", "'Paris' is not in the answer"),
            ("degenerate", "degenerate answer: !!!!"),
            ("empty", "the answer is empty"),
            ("error", "HTTP 500"),
            ("not-json", "not JSON"),
        ],
    )
    def test_a_bad_answer_fails_chat_and_generate_with_its_reason(self, fault: str, reason: str) -> None:
        with ServiceDouble(fault) as double:
            results = smoke(double)
        assert not results["health"].fault
        for name in ("chat", "generate"):
            assert reason in results[name].fault
        assert results["stream"].fault

    def test_a_stream_without_its_end_mark_fails(self) -> None:
        with ServiceDouble("cut") as double:
            results = smoke(double)
        assert not results["chat"].fault
        assert "broke off before [DONE]" in results["stream"].fault

    def test_the_key_is_sent_and_a_caller_without_it_is_turned_away(self) -> None:
        with ServiceDouble(api_key="secret-key") as double:
            results = smoke(double, "secret-key")
        assert not any(result.fault for result in results.values())
        assert results["no key"].text == "turned away with 401"

    def test_a_service_that_lets_strangers_in_fails(self) -> None:
        with ServiceDouble() as double:
            results = smoke(double, "secret-key")
        assert "CHATBOT_API_KEYS" in results["no key"].fault

    def test_an_unhealthy_service_is_asked_nothing_more(self) -> None:
        with ServiceDouble(unhealthy_for=1) as double:
            results = smoke(double)
            assert [path for _, path, _ in double.seen] == ["/health"]
        assert list(results) == ["health"] and "weights" in results["health"].fault

    def test_a_loading_service_is_waited_for(self) -> None:
        slept: list[float] = []
        with ServiceDouble(unhealthy_for=3) as double:
            Deployment(double.url).health(wait_s=60, sleep=slept.append)
        assert len(slept) == 3

    def test_a_dead_port_is_a_failed_check_not_a_traceback(self) -> None:
        with ServiceDouble() as double:
            gone = double.url
        (result,) = over_http(Deployment(gone))
        assert "no connection" in result.fault

    def test_the_prompt_repeated_by_generate_is_no_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("infra.commands.smoke.PROMPT", "Is it Paris?")
        with ServiceDouble("wrong") as double:
            results = smoke(double)
            assert [json.loads(body)["prompt"] for _, path, body in double.seen if path == "/generate"] == [
                "Is it Paris?"
            ]
        assert "Lyon" in results["generate"].fault

    def test_a_url_needs_its_scheme(self) -> None:
        with pytest.raises(InfraError, match="begin with http"):
            Deployment("example.fcapp.run")


class TestJudging:
    @pytest.mark.parametrize("text", ["!!!!!!!!", "Paris ........", "Paris aaaaaaaaaaaa"])
    def test_degenerate_text_fails_even_with_the_word_in_it(self, text: str) -> None:
        with pytest.raises(CheckFailed, match="degenerate"):
            judge(Answer(text))

    def test_the_word_may_be_written_in_any_case(self) -> None:
        assert judge(Answer("It is PARIS.")).text

    def test_the_decode_rate_leaves_out_the_first_token(self) -> None:
        assert Answer("", tokens=11, seconds=3.0, ttft_s=1.0).tokens_per_s == 5.0
        assert Answer("", tokens=10, seconds=2.0).tokens_per_s == 5.0
        assert Answer("").tokens_per_s is None


class TestOverInvoke:
    def test_a_good_service_passes_and_the_qualifier_is_used(self, fake: FakeFC, fc: FunctionCompute) -> None:
        version = fc.publish(NAME, "")
        fc.point_alias(NAME, "live", version)
        with ServiceDouble() as double:
            fake.state.service = double.url
            results = list(over_invoke(fc, NAME, "live"))
        assert [result.fault for result in results] == ["", ""]
        assert [(action, on) for action, on, _ in fake.state.log if action == "InvokeFunction"] == [
            ("InvokeFunction", "live"),
            ("InvokeFunction", "live"),
        ]

    @pytest.mark.parametrize("fault", ["wrong", "degenerate", "empty", "error", "not-json"])
    def test_a_bad_body_fails_though_fc_reports_200(self, fake: FakeFC, fc: FunctionCompute, fault: str) -> None:
        with ServiceDouble(fault) as double:
            fake.state.service = double.url
            assert [bool(result.fault) for result in over_invoke(fc, NAME, "LATEST")] == [True, True]

    def test_an_instance_that_does_not_start_is_named_by_fcs_error_type(
        self, fake: FakeFC, fc: FunctionCompute
    ) -> None:
        fake.state.service = "http://127.0.0.1:9"
        (first, _) = over_invoke(fc, NAME, "LATEST")
        assert first.fault.startswith("FunctionNotStarted")

    def test_the_read_time_out_is_above_the_functions_timeout(
        self, fake: FakeFC, fc: FunctionCompute, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits: list[float] = []

        def invoke(name: str, payload: bytes, qualifier: str, read_timeout_s: float) -> tuple[bytes, str]:
            waits.append(read_timeout_s)
            return b"{}", ""

        monkeypatch.setattr(fc, "invoke", invoke)
        list(over_invoke(fc, NAME, "LATEST"))
        assert len(waits) == 2 and min(waits) > fake.state.functions[NAME].timeout

    def test_the_clients_read_time_out_reaches_the_wire(self, fake: FakeFC, fc: FunctionCompute) -> None:
        seen = []
        real = fc._client.invoke_function_with_options

        def spy(name: str, request: object, headers: object, runtime: object) -> object:
            seen.append(runtime.read_timeout)  # type: ignore[attr-defined]
            return real(name, request, headers, runtime)

        fc._client.invoke_function_with_options = spy
        with ServiceDouble() as double:
            fake.state.service = double.url
            fc.invoke(NAME, b"{}", "LATEST", 780)
        assert seen == [780_000]  # ms


class TestTriggerUrl:
    def trigger(self, qualifier: str, **config: object) -> object:
        return models.Trigger(
            trigger_type="http",
            qualifier=qualifier,
            trigger_config=json.dumps({"authType": "anonymous", **config}),
            http_trigger=models.HTTPTrigger(url_internet=f"https://{qualifier.lower()}.example"),
        )

    def test_the_trigger_of_the_qualifier_is_found(self, fake: FakeFC, fc: FunctionCompute) -> None:
        fake.state.triggers[NAME] = [self.trigger("LATEST"), self.trigger("live")]
        assert trigger_url(fc, NAME, "live") == "https://live.example"
        assert trigger_url(fc, NAME, "other") is None

    @pytest.mark.parametrize("config", [{"disableURLInternet": True}, {"authType": "function"}])
    def test_a_closed_trigger_is_not_smoked(self, fake: FakeFC, fc: FunctionCompute, config: dict[str, object]) -> None:
        fake.state.triggers[NAME] = [self.trigger("LATEST", **config)]
        assert trigger_url(fc, NAME, "LATEST") is None


def test_smoke_of_a_url_needs_no_account(capsys: pytest.CaptureFixture[str]) -> None:
    with ServiceDouble() as double:
        assert main(["smoke", double.url]) == 0
    assert "TTFT" in capsys.readouterr().out


def test_smoke_fails_with_the_names_of_the_failed_checks(capsys: pytest.CaptureFixture[str]) -> None:
    with ServiceDouble("wrong") as double:
        assert main(["smoke", double.url]) == 1
    assert "failed: chat, stream, generate: " in capsys.readouterr().err


def test_smoke_of_a_function_uses_its_trigger_and_the_sdk(
    connected: FakeFC, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATBOT_API_KEY", "secret-key")
    with ServiceDouble(api_key="secret-key") as double:
        connected.state.service = double.url
        connected.state.triggers[NAME] = [
            models.Trigger(
                trigger_type="http",
                qualifier="LATEST",
                trigger_config='{"authType": "anonymous"}',
                http_trigger=models.HTTPTrigger(url_internet=double.url),
            )
        ]
        for target in ([NAME], []):  # without one the function of the environment
            assert main(["smoke", *target, "--qualifier", "LATEST"]) == 0
        paths = [path for _, path, _ in double.seen]
    assert paths == 2 * ["/invoke", "/invoke", "/health", "/chat", "/chat", "/generate", "/chat"]
    assert "secret-key" not in capsys.readouterr().out


def test_a_client_waits_longer_than_the_functions_timeout(props: dict[str, Any]) -> None:
    assert READ_TIMEOUT_S > props["timeout"]

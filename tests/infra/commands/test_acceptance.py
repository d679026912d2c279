"""The acceptance run for a T4: what it asks, and that it notices an overflow in float16."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from infra.__main__ import main
from infra.commands import acceptance
from infra.commands.smoke import Deployment

Answer = Callable[[str, int], str]  # prompt, how many are under way -> JSON


class Model(ThreadingHTTPServer):
    daemon_threads = True
    answer: Answer
    busy = 0
    most = 0
    prompts: list[str]


class Handler(BaseHTTPRequestHandler):
    server: Model

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        with lock:
            self.server.busy += 1
            self.server.most = max(self.server.most, self.server.busy)
            self.server.prompts.append(prompt)
            raw = self.server.answer(prompt, self.server.busy).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)
        with lock:
            self.server.busy -= 1


lock = threading.Lock()
RIGHT = {prompt.text: prompt.expect for prompt in acceptance.prompts()}


def completion(text: str, logprob: object = -0.1) -> str:
    choice = {"message": {"content": text}, "logprobs": {"content": [{"token": "a", "logprob": logprob}]}}
    return json.dumps({"choices": [choice], "usage": {"completion_tokens": 9}})


def sound(prompt: str, busy: int) -> str:
    return completion(f"It is {RIGHT[prompt]}." if RIGHT.get(prompt) else "A sentence about it.")


@pytest.fixture
def model() -> Iterator[Model]:
    server = Model(("127.0.0.1", 0), Handler)
    server.answer, server.prompts = sound, []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def run(model: Model) -> int:
    return main(["acceptance", f"http://127.0.0.1:{model.server_port}"])


@pytest.mark.long
def test_it_asks_200_prompts_short_and_long_at_one_four_and_ten_at_once(
    model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(model) == 0
    assert len(model.prompts) == 3 * 200
    assert model.most <= 10
    assert sum(len(prompt) < 40 for prompt in model.prompts[:200]) >= 50
    assert max(len(prompt) for prompt in model.prompts) > 4000
    assert acceptance.AT_ONCE == (1, 4, 10)
    assert "accepted: 600 answers" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (completion("!!!!!!!!!!!!!!!!"), "degenerate"),
        (completion("the the the the the the the the the"), "degenerate"),
        (completion("   "), "empty"),
        (completion("fine", float("nan")), "not a number"),
        (completion("fine", float("inf")), "not a number"),
        (completion("fine", None), "not a number"),
        ('{"choices": []}', "no chat completion"),
        ("not json", "no chat completion"),
    ],
)
def test_what_an_overflow_looks_like_is_a_fault(answer: str, fault: str, model: Model) -> None:
    model.answer = lambda prompt, busy: answer
    reply = acceptance.ask(Deployment(f"http://127.0.0.1:{model.server_port}"), acceptance.Prompt("Hi"))
    assert fault in reply.fault


@pytest.mark.long
def test_one_bad_answer_in_two_hundred_is_enough(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    model.answer = lambda prompt, busy: completion("!!!!!!!!") if prompt == "Hi" else sound(prompt, busy)
    assert run(model) == 1
    assert "3 faults in 600 answers" in capsys.readouterr().err


@pytest.mark.long
def test_wrong_knowledge_fails_even_when_it_reads_well_and_the_escapes_are_named_in_order(
    model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    model.answer = lambda prompt, busy: completion("A sentence about it.")
    assert run(model) == 1
    err = capsys.readouterr().err
    assert "plain questions right" in err
    places = [err.index(word) for word in ("VLLM_MARLIN_INPUT_DTYPE=int8", "--linear-backend exllama", "LMDeploy")]
    assert places == sorted(places)


def test_lines_that_markdown_draws_are_no_fault() -> None:
    assert acceptance.judge(completion("| a |\n|----------|\n==========")).fault == ""


def test_a_service_that_is_not_there_is_a_fault_and_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    reply = acceptance.ask(Deployment("http://127.0.0.1:1"), acceptance.Prompt("Hi"))
    assert reply.fault.startswith("no chat completion")

"""The RAG example as it ships, against the real CPU engine, with random weights: the README's has the model's words."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from client_envs import ROOT, environment

from launcher import API_KEY, ServiceProcess

LIMIT_S = 600
HVAC = ROOT / "code" / "examples" / "rag" / "hvac.json"
WINTER = "Why does the outdoor unit of a heat pump ice up in winter?"

pytestmark = [pytest.mark.engine, pytest.mark.timeout(LIMIT_S)]


def ask(keyed: ServiceProcess, question: str, *more: str) -> str:
    command = ["python", str(HVAC.with_name("rag.py")), "--url", keyed.url, *more, question]
    env = environment("python") | {"CHATBOT_API_KEY": API_KEY}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sources(output: str) -> set[str]:
    found = re.search(r"^Sources: (.*)$", output, re.M)
    assert found, output
    return set(found[1].split("; "))


@pytest.fixture(scope="module")
def sent_twice(keyed: ServiceProcess) -> str:
    """What is printed the second time."""
    ask(keyed, WINTER)
    return ask(keyed, WINTER)


def test_an_answer_is_streamed_and_its_sources_are_checked(sent_twice: str) -> None:
    output = sent_twice
    titles = {passage["title"] for passage in json.loads(HVAC.read_text())}
    assert len(output.split("\n\nSources:")[0]) > 10 and sources(output) <= titles | {"none"}
    assert re.search(r"^Word for word: \d+%$", output, re.M)


def test_the_same_passages_are_computed_once(sent_twice: str) -> None:
    output = sent_twice
    found = re.search(r"(\d+) of (\d+) prompt tokens came from the prefix cache", output)
    assert found, output
    assert 256 <= int(found[1]) < int(found[2]), "the instruction and the passages, and not the question"


def test_passages_that_do_not_fit_the_context_window_are_left_out(keyed: ServiceProcess, tmp_path: Path) -> None:
    long = [{"title": f"Manual {number}", "text": "boiler pressure " * 800} for number in range(4)]
    (tmp_path / "long.json").write_text(json.dumps([*long, {"title": "Elsewhere", "text": "nothing of this"}]))
    output = ask(keyed, "boiler pressure?", "--passages", str(tmp_path / "long.json"))
    assert "2 passages did not fit" in output, "two of the four passages of 1600 tokens fit 4096"


def test_a_question_about_something_else_gets_no_passages(keyed: ServiceProcess) -> None:
    assert sources(ask(keyed, "Xyzzy?")) == {"none"}

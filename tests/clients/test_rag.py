"""The RAG example as it ships, against the real CPU engine."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from client_envs import ROOT, environment

LIMIT_S = 600
HVAC = ROOT / "code" / "examples" / "rag" / "hvac.json"

pytestmark = [pytest.mark.engine, pytest.mark.timeout(LIMIT_S)]


def ask(server: Any, question: str, *more: str) -> str:
    command = ["python", str(HVAC.with_name("rag.py")), "--url", server.url, *more, question]
    done = subprocess.run(
        command, env=environment("openai"), capture_output=True, text=True, check=False, timeout=LIMIT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sources(said: str) -> list[str]:
    found = re.search(r"^Sources: (.*)$", said, re.M)
    assert found, said
    return found[1].split("; ")


def test_an_answer_is_streamed_and_names_its_sources(server: Any) -> None:
    said = ask(server, "Why does the outdoor unit of a heat pump ice up in winter?")
    titles = {passage["title"] for passage in json.loads(HVAC.read_text())}
    assert len(said.split("\n\nSources:")[0]) > 10 and set(sources(said)) <= titles


def test_the_shared_system_prompt_is_computed_once(server: Any) -> None:
    ask(server, "What does hydronic balancing do?")
    said = ask(server, "How often are filters replaced?")
    found = re.search(r"(\d+) of (\d+) prompt tokens came from the prefix cache", said)
    assert found, said
    assert 128 <= int(found[1]) < int(found[2]), "at least one block of the system prompt, and not the question"


def test_passages_that_do_not_fit_the_context_window_are_left_out(server: Any, tmp_path: Path) -> None:
    long = [{"title": f"Manual {number}", "text": "boiler pressure " * 800} for number in range(4)]
    other = [{"title": "Elsewhere", "text": "nothing of this"}]
    (tmp_path / "long.json").write_text(json.dumps(long + other))
    said = ask(server, "boiler pressure?", "--passages", str(tmp_path / "long.json"))
    assert 1 <= len(sources(said)) < 4, "some of the four passages of 1600 tokens fit 4096, not all"


def test_a_question_about_something_else_gets_no_passages(server: Any) -> None:
    assert sources(ask(server, "Xyzzy?")) == ["none"]

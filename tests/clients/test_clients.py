"""Client libraries that people use, each the real one, against the real CPU engine."""

import functools
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path

import pytest
import requests
from client_envs import environment, made
from side_by_side import LIMIT_S, run, side_by_side, wanted_here

from launcher import ServiceProcess

HERE = Path(__file__).parent
#: Program -> the packages it is for.
PROGRAMS = {
    **{f"with_{name}.py": "python" for name in ("openai", "responses", "agents", "pydantic_ai", "anthropic")},
    "with_langchain.py": "python",
    "with_llamaindex.py": "openai2",
    "with_litellm.py": "openai2",
    "with_openai.mjs": "node",
    "with_ai.mjs": "node",
}
LLM = "llm on the command line"

pytestmark = [pytest.mark.engine, pytest.mark.timeout(2 * LIMIT_S)]


def program(name: str, server: ServiceProcess, model: str, folder: Path) -> str:
    """What one of PROGRAMS printed."""
    packages = PROGRAMS[name]
    env = environment(packages) | {"URL": server.url, "MODEL": model}
    if packages != "node":
        return run(["python", str(HERE / name)], env, folder)
    copy = made("node") / name  # Node looks for packages beside the program
    copy.write_text((HERE / name).read_text())
    return run(["node", str(copy)], env, copy.parent)


def llm(server: ServiceProcess, model: str, folder: Path) -> str:
    env = environment("python") | {"LLM_USER_PATH": str(folder), "HOME": str(folder)}
    line = f"- model_id: chatbot\n  model_name: {model}\n  api_base: {server.v1}\n  supports_schema: true\n"
    (folder / "extra-openai-models.yaml").write_text(line)
    ask = ["llm", "-m", "chatbot", "-o", "temperature", "0", "-o", "max_tokens", "60"]
    for streamed in ([], ["--no-stream"]):
        assert "Paris" in run([*ask, *streamed, "What is the capital of France?"], env, folder)
    assert '"celsius"' in run([*ask, "--schema", "room, celsius int", "Office, 21 degrees."], env, folder)
    return "passed"


@pytest.fixture(scope="module")
def printed(
    request: pytest.FixtureRequest, server: ServiceProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[str]]]:
    """What each program printed that a test of this run asks for."""
    model = requests.get(f"{server.url}/v1/models", timeout=30).json()["data"][0]["id"]
    calls = {name: functools.partial(program, name) for name in PROGRAMS} | {LLM: llm}
    with side_by_side(
        {
            name: functools.partial(calls[name], server, model, tmp_path_factory.mktemp("client"))
            for name in calls
            if name in wanted_here(request)
        }
    ) as running:
        yield running


@pytest.mark.parametrize("name", [*PROGRAMS, LLM])
def test_client(name: str, printed: Mapping[str, Future[str]]) -> None:
    assert printed[name].result().splitlines()[-1] == "passed"

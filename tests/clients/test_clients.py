"""Client libraries that people use, each the real one, against the real CPU engine."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests
from client_envs import environment, made

HERE = Path(__file__).parent
#: Includes a first installation; on two busy cores an answer takes seconds.
LIMIT_S = 600

pytestmark = [pytest.mark.engine, pytest.mark.timeout(LIMIT_S)]


def model_of(server: Any) -> str:
    name: str = requests.get(f"{server.url}/v1/models", timeout=30).json()["data"][0]["id"]
    return name


def run(command: list[str], env: dict[str, str], cwd: Path, **more: Any) -> str:
    done = subprocess.run(
        command, env=env, cwd=cwd, capture_output=True, text=True, check=False, timeout=LIMIT_S, **more
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.parametrize(
    ("client", "packages"),
    [(name, "python") for name in ("openai", "responses", "agents", "pydantic_ai", "anthropic", "langchain")]
    + [("llamaindex", "openai2"), ("litellm", "openai2")],
)
def test_python_client(client: str, packages: str, server: Any, tmp_path: Path) -> None:
    env = environment(packages) | {"URL": server.url, "MODEL": model_of(server)}
    assert run(["python", str(HERE / f"with_{client}.py")], env, tmp_path).splitlines()[-1] == "passed"


@pytest.mark.parametrize("name", ["with_openai.mjs", "with_ai.mjs"])
def test_npm_client(name: str, server: Any) -> None:
    where = made("node")
    program = where / name  # Node looks for packages beside the program
    program.write_text((HERE / name).read_text())
    env = environment("node") | {"URL": server.url, "MODEL": model_of(server)}
    assert run(["node", str(program)], env, where).splitlines()[-1] == "passed"


def test_llm_on_the_command_line(server: Any, tmp_path: Path) -> None:
    env = environment("python") | {"LLM_USER_PATH": str(tmp_path), "HOME": str(tmp_path)}
    line = f"- model_id: chatbot\n  model_name: {model_of(server)}\n  api_base: {server.v1}\n  supports_schema: true\n"
    (tmp_path / "extra-openai-models.yaml").write_text(line)
    question = "What is the capital of France?"
    for streamed in ([], ["--no-stream"]):
        said = run(["llm", "-m", "chatbot", "-o", "temperature", "0", *streamed, question], env, tmp_path)
        assert "Paris" in said
    said = run(["llm", "-m", "chatbot", "--schema", "room, celsius int", "Office, 21 degrees."], env, tmp_path)
    assert '"celsius"' in said

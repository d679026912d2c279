"""Fixtures for tests against the real process: `start(...)` runs it, `props` is what s.yaml deploys."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fc
import pytest

from infra.errors import InfraError
from infra.fc import serverless_devs, template
from launcher import ServiceProcess

Start = Callable[..., ServiceProcess]

#: What a deployment must set; the rest of s.yaml's variables keep their defaults.
DEPLOYMENT = {
    "DEPLOY_IMAGE": "registry.cn-hangzhou.aliyuncs.com/example/chatbot-llm:v1.2.3",
    "DEPLOY_LOG_PROJECT": "example-logs",
}


def _starter(folder: Path) -> Iterator[Start]:
    begun: list[ServiceProcess] = []

    def start(**options: Any) -> ServiceProcess:
        service = ServiceProcess(folder / f"service-{len(begun)}.log", **options)
        begun.append(service)
        return service

    try:
        yield start
    finally:
        problems = []
        for service in begun:
            try:
                service.close()
            except AssertionError as problem:
                problems.append(str(problem))
            # pytest shows this beside a failure, and only then
            print(f"--- {service.log_path.name}\n{service.log()[-4000:]}")
        assert not problems, problems


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start the service, any number of times: `start(script={...}, max_running=2)`; see launcher.ServiceProcess."""
    yield from _starter(tmp_path)


@pytest.fixture(scope="module")
def start_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """The same for a service that all tests of a file share."""
    yield from _starter(tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="session")
def _rendered() -> dict[str, Any]:
    try:
        serverless_devs.find_s()
    except InfraError as missing:
        pytest.skip(str(missing))
    return template.render(DEPLOYMENT)


@pytest.fixture
def props(_rendered: dict[str, Any]) -> dict[str, Any]:
    """s.yaml as it is shipped, rendered by the real `s`; the test may change it."""
    return copy.deepcopy(_rendered)


@pytest.fixture
def deploy(start: Start) -> Iterator[Callable[..., fc.FunctionCompute]]:
    """The FC double with one function: `deploy(props, script={...})`; the instance is not started yet."""
    made: list[fc.FunctionCompute] = []

    def deployed(props: dict[str, Any], **options: Any) -> fc.FunctionCompute:
        made.append(fc.FunctionCompute(props, lambda **how: start(**{**options, **how})))
        return made[-1]

    yield deployed
    for function in made:
        function.close()

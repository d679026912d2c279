"""What several groups of tests share: apps over the scripted engine, real-engine services for the run, figures."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from chatbot_llm.app import create_app
from chatbot_llm.engine.scripted import ScriptedEngine
from chatbot_llm.observability.metrics import Metrics
from chatbot_llm.server.door import Door
from chatbot_llm.settings import Settings
from figures import MEASURING, Figure, Figures
from in_process import App, Client, Make
from launcher import API_KEY, ONE_LAYER, ServiceProcess

#: The longest a start may take on two busy cores, seconds; unpacking the bundled model included.
START_LIMIT_S = 300

# `make` runs the tests, and some tests run `make`: what the outer one was told is not for the inner one.
for _name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES"):
    os.environ.pop(_name, None)

_figures = Figures()
#: What takes longest is begun first, so that no worker ends long after the others.
LONGEST = (
    "tests/contract/test_real_engine_faults.py",
    "tests/clients/test_clients.py",
    "tests/docs/test_snippets.py",
    "tests/contract/test_image.py",
    "tests/infra/commands/test_batch.py",
    "tests/contract/test_fc.py",
    "tests/contract/test_freeze.py",
    "tests/contract/test_overload.py",
)
#: Fixtures that start processes: the service, the real `s`, a browser, environments of clients.
PROCESSES = {"start", "start_once", "server", "keyed", "service", "deploy", "props", "render", "browser", "page"}


def pytest_configure(config: pytest.Config) -> None:
    """Real engines side by side have cores of their own: threads that share some wait for one another in every step."""
    if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and config.option.markexpr == "engine":
        cores = sorted(os.sched_getaffinity(0))
        own = cores[int(worker.removeprefix("gw")) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]
        os.sched_setaffinity(0, own or cores)


def _file(item: pytest.Item) -> str:
    return item.nodeid.split("::")[0]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what starts a process; where figures are asked for, run only the tests that measure any.

    The tests of a file go to one worker, and so do those that share what takes long to start.
    """
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if PROCESSES & fixtures:
            item.add_marker("process")
        if not item.get_closest_marker("xdist_group"):
            shared = next((name for name in ("keyed", "server") if name in fixtures), _file(item))
            item.add_marker(pytest.mark.xdist_group(shared))
    items.sort(key=lambda item: LONGEST.index(_file(item)) if _file(item) in LONGEST else len(LONGEST))
    if MEASURING:
        silent = [item for item in items if "figure" not in getattr(item, "fixturenames", ())]
        config.hook.pytest_deselected(items=silent)
        items[:] = [item for item in items if item not in silent]


def pytest_sessionfinish(exitstatus: int) -> None:
    if MEASURING and exitstatus == pytest.ExitCode.OK:
        _figures.write()


@pytest.fixture(scope="session")
def figure() -> Figure:
    """`figure(name, value, unit)`: tell what was measured; see figures.py."""
    return _figures


@pytest.fixture
def make_app() -> Iterator[Make]:
    """Make apps in this process, with settings and a script; their engines are stopped afterwards."""
    made: list[App] = []

    def make(script: dict[str, Any] | None = None, wait: bool = True, **settings: Any) -> App:
        current = Settings(engine="scripted", script=json.dumps(script or {}), **settings)
        app = App(Door(create_app(current, ScriptedEngine(current), Metrics(CollectorRegistry()))))
        made.append(app)
        app.begin()
        if wait:
            app.wait_ready()
        return app

    yield make
    for app in made:
        app.close()


@pytest.fixture
def app(make_app: Make) -> App:
    return make_app()


@pytest.fixture
def client(app: App) -> Client:
    return app.test_client()


@contextlib.contextmanager
def _real_service(log: Path, **options: Any) -> Iterator[ServiceProcess]:
    """gunicorn and vLLM's CPU build; afterwards SIGTERM has ended them with status 0, and nothing of ours is left."""
    # Not in pytest's own folder: the path of a socket has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        service = ServiceProcess(log, engine="vllm", profile="cpu", env={"TMPDIR": folder}, **options)
        try:
            yield service.wait_ready(START_LIMIT_S)
            assert list(Path(folder).glob("chatbot-*/*"))
            service.terminate()
            assert service.wait_exit() == 0, "SIGTERM must end the service with status 0"
        finally:
            service.close()
        # torch's cache and vLLM's file for its group of workers stay
        left = [path.name for path in Path(folder).rglob("*") if path.is_socket() or path.name.startswith("chatbot-")]
        assert not left, "a whole run leaves no socket and no folder of ours"


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """The real service with the bundled model, started once for the whole run."""
    with _real_service(tmp_path_factory.mktemp("server") / "log.txt") as service:
        yield service


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """The same with an API key, and one layer of random weights: for tests that depend on no word of an answer."""
    log = tmp_path_factory.mktemp("keyed") / "log.txt"
    with _real_service(log, argv=ONE_LAYER, api_keys=API_KEY, self_test=False) as service:
        yield service

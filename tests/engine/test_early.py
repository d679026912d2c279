"""A process that begins early does what a spawned one does, and nothing is left of it, whatever happens."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from multiprocessing import connection, get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import psutil
import pytest

from chatbot_llm.engine.patches import early
from launcher import until


def tell(path: str) -> None:
    """What the child sees: the modules that were there, a variable set late, its file descriptors."""
    names = ["wave" in sys.modules, os.environ.get("CHATBOT_TEST_LATE"), os.getppid()]
    files = [link for link in map(_target, Path("/proc/self/fd").iterdir()) if link.startswith("socket:")]
    Path(path).write_text(repr([*names, files, signal.getsignal(signal.SIGTERM) == signal.SIG_DFL]))


def _target(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


def name_me(path: str) -> None:
    import setproctitle

    setproctitle.setproctitle("VLLM::EngineCore")
    Path(path).write_bytes(Path("/proc/self/cmdline").read_bytes())


def put(queue: "SimpleQueue[str]") -> None:
    queue.put("from the child")


@pytest.fixture
def context() -> Iterator[early.Context]:
    made = early.Context(["wave"])
    yield made
    made.close()


def children() -> list[psutil.Process]:
    """Those of our children that began early, or were spawned since."""
    return [one for one in psutil.Process().children() if "--multiprocessing-fork" in one.cmdline()]


def test_it_runs_what_it_is_given_with_its_modules_there_and_the_environment_of_now(
    context: early.Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = until(children, "it has begun")
    monkeypatch.setenv("CHATBOT_TEST_LATE", "set after it began")
    process = context.Process(target=tell, args=(str(tmp_path / "said"),), name="Engine")
    process.start()
    assert [one.pid for one in before] == [process.pid], "it is the one that began early"
    process.join(20)
    assert process.exitcode == 0
    seen = eval((tmp_path / "said").read_text())
    assert seen == [True, "set after it began", os.getpid(), [], True]


def test_it_can_be_given_another_title(context: early.Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM names its process, and operators look for that name."""
    monkeypatch.setenv("CHATBOT_TEST_LATE", "set after it began")
    process = context.Process(target=name_me, args=(str(tmp_path / "title"),))
    process.start()
    process.join(20)
    assert (tmp_path / "title").read_bytes().startswith(b"VLLM::EngineCore\0")


def test_its_end_is_told_like_any_other(context: early.Context) -> None:
    process = context.Process(target=time.sleep, args=(60,))
    process.start()
    assert not connection.wait([process.sentinel], timeout=0.1)
    process.kill()
    assert connection.wait([process.sentinel], timeout=10)
    process.join(10)
    assert process.exitcode == -signal.SIGKILL


def test_a_second_process_is_an_ordinary_one(context: early.Context, tmp_path: Path) -> None:
    first, second = (context.Process(target=tell, args=(str(tmp_path / name),)) for name in "ab")
    for process in (first, second):
        process.start()
        process.join(20)
    assert [eval((tmp_path / name).read_text())[0] for name in "ab"] == [True, False]


def test_one_that_inherits_descriptors_is_an_ordinary_one(context: early.Context) -> None:
    queue: Any = get_context("spawn").SimpleQueue()
    process = context.Process(target=put, args=(queue,))
    process.start()
    assert queue.get() == "from the child"
    process.join(20)
    assert process.exitcode == 0 and not children()


def test_one_that_nobody_needed_is_ended() -> None:
    context = early.Context(["wave"])
    until(children, "it has begun")  # just forked, it still bears our command line
    files = len(os.listdir("/proc/self/fd"))
    context.close()
    assert not children() and len(os.listdir("/proc/self/fd")) == files - 2
    context.close()


def test_it_ends_when_its_parent_does() -> None:
    parent = get_context("spawn").Process(target=_begin_and_die)
    parent.start()
    until(lambda: len(psutil.Process(parent.pid).children()), "it has begun", 20)
    time.sleep(0.3)  # no longer importing: it waits
    family = psutil.Process(parent.pid).children()
    parent.kill()
    parent.join(10)
    assert not psutil.wait_procs(family, 20)[1]


def _begin_and_die() -> None:
    early.Context(["wave"])
    time.sleep(60)


@pytest.mark.parametrize(("compiles", "seen"), [("0", "open"), ("1", "hidden")])
def test_a_package_is_imported_without_the_compiler_only_where_nothing_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiles: str, seen: str
) -> None:
    name = f"package_{seen}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(
        "import sys\nseen = 'hidden' if sys.modules.get('torch._inductor.lowering', 1) is None else 'open'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))  # what importing adds there goes with the test
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", compiles)
    monkeypatch.delitem(sys.modules, "torch._inductor.lowering", raising=False)
    early.import_package(name)
    assert sys.modules[name].seen == seen
    assert "torch._inductor.lowering" not in sys.modules, "whoever needs it later finds it"
    monkeypatch.delitem(sys.modules, name)

"""A child process begun before it is known what it shall do, so that it imports while its parent imports.

vLLM starts its engine with multiprocessing's `spawn`: a fresh interpreter that imports torch and vLLM once more, after
its parent has. `Context` is `spawn` too, but the interpreter of its first process is already there and has imported
the modules it was told; what to run reaches it through the pipe that spawn uses. Nothing is forked, so threads, sockets
and a CUDA context of the parent do no harm. A later process, or one that must inherit descriptors, is an ordinary one.

Bound to CPython's `multiprocessing.popen_spawn_posix`; `tests/engine/test_early.py` holds it against the real one.
"""

import contextlib
import gc
import importlib
import io
import os
import pickle
import signal
import sys
from collections.abc import Iterable
from multiprocessing import reduction, resource_tracker, spawn, util
from multiprocessing.context import SpawnContext, SpawnProcess, set_spawning_popen
from multiprocessing.popen_spawn_posix import Popen
from typing import Any

_HEADER = 8
#: A second of imports by which vLLM's package makes torch compile faster; it expects that it may not be there
#: (`vllm/env_override.py`, `_patch_inductor_fallback_allow_list`).
_COMPILER = "torch._inductor.lowering"
#: Typed as Any: what is used of it is what spawn itself uses, and is not declared.
_util: Any = util


class _Begun:
    """A process that imports and then waits: its pid, and our ends of its two pipes."""

    def __init__(self, modules: Iterable[str]) -> None:
        tracker: Any = resource_tracker.getfd()
        self.sentinel, alive = os.pipe()
        inbox, self.outbox = os.pipe()
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from chatbot_llm.engine.patches.early import main; main({inbox}, {tracker}, {list(modules)!r})"
        )
        command = [*_util._args_from_interpreter_flags(), "-c", program, "--multiprocessing-fork"]
        executable = os.fsencode(spawn.get_executable())
        try:
            self.pid = _util.spawnv_passfds(executable, [executable, *command], [tracker, inbox, alive])
        finally:
            os.close(inbox)
            os.close(alive)

    def drop(self) -> None:
        """End it: it has nothing to do."""
        os.close(self.outbox)
        os.close(self.sentinel)
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


class _Popen(Popen):
    """Gives a process that has begun its work."""

    _fds: list[int]

    def _launch(self, process_obj: Any) -> None:
        begun: _Begun = process_obj.begun
        data = io.BytesIO()
        set_spawning_popen(self)
        try:
            # What was set in the environment since then counts for the child as it does for any other.
            reduction.dump(dict(os.environ), data)
            header = data.tell().to_bytes(_HEADER, "big")
            reduction.dump(spawn.get_preparation_data(process_obj.name), data)
            reduction.dump(process_obj, data)
        finally:
            set_spawning_popen(None)
        if self._fds:  # descriptors to inherit: too late for that
            self._fds = []
            begun.drop()
            super()._launch(process_obj)  # type: ignore[misc]
            return
        self.pid, self.sentinel = begun.pid, begun.sentinel
        self.finalizer = _util.Finalize(self, _util.close_fds, (begun.sentinel, begun.outbox))
        with contextlib.suppress(BrokenPipeError), open(begun.outbox, "wb", closefd=False) as pipe:
            pipe.write(header)
            pipe.write(data.getbuffer())


class Process(SpawnProcess):
    """A process whose interpreter runs already."""

    begun: Any = None

    @staticmethod
    def _Popen(process_obj: Any) -> Popen:
        return _Popen(process_obj)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "begun"}


class Context(SpawnContext):
    """`spawn`, with the first process begun at once. `close()` ends it if nobody has asked for one."""

    def __init__(self, modules: Iterable[str]) -> None:
        self._begun: _Begun | None = _Begun(modules)

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # type: ignore[override]
        begun, self._begun = self._begun, None
        if begun is None:
            return SpawnProcess(*args, **kwargs)
        process = Process(*args, **kwargs)
        process.begun = begun
        return process

    def close(self) -> None:
        if self._begun is not None:
            self._begun.drop()
            self._begun = None


def main(inbox: int, tracker: int, modules: list[str]) -> None:
    """The child: import, wait for the work, and go on as any spawned process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    with uncollected():
        for name in modules:
            import_package(name.partition(".")[0])
            importlib.import_module(name)
    header = _read(inbox, _HEADER)
    if not header:  # the parent has ended
        sys.exit(0)
    now = pickle.loads(_read(inbox, int.from_bytes(header, "big")))
    # Only what differs: a process's title can be set as long as its first environment lies where it was.
    os.environ.update({name: value for name, value in now.items() if os.environ.get(name) != value})
    spawn.spawn_main(tracker_fd=tracker, pipe_handle=inbox)


def _read(fd: int, count: int) -> bytes:
    """`count` bytes and not one more: spawn reads on from there. Fewer when the other end has closed."""
    data = b""
    while len(data) < count and (piece := os.read(fd, count - len(data))):
        data += piece
    return data


@contextlib.contextmanager
def uncollected() -> Any:
    """Import without the garbage collector: what imports make stays for ever, and is never walked again."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def import_package(name: str) -> None:
    """Import a package's `__init__`, where nothing will be compiled without what it imports for that alone."""
    hidden = os.environ.get("TORCHDYNAMO_DISABLE") == "1" and _COMPILER not in sys.modules
    if hidden:
        sys.modules[_COMPILER] = None  # type: ignore[assignment]
    try:
        importlib.import_module(name)
    finally:
        if hidden:
            del sys.modules[_COMPILER]

"""The process that tries what a stranger's schema costs: `python -m chatbot_llm.engine.schema_helper MODEL_FOLDER`.

It imports the grammar library and the model's tokenizer once and then forks a child for each trial, so that a trial can
be killed without losing what was imported. A child compiles as vLLM's engine would and walks some tokens through the
result; the kernel kills it when it has used its CPU time. Commands are lines of JSON on stdin, answers on stdout; it
ends with its parent.
"""

import ctypes
import gc
import json
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

#: Memory a trial may take beyond what the helper itself has, bytes.
MEMORY = 1 << 30
#: How a result is tried: so many walks of so many tokens.
WALKS, STEPS = 4, 24
#: Longest message, characters: a line on a pipe stays whole up to 4 KB.
MAX_MESSAGE = 600
#: CPU seconds of a trial: until the grammar is there, and for the walks.
COMPILE_S, WALK_S = 0.2, 0.4
#: Priority of a trial: below the engine's (0), and still a third of a busy core.
NICE = 5


class Library:
    """The grammar library, as vLLM's `GuidanceBackend` uses it."""

    def __init__(self, folder: str) -> None:
        import llguidance.hf
        import llguidance.numpy
        from transformers import AutoTokenizer

        config = json.loads((Path(folder) / "config.json").read_text())
        vocabulary = config.get("vocab_size") or config["text_config"]["vocab_size"]
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._tokenizer = llguidance.hf.from_tokenizer(tokenizer, max(vocabulary, len(tokenizer)))
        named = (tokenizer.convert_tokens_to_ids(text) for text in ('"', ",", "}", "]", ":", '":', '",'))
        self._closing = [token for token in named if token is not None]
        self._library = llguidance

    def compile(self, kind: str, text: str) -> Any:
        """What vLLM does in the serving process and again in the engine's, between two tokens of everyone else.

        Raises ValueError with the library's reason.
        """
        library = self._library
        if kind == "json":
            grammar = library.LLMatcher.grammar_from_json_schema(text, defaults={"whitespace_flexible": True})
        else:
            grammar = library.grammar_from(kind, text)
        if problem := library.LLMatcher.validate_grammar(grammar, self._tokenizer):
            raise ValueError(problem)
        return grammar

    def walk(self, grammar: Any) -> tuple[float, float]:
        """(mean, worst) seconds that a token costs. Raises ValueError where no token is allowed any more."""
        import numpy

        random = numpy.random.default_rng(0)
        mask = self._library.numpy.allocate_token_bitmask(1, self._tokenizer.vocab_size)
        closing = numpy.array(self._closing, dtype=int)
        spent: list[float] = []
        for walk in range(WALKS):
            matcher = self._library.LLMatcher(self._tokenizer, grammar, log_level=0)
            for _ in range(STEPS):
                before = time.thread_time()
                self._library.numpy.fill_next_token_bitmask(matcher, mask, 0)
                filled = time.thread_time()
                if problem := matcher.get_error():
                    raise ValueError(_reason(problem))
                bits = numpy.unpackbits(mask[0].view(numpy.uint8), bitorder="little")
                allowed = numpy.flatnonzero(bits)
                # Every other walk leaves strings and lists where it can, and so sees more of the grammar.
                leave = closing[bits[closing] == 1] if walk % 2 else allowed
                token = int(random.choice(leave if len(leave) else allowed))
                chosen = time.thread_time()
                matcher.consume_token(token)
                spent.append(filled - before + time.thread_time() - chosen)
                if matcher.is_stopped():
                    break
        return sum(spent) / len(spent), max(spent)


def _reason(problem: str) -> str:
    """The first line of what the library reports: behind it stands its state."""
    first = problem.partition("\n")[0]
    return _CLEARER.get(first, first)


_CLEARER = {
    "NoExtensionBias": "nothing can satisfy it",
    "lexer error: too many expressions constructed": "it allows too many forms; use fewer optional parts",
}


def trial(library: Library, command: dict[str, Any]) -> dict[str, Any]:
    """Measure one grammar. Times are CPU seconds."""
    begun = time.process_time()
    try:
        signal.setitimer(signal.ITIMER_PROF, COMPILE_S)
        grammar = library.compile(command["kind"], command["text"])
        compiled = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, WALK_S)
        mean, worst = library.walk(grammar)
        signal.setitimer(signal.ITIMER_PROF, 0)
    except MemoryError:
        return {"error": "it needs too much memory"}
    except (RuntimeError, ValueError, TypeError) as error:  # what the library raises for what it cannot read
        return {"error": (str(error).strip() or "it cannot be compiled")[:MAX_MESSAGE]}
    return {"compile_s": compiled - begun, "step_s": mean, "worst_s": worst}


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def begin(library: Library, command: dict[str, Any]) -> int:
    """Fork a child for one trial; returns its process id."""
    if child := os.fork():
        return child
    try:
        die_with_parent()
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
        os.nice(NICE)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        answer = trial(library, command)
        os.write(1, json.dumps({"id": command["id"], **answer}).encode() + b"\n")
        os._exit(0)
    finally:
        os._exit(1)


def serve(library: Library) -> None:
    """Begin and stop trials as told, until stdin ends."""
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    children: dict[int, int] = {}
    unread = b""
    while True:
        readable, _, _ = select.select([0, woken], [], [])
        if woken in readable:
            os.read(woken, 4096)
            while children and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                number = children.pop(ended[0])
                if ended[1]:
                    os.write(
                        1, json.dumps({"id": number, "ended": os.waitstatus_to_exitcode(ended[1])}).encode() + b"\n"
                    )
        if 0 in readable:
            data = os.read(0, 1 << 16)
            if not data:
                break
            *lines, unread = (unread + data).split(b"\n")
            for line in lines:
                command = json.loads(line)
                if "stop" in command:
                    for child in [child for child, number in children.items() if number == command["stop"]]:
                        os.kill(child, signal.SIGKILL)
                else:
                    children[begin(library, command)] = command["id"]
    for child in children:
        os.kill(child, signal.SIGKILL)


def main() -> None:
    die_with_parent()
    # A tokenizer needs no torch, and importing it would be two thirds of this process's start and of its memory.
    sys.modules["torch"] = None  # type: ignore[assignment]
    library = Library(sys.argv[1])
    gc.collect()
    gc.freeze()  # children share what is not written to
    os.write(1, b'{"ready": true}\n')
    serve(library)


if __name__ == "__main__":
    main()

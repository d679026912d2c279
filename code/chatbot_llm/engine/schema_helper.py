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
import re
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
WALKS, STEPS = 4, 64
#: Longest message, characters: a line on a pipe stays whole up to 4 KB.
MAX_MESSAGE = 600
#: Cores that vLLM's backend compiles on: it starts eight threads.
CORES = min(8, len(os.sched_getaffinity(0)))
#: Threads of a trial: half the cores stay free of it.
THREADS = max(1, CORES // 2)


class Library:
    """The grammar library, as vLLM's `XgrammarBackend` uses it."""

    def __init__(self, folder: str) -> None:
        import xgrammar
        from transformers import AutoTokenizer

        config = json.loads((Path(folder) / "config.json").read_text())
        vocabulary = config.get("vocab_size") or config["text_config"]["vocab_size"]
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._info = xgrammar.TokenizerInfo.from_huggingface(self._tokenizer, vocab_size=vocabulary)
        self._xgrammar = xgrammar

    def convert(self, kind: str, text: str) -> None:
        """What vLLM does in the serving process, between two tokens of everyone else."""
        grammar = self._xgrammar.Grammar
        {
            "json": grammar.from_json_schema,
            "choice": lambda text: grammar.from_ebnf(alternatives(json.loads(text))),
            "regex": grammar.from_regex,
            "grammar": grammar.from_ebnf,
            "structural_tag": grammar.from_structural_tag,
        }[kind](text)

    def compile(self, kind: str, text: str) -> Any:
        """What vLLM does in the engine's process, in a thread beside its steps."""
        compiler = self._xgrammar.GrammarCompiler(self._info, max_threads=THREADS, cache_enabled=False)
        compile_ = {
            "json": compiler.compile_json_schema,
            "choice": lambda text: compiler.compile_grammar(alternatives(json.loads(text))),
            "regex": compiler.compile_regex,
            "grammar": compiler.compile_grammar,
            "structural_tag": compiler.compile_structural_tag,
        }[kind]
        return compile_(text)

    def walk(self, compiled: Any) -> tuple[float, float]:
        """(mean, worst) seconds that a token costs. Raises ValueError where no token is allowed any more."""
        import numpy

        random = numpy.random.default_rng(0)
        mask = self._xgrammar.allocate_token_bitmask(1, self._info.vocab_size)
        named = [self._tokenizer.convert_tokens_to_ids(text) for text in ('"', ",", "}", "]", ":", '":', '",')]
        closing = numpy.array([token for token in named if token is not None], dtype=int)
        spent: list[float] = []
        for walk in range(WALKS):
            matcher = self._xgrammar.GrammarMatcher(compiled)
            for _ in range(STEPS):
                before = time.thread_time()
                matcher.fill_next_token_bitmask(mask, 0)
                filled = time.thread_time()
                bits = numpy.unpackbits(mask[0].numpy().view(numpy.uint8), bitorder="little")
                allowed = numpy.flatnonzero(bits)
                if not len(allowed):
                    raise ValueError("nothing can satisfy it")
                # Every other walk leaves strings and lists where it can, and so sees more of the grammar.
                leave = closing[bits[closing] == 1] if walk % 2 else allowed
                token = int(random.choice(leave if len(leave) else allowed))
                chosen = time.thread_time()
                matcher.accept_token(token)
                spent.append(filled - before + time.thread_time() - chosen)
                if matcher.is_terminated():
                    break
        return sum(spent) / len(spent), max(spent)


def alternatives(choices: list[str]) -> str:
    """A grammar of these strings, as vLLM writes it."""
    escaped = (re.sub(r'(["\\])', r"\\\1", choice) for choice in choices)
    return "root ::= " + " | ".join(f'"{choice}"' for choice in escaped)


def trial(library: Library, command: dict[str, Any]) -> dict[str, Any]:
    """Measure one grammar. Times are CPU seconds of all threads."""
    kind, text = command["kind"], command["text"]
    begun = time.process_time()
    try:
        library.convert(kind, text)
        converted = time.process_time()
        compiled = library.compile(kind, text)
        done = time.process_time()
        mean, worst = library.walk(compiled)
    except MemoryError:
        return {"error": "it needs too much memory"}
    except (RuntimeError, ValueError, TypeError) as error:  # what the library raises for what it cannot read
        said = re.sub(r"^\[[\d:]+\] \S+: ", "", str(error).strip())
        said = re.sub(r"^Check failed: \(.*?\) is false: ", "", said, flags=re.S)
        return {"error": (said or "it cannot be compiled")[:MAX_MESSAGE]}
    return {"convert_s": converted - begun, "compile_s": done - converted, "step_s": mean, "worst_s": worst}


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
        os.nice(command["nice"])
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, command["cpu_s"])
        answer = trial(library, command)
        signal.setitimer(signal.ITIMER_PROF, 0)
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
    library = Library(sys.argv[1])
    gc.collect()
    gc.freeze()  # children share what is not written to
    os.write(1, b'{"ready": true}\n')
    serve(library)


if __name__ == "__main__":
    main()

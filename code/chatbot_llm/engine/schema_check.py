"""What a request wants enforced is tried before the engine sees it, in a process that may be killed.

An engine asks a grammar for every token, and builds it between two tokens of everyone else: too costly a schema is
everybody's burden. So it is built first in a helper (`schema_helper.py`) that has so much CPU time, and some tokens are
walked through it. Measured, not guessed: the verdict is the same whatever the schema looks like. A request that goes
takes its trial with it.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import sys
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatbot_llm.engine.enforced import demanded, hinted, patterns
from chatbot_llm.engine.schema_helper import COMPILE_S, WALK_S
from chatbot_llm.errors import Unavailable, wrong
from chatbot_llm.observability.redaction import withhold

log = logging.getLogger(__name__)

#: What a token may cost on average and at worst, CPU seconds; each such request adds that to every step of the engine.
STEP_S, WORST_S = 0.01, 0.1
#: Trials at once.
TRIALS = 2
#: How much longer than its CPU time a trial may take on a busy machine.
PATIENCE = 6
#: Verdicts remembered.
REMEMBERED = 512
#: Most patterns of a schema that are tried by themselves, and the longest part of one that an error quotes, characters.
PATTERNS, QUOTED = 32, 100
#: The helper's own start, seconds, on a machine that does much else.
START_S = 120


@dataclass(frozen=True)
class Verdict:
    """Why something cannot be enforced, or "", the pattern to blame for it, and the CPU time that its grammar takes."""

    problem: str = ""
    cpu_s: float = 0.0
    blamed: str = ""


class SchemaCheck:
    """One helper for one model."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._known: OrderedDict[bytes, Verdict] = OrderedDict()
        self._lane = asyncio.Semaphore(TRIALS)
        self._starting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0

    async def admit(self, body: dict[str, Any]) -> frozenset[int]:
        """Try all that a checked body wants enforced. Returns the tools whose schemas are hints too costly to enforce.

        Raises BadRequest naming the place and the reason for what must be obeyed and cannot be.
        """
        budget = COMPILE_S
        for place, kind, text in demanded(body):
            verdict = await self.verdict(kind, text)
            budget -= verdict.cpu_s
            if verdict.problem or budget < 0:
                problem = verdict.problem or f"the schemas of this request would cost {_LARGE}"
                schema = json.loads(text) if kind == "json" else None
                raise wrong(place, withhold(problem, schema) + verdict.blamed)
        tried = [(await self.verdict("json", text), at) for at, text in hinted(body)]
        free = {at for verdict, at in tried if verdict.problem}
        for verdict, at in sorted(tried, key=lambda pair: pair[0].cpu_s):
            budget -= verdict.cpu_s
            if budget < 0:
                free.add(at)
        return frozenset(free)

    async def verdict(self, kind: str, text: str) -> Verdict:
        """Whether a grammar of this kind (json, choice, regex, grammar) can be enforced.

        Each pattern of a schema is tried by itself, too: the walk through the whole may not come to it.
        """
        found = patterns(json.loads(text)) if kind == "json" and '"pattern' in text else ()
        for pattern in list(dict.fromkeys(found))[:PATTERNS]:
            alone = await self._tried("json", json.dumps({"type": "string", "pattern": pattern}))
            if alone.problem:
                shown = pattern if len(pattern) <= QUOTED else pattern[:QUOTED] + " ..."
                return Verdict(alone.problem, blamed=f"; the pattern to blame is {shown}")
        return await self._tried(kind, text)

    async def _tried(self, kind: str, text: str) -> Verdict:
        key = hashlib.sha256(f"{kind} {text}".encode()).digest()
        async with self._lane:
            if key not in self._known:
                self._known[key] = self._judge(await self._try(kind, text))
        self._known.move_to_end(key)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return self._known[key]

    async def close(self) -> None:
        """End the helper and whatever it tries."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
        if self._reader is not None:
            await self._reader

    def _judge(self, result: dict[str, Any]) -> Verdict:
        if "ended" in result or result.get("compile_s", 0) > COMPILE_S:
            return Verdict(f"it would cost {_LARGE}")
        if error := result.get("error"):
            return Verdict(f"it cannot be enforced: {error}")
        if result["step_s"] > STEP_S or result["worst_s"] > WORST_S:
            slow = f"it would slow every token down ({result['step_s'] * 1000:.0f} ms on average)"
            return Verdict(f"{slow}; use fewer alternatives and simpler patterns")
        return Verdict(cpu_s=result["compile_s"])

    async def _try(self, kind: str, text: str) -> dict[str, Any]:
        """One trial. A caller that is cancelled takes it with it."""
        for _ in range(2):
            process = await self._helper()
            self._number += 1
            number = self._number
            future = self._waiting[number] = asyncio.get_running_loop().create_future()
            try:
                self._send(process, {"id": number, "kind": kind, "text": text})
                return await asyncio.wait_for(future, (COMPILE_S + WALK_S) * PATIENCE)
            except TimeoutError:
                return {"ended": 0}
            except ConnectionError:
                continue  # the helper is gone: once more, with a new one
            finally:
                del self._waiting[number]
                if not future.done() or future.cancelled():
                    with contextlib.suppress(ConnectionError):
                        self._send(process, {"stop": number})
        raise Unavailable("schemas cannot be checked at the moment; try again later", retry_after=5)

    def _send(self, process: asyncio.subprocess.Process, command: dict[str, Any]) -> None:
        assert process.stdin is not None
        if process.stdin.is_closing() or process.returncode is not None:
            raise ConnectionError
        process.stdin.write(json.dumps(command).encode() + b"\n")

    async def _helper(self) -> asyncio.subprocess.Process:
        """The helper, started when it is needed and gone."""
        async with self._starting:
            if self._process is None or self._process.returncode is not None:
                environment = {name: value for name, value in os.environ.items() if not name.startswith("CHATBOT_")}
                environment |= {"PYTHONPATH": str(Path(__file__).parents[2]), "CUDA_VISIBLE_DEVICES": ""}
                environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "chatbot_llm.engine.schema_helper",
                    self._folder,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.DEVNULL,
                    env=environment,
                )
                assert process.stdout is not None
                try:
                    ready = await asyncio.wait_for(process.stdout.readline(), START_S)
                except BaseException:
                    process.kill()
                    raise
                if not ready:
                    log.error("the helper that tries schemas does not start")
                    await process.wait()
                    raise Unavailable("schemas cannot be checked here: the helper does not start", retry_after=30)
                self._process = process
                self._reader = asyncio.ensure_future(self._read(process))
            return self._process

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            answer = json.loads(line)
            future = self._waiting.get(answer.pop("id"))
            if future is not None and not future.done():
                future.set_result(answer)
        await process.wait()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionError())


_LARGE = (
    f"more than {COMPILE_S:g} s of CPU time before the first token; "
    "use fewer properties and alternatives, or shorter lists and texts"
)

"""What a request wants enforced is tried before the engine sees it, in a process that may be killed.

An engine compiles a schema in a thread beside its steps and asks the result for every token: too costly a schema is
everybody's burden. So it is compiled first in a helper (`schema_helper.py`) that has so much CPU time, and some tokens
are walked through it. Measured, not guessed: the verdict is the same whatever the schema looks like.

A cheap schema does not wait behind a costly one: each first gets a little time in the quick lane, and only what does
not come to its end there waits for the slow lane. A request that goes takes its trial with it.
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

from chatbot_llm.engine.enforced import demanded, hinted, patterns, unsupported
from chatbot_llm.engine.schema_helper import CORES
from chatbot_llm.errors import BadRequest, Unavailable
from chatbot_llm.observability.redaction import withhold

log = logging.getLogger(__name__)

#: CPU seconds of the quick lane: most schemas need a tenth of it.
QUICK_CPU_S = 0.15
#: Priority of slow trials: below the engine's (0), and still a tenth of a busy core.
SLOW_NICE = 10
#: Trials at once: quick ones, and slow ones.
QUICK, SLOW = 2, 1
#: Most that turning a schema into a grammar may take, CPU seconds: that happens between two tokens of everyone else.
CONVERT_S = 0.25
#: What a token may cost on average and at worst, CPU seconds; each such request adds that to every step of the engine.
STEP_S, WORST_S = 0.01, 0.1
#: How much longer than its CPU time a trial may take on a busy machine.
PATIENCE = 6
#: Verdicts remembered.
REMEMBERED = 512
#: Longest part of a pattern that an error quotes, characters, and most patterns that are looked at for it.
QUOTED, SUSPECTS = 100, 4
#: The helper's own start, seconds: it imports torch.
START_S = 120


@dataclass(frozen=True)
class Verdict:
    """`problem` is why it cannot be enforced, or ""; `cpu_s` what compiling it takes."""

    problem: str = ""
    cpu_s: float = 0.0


class SchemaCheck:
    """One helper for one model. `limit_s` is what one request's schemas may take on all cores, seconds."""

    def __init__(self, folder: str, limit_s: float) -> None:
        self._folder = folder
        self._limit_s = limit_s
        self._cpu_s = limit_s * CORES
        self._known: OrderedDict[bytes, Verdict] = OrderedDict()
        self._lanes = {QUICK_CPU_S: asyncio.Semaphore(QUICK), self._cpu_s: asyncio.Semaphore(SLOW)}
        self._starting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._number = 0

    async def admit(self, body: dict[str, Any]) -> frozenset[int]:
        """Try all that a checked body wants enforced. Returns the tools whose schemas are hints too costly to enforce.

        Raises BadRequest naming the place and the reason for what must be obeyed and cannot be.
        """
        budget = self._cpu_s
        for place, kind, text in demanded(body):
            schema = json.loads(text) if kind == "json" else None
            if keyword := unsupported(schema):
                raise BadRequest(f"{place}: {keyword} cannot be enforced here; leave it out", param=place)
            verdict = await self.verdict(kind, text)
            budget -= verdict.cpu_s
            if verdict.problem or budget < 0:
                problem = (
                    verdict.problem or f"the schemas of this request take more than {self._limit_s:g} s to compile"
                )
                raise BadRequest(
                    f"{place}: {withhold(problem, schema)}{await self._quote(schema, verdict)}", param=place
                )
        tried = [(await self.verdict("json", text), at) for at, text in hinted(body)]
        free = {at for verdict, at in tried if verdict.problem}
        for verdict, at in sorted(tried, key=lambda pair: pair[0].cpu_s):
            budget -= verdict.cpu_s
            if budget < 0:
                free.add(at)
        return frozenset(free)

    async def verdict(self, kind: str, text: str) -> Verdict:
        """Whether a grammar of this kind (json, choice, regex, grammar, structural_tag) can be enforced."""
        key = hashlib.sha256(f"{kind} {text}".encode()).digest()
        for cpu_s, lane in self._lanes.items():
            async with lane:
                if key in self._known:
                    self._known.move_to_end(key)
                    return self._known[key]
                result = await self._try(kind, text, cpu_s)
            if "ended" in result and cpu_s != self._cpu_s:
                continue
            verdict = self._judge(result)
            self._known[key] = verdict
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
            return verdict
        raise AssertionError("the last lane always has a verdict")

    async def close(self) -> None:
        """End the helper and whatever it tries."""
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()
        if self._reader is not None:
            await self._reader

    def _judge(self, result: dict[str, Any]) -> Verdict:
        if "ended" in result:
            return Verdict(f"it takes more than {self._limit_s:g} s to compile{_ADVICE}")
        if error := result.get("error"):
            return Verdict(f"it cannot be enforced: {error}")
        if result["convert_s"] > CONVERT_S:
            return Verdict(f"it is too large to be made into a grammar{_ADVICE}")
        if result["step_s"] > STEP_S or result["worst_s"] > WORST_S:
            return Verdict(f"it would slow every token down ({result['step_s'] * 1000:.0f} ms on average){_ADVICE}")
        return Verdict(cpu_s=result["compile_s"])

    async def _quote(self, schema: Any, verdict: Verdict) -> str:
        """The pattern that is to blame, if one is by itself."""
        if not verdict.problem:
            return ""
        for pattern in list(dict.fromkeys(patterns(schema)))[:SUSPECTS]:
            alone = json.dumps({"type": "string", "pattern": pattern})
            async with self._lanes[QUICK_CPU_S]:
                result = await self._try("json", alone, QUICK_CPU_S * 2)
            if "ended" in result or "error" in result:
                shown = pattern if len(pattern) <= QUOTED else pattern[:QUOTED] + " ..."
                return f"; the pattern to blame is {shown}"
        return ""

    async def _try(self, kind: str, text: str, cpu_s: float) -> dict[str, Any]:
        """One trial. A caller that is cancelled takes it with it."""
        for _ in range(2):
            process = await self._helper()
            self._number += 1
            number = self._number
            nice = SLOW_NICE if cpu_s == self._cpu_s else 0
            future = self._waiting[number] = asyncio.get_running_loop().create_future()
            try:
                self._say(process, {"id": number, "kind": kind, "text": text, "cpu_s": cpu_s, "nice": nice})
                return await asyncio.wait_for(future, cpu_s * PATIENCE)
            except TimeoutError:
                return {"ended": 0}
            except ConnectionError:
                continue  # the helper is gone: once more, with a new one
            finally:
                del self._waiting[number]
                if not future.done() or future.cancelled():
                    with contextlib.suppress(ConnectionError):
                        self._say(process, {"stop": number})
        raise Unavailable("schemas cannot be checked at the moment; try again later", retry_after=5)

    def _say(self, process: asyncio.subprocess.Process, command: dict[str, Any]) -> None:
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


_ADVICE = (
    "; what costs most: minLength and maxLength of different values, minProperties and maxProperties over many "
    "optional properties, large enums, counts in patterns"
)

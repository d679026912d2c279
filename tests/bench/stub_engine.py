"""An executor for vLLM that computes nothing: every scheduled request gets one token a step.

`--distributed-executor-backend bench.stub_engine.StubExecutor` puts it under the real engine core, scheduler, AsyncLLM
and OpenAI server. What is left to measure is serving: the same for both servers, whatever the model.

BENCH_STEP_S: seconds a step takes (0).
"""

import os
import time
from concurrent.futures import Future
from typing import Any

import torch
from vllm.v1.executor.abstract import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.worker.worker_base import CompilationTimes

#: Token ids handed out in turn: ordinary words of SmolLM2's vocabulary.
FIRST_TOKEN, TOKENS = 1000, 500
MEMORY_BYTES = 4 << 30


class StubExecutor(Executor):
    """One worker's answers without a worker."""

    def _init_executor(self) -> None:
        self._step_s = float(os.environ.get("BENCH_STEP_S", "0"))
        self._missing: dict[str, int] = {}
        self._turn = 0

    def collective_rpc(
        self,
        method: Any,
        timeout: float | None = None,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        non_block: bool = False,
    ) -> Any:
        answer = getattr(self, f"_{method}", lambda *_: None)(*args) if isinstance(method, str) else None
        if not non_block:
            return [answer]
        future: Future[Any] = Future()
        future.set_result([answer])
        return future

    def check_health(self) -> None:
        return

    def shutdown(self) -> None:
        return

    def _get_kv_cache_spec(self) -> dict[str, Any]:
        spec = FullAttentionSpec(block_size=128, num_kv_heads=1, head_size=64, dtype=torch.float32)
        return {"layers.0": spec}

    def _get_supported_kv_cache_layouts(self) -> list[str]:
        return ["LBHNC"]

    def _determine_available_memory(self) -> int:
        return MEMORY_BYTES

    def _compile_or_warm_up_model(self) -> CompilationTimes:
        return CompilationTimes(language_model=0.0, encoder=0.0)

    def _get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    def execute_model(self, scheduler_output: Any, non_block: bool = False) -> Any:
        """A token for every request whose prompt is through."""
        if self._step_s:
            time.sleep(self._step_s)
        for new in scheduler_output.scheduled_new_reqs:
            self._missing[new.req_id] = len(new.prompt_token_ids or ()) - new.num_computed_tokens
        for gone in scheduler_output.finished_req_ids:
            self._missing.pop(gone, None)
        ids, sampled = [], []
        for req, count in scheduler_output.num_scheduled_tokens.items():
            self._missing[req] = self._missing.get(req, 0) - count
            self._turn += 1
            ids.append(req)
            sampled.append([FIRST_TOKEN + self._turn % TOKENS] if self._missing[req] <= 0 else [])
        output = ModelRunnerOutput(ids, {req: at for at, req in enumerate(ids)}, sampled)
        if not non_block:
            return output
        future: Future[ModelRunnerOutput] = Future()
        future.set_result(output)
        return future

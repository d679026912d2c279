"""An executor for vLLM whose card is too small: a step with more requests than fit is CUDA's out-of-memory error.

`--distributed-executor-backend support.out_of_memory.SmallCard` puts it under the real engine core.
"""

from concurrent.futures import Future
from typing import Any

import torch

from bench.stub_engine import StubExecutor

#: Requests in one step that still fit.
FITS = 2
#: As PyTorch says it on a T4.
MESSAGE = "CUDA out of memory. Tried to allocate 1.02 GiB. GPU 0 has a total capacity of 14.56 GiB"


class SmallCard(StubExecutor):
    """As vLLM's own executor does it (v1/executor/uniproc_executor.py), the error comes where the result would."""

    def execute_model(self, scheduler_output: Any, non_block: bool = False) -> Any:
        if len(scheduler_output.num_scheduled_tokens) <= FITS:
            return super().execute_model(scheduler_output, non_block)
        error = torch.OutOfMemoryError(MESSAGE)
        if not non_block:
            raise error
        future: Future[Any] = Future()
        future.set_exception(error)
        return future

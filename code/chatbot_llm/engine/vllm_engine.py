"""vLLM inside this process: the ONLY file that imports vllm (0.32.0; a drift test fails when its names move).

vLLM's `AsyncLLM` and its own OpenAI serving objects do the work: its pydantic models parse and render the protocol, so
nothing of it is written by hand here. vLLM is imported in the engine's thread, never at import of this file.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from chatbot_llm.engine import profiles, token_path
from chatbot_llm.engine import weights as models
from chatbot_llm.engine.base import Phase
from chatbot_llm.engine.patches import early
from chatbot_llm.engine.schema_check import SchemaCheck
from chatbot_llm.engine.stand_in import stand_in
from chatbot_llm.engine.startup_phases import Listener
from chatbot_llm.engine.supervisor import LoopEngine, kill_children
from chatbot_llm.engine.vllm_errors import refusal, told, without_half_call
from chatbot_llm.errors import ApiError, BadRequest, UsageError
from chatbot_llm.observability import tracing
from chatbot_llm.serving.request import Call, Result
from chatbot_llm.settings import Settings
from chatbot_llm.sse import one_line

#: vLLM's name for the class; not imported here, it lives in the engine's process.
CPU_WORKER = "chatbot_llm.engine.patches.cpu_worker.Worker"


def engine_modules(profile: str) -> list[str]:
    """What the engine's process imports before it knows its work: most of what it will ever need."""
    worker = "cpu_worker" if profile == "cpu" else "gpu_worker"
    ours = [CPU_WORKER.rpartition(".")[0]] if profile == "cpu" else []
    return [f"vllm.v1.worker.{worker}", "vllm.v1.engine.core", "vllm._aiter_ops", *ours]


class VllmEngine(LoopEngine):
    """vLLM with `argv` in the form of `vllm serve`'s flags."""

    def __init__(self, settings: Settings, argv: Sequence[str] = ()) -> None:
        super().__init__(settings)
        self._argv = list(argv)
        self._client: Any = None
        self._serving: Any = None
        self._cards: list[dict[str, Any]] = []
        self._schemas: SchemaCheck | None = None

    def _new_loop(self) -> asyncio.AbstractEventLoop:
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        return loop

    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        """Import vLLM, parse its flags, start its engine process, and make its serving objects."""
        profile = profiles.pick(self._settings.profile)
        profiles.environment(profile, self._argv)
        listener = Listener(self._enter, self._settings.log_level)
        stack.callback(listener.close)
        context = early.Context(engine_modules(profile))
        stack.callback(context.close)
        argv = self._resolve(profiles.arguments(profile, self._argv))
        self._enter(Phase.IMPORT)
        with early.uncollected():
            early.import_package("vllm")
            from starlette.datastructures import State as Bag
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.entrypoints.launchers.api_server.app_state import init_app_state
            from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client_from_engine_args
            from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
            from vllm.renderers import hf as templates
            from vllm.utils.argparse_utils import FlexibleArgumentParser
            from vllm.v1.engine import utils as starter
            from vllm.v1.engine.core_client import AsyncMPClient as Client

        self._enter(Phase.CONFIG)
        args = _parse(make_arg_parser(FlexibleArgumentParser(prog="chatbot_llm")), argv)
        try:
            validate_parsed_serve_args(args)
            engine_args = AsyncEngineArgs.from_cli_args(args)
        except (TypeError, ValueError) as error:
            raise UsageError(str(error)) from error
        if profile == "cpu" and engine_args.worker_cls == "auto":
            engine_args.worker_cls = CPU_WORKER
        self._enter(Phase.SPAWN)
        with contextlib.ExitStack() as starting:
            if "--numa-bind" not in profiles.given(argv):  # with it vLLM starts another executable
                starting.enter_context(stand_in(starter, "get_mp_context", lambda: context))
            reading = token_path.reading(Client._ensure_output_queue_task)
            starting.enter_context(stand_in(Client, "_ensure_output_queue_task", reading))
            self._client = await stack.enter_async_context(build_async_engine_client_from_engine_args(engine_args))
        self._enter(Phase.WARM_UP)
        if not self._client.model_config.is_multimodal_model and not models.has_processor(args.model):
            # vLLM would load the tokenizer once more to see that it is no processor with a template of its own.
            none = stand_in(templates, "_try_get_processor_chat_template", lambda *_, **__: None)
            stack.enter_context(none)
        bag = Bag()
        await init_app_state(self._client, bag, args, await self._client.get_supported_tasks())
        if getattr(bag, "openai_serving_chat", None) is None:
            raise UsageError(f"{args.model} cannot generate text: pass a chat model as --model")
        self._shorten(stack, bag.openai_serving_chat)
        self._serving = bag
        self._schemas = SchemaCheck(args.model, self._settings.schema_s)
        stack.push_async_callback(self._schemas.close)
        shown = await bag.openai_serving_models.show_available_models()
        self._cards = [_card(card) for card in shown.data]

    def _shorten(self, stack: contextlib.AsyncExitStack, chat: Any) -> None:
        """Take the short way for each token; a test compares every byte with the long way's."""
        from vllm.entrypoints.openai.chat_completion import serving
        from vllm.envs import enable_envs_cache

        for name, light in token_path.models(serving).items():
            stack.enter_context(stand_in(serving, name, light))
        chat._make_parser = token_path.parser_for(chat._make_parser)
        if (manager := self._client.logger_manager) is not None:
            manager.record = token_path.Statistics(manager.record).record
        enable_envs_cache()  # vLLM does so in its engine's process, but not here

    def _resolve(self, argv: list[str]) -> list[str]:
        """Put the model's folder in place of its name, and name it for clients."""
        name, argv = profiles.take(argv, "--model")
        if name is None:
            raise UsageError("no model: pass --model PATH or NAME")
        model = models.locate(name, self._settings.model_dir, self._settings.cache_dir)
        models.read_ahead(model.path)
        given = profiles.given(argv)
        if "--served-model-name" not in given:
            argv = [*argv, "--served-model-name", *model.names]
        if "--override-generation-config" not in given:  # a request that names no limit has one all the same
            argv = [
                *argv,
                "--override-generation-config",
                json.dumps({"max_new_tokens": self._settings.max_tokens_cap}),
            ]
        if (endpoint := tracing.endpoint()) and "--otlp-traces-endpoint" not in given:
            argv = [*argv, "--otlp-traces-endpoint", endpoint]
        return ["--model", model.path, *argv]

    def models(self) -> list[dict[str, Any]]:
        return [dict(card) for card in self._cards]

    def version(self) -> dict[str, str]:
        loaded = {name: sys.modules.get(name) for name in ("vllm", "torch", "transformers")}
        return {"engine": "vllm"} | {
            name: str(getattr(module, "__version__", "not loaded yet")) for name, module in loaded.items()
        }

    def prepare(self, call: Call) -> None:
        from pydantic import ValidationError
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
        from vllm.entrypoints.openai.completion.protocol import CompletionRequest
        from vllm.entrypoints.serve.tokenize.protocol import (
            DetokenizeRequest,
            TokenizeChatRequest,
            TokenizeCompletionRequest,
        )
        from vllm.exceptions import VLLMError

        shapes: dict[str, Any] = {
            "chat": ChatCompletionRequest,
            "completion": CompletionRequest,
            "tokenize": TokenizeChatRequest if "messages" in call.body else TokenizeCompletionRequest,
            "detokenize": DetokenizeRequest,
        }
        try:
            call.prepared = shapes[call.kind].model_validate(call.body)
        except ValidationError as error:
            raise refusal(error, call.body) from None
        except (VLLMError, ValueError, TypeError) as error:
            raise self._explain(error, call.body) from None

    async def _answer(self, call: Call) -> Result | AsyncGenerator[str, None]:
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse

        raw = _raw_request(call)
        bag = self._serving
        if self._schemas is not None and call.kind in ("chat", "completion"):
            for at in await self._schemas.admit(call.body):
                call.prepared.tools[at].function = _free(call.prepared.tools[at].function)
        if call.kind == "chat":
            answer = await bag.openai_serving_chat.create_chat_completion(call.prepared, raw)
        elif call.kind == "completion":
            answer = await bag.openai_serving_completion.create_completion(call.prepared, raw)
        elif call.kind == "tokenize":
            answer = await bag.serving_tokenization.create_tokenize(call.prepared, raw)
        else:
            answer = await bag.serving_tokenization.create_detokenize(call.prepared, raw)
        if isinstance(answer, ErrorResponse):
            raise told(answer.error.code, answer.error.message, answer.error.param, call.body)
        if hasattr(answer, "__aiter__"):
            call.context = raw
            return self._or_raise(answer, call)
        _note(call, getattr(answer, "usage", None), getattr(answer, "metrics", None))
        for choice in getattr(answer, "choices", None) or ():
            if choice.finish_reason == "abort":
                choice.finish_reason = "length"
            if call.body.get("tools") and choice.finish_reason == "length":
                choice.message.content = without_half_call(choice.message.content)
        return Result(200, answer.model_dump_json().encode())

    async def _or_raise(self, streamed: AsyncGenerator[str, None], call: Call) -> AsyncGenerator[str, None]:
        """vLLM ends a stream that failed with an event in its own words; here it is an error like any other."""
        async with contextlib.aclosing(streamed):
            async for chunk in streamed:
                if chunk.startswith('data: {"error"'):
                    if self._client.errored:
                        raise self._client.dead_error
                    error = json.loads(chunk.removeprefix("data: "))["error"]
                    raise told(error["code"], error["message"], error["param"], call.body)
                yield one_line(chunk)

    def text_of(self, tokens: list[int]) -> str:
        from vllm.exceptions import VLLMError

        try:
            text: str = self._client.renderer.tokenizer.decode(tokens)
        except (VLLMError, ValueError, TypeError, OverflowError, IndexError):
            raise BadRequest("prompt: these are no token ids of this model", param="prompt") from None
        return text

    def _account(self, call: Call) -> None:
        metadata = getattr(call.context.state, "request_metadata", None)
        _note(call, getattr(metadata, "final_usage_info", None), None)

    async def _cut_short(self, call: Call) -> None:
        if call.kind == "chat":
            await self._client.abort(f"chatcmpl-{call.id}")
        elif call.kind == "completion":
            prompts = call.prepared.prompt
            many = len(prompts) if isinstance(prompts, list) else 1
            await self._client.abort([f"cmpl-{call.id}-{index}" for index in range(many)])

    def _mark_cut(self, chunk: str) -> bytes:
        # Quotes inside generated text are escaped, so this matches the field alone.
        return chunk.replace('"finish_reason":"abort"', '"finish_reason":"length"').encode()

    def _death(self) -> str:
        return str(self._client.dead_error) if self._client.errored else ""

    def _kill(self) -> None:
        kill_children()

    async def _ping(self) -> None:
        await self._client.is_paused()

    def _explain(self, error: Exception, body: Any) -> ApiError:
        from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
        from vllm.v1.engine.exceptions import EngineDeadError

        if isinstance(error, EngineDeadError):
            return ApiError("the engine died while answering; send the request again", code="engine_error")
        info = create_error_response(error).error
        message = info.message if info.code < 500 else "the engine could not answer this request"
        return told(info.code, message, info.param, body)


def _parse(parser: Any, argv: list[str]) -> Any:
    """Parse vLLM's flags. Raises UsageError with argparse's own sentence instead of leaving the process."""

    def complain(message: str) -> None:
        raise UsageError(message)

    parser.error = complain
    return parser.parse_args(argv)


def _free(function: Any) -> Any:
    """A tool's function whose arguments are not enforced, whatever --tool-strict-level says; the prompt is the same.

    vLLM enforces by setting `strict` on a copy of each function (`structural_tag_registry.resolve_tool_strictness`).
    """

    class Free(type(function)):  # type: ignore[misc]
        def model_copy(self, **_: Any) -> Any:
            return super().model_copy(update={"strict": False})

    return Free.model_construct(**dict(function))


def _card(card: Any) -> dict[str, Any]:
    shown: dict[str, Any] = card.model_dump(
        mode="json", include={"id", "object", "created", "owned_by", "max_model_len"}
    )
    return shown


def _raw_request(call: Call) -> Any:
    """What vLLM may know of the HTTP request: its id and its trace, nothing else of its headers."""
    from starlette.requests import Request

    headers = {"x-request-id": call.id, **call.trace}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    return Request(scope)


def _note(call: Call, usage: Any, metrics: Any) -> None:
    """Keep what the request log wants to know."""
    if usage is not None:
        call.usage = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens or 0}
    if metrics is not None:
        call.timing = {
            name.removesuffix("_time_ms").removesuffix("_ms"): value
            for name, value in metrics.model_dump(exclude_none=True).items()
            if name in ("time_to_first_token_ms", "generation_time_ms", "queue_time_ms")
        }


def print_flags() -> None:
    """Print every flag of vLLM's serve command."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    make_arg_parser(FlexibleArgumentParser(prog="python -m chatbot_llm")).print_help()

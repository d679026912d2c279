"""vLLM inside this process: the ONLY file that imports vllm (0.32.0; a drift test fails when its names move).

vLLM's `AsyncLLM` and its own OpenAI serving objects do the work: its pydantic models parse and render the protocol, so
nothing of it is written by hand here. vLLM is imported and constructed in a thread while the loop serves, then used on
the loop; it is never imported when this file is.
"""

import contextlib
import json
import operator
import os
import pkgutil
import sys
from argparse import Namespace
from collections.abc import AsyncGenerator, Sequence
from contextvars import ContextVar
from typing import Any

from chatbot_llm.engine import profiles, tool_calls, weights
from chatbot_llm.engine.base import Phase
from chatbot_llm.engine.patches import early, replaced
from chatbot_llm.engine.protocols.base import EngineRequest
from chatbot_llm.engine.protocols.openai import DONE
from chatbot_llm.engine.schema_check import SchemaCheck
from chatbot_llm.engine.startup_phases import Listener
from chatbot_llm.engine.supervisor import Engine, in_thread, kill_children
from chatbot_llm.engine.vllm_errors import api_error, refusal
from chatbot_llm.errors import ApiError, UsageError, wrong
from chatbot_llm.observability import prefix, tracing
from chatbot_llm.settings import Settings

#: vLLM's times of an answer, and what the request log calls them.
_TIMES = {"time_to_first_token_ms": "ttft", "generation_time_ms": "decode", "queue_time_ms": "engine_queue"}
#: The request that this task asks vLLM for: its serving objects call `generate` in the same task.
_REQUEST: ContextVar[EngineRequest | None] = ContextVar("request", default=None)


def engine_modules(profile: str) -> list[str]:
    """What the engine's process imports before it knows its work: most of what it will ever need."""
    worker = "cpu_worker" if profile == "cpu" else "gpu_worker"
    return [f"vllm.v1.worker.{worker}", "vllm.v1.engine.core", "vllm._aiter_ops"]


class VllmEngine(Engine):
    """vLLM with `argv` in the form of `vllm serve`'s flags."""

    def __init__(self, settings: Settings, argv: Sequence[str] = ()) -> None:
        super().__init__(settings)
        self._argv = list(argv)
        self._client: Any = None
        self._serving: Any = None
        self._cards: list[dict[str, Any]] = []
        self._schemas: SchemaCheck | None = None
        self._template: tuple[str, tuple[str, ...]] = ("", ())

    async def _open(self, stack: contextlib.AsyncExitStack) -> None:
        profile = profiles.pick(self._settings.profile)
        profiles.environment(profile, self._argv)
        listener = Listener(self._enter, self._settings.log_level)
        stack.callback(listener.close)
        context = early.Context(engine_modules(profile))
        stack.callback(context.close)
        self._client, args = await in_thread(lambda: self._construct(profile, context))
        # At once: nobody is inside any more, and by itself the process walks its whole heap for up to five seconds.
        stack.callback(self._client.shutdown, timeout=0)
        generate, salt = self._client.generate, prefix.salt(self._settings.keys)
        self._client.generate = lambda *args, **how: _noted(generate(*args, **how), _REQUEST.get(), salt)
        self._enter(Phase.WARM_UP)
        from starlette.datastructures import State as Bag
        from vllm.entrypoints.launchers.api_server.app_state import init_app_state

        args.chat_template = args.chat_template or _own_template(self._client)
        bag = Bag()
        await init_app_state(self._client, bag, args, await self._client.get_supported_tasks())
        if getattr(bag, "openai_serving_chat", None) is None:
            raise UsageError(f"{args.model} cannot generate text: pass a chat model as --model")
        self._serving = bag
        self._template = _template(self._client.renderer.tokenizer, bag.openai_serving_chat.chat_template)
        self._schemas = SchemaCheck(args.model)
        self._obeys_tools = args.tool_call_parser == tool_calls.PARSER
        stack.push_async_callback(self._schemas.close)
        shown = await bag.openai_serving_models.show_available_models()
        shown_fields = {"id", "object", "created", "owned_by", "max_model_len"}
        self._cards = [card.model_dump(mode="json", include=shown_fields) for card in shown.data]

    def _construct(self, profile: str, context: early.Context) -> tuple[Any, Namespace]:
        """Import vLLM, parse its flags and start its engine process. Runs in a thread."""
        argv = self._resolve(profiles.arguments(profile, self._argv))
        self._enter(Phase.IMPORT)
        with early.uncollected():
            early.import_package("vllm")
            import vllm.entrypoints.launchers.api_server.app_state  # noqa: F401, used on the loop
            from vllm.engine.arg_utils import AsyncEngineArgs
            from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
            from vllm.envs import enable_envs_cache
            from vllm.usage.usage_lib import UsageContext
            from vllm.utils.argparse_utils import FlexibleArgumentParser
            from vllm.v1.engine import utils as starter
            from vllm.v1.engine.async_llm import AsyncLLM

        self._enter(Phase.CONFIG)
        _register_parser()
        args = _parse(make_arg_parser(FlexibleArgumentParser(prog="chatbot_llm")), argv)
        try:
            validate_parsed_serve_args(args)
            engine_args = AsyncEngineArgs.from_cli_args(args)
        except (TypeError, ValueError) as error:
            raise UsageError(str(error)) from error
        self._enter(Phase.SPAWN)
        with contextlib.ExitStack() as starting:
            if "--numa-bind" not in profiles.given(argv):  # with it vLLM starts another executable
                starting.enter_context(replaced(starter, "get_mp_context", lambda: context))
            client = AsyncLLM.from_engine_args(engine_args, usage_context=UsageContext.OPENAI_API_SERVER)
        enable_envs_cache()  # as vLLM does in its engine's process
        return client, args

    def _resolve(self, argv: list[str]) -> list[str]:
        """Put the model's folder in place of its name, and name it for clients."""
        name, argv = profiles.take(argv, "--model")
        if name is None:
            raise UsageError("no model: pass --model PATH or NAME")
        model = weights.locate(name, self._settings.model_dir, self._settings.cache_dir)
        weights.read_ahead(model.path)
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

    def prepare(self, request: EngineRequest) -> None:
        from pydantic import ValidationError
        from vllm.exceptions import VLLMError

        protocol = request.protocol
        model = pkgutil.resolve_name(protocol.model(request.body))
        try:
            parsed = model.model_validate(protocol.for_vllm(request, self._cards[0]["id"]))
            request.prepared = protocol.adopted(parsed, self._serving, request.body)
        except ValidationError as error:
            raise refusal(error, request.body) from None
        except (VLLMError, ValueError, TypeError) as error:
            raise self._explain(error, request.body) from None

    async def _answer(self, request: EngineRequest) -> str | AsyncGenerator[str, None]:
        from vllm.entrypoints.serve.engine.protocol import ErrorResponse

        raw, protocol = _raw_request(request), request.protocol
        if self._schemas is not None and protocol.generates:
            free = await self._schemas.admit(request.chat)
            if self._obeys_tools and request.body.get("tools"):
                _obey_tools(request.prepared, free)
        _REQUEST.set(request)
        answer = await operator.attrgetter(protocol.serving)(self._serving)(request.prepared, raw)
        if isinstance(answer, ErrorResponse):
            raise api_error(answer.error.code, answer.error.message, answer.error.param, request.body)
        if hasattr(answer, "__aiter__"):
            return protocol.events(self._or_raise(answer, request, raw), self._serving)
        _note(request, getattr(answer, "usage", None), getattr(answer, "metrics", None))
        for choice in getattr(answer, "choices", None) or ():
            if choice.finish_reason == "abort":
                choice.finish_reason = "length"
            if request.body.get("tools") and choice.finish_reason == "length":
                choice.message.content = tool_calls.without_half_call(choice.message.content)
        rendered: str = protocol.rendered(answer, self._serving).model_dump_json(**protocol.dump)
        return rendered

    async def _or_raise(
        self, streamed: AsyncGenerator[Any, None], request: EngineRequest, raw: Any
    ) -> AsyncGenerator[Any, None]:
        """vLLM ends a stream that failed with an event in its own words; here it is an error like any other."""
        async with contextlib.aclosing(streamed):
            async for event in streamed:
                if isinstance(event, str) and event.startswith('data: {"error"'):
                    if self._client.errored:
                        raise self._client.dead_error
                    error = json.loads(event.removeprefix("data: "))["error"]
                    raise api_error(error["code"], error["message"], error["param"], request.body)
                if event == DONE:
                    metadata = getattr(raw.state, "request_metadata", None)
                    _note(request, getattr(metadata, "final_usage_info", None), None)
                yield event

    def text_of(self, tokens: list[int]) -> str:
        from vllm.exceptions import VLLMError

        try:
            text: str = self._client.renderer.tokenizer.decode(tokens)
        except (VLLMError, ValueError, TypeError, OverflowError, IndexError):
            raise wrong("prompt", "these are no token ids of this model") from None
        return text

    def template(self) -> tuple[str, tuple[str, ...]]:
        return self._template

    async def cut_short(self, request: EngineRequest) -> None:
        if request.prepared is not None and (ids := request.protocol.engine_ids(request)):
            await self._client.abort(ids)

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
        return api_error(info.code, message, info.param, body)


def _register_parser() -> None:
    """Make our parser of tool calls known to vLLM: its Hermes parser, which leaves the grammar of a request alone."""
    from vllm.tool_parsers import ToolParserManager
    from vllm.tool_parsers.hermes_tool_parser import Hermes2ProToolParser

    class Calls(Hermes2ProToolParser):  # type: ignore[misc]
        structural_tag_model = None
        supports_required_and_named = False  # vLLM would have them without the tags

    ToolParserManager.register_module(tool_calls.PARSER, module=Calls)


def _obey_tools(prepared: Any, free: frozenset[int]) -> None:
    """Have the calls of an answer follow the request's tools; the text keeps to what else was asked of it."""
    from vllm.sampling_params import StructuredOutputsParams

    if grammar := tool_calls.wanted(prepared, free):
        prepared.structured_outputs = StructuredOutputsParams(grammar=grammar)
        # The form of the text, a chat's and Responses', is part of the grammar.
        setattr(prepared, "response_format" if hasattr(prepared, "response_format") else "text", None)


def _parse(parser: Any, argv: list[str]) -> Any:
    """Parse vLLM's flags. Raises UsageError with argparse's own sentence instead of leaving the process."""

    def complain(message: str) -> None:
        raise UsageError(message)

    parser.error = complain
    return parser.parse_args(argv)


def _own_template(client: Any) -> str | None:
    """The one chat template of a model that reads text alone, as vLLM would find it; None where vLLM shall look.

    It would look for a processor's first, by loading the tokenizer once more: a thirtieth of a start.
    """
    from vllm.renderers.hf import HfRenderer

    if not isinstance(client.renderer, HfRenderer) or client.model_config.is_multimodal_model:
        return None
    template = getattr(client.renderer.tokenizer, "chat_template", None)
    return template if isinstance(template, str) and "{" in template else None


def _template(tokenizer: Any, given: str | None) -> tuple[str, tuple[str, ...]]:
    """See `Engine.template`. Of several templates vLLM takes the default one."""
    source = given or getattr(tokenizer, "chat_template", None) or ""
    source = source.get("default", "") if isinstance(source, dict) else source
    return source, tuple(sorted({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}))


def _raw_request(request: EngineRequest) -> Any:
    """What vLLM may know of the HTTP request: its id and its trace, nothing else of its headers."""
    from starlette.requests import Request

    headers = {"x-request-id": request.id, **request.trace}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    return Request(scope)


async def _noted(outputs: Any, request: EngineRequest | None, salt: bytes) -> AsyncGenerator[Any, None]:
    """vLLM's outputs of one prompt as they come; what the first says of the prompt is kept for the request log."""
    async with contextlib.aclosing(outputs):
        async for output in outputs:
            if request is not None:
                seen, request = request.prefix, None
                seen["cached_tokens"] = int(seen.get("cached_tokens", 0)) + (output.num_cached_tokens or 0)
                seen.setdefault("prompt_blocks", prefix.blocks(output.prompt_token_ids or (), salt))
            yield output


def _note(request: EngineRequest, usage: Any, metrics: Any) -> None:
    """Keep what the request log wants to know."""
    if usage is not None:
        request.usage = {name: getattr(usage, name, 0) or 0 for name in ("prompt_tokens", "completion_tokens")}
    if metrics is not None:
        measured = metrics.model_dump(exclude_none=True)
        request.timing = {ours: measured[theirs] for theirs, ours in _TIMES.items() if theirs in measured}


def print_flags() -> None:
    """Print every flag of vLLM's serve command; needs no device."""
    if not profiles.nvidia():  # vLLM's CUDA build would not say what its flags are
        os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    make_arg_parser(FlexibleArgumentParser(prog="python -m chatbot_llm")).print_help()

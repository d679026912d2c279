"""The pinned vLLM still has the names, signatures, flags and texts this project rests on.

Run this first after changing the version: what fails here is what to look at in `engine/vllm_engine.py`.
"""

import importlib.util
import inspect
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from pydantic import ValidationError

from chatbot_llm.engine import profiles, schema_helper, tool_calls, weights
from chatbot_llm.engine import startup_phases as phases
from chatbot_llm.engine.protocols import PROTOCOLS
from chatbot_llm.engine.protocols.base import EngineRequest, Protocol
from chatbot_llm.engine.vllm_engine import _obey_tools, _own_template, _parse, _register_parser, engine_modules
from chatbot_llm.engine.vllm_errors import refusal
from chatbot_llm.errors import UsageError
from chatbot_llm.routes import fields, validation
from infra.image import variants

# What vLLM, torch and transformers warn of while being imported is theirs.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore"), pytest.mark.xdist_group("vllm")]

NAMES = {
    "vllm.engine.arg_utils": ["AsyncEngineArgs"],
    "vllm.entrypoints.launchers.api_server.app_state": ["init_app_state"],
    "vllm.entrypoints.launchers.cli_args": ["make_arg_parser", "validate_parsed_serve_args"],
    "vllm.entrypoints.serve.engine.protocol": ["ErrorResponse"],
    "vllm.entrypoints.serve.exception_handling.error_response": ["create_error_response"],
    "vllm.exceptions": ["VLLMError"],
    "vllm.usage.usage_lib": ["UsageContext"],
    "vllm.utils.argparse_utils": ["FlexibleArgumentParser"],
    "vllm.v1.engine.async_llm": ["AsyncLLM"],
    "vllm.v1.engine.exceptions": ["EngineDeadError"],
    "vllm.v1.engine.utils": ["get_mp_context"],
}


def test_the_version_is_the_one_this_project_was_made_for() -> None:
    import vllm

    assert vllm.__version__.split("+")[0] == "0.32.0"


@pytest.mark.parametrize("module", NAMES)
def test_names_are_where_they_were(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in NAMES[module] if not hasattr(found, name)] == []


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_what_a_protocol_names_is_where_it_says(protocol: Protocol) -> None:
    from vllm.entrypoints.anthropic.serving import AnthropicServingMessages
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
    from vllm.entrypoints.openai.responses.serving import OpenAIServingResponses
    from vllm.entrypoints.serve.tokenize.serving import ServingTokenization

    bag = {
        "openai_serving_chat": OpenAIServingChat,
        "openai_serving_completion": OpenAIServingCompletion,
        "openai_serving_responses": OpenAIServingResponses,
        "anthropic_serving_messages": AnthropicServingMessages,
        "serving_tokenization": ServingTokenization,
    }
    module, _, name = protocol.model({}).partition(":")
    assert hasattr(importlib.import_module(module), name)
    serving, _, method = protocol.serving.partition(".")
    assert list(inspect.signature(getattr(bag[serving], method)).parameters)[:3] == ["self", "request", "raw_request"]


def test_messages_are_made_of_chats_by_what_we_call() -> None:
    from vllm.entrypoints.anthropic.serving import AnthropicServingMessages

    made = inspect.signature(AnthropicServingMessages.to_chat_completion_request)
    assert list(made.parameters) == ["anthropic_request", "merge_inline_system", "disabled_thinking_effort"]
    assert "self._merge_inline_system = " in inspect.getsource(AnthropicServingMessages.__init__)
    for name in ("messages_full_converter", "message_stream_converter"):
        assert list(inspect.signature(getattr(AnthropicServingMessages, name)).parameters) == ["self", "generator"]
    assert 'wrap_data_with_event(data, "error")' in inspect.getsource(AnthropicServingMessages.message_stream_converter)


def test_responses_are_stored_only_where_they_are_asked_to_be() -> None:
    from vllm.entrypoints.openai.responses import serving

    source = inspect.getsource(serving.OpenAIServingResponses)
    for store in ("response_store[", "msg_store["):
        for at in [at for at in range(len(source)) if source.startswith(f"self.{store}", at)]:
            if " = " in source[at:].split("\n")[0]:
                assert "if request.store:" in source[at - 500 : at] or "if request.background:" in source[at - 700 : at]
    assert 'sub_request_id = f"{request_id}_{sub_request}"' in source, "the name under which we abort it"


def test_a_stream_of_responses_still_calls_a_cut_one_completed() -> None:
    from vllm.entrypoints.openai.responses import serving

    source = inspect.getsource(serving.OpenAIServingResponses.responses_stream_generator)
    assert 'type="response.completed"' in source and "response.incomplete" not in source, "then stop renaming it"


def test_signatures_take_what_we_pass() -> None:
    from vllm.entrypoints.launchers.api_server.app_state import init_app_state
    from vllm.v1.engine.async_llm import AsyncLLM

    assert list(inspect.signature(init_app_state).parameters) == ["engine_client", "state", "args", "supported_tasks"]
    assert list(inspect.signature(AsyncLLM.from_engine_args).parameters)[:3:2] == ["engine_args", "usage_context"]
    assert list(inspect.signature(AsyncLLM.abort).parameters) == ["self", "request_id", "internal"]
    for name in ("errored", "dead_error", "is_paused"):
        assert hasattr(AsyncLLM, name)


def test_the_engine_is_started_by_the_context_we_put_in_place() -> None:
    from vllm.v1.engine import utils

    source = inspect.getsource(utils.CoreEngineProcManager.__init__)
    assert "context = get_mp_context()" in source and "context.Process(" in source


def test_vllm_goes_on_without_the_compiler_we_hide() -> None:
    from vllm import env_override

    source = inspect.getsource(env_override._patch_inductor_fallback_allow_list)
    assert "from torch._inductor import lowering" in source and "except ImportError:" in source


@pytest.mark.parametrize("module", sorted({*engine_modules("cpu"), *engine_modules("t4")}))
def test_what_the_engine_process_imports_early_is_there(module: str) -> None:
    assert importlib.util.find_spec(module)


@pytest.mark.parametrize("profile", profiles.FLAGS)
def test_every_default_flag_is_still_a_flag(profile: str) -> None:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    known = {option for action in parser._actions for option in action.option_strings}
    used = {flag for flag in {**profiles.COMMON, **profiles.FLAGS[profile]}}
    assert used - known == set()


@pytest.mark.parametrize(("flag", "value"), [("--no-such-flag", "1"), ("--dtype", "float13")])
def test_a_wrong_flag_is_told_in_argparses_words(flag: str, value: str) -> None:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    with pytest.raises(UsageError, match=flag):
        _parse(make_arg_parser(FlexibleArgumentParser()), [flag, value])


def test_what_is_compared_on_a_card_is_vllms_to_read() -> None:
    from vllm.config import CompilationConfig, SpeculativeConfig
    from vllm.config.compilation import CUDAGraphMode
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.envs import environment_variables
    from vllm.utils.argparse_utils import FlexibleArgumentParser
    from vllm.v1.attention.backends.registry import AttentionBackendEnum
    from vllm.v1.spec_decode.dynamic.utils import build_dynamic_sd_schedule_lookup as lookup

    parser = make_arg_parser(FlexibleArgumentParser())
    known = {option for action in parser._actions for option in action.option_strings}
    for variant in variants.variants(card=True):
        assert set(variant.changes) <= known | set(environment_variables)
        if backend := variant.changes.get("--attention-backend"):
            assert backend in AttentionBackendEnum.__members__
        compiled = json.loads(variant.changes.get("--compilation-config", "{}"))
        assert set(compiled) <= set(CompilationConfig.__dataclass_fields__)
        assert compiled.get("cudagraph_mode", "NONE") in CUDAGraphMode.__members__
        drafted = json.loads(variant.changes.get("--speculative-config", "{}"))
        assert set(drafted) <= set(SpeculativeConfig.__dataclass_fields__)
        if schedule := drafted.get("num_speculative_tokens_per_batch_size"):
            assert lookup(schedule, 16, drafted["num_speculative_tokens"])[1:] == [3] * 4 + [0] * 12


def test_renamed_flags_are_really_gone_and_their_successors_are_there() -> None:
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    known = {option for action in parser._actions for option in action.option_strings}
    for old, (new, _value) in profiles.RENAMED.items():
        assert old not in known, f"{old} is a flag again: take it out of RENAMED"
        assert not new or new.split(".")[0] in known, f"{new} is gone"


def models_of(kind: str) -> set[str]:
    from anthropic.types import message_create_params as messages
    from anthropic.types.beta import message_create_params as beta
    from openai.types import completion_create_params as completion
    from openai.types.chat import completion_create_params as chat
    from openai.types.responses import response_create_params as responses
    from vllm.entrypoints.anthropic.protocol import AnthropicCountTokensRequest, AnthropicMessagesRequest
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest
    from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
    from vllm.entrypoints.serve.tokenize import protocol as tokenize

    theirs = {
        "chat": [ChatCompletionRequest.model_fields, chat.CompletionCreateParamsStreaming.__annotations__],
        "completion": [CompletionRequest.model_fields, completion.CompletionCreateParamsStreaming.__annotations__],
        "tokenize": [tokenize.TokenizeChatRequest.model_fields, tokenize.TokenizeCompletionRequest.model_fields],
        "detokenize": [tokenize.DetokenizeRequest.model_fields],
        "responses": [ResponsesRequest.model_fields, responses.ResponseCreateParamsStreaming.__annotations__],
        "messages": [
            AnthropicMessagesRequest.model_fields,
            messages.MessageCreateParamsStreaming.__annotations__,
            beta.MessageCreateParamsStreaming.__annotations__,
        ],
        "count": [AnthropicCountTokensRequest.model_fields],
    }
    return {name for known in theirs[kind] for name in known}


@pytest.mark.parametrize("kind", fields.PROTOCOLS)
def test_every_field_of_the_protocols_has_its_place_in_our_tables(kind: str) -> None:
    assert models_of(kind) - set(fields.PROTOCOLS[kind]) == set(), "decide: obeyed, harmless or refused"


@pytest.mark.parametrize("kind", fields.PROTOCOLS)
def test_no_field_is_called_obeyed_that_vllm_does_not_know(kind: str) -> None:
    obeyed = {name for name, field in fields.PROTOCOLS[kind].items() if field.use == "obeyed"}
    assert obeyed - models_of(kind) == set()


def test_the_fields_inside_are_vllms() -> None:
    from openai.types.responses import ResponseTextConfig
    from openai.types.shared import Reasoning
    from vllm.entrypoints.anthropic.protocol import AnthropicOutputConfig
    from vllm.entrypoints.generate.base import protocol
    from vllm.sampling_params import StructuredOutputsParams

    inside = {name: set(known) for name, known in fields.INSIDE.items()}
    theirs = {name for name in StructuredOutputsParams.__dataclass_fields__ if not name.startswith("_")}
    assert inside["structured_outputs"] == theirs
    assert inside["stream_options"] == {*protocol.StreamOptions.model_fields, "include_obfuscation"}
    schema = {field.alias or name for name, field in protocol.JsonSchemaResponseFormat.model_fields.items()}
    assert inside["response_format.json_schema"] == schema
    assert inside["output_config"] == set(AnthropicOutputConfig.model_fields)
    assert inside["text"] == set(ResponseTextConfig.model_fields)
    assert inside["reasoning"] == set(Reasoning.model_fields)


@pytest.mark.parametrize(
    ("kind", "body", "place"),
    [
        ("chat", {"messages": [{"role": "user", "content": "a"}], "stop": {}}, "stop"),
        ("responses", {"input": "a", "stop": {}}, "stop"),
        ("messages", {"messages": [{"role": "user", "content": "a"}]}, "max_tokens"),
        ("messages", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 5, "top_k": []}, "top_k"),
    ],
)
def test_what_vllms_models_refuse_is_named_as_the_caller_wrote_it(kind: str, body: dict[str, Any], place: str) -> None:
    protocol = PROTOCOLS[kind]
    module, _, name = protocol.model(body).partition(":")
    sent = protocol.for_vllm(EngineRequest(protocol, body), "model")
    with pytest.raises(ValidationError) as refused:
        getattr(importlib.import_module(module), name).model_validate(sent)
    reported = refusal(refused.value, body)
    assert reported.param == place and reported.message.startswith(f"{place}: ")


def test_the_sentence_about_budgets_of_thoughts_is_vllms() -> None:
    from vllm.v1.engine import input_processor

    assert '"thinking_token_budget is set but reasoning_config is' in inspect.getsource(input_processor)


def test_limits_of_lists_are_vllms() -> None:
    from vllm import envs

    assert validation.MAX_ITEMS["stop"] == envs.VLLM_MAX_STOP_STRINGS
    assert validation.MAX_ITEMS["bad_words"] == envs.VLLM_MAX_NUM_BAD_WORDS


def test_tools_are_left_to_our_grammars() -> None:
    """vLLM's Hermes parser, as ours changes it, adds no grammar of its own and reads calls that are forced."""
    from vllm import envs
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.tool_parsers import ToolParserManager

    assert "VLLM_ENFORCE_STRICT_TOOL_CALLING" in envs.environment_variables
    _register_parser()
    parser = ToolParserManager.get_tool_parser(tool_calls.PARSER)(object())
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
    for choice in ("auto", "required", {"type": "function", "function": {"name": "f"}}):
        body = {"messages": [{"role": "user", "content": "x"}], "tools": tools, "tool_choice": choice}
        request = parser.adjust_request(ChatCompletionRequest.model_validate(body))
        assert request.structured_outputs is None and request.response_format is None
        _obey_tools(request, frozenset())
        adjusted = parser.adjust_request(request)
        assert adjusted.extract_structured_outputs().grammar.startswith("%llguidance")
    assert not parser.supports_required_and_named and parser.structural_tag_model is None


def test_schemas_are_tried_as_vllm_builds_them() -> None:
    from vllm.v1.structured_output.backend_guidance import serialize_guidance_grammar
    from vllm.v1.structured_output.backend_types import StructuredOutputOptions

    library = schema_helper.Library(str(weights.bundled(os.environ.get("CHATBOT_CACHE_DIR", ""))))
    texts = {
        "json": '{"type": "string"}',
        "choice": '["yes", "say \\"no\\""]',
        "regex": "a+",
        "grammar": 'root ::= "a"',
    }
    for kind, text in texts.items():
        assert library.compile(kind, text) == serialize_guidance_grammar(StructuredOutputOptions[kind.upper()], text)


def test_the_milestones_of_a_start_are_still_logged() -> None:
    import vllm

    sources = "".join(
        (Path(vllm.__file__).parent / name).read_text()
        for name in (
            "v1/worker/cpu_model_runner.py",
            "v1/worker/gpu_model_runner.py",
            "model_executor/model_loader/default_loader.py",
            "v1/core/kv_cache_utils.py",
            "v1/engine/core.py",
        )
    )
    for text, _phase in phases.MILESTONES:
        wanted = text.removeprefix("GPU ").removeprefix("CPU ")
        assert wanted in sources, f"vLLM no longer logs {text!r}"


@pytest.mark.parametrize("tools", [None, [{"type": "function", "function": {"name": "f"}}]], ids=["chat", "tools"])
def test_the_template_we_hand_on_is_what_vllm_finds_by_loading_the_tokenizer_again(
    tools: list[dict[str, Any]] | None,
) -> None:
    from transformers import AutoTokenizer
    from vllm.renderers import hf
    from vllm.renderers.chat_utils import load_chat_template

    folder = str(weights.bundled())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = SimpleNamespace(
        **{"model": folder, "tokenizer": folder, "tokenizer_revision": None, "code_revision": None},
        **{"trust_remote_code": False, "hf_config": SimpleNamespace(model_type="llama"), "is_multimodal_model": False},
    )
    renderer = Mock(spec=hf.HfRenderer, tokenizer=tokenizer)
    ours = _own_template(SimpleNamespace(renderer=renderer, model_config=config))
    hf._PROCESSOR_CHAT_TEMPLATES.clear()
    given = hf.resolve_chat_template(tokenizer, load_chat_template(ours), tools, model_config=config)
    assert ours and not hf._PROCESSOR_CHAT_TEMPLATES, "nothing was loaded"
    assert given == hf.resolve_chat_template(tokenizer, None, tools, model_config=config)
    assert bool(hf._PROCESSOR_CHAT_TEMPLATES) == (tools is None)


@pytest.mark.parametrize("kind", ["several", "none", "a word", "no tokenizer", "images", "mistral"])
def test_a_template_that_may_not_be_the_one_is_left_to_vllm(kind: str) -> None:
    from vllm.renderers import hf, mistral

    template = {"several": {"default": "{{ a }}"}, "none": None, "a word": "chatml"}.get(kind, "{{ a }}")
    tokenizer = None if kind == "no tokenizer" else SimpleNamespace(chat_template=template)
    renderer = Mock(spec=mistral.MistralRenderer if kind == "mistral" else hf.HfRenderer, tokenizer=tokenizer)
    config = SimpleNamespace(is_multimodal_model=kind == "images")
    assert _own_template(SimpleNamespace(renderer=renderer, model_config=config)) is None

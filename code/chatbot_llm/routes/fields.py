"""Every field a request may carry, protocol by protocol: obeyed, harmless with its reason, or refused with a way round.

A field that stands in no table is named in a 400: whoever sends it believes that it does something. A new protocol is
one more table here; a drift test holds the tables against vLLM's and OpenAI's own models.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from chatbot_llm.errors import wrong


class Field(NamedTuple):
    """`use` is obeyed (by the engine), own (by this service), harmless or refused.

    `why` is its reason or the way round; `neutral` values ask for nothing.
    """

    use: str
    why: str = ""
    neutral: tuple[Any, ...] = ()


OBEYED = Field("obeyed")


def _obeyed(names: str) -> dict[str, Field]:
    return dict.fromkeys(names.split(), OBEYED)


def _own(names: str) -> dict[str, Field]:
    return dict.fromkeys(names.split(), Field("own"))


def _harmless(names: str, why: str) -> dict[str, Field]:
    return dict.fromkeys(names.split(), Field("harmless", why))


def _refused(names: str, way: str, *neutral: Any) -> dict[str, Field]:
    return dict.fromkeys(names.split(), Field("refused", way, neutral))


_BOOKKEEPING = "names the caller or the conversation for someone's books; the answer is the same without it"
_SPEED = "asks for speed or price; there is one of each here"
_CACHED = "the prefix cache finds equal beginnings by itself"
_TEXT_ONLY = "only text is served"
_STATELESS = "nothing is stored here: send the whole conversation each time"

#: Chat and completion alike: sampling, limits, what comes back.
_SAMPLING = {
    **_obeyed(
        "model stream stream_options max_tokens n temperature top_p top_k min_p seed stop stop_token_ids "
        "presence_penalty frequency_penalty repetition_penalty logit_bias logprobs logprob_token_ids echo "
        "response_format structured_outputs allowed_token_ids bad_words ignore_eos min_tokens skip_special_tokens "
        "spaces_between_special_tokens include_stop_str_in_output truncate_prompt_tokens truncation_side "
        "add_special_tokens return_tokens_as_token_ids return_token_ids repetition_detection stream_interval "
        "cache_salt thinking_token_budget"
    ),
    **_harmless("user session_id metadata safety_identifier", _BOOKKEEPING),
    **_harmless("service_tier", _SPEED),
    **_harmless("prompt_cache_key", _CACHED),
    **_harmless("prompt_cache_retention", "the prefix cache keeps what it can"),
    **_harmless("prompt_cache_options", _CACHED),
    **_harmless("mm_payload return_mm_kwargs", "says what a route that is not here returns of images"),
    **_refused("routed_experts_prompt_start", "no routing of experts is returned here", 0),
    **_refused("return_token_offsets", "token offsets are not returned here; POST /tokenize counts tokens", False),
    **_refused("best_of", "ask for n answers and choose among them", 1),
    **_refused("early_stopping", "it belongs to beam search, which is not offered", False),
    **_refused("use_beam_search", "beam search is not offered; ask for n answers", False),
    **_refused("length_penalty", "it belongs to beam search, which is not offered", 1),
    **_refused("prompt_logprobs", "scores of a whole prompt cost gigabytes; logprobs scores the answer", 0, False),
    **_refused("watermarking", "no watermark is set here", False),
    **_refused("priority", "requests are served in the order they come", 0),
    **_refused("request_id", "send it as the header x-request-id"),
    **_refused("media_io_kwargs mm_processor_kwargs", _TEXT_ONLY, {}),
    **_refused(
        "kv_transfer_params ec_transfer_params vllm_xargs",
        "it belongs to the inside of a serving cluster; leave it out",
        {},
    ),
    **_refused("moderation", "nothing is moderated here"),
    **_refused(
        "guided_json guided_regex guided_choice guided_grammar guided_decoding_backend guided_whitespace_pattern "
        "guided_json_object",
        "use response_format, or structured_outputs",
    ),
}
_TEMPLATE = {
    **_obeyed("messages tools add_generation_prompt continue_final_message add_special_tokens chat_template_kwargs"),
    **_own("documents documents_policy documents_instruction"),
    **_refused("chat_template", "a template is a program; the model's own is used"),
}

CHAT: Mapping[str, Field] = {
    **_SAMPLING,
    **_TEMPLATE,
    **_obeyed(
        "max_completion_tokens tool_choice parallel_tool_calls top_logprobs include_reasoning return_prompt_text"
    ),
    **_harmless("reasoning_effort", "handed to the chat template, which obeys it where the model knows how to think"),
    **_harmless("prediction", _SPEED),
    **_refused("store", _STATELESS, False),
    **_refused("modalities", _TEXT_ONLY, ["text"]),
    **_refused("audio", _TEXT_ONLY),
    **_refused("verbosity", "say in a message how long the answer shall be", "medium"),
    **_refused("web_search_options", "nothing is fetched here: send what was found as documents"),
    **_refused("functions", 'send them as tools: [{"type": "function", "function": {...}}]', []),
    **_refused("function_call", "send tool_choice"),
}
COMPLETION: Mapping[str, Field] = {
    **_SAMPLING,
    **_obeyed("prompt"),
    **_refused("suffix", "text cannot be filled in here; put it into the prompt", ""),
    **_refused("prompt_embeds", "send the prompt as text or token ids"),
}
TOKENIZE: Mapping[str, Field] = {
    **_TEMPLATE,
    **_obeyed("model prompt return_token_strs"),
    **_refused("media_io_kwargs mm_processor_kwargs", _TEXT_ONLY, {}),
}
DETOKENIZE: Mapping[str, Field] = _obeyed("model tokens")

RESPONSES: Mapping[str, Field] = {
    **{name: field for name, field in _SAMPLING.items() if field.use != "obeyed"},
    **_obeyed(
        "model input instructions stream max_output_tokens temperature top_p top_k min_p seed stop stop_token_ids "
        "tools tool_choice parallel_tool_calls text structured_outputs include top_logprobs metadata presence_penalty "
        "frequency_penalty repetition_penalty logit_bias skip_special_tokens include_stop_str_in_output ignore_eos "
        "include_reasoning cache_salt chat_template_kwargs"
    ),
    **_own("documents documents_policy documents_instruction"),
    **_harmless("reasoning", "its effort goes to the chat template, which obeys it where the model knows how to think"),
    **_harmless("max_tool_calls", "bounds hosted tools, of which there are none"),
    **_harmless("store", "nothing is stored here, and the answer says so: `store` is false in it"),
    **_refused("truncation", "what is too long is refused; leave out the oldest turns", "disabled"),
    **_refused("stream_options", "nothing is padded here, and usage always comes", {}, {"include_obfuscation": False}),
    **_refused("previous_response_id conversation", _STATELESS),
    **_refused("context_management", _STATELESS, []),
    **_refused("background", "nothing goes on after its request: stream, or wait for the answer", False),
    **_refused("background_options", "nothing goes on after its request: stream, or wait for the answer"),
    **_refused("prompt", "templates are not stored here: send the text as input and instructions"),
    **_refused("previous_input_messages", _STATELESS, []),
    **_refused("enable_response_messages", "raw prompts are not sent back; POST /tokenize shows their tokens", False),
    **_refused("image", _TEXT_ONLY),
    **_refused("max_tokens max_completion_tokens", "send max_output_tokens"),
    **_refused("messages", "send them as input"),
    **_refused("response_format", 'send it as text: {"format": {...}}'),
    **_refused("access_programs", "it names programs of a vendor's; leave it out"),
}
MESSAGES: Mapping[str, Field] = {
    **_obeyed(
        "model messages system max_tokens stop_sequences stream temperature top_p top_k tools tool_choice thinking "
        "output_config cache_salt chat_template_kwargs"
    ),
    **{
        name: field
        for name, field in _SAMPLING.items()
        if name.startswith(("mm_", "return_mm", "kv_", "ec_", "vllm_", "watermark"))
        or name in ("metadata", "service_tier")
    },
    **_own("documents_policy documents_instruction"),
    **_refused("documents", "send them as blocks of type document, in a message"),
    **_harmless("cache_control", _CACHED),
    **_harmless("inference_geo", "there is one place here"),
    **_harmless("anthropic_version anthropic_beta betas", "says which form of the protocol is meant; there is one"),
    **_harmless("user_profile_id workspace_id billing_policy fallback_credit_token diagnostics", _BOOKKEEPING),
    **_refused("fallbacks", "there is one model here", "default", []),
    **_refused("compaction", "nothing is summed up here: ask for a summary in a message"),
    **_refused("thread", _STATELESS),
    **_harmless("speed", _SPEED),
    **_refused("container", "no code is run here; offer a tool and run it yourself"),
    **_refused("mcp_servers", "nothing is fetched here: put what was found into the conversation", []),
    **_refused("context_management", _STATELESS, {}),
    **_refused("output_format response_format", 'send it as output_config: {"format": {...}}'),
    **_refused("stop", "send stop_sequences"),
    **_refused("max_completion_tokens", "send max_tokens"),
}
_COUNTED = (
    "model messages documents_policy documents_instruction system tools tool_choice thinking output_config "
    "chat_template_kwargs"
).split()

#: By the kind of a request. /tokenize counts what a chat would use: it takes a chat's other fields and needs none.
PROTOCOLS: Mapping[str, Mapping[str, Field]] = {
    "chat": CHAT,
    "completion": COMPLETION,
    "tokenize": {
        **_harmless(" ".join({**CHAT, **COMPLETION}), "does not change what is counted"),
        **{name: field for name, field in {**COMPLETION, **CHAT}.items() if field.use == "refused"},
        **TOKENIZE,
    },
    "detokenize": DETOKENIZE,
    "responses": RESPONSES,
    "messages": MESSAGES,
    "count": {
        **_harmless(" ".join(MESSAGES), "does not change what is counted"),
        **{name: field for name, field in MESSAGES.items() if field.use == "refused" or name in _COUNTED},
    },
}
#: The same for objects inside a request, by their place.
INSIDE: Mapping[str, Mapping[str, Field]] = {
    "stream_options": {
        **_obeyed("include_usage continuous_usage_stats"),
        **_refused("include_obfuscation", "nothing is padded here", False),
    },
    "response_format": {
        **_obeyed("type json_schema format structures triggers"),
        **_refused("schema", 'send {"type": "json_schema", "json_schema": {"name": "...", "schema": {...}}}'),
    },
    "text": {
        **_obeyed("format"),
        **_refused("verbosity", "say in the instructions how long the answer shall be", "medium"),
    },
    "reasoning": {
        **_obeyed("effort"),
        **_harmless(
            "summary generate_summary context mode",
            "says how hidden thoughts are kept or shown; here they are part of the answer",
        ),
    },
    "output_config": _obeyed("format effort"),
    "response_format.json_schema": _obeyed("name description schema strict"),
    "structured_outputs": {
        **_obeyed("json regex choice grammar json_object"),
        **_refused("structural_tag", "send tools, or a schema as response_format"),
        **_refused("whitespace_pattern", "white space follows JSON's own rules"),
        **_refused("disable_any_whitespace", "white space follows JSON's own rules", False),
        **_refused("disable_additional_properties", 'say "additionalProperties": false in the schema', False),
    },
}


def check(body: Mapping[str, Any], table: Mapping[str, Field], place: str = "") -> None:
    """Refuse the fields of an object that would not do what their sender believes. Raises BadRequest."""
    for name, value in body.items():
        if value is None:
            continue
        field = table.get(name)
        plain = field or (name.isidentifier() and name.isascii() and len(name) <= 64)
        shown = ".".join(filter(None, (place, name if plain else "(a name with odd characters)")))
        if field is None:
            raise wrong(shown, "this field is not known here and would do nothing; leave it out")
        if field.use == "refused" and not any(type(value) is type(same) and value == same for same in field.neutral):
            raise wrong(shown, f"not accepted here: {field.why}")

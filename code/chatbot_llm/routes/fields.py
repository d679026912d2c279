"""Every field a request may carry, protocol by protocol: obeyed, harmless with its reason, or refused with a way round.

A field that stands in no table is named in a 400: whoever sends it believes that it does something. A new protocol is
one more table here; a drift test holds the tables against vLLM's and OpenAI's own models.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from chatbot_llm.errors import BadRequest


class Field(NamedTuple):
    """`use` is obeyed (by the engine), own (by this service), harmless or refused.

    `why` is its reason or the way round; `neutral` values ask for nothing.
    """

    use: str
    why: str = ""
    neutral: tuple[Any, ...] = ()


OBEYED = Field("obeyed")
OWN = Field("own")


def _harmless(why: str) -> Field:
    return Field("harmless", why)


def _refused(way: str, *neutral: Any) -> Field:
    return Field("refused", way, neutral)


def _obeyed(names: str) -> dict[str, Field]:
    return dict.fromkeys(names.split(), OBEYED)


_STRUCTURED = "use response_format, or structured_outputs"
_BOOKKEEPING = "names the caller or the conversation for someone's books; the answer is the same without it"
_SPEED = "asks for speed or price; there is one of each here"
_INSIDE = "it belongs to the inside of a serving cluster; leave it out"

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
    "user": _harmless(_BOOKKEEPING),
    "session_id": _harmless(_BOOKKEEPING),
    "metadata": _harmless(_BOOKKEEPING),
    "safety_identifier": _harmless(_BOOKKEEPING),
    "service_tier": _harmless(_SPEED),
    "prompt_cache_key": _harmless("the prefix cache finds equal beginnings by itself"),
    "prompt_cache_retention": _harmless("the prefix cache keeps what it can"),
    "prompt_cache_options": _harmless("the prefix cache finds equal beginnings by itself"),
    "mm_payload": _harmless("says what a route that is not here returns of images"),
    "return_mm_kwargs": _harmless("says what a route that is not here returns of images"),
    "routed_experts_prompt_start": _refused("no routing of experts is returned here", 0),
    "return_token_offsets": _refused("token offsets are not returned here; POST /tokenize counts tokens", False),
    "best_of": _refused("ask for n answers and choose among them", 1),
    "early_stopping": _refused("it belongs to beam search, which is not offered", False),
    "use_beam_search": _refused("beam search is not offered; ask for n answers", False),
    "length_penalty": _refused("it belongs to beam search, which is not offered", 1),
    "prompt_logprobs": _refused("scores of a whole prompt cost gigabytes; logprobs scores the answer", 0, False),
    "watermarking": _refused("no watermark is set here", False),
    "priority": _refused("requests are served in the order they come", 0),
    "request_id": _refused("send it as the header x-request-id"),
    "media_io_kwargs": _refused("only text is served", {}),
    "mm_processor_kwargs": _refused("only text is served", {}),
    "kv_transfer_params": _refused(_INSIDE, {}),
    "ec_transfer_params": _refused(_INSIDE, {}),
    "vllm_xargs": _refused(_INSIDE, {}),
    "moderation": _refused("nothing is moderated here"),
    **{
        f"guided_{name}": _refused(_STRUCTURED)
        for name in ("json", "regex", "choice", "grammar", "decoding_backend", "whitespace_pattern", "json_object")
    },
}
_TEMPLATE = {
    **_obeyed("messages tools add_generation_prompt continue_final_message add_special_tokens chat_template_kwargs"),
    **dict.fromkeys(("documents", "documents_policy", "documents_instruction"), OWN),
    "chat_template": _refused("a template is a program; the model's own is used"),
}

CHAT: Mapping[str, Field] = {
    **_SAMPLING,
    **_TEMPLATE,
    **_obeyed(
        "max_completion_tokens tool_choice parallel_tool_calls top_logprobs include_reasoning return_prompt_text"
    ),
    "reasoning_effort": _harmless("handed to the chat template, which obeys it where the model knows how to think"),
    "prediction": _harmless(_SPEED),
    "store": _refused("nothing is stored here: send the whole conversation each time", False),
    "modalities": _refused("only text is served", ["text"]),
    "audio": _refused("only text is served"),
    "verbosity": _refused("say in a message how long the answer shall be", "medium"),
    "web_search_options": _refused("nothing is fetched here: send what was found as documents"),
    "functions": _refused('send them as tools: [{"type": "function", "function": {...}}]', []),
    "function_call": _refused("send tool_choice"),
}
COMPLETION: Mapping[str, Field] = {
    **_SAMPLING,
    **_obeyed("prompt"),
    "suffix": _refused("text cannot be filled in here; put it into the prompt", ""),
    "prompt_embeds": _refused("send the prompt as text or token ids"),
}
TOKENIZE: Mapping[str, Field] = {
    **_TEMPLATE,
    **_obeyed("model prompt return_token_strs"),
    "media_io_kwargs": _refused("only text is served", {}),
    "mm_processor_kwargs": _refused("only text is served", {}),
}
DETOKENIZE: Mapping[str, Field] = _obeyed("model tokens")

_STATELESS = "nothing is stored here: send the whole conversation each time"
_FETCHED = "nothing is fetched here: put what was found into the conversation"

RESPONSES: Mapping[str, Field] = {
    **{name: field for name, field in _SAMPLING.items() if field.use != "obeyed"},
    **_obeyed(
        "model input instructions stream max_output_tokens temperature top_p top_k min_p seed stop stop_token_ids "
        "tools tool_choice parallel_tool_calls text structured_outputs include top_logprobs metadata presence_penalty "
        "frequency_penalty repetition_penalty logit_bias skip_special_tokens include_stop_str_in_output ignore_eos "
        "include_reasoning cache_salt chat_template_kwargs"
    ),
    **dict.fromkeys(("documents", "documents_policy", "documents_instruction"), OWN),
    "reasoning": _harmless("its effort goes to the chat template, which obeys it where the model knows how to think"),
    "max_tool_calls": _harmless("bounds hosted tools, of which there are none"),
    "store": _harmless("nothing is stored here, and the answer says so: `store` is false in it"),
    "truncation": _refused("what is too long is refused; leave out the oldest turns", "disabled"),
    "stream_options": _refused("nothing is padded here, and usage always comes", {}, {"include_obfuscation": False}),
    "previous_response_id": _refused(_STATELESS),
    "conversation": _refused(_STATELESS),
    "context_management": _refused(_STATELESS, []),
    "background": _refused("nothing goes on after its request: stream, or wait for the answer", False),
    "background_options": _refused("nothing goes on after its request: stream, or wait for the answer"),
    "prompt": _refused("templates are not stored here: send the text as input and instructions"),
    "previous_input_messages": _refused(_STATELESS, []),
    "enable_response_messages": _refused("raw prompts are not sent back; POST /tokenize shows their tokens", False),
    "image": _refused("only text is served"),
    "max_tokens": _refused("send max_output_tokens"),
    "max_completion_tokens": _refused("send max_output_tokens"),
    "messages": _refused("send them as input"),
    "response_format": _refused('send it as text: {"format": {...}}'),
    "access_programs": _refused("it names programs of a vendor's; leave it out"),
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
    **dict.fromkeys(("documents_policy", "documents_instruction"), OWN),
    "documents": _refused("send them as blocks of type document, in a message"),
    "cache_control": _harmless("the prefix cache finds equal beginnings by itself"),
    "inference_geo": _harmless("there is one place here"),
    "anthropic_version": _harmless("says which form of the protocol is meant; there is one"),
    "anthropic_beta": _harmless("says which form of the protocol is meant; there is one"),
    "betas": _harmless("says which form of the protocol is meant; there is one"),
    **dict.fromkeys(
        ("user_profile_id", "workspace_id", "billing_policy", "fallback_credit_token", "diagnostics"),
        _harmless(_BOOKKEEPING),
    ),
    "fallbacks": _refused("there is one model here", "default", []),
    "compaction": _refused("nothing is summed up here: ask for a summary in a message"),
    "thread": _refused(_STATELESS),
    "speed": _harmless(_SPEED),
    "container": _refused("no code is run here; offer a tool and run it yourself"),
    "mcp_servers": _refused(_FETCHED, []),
    "context_management": _refused(_STATELESS, {}),
    **dict.fromkeys(("output_format", "response_format"), _refused('send it as output_config: {"format": {...}}')),
    "stop": _refused("send stop_sequences"),
    "max_completion_tokens": _refused("send max_tokens"),
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
        **{name: _harmless("does not change what is counted") for name in {**CHAT, **COMPLETION}},
        **{name: field for name, field in {**COMPLETION, **CHAT}.items() if field.use == "refused"},
        **TOKENIZE,
    },
    "detokenize": DETOKENIZE,
    "responses": RESPONSES,
    "messages": MESSAGES,
    "count": {
        name: field if field.use == "refused" or name in _COUNTED else _harmless("does not change what is counted")
        for name, field in MESSAGES.items()
    },
}
#: The same for objects inside a request, by their place.
INSIDE: Mapping[str, Mapping[str, Field]] = {
    "stream_options": {
        **_obeyed("include_usage continuous_usage_stats"),
        "include_obfuscation": _refused("nothing is padded here", False),
    },
    "response_format": {
        **_obeyed("type json_schema format structures triggers"),
        "schema": _refused('send {"type": "json_schema", "json_schema": {"name": "...", "schema": {...}}}'),
    },
    "text": {
        **_obeyed("format"),
        "verbosity": _refused("say in the instructions how long the answer shall be", "medium"),
    },
    "reasoning": {
        **_obeyed("effort"),
        **dict.fromkeys(
            ("summary", "generate_summary", "context", "mode"),
            _harmless("says how hidden thoughts are kept or shown; here they are part of the answer"),
        ),
    },
    "output_config": _obeyed("format effort"),
    "response_format.json_schema": _obeyed("name description schema strict"),
    "structured_outputs": {
        **_obeyed("json regex choice grammar json_object"),
        "structural_tag": _refused("send tools, or a schema as response_format"),
        "whitespace_pattern": _refused("white space follows JSON's own rules"),
        "disable_any_whitespace": _refused("white space follows JSON's own rules", False),
        "disable_additional_properties": _refused('say "additionalProperties": false in the schema', False),
    },
}


def check(body: Mapping[str, Any], table: Mapping[str, Field], place: str = "") -> None:
    """Refuse the fields of an object that would not do what their sender believes. Raises BadRequest."""
    for name, value in body.items():
        if value is None:
            continue
        shown = f"{place}.{name}" if place else name
        field = table.get(name)
        if field is None:
            known = (
                name if name.isidentifier() and name.isascii() and len(name) <= 64 else "(a name with odd characters)"
            )
            shown = f"{place}.{known}" if place else known
            raise BadRequest(f"{shown}: this field is not known here and would do nothing; leave it out", param=shown)
        if field.use == "refused" and not any(type(value) is type(same) and value == same for same in field.neutral):
            raise BadRequest(f"{shown}: not accepted here: {field.why}", param=shown)


def table() -> str:
    """What becomes of every field, as a Markdown table (code/README.md)."""
    rows = ["| field | | why, or what to do instead |", "|---|---|---|"]
    merged = {**DETOKENIZE, **TOKENIZE, **COMPLETION, **CHAT}
    shown = [(f"`{name}`", field) for name, field in merged.items()]
    for protocol, known in (("Responses", RESPONSES), ("Messages", MESSAGES)):
        own = {name: field for name, field in known.items() if merged.get(name) != field}
        shown += [(f"`{name}` ({protocol})", field) for name, field in own.items()]
    for use in ("harmless", "refused"):
        reasons: dict[str, list[str]] = {}
        for name, field in shown:
            if field.use == use:
                reasons.setdefault(field.why, []).append(name)
        rows += [f"| {', '.join(names)} | {use} | {why} |" for why, names in reasons.items()]
    return "\n".join(rows)

"""Anthropic's Messages, and its counting of tokens. vLLM makes a chat of a request and a message of the answer."""

import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from chatbot_llm.engine.protocols.base import EngineRequest, Protocol
from chatbot_llm.errors import ApiError, require
from chatbot_llm.sse import framed

#: Fields that a chat has under another name, or not at all.
_OWN = ("system", "stop_sequences", "tools", "tool_choice", "output_config", "thinking")
#: Fields that no chat of OpenAI's has: an event that holds one is Anthropic's.
_MARKS = ("system", "stop_sequences", "thinking", "output_config", "anthropic_version", "anthropic_beta")
_BLOCKS = ("tool_use", "tool_result", "thinking", "redacted_thinking")
#: Most blocks of `system`; as many as messages and their blocks.
MAX_SYSTEM = 2_000
#: Fields of a tool that vLLM drops, what asks for nothing in them, and the way round.
_TOOL_REFUSED: tuple[tuple[str, Any, str], ...] = (
    ("input_examples", [], "put them into the description"),
    ("defer_loading", False, "nothing searches for tools; send those that may be called"),
    ("allowed_callers", ["direct"], "no code is run here; the model alone calls tools"),
)
#: HTTP status -> type of an error (Anthropic's documentation, "Errors"); the rest by its hundreds.
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class Count(Protocol):
    """How many tokens a message would send."""

    kind = "count"
    paths: tuple[str, ...] = ("/v1/messages/count_tokens",)
    parsed_by = "vllm.entrypoints.anthropic.protocol:AnthropicCountTokensRequest"
    serving = "anthropic_serving_messages.count_tokens"
    dump: Mapping[str, Any] = {"exclude_none": True}
    generates = False
    words = (
        (r"(tools\[\d+\])\.function\.parameters\b", r"\1.input_schema"),
        (r"(tools\[\d+\])\.function\b", r"\1"),
        (r"\bresponse_format(\.json_schema)?\b", "output_config.format"),
        (r"\bmax_completion_tokens\b", "max_tokens"),
        (r"\bstop\b(?=: at most|$)", "stop_sequences"),
        (
            r"(?s)thinking_token_budget is set but reasoning_config.*",
            'thinking: the model served here keeps no budget of thoughts; leave it out, or send {"type": "disabled"}',
        ),
    )

    def as_chat(self, body: dict[str, Any]) -> dict[str, Any]:
        require(body.get("messages"), "messages", "must be a list with at least one message")
        view = {name: value for name, value in body.items() if name not in _OWN}
        view["messages"] = [_message(message, f"messages[{at}]") for at, message in enumerate(body["messages"])]
        system = _blocks(body.get("system", ""), "system")
        require(len(system) <= MAX_SYSTEM, "system", f"at most {MAX_SYSTEM} blocks, not {len(system)}")
        for at, block in enumerate(system):
            _text(block, f"system[{at}]")
        if "stop_sequences" in body:
            view["stop"] = body["stop_sequences"]
        if (tools := body.get("tools")) is not None:
            view["tools"] = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(tools)]
        choice = body.get("tool_choice", {})
        require(isinstance(choice, dict), "tool_choice", "must be an object with a type: auto, any, tool or none")
        view["tool_choice"] = _choice(choice, [tool["function"]["name"] for tool in view.get("tools", ())])
        thinking = body.get("thinking", {"type": "disabled"})
        require(isinstance(thinking, dict), "thinking", "must be an object with a type: enabled, disabled or adaptive")
        known = thinking.get("type") in ("enabled", "disabled", "adaptive")
        require(known, "thinking.type", "must be enabled, disabled or adaptive")
        wanted = body.get("output_config", {}).get("format")
        require(isinstance(wanted, dict | None), "output_config.format", "must be an object")
        if wanted is not None:
            require(wanted.get("type") == "json_schema", "output_config.format.type", "must be json_schema")
            rest = {name: value for name, value in wanted.items() if name != "type"}
            view["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", **rest}}
        return view

    def for_vllm(self, request: EngineRequest, model: str) -> dict[str, Any]:
        return {**request.body, "model": request.body.get("model") or model}

    def envelope(self, error: ApiError) -> dict[str, Any]:
        kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": error.message}}


class Messages(Count):
    """The same, answered."""

    kind = "messages"
    paths = ("/v1/messages",)
    parsed_by = "vllm.entrypoints.anthropic.protocol:AnthropicMessagesRequest"
    serving = "openai_serving_chat.create_chat_completion"
    generates = True
    finish = "event: message_delta\n"
    last = (b"event: message_stop\n", b"event: error\n")

    # asking

    def owns(self, path: str) -> bool:
        return path in self.paths or path.startswith(f"{self.paths[0]}/")

    def claims(self, event: Mapping[str, Any]) -> bool:
        messages, tools = event.get("messages"), event.get("tools")
        blocks = [block for message in _dicts(messages) for block in _dicts(message.get("content"))]
        return isinstance(messages, list) and (
            any(name in event for name in _MARKS)
            or any("input_schema" in tool for tool in _dicts(tools))
            or any(block.get("type") in (*_BLOCKS, "document") for block in blocks)
        )

    def adopted(self, parsed: Any, serving: Any, body: Mapping[str, Any]) -> Any:
        maker = serving.anthropic_serving_messages
        chat = maker.to_chat_completion_request(parsed, merge_inline_system=maker._merge_inline_system)
        last = body["messages"][-1]
        # The beginning of the answer: the model goes on from there.
        if last["role"] == "assistant" and any(block.get("text") for block in _blocks(last["content"], "")[-1:]):
            return chat.model_copy(update={"add_generation_prompt": False, "continue_final_message": True})
        return chat

    def engine_ids(self, request: EngineRequest) -> list[str]:
        return [f"chatcmpl-{request.id}"]

    # answering

    def rendered(self, answer: Any, serving: Any) -> Any:
        for choice in answer.choices:  # a call cut amid its arguments is no object yet, and must not be run
            calls = choice.message.tool_calls or []
            choice.message.tool_calls = [call for call in calls if _is_object(call.function.arguments)]
        return serving.anthropic_serving_messages.messages_full_converter(answer)

    async def events(self, events: AsyncGenerator[str, None], serving: Any) -> AsyncGenerator[str, None]:
        fault: Exception = ApiError("the engine could not write this message", code="engine_error")

        async def watched() -> AsyncGenerator[str, None]:
            nonlocal fault
            try:
                async for event in events:
                    yield event
            except Exception as error:  # vLLM would make an event of it, in its own words
                fault = error
                raise

        source = watched()
        made = serving.anthropic_serving_messages.message_stream_converter(source)
        async with contextlib.aclosing(events), contextlib.aclosing(source), contextlib.aclosing(made):
            async for event in made:
                if event.startswith("event: error"):
                    raise fault
                yield event

    def whole(self, request: EngineRequest, answer: str) -> str:
        message = json.loads(answer)
        message["id"] = f"msg_{request.id}"
        message.setdefault("stop_sequence", None)
        return json.dumps(message, ensure_ascii=False)

    def reworded(self, request: EngineRequest, event: str) -> str:
        if event.startswith("event: message_start"):
            return event.replace(f'"id":"chatcmpl-{request.id}"', f'"id":"msg_{request.id}"', 1)
        if request.cut and event.startswith("event: message_delta"):
            data = json.loads(event[event.index("data: ") + 6 :])
            # vLLM knows no reason for what was aborted, and calls an answer without a token a whole one.
            if data["delta"].get("stop_reason") is None or not data["usage"]["output_tokens"]:
                data["delta"]["stop_reason"] = "max_tokens"
            return framed(data, "message_delta")
        return event

    def failure(self, request: EngineRequest, error: ApiError) -> bytes:
        return framed(self.envelope(error), "error").encode()


def _message(message: Any, place: str) -> dict[str, Any]:
    require(isinstance(message, dict), place, "must be an object with role and content")
    require(message.get("role") in ("user", "assistant", "system"), f"{place}.role", "must be user or assistant")
    blocks = _blocks(message.get("content"), f"{place}.content")
    texts = []
    for at, block in enumerate(blocks):
        where = f"{place}.content[{at}]"
        texts.append(_text(block, where, message["role"]))
        if block["type"] == "tool_result" and (given := block.get("content")) is not None:
            parts = _blocks(given, f"{where}.content")
            texts += [_text(part, f"{where}.content[{number}]") for number, part in enumerate(parts)]
    if message["role"] == "user" and not isinstance(message["content"], str):  # vLLM drops one that says nothing
        filled = any(block["type"] in ("tool_result", "document") or block["text"] for block in blocks)
        require(filled, f"{place}.content", "must hold a block with something in it")
    return {"role": message["role"], "content": [{"type": "text", "text": text} for text in texts]}


def _blocks(content: Any, place: str) -> list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    require(isinstance(content, list), place, "must be a string or a list of blocks")
    return list(content)


def _text(block: Any, place: str, role: str = "") -> str:
    """The text of a block. Raises BadRequest for all but text inside a block, and for what this role does not say."""
    kind = block.get("type") if isinstance(block, dict) else None
    if kind == "text":
        require(isinstance(block.get("text"), str), f"{place}.text", "must be a string")
        return str(block["text"])
    if kind == "document" and role:
        return " ".join(document(block, place).values())
    accepted = "text, document, tool_use, tool_result and thinking" if role else "text"
    require(role and kind in _BLOCKS, place, f"only blocks of type {accepted} are accepted")
    speaker = "user" if kind == "tool_result" else "assistant"
    # vLLM would drop it, or write it down as text.
    require(role == speaker, place, f"a {kind} stands in messages of {speaker} only")
    if kind != "tool_use":
        return ""
    sound = isinstance(block.get("name"), str) and isinstance(block.get("input"), dict)
    require(sound, place, "a tool_use needs a name and, as input, an object")
    return json.dumps(block["input"])


def document(block: dict[str, Any], place: str) -> dict[str, str]:
    """Title and text of a document block. Raises BadRequest for any that is not plain text."""
    require(not block.get("context"), f"{place}.context", "put it into the document's text")
    cited = block.get("citations") or {}
    require(isinstance(cited, dict), f"{place}.citations", 'must be an object: {"enabled": true}')
    title, source = block.get("title") or "", block.get("source")
    source = source if isinstance(source, dict) else {}
    text: Any = source.get("data") if source.get("type") == "text" else None
    if source.get("type") == "content":
        parts = _blocks(source.get("content"), f"{place}.source.content")
        text = "\n".join(_text(part, f"{place}.source.content[{at}]") for at, part in enumerate(parts))
    require(
        isinstance(text, str) and isinstance(title, str) and text.strip(),
        f"{place}.source",
        "must be of type text, with data, or of type content, with text; nothing is read from files",
    )
    return {"title": title, "text": text}


def _choice(choice: dict[str, Any], tools: list[Any]) -> str:
    """The type of a tool_choice that can be obeyed."""
    kind = choice.get("type", "auto")
    require(kind in ("auto", "any", "tool", "none"), "tool_choice.type", "must be auto, any, tool or none")
    require(tools or kind not in ("any", "tool"), "tool_choice", "there are no tools to choose from; send tools")
    require(kind != "tool" or choice.get("name") in tools, "tool_choice.name", "must be the name of one of the tools")
    return str(kind)


def _tool(tool: Any, place: str) -> dict[str, Any]:
    own = isinstance(tool, dict) and (tool.get("type") or "custom") == "custom"
    require(own, f"{place}.type", "only tools of your own are accepted: the server runs none (web_search, bash ...)")
    require(isinstance(tool.get("input_schema"), dict), f"{place}.input_schema", "must be a JSON schema, an object")
    for name, neutral, why in _TOOL_REFUSED:
        require(tool.get(name) in (None, neutral), f"{place}.{name}", f"not accepted here: {why}")
    function = {"name": tool.get("name"), "parameters": tool["input_schema"], "strict": tool.get("strict")}
    return {"type": "function", "function": function}


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []

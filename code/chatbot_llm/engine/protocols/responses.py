"""OpenAI's Responses, without memory: whatever a request could ask to be kept or fetched is refused by name.

What differs from vLLM 0.32's own server: an answer that was cut is `incomplete` (there a stream always ends with
`response.completed`), the object says that it is not stored, and a stream begins with the first token, so that what
goes wrong before it has a status.
"""

import contextlib
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from chatbot_llm.engine.protocols.base import EngineRequest, Protocol
from chatbot_llm.engine.tool_calls import without_half_call
from chatbot_llm.errors import ApiError, require, wrong
from chatbot_llm.sse import framed

LOGPROBS = "message.output_text.logprobs"
#: What `include` may name beside them: clients ask for it of every model.
_NEVER_THERE = "reasoning.encrypted_content"
#: Fields that a chat has under another name, or not at all.
_OWN = ("input", "instructions", "max_output_tokens", "include", "tools", "text", "store")
_HOSTED = "hosted tools (web_search, file_search, code_interpreter, mcp, computer ...) run nowhere here"
_BEGINNING = ("response.created", "response.in_progress")
_ENGINES_OWN = ("metrics", "input_messages", "output_messages", "kv_transfer_params", "ec_transfer_params")


class Responses(Protocol):
    kind = "responses"
    paths = ("/v1/responses",)
    parsed_by = "vllm.entrypoints.openai.responses.protocol:ResponsesRequest"
    serving = "openai_serving_responses.create_responses"
    dump: Mapping[str, Any] = {"by_alias": True}
    finish = "event: response.completed\n"
    last = (b"event: response.completed\n", b"event: response.incomplete\n", b"event: response.failed\n")
    prompt = "input"
    words = (
        (r'"json_schema": \{("name": "\.\.\.", "schema": \{\.\.\.\})\}', r"\1"),
        (r"^messages\b", "input"),
        (r"\bmax_(completion_)?tokens\b", "max_output_tokens"),
        (r"(\.tool_calls(\[\d+\])?)?\.function\b|\.tool_calls$", ""),
        (r"\bresponse_format(\.json_schema)?\b", "text.format"),
    )

    # asking

    def as_chat(self, body: dict[str, Any]) -> dict[str, Any]:
        given, wanted = body.get("input"), body.get("text", {}).get("format")
        if not isinstance(given, str | list) or not given:
            raise wrong("input", "must be a string or a list of items, with something in it")
        require(isinstance(body.get("instructions", ""), str), "instructions", "must be a string")
        choice = body.get("tool_choice", "")
        if not isinstance(choice, str) and not _is(choice, "function"):
            raise wrong("tool_choice", "must be auto, none, required or a function")
        for name in _list(body, "include"):
            if name not in (LOGPROBS, _NEVER_THERE):
                raise wrong("include", f"only {LOGPROBS} is there to be included: {_HOSTED}, and nothing is fetched")
        view = {name: value for name, value in body.items() if name not in _OWN}
        items = [{"role": "user", "content": given}] if isinstance(given, str) else given
        view["messages"] = [_message(item, f"input[{at}]") for at, item in enumerate(items)]
        view["tools"] = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(_list(body, "tools"))]
        if "max_output_tokens" in body:
            view["max_tokens"] = body["max_output_tokens"]
        require(isinstance(wanted, dict | None), "text.format", "must be an object")
        if wanted is not None:
            kind = wanted.get("type")
            rest = {name: value for name, value in wanted.items() if name != "type"}
            view["response_format"] = {"type": kind} | ({"json_schema": rest} if kind == "json_schema" else rest)
        return view

    def for_vllm(self, request: EngineRequest, model: str) -> dict[str, Any]:
        body = dict(request.body)
        body["store"], body["request_id"] = False, f"resp_{request.id}"
        body["include"] = [name for name in body.get("include", ()) if name == LOGPROBS]
        if isinstance(body["input"], list):
            body["input"] = [plain for item in body["input"] if (plain := _plain(item))]
        return body

    def engine_ids(self, request: EngineRequest) -> list[str]:
        return [f"resp_{request.id}_0"]

    # answering

    async def events(self, events: AsyncGenerator[Any, None], serving: Any) -> AsyncGenerator[str, None]:
        async with contextlib.aclosing(events):
            async for event in events:
                yield f"event: {event.type}\ndata: {event.model_dump_json(by_alias=True)}\n\n"

    def whole(self, request: EngineRequest, answer: str) -> str:
        response = json.loads(answer)
        _settle(request, response)
        return json.dumps(response, ensure_ascii=False)

    def reworded(self, request: EngineRequest, event: str) -> str:
        state, name = request.state, event[7 : event.index("\n")]
        state["sent"] = state.get("sent", 0) + 1
        held: str = state.pop("held", "")
        if name in _BEGINNING or name == "response.completed":
            data = json.loads(event[event.index("data: ") + 6 :])
            response = state["response"] = data["response"]
            _settle(request, response)
            if name in _BEGINNING:
                state["held"] = held + framed(data, name)
                return ""
            data["type"] = f"response.{response['status']}"
            if response["status"] == "incomplete":  # of an item that is done, only now is known how
                held = held.replace('"status":"completed"', '"status":"incomplete"')
            return held + framed(data, data["type"])
        if name == "response.output_item.done":
            state["held"] = event
            return held
        return held + event

    def failure(self, request: EngineRequest, error: ApiError) -> bytes:
        state = request.state
        held: str = state.pop("held", "")
        number = state.get("sent", 0)
        detail = {"code": error.code or "server_error", "message": error.message, "param": error.param}
        # Some clients read the typed event's own fields, others an `error` in it as in every other answer.
        first = {"type": "error", **detail, **self.envelope(error), "sequence_number": number}
        why = {"code": "server_error", "message": error.message}
        response = {**state.get("response", {}), "status": "failed", "error": why}
        last = {"type": "response.failed", "response": response, "sequence_number": number + 1}
        return (held + framed(first, "error") + framed(last, "response.failed")).encode()


def _settle(request: EngineRequest, response: dict[str, Any]) -> None:
    """Make vLLM's object say what is so: not stored, and incomplete when it was cut."""
    for name in _ENGINES_OWN:
        response.pop(name, None)
    response |= {"store": False, "error": None}
    if usage := response.get("usage"):
        request.usage = {"prompt_tokens": usage["input_tokens"], "completion_tokens": usage["output_tokens"]}
    if response["status"] == "in_progress" or not (request.cut or response["status"] == "incomplete"):
        return
    response |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    for item in response["output"][-1:]:
        item["status"] = "incomplete"
        for part in item.get("content") or () if request.body.get("tools") else ():
            part["text"] = without_half_call(part["text"]) or ""


def _message(item: Any, place: str) -> dict[str, Any]:
    """An item of the input as one message of a chat."""
    kind = item.get("type") or "message" if isinstance(item, dict) else None
    if kind == "message":
        if item.get("content") is None and item.get("role") != "assistant":
            raise wrong(f"{place}.content", "must be a string or a list of parts")
        return {"role": item.get("role"), "content": item.get("content")}
    if kind in ("function_call", "function_call_output") and not isinstance(item.get("call_id"), str):
        raise wrong(f"{place}.call_id", "must be a string")
    if kind == "function_call":
        call = {"function": {"name": item.get("name"), "arguments": item.get("arguments")}}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    if kind == "function_call_output":
        return {"role": "tool", "content": _output(item.get("output"), f"{place}.output")}
    if kind == "reasoning":
        if item.get("encrypted_content"):
            raise wrong(place, "encrypted reasoning cannot be read here; leave this item out")
        return {"role": "assistant", "content": [{**part, "type": "text"} for part in _thoughts(item, place)]}
    if kind == "item_reference":
        raise wrong(
            place, "nothing is stored here to refer to; send the item itself (many clients do with store: false)"
        )
    raise wrong(place, "only items of type message, function_call, function_call_output and reasoning are accepted")


def _output(output: Any, place: str) -> str | list[Any]:
    """What a function gave back; whatever else a part may be is judged as in any message."""
    if not isinstance(output, str | list):
        raise wrong(place, "must be a string or a list of parts")
    for at, part in enumerate(output if isinstance(output, list) else ()):
        if not isinstance(part, dict) or part.get("type") not in ("input_text", "output_text", "text"):
            raise wrong(f"{place}[{at}]", "only parts of type input_text are accepted")
        require(isinstance(part.get("text"), str), f"{place}[{at}].text", "must be a string")
    return output


def _thoughts(item: dict[str, Any], place: str) -> list[dict[str, Any]]:
    parts = item.get("content") or item.get("summary") or []
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise wrong(place, "content and summary must be lists of objects")
    return parts


def _plain(item: dict[str, Any]) -> dict[str, Any] | None:
    """A checked item without what vLLM would drop, or take for the beginning of its own answer."""
    kind = item.get("type") or "message"
    if kind == "function_call":
        arguments = item.get("arguments") or "{}"
        written = arguments if isinstance(arguments, str) else json.dumps(arguments)
        return {"type": kind, "call_id": item["call_id"], "name": item["name"], "arguments": written}
    if kind == "function_call_output":
        return {"type": kind, "call_id": item.get("call_id"), "output": _text(item.get("output"), "\n")}
    if kind == "reasoning":
        thoughts = "\n".join(part["text"] for part in _thoughts(item, ""))
        part = {"type": "reasoning_text", "text": thoughts}
        return {"type": kind, "id": "rs_0", "summary": [], "content": [part]} if thoughts else None
    content = item.get("content")
    if item["role"] == "assistant":
        content = _text(content, "")
    elif isinstance(content, list):
        content = [{"type": "input_text", "text": _text([part], "")} for part in content]
    return {"role": item["role"], "content": content}


def _text(content: Any, between: str) -> str:
    parts = [content] if isinstance(content, str) else content or []
    return between.join(
        part if isinstance(part, str) else part.get("text") or part.get("refusal") or "" for part in parts
    )


def _tool(tool: Any, place: str) -> dict[str, Any]:
    if not _is(tool, "function"):
        raise wrong(f"{place}.type", f"only tools of type function are accepted: {_HOSTED}; offer a function instead")
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _list(body: Mapping[str, Any], name: str) -> list[Any]:
    value = body.get(name, [])
    require(isinstance(value, list), name, "must be a list")
    return list(value)


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, dict) and value.get("type") == kind

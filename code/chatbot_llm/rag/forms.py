"""Where documents come into a request and citations into its answer, protocol by protocol.

What documents and citations are, `documents` and `citations` know; here stands only where each protocol has them.
"""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

from chatbot_llm.engine.protocols import PROTOCOLS
from chatbot_llm.engine.protocols.base import EngineRequest
from chatbot_llm.engine.protocols.messages import document
from chatbot_llm.errors import require
from chatbot_llm.rag import documents
from chatbot_llm.rag.documents import ANSWER_TOKENS, Body, Document, Documents
from chatbot_llm.sse import framed

#: Annotations, in a chat's form, and grounding of a text.
Checked = Callable[[str], Awaitable[tuple[list[Body], Body]]]
#: What a form keeps of one stream: what each part has said so far, how many events were put in.
State = dict[int | str, Any]
#: What changes how a chat's prompt is written: all that a count of its tokens needs.
_COUNTED = "messages tools chat_template_kwargs add_generation_prompt continue_final_message add_special_tokens".split()


class Form:
    """Chat Completions, and /tokenize."""

    def read(self, body: Body) -> Documents | None:
        """Take the documents out of a body that was checked. Raises BadRequest."""
        return documents.read(body)

    def put(self, body: Body, text: str) -> Body:
        """A copy of the body with a text at the end of its system message, or as one of its own."""
        return {**body, "messages": documents.behind_system(body["messages"], text)}

    def answer_tokens(self, body: Body) -> int:
        """How long the answer may become."""
        return int(body.get("max_completion_tokens") or body.get("max_tokens") or ANSWER_TOKENS)

    def counting(self, body: Body) -> EngineRequest:
        """What to ask for the number of the prompt's tokens."""
        return EngineRequest(PROTOCOLS["tokenize"], {name: body[name] for name in _COUNTED if name in body})

    async def whole(self, answer: Body, checked: Checked, shown: Sequence[Document]) -> None:
        """Write citations into a whole answer."""
        for choice in answer["choices"]:
            annotations, grounding = await checked(choice["message"].get("content") or "")
            choice["message"] |= {"annotations": annotations, "grounding": grounding}

    async def event(self, event: bytes, state: State, checked: Checked, shown: Sequence[Document]) -> bytes:
        """An event of a stream with the citations that belong into it; `state` is the stream's."""
        chunk = json.loads(event[6:]) if event.startswith(b"data: {") else {}
        ended = False
        for choice in chunk.get("choices", ()):
            at = choice["index"]
            state[at] = state.get(at, "") + (choice["delta"].get("content") or "")
            if choice.get("finish_reason"):
                annotations, grounding = await checked(state[at])
                choice["delta"] |= {"annotations": annotations, "grounding": grounding}
                ended = True
        return framed(chunk).encode() if ended else event


class ResponsesForm(Form):
    """OpenAI's Responses: annotations belong to a part of a message, grounding to the message."""

    _HOLD = (b"response.content_part.done", b"response.output_item.done", b"response.completed", b"response.incomplete")

    def put(self, body: Body, text: str) -> Body:
        given = body.get("instructions")
        return {**body, "instructions": f"{given}\n\n{text}" if given else text}

    def answer_tokens(self, body: Body) -> int:
        return int(body.get("max_output_tokens") or ANSWER_TOKENS)

    def counting(self, body: Body) -> EngineRequest:
        chat = PROTOCOLS["responses"].as_chat(body)
        system = {"role": "system", "content": body["instructions"]}
        return super().counting(
            {**chat, "messages": [system, *chat["messages"]] if system["content"] else chat["messages"]}
        )

    async def whole(self, answer: Body, checked: Checked, shown: Sequence[Document]) -> None:
        for item in answer["output"]:
            await self._item(item, checked)

    async def event(self, event: bytes, state: State, checked: Checked, shown: Sequence[Document]) -> bytes:
        name = event[7 : event.index(b"\n")]
        if name not in self._HOLD and "added" not in state:
            return event
        data = json.loads(event[event.index(b"data: ") + 6 :])
        data["sequence_number"] += state.get("added", 0)
        if name not in self._HOLD:
            return framed(data, name.decode()).encode()
        events = []
        if "part" in data:
            await self._part(data["part"], checked)
            events = self._added(data)
            state["added"] = state.get("added", 0) + len(events)
        for item in [data["item"]] if "item" in data else data.get("response", {}).get("output", ()):
            await self._item(item, checked)
        return "".join([*events, framed(data, name.decode())]).encode()

    def _added(self, done: Body) -> list[str]:
        """The events that tell of a part's annotations one by one, before `done`, which moves behind them."""
        kind, first = "response.output_text.annotation.added", done["sequence_number"]
        where = {name: done[name] for name in ("item_id", "output_index", "content_index")}
        events = [
            {"type": kind, "sequence_number": first + at, **where, "annotation_index": at, "annotation": each}
            for at, each in enumerate(done["part"].get("annotations", ()))
        ]
        done["sequence_number"] += len(events)
        return [framed(event, kind) for event in events]

    async def _item(self, item: Body, checked: Checked) -> None:
        for part in item["content"] if item.get("type") == "message" else ():
            if grounding := await self._part(part, checked):
                item["grounding"] = grounding

    async def _part(self, part: Body, checked: Checked) -> Body | None:
        if part.get("type") != "output_text":
            return None
        annotations, grounding = await checked(part["text"])
        part["annotations"] = [
            {name: value for name, value in each.items() if name != "url_citation"} | each["url_citation"]
            for each in annotations
        ]
        return grounding


class MessagesForm(Form):
    """Anthropic's Messages: documents are blocks of a message; citations and grounding belong to a block of text."""

    def read(self, body: Body) -> Documents | None:
        found, cited = [], False
        for at, message in enumerate(body["messages"]):
            if not isinstance(message["content"], list):
                continue
            blocks = [block for block in message["content"] if block["type"] == "document"]
            found += [document(block, "") for block in blocks]
            cited = cited or any((block.get("citations") or {}).get("enabled") for block in blocks)
            rest = [block for block in message["content"] if block["type"] != "document"]
            place = f"messages[{at}].content"
            require(rest or not blocks, place, "must hold more than documents, such as a question")
            message["content"] = rest
        if found:
            body["documents"] = found
            if not cited:
                body.setdefault("documents_instruction", "")
        return documents.read(body)

    def put(self, body: Body, text: str) -> Body:
        given = body.get("system") or []
        blocks = [{"type": "text", "text": given}] if isinstance(given, str) else given
        return {**body, "system": [*blocks, {"type": "text", "text": f"\n\n{text}" if blocks else text}]}

    def answer_tokens(self, body: Body) -> int:
        return int(body.get("max_tokens") or ANSWER_TOKENS)

    def counting(self, body: Body) -> EngineRequest:
        names = ("model", "messages", "system", "tools", "tool_choice", "thinking", "chat_template_kwargs")
        return EngineRequest(PROTOCOLS["count"], {name: body[name] for name in names if name in body})

    async def whole(self, answer: Body, checked: Checked, shown: Sequence[Document]) -> None:
        for block in answer["content"]:
            if block["type"] == "text":
                annotations, block["grounding"] = await checked(block["text"])
                block["citations"] = [_located(each, shown) for each in annotations]

    async def event(self, event: bytes, state: State, checked: Checked, shown: Sequence[Document]) -> bytes:
        name = event[7 : event.index(b"\n")]
        if name not in (b"content_block_delta", b"content_block_stop"):
            return event
        data = json.loads(event[event.index(b"data: ") + 6 :])
        at = data["index"]
        if name == b"content_block_delta":
            if data["delta"].get("type") == "text_delta":
                state[at] = state.get(at, "") + data["delta"]["text"]
            return event
        if at not in state:
            return event
        annotations, data["grounding"] = await checked(state[at])
        kind = "content_block_delta"
        deltas = [{"type": "citations_delta", "citation": _located(each, shown)} for each in annotations]
        events = [framed({"type": kind, "index": at, "delta": delta}, kind) for delta in deltas]
        return "".join([*events, framed(data, "content_block_stop")]).encode()


def _located(annotation: Body, shown: Sequence[Document]) -> Body:
    """An annotation as Anthropic's `char_location`; a mark cites its document as a whole."""
    place, cited = annotation["url_citation"], annotation["document"]
    text = shown[cited["number"] - 1].text
    start, end = cited.get("start_index", 0), cited.get("end_index", len(text))
    return {
        "type": "char_location",
        "document_index": cited["number"] - 1,
        "document_title": place["title"],
        "start_char_index": start,
        "end_char_index": end,
        "cited_text": text[start:end],
        "kind": annotation["kind"],
        "start_index": place["start_index"],
        "end_index": place["end_index"],
    }


#: By the kind of a request.
FORMS: dict[str, Form] = {
    **dict.fromkeys(("chat", "tokenize"), Form()),
    "responses": ResponsesForm(),
    **dict.fromkeys(("messages", "count"), MessagesForm()),
}


def read(kind: str, body: Body) -> Documents | None:
    """Take the documents out of a checked body; None where there are none, or the protocol has no place for them."""
    return FORMS[kind].read(body) if kind in FORMS else None


async def annotated(
    events: AsyncGenerator[bytes, None], form: Form, checked: Checked, shown: Sequence[Document]
) -> AsyncGenerator[bytes, None]:
    """A stream's pieces as they come, citations in their places."""
    state: State = {}
    async for piece in events:
        parts = [part + b"\n\n" for part in piece.split(b"\n\n") if part]
        yield b"".join([await form.event(part, state, checked, shown) for part in parts])

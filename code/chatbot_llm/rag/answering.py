"""One answer with documents, whole or streamed: documents into the prompt, the engine asked, its words checked.

A chat's form in, a chat's form out: a protocol that is asked and answered as a chat has citations without more ado.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Awaitable, Callable

from chatbot_llm.engine.base import Engine
from chatbot_llm.engine.protocols import PROTOCOLS
from chatbot_llm.engine.protocols.base import EngineRequest
from chatbot_llm.rag.citations import Sources, check
from chatbot_llm.rag.documents import Body, Documents, form_of
from chatbot_llm.sse import one_line

#: What changes how a chat's prompt is written: all that a count of its tokens needs.
_COUNTED = (
    "messages",
    "tools",
    "chat_template_kwargs",
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
)


async def answer(engine: Engine, request: EngineRequest, documents: Documents) -> bytes | AsyncGenerator[bytes, None]:
    """What `engine.answer` answers to a chat with documents; /tokenize counts all of them. Raises ApiError.

    Every message, and in a stream the last delta of every choice, has `annotations` and `grounding`.
    """
    form = form_of(*engine.template())
    if not request.protocol.generates:
        request.ask(documents.place(request.body, form, len(documents.items)))
        engine.prepare(request)
        return await engine.answer(request)

    async def count(body: Body) -> int:
        asked = EngineRequest(
            PROTOCOLS["tokenize"], body if "prompt" in body else {k: body[k] for k in _COUNTED if k in body}
        )
        engine.prepare(asked)
        said = await engine.answer(asked)
        assert isinstance(said, bytes)
        return int(json.loads(said)["count"])

    context = engine.models()[0]["max_model_len"]
    body, used = await documents.fit(request.body, form, context, count)
    request.ask(body)
    engine.prepare(request)
    shown, left_out = documents.items[:used], documents.items[used:]
    # Made ready while the model reads the prompt.
    sources = asyncio.get_running_loop().run_in_executor(
        None, Sources, [item.text for item in shown], [item.title for item in shown]
    )

    async def checked(text: str) -> Body:
        annotations, grounding = check(text, shown, await sources)
        which = {"documents": [item.id for item in shown], "left_out": [item.id for item in left_out]}
        return {"annotations": annotations, "grounding": {**which, **grounding}}

    said = await engine.answer(request)
    if not isinstance(said, bytes):
        return _stream(said, checked)
    whole = json.loads(said)
    for choice in whole["choices"]:
        choice["message"] |= await checked(choice["message"].get("content") or "")
    return json.dumps(whole, ensure_ascii=False).encode()


async def _stream(
    events: AsyncGenerator[bytes, None], checked: Callable[[str], Awaitable[Body]]
) -> AsyncGenerator[bytes, None]:
    """The events as they come; one that ends a choice also has what was found in the choice's text."""
    texts: dict[int, str] = {}
    async with contextlib.aclosing(events):
        async for event in events:
            chunk = json.loads(event[6:]) if event.startswith(b"data: {") else {}
            ended = False
            for choice in chunk.get("choices", ()):
                at = choice["index"]
                texts[at] = texts.get(at, "") + (choice["delta"].get("content") or "")
                if choice.get("finish_reason"):
                    choice["delta"] |= await checked(texts[at])
                    ended = True
            yield b"data: " + one_line(json.dumps(chunk, ensure_ascii=False)).encode() + b"\n\n" if ended else event

"""One answer with documents, whole or streamed: documents into the prompt, the engine asked, its words checked."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator

from chatbot_llm.engine.protocols import PROTOCOLS
from chatbot_llm.engine.protocols.base import EngineRequest
from chatbot_llm.engine.supervisor import Engine
from chatbot_llm.errors import BadRequest
from chatbot_llm.rag.citations import Sources, check
from chatbot_llm.rag.documents import Body, Documents, form_of
from chatbot_llm.rag.forms import FORMS, annotated


async def answer(engine: Engine, request: EngineRequest, documents: Documents) -> bytes | AsyncGenerator[bytes, None]:
    """What `engine.answer` answers to a request with documents; what only counts, counts all. Raises ApiError.

    Every text has annotations and grounding, in a stream when it ends.
    """
    inert, form = form_of(*engine.template()), FORMS[request.protocol.kind]
    if not request.protocol.generates:
        request.replace_body(documents.place(request.body, inert, len(documents.items), form.put))
        engine.prepare(request)
        return await engine.answer(request)

    async def count(body: Body) -> int:
        counting = EngineRequest(PROTOCOLS["tokenize"], body) if "prompt" in body else form.counting(body)
        engine.prepare(counting)
        answered = await engine.answer(counting)
        assert isinstance(answered, bytes)
        counted = json.loads(answered)
        return int(counted["input_tokens"] if "input_tokens" in counted else counted["count"])

    room = engine.models()[0]["max_model_len"], form.answer_tokens(request.body)
    try:
        body, used = await documents.fit(request.body, inert, *room, count, form.put)
    except BadRequest as error:
        raise request.protocol.in_words(error) from None
    request.replace_body(body)
    engine.prepare(request)
    shown, left_out = documents.items[:used], documents.items[used:]
    # Made ready while the model reads the prompt.
    sources = asyncio.get_running_loop().run_in_executor(
        None, Sources, [item.text for item in shown], [item.title for item in shown]
    )
    known: dict[str, tuple[list[Body], Body]] = {}  # some streams say a text more than once

    async def checked(text: str) -> tuple[list[Body], Body]:
        if text not in known:
            annotations, grounding = check(text, shown, await sources)
            which = {"documents": [item.id for item in shown], "left_out": [item.id for item in left_out]}
            known[text] = annotations, {**which, **grounding}
        return known[text]

    answered = await engine.answer(request)
    if isinstance(answered, bytes):
        whole = json.loads(answered)
        await form.whole(whole, checked, shown)
        return json.dumps(whole, ensure_ascii=False).encode()
    return _closing(answered, annotated(answered, form, checked, shown))


async def _closing(
    engines: AsyncGenerator[bytes, None], events: AsyncGenerator[bytes, None]
) -> AsyncGenerator[bytes, None]:
    """The events; when they are given up, the engine's are, too."""
    async with contextlib.aclosing(engines), contextlib.aclosing(events):
        async for event in events:
            yield event

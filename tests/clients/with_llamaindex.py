"""LlamaIndex's OpenAI-like LLMs: chat, streaming, completion, tools, Responses, against the service at $URL."""

import os

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike, OpenAILikeResponses


def llm(**more: bool) -> OpenAILike:
    return OpenAILike(
        api_base=os.environ["URL"] + "/v1",
        api_key="none-needed",
        model=os.environ["MODEL"],
        context_window=4096,
        max_tokens=60,
        temperature=0,
        max_retries=0,
        strict=True,  # a tool's arguments obey its schema
        **more,
    )


def set_temperature(celsius: int) -> str:
    """Set the room's temperature."""
    return f"{celsius} degrees set"


question = [ChatMessage(role="user", content="What is the capital of France?")]
chat = llm(is_chat_model=True, is_function_calling_model=True)
assert "Paris" in chat.chat(question).message.content

pieces = [part.delta or "" for part in chat.stream_chat(question)]
assert "Paris" in "".join(pieces) and len(pieces) > 3

assert "Paris" in llm(is_chat_model=False).complete("The capital of France is").text

tool = FunctionTool.from_defaults(set_temperature)
answer = chat.chat_with_tools([tool], user_msg="Make it 21 degrees.", tool_required=True)
(call,) = chat.get_tool_calls_from_response(answer)[:1]
assert call.tool_name == "set_temperature" and isinstance(call.tool_kwargs["celsius"], int)

responses = OpenAILikeResponses(
    api_base=os.environ["URL"] + "/v1",
    api_key="none-needed",
    model=os.environ["MODEL"],
    context_window=4096,
    max_output_tokens=60,
    temperature=0,
    max_retries=0,
)
assert "Paris" in responses.chat(question).message.content
pieces = [part.delta or "" for part in responses.stream_chat(question)]
assert "Paris" in "".join(pieces) and len(pieces) > 3
print("passed")

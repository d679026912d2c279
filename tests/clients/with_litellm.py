"""LiteLLM: chat, streaming, tools and its mapping of errors, against the service at $URL."""

import json
import os

import litellm

ASK = {
    "model": f"openai/{os.environ['MODEL']}",
    "api_base": os.environ["URL"] + "/v1",
    "api_key": "none-needed",
    "temperature": 0,
    "max_retries": 0,
}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]

answer = litellm.completion(messages=QUESTION, **ASK)
assert "Paris" in answer.choices[0].message.content and answer.usage.completion_tokens > 0

chunks = list(litellm.completion(messages=QUESTION, stream=True, **ASK))
words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
assert "Paris" in "".join(words) and len(words) > 3

parameters = {
    "type": "object",
    "properties": {"celsius": {"type": "integer"}},
    "required": ["celsius"],
    "additionalProperties": False,
}
tools = [{"type": "function", "function": {"name": "set_temperature", "strict": True, "parameters": parameters}}]
wish = [{"role": "user", "content": "Make it 21 degrees."}]
called = litellm.completion(messages=wish, tools=tools, tool_choice="required", max_tokens=100, **ASK)
call = called.choices[0].message.tool_calls[0].function
assert call.name == "set_temperature" and isinstance(json.loads(call.arguments)["celsius"], int)

try:
    litellm.completion(messages=[{"role": "user", "content": "word " * 20000}], **ASK)
except litellm.ContextWindowExceededError:
    pass
else:
    raise AssertionError("a prompt beyond the context window was accepted")
print("passed")

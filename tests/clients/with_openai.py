"""openai, the newest: what its users do first, against the service at $URL. Ends non-zero when something is not so."""

import asyncio
import os

import openai
from pydantic import BaseModel

client = openai.OpenAI(base_url=os.environ["URL"] + "/v1", api_key="none-needed", max_retries=0)
model = client.models.list().data[0].id
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


class Wish(BaseModel):
    room: str
    celsius: int


answer = client.chat.completions.create(model=model, messages=QUESTION, temperature=0)
assert "Paris" in answer.choices[0].message.content and answer.usage.completion_tokens > 0

options = {"stream": True, "stream_options": {"include_usage": True}}
chunks = list(client.chat.completions.create(model=model, messages=QUESTION, temperature=0, **options))
words = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
assert len(words) > 3 and "Paris" in "".join(words)
assert chunks[-1].usage.completion_tokens > 3

parsed = client.chat.completions.parse(
    model=model,
    messages=[{"role": "user", "content": "Office, 21 degrees."}],
    response_format=Wish,
    max_tokens=100,
    temperature=0,  # by chance a room's name has no end
)
assert isinstance(parsed.choices[0].message.parsed, Wish)

text = client.completions.create(model=model, prompt="The capital of France is", max_tokens=8, temperature=0)
assert "Paris" in text.choices[0].text

try:
    client.chat.completions.create(model="gpt-4o", messages=QUESTION)
except openai.NotFoundError as error:
    assert error.code == "model_not_found" and model in error.message
else:
    raise AssertionError("a model that is not served was accepted")

try:
    client.chat.completions.create(model=model, messages=[{"role": "user", "content": "word " * 20000}])
except openai.BadRequestError as error:
    assert error.code == "context_length_exceeded", error.code
else:
    raise AssertionError("a prompt beyond the context window was accepted")


async def two_at_once() -> None:
    async with openai.AsyncOpenAI(base_url=os.environ["URL"] + "/v1", api_key="none-needed") as other:
        calls = [other.chat.completions.create(model=model, messages=QUESTION, temperature=0) for _ in range(2)]
        for one in await asyncio.gather(*calls):
            assert "Paris" in one.choices[0].message.content


asyncio.run(two_at_once())
print("passed")

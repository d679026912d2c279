"""pydantic-ai's `openai:` models, which speak Responses: text, streamed, structured; the service is at $URL."""

import asyncio
import os

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput

os.environ |= {"OPENAI_BASE_URL": os.environ["URL"] + "/v1", "OPENAI_API_KEY": "none-needed"}
MODEL = f"openai:{os.environ['MODEL']}"
SETTINGS = {"temperature": 0, "max_tokens": 100}
QUESTION = "What is the capital of France?"


class Wish(BaseModel):
    room: str
    celsius: int


agent = Agent(MODEL, instructions="You are a helpful assistant.", model_settings=SETTINGS)
answer = agent.run_sync(QUESTION)
assert "Paris" in answer.output and answer.usage.output_tokens > 3


async def streamed() -> str:
    async with agent.run_stream(QUESTION) as run:
        return [text async for text in run.stream_text()][-1]


assert "Paris" in asyncio.run(streamed())
wish = Agent(MODEL, output_type=NativeOutput(Wish), model_settings=SETTINGS).run_sync("Office, 21 degrees.")
assert isinstance(wish.output, Wish)
print("passed")

"""openai-agents: run, streamed, a tool, against the service at $URL."""

import asyncio
import os

from agents import Agent, ModelSettings, Runner, function_tool, set_default_openai_client, set_tracing_disabled
from openai import AsyncOpenAI

set_tracing_disabled(True)
set_default_openai_client(AsyncOpenAI(base_url=os.environ["URL"] + "/v1", api_key="none-needed"), use_for_tracing=False)
QUESTION = "What is the capital of France?"
set_to: list[int] = []


@function_tool
def set_temperature(celsius: int) -> str:
    """Set the room's temperature."""
    set_to.append(celsius)
    return f"{celsius} degrees set"


guide = Agent(
    name="Guide",
    instructions="You are a helpful assistant.",
    model=os.environ["MODEL"],
    model_settings=ModelSettings(temperature=0, max_tokens=60),
)
keeper = guide.clone(
    tools=[set_temperature],
    model_settings=ModelSettings(temperature=0, max_tokens=60, tool_choice="required"),
    tool_use_behavior="stop_on_first_tool",
)


async def main() -> None:
    answer = await Runner.run(guide, QUESTION)
    assert "Paris" in answer.final_output
    streaming = Runner.run_streamed(guide, QUESTION)
    events = [event.data async for event in streaming.stream_events() if event.type == "raw_response_event"]
    words = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(words) > 3 and "Paris" in "".join(words) and "Paris" in streaming.final_output
    again = await Runner.run(guide, [*answer.to_input_list(), {"role": "user", "content": QUESTION}])
    assert again.final_output
    done = await Runner.run(keeper, "Make it 21 degrees.")
    assert set_to and done.final_output == f"{set_to[0]} degrees set"


asyncio.run(main())
print("passed")

"""langchain-openai: chat, streaming, structured output, tools; through Responses, too; the service is at $URL."""

import os

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

llm = ChatOpenAI(
    base_url=os.environ["URL"] + "/v1",
    api_key="none-needed",
    model=os.environ["MODEL"],
    temperature=0,
    max_tokens=100,
    max_retries=0,
)


class Wish(BaseModel):
    """What somebody wants to have set."""

    room: str
    celsius: int


@tool
def set_temperature(celsius: int) -> str:
    """Set the room's temperature."""
    return f"{celsius} degrees set"


answer = llm.invoke("What is the capital of France?")
assert "Paris" in answer.text and answer.usage_metadata["output_tokens"] > 0

chunks = [chunk.text for chunk in llm.stream("What is the capital of France?")]
assert "Paris" in "".join(chunks) and sum(bool(chunk) for chunk in chunks) > 3

assert isinstance(llm.with_structured_output(Wish, method="json_schema").invoke("Office, 21 degrees."), Wish)

(call,) = (
    llm.bind_tools([set_temperature], tool_choice="required", strict=True).invoke("Make it 21 degrees.").tool_calls[:1]
)
assert call["name"] == "set_temperature" and isinstance(call["args"]["celsius"], int)
llm = llm.model_copy(update={"use_responses_api": True})
answer = llm.invoke("What is the capital of France?")
assert "Paris" in answer.text and answer.response_metadata["object"] == "response"
chunks = [chunk.text for chunk in llm.stream("What is the capital of France?")]
assert "Paris" in "".join(chunks) and sum(bool(chunk) for chunk in chunks) > 3
assert isinstance(llm.with_structured_output(Wish, method="json_schema").invoke("Office, 21 degrees."), Wish)
print("passed")

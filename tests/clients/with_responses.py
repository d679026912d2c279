"""openai's `responses`: plain, streamed, parsed, tools, errors, against the service at $URL."""

import json
import os

import openai
from pydantic import BaseModel

client = openai.OpenAI(base_url=os.environ["URL"] + "/v1", api_key="none-needed", max_retries=0)
ASK = {"model": os.environ["MODEL"], "temperature": 0}
QUESTION = "What is the capital of France?"


class Wish(BaseModel):
    room: str
    celsius: int


answer = client.responses.create(input=QUESTION, instructions="You are a helpful assistant.", **ASK)
assert "Paris" in answer.output_text and answer.status == "completed"
assert (
    answer.usage.output_tokens > 3
    and answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
)

events = list(client.responses.create(input=QUESTION, stream=True, **ASK))
assert [event.type for event in events][:2] == ["response.created", "response.in_progress"]
assert [event.sequence_number for event in events] == list(range(len(events)))
words = [event.delta for event in events if event.type == "response.output_text.delta"]
assert len(words) > 3 and "Paris" in "".join(words)
assert events[-1].type == "response.completed" and events[-1].response.output_text == "".join(words)

with client.responses.stream(input=QUESTION, **ASK) as stream:
    assert "Paris" in stream.get_final_response().output_text

cut = client.responses.create(input=QUESTION, max_output_tokens=2, **ASK)
assert cut.status == "incomplete" and cut.incomplete_details.reason == "max_output_tokens"

parsed = client.responses.parse(input="Office, 21 degrees.", text_format=Wish, max_output_tokens=100, **ASK)
assert isinstance(parsed.output_parsed, Wish)

parameters = {
    "type": "object",
    "properties": {"celsius": {"type": "integer"}},
    "required": ["celsius"],
    "additionalProperties": False,
}
tool = {"type": "function", "name": "set_temperature", "strict": True, "parameters": parameters}
items = [{"role": "user", "content": "Make it 21 degrees."}]
called = client.responses.create(input=items, tools=[tool], tool_choice="required", max_output_tokens=100, **ASK)
(call,) = [item for item in called.output if item.type == "function_call"][:1]
assert call.name == "set_temperature" and isinstance(json.loads(call.arguments)["celsius"], int)
items += [call, {"type": "function_call_output", "call_id": call.call_id, "output": "It is 21 degrees now."}]
assert client.responses.create(input=items, max_output_tokens=20, **ASK).output_text

for more, param in (
    ({"previous_response_id": answer.id}, "previous_response_id"),
    ({"background": True}, "background"),
):
    try:
        client.responses.create(input=QUESTION, **more, **ASK)
    except openai.BadRequestError as error:
        assert error.param == param, error.param
    else:
        raise AssertionError(f"{param} was accepted")
print("passed")

"""anthropic: create, stream, tools, counting, errors, against the service at $URL."""

import os

import anthropic

client = anthropic.Anthropic(base_url=os.environ["URL"], api_key="none-needed", max_retries=0)
ASK = {"model": os.environ["MODEL"], "max_tokens": 40, "extra_body": {"temperature": 0}}
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]

answer = client.messages.create(messages=QUESTION, system="You are a helpful assistant.", **ASK)
assert "Paris" in answer.content[0].text and answer.stop_reason == "end_turn" and answer.usage.output_tokens > 3

with client.messages.stream(messages=QUESTION, system="You are a helpful assistant.", **ASK) as stream:
    words = list(stream.text_stream)
    final = stream.get_final_message()
assert len(words) > 3 and "Paris" in final.content[0].text == "".join(words)
assert final.stop_reason == "end_turn" and final.usage.output_tokens > 3

cut = client.messages.create(messages=QUESTION, **{**ASK, "max_tokens": 2})
assert cut.stop_reason == "max_tokens"

counted = client.messages.count_tokens(
    model=ASK["model"], messages=QUESTION, system="You are a helpful assistant."
).input_tokens
assert counted == answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)

schema = {
    "type": "object",
    "properties": {"celsius": {"type": "integer"}},
    "required": ["celsius"],
    "additionalProperties": False,
}
tool = {"name": "set_temperature", "strict": True, "input_schema": schema}
turns = [{"role": "user", "content": "Make it 21 degrees."}]
called = client.messages.create(messages=turns, tools=[tool], tool_choice={"type": "any"}, **{**ASK, "max_tokens": 100})
(call,) = [block for block in called.content if block.type == "tool_use"][:1]
assert called.stop_reason == "tool_use" and call.name == "set_temperature" and isinstance(call.input["celsius"], int)
result = {"type": "tool_result", "tool_use_id": call.id, "content": "It is 21 degrees now."}
turns += [{"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
assert client.messages.create(messages=turns, tools=[tool], tool_choice={"type": "none"}, **ASK).content

for error, more in (
    (anthropic.NotFoundError, {"model": "claude-opus-5"}),
    (anthropic.BadRequestError, {"messages": [{"role": "user", "content": "word " * 20000}]}),
    (anthropic.BadRequestError, {"messages": []}),
):
    try:
        client.messages.create(**{"messages": QUESTION, **ASK, **more})
    except error as reported:
        assert reported.body["type"] == "error" and reported.body["error"]["message"]
    else:
        raise AssertionError(f"{more} was accepted")
print("passed")

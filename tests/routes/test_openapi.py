"""What the description says of a request's fields, and what the service does with them."""

import pytest

from chatbot_llm.routes import fields, openapi
from in_process import Client

BODIES = {
    "chat": ("/chat", "ChatRequest", {"messages": [{"role": "user", "content": "Hello"}]}),
    "completion": ("/v1/completions", "CompletionRequest", {"prompt": "Hello"}),
    "responses": ("/v1/responses", "ResponsesRequest", {"input": "Hello"}),
    "messages": (
        "/v1/messages",
        "MessagesRequest",
        {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5},
    ),
}


def allowed(name: str, body: object) -> bool:
    from jsonschema import Draft202012Validator  # takes seconds in each worker that collects tests

    document = openapi.describe()
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", **document}).is_valid(body)


@pytest.mark.parametrize("kind", BODIES)
def test_a_field_is_in_the_description_as_the_service_takes_it(client: Client, kind: str) -> None:
    path, name, body = BODIES[kind]
    assert allowed(name, body) and client.post(path, json=body).status_code == 200
    refused = [field for field, rule in fields.PROTOCOLS[kind].items() if rule.use == "refused" and field not in body]
    assert refused
    for field in [*refused, "no_such_field"]:
        sent = {**body, field: "something"}
        assert not allowed(name, sent), field
        assert client.post(path, json=sent).status_code == 400, field
    for field, rule in fields.PROTOCOLS[kind].items():
        for neutral in rule.neutral:
            sent = {**body, field: neutral}
            assert allowed(name, sent) and client.post(path, json=sent).status_code == 200, field

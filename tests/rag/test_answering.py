"""A chat with documents over HTTP, with the scripted engine: what its answer and its stream also hold."""

import json
from typing import Any

import pytest
from anthropic.types import CitationCharLocation, TextBlock
from openai.types.responses import ResponseOutputMessage, ResponseOutputText, ResponseOutputTextAnnotationAddedEvent
from openai.types.responses.response_output_text_annotation_added_event import AnnotationURLCitation

from chatbot_llm.rag.documents import INSTRUCTION
from in_process import Client, Make

FROST = "Below about 5 \u00b0C outside, the moisture of the air freezes on the fins as frost."
ANSWERED = "The moisture of the air freezes on the fins as frost [1]. It \u201cmelts by itself\u201d [9]."
DOCUMENTS = [{"id": "manual-7", "title": "Ice", "text": FROST}, {"text": "The fan stands still."}]
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 40, "documents": DOCUMENTS}


@pytest.fixture
def client(make_app: Make) -> Client:
    return make_app({"text": ANSWERED}).test_client()


def events(answer: Any) -> list[dict[str, Any]]:
    reply = answer.get_data(as_text=True)
    assert reply.endswith("\n\ndata: [DONE]\n\n"), reply
    return [json.loads(event[6:]) for event in reply.strip().split("\n\n")[:-1]]


def test_the_message_has_its_citations_and_how_grounded_it_is(client: Client) -> None:
    message = client.post("/chat", json=CHAT).get_json()["choices"][0]["message"]
    kinds = {each["kind"]: each for each in message["annotations"]}
    verbatim, mark = kinds["verbatim"], kinds["mark"]
    place, source = verbatim["url_citation"], verbatim["document"]
    span = message["content"][place["start_index"] : place["end_index"]]
    assert (
        span == FROST[source["start_index"] : source["end_index"]] == "moisture of the air freezes on the fins as frost"
    )
    assert (place["title"], place["url"], source["id"], source["number"]) == ("Ice", "manual-7", "manual-7", 1)
    assert ANSWERED[: mark["url_citation"]["end_index"]].endswith("frost [1]")
    grounding = message["grounding"]
    assert grounding["documents"] == ["manual-7", "2"] and grounding["left_out"] == []
    assert [each["number"] for each in grounding["unknown_citations"]] == [9]
    (quote,) = grounding["unsupported_quotes"]
    assert ANSWERED[quote["start_index"] : quote["end_index"]] == "melts by itself"
    assert grounding["verbatim_share"] == round(10 / 15, 4)


def test_a_stream_says_the_same_in_the_delta_that_ends_it(client: Client) -> None:
    whole = client.post("/chat", json=CHAT).get_json()["choices"][0]["message"]
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = events(client.post("/v1/chat/completions", json={**CHAT, **options}))
    *words, last, usage = chunks
    assert not any("annotations" in choice["delta"] for chunk in words for choice in chunk["choices"])
    assert last["choices"][0]["finish_reason"] == "stop" and usage["choices"] == []
    assert last["choices"][0]["delta"] == {name: whole[name] for name in ("annotations", "grounding")}


def test_an_answer_cut_at_its_deadline_is_checked_as_far_as_it_came(make_app: Make) -> None:
    client = make_app({"text": f"{FROST} [1]", "token_s": 0.01, "loop": True}).test_client()
    body = {**CHAT, "max_tokens": 4000, "stream": True}
    last = events(client.post("/chat", json=body, headers={"x-request-timeout": "0.5"}))[-1]["choices"][0]
    assert last["finish_reason"] == "length" and last["delta"]["grounding"]["verbatim_share"] > 0.5


def test_without_documents_nothing_is_added(client: Client) -> None:
    for body in ({**CHAT, "documents": []}, {**CHAT, "documents": None}):
        assert set(client.post("/chat", json=body).get_json()["choices"][0]["message"]) == {"role", "content"}


def test_documents_that_do_not_fit_are_refused_or_left_out(client: Client) -> None:
    long = [{"id": name, "text": "ice " * 3000} for name in "abc"]
    refused = client.post("/chat", json={**CHAT, "documents": long, "stream": True})
    error = refused.get_json()["error"]
    assert (
        refused.status_code == 400 and error["code"] == "context_length_exceeded" and "first 2 of 3" in error["message"]
    )
    body = {**CHAT, "documents": long, "documents_policy": "drop_last"}
    grounding = client.post("/chat", json=body).get_json()["choices"][0]["message"]["grounding"]
    assert grounding["documents"] == ["a", "b"] and grounding["left_out"] == ["c"]
    assert client.post("/tokenize", json=body).get_json()["count"] > 9000, "/tokenize counts all of them"


def test_a_wrong_document_is_refused_before_it_takes_a_slot(client: Client) -> None:
    answer = client.post("/chat", json={**CHAT, "documents": [{"text": ""}]})
    assert answer.status_code == 400 and answer.get_json()["error"]["param"] == "documents[0].text"
    many = client.post("/chat", json={**CHAT, "documents": [{"text": "a"}] * 257})
    assert "at most 256" in many.get_json()["error"]["message"]


def test_documents_of_a_request_that_waited_for_the_model_are_there(make_app: Make) -> None:
    client = make_app({"text": ANSWERED, "load_s": 0.5}, wait=False).test_client()
    message = client.post("/chat", json=CHAT).get_json()["choices"][0]["message"]
    assert message["grounding"]["documents"] == ["manual-7", "2"]


def test_an_event_has_citations_too(client: Client) -> None:
    message = client.post("/invoke", json=CHAT).get_json()["choices"][0]["message"]
    assert [each["kind"] for each in message["annotations"]] == ["verbatim", "mark"] or message["annotations"]


# the other protocols

RESPONSES = {"input": "Why?", "max_output_tokens": 40, "documents": DOCUMENTS}
BLOCKS: list[dict[str, Any]] = [
    {
        "type": "document",
        "source": {"type": "text", "media_type": "text/plain", "data": FROST},
        "title": "Ice",
        "citations": {"enabled": True},
    },
    {"type": "document", "source": {"type": "content", "content": [{"type": "text", "text": "The fan stands still."}]}},
    {"type": "text", "text": "Why?"},
]
MESSAGES = {"messages": [{"role": "user", "content": BLOCKS}], "max_tokens": 40}


def named(answer: Any) -> list[dict[str, Any]]:
    """The data of every event of a stream with names."""
    return [json.loads(event.split("data: ", 1)[1]) for event in answer.get_data(as_text=True).strip().split("\n\n")]


def test_responses_have_annotations_in_their_own_form(client: Client) -> None:
    chat = client.post("/chat", json=CHAT).get_json()["choices"][0]["message"]
    answer = client.post("/v1/responses", json=RESPONSES).get_json()
    (item,) = answer["output"]
    (part,) = ResponseOutputMessage.model_validate(item).content
    assert isinstance(part, ResponseOutputText) and [each.type for each in part.annotations] == ["url_citation"] * 2
    flat = [{"type": each["type"], "kind": each["kind"], **each["url_citation"]} for each in chat["annotations"]]
    reported = [{name: each[name] for name in flat[0]} for each in item["content"][0]["annotations"]]
    assert reported == flat and item["grounding"] == chat["grounding"]


def test_a_stream_of_responses_says_the_same_in_every_event_that_has_the_text(client: Client) -> None:
    (item,) = client.post("/v1/responses", json=RESPONSES).get_json()["output"]
    events = {each["type"]: each for each in named(client.post("/v1/responses", json={**RESPONSES, "stream": True}))}
    last = events["response.completed"]["response"]["output"][0]
    assert events["response.content_part.done"]["part"]["annotations"] == item["content"][0]["annotations"]
    for each in (last, events["response.output_item.done"]["item"]):
        assert each["content"] == item["content"] and each["grounding"] == item["grounding"]


def test_a_stream_of_responses_adds_its_annotations_one_by_one(client: Client) -> None:
    """The AI SDK takes its sources from these events."""
    events = named(client.post("/v1/responses", json={**RESPONSES, "stream": True}))
    added = [each for each in events if each["type"] == "response.output_text.annotation.added"]
    (done,) = [each for each in events if each["type"] == "response.content_part.done"]
    assert [each["annotation"] for each in added] == done["part"]["annotations"] != []
    assert [each["annotation_index"] for each in added] == [0, 1] and added[0]["item_id"] == done["item_id"]
    assert [each["sequence_number"] for each in events] == list(range(len(events))), "none twice, none left out"
    cited = ResponseOutputTextAnnotationAddedEvent.model_validate(added[1]).annotation
    assert isinstance(cited, AnnotationURLCitation) and cited.end_index > cited.start_index
    assert events.index(added[-1]) + 1 == events.index(done)


def test_messages_have_citations_that_anthropics_client_takes(client: Client) -> None:
    (block,) = client.post("/v1/messages", json=MESSAGES).get_json()["content"]
    mark, verbatim = TextBlock.model_validate(block).citations or []
    assert isinstance(verbatim, CitationCharLocation) and verbatim.document_title == "Ice"
    assert FROST[verbatim.start_char_index : verbatim.end_char_index] == verbatim.cited_text
    _, first = block["citations"]
    assert block["text"][first["start_index"] : first["end_index"]] == verbatim.cited_text
    assert isinstance(mark, CitationCharLocation) and (mark.document_index, mark.cited_text) == (0, FROST)
    assert block["grounding"]["documents"] == ["1", "2"]


def test_a_stream_of_messages_cites_before_its_block_ends(client: Client) -> None:
    (block,) = client.post("/v1/messages", json=MESSAGES).get_json()["content"]
    events = named(client.post("/v1/messages", json={**MESSAGES, "stream": True}))
    deltas = [each["delta"] for each in events if each["type"] == "content_block_delta"]
    assert "".join(delta["text"] for delta in deltas if delta["type"] == "text_delta") == block["text"]
    assert [each["citation"] for each in deltas if each["type"] == "citations_delta"] == block["citations"]
    (stop,) = [each for each in events if each["type"] == "content_block_stop"]
    assert stop["grounding"] == block["grounding"]
    assert [each["type"] for each in events[-3:]] == ["content_block_stop", "message_delta", "message_stop"]


def test_documents_of_messages_are_asked_to_be_cited_only_where_their_sender_wants_it(client: Client) -> None:
    def tokens(block: dict[str, Any]) -> int:
        body = {"messages": [{"role": "user", "content": [block, BLOCKS[-1]]}]}
        return int(client.post("/v1/messages/count_tokens", json=body).get_json()["input_tokens"])

    silent = {name: value for name, value in BLOCKS[0].items() if name != "citations"}
    assert tokens(BLOCKS[0]) - tokens(silent) == len(INSTRUCTION.split())
    assert tokens(silent) > len(FROST.split())


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
def test_documents_that_do_not_fit_are_refused_in_every_protocol(client: Client, path: str) -> None:
    long = "ice " * 9000
    block = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": long}}
    body = {**RESPONSES, "documents": [{"text": long}]}
    if path == "/v1/messages":
        body = {**MESSAGES, "messages": [{"role": "user", "content": [block, BLOCKS[-1]]}]}
    answer = client.post(path, json={**body, "stream": True})
    assert answer.status_code == 400 and "of 1 documents would fit" in answer.get_json()["error"]["message"]


@pytest.mark.parametrize(
    ("block", "place"),
    [
        ({"type": "document", "source": {"type": "url", "url": "http://a"}}, "messages[0].content[0].source"),
        ({"type": "document", "source": {"type": "text", "data": ""}}, "messages[0].content[0].source"),
        ({"type": "document", "source": {"type": "content", "content": [{"type": "image"}]}}, "source.content[0]"),
        ({**BLOCKS[0], "context": "a"}, "messages[0].content[0].context"),
        ({**BLOCKS[0], "title": 1}, "messages[0].content[0].source"),
        ({**BLOCKS[0], "citations": "yes"}, "messages[0].content[0].citations"),
    ],
)
def test_a_block_that_is_no_text_is_refused_with_its_place(client: Client, block: Any, place: str) -> None:
    body = {"messages": [{"role": "user", "content": [block, BLOCKS[-1]]}], "max_tokens": 4}
    answer = client.post("/v1/messages", json=body)
    assert answer.status_code == 400 and place in answer.get_json()["error"]["message"]


def test_a_message_of_nothing_but_documents_is_told_so(client: Client) -> None:
    body = {"messages": [{"role": "user", "content": BLOCKS[:2]}], "max_tokens": 4}
    answer = client.post("/v1/messages", json=body)
    assert answer.status_code == 400 and "more than documents" in answer.get_json()["error"]["message"]

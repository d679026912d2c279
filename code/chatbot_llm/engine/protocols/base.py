"""What sets one protocol apart from the others: how it asks, is framed and ends, and how it tells of a cut or a fault.

The life of a request is the same for all of them (`serving/request.py`); whatever differs is asked of the request's
protocol. A new one is a file here, and a table in `routes/fields.py`. vLLM's models and methods are named and never
imported: `engine/vllm_engine.py` looks them up, and a drift test holds them against the pinned version.
"""

import re
import uuid
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from chatbot_llm.errors import ApiError


class Protocol:
    """One for each kind of request, without state: what it must remember amid a stream is in the request's `state`."""

    kind: str
    #: Its routes; the first is also where an event of its form goes.
    paths: tuple[str, ...] = ()
    #: vLLM's model for a body, as module:class.
    parsed_by: str
    #: vLLM's method, in the bag that `init_app_state` fills, and how pydantic writes down what it returns.
    serving: str
    dump: Mapping[str, Any] = {}
    #: Whether the model writes an answer, and so may be asked to obey a schema.
    generates = True
    #: What the engine's event holds that ends an answer, and the beginnings of a stream's last event.
    finish = ""
    last: tuple[bytes, ...] = ()
    #: The field that holds what is asked, and (pattern, replacement) from a chat's names to this protocol's.
    prompt = "messages"
    words: tuple[tuple[str, str], ...] = ()

    # asking

    def owns(self, path: str) -> bool:
        """Whether this protocol's clients read what is answered at `path`."""
        return path in self.paths

    def claims(self, event: Mapping[str, Any]) -> bool:
        """Whether an event that names no path is a body of this protocol."""
        return self.generates and self.prompt in event

    def as_chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """The body in a chat's words, message by message, for limits and checks. Raises BadRequest for odd shapes."""
        return body

    def model(self, body: Mapping[str, Any]) -> str:
        """vLLM's model for this body, as module:class."""
        return self.parsed_by

    def for_vllm(self, request: "EngineRequest", model: str) -> dict[str, Any]:
        """What that model shall parse; `model` is the name served first."""
        return request.body

    def adopted(self, parsed: Any, serving: Any, body: Mapping[str, Any]) -> Any:
        """What vLLM's method takes, from what its model has parsed."""
        return parsed

    def engine_ids(self, request: "EngineRequest") -> list[str]:
        """The names under which vLLM's engine knows a prepared request."""
        return []

    # answering

    def rendered(self, answer: Any, serving: Any) -> Any:
        """vLLM's whole answer in this protocol's form, a pydantic model."""
        return answer

    def events(self, events: AsyncGenerator[Any, None], serving: Any) -> AsyncGenerator[str, None]:
        """vLLM's stream as server-sent events of this protocol."""
        return events

    def whole(self, request: "EngineRequest", answer: str) -> str:
        """The engine's whole answer (JSON) as its caller reads it."""
        return answer

    def reworded(self, request: "EngineRequest", event: str) -> str:
        """An engine's event as its caller reads it, a cut marked; "" when it waits for the next one."""
        return event

    def unbegun(self, request: "EngineRequest", model: str) -> str:
        """What is missing before the last event of a stream that was cut before the engine had begun it."""
        return ""

    def ends(self, piece: bytes) -> bool:
        """Whether the last event of a piece is a stream's last. No text of a model can forge it: JSON has no breaks."""
        return piece[:-2].rpartition(b"\n\n")[2].startswith(self.last)

    # errors

    def envelope(self, error: ApiError) -> dict[str, Any]:
        """The body of an error."""
        return error.envelope()

    def failure(self, request: "EngineRequest", error: ApiError) -> bytes:
        """The events that end a stream which fails after it has begun."""
        raise NotImplementedError

    def in_words(self, error: ApiError) -> ApiError:
        """An error whose places are named as this protocol's callers know them."""
        for chat, ours in self.words:
            error.message = re.sub(chat, ours, error.message)
            error.param = error.param and re.sub(chat, ours, error.param)
        return error


@dataclass(eq=False)
class EngineRequest:
    """What the engine is asked for. `body` is the protocol's own object; `trace` holds W3C trace headers."""

    protocol: Protocol
    body: dict[str, Any]
    request_id: str = ""
    trace: dict[str, str] = field(default_factory=dict)
    #: `request_id` and something of its own: two callers may send the same.
    id: str = ""
    #: The engine's own: the parsed body.
    prepared: Any = None
    #: Prompt and completion tokens, and the engine's own times in ms, as the log names them, if known.
    usage: dict[str, int] = field(default_factory=dict)
    timing: dict[str, float] = field(default_factory=dict)
    #: What it shares with others: `cached_tokens`, `prompt_blocks` (observability/prefix.py), as far as known.
    prefix: dict[str, int | str] = field(default_factory=dict)
    #: It was cut short: its answer says so as if its tokens had run out.
    cut: bool = False
    #: The protocol's own, amid a stream.
    state: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        suffix = uuid.uuid4().hex[:12]
        self.id = f"{self.request_id}-{suffix}" if self.request_id else suffix

    @property
    def stream(self) -> bool:
        return bool(self.body.get("stream"))

    @cached_property
    def chat(self) -> dict[str, Any]:
        return self.protocol.as_chat(self.body)

    def replace_body(self, body: dict[str, Any]) -> None:
        """Send another body; it is to be prepared anew."""
        self.body = body
        vars(self).pop("chat", None)

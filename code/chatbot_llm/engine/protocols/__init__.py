"""Every protocol this service speaks, one file for each family."""

from chatbot_llm.engine.protocols.base import Protocol
from chatbot_llm.engine.protocols.messages import Count, Messages
from chatbot_llm.engine.protocols.openai import Chat, Completion, Detokenize, Tokenize
from chatbot_llm.engine.protocols.responses import Responses

#: By kind. An event that names no path belongs to the first that claims it: `messages` are OpenAI's and Anthropic's.
PROTOCOLS: dict[str, Protocol] = {
    protocol.kind: protocol
    for protocol in (Responses(), Messages(), Count(), Chat(), Completion(), Tokenize(), Detokenize())
}


def of_path(path: str) -> Protocol:
    """The protocol whose clients read what is answered at `path`, errors included; OpenAI's where none owns it."""
    return next((protocol for protocol in PROTOCOLS.values() if protocol.owns(path)), PROTOCOLS["chat"])

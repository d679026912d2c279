"""Anthropic's Messages: the routes. What they take, give and refuse is in `engine/protocols/messages.py`."""

from flask import Blueprint, Response

from chatbot_llm.routes.openai import run
from chatbot_llm.serving.service import Service


def blueprint(service: Service) -> Blueprint:
    """Routes below `/v1/messages`."""
    api = Blueprint("messages", __name__)

    @api.post("/v1/messages")
    def messages() -> Response:
        """Anthropic Messages."""
        return run(service, "messages")

    @api.post("/v1/messages/count_tokens")
    def count_tokens() -> Response:
        """How many tokens a message would send."""
        return run(service, "count")

    return api

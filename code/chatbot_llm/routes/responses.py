"""OpenAI's Responses: the route. What it takes, gives and refuses is in `engine/protocols/responses.py`."""

from flask import Blueprint, Response

from chatbot_llm.routes.openai import run
from chatbot_llm.serving.service import Service


def blueprint(service: Service) -> Blueprint:
    """The route `/v1/responses`."""
    api = Blueprint("responses", __name__)

    @api.post("/v1/responses")
    def responses() -> Response:
        """OpenAI Responses, without memory."""
        return run(service, "responses")

    return api

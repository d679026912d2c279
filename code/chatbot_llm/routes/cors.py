"""Which pages of other origins may call this service from a browser (`CHATBOT_CORS_ORIGINS`).

Keys travel in headers, never in cookies, so nothing here allows credentials and `*` is safe to answer with.
"""

import re

from flask import Request, Response

from chatbot_llm.settings import Settings

#: What a page may read of an answer beside its body.
EXPOSED = "x-request-id, Retry-After, Server-Timing"
#: How long a browser may remember a preflight's answer, seconds.
MAX_AGE_S = 600
_HEADERS = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,2048}")


def allow(request: Request, response: Response, settings: Settings) -> None:
    """Give an allowed origin leave to read this answer; a preflight's answer names what it asked for."""
    if not settings.origins:
        return
    anyone = "*" in settings.origins
    if not anyone:
        response.vary.add("Origin")  # caches must not give one origin's answer to another
    origin = request.headers.get("Origin")
    if not origin or not (anyone or origin in settings.origins):
        return
    response.headers["Access-Control-Allow-Origin"] = "*" if anyone else origin
    response.headers["Access-Control-Expose-Headers"] = EXPOSED
    if request.method != "OPTIONS":
        return
    response.headers["Access-Control-Allow-Methods"] = "GET, POST"
    response.headers["Access-Control-Max-Age"] = str(MAX_AGE_S)
    # Clients send headers of their own (openai-node: eight `x-stainless-*`); no list would ever be whole.
    headers = request.headers.get("Access-Control-Request-Headers", "")
    if _HEADERS.fullmatch(headers):
        response.headers["Access-Control-Allow-Headers"] = headers
        response.vary.add("Access-Control-Request-Headers")

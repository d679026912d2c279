"""`GET /`: one self-contained page to chat with the model by hand. It fetches nothing from anywhere else.

The page is static; its policy names its own script and style by hash, so nothing else in it could run. On Function
Compute's default domain browsers download it (the platform adds `Content-Disposition: attachment`); a custom domain
shows it.
"""

import base64
import hashlib
import re
from pathlib import Path

from flask import Blueprint, Response

from chatbot_llm.settings import Settings

PAGE = Path(__file__).with_name("playground.html")
_INLINE = {
    "script": re.compile(r"<script>(.*?)</script>", re.S),
    "style": re.compile(r"<style>(.*?)</style>", re.S),
}


def blueprint(settings: Settings) -> Blueprint:
    """The route `/`, or no route when the playground is switched off."""
    playground = Blueprint("playground", __name__)
    if not settings.playground:
        return playground
    page = PAGE.read_text(encoding="utf-8")
    headers = {
        "Content-Security-Policy": policy(page),
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cache-Control": "no-cache",
    }

    @playground.get("/")
    def show() -> Response:
        """The playground."""
        return Response(page, headers=headers, content_type="text/html; charset=utf-8")

    return playground


def policy(page: str) -> str:
    """A Content-Security-Policy that lets this page run its own script and style and talk to its own origin."""
    sources = {kind: " ".join(_hash(text) for text in found.findall(page)) for kind, found in _INLINE.items()}
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {sources['script']}",
            f"style-src {sources['style']}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

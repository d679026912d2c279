"""Who may call what: API keys, and the routes that belong to the platform.

On Function Compute `x-fc-*` headers come from the platform (it strips them from clients), so `x-fc-control-path` tells
a call through the HTTP trigger from one of the platform's own. Anywhere else they are only text, and the platform's
routes answer to this machine or to a key, and never to a page of another origin: a browser sends what any page asks it.

Keys are rotated without a gap: set `CHATBOT_API_KEYS=old,new`, move the callers, then set it to `new`.
Each may be its digest instead (`sha256:<hex>`): to know a key again, the service needs no more.
"""

import hmac
import ipaddress
from urllib.parse import urlsplit

from flask import Request

from chatbot_llm.errors import ApiError
from chatbot_llm.settings import Settings, on_function_compute
from chatbot_llm.settings import digest as _digest

#: What FC writes into `x-fc-control-path` for a call through the HTTP trigger or a custom domain (fc-docs 04/079).
HTTP_INVOKE = "/http-invoke"
#: Routes nobody needs a key for: the platform calls them, or they say nothing about anyone.
OPEN = frozenset({"/health", "/", "/openapi.json"})
#: Routes of the platform's own surface.
PLATFORM = frozenset({"/initialize", "/pre-stop", "/invoke"})

#: Set by proxies: the peer is not the caller.
_FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")

#: Marks a request that came inside an `/invoke` event; the event itself has been checked.
EVENT = "chatbot.event"


def through_trigger(request: Request) -> bool:
    """Whether FC says this request came from outside, through the HTTP trigger.

    FC names the way of every request but the pre-stop hook's. Two values, joined by a comma, count as outside.
    """
    return on_function_compute() and HTTP_INVOKE in request.headers.get("x-fc-control-path", "")


def check(request: Request, settings: Settings) -> None:
    """Raises ApiError 403 for a platform route called from outside, 401 for a missing or wrong key."""
    path = request.path
    if request.environ.get(EVENT):
        if path in PLATFORM:
            raise ApiError(f"{path} cannot be called through an event", status=403, code="platform_route")
        return
    known = any([_known(one, settings.keys) for one in _presented(request)])
    if path in PLATFORM:
        if through_trigger(request):
            raise ApiError(f"{path} is for the platform only", status=403, code="platform_route")
        if on_function_compute():
            return  # FC's own signature check stands before its API
        if _foreign_page(request):
            raise ApiError(f"{path} cannot be called from another site's page", status=403, code="platform_route")
        if not settings.keys and not _here(request):
            raise ApiError(
                f"{path} answers to this machine only, or to a key: set CHATBOT_API_KEYS and send one",
                status=403,
                code="platform_route",
            )
    if path in OPEN or request.method == "OPTIONS":
        return
    if path == "/metrics" and not through_trigger(request):
        if on_function_compute() or _here(request) or _in(request.remote_addr, settings.scrapers):
            return
    if settings.keys and not known:
        raise ApiError(
            "a valid API key is needed: send `Authorization: Bearer KEY`, `x-api-key: KEY` or `api-key: KEY`",
            status=401,
            code="invalid_api_key",
        )


def key_id(request: Request, settings: Settings) -> str:
    """What the log calls the key of a request: the beginning of its digest. Empty where none is asked for."""
    used = [key for key in _presented(request) if _known(key, settings.keys)]
    return _digest(used[0]).hex()[:12] if used else ""


def _foreign_page(request: Request) -> bool:
    """Whether a browser says that a page of another origin made it send this."""
    site = request.headers.get("Sec-Fetch-Site", "none")
    origin = request.headers.get("Origin")
    return site not in ("none", "same-origin") or (origin is not None and urlsplit(origin).netloc != request.host)


def _here(request: Request) -> bool:
    """Whether the caller is on this machine: a loopback peer, no proxy's, under a name that is this machine's.

    The name matters because a page can point a host name of its own at 127.0.0.1.
    """
    if any(name in request.headers for name in _FORWARDED):
        return False
    name = urlsplit(f"//{request.host}").hostname or ""
    loopback = ("127.0.0.0/8", "::1")
    return _in(request.remote_addr, loopback) and (name == "localhost" or _in(name, loopback))


def _in(address: str | None, networks: tuple[str, ...]) -> bool:
    try:
        peer = ipaddress.ip_address(address or "")
    except ValueError:  # a Unix socket's peer, or a name
        return False
    peer = getattr(peer, "ipv4_mapped", None) or peer
    return any(peer in ipaddress.ip_network(network) for network in networks)


def _presented(request: Request) -> list[str]:
    """Every key that was sent: a header may be meant for somebody on the way."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    sent = (token if scheme.lower() == "bearer" else "", *map(request.headers.get, ("api-key", "x-api-key")))
    return [key.strip() for key in sent if key]


def _known(presented: str, digests: tuple[bytes, ...]) -> bool:
    """Compare its digest with every key's in constant time, so that no prefix, length or position leaks."""
    given = _digest(presented)
    return sum(hmac.compare_digest(given, known) for known in digests) > 0

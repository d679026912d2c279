"""Errors a caller may see, in the OpenAI envelope unless a protocol has its own (`engine/protocols`).

    UsageError                wrong flag or setting: ends the process
    ApiError                  answered as {"error": {message, type, param, code}}
    +- BadRequest        400
    +- Overloaded        429  Retry-After
    +- Unavailable       503  Retry-After: loading, draining, engine dead

A message says what to change and never holds a header, a key or a traceback.
"""

from typing import Any

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class UsageError(Exception):
    """A flag or a setting is wrong; the message says which and what it must be."""


class ApiError(Exception):
    """An answer that is an error. `retry_after` is in whole seconds."""

    status = 500

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status or self.status
        self.param = param
        self.code = code
        self.retry_after = retry_after

    def envelope(self) -> dict[str, Any]:
        """The OpenAI error object."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class BadRequest(ApiError):
    status = 400


class Overloaded(ApiError):
    status = 429


class Unavailable(ApiError):
    status = 503


def wrong(place: str, why: str) -> BadRequest:
    """What a request is told that is wrong at `place`, in its caller's words."""
    return BadRequest(f"{place}: {why}", param=place)


def require(sound: object, place: str, why: str) -> None:
    """Raises BadRequest where what a request has at `place` is not sound."""
    if not sound:
        raise wrong(place, why)

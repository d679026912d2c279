"""Every way a command can fail.

    InfraError
    |-- CheckFailed   1  looked, and it is not right: unhealthy, wrong answer, rolled back
    |-- WrongUsage    2  the command cannot mean anything; argparse ends with 2 as well
    |-- Refused       3  Function Compute said no: credentials, permission, not found, bad value
    +-- TimedOut      4  not right yet when the time was up

So a pipeline can tell "fix the command" from "fix the service". A message is one sentence that names what to change; no
traceback reaches the user.
"""

from __future__ import annotations


class InfraError(Exception):
    """A failure the operator can act on; `exit_code` is what the process returns."""

    exit_code = 1


class CheckFailed(InfraError):
    exit_code = 1


class WrongUsage(InfraError):
    exit_code = 2


class Refused(InfraError):
    """The cloud's own answer and what to do; `code` is its error code, `status` the HTTP status (0: no answer)."""

    exit_code = 3

    def __init__(self, message: str, hint: str = "", *, code: str = "", status: int = 0) -> None:
        super().__init__(f"{message} ({hint})" if hint else message)
        self.code = code
        self.status = status


class TimedOut(InfraError):
    exit_code = 4

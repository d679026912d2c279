"""How long an engine takes, fitted from the request log of the service that ran it.

vLLM works in steps: each gives every request that decodes one token, and reads prompts that wait for it. A step takes
`step_s`, `per_running_s` more for each request that gets a token in it, `per_prompt_token_s` more for each token of a
prompt that is read in it. Between its first token and its last a request of k tokens saw k - 1 whole steps, and the log
says which other requests got tokens and were read meanwhile: one equation a request, linear in the three times, solved
for the least relative error. A request that came to an idle engine adds what its first token took beside the step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from infra.errors import InfraError

Columns = dict[str, Any]  # name -> numpy array, one entry a request

#: Waking a hibernated instance, seconds (fc-docs 04/045 and 04/133: 2 to 3). It is over before the service can note it.
WAKE_S = 2.5
#: An instance that was quiet for this long may have been frozen, seconds: FC does not say how soon it is.
QUIET_S = 60.0
#: Requests with tokens that a fit needs at least, and the share of them that were not alone.
ENOUGH, TOGETHER = 30, 0.1


@dataclass(frozen=True)
class Times:
    """Seconds, of one instance. `first_s`: of a request beside its steps. `error`: of the fit, median, relative."""

    step_s: float
    per_running_s: float
    per_prompt_token_s: float
    first_s: float
    wake_s: float
    cold_start_s: float
    error: float = 0.0
    source: str = "fitted from the log"


#: For those without a log: a T4 that runs Qwen2.5-7B-Instruct-GPTQ-Int4. Nothing of it was measured with this service.
#: Decoding: 42, 158 and 476 tokens/s at 1, 4 and 16 requests (GJKarthik/aicore-pipelines, an 8B AWQ on a T4). Prompts:
#: 0.45 to 0.6 s per 1,000 tokens (arithmetic). First token: the same source's 457 to 516 ms without piecewise graphs,
#: taken for a prompt of 512 tokens. Cold start: loading is estimated at 45 to 80 s, a lazily pulled image doubles it.
ASSUMED = {"t4": Times(0.0232, 0.00065, 0.00053, 0.185, WAKE_S, 120.0, source="FORECAST for a T4, nothing measured")}


def fit(log: Columns, cold_start_s: float) -> Times:
    """Times from requests (`QUERY` of commands/plan.py). Raises InfraError: too few."""
    has = np.flatnonzero((log["answer"] > 0) & np.isfinite(log["first_s"]))
    ended, began = log["ended_s"][has], log["ended_s"][has] - log["decode_s"][has]
    came, answer, prompt, alone = (log[name][has] for name in ("granted_s", "answer", "prompt", "alone"))
    if len(has) < ENOUGH or np.mean(~alone) < TOGETHER:
        known = f"{len(has)} requests with an answer, {np.sum(~alone)} not alone: too little to know how fast it is"
        raise InfraError(f"{known}; give a log with more load (`replay --speed` makes one), or --assume t4")
    tokens, read, quiet = np.zeros(len(has)), np.zeros(len(has)), np.zeros(len(has))
    for instance in np.unique(log["instance"][has]):
        own = np.flatnonzero(log["instance"][has] == instance)
        tokens[own] = _emitted(began[own], ended[own], answer[own])
        order = own[np.argsort(began[own], kind="stable")]
        sums = np.concatenate([[0.0], np.cumsum(prompt[order])])
        places = (np.searchsorted(began[order], at[own], side="right") for at in (ended, began))
        read[own] = np.subtract(*(sums[place] for place in places))
        last = np.concatenate([[-np.inf], np.maximum.accumulate(np.sort(ended[own]))])
        quiet[own] = came[own] - last[np.searchsorted(last[1:], came[own])]
    steps = answer - 1.0
    whole = log["ok"][has] & (steps > 0) & (ended > began)
    first = log["ok"][has] & alone & (quiet < QUIET_S)
    one = np.ones(len(has))
    alike = np.column_stack([one, one, prompt, one])
    rows = np.concatenate([np.column_stack([steps, tokens, read, 0 * one])[whole], alike[first]])
    took = np.concatenate([(ended - began)[whole], (began - came)[first]])
    rows, took = rows[took > 0], took[took > 0]
    found = _robust(rows / took[:, None])
    woken = (began - came - alike @ found)[log["ok"][has] & alone & (quiet >= QUIET_S)]
    wake = WAKE_S + (max(0.0, float(np.median(woken))) if len(woken) else 0.0)
    step, running, token, beside = map(float, found)
    return Times(step, running, token, beside, wake, cold_start_s, float(np.median(np.abs(rows @ found / took - 1))))


def _emitted(began: Any, ended: Any, answer: Any) -> Any:
    """Tokens that all requests together got between `began` and `ended` of each, its own first one left out."""
    rate = (answer - 1) / np.maximum(ended - began, 1e-9)
    when = np.concatenate([began, ended])
    order = np.argsort(when, kind="stable")
    slope = np.cumsum(np.concatenate([rate, -rate])[order])
    sums = np.concatenate([[0.0], np.cumsum(slope[:-1] * np.diff(when[order]))])
    firsts = np.sort(began)
    got = (np.interp(at, when[order], sums) + np.searchsorted(firsts, at, side="right") for at in (ended, began))
    return np.subtract(*got)


def _robust(rows: Any, rounds: int = 20, exact: float = 0.03) -> Any:
    """The x >= 0 with rows @ x near 1: the sum of errors is least, of those below `exact` that of squares.

    So a machine that did something else for some seconds does not count for more than those.
    """
    weight = np.ones(len(rows))
    for _ in range(rounds):
        found = _least(rows * weight[:, None], weight)
        weight = np.maximum(np.abs(rows @ found - 1), exact) ** -0.5
    return found


def _least(rows: Any, wanted: Any) -> Any:
    """Least squares, no x below 0: columns that would be are left out, the most negative first."""
    kept = list(range(rows.shape[1]))
    while True:
        found = np.zeros(rows.shape[1])
        found[kept] = np.linalg.lstsq(rows[:, kept], wanted, rcond=None)[0]
        if found.min() >= 0:
            return found
        kept.remove(int(found.argmin()))
